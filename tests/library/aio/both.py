"""A server of ours and one of `websockets`, behind one face: what a handler sees has to be the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from websockets import exceptions as their_exceptions
from websockets.asyncio import server as their_server
from websockets.asyncio.client import ClientConnection, connect

from unlimitedws import aio

try:
    import uvloop
except ImportError:
    # There is none for every Python, as for one without a GIL.
    uvloop = None
else:
    # The first loop of uvloop's leaves a pair of descriptors for the rest of the process.
    uvloop.new_event_loop().close()

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds after which a test has failed: long, because it costs nothing while all is well."""

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if uvloop is not None:
    LOOPS["uvloop"] = uvloop.new_event_loop


class Library:
    """What a program imports: from ours, or from theirs."""

    def __init__(self, name: str, server: Any, exceptions: Any) -> None:
        self.name = name
        self.serve = server.serve
        self.broadcast = server.broadcast
        self.ConnectionClosed = exceptions.ConnectionClosed
        self.ConnectionClosedOK = exceptions.ConnectionClosedOK
        self.ConnectionClosedError = exceptions.ConnectionClosedError
        self.ConcurrencyError = exceptions.ConcurrencyError

    def __repr__(self) -> str:
        return self.name


LIBRARIES = [Library("ours", aio, aio), Library("websockets", their_server, their_exceptions)]


def run(loop: str, work: Coroutine[Any, Any, T]) -> T:
    """Run work as `asyncio.run` does, on a loop of that kind. Whatever the loop is told of in vain fails the test."""
    told: list[dict[str, Any]] = []

    async def watched() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        return await asyncio.wait_for(work, PATIENCE)

    made = LOOPS[loop]()
    try:
        asyncio.set_event_loop(made)
        result = made.run_until_complete(watched())
        left = asyncio.all_tasks(made)
        for task in left:
            task.cancel()
        made.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        made.run_until_complete(made.shutdown_asyncgens())
        # Its threads may still be about to let go of what they have run.
        made.run_until_complete(made.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        made.close()
    assert told == []
    return result


def port_of(server: Any) -> int:
    port: int = next(iter(server.sockets)).getsockname()[1]
    return port


def client(server: Any, path: str = "/", **options: Any) -> Any:
    """A client of `websockets`, to be awaited or entered."""
    options = {"proxy": None, "compression": None, "ping_interval": None, **options}
    return connect(f"ws://127.0.0.1:{port_of(server)}{path}", **options)


async def closed(connection: ClientConnection) -> tuple[int, str]:
    """Wait for the end of a client's connection; return what the server said."""
    await connection.wait_closed()
    return connection.close_code or 0, connection.close_reason or ""
