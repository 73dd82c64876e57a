"""websockets with its defaults, as its own first example has it. With "uvloop": on uvloop."""

import asyncio
import logging
import sys

from websockets.asyncio.server import ServerConnection, serve

# A client that leaves without a close frame is an error with a traceback to it; what that costs is not asked here.
logging.getLogger("websockets").setLevel(logging.CRITICAL)


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def main() -> None:
    async with serve(echo, "0.0.0.0", 0, backlog=4096) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await server.serve_forever()


if sys.argv[1:] == ["uvloop"]:
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
