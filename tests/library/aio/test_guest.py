"""The engine inside an event loop: it lives while the loop is blocked, and leaves nothing behind, however it ends."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import raw
from library.aio.both import LOOPS, client, closed, port_of, run
from library.programs import ROOT, Program
from live import ping, readable
from raw import PING, PONG, TEXT, Frame, RawClient
from websockets import exceptions as their_exceptions
from websockets import frames as their_frames
from websockets.exceptions import InvalidStatus

import unlimitedws
from unlimitedws import helpers
from unlimitedws.aio import (
    Close,
    ConnectionClosed,
    ConnectionClosedOK,
    Headers,
    Request,
    Response,
    Server,
    ServerConnection,
    serve,
    unix_serve,
)
from unlimitedws.aio.arguments import AioKeywords
from unlimitedws.aio.server import ServeKeywords
from unlimitedws.auth import BearerAuth, FirstMessageAuth, Identity, StaticTokens, SubprotocolAuth
from unlimitedws.options import OptionKeywords

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

RUN = {"asyncio": "asyncio.run(main())", "uvloop": "import uvloop; uvloop.run(main())"}

PROGRAM = """
import asyncio, ctypes, sys, time
from unlimitedws.aio import serve

async def handler(connection):
    global takeovers
    async for message in connection:
        if message == "block":
            {blocker}
            takeovers = connection.server.server.counters()["takeovers"]
        await connection.send(message)

takeovers = 0

async def main():
    async with serve(handler, "127.0.0.1", 0, ping_interval=0.3, ping_timeout=20) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        try:
            await server.serve_forever()
        finally:
            print(takeovers, flush=True)

try:
    {run}
except KeyboardInterrupt:
    pass
