"""Handlers that run with either import: what they see, and what their clients see, is the same."""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from library.aio.both import LIBRARIES, LOOPS, Library, client, closed, port_of, run
from websockets.exceptions import InvalidStatus

pytestmark = [
    pytest.mark.usefixtures("no_fd_leaks"),
    pytest.mark.parametrize("loop", LOOPS),
    pytest.mark.parametrize("lib", LIBRARIES, ids=repr),
]


async def echo(connection: Any) -> None:
    async for message in connection:
        await connection.send(message)


def test_echo(lib: Library, loop: str) -> None:
    async def main() -> None:
        async with lib.serve(echo, "127.0.0.1", 0) as server, client(server) as ws:
            for message in ("", "text", "\u20ac" * 1000, b"", b"bytes", bytes(100_000)):
                await ws.send(message)
                assert await ws.recv() == message

    run(loop, main())


def test_many_clients_at_once_each_in_order(lib: Library, loop: str) -> None:
    async def one(server: Any, number: int) -> None:
        async with client(server) as ws:
            for i in range(200):
                await ws.send(f"{number}.{i}")
            for i in range(200):
                assert await ws.recv() == f"{number}.{i}"

    async def main() -> None:
        async with lib.serve(echo, "127.0.0.1", 0) as server:
            await asyncio.gather(*(one(server, number) for number in range(20)))

    run(loop, main())


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "bye"), (1000, "done")])
def test_iteration_ends_quietly_after_a_good_close(lib: Library, loop: str, code: int, reason: str) -> None:
    async def main() -> None:
        seen: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def handler(connection: Any) -> None:
            messages = [message async for message in connection]
            try:
                await connection.recv()
            except lib.ConnectionClosedOK as exc:
                seen.set_result((messages, exc))

        async with lib.serve(handler, "127.0.0.1", 0) as server:
            ws = await client(server)
            await ws.send("a")
            await ws.send("b")
            await ws.close(code, reason)
            messages, exc = await seen
        assert messages == ["a", "b"]
        assert (exc.rcvd.code, exc.rcvd.reason, exc.sent.code) == (code, reason, code)
        assert exc.rcvd_then_sent is True

    run(loop, main())


def test_iteration_raises_after_any_other_close(lib: Library, loop: str) -> None:
    async def main() -> None:
        seen: asyncio.Queue[Any] = asyncio.Queue()

        async def handler(connection: Any) -> None:
            try:
                async for _ in connection:
                    pass
            except lib.ConnectionClosedError as exc:
                await seen.put((exc, connection.close_code, connection.close_reason))

        async with lib.serve(handler, "127.0.0.1", 0) as server:
            ws = await client(server)
            await ws.close(4000, "enough")
            exc, code, reason = await seen.get()
            assert (exc.rcvd.code, exc.rcvd.reason) == (4000, "enough") == (code, reason)
            lost = await client(server)
            lost.transport.abort()
            exc, code, reason = await seen.get()
            assert (exc.rcvd, exc.sent, code, reason) == (None, None, 1006, "")

    run(loop, main())


