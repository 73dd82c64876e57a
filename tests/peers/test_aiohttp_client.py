"""`aiohttp` as the client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from fixtures import EchoServer
from raw import TIMEOUT

from .exchange import BLOB, CLOSE_CODE, CLOSE_REASON, TEXT

aiohttp = pytest.importorskip("aiohttp")
T = TypeVar("T")


def talk(echo_server: EchoServer, exchange: Callable[[Any], Awaitable[T]], **options: Any) -> T:
    """Connect with these options of ws_connect, run the exchange, and return what it returns."""

    async def session() -> T:
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(echo_server.url, **options) as connection,
        ):
            return await asyncio.wait_for(exchange(connection), TIMEOUT)

    return asyncio.run(session())


def test_text_comes_back(echo_server: EchoServer) -> None:
    async def exchange(connection: Any) -> str:
        await connection.send_str(TEXT)
        return str(await connection.receive_str())

    assert talk(echo_server, exchange) == TEXT


def test_200_kb_binary_comes_back(echo_server: EchoServer) -> None:
    async def exchange(connection: Any) -> bytes:
        await connection.send_bytes(BLOB)
        return bytes(await connection.receive_bytes())

    assert talk(echo_server, exchange) == BLOB


def test_ping_is_answered(echo_server: EchoServer) -> None:
    async def exchange(connection: Any) -> Any:
        await connection.ping(b"are you there")
        return await connection.receive()

    # autoping off: else aiohttp keeps the pong for itself.
    answer = talk(echo_server, exchange, autoping=False)
    assert (answer.type, answer.data) == (aiohttp.WSMsgType.PONG, b"are you there")


def test_close_code_is_seen_on_both_sides(echo_server: EchoServer) -> None:
    async def exchange(connection: Any) -> tuple[Any, int]:
        address = connection.get_extra_info("sockname")[:2]
        await connection.close(code=CLOSE_CODE, message=CLOSE_REASON.encode())
        return address, connection.close_code

    address, code = talk(echo_server, exchange)
    assert code == CLOSE_CODE
    assert echo_server.wait_closed() == (address, CLOSE_CODE, CLOSE_REASON)
