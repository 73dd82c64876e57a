"""Servers that we did not write, and ours by each of its ways: no load on them makes an error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import unlimitedws
from unlimitedws import loadgen

pytest.importorskip("hdrh", reason="the load generator needs hdrhistogram")

pytestmark = pytest.mark.usefixtures("no_fd_leaks")


@contextmanager
def in_a_loop(
    serve: Callable[[asyncio.Event, Callable[[int], None]], Coroutine[Any, Any, None]],
) -> Iterator[int]:
    """Run a server on an event loop of its own, in a thread. Yields its port."""
    ports: list[int] = []
    ready = threading.Event()
    parts: list[Any] = []

    async def main() -> None:
        over = asyncio.Event()
        parts.extend((asyncio.get_running_loop(), over))

        def listening(port: int) -> None:
            ports.append(port)
            ready.set()

        await serve(over, listening)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert ready.wait(20)
        yield ports[0]
    finally:
        loop, over = parts
        loop.call_soon_threadsafe(over.set)
        thread.join(20)


@contextmanager
def websockets_server() -> Iterator[int]:
    from websockets.asyncio.server import serve

    async def run(over: asyncio.Event, listening: Callable[[int], None]) -> None:
        async def echo(ws: Any) -> None:
            async for message in ws:
                await ws.send(message)

        async with serve(echo, "127.0.0.1", 0, max_size=None) as server:
            listening(server.sockets[0].getsockname()[1])
            await over.wait()

    with in_a_loop(run) as port:
        yield port


@contextmanager
def aiohttp_server() -> Iterator[int]:
    web = pytest.importorskip("aiohttp.web")

    async def run(over: asyncio.Event, listening: Callable[[int], None]) -> None:
        async def echo(request: Any) -> Any:
            ws = web.WebSocketResponse(max_msg_size=0)
            await ws.prepare(request)
            async for message in ws:
                if message.type.name == "TEXT":
                    await ws.send_str(message.data)
                else:
                    await ws.send_bytes(message.data)
            return ws

        app = web.Application()
        app.router.add_get("/", echo)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        listening(runner.addresses[0][1])
        await over.wait()
        await runner.cleanup()

    with in_a_loop(run) as port:
        yield port


@contextmanager
def our_server() -> Iterator[int]:
    server = unlimitedws.Server("127.0.0.1:0", pool=None, compression=True, max_message_bytes=1 << 24)
    server.on_message = lambda conn, message: conn.send(message)
    server.start()
    try:
        yield server.local_addr.port
    finally:
        server.stop(5)


@pytest.mark.parametrize("server", [our_server, websockets_server, aiohttp_server])
def test_no_load_makes_an_error(no_fd_leaks: None, server: Any) -> None:
    loads: list[dict[str, Any]] = [
        {"pipelining": 4, "text": True},
        {"size": 200_000, "connections": 3},
        {"size": 0},
        {"rate": 300.0},
        {"mode": "handshakes", "connections": 4},
        {"mode": "idle"},
    ]
    with server() as port:
        for load in loads:
            result = loadgen.run(
                f"ws://127.0.0.1:{port}/", **{"connections": 10, "duration": 0.2, "warmup": 0.05, **load}
            )
            assert result.errors == {}, (load, result.details)
            assert result.opened > 0
            assert result.messages > 0 or load.get("mode")