"""

BLOCKERS = {
    "sleeps": "time.sleep(2)",
    "holds the GIL": "ctypes.PyDLL(None).usleep(2_000_000)",
    "computes": "end = time.monotonic() + 2\n            while time.monotonic() < end: pass",
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("how", BLOCKERS)
def test_the_engine_lives_while_the_loop_is_blocked(script: Callable[[str], Program], loop: str, how: str) -> None:
    # The order of events is the proof: the blocked handler's reply is the last thing that comes.
    program = script(PROGRAM.format(blocker=BLOCKERS[how], run=RUN[loop]))
    port = int(program.line())
    blocked, other, silent = RawClient(port), RawClient(port), RawClient(port)
    for one in (blocked, other):
        one.send_frame(TEXT, "warm")
        assert one.recv_message() == "warm"
    blocked.send_frame(TEXT, "block")
    blocked.send_frame(PING, b"mine")
    assert blocked.recv_frame() == Frame(True, 0, PONG, b"mine")
    for _ in range(5):
        ping(other)
    newcomers = [RawClient(port) for _ in range(5)]
    for one in newcomers:
        ping(one)
    refused = RawClient(port, handshake=False)
    refused.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert refused.recv_response().status == 426
    # The server's own pings leave, too: a timer of the engine's.
    assert silent.recv_frame().opcode == PING
    while readable(blocked.sock):
        assert blocked.recv_frame().opcode == PING, "all of this took longer than the handler"
    while (frame := blocked.recv_frame()).opcode == PING:
        pass
    assert frame.payload == b"block"
    for one in (other, *newcomers):
        one.send_frame(TEXT, "after")
        while (frame := one.recv_frame()).opcode == PING:
            pass
        assert frame.payload == b"after"
    for one in (blocked, other, silent, refused, *newcomers):
        one.close()
    program.signal(signal.SIGINT)
    status, out, err = program.end()
    assert (status, err) == (0, "")
    assert int(out) > 0


@pytest.mark.parametrize("loop", LOOPS)
def test_what_tasks_send_between_visits_leaves_without_anything_coming_in(loop: str) -> None:
    async def main() -> None:
        async def handler(connection: ServerConnection) -> None:
            for i in range(20):
                # Long enough for the watchdog to fall asleep now and then.
                await asyncio.sleep(0.06 if i % 10 == 0 else 0.001)
                await connection.send(str(i))

        async with serve(handler, "127.0.0.1", 0) as server, client(server) as ws:
            assert [message async for message in ws] == [str(i) for i in range(20)]

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_other_threads_may_send(loop: str) -> None:
    async def main() -> None:
        async def handler(connection: ServerConnection) -> None:
            def work() -> None:
                for i in range(200):
                    connection.conn.send(str(i))
                    if i % 50 == 0:
                        time.sleep(0.06)

            await asyncio.get_running_loop().run_in_executor(None, work)

        async with serve(handler, "127.0.0.1", 0) as server, client(server) as ws:
            assert [message async for message in ws] == [str(i) for i in range(200)]

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_deadlines_are_kept_while_the_loop_is_idle(loop: str) -> None:
    async def main() -> None:
        async def handler(connection: ServerConnection) -> None:
            await connection.wait_closed()

        async with serve(handler, "127.0.0.1", 0, handshake_timeout=0.2, idle_timeout=0.3) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            assert (await _.read()).startswith(b"HTTP/1.1 408 ")
            writer.close()
            await writer.wait_closed()
            async with client(server) as ws:
                assert (await closed(ws))[0] == 1001

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_what_a_paused_connection_holds_is_bounded(loop: str) -> None:
    async def main() -> None:
        seen: asyncio.Future[ServerConnection] = asyncio.get_running_loop().create_future()
        go = asyncio.Event()

        async def handler(connection: ServerConnection) -> None:
            seen.set_result(connection)
            await go.wait()
            for i in range(5000):
                assert await connection.recv() == str(i)
            await connection.send("all")

        async with serve(handler, "127.0.0.1", 0, max_queue=8) as server, client(server) as ws:
            for i in range(5000):
                await ws.send(str(i))
            connection = await seen
            while not connection.conn.is_paused:
                await asyncio.sleep(0.001)
            assert len(connection._messages) == 9
            go.set()
            assert await ws.recv() == "all"

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelled_while_it_waits_for_room_send_has_not_sent(loop: str) -> None:
    async def main() -> None:
        done: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

        async def handler(connection: ServerConnection) -> None:
            sent = []
            for i in range(400):
                try:
                    await asyncio.wait_for(connection.send(i.to_bytes(4, "big") + bytes(100_000)), 0.01)
                    sent.append(i)
                except asyncio.TimeoutError:
                    if len(sent) + 20 < i:
                        break
            done.set_result(sent)
            await connection.wait_closed()

        async with (
            serve(handler, "127.0.0.1", 0, write_limit=65536, send_timeout=None) as server,
            client(server, max_queue=1, max_size=None) as ws,
        ):
            sent = await done
            assert len(sent) < 400
            got = [int.from_bytes((await ws.recv())[:4], "big") for _ in sent]
            assert got == sent

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_event_loop_goes_on_while_the_verifier_of_a_first_message_is_awaited(loop: str) -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def verify(token: str) -> Identity | None:
            await go_on.wait()
            return Identity("alice") if token == "alice's" else None

        async def handler(connection: ServerConnection) -> None:
            async for message in connection:
                await connection.send(f"{connection.conn.user}: {message!s}")

        async with serve(handler, "127.0.0.1", 0, start_serving=False) as server:
            server.server.auth = FirstMessageAuth(verify)
            await server.start_serving()
            async with client(server) as known, client(server) as unknown:
                await known.send("alice's")
                await known.send("hello")
                await unknown.send("mallory's")
                # Neither is in: both verifiers wait, and the loop does not.
                assert server.connections == set()
                go_on.set()
                assert await known.recv() == "alice: hello"
                assert (await closed(unknown))[0] == 3000

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_server_that_closes_cancels_the_verifier_of_a_first_message(loop: str) -> None:
    async def main() -> None:
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def verify(token: str) -> Identity | None:
            begun.set_result(None)
            try:
                await asyncio.sleep(3600)
            finally:
                ended.set_result(None)

        async def handler(connection: ServerConnection) -> None:
            raise AssertionError("nobody has come in")

        async with serve(handler, "127.0.0.1", 0, start_serving=False) as server:
            server.server.auth = FirstMessageAuth(verify, timeout=3600)
            await server.start_serving()
            async with client(server) as ws:
                await ws.send("who knows")
                await begun
                server.close()
                assert (await closed(ws))[0] == 1001
                await server.wait_closed()
        await ended

    run(loop, main())


def test_end_of_the_event_loop_is_not_the_verifiers_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> Any:
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def verify(token: str) -> Identity | None:
            begun.set_result(None)
            await asyncio.sleep(3600)
            return None

        async def handler(connection: ServerConnection) -> None:
            raise AssertionError("nobody has come in")

        server = serve(handler, "127.0.0.1", 0, start_serving=False)
        server = await server
        server.server.auth = FirstMessageAuth(verify, timeout=3600)
        await server.start_serving()
        ws = await client(server)
        await ws.send("who knows")
        await begun
        ws.transport.abort()
        # Whoever runs this cancels all tasks now.

    with caplog.at_level(logging.ERROR, "unlimitedws"):
        asyncio.run(main())
    if sys.version_info >= (3, 11):
        assert not caplog.records


def test_subprotocol_of_the_authenticator_stands_where_the_hook_selects_none() -> None:
    async def main() -> None:
        async def handler(connection: ServerConnection) -> None:
            await connection.send(str(connection.subprotocol))

        def select(connection: ServerConnection, offered: Any) -> str | None:
            return "second" if "second" in offered else None

        async with serve(
            handler, "127.0.0.1", 0, start_serving=False, select_subprotocol=select
        ) as server:
            server.server.auth = SubprotocolAuth(
                lambda token: Identity("alice") if token == "alice's" else None, subprotocols=["first", "second"]
            )
            await server.start_serving()
            for offered, selected in ((["first"], "first"), (["first", "second"], "second")):
                async with client(server, subprotocols=[*offered, "bearer.alice's"]) as ws:
                    assert ws.subprotocol == await ws.recv() == selected

    asyncio.run(main())


def test_hook_that_selects_is_not_offered_the_token() -> None:
    async def main() -> None:
        async def handler(connection: ServerConnection) -> None:
            await connection.send(str(connection.subprotocol))

        auth = SubprotocolAuth(lambda token: Identity("alice") if token == "alice's" else None)
        async with serve(
            handler, "127.0.0.1", 0, auth=auth, select_subprotocol=lambda connection, offered: offered[0]
        ) as server, client(server, subprotocols=["bearer.alice's", "chat"]) as ws:
            assert ws.subprotocol == await ws.recv() == "chat"

    asyncio.run(main())


def test_code_that_the_server_closes_with_is_for_strangers_too() -> None:
    async def main() -> None:
        async def handler(connection: ServerConnection) -> None:
            raise AssertionError("nobody has come in")

        auth = FirstMessageAuth(lambda token: None)
        async with serve(handler, "127.0.0.1", 0, auth=auth) as server, client(server) as ws:
            server.close(code=1012, reason="restart")
            await ws.wait_closed()
            assert (ws.close_code, ws.close_reason) == (1012, "restart")

    asyncio.run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelling_a_handler_closes_its_connection(loop: str) -> None:
    async def main() -> None:
        tasks: asyncio.Queue[Any] = asyncio.Queue()

        async def handler(connection: ServerConnection) -> None:
            tasks.put_nowait(asyncio.current_task())
            await connection.recv()

        async with serve(handler, "127.0.0.1", 0) as server, client(server) as ws:
            task = await tasks.get()
            task.cancel()
            assert (await closed(ws))[0] == 1011
            with pytest.raises(asyncio.CancelledError):
                await task

    run(loop, main())


@pytest.mark.parametrize("code", [1001, 1012])
@pytest.mark.parametrize("loop", LOOPS)
def test_drained_connection_tells_both_close_frames(loop: str, code: int) -> None:
    async def main() -> None:
        ends: asyncio.Queue[ConnectionClosed] = asyncio.Queue()

        async def handler(connection: ServerConnection) -> None:
            with pytest.raises(ConnectionClosed) as raised:
                await connection.recv()
            ends.put_nowait(raised.value)

        async with serve(handler, "127.0.0.1", 0) as server, client(server) as ws:
            server.server.drain(over=0.05, code=code, jitter=False, wait=False)
            assert (await closed(ws))[0] == code
            end = await ends.get()
        assert (end.rcvd, end.sent, end.rcvd_then_sent) == (Close(code, ""), Close(code, ""), False)
        assert isinstance(end, ConnectionClosedOK) == (code == 1001)

    run(loop, main())


@pytest.mark.parametrize("answers", [True, False], ids=["answers", "never answers"])
@pytest.mark.parametrize("unread", [0, 60], ids=["nothing unread", "messages unread"])
def test_handler_hears_what_the_client_said_when_its_lifetime_ends(unread: int, answers: bool) -> None:
    async def main() -> None:
        ends: asyncio.Queue[ConnectionClosed] = asyncio.Queue()
        late = asyncio.Event()
        received = 0

        async def handler(connection: ServerConnection) -> None:
            nonlocal received
            await late.wait()
            with pytest.raises(ConnectionClosed) as raised:
                while True:
                    await connection.recv()
                    received += 1
            ends.put_nowait(raised.value)

        async with serve(handler, "127.0.0.1", 0, max_lifetime=0.3, close_timeout=0.3 if not answers else 60) as server:
            ws = await asyncio.to_thread(RawClient, port_of(server))
            for _ in range(unread):
                ws.send_frame(TEXT, "x")
            # Where it may wait, the engine is not read beyond `max_queue`, and the rest is unread in the engine.
            assert await asyncio.to_thread(ws.recv_close) == (1001, "maximum lifetime")
            if answers:
                ws.send_close(1001, "so be it")
            late.set()
            end = await ends.get()
            ws.close()
        assert received == unread
        assert end.sent == Close(1001, "maximum lifetime")
        assert (end.rcvd, end.rcvd_then_sent) == ((Close(1001, "so be it"), False) if answers else (None, None))
        assert (end.code, end.reason) == ((1001, "so be it") if answers else (1006, ""))
        assert isinstance(end, ConnectionClosedOK) == answers

    run("asyncio", main())


@pytest.mark.parametrize("how", ["disconnect", "drain", "close", "expiry"])
def test_exception_says_what_we_have_sent_where_the_client_never_answers(how: str) -> None:
    words = {
        "disconnect": (4001, "out"),
        "drain": (1001, ""),
        "close": (4000, "done"),
        "expiry": (3000, "credential expired"),
    }

    async def main() -> None:
        ends: asyncio.Queue[ConnectionClosed] = asyncio.Queue()

        async def handler(connection: ServerConnection) -> None:
            expires = time.time() + 0.1 if how == "expiry" else None
            server.server.identify(connection.conn, user="alice", expires=expires)
            if how == "disconnect":
                server.server.disconnect(user="alice", code=4001, reason="out")
            elif how == "drain":
                server.server.drain(over=0, code=1001, jitter=False, wait=False)
            elif how == "close":
                await connection.close(4000, "done")
            with pytest.raises(ConnectionClosed) as raised:
                await connection.recv()
            ends.put_nowait(raised.value)

        async with serve(handler, "127.0.0.1", 0, close_timeout=0.2) as server:
            ws = await asyncio.to_thread(RawClient, port_of(server))
            assert await asyncio.to_thread(ws.recv_close) == words[how]
            end = await ends.get()
            ws.close()
        assert (end.rcvd, end.sent, end.rcvd_then_sent, end.code) == (None, Close(*words[how]), None, 1006)

    run("asyncio", main())


def test_a_server_that_was_not_closed_is_when_its_loop_ends(script: Callable[[str], Program]) -> None:
    program = script(
        """
