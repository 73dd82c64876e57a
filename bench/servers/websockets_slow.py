"""websockets for bench/isolation.py: `python websockets_slow.py threads|asyncio`, a thread a connection or none."""

import asyncio
import logging
import sys

from slow import work
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_asyncio
from websockets.sync.server import ServerConnection as ThreadedConnection
from websockets.sync.server import serve as serve_threads


def echo(connection: ThreadedConnection) -> None:
    for message in connection:
        work(message)
        connection.send(message)


async def echo_async(connection: ServerConnection) -> None:
    async for message in connection:
        work(message)
        await connection.send(message)


async def main() -> None:
    async with serve_asyncio(echo_async, "0.0.0.0", 0, backlog=4096) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await server.serve_forever()


# Its client leaves without a close frame when it has measured, which is logged for each connection.
logging.getLogger("websockets").setLevel(logging.CRITICAL)

if sys.argv[1] == "threads":
    with serve_threads(echo, "0.0.0.0", 0) as threaded:
        print(threaded.socket.getsockname()[1], flush=True)
        threaded.serve_forever()
else:
    asyncio.run(main())