def test_a_handler_that_returns_closes_with_1000_and_one_that_raises_with_1011(
    lib: Library, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(connection: Any) -> None:
        if await connection.recv() == "raise":
            raise ZeroDivisionError("on purpose")

    async def main() -> None:
        async with lib.serve(handler, "127.0.0.1", 0) as server:
            for what, code in (("return", 1000), ("raise", 1011)):
                async with client(server) as ws:
                    await ws.send(what)
                    assert (await closed(ws))[0] == code

    with caplog.at_level(logging.ERROR):
        run(loop, main())
    raised = [record.exc_info for record in caplog.records if record.levelno == logging.ERROR]
    assert len(raised) == 1
    assert raised[0] is not None and raised[0][0] is ZeroDivisionError


def test_close_says_what_it_is_told_and_waits_for_the_answer(lib: Library, loop: str) -> None:
    async def main() -> None:
        seen: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def handler(connection: Any) -> None:
            await connection.close(4321, "go")
            with pytest.raises(lib.ConnectionClosed) as caught:
                await connection.send("too late")
            seen.set_result((caught.value, connection.state.name))

        async with lib.serve(handler, "127.0.0.1", 0) as server, client(server) as ws:
            assert await closed(ws) == (4321, "go")
            exc, state = await seen
            assert (exc.sent.code, exc.sent.reason, exc.rcvd.code, exc.rcvd_then_sent) == (4321, "go", 4321, False)
            assert state == "CLOSED"

    run(loop, main())


def test_closing_the_server_closes_with_1001_and_waits_for_the_handlers(lib: Library, loop: str) -> None:
    async def main() -> None:
        returned = []

        async def handler(connection: Any) -> None:
            await connection.wait_closed()
            await asyncio.sleep(0.01)
            returned.append(connection)

        server = await lib.serve(handler, "127.0.0.1", 0)
        assert server.is_serving()
        clients = [await client(server) for _ in range(5)]
        while len(server.connections) < 5:
            await asyncio.sleep(0.001)
        server.close()
        await server.wait_closed()
        assert not server.is_serving()
        assert len(returned) == 5
        assert [(await closed(ws))[0] for ws in clients] == [1001] * 5
        assert server.connections == set()
        server.close()
        await server.wait_closed()

    run(loop, main())


def test_serve_forever_ends_when_the_server_is_closed_or_the_task_cancelled(lib: Library, loop: str) -> None:
    async def main() -> None:
        server = await lib.serve(echo, "127.0.0.1", 0)
        task = asyncio.create_task(server.serve_forever())
        async with client(server) as ws:
            server.close()
            assert (await closed(ws))[0] == 1001
        await task
        server = await lib.serve(echo, "127.0.0.1", 0)
        task = asyncio.create_task(server.serve_forever())
        async with client(server) as ws:
            await ws.send("x")
            await ws.recv()
            task.cancel()
            assert (await closed(ws))[0] == 1001
        with pytest.raises(asyncio.CancelledError):
            await task

    run(loop, main())


def test_two_tasks_cannot_receive_from_one_connection(lib: Library, loop: str) -> None:
    async def main() -> None:
        async def handler(connection: Any) -> None:
            first = asyncio.create_task(connection.recv())
            await asyncio.sleep(0)
            with pytest.raises(lib.ConcurrencyError):
                await connection.recv()
            await connection.send("now")
            await connection.send(await first)

        async with lib.serve(handler, "127.0.0.1", 0) as server, client(server) as ws:
            assert await ws.recv() == "now"
            await ws.send("for the first")
            assert await ws.recv() == "for the first"

    run(loop, main())


def test_cancelling_recv_loses_no_message(lib: Library, loop: str) -> None:
    async def main() -> None:
        count = 500

        async def handler(connection: Any) -> None:
            got: list[str] = []
            while len(got) < count:
                try:
                    got.append(await asyncio.wait_for(connection.recv(), 0.0005))
                except asyncio.TimeoutError:
                    continue
            await connection.send(",".join(got))

        async with lib.serve(handler, "127.0.0.1", 0) as server, client(server) as ws:
            for i in range(count):
                await ws.send(str(i))
                if i % 7 == 0:
                    await asyncio.sleep(0.0005)
            assert await ws.recv() == ",".join(map(str, range(count)))

    run(loop, main())


def test_several_tasks_may_send_and_each_keeps_its_order(lib: Library, loop: str) -> None:
    async def main() -> None:
        async def handler(connection: Any) -> None:
            async def send(name: int) -> None:
                for i in range(100):
                    await connection.send(f"{name}.{i}")
                    await asyncio.sleep(0)

            await asyncio.gather(*(send(name) for name in range(8)))

        async with lib.serve(handler, "127.0.0.1", 0) as server, client(server) as ws:
            got = [message async for message in ws]
            for name in range(8):
                assert [m for m in got if m.startswith(f"{name}.")] == [f"{name}.{i}" for i in range(100)]

    run(loop, main())


def test_pieces_are_one_message(lib: Library, loop: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(0)
        yield b"b"

    async def handler(connection: Any) -> None:
        await connection.send(["x", "y", "z"])
        await connection.send(pieces())
        await connection.send([])
        with pytest.raises(TypeError):
            await connection.send({"a": 1})
        with pytest.raises(TypeError):
            await connection.send(7)
        await connection.send(b"text", text=True)
        await connection.send("bytes", text=False)

    async def main() -> None:
        async with lib.serve(handler, "127.0.0.1", 0) as server, client(server) as ws:
            assert [message async for message in ws] == ["xyz", b"ab", "text", b"bytes"]

    run(loop, main())


def test_decode_chooses_the_type(lib: Library, loop: str) -> None:
    async def handler(connection: Any) -> None:
        assert await connection.recv(decode=False) == b"text"
        assert await connection.recv(decode=True) == "bytes"
        await connection.send("both")

    async def main() -> None:
        async with lib.serve(handler, "127.0.0.1", 0) as server, client(server) as ws:
            await ws.send("text")
            await ws.send(b"bytes")
            assert await ws.recv() == "both"

    run(loop, main())


def test_ping_gives_the_latency_and_earlier_pings_are_answered_with_it(lib: Library, loop: str) -> None:
    async def handler(connection: Any) -> None:
        assert connection.latency == 0
        earlier = await connection.ping("earlier")
        with pytest.raises(lib.ConcurrencyError):
            await connection.ping("earlier")
        waiter = await connection.ping()
        latency = await waiter
        assert 0 <= latency < 20
        assert connection.latency == latency
        assert await earlier >= latency
        await connection.send("done")

    async def main() -> None:
        async with lib.serve(handler, "127.0.0.1", 0) as server, client(server) as ws:
            assert await ws.recv() == "done"

    run(loop, main())


def test_a_pong_that_never_comes_ends_with_the_connection(lib: Library, loop: str) -> None:
    async def main() -> None:
        seen: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def handler(connection: Any) -> None:
            waiter = await connection.ping()
            await connection.send("go")
            with pytest.raises(lib.ConnectionClosed):
                await waiter
            seen.set_result(None)

        async with lib.serve(handler, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            writer.write(
                b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            await reader.readuntil(b"go")
            writer.close()
            await seen

    run(loop, main())


def test_broadcast_reaches_all_that_are_open(lib: Library, loop: str) -> None:
    async def main() -> None:
        async with lib.serve(echo, "127.0.0.1", 0) as server:
            clients = [await client(server) for _ in range(10)]
            for ws in clients:
                await ws.send("here")
                await ws.recv()
            everybody = server.connections
            await clients[0].close()
            while len(server.connections) == 10:
                await asyncio.sleep(0.001)
            lib.broadcast(everybody, "news")
            assert [await ws.recv() for ws in clients[1:]] == ["news"] * 9
            with pytest.raises(TypeError):
                lib.broadcast(everybody, ["news"])

    run(loop, main())


def test_exceptions_read_the_same(lib: Library, loop: str) -> None:
    async def main() -> None:
        seen: asyncio.Queue[str] = asyncio.Queue()

        async def handler(connection: Any) -> None:
            if connection.request.path == "/closed":
                await connection.close(4000, "enough")
            try:
                await connection.recv()
            except lib.ConnectionClosed as exc:
                await seen.put(str(exc))

        async with lib.serve(handler, "127.0.0.1", 0) as server:
            await (await client(server)).close()
            assert await seen.get() == "received 1000 (OK); then sent 1000 (OK)"
            await (await client(server)).close(3001)
            assert await seen.get() == "received 3001 (registered); then sent 3001 (registered)"
            (await client(server)).transport.abort()
            assert await seen.get() == "no close frame received or sent"
            await (await client(server, "/closed")).wait_closed()
            said = "4000 (private use) enough"
            assert await seen.get() == f"sent {said}; then received {said}"

    run(loop, main())


@pytest.mark.parametrize("is_async", [False, True])
def test_process_request_answers_or_lets_in(lib: Library, loop: str, is_async: bool) -> None:
    def decide(connection: Any, request: Any) -> Any:
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if request.headers.get("Authorization") != "Bearer yes":
            response = connection.respond(http.HTTPStatus.UNAUTHORIZED, "who?\n")
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        connection.username = "somebody"
        return None

    async def decide_later(connection: Any, request: Any) -> Any:
        await asyncio.sleep(0)
        return decide(connection, request)

    async def handler(connection: Any) -> None:
        await connection.send(f"{connection.username} {connection.request.path}")

    async def main() -> None:
        hook = decide_later if is_async else decide
        async with lib.serve(handler, "127.0.0.1", 0, process_request=hook) as server:
            headers = {"Authorization": "Bearer yes"}
            async with client(server, "/room?a=1", additional_headers=headers) as ws:
                assert await ws.recv() == "somebody /room?a=1"
            with pytest.raises(InvalidStatus) as caught:
                await client(server)
            assert caught.value.response.status_code == 401
            assert caught.value.response.headers["WWW-Authenticate"] == "Bearer"
            assert caught.value.response.body == b"who?\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            response = await reader.read()
            assert response.startswith(b"HTTP/1.1 200 OK\r\n") and response.endswith(b"\r\n\r\nOK\n")
            writer.close()
            await writer.wait_closed()

    run(loop, main())


def test_process_request_that_raises_is_answered_with_500(
    lib: Library, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    def decide(connection: Any, request: Any) -> Any:
        raise ZeroDivisionError("on purpose")

    async def main() -> None:
        async with lib.serve(echo, "127.0.0.1", 0, process_request=decide) as server:
            with pytest.raises(InvalidStatus) as caught:
                await client(server)
            assert caught.value.response.status_code == 500

    run(loop, main())
    assert any(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)


def test_process_response_may_add_fields(lib: Library, loop: str) -> None:
    def amend(connection: Any, request: Any, response: Any) -> None:
        response.headers["X-Room"] = request.path

    async def main() -> None:
        async with (
            lib.serve(echo, "127.0.0.1", 0, process_response=amend) as server,
            client(server, "/lobby") as ws,
        ):
            assert ws.response is not None
            assert ws.response.headers["X-Room"] == "/lobby"

    run(loop, main())


def test_subprotocols(lib: Library, loop: str) -> None:
    async def handler(connection: Any) -> None:
        await connection.send(str(connection.subprotocol))

    def last(connection: Any, offered: Any) -> str:
        return str(offered[-1])

    async def main() -> None:
        async with (
            lib.serve(handler, "127.0.0.1", 0, subprotocols=["b", "a"]) as server,
            client(server, subprotocols=["a", "b", "c"]) as ws,
        ):
            assert (ws.subprotocol, await ws.recv()) == ("b", "b")
        async with (
            lib.serve(handler, "127.0.0.1", 0, subprotocols=["a", "b"], select_subprotocol=last) as server,
            client(server, subprotocols=["a", "b"]) as ws,
        ):
            assert (ws.subprotocol, await ws.recv()) == ("b", "b")

    run(loop, main())


def test_origins(lib: Library, loop: str) -> None:
    async def main() -> None:
        async with lib.serve(echo, "127.0.0.1", 0, origins=["https://good.example", None]) as server:
            for origin in ("https://good.example", None):
                async with client(server, origin=origin):
                    pass
            with pytest.raises(InvalidStatus) as caught:
                await client(server, origin="https://bad.example")
            assert caught.value.response.status_code == 403

    run(loop, main())


def test_a_message_above_max_size_closes_with_1009(lib: Library, loop: str) -> None:
    async def main() -> None:
        async with lib.serve(echo, "127.0.0.1", 0, max_size=100) as server, client(server) as ws:
            await ws.send(bytes(100))
            assert await ws.recv() == bytes(100)
            await ws.send(bytes(101))
            assert (await closed(ws))[0] == 1009

    run(loop, main())


def test_a_client_that_sends_more_than_is_received_is_held_back_and_loses_nothing(lib: Library, loop: str) -> None:
    async def main() -> None:
        count, size = 400, 100_000
        go = asyncio.Event()

        async def handler(connection: Any) -> None:
            await go.wait()
            for i in range(count):
                assert await connection.recv() == i.to_bytes(4, "big") + bytes(size)
            await connection.send("all of it")

        async with lib.serve(handler, "127.0.0.1", 0, max_queue=4) as server, client(server, write_limit=1) as ws:
            sent = 0

            async def flood() -> None:
                nonlocal sent
                for i in range(count):
                    await ws.send(i.to_bytes(4, "big") + bytes(size))
                    sent += 1

            task = asyncio.create_task(flood())
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.3)
            assert sent < count, "the client was never held back"
            go.set()
            assert await ws.recv() == "all of it"
            await task

    run(loop, main())


def test_send_waits_for_a_client_that_does_not_read_and_loses_nothing(lib: Library, loop: str) -> None:
    async def main() -> None:
        count, size = 400, 100_000
        sent = 0

        async def handler(connection: Any) -> None:
            nonlocal sent
            for i in range(count):
                await connection.send(i.to_bytes(4, "big") + bytes(size))
                sent += 1

        async with (
            lib.serve(handler, "127.0.0.1", 0, write_limit=65536) as server,
            client(server, max_queue=1, max_size=None) as ws,
        ):
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.3)
            assert sent < count, "send never waited"
            for i in range(count):
                assert await ws.recv() == i.to_bytes(4, "big") + bytes(size)

    run(loop, main())


def test_several_servers_in_one_loop(lib: Library, loop: str) -> None:
    async def main() -> None:
        def named(name: str) -> Any:
            async def handler(connection: Any) -> None:
                await connection.send(name)

            return handler

        async with (
            lib.serve(named("one"), "127.0.0.1", 0) as one,
            lib.serve(named("two"), "127.0.0.1", 0) as two,
        ):
            for _ in range(3):
                async with client(one) as ws:
                    assert await ws.recv() == "one"
                async with client(two) as ws:
                    assert await ws.recv() == "two"

    run(loop, main())