import asyncio, os, threading
from unlimitedws.aio import serve
from websockets.asyncio.client import connect

async def main():
    async def handler(connection):
        try:
            await connection.recv()
        finally:
            print("handler over", flush=True)
    server = await serve(handler, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ws = await connect(f"ws://127.0.0.1:{port}", proxy=None)
    while not server.connections:
        await asyncio.sleep(0.001)
    return ws

before = len(os.listdir("/proc/self/fd"))
ws = asyncio.run(main())
ws.transport.abort()
print(ws.close_code, threading.active_count(), flush=True)
"""
    )
    status, out, err = program.end()
    assert (status, err) == (0, "")
    assert "handler over" in out and out.rstrip().endswith(" 1")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_closed_under_a_server_ends_without_a_word(script: Callable[[str], Program], loop: str) -> None:
    program = script(
        f"""
import asyncio, {loop} as loops
from unlimitedws.aio import serve
from websockets.sync.client import connect

async def handler(connection):
    await connection.recv()

async def main():
    server = await serve(handler, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    return server

loop = loops.new_event_loop()
server = loop.run_until_complete(main())
loop.close()
"""
    )
    port = int(program.line())
    status, _, err = program.end()
    assert (status, err) == (0, "")
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), 1)


@pytest.mark.parametrize("loop", LOOPS)
def test_ctrl_c_closes_everybody_with_1001(program: Callable[..., Program], loop: str) -> None:
    example = str(ROOT / "examples" / "aio_echo.py")
    # A shell that runs the tests in the background has SIGINT ignored, and its children inherit that.
    start = "import signal, sys, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "
    if loop == "uvloop":
        start += "import asyncio, uvloop; asyncio.run = uvloop.run; "
    one = program("-c", start + f"sys.argv = ['x', '0']; runpy.run_path({example!r}, run_name='__main__')")
    port = int(one.line().rpartition(" ")[2])
    clients = [RawClient(port) for _ in range(3)]
    for ws in clients:
        ws.send_frame(TEXT, "hello")
        assert ws.recv_message() == "hello"
    one.signal(signal.SIGINT)
    for ws in clients:
        assert ws.recv_close().code == 1001
        ws.close()
    assert one.end() == (0, "stopped\n", "")


@pytest.mark.parametrize(("code", "reason"), [(999, ""), (1005, ""), (1001, "x" * 124)])
def test_a_server_is_not_closed_with_what_a_close_frame_cannot_say(code: int, reason: str) -> None:
    async def main() -> None:
        async def handler(connection: ServerConnection) -> None:
            async for message in connection:
                await connection.send(message)

        async with serve(handler, "127.0.0.1", 0) as server, client(server) as ws:
            with pytest.raises(ValueError, match="close"):
                server.close(code=code, reason=reason)
            # As if nothing had been said.
            assert server.is_serving()
            await ws.send("x")
            assert await ws.recv() == "x"

    run("asyncio", main())


@pytest.mark.parametrize("loop", LOOPS)
def test_threads_and_descriptors_are_back_after_many_lives(loop: str) -> None:
    async def main() -> None:
        async def handler(connection: ServerConnection) -> None:
            async for message in connection:
                await connection.send(message)

        before = (0, 0, 0)
        for number in range(31):
            async with serve(handler, "127.0.0.1", 0) as server, client(server) as ws:
                await ws.send("x")
                assert await ws.recv() == "x"
            assert server.sockets == ()
            if number == 0:
                # What the event loop itself keeps for later is there now; one or two others may be on their way out.
                before = counted()
        while any(now > then for now, then in zip(counted(), before, strict=True)):
            await asyncio.sleep(0.001)

    def counted() -> tuple[int, int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_places_to_listen(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async def handler(connection: ServerConnection) -> None:
            await connection.send(connection.path)

        async def ask(server: Server, **options: Any) -> None:
            async with client(server, "/it", **options) as ws:
                assert await ws.recv() == "/it"

        async with serve(handler, "127.0.0.1:0", max_message_bytes=10) as server:
            await ask(server)
        async with serve(handler, "localhost", 0) as server:
            await ask(server)
        sock = socket.create_server(("127.0.0.1", 0))
        async with serve(handler, sock=sock) as server:
            await ask(server)
        assert sock.fileno() == -1
        path = str(tmp_path / "socket")
        async with unix_serve(handler, path):
            from websockets.asyncio.client import unix_connect

            async with unix_connect(path, "ws://localhost/it", compression=None) as ws:
                assert await ws.recv() == "/it"
        server = await serve(handler, "127.0.0.1", 0, start_serving=False)
        assert not server.is_serving()
        await server.start_serving()
        assert server.is_serving()
        await ask(server)
        server.close()
        await server.wait_closed()

    run(loop, main())


def test_the_fields_of_the_request_are_there_where_they_are_kept() -> None:
    async def main() -> None:
        async def handler(connection: ServerConnection) -> None:
            try:
                await connection.send(connection.request.headers["x-a"])
            except RuntimeError as exc:
                assert "keep_request=True" in str(exc)
                await connection.send("not kept")

        for keep, said in ((True, "1, 2"), (False, "not kept")):
            async with (
                serve(handler, "127.0.0.1", 0, keep_request=keep) as server,
                client(server, additional_headers=[("X-A", "1"), ("X-A", "2")]) as ws,
            ):
                assert await ws.recv() == said

    run("asyncio", main())


def _note(connection: ServerConnection, request: Request) -> None:
    assert request.full is not None
    request.full.data = {"seen": request.path}


def _pass(*_: Any) -> None:
    """Have no objection."""


@pytest.mark.parametrize(
    ("hooks", "is_seen"),
    [
        ({"keep_request": True}, False),
        ({"process_request": _note}, True),
        ({"process_request": _note, "process_response": _pass, "select_subprotocol": _pass}, True),
    ],
    ids=["no hooks", "process_request", "all hooks"],
)
def test_what_the_application_leaves_in_the_request_is_its_own(hooks: dict[str, Any], is_seen: bool) -> None:
    async def main() -> None:
        def on_request(request: unlimitedws.Request) -> None:
            assert request.data == ({"seen": "/room?a=1"} if is_seen else None)
            request.data = {"room": request.params["a"], **(request.data or {})}

        async def handler(connection: ServerConnection) -> None:
            full = connection.request.full
            assert full is not None and full is connection.conn.request
            await connection.send(repr(full.data))

        server = await serve(handler, "127.0.0.1", 0, start_serving=False, **hooks)
        server.server.on_request = on_request
        await server.start_serving()
        async with server, client(server, "/room?a=1") as ws:
            expected = {"room": ["1"], **({"seen": "/room?a=1"} if is_seen else {})}
            assert await ws.recv() == repr(expected)

    run("asyncio", main())


@pytest.mark.parametrize("is_async", [True, False], ids=["coroutine function", "function that returns one"])
def test_more_coroutines_of_the_handshake_than_may_run_are_refused(
    monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    monkeypatch.setattr(helpers, "_MAX_AWAITED", 2)

    async def main() -> None:
        entered, leave = asyncio.Semaphore(0), asyncio.Event()

        async def slow(connection: ServerConnection, request: Request) -> None:
            entered.release()
            await leave.wait()

        hook = slow if is_async else lambda connection, request: slow(connection, request)
        async with serve(_nothing, "127.0.0.1", 0, process_request=hook) as server:
            coming = [asyncio.ensure_future(client(server).__aenter__()) for _ in range(2)]
            for _ in coming:
                await entered.acquire()
            with pytest.raises(InvalidStatus) as caught:
                await client(server)
            assert caught.value.response.status_code == 503
            leave.set()
            for ws in await asyncio.gather(*coming):
                await ws.close()
            async with client(server):
                pass

    run("asyncio", main())


def _select_another(connection: ServerConnection, offered: Sequence[str]) -> str:
    return "secret"


async def _select_another_later(connection: ServerConnection, offered: Sequence[str]) -> str:
    return "secret"


@pytest.mark.parametrize(
    ("select", "what"),
    [
        (_select_another, "select_subprotocol selects a subprotocol that the client does not offer"),
        (_select_another_later, "select_subprotocol selects a subprotocol that the client does not offer"),
        (lambda connection, offered: "", "select_subprotocol selects a subprotocol that the client does not offer"),
        (lambda connection, offered: ", ".join(offered), "that the client does not offer"),
        (lambda connection, offered: b"secret", "must select a subprotocol, a str, or None, not bytes"),
        (lambda connection, offered: offered, "not list"),
    ],
    ids=["another", "another, later", "nothing", "all", "bytes", "a list"],
)
def test_subprotocol_that_was_not_offered_is_an_error_of_who_selects(
    select: Any, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        asked = []

        def process_response(*args: Any) -> None:
            asked.append(args)

        hooks: dict[str, Any] = {"select_subprotocol": select, "process_response": process_response}
        async with serve(_nothing, "127.0.0.1", 0, **hooks) as server:
            with pytest.raises(InvalidStatus) as caught:
                await client(server, subprotocols=["chat", "bearer.secret"])
            assert caught.value.response.status_code == 500
        assert asked == []

    with caplog.at_level(logging.ERROR, "unlimitedws"):
        run("asyncio", main())
    assert what in caplog.text and "secret" not in caplog.text


def test_a_client_that_leaves_is_no_error_of_the_handler(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        over = asyncio.Event()

        async def handler(connection: ServerConnection) -> None:
            try:
                await connection.recv()
            finally:
                over.set()

        async with serve(handler, "127.0.0.1", 0) as server:
            async with client(server):
                pass
            await over.wait()

    with caplog.at_level(logging.WARNING, "unlimitedws"):
        run("asyncio", main())
    assert caplog.records == []


TOKEN = "a-token-of-some-length"


def test_authenticator_of_serve_is_in_force_before_anybody_is_let_in() -> None:
    async def main() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        with RawClient(port, handshake=False) as stranger, RawClient(port, handshake=False) as ann:
            # They have sent their requests before the server is there.
            stranger.send(raw.request())
            ann.send(raw.request(headers=[("Authorization", f"Bearer {TOKEN}")]))
            async with serve(_nothing, sock=sock, auth=BearerAuth(StaticTokens({TOKEN: "ann"}))):
                assert (await asyncio.to_thread(stranger.sock.recv, 4096)).startswith(b"HTTP/1.1 401 ")
                assert (await asyncio.to_thread(ann.sock.recv, 4096)).startswith(b"HTTP/1.1 101 ")
                # Nobody has to wait for its close frame.
                ann.close()

    run("asyncio", main())


@pytest.mark.parametrize("loop", LOOPS)
def test_handler_knows_the_user_also_after_the_end(loop: str) -> None:
    seen: list[Any] = []

    def verify(token: str) -> Identity | None:
        return Identity("ann", session="laptop") if token == TOKEN else None

    async def main() -> None:
        over = asyncio.Event()

        async def handler(connection: ServerConnection) -> None:
            seen.append((connection.user, connection.session))
            await connection.wait_closed()
            seen.append((connection.user, connection.session, connection.conn.user))
            over.set()

        async with serve(handler, "127.0.0.1", 0, auth=FirstMessageAuth(verify)) as server:
            async with client(server) as ws:
                await ws.send(TOKEN)
            await over.wait()

    run(loop, main())
    assert seen == [("ann", "laptop"), ("ann", "laptop", "ann")]


def test_hooks_know_the_user_when_the_authenticator_has_said_so() -> None:
    seen: list[Any] = []

    def process_request(connection: ServerConnection, request: Request) -> None:
        seen.append(connection.user)

    def process_response(connection: ServerConnection, request: Request, response: Response) -> None:
        seen.append(connection.user)

    async def main() -> None:
        options: dict[str, Any] = {"process_request": process_request, "process_response": process_response}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            serve(_nothing, "127.0.0.1", 0, auth=BearerAuth(StaticTokens({TOKEN: "ann"})), **options) as server,
            client(server, additional_headers=headers),
        ):
            pass

    run("asyncio", main())
    assert seen == [None, "ann"]


def test_user_that_a_program_sets_on_its_connection_is_its_own() -> None:
    async def main() -> None:
        def process_request(connection: ServerConnection, request: Request) -> None:
            connection.user = {"name": "bob"}
            connection.session = [1]

        async def handler(connection: ServerConnection) -> None:
            conn = connection.conn
            await connection.send(repr((connection.user, connection.session, conn.user, conn.session)))

        auth = BearerAuth(StaticTokens({TOKEN: "ann"}))
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            serve(handler, "127.0.0.1", 0, auth=auth, process_request=process_request) as server,
            client(server, additional_headers=headers) as ws,
        ):
            assert await ws.recv() == repr(({"name": "bob"}, [1], "ann", None))

    run("asyncio", main())


@pytest.mark.parametrize("message", [1, None, 1.5, object()])
def test_what_is_no_message_is_refused_in_the_words_of_the_callbacks(message: Any) -> None:
    said: list[str] = []

    async def main() -> None:
        async def handler(connection: ServerConnection) -> None:
            try:
                connection.conn.send(message)
            except TypeError as exc:
                said.append(str(exc))
            try:
                await connection.send(message)
            except TypeError as exc:
                said.append(str(exc))
            # The connection has not suffered.
            await connection.send("well")

        async with serve(handler, "127.0.0.1", 0) as server, client(server) as ws:
            assert await ws.recv() == "well"

    run("asyncio", main())
    assert said == [f"a message is a str or a bytes-like object, not {type(message).__name__}"] * 2


async def _nothing(connection: ServerConnection) -> None:
    await connection.wait_closed()


@pytest.mark.parametrize(
    ("options", "kind", "what"),
    [
        ({"ssl": object()}, ValueError, "ssl"),
        ({"max_queue": -1}, ValueError, "max_queue"),
        ({"max_queue": (4, 8)}, ValueError, "max_queue"),
        ({"max_queue": (8, -1)}, ValueError, "max_queue"),
        ({"max_queue": "x"}, TypeError, "max_queue: must be a number of messages, or "),
        ({"max_queue": (1, 2, 3)}, TypeError, "max_queue"),
        ({"max_queue": (8, "4")}, TypeError, "max_queue"),
        ({"max_queue": True}, TypeError, "max_queue"),
        ({"write_limit": None}, TypeError, "write_limit: must be a number of bytes, or "),
        ({"write_limit": (None, 5)}, TypeError, "write_limit"),
        ({"write_limit": "x"}, TypeError, "write_limit"),
        ({"write_limit": 1.5}, TypeError, "write_limit"),
        ({"write_limit": -1}, ValueError, "write_limit"),
        ({"write_limit": (10, 20)}, ValueError, "write_limit"),
        ({"write_limit": 1 << 30}, ValueError, "write_limit: must be at most max_buffered_bytes"),
        ({"open_timeout": "x"}, TypeError, "open_timeout: must be seconds"),
        ({"max_size": 0}, ValueError, "max_size: must be from 1"),
        ({"max_message_bytes": 0}, ValueError, "max_message_bytes: must be from 1"),
        ({"subprotocols": "chat"}, TypeError, "subprotocols: must be a list of str, not 'chat'"),
        ({"subprotocols": 5}, TypeError, "subprotocols: must be a list of str, not 5"),
        ({"subprotocols": ["chat", 5]}, TypeError, "subprotocols"),
        ({"subprotocols": ["a b"]}, ValueError, "subprotocols"),
        ({"origins": "http://a"}, TypeError, "origins: must be a list of str, patterns and None, not 'http://a'"),
        ({"origins": re.compile("a")}, TypeError, "origins: must be a list"),
        ({"origins": [b"http://a"]}, TypeError, "origins: must be of str"),
        ({"origins": [re.compile(b"a")]}, TypeError, "origins: must be of str"),
        ({"process_request": 5}, TypeError, "process_request: must be a function or None, not 5"),
        ({"process_response": "x"}, TypeError, "process_response: must be a function"),
        ({"select_subprotocol": ["chat"]}, TypeError, "select_subprotocol: must be a function"),
        ({"server_header": 5}, TypeError, "server_header: must be a str or None, not 5"),
        ({"server_header": "a\r\nX: b"}, ValueError, "Server"),
        ({"auth": "ann"}, TypeError, "auth: must have a method check"),
        ({"auth": BearerAuth}, TypeError, "auth: must be an authenticator, not the class BearerAuth"),
        ({"compression": "brotli"}, ValueError, "compression"),
        ({"pool": (4, 4)}, ValueError, "pool"),
        ({"overflow": "block"}, ValueError, "overflow"),
        ({"max_size": (1, 2)}, ValueError, "max_size"),
        ({"ping_intervall": 1}, TypeError, "ping_interval"),
        ({"process_request": print, "keep_request": False}, ValueError, "keep_request"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options: dict[str, Any], kind: type[Exception], what: str) -> None:
    with pytest.raises(kind, match=what):
        serve(_nothing, "127.0.0.1", 0, **options)


def test_keywords_for_type_checkers_are_those_of_serve() -> None:
    parameters = inspect.signature(serve).parameters.values()
    named = {one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}
    assert set(ServeKeywords.__annotations__) == named | set(AioKeywords.__annotations__)
    assert not named & set(AioKeywords.__annotations__)
    # The other options are refused.
    refused = {"pool", "request_workers", "streaming", "loops", "workers", "private_fds"}
    assert set(OptionKeywords.__annotations__) - set(ServeKeywords.__annotations__) == refused


def test_times_without_limit() -> None:
    async def main() -> None:
        times = ("open_timeout", "ping_interval", "ping_timeout", "close_timeout")
        limits: dict[str, Any] = dict.fromkeys((*times, "max_size", "max_queue"))
        async with serve(_nothing, "127.0.0.1", 0, **limits, write_limit=(1000, 10)) as server:
            options = server.server.options
            assert options.high_water_bytes == 1000
            assert options.low_water_bytes == 10
            async with client(server):
                pass

    run("asyncio", main())


@pytest.mark.parametrize(
    ("limit", "marks"), [(8, (8, 2)), ((8, None), (8, 2)), ([8, 0], (8, 0)), (0, (0, 0)), ((4, 4), (4, 4))]
)
def test_limits_are_one_number_or_two(limit: Any, marks: tuple[int, int]) -> None:
    async def main() -> None:
        async with serve(_nothing, "127.0.0.1", 0, max_queue=limit, write_limit=limit) as server:
            options = server.server.options
            assert (server.high_queue, server.low_queue) == marks
            assert (options.high_water_bytes, options.low_water_bytes) == marks

    run("asyncio", main())


def test_origins_are_texts_patterns_and_none() -> None:
    async def main() -> None:
        async with serve(_nothing, "127.0.0.1", 0, origins=["http://a", re.compile("http://b+"), None]) as server:
            for origin in ("http://a", "http://bb", None):
                async with client(server, origin=origin):
                    pass
            for origin in ("http://bba", "http://"):
                with pytest.raises(InvalidStatus):
                    await client(server, origin=origin)

    run("asyncio", main())


@pytest.mark.parametrize("reason", ["", "enough"])
@pytest.mark.parametrize("code", [*range(1000, 1004), 1005, *range(1007, 1015), 2999, 3000, 3999, 4000, 4999])
def test_close_frames_read_as_in_websockets(code: int, reason: str) -> None:
    ours, theirs = Close(code, reason), their_frames.Close(code, reason)
    assert str(ours) == str(theirs)
    for rcvd, sent, first in ((1, 1, True), (1, 1, False), (1, 0, None), (0, 1, None), (0, 0, None)):
        exc = ConnectionClosed(ours if rcvd else None, ours if sent else None, first)
        other = their_exceptions.ConnectionClosed(theirs if rcvd else None, theirs if sent else None, first)
        assert str(exc) == str(other)


def test_clients_reason_is_told_and_not_repeated() -> None:
    """What the page says of `sent`: what was sent."""

    async def main() -> None:
        seen: asyncio.Future[ConnectionClosed] = asyncio.get_running_loop().create_future()

        async def handler(connection: ServerConnection) -> None:
            try:
                await connection.recv()
            except ConnectionClosed as exc:
                seen.set_result(exc)

        def say_goodbye(port: int) -> raw.Close:
            with RawClient(port) as ws:
                ws.send_close(3001, "why")
                return ws.recv_close()

        async with serve(handler, "127.0.0.1", 0) as server:
            answer = await asyncio.to_thread(say_goodbye, port_of(server))
            exc = await seen
        assert (exc.rcvd, exc.sent) == (Close(3001, "why"), Close(3001, ""))
        assert (answer.code, answer.reason) == exc.sent

    run("asyncio", main())


def test_hooks_are_not_asked_about_what_the_engine_answers() -> None:
    """As the page says: HEAD, and ``/`` where there is the option `page`."""
    asked: list[str] = []

    def process_request(connection: ServerConnection, request: Request) -> Response:
        asked.append(request.path)
        return connection.respond(200, "hook")

    def answer(port: int, head: str) -> bytes:
        with RawClient(port, handshake=False) as ws:
            ws.send(f"{head} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            return ws.recv_until_eof()

    async def main() -> None:
        async with serve(_nothing, "127.0.0.1", 0, process_request=process_request, page=b"page") as server:
            port = port_of(server)
            assert (await asyncio.to_thread(answer, port, "HEAD /a")).startswith(b"HTTP/1.1 405 ")
            assert (await asyncio.to_thread(answer, port, "GET /")).endswith(b"page")
            assert (await asyncio.to_thread(answer, port, "GET /b")).endswith(b"hook")

    run("asyncio", main())
    assert asked == ["/b"]


def test_addresses_are_pairs_whatever_the_socket_is(tmp_path: Path) -> None:
    async def main() -> None:
        seen: asyncio.Queue[Any] = asyncio.Queue()

        async def handler(connection: ServerConnection) -> None:
            await seen.put((tuple(connection.remote_address), tuple(connection.local_address)))

        from websockets.asyncio.client import connect, unix_connect

        async with serve(handler, port=0) as server:
            assert len(server.sockets) == 1
            port = port_of(server)
            for host in ("127.0.0.1", "[::1]"):
                async with connect(f"ws://{host}:{port}/", proxy=None) as ws:
                    theirs = ws.local_address
                    assert await seen.get() == (theirs[:2], (host.strip("[]"), port))
        path = str(tmp_path / "socket")
        async with unix_serve(handler, path), unix_connect(path):
            assert await seen.get() == (("unix:", 0), (f"unix:{path}", 0))

    run("asyncio", main())


def test_two_processes_share_a_port_with_sockets_of_their_own(script: Callable[[str], Program]) -> None:
    text = """
import asyncio, socket
from unlimitedws.aio import serve

async def handler(connection):
    await connection.send({name!r})
    await connection.wait_closed()

async def main():
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", {port}))
    async with serve(handler, sock=sock) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(input)

asyncio.run(main())
"""
    one = script(text.format(name="one", port=0))
    port = int(one.line())
    two = script(text.format(name="two", port=port))
    assert two.line() == str(port)
    # Which of them it is goes by a hash of the addresses.
    met: set[str] = set()
    while met != {"one", "two"}:
        with RawClient(port) as ws:
            message = ws.recv_message()
            assert isinstance(message, str)
            met.add(message)
    for process in (one, two):
        process.say()
        assert process.end() == (0, "", "")


def test_headers_and_responses() -> None:
    headers = Headers([("A", "1"), ("b", "2")])
    headers["a"] = "3"
    assert headers["A"] == "1, 3"
    assert headers.get_all("a") == ["1", "3"]
    assert list(headers.raw_items()) == [("A", "1"), ("b", "2"), ("a", "3")]
    assert list(headers) == ["a", "b"]
    assert len(headers) == 2
    assert "B" in headers and "c" not in headers
    copied = headers.copy()
    del headers["A"]
    assert list(headers.raw_items()) == [("b", "2")]
    assert list(copied.raw_items()) == [("A", "1"), ("b", "2"), ("a", "3")]
    with pytest.raises(KeyError):
        del headers["A"]
    assert "2" not in repr(headers)
    response = Response.of_text(404, "no")
    assert (response.status_code, response.reason_phrase, response.body) == (404, "Not Found", b"no")
