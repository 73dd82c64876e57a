"""websockets (asyncio) for bench/compressing.py, with its own defaults: contexts kept, windows of 12 bits."""

import asyncio
from typing import Any

from documents import DOCUMENTS
from websockets.asyncio.server import serve


async def answer(conn: Any) -> None:
    count = 0
    async for message in conn:
        if message.startswith("["):
            count += len(message)
        elif message == "count":
            await conn.send(str(count))
        else:
            name, times = message.split()
            for i in range(int(times)):
                await conn.send(DOCUMENTS[name][i % len(DOCUMENTS[name])])


async def main() -> None:
    async with serve(answer, "0.0.0.0", 0, ping_interval=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
