"""WebSockets in asyncio, with the names of `websockets`: a handler that is written for it runs with the import changed.

::

    from unlimitedws.aio import serve

    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 8000) as server:
        await server.serve_forever()

The engine below is the same, and lives on while the event loop is blocked. See docs/asyncio.md.
"""

from __future__ import annotations

from .closed import (
    Close,
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    State,
)
from .connection import ServerConnection, broadcast
from .http import Headers, Request, Response
from .server import Server, serve, unix_serve

__all__ = [
    "Close",
    "ConcurrencyError",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "Headers",
    "Request",
    "Response",
    "Server",
    "ServerConnection",
    "State",
    "broadcast",
    "serve",
    "unix_serve",
]
