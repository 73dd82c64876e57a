"""Connections of asyncio's server that are over leave nothing to the garbage collector.

It comes round when it likes, and where ten thousand connections live that is seldom.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import Counter
from typing import Any

import pytest
from raw import TIMEOUT, RawClient

from unlimitedws.aio import ConnectionClosed, ServerConnection, serve

CLIENTS = 5


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        if message == "close":
            await connection.close(4000, "as you wish")
            return
        with contextlib.suppress(ConnectionClosed):
            await connection.send(message)


def visit(port: int, how: str) -> None:
    """Talk, and end as clients do."""
    clients = [RawClient(port) for _ in range(CLIENTS)]
    for client in clients:
        client.send_frame(1, "hello")
        assert client.recv_message() == "hello"
        if how == "closed":
            client.close_cleanly()
        elif how == "ended":
            client.shutdown()
            client.recv_until_eof()
            client.close()
        elif how == "reset":
            client.reset()
        else:
            client.send_frame(1, "close")
            assert client.recv_close().code == 4000
            client.send_close(4000)
            client.recv_until_eof()
            client.close()


def hook(*_: Any) -> None:
    """One that has no objection."""


@pytest.mark.parametrize("hooks", [{}, {"process_request": hook, "process_response": hook}], ids=["no hooks", "hooks"])
@pytest.mark.parametrize("how", ["closed", "ended", "reset", "asked to close"])
def test_a_connection_that_is_over_is_no_garbage(how: str, hooks: dict[str, Any]) -> None:
    async def main() -> Counter[str]:
        async with serve(echo, "127.0.0.1", 0, **hooks) as server:
            port = server.server.local_addr.port

            async def visited() -> None:
                await asyncio.to_thread(visit, port, how)
                while server.server.counters()["descriptors"] or server._tasks:
                    await asyncio.sleep(0.005)

            # What is made once is made now.
            await visited()
            gc.collect()
            gc.disable()
            try:
                await visited()
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                return Counter(type(it).__name__ for it in gc.garbage)
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()

    found = asyncio.run(asyncio.wait_for(main(), 3 * TIMEOUT))
    assert not {"ServerConnection", "Conn"} & found.keys(), found
