"""The server of bench/abuse.py. Prints its port, then answers each line of its stdin with its figures as JSON.

    python ours_abused.py KIND ECHOES [OPTIONS [NOFILE]]

KIND: inline, pool or aio. ECHOES: `back`, a message to whom it came from; or `all`, to everybody. OPTIONS: of the
server, as JSON. NOFILE: of descriptors it may have no more. The message "fill" is answered with as much as the kernel
takes for somebody who does not read, which is megabytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sys
import threading
from typing import Any

import unlimitedws
from unlimitedws import ConnectionClosed
from unlimitedws.aio import ServerConnection, broadcast, serve

FILLING = bytes(16 << 10)
FILLED_BYTES = 96 << 10

kind, echoes = sys.argv[1:3]
options: dict[str, Any] = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
if len(sys.argv) > 4:
    nofile = int(sys.argv[4])
    resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))


def fill(conn: Any) -> None:
    # From 64 KiB on a queue asks the kernel at each message: what is above that has been refused.
    while conn.buffered_amount < FILLED_BYTES:
        conn.send(FILLING)


def tell(server: Any) -> None:
    print(server.local_addr.port, flush=True)
    for _ in sys.stdin:
        print(json.dumps(server.counters()), flush=True)


def threaded() -> None:
    make = unlimitedws.NewServer if kind == "inline" else unlimitedws.DefaultServer
    server = make("0.0.0.0:0", **options)
    lock = threading.Lock()
    everybody: dict[Any, None] = {}

    if echoes == "all":

        @server.on_connect
        def join(conn: Any) -> None:
            with lock:
                everybody[conn] = None

        @server.on_close
        def leave(conn: Any) -> None:
            with lock:
                everybody.pop(conn, None)

    @server.on_message
    def answer(conn: Any, message: str | bytes) -> None:
        if message == "fill":
            fill(conn)
            return
        if echoes == "back":
            receivers = [conn]
        else:
            with lock:
                receivers = list(everybody)
        for receiver in receivers:
            with contextlib.suppress(ConnectionClosed):
                receiver.send(message)

    with server:
        tell(server)


async def on_asyncio() -> None:
    everybody: dict[ServerConnection, None] = {}

    async def handle(connection: ServerConnection) -> None:
        everybody[connection] = None
        try:
            async for message in connection:
                if message == "fill":
                    fill(connection.conn)
                elif echoes == "back":
                    await connection.send(message)
                else:
                    broadcast(everybody, message)
        finally:
            del everybody[connection]

    async with serve(handle, "0.0.0.0", 0, **options) as server:
        await asyncio.get_running_loop().run_in_executor(None, tell, server.server)


if kind == "aio":
    asyncio.run(on_asyncio())
else:
    threaded()
