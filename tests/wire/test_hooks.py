"""Hooks of the handshake, who is connected, and authentication, over real sockets and in both modes."""

from __future__ import annotations

import asyncio
import gc
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import raw
from live import Live, ServerProcess, each_mode, expect_date, expect_eof, ping, readable, serve, take, wait, wait_until
from loops import HAS_GIL
from raw import TEXT, TIMEOUT, RawClient

import unlimitedws
from unlimitedws import Accept, CloseCause, Reject, Request
from unlimitedws.auth import BearerAuth

BODY_500 = b"The server failed to handle this request.\n"

each_kind = pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])


def ask(live: Live, path: str = "/", headers: Any = (), host: str = "127.0.0.1") -> RawClient:
    """Send an upgrade request and do not wait for the answer."""
    client = RawClient(live.port, handshake=False)
    live._clients.append(client)
    client.send(raw.request(path, headers=headers, host=host))
    return client


def status(client: RawClient) -> int:
    return client.recv_response().status


def refused(client: RawClient) -> tuple[int, bytes]:
    """Return the status and the body of a refusal, behind which the connection has to end."""
    response = client.recv_response()
    assert response.headers["connection"] == "close"
    expect_date(response.headers.get("date"))
    body = client.recv_body()
    expect_eof(client)
    return response.status, body


def hook(is_async: bool, decide: Callable[[Request], Any]) -> Any:
    """Make a hook of either kind."""
    if not is_async:
        return decide

    async def on_request(request: Request) -> Any:
        await asyncio.sleep(0)
        return decide(request)

    return on_request


@pytest.fixture
def leave() -> Iterator[threading.Event]:
    """What slow hooks wait for; set at the end, so that no thread stays."""
    event = threading.Event()
    yield event
    event.set()


# What on_request decides


@each_mode
@each_kind
def test_none_lets_in(pool: Any, is_async: bool, no_fd_leaks: None) -> None:
    with serve(pool=pool) as live:
        live.server.on_request = hook(is_async, lambda request: None)
        client, conn = live.connect_conn(path="/a?b")
        ping(client)
        assert (conn.user, conn.session, conn.request, conn.subprotocol) == (None, None, None, None)
        client.close_cleanly()


@each_mode
@each_kind
def test_accept_says_the_subprotocol_the_headers_and_who_it_is(pool: Any, is_async: bool) -> None:
    with serve(pool=pool) as live:
        live.server.on_request = hook(
            is_async,
            lambda request: Accept(
                "b", [("Set-Cookie", "x=1"), ("Set-Cookie", "y=2; Path=/")], user=7, session="s"
            ),
        )
        client, conn = live.connect_conn(headers=[("Sec-WebSocket-Protocol", "a, b")])
        assert client.response is not None
        assert client.response.headers["sec-websocket-protocol"] == "b"
        assert client.response.headers["set-cookie"] == "x=1, y=2; Path=/"
        assert (conn.user, conn.session, conn.subprotocol) == (7, "s", "b")
        client.close_cleanly()
        ended = live.ended_of(client) if client.sock.fileno() >= 0 else take(live.ended)
        assert (ended.conn.user, ended.conn.session, ended.conn.subprotocol) == (7, "s", "b")


@each_mode
@each_kind
def test_reject_is_answered_as_it_says_and_the_connection_ends(pool: Any, is_async: bool) -> None:
    with serve(pool=pool) as live:
        live.server.on_request = hook(
            is_async, lambda request: Reject(401, "who are you?", {"WWW-Authenticate": "Bearer"})
        )
        client = ask(live)
        assert refused(client) == (401, b"who are you?")
        assert client.response is not None
        assert client.response.headers["www-authenticate"] == "Bearer"
        assert live.opened.empty()
        counters = live.server.counters()
        assert (counters["answered_401"], counters["upgraded"], counters["connections"]) == (1, 0, 0)


@each_mode
def test_request_has_everything_that_was_sent(pool: Any) -> None:
    seen: queue.Queue[Request] = queue.Queue()
    with serve(pool=pool) as live:
        live.server.on_request = lambda request: seen.put(request)
        client = live.connect(
            path="/chat?room=1&room=2",
            headers=[
                ("Cookie", "a=1; b=2"),
                ("X-A", "1"),
                ("Origin", "https://example.org"),
                ("x-a", "2"),
                ("Sec-WebSocket-Protocol", "a"),
                ("Sec-WebSocket-Protocol", "b"),
                ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
            ],
        )
        request = take(seen)
        assert (request.method, request.target) == ("GET", "/chat?room=1&room=2")
        assert (request.path, request.query, request.params) == (
            "/chat",
            "room=1&room=2",
            {"room": ["1", "2"]},
        )
        assert request.headers.get_all("X-A") == ["1", "2"]
        assert dict(request.cookies) == {"a": "1", "b": "2"}
        assert (request.origin, request.host) == ("https://example.org", f"127.0.0.1:{live.port}")
        assert request.subprotocols == ["a", "b"]
        assert request.extensions == [("permessage-deflate", [("client_max_window_bits", None)])]
        assert tuple(request.remote_addr) == client.address
        assert request.local_addr == live.server.local_addr
        assert not request.is_secure


@each_mode
@pytest.mark.parametrize("trusted", [False, True])
def test_request_is_the_clients_where_a_trusted_proxy_speaks_for_it(pool: Any, trusted: bool) -> None:
    seen: queue.Queue[Request] = queue.Queue()
    with serve(pool=pool, trusted_proxies=["127.0.0.0/8"] if trusted else []) as live:
        live.server.on_request = lambda request: seen.put(request)
        client = live.connect(
            headers=[
                ("X-Forwarded-For", "198.51.100.9"),
                ("X-Forwarded-Proto", "https"),
                ("X-Forwarded-Host", "a.example"),
            ]
        )
        request = take(seen)
        assert request.is_secure is trusted
        assert request.host == ("a.example" if trusted else f"127.0.0.1:{live.port}")
        assert request.remote_addr.host == ("198.51.100.9" if trusted else "127.0.0.1")
        assert take(live.opened).remote_addr.host == request.remote_addr.host
        assert client.address[0] == "127.0.0.1"


@each_mode
def test_head_in_pieces_and_frames_right_behind_it_are_the_same_to_a_hook(pool: Any) -> None:
    messages: queue.Queue[Any] = queue.Queue()
    with serve(pool=pool, on_message=lambda conn, message: messages.put((conn.user, message))) as live:
        live.server.on_request = lambda request: Accept(user=request.headers["x-a"])
        client = RawClient(live.port, handshake=False)
        data = raw.request(headers=[("X-A", "1")]) + raw.frame(TEXT, "early") + raw.frame(TEXT, "second")
        client.send_bytewise(data[:-5])
        client.send(data[-5:])
        assert status(client) == 101
        assert [take(messages), take(messages)] == [("1", "early"), ("1", "second")]
        client.close()


@each_mode
def test_invalid_request_is_refused_before_anybody_is_asked(pool: Any) -> None:
    asked: list[Request] = []
    with serve(pool=pool) as live:
        live.server.on_request = lambda request: asked.append(request)
        client = RawClient(live.port, handshake=False)
        client.send(raw.request().replace(b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 12"))
        assert status(client) == 426
        client.close()
        assert not asked


# What goes wrong


@each_mode
@each_kind
def test_exception_of_a_hook_is_logged_reported_and_500(
    pool: Any, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(request: Request) -> None:
        raise ZeroDivisionError("mine")

    with serve(pool=pool) as live:
        live.server.on_request = hook(is_async, broken)
        assert refused(ask(live, "/x?ticket=SECRET")) == (500, BODY_500)
        request, exc = take(live.errors)
        assert isinstance(request, Request) and isinstance(exc, ZeroDivisionError)
        live.server.on_request = None
        ping(live.connect())
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.getMessage().startswith("on_request of <Request GET /x from 127.0.0.1:")
    assert record.exc_info is not None and record.exc_info[0] is ZeroDivisionError
    assert "SECRET" not in caplog.text


@each_mode
@each_kind
@pytest.mark.parametrize(
    "bad",
    [True, "no", lambda: Accept("not-offered"), lambda: Accept(headers={"X-A": "1\r\nX-B: 2"})],
    ids=["True", "str", "subprotocol", "injection"],
)
def test_what_cannot_be_answered_is_500_and_nothing_of_it_is_sent(
    pool: Any, is_async: bool, bad: Any
) -> None:
    with serve(pool=pool) as live:
        live.server.on_request = hook(is_async, lambda request: bad() if callable(bad) else bad)
        client = ask(live)
        assert refused(client) == (500, BODY_500)
        assert client.response is not None
        assert not {"x-a", "x-b", "sec-websocket-protocol"} & client.response.headers.keys()
        assert isinstance(take(live.errors)[1], TypeError | ValueError)


@each_mode
@each_kind
def test_log_does_not_quote_what_a_client_offered_and_is_too_long(
    pool: Any, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serve(pool=pool) as live:
        live.server.on_request = hook(is_async, lambda request: Accept(request.subprotocols[0]))
        longest = "secret" + 249 * "a"
        client = ask(live, headers=[("Sec-WebSocket-Protocol", longest)])
        assert status(client) == 101
        assert take(live.opened).subprotocol == longest
        client = ask(live, headers=[("Sec-WebSocket-Protocol", longest + "a")])
        assert refused(client) == (500, BODY_500)
        assert "at most 255 bytes" in str(take(live.errors)[1])
    assert "at most 255 bytes, not 256" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("body", ["", "pool=(2, 2)", "request_workers=0"])
@each_kind
def test_systemexit_in_a_hook_stops_the_server_and_comes_out_of_run(body: str, is_async: bool) -> None:
    kind = "async " if is_async else ""
    program = f"""
server = unlimitedws.NewServer("127.0.0.1:0", {body})
@server.on_request
{kind}def leave(request):
    raise SystemExit(7)
"""
    epilogue = "server.run(ready=lambda: print(server.local_addr.port, flush=True))\n"
    process = ServerProcess(program, epilogue)
    client = RawClient(process.port, handshake=False)
    client.send(raw.request())
    assert status(client) == 500
    client.close()
    process.finish(7)


# Slow ones


@each_mode
@each_kind
def test_slow_hook_holds_nobody_up(pool: Any, is_async: bool, leave: threading.Event) -> None:
    entered = threading.Semaphore(0)

    def slow(request: Request) -> None:
        if request.path == "/slow":
            entered.release()
            assert leave.wait(TIMEOUT)

    async def slow_async(request: Request) -> None:
        if request.path == "/slow":
            entered.release()
            while not leave.is_set():
                await asyncio.sleep(0.002)

    with serve(pool=pool) as live:
        before = live.connect()
        live.server.on_request = slow_async if is_async else slow
        waiting = [ask(live, "/slow") for _ in range(7)]
        for _ in waiting:
            assert entered.acquire(timeout=TIMEOUT)
        # Who is in is served, and others come in.
        ping(before)
        for _ in range(3):
            ping(live.connect(path="/fast"))
        assert not any(readable(client.sock) for client in waiting)
        leave.set()
        assert [status(client) for client in waiting] == [101] * 7
        for client in waiting:
            ping(client)


@each_mode
@each_kind
def test_hook_past_its_deadline_is_503(pool: Any, is_async: bool, leave: threading.Event) -> None:
    cancelled = threading.Event()

    def slow(request: Request) -> Accept:
        assert leave.wait(TIMEOUT)
        return Accept(user=7)

    async def slow_async(request: Request) -> None:
        try:
            await asyncio.sleep(TIMEOUT)
        finally:
            cancelled.set()

    with serve(pool=pool, request_timeout=0.1) as live:
        live.server.on_request = slow_async if is_async else slow
        begin = time.monotonic()
        code, _ = refused(ask(live))
        assert code == 503
        assert 0.05 < time.monotonic() - begin < 1.0
        if is_async:
            wait(cancelled, "the cancellation")
        leave.set()
        assert live.opened.empty()
        assert live.errors.empty()
        wait_until(lambda: len(live.server._roll) == 0, "nothing is entered")


@each_mode
@each_kind
def test_client_that_leaves_while_it_is_decided_on_leaves_nothing(
    pool: Any, is_async: bool, leave: threading.Event, no_fd_leaks: None
) -> None:
    entered, decided = threading.Event(), threading.Event()

    def slow(request: Request) -> Accept:
        entered.set()
        assert leave.wait(TIMEOUT)
        decided.set()
        return Accept(user=7)

    async def slow_async(request: Request) -> Accept:
        entered.set()
        while not leave.is_set():
            await asyncio.sleep(0.002)
        decided.set()
        return Accept(user=7)

    with serve(pool=pool) as live:
        live.server.on_request = slow_async if is_async else slow
        client = ask(live)
        wait(entered)
        client.reset()
        # A connection whose hook runs on the engine's own thread stays until that is back.
        is_kept = pool is not None and not is_async
        if not is_kept:
            wait_until(lambda: live.server.counters()["descriptors"] == 0, "the engine has noticed")
        leave.set()
        wait(decided)
        live.server.on_request = None
        wait_until(lambda: live.server.counters()["descriptors"] == 0, "it is gone")
        wait_until(lambda: len(live.server._roll) == 0, "nothing is entered")
        assert live.errors.empty()
        assert is_kept or live.opened.empty()
        assert live.opened.qsize() == live.ended.qsize()
        ping(live.connect())


@each_mode
@each_kind
def test_stop_while_a_hook_runs_waits_for_it_and_names_it(
    pool: Any, is_async: bool, leave: threading.Event
) -> None:
    entered, cancelled = threading.Event(), threading.Event()

    def slow(request: Request) -> None:
        entered.set()
        assert leave.wait(TIMEOUT)

    async def slow_async(request: Request) -> None:
        entered.set()
        try:
            await asyncio.sleep(TIMEOUT)
        finally:
            cancelled.set()

    with serve(pool=pool) as live:
        live.server.on_request = slow_async if is_async else slow
        client = ask(live)
        wait(entered)
        if is_async:
            live.server.stop(0.2)
            assert cancelled.is_set()
        else:
            with pytest.raises(TimeoutError, match="unlimitedws-"):
                live.server.stop(0)
            assert live.server.running
            leave.set()
            wait_until(lambda: not live.server.running, "the server has stopped")
        assert live.errors.empty()
        client.close()
        # And begins again.
        live.server.on_request = None
        live.server.start()
        ping(live.connect())


@each_mode
@each_kind
def test_stop_in_a_hook_begins_to_stop_and_returns(pool: Any, is_async: bool) -> None:
    returned = threading.Event()
    with serve(pool=pool) as live:

        def stop(request: Request) -> None:
            live.server.stop()
            returned.set()

        live.server.on_request = hook(is_async, stop)
        ask(live)
        wait(returned)
        wait_until(lambda: not live.server.running, "the server has stopped")


@each_mode
def test_hook_may_be_set_swapped_and_removed_while_the_server_runs(pool: Any) -> None:
    with serve(pool=pool) as live:
        ping(live.connect())
        for code in (403, 404):
            live.server.on_request = lambda request, code=code: Reject(code)
            assert refused(ask(live))[0] == code
        live.server.on_request = None
        ping(live.connect())
        live.server.on_host = lambda host: Reject(421)
        assert refused(ask(live))[0] == 421
        live.server.on_host = None
        ping(live.connect())


@each_mode
def test_hook_removed_while_it_runs_still_decides_on_its_request(pool: Any, leave: threading.Event) -> None:
    entered = threading.Event()

    def slow(request: Request) -> Reject:
        entered.set()
        assert leave.wait(TIMEOUT)
        return Reject(403)

    with serve(pool=pool) as live:
        live.server.on_request = slow
        client = ask(live)
        wait(entered)
        live.server.on_request = None
        ping(live.connect())
        leave.set()
        assert refused(client)[0] == 403


def test_hooks_that_come_and_go_while_many_ask_confuse_nobody() -> None:
    stop = threading.Event()
    with serve(pool=(8, 8)) as live:

        def toggle() -> None:
            while not stop.is_set():
                live.server.on_request = lambda request: Accept(user=1)
                live.server.on_request = None

        toggler = threading.Thread(target=toggle)
        toggler.start()
        try:
            for _ in range(60):
                with RawClient(live.port) as client:
                    client.close_cleanly()
        finally:
            stop.set()
            toggler.join(TIMEOUT)
        assert live.errors.empty()
        wait_until(lambda: len(live.server._roll) == 0, "all have gone")


# The finer hooks


@each_mode
def test_on_host_and_on_header_refuse_what_they_do_not_like(pool: Any) -> None:
    seen: queue.Queue[Any] = queue.Queue()
    with serve(pool=pool) as live:

        @live.server.on_host
        def on_host(host: str) -> Reject | None:
            seen.put(host)
            return Reject(421) if host.startswith("evil") else None

        @live.server.on_header
        async def on_header(name: str, value: str) -> Reject | None:
            seen.put((name, value))
            return Reject(400, "no such thing") if value == "bad" else None

        assert refused(ask(live, host="evil.example"))[0] == 421
        assert take(seen) == "evil.example"
        assert refused(ask(live, headers=[("X-A", "1"), ("X-B", "bad"), ("X-C", "2")])) == (
            400,
            b"no such thing",
        )
        assert [take(seen) for _ in range(3)] == ["127.0.0.1", ("X-A", "1"), ("X-B", "bad")]
        ping(live.connect(headers=[("X-A", "1")]))


def test_hook_of_a_connection_cannot_be_async() -> None:
    async def never_awaited(*args: object) -> None: ...

    with serve() as live:
        for name in ("on_connect", "on_read", "on_message", "on_close", "on_error"):
            with pytest.raises(TypeError, match=f"{name}: .* is async"):
                setattr(live.server, name, never_awaited)
        for name in ("on_request", "on_host", "on_header"):
            setattr(live.server, name, never_awaited)


def test_hooks_of_the_handshake_may_be_methods_of_a_subclass() -> None:
    class Mine(unlimitedws.Server):
        async def on_request(self, request: Request) -> Reject:  # type: ignore[override]
            return Reject(418)

    with Mine("127.0.0.1:0") as server, RawClient(server.local_addr.port, handshake=False) as client:
        client.send(raw.request())
        assert status(client) == 418


# Subprotocols


@each_mode
@pytest.mark.parametrize("asked", [False, True], ids=["engine", "hook"])
def test_first_of_our_subprotocols_that_the_client_offers_is_agreed_on(pool: Any, asked: bool) -> None:
    with serve(pool=pool) as live:
        if asked:
            live.server.on_request = lambda request: None
        assert live.server.subprotocols == []
        for ours, offered, expected in [
            ([], "a, b", None),
            (["b", "a"], "a, b", "b"),
            (["c", "a"], "a, b", "a"),
            (["c"], "a, b", None),
            (["a"], None, None),
        ]:
            live.server.subprotocols = ours
            assert live.server.subprotocols == ours
            headers = [] if offered is None else [("Sec-WebSocket-Protocol", offered)]
            client, conn = live.connect_conn(headers=headers)
            assert client.response is not None
            assert client.response.headers.get("sec-websocket-protocol") == expected
            assert conn.subprotocol == expected


# RFC 6455, section 11.3.4.
@each_mode
@pytest.mark.parametrize("asked", [False, True], ids=["engine", "hook"])
def test_subprotocols_of_several_fields_are_one_list(pool: Any, asked: bool) -> None:
    with serve(pool=pool) as live:
        if asked:
            live.server.on_request = lambda request: None
        live.server.subprotocols = ["b", "a"]
        for fields, expected in [
            (["a", "b"], "b"),
            (["", "a"], "a"),
            ([" ", ",", "c, a"], "a"),
            (["a", ""], "a"),
            (["", "c"], None),
        ]:
            client, conn = live.connect_conn(headers=[("Sec-WebSocket-Protocol", value) for value in fields])
            assert client.response is not None
            assert client.response.headers.get("sec-websocket-protocol") == expected, fields
            assert conn.subprotocol == expected, fields


def test_subprotocols_are_kept_over_a_restart() -> None:
    with serve() as live:
        live.server.subprotocols = ("b", "a")
        live.server.stop()
        live.server.start()
        _, conn = live.connect_conn(headers=[("Sec-WebSocket-Protocol", "a")])
        assert conn.subprotocol == "a"


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("chat", TypeError),
        ([b"chat"], TypeError),
        (["a b"], ValueError),
        (["a", "a"], ValueError),
        (["x" * 256], ValueError),
        ([f"p{i}" for i in range(33)], ValueError),
    ],
)
def test_impossible_subprotocols_are_refused_and_change_nothing(bad: Any, error: type[Exception]) -> None:
    with serve() as live:
        live.server.subprotocols = ["a"]
        with pytest.raises(error, match="subprotocols:"):
            live.server.subprotocols = bad
        assert live.server.subprotocols == ["a"]


# Who is connected


@each_mode
def test_request_is_kept_by_option_and_outlives_the_connection(pool: Any) -> None:
    with serve(pool=pool, keep_request=True) as live:
        client, conn = live.connect_conn(path="/a?b=1", headers=[("X-A", "1")])
        assert (conn.request.path, conn.request.params, conn.request.headers["x-a"]) == (
            "/a",
            {"b": ["1"]},
            "1",
        )
        client.close_cleanly()
        assert take(live.ended).conn is conn
        assert conn.request.path == "/a"


def test_request_is_not_kept_without_the_option() -> None:
    kept: list[weakref.ref[Any]] = []

    class Watched:
        pass

    with serve() as live:

        @live.server.on_request
        def on_request(request: Request) -> Accept:
            mark = Watched()
            kept.append(weakref.ref(mark))
            request.session = mark
            return Accept(user=7)

        _, conn = live.connect_conn()
        assert conn.request is None
        wait_until(lambda: gc.collect() >= 0 and kept[0]() is None, "the request has gone")


@each_mode
def test_disconnect_closes_every_connection_of_a_user(pool: Any, no_fd_leaks: None) -> None:
    with serve(pool=pool) as live:
        live.server.on_request = lambda request: Accept(user=request.path, session=request.query)
        alice = [live.connect(path=f"/alice?{i}") for i in range(3)]
        bob = live.connect(path="/bob?1")
        assert live.server.disconnect(user="/alice", session="1") == 1
        assert alice[1].recv_close() == (3000, "")
        assert live.server.disconnect(user="/alice", code=4001, reason="geh") == 2
        for client in (alice[0], alice[2]):
            assert client.recv_close() == (4001, "geh")
        for client in alice:
            client.send_close(3000)
        ended = [take(live.ended) for _ in alice]
        assert all(one.conn.close_cause is CloseCause.REVOKED for one in ended)
        assert live.server.disconnect(user="/alice") == 0
        ping(bob)
        assert live.server.disconnect(session="1") == 1
        assert bob.recv_close() == (3000, "")
        bob.close()
        wait_until(lambda: len(live.server._roll) == 0, "the roll is empty")


@each_mode
def test_connections_that_have_gone_leave_no_entry_however_they_went(pool: Any) -> None:
    with serve(pool=pool, record_connects=False) as live:
        live.server.on_close = None
        live.server.on_request = lambda request: Accept(user=7, session=request.query)
        for i in range(8):
            client = live.connect(path=f"/?{i}")
            ways: list[Callable[[], Any]] = [
                client.close_cleanly,
                client.reset,
                client.close,
                client.shutdown,
            ]
            ways[i % 4]()
        wait_until(lambda: len(live.server._roll) == 0, "the roll is empty")
        staying = live.connect()
        assert len(live.server._roll) == 2
        staying.close()
        live.server.stop(1)
        assert len(live.server._roll) == 0


@each_mode
def test_server_that_stops_forgets_everybody(pool: Any) -> None:
    with serve(pool=pool) as live:
        live.server.on_request = lambda request: Accept(user=7)
        conns = [live.connect_conn()[1] for _ in range(3)]
        live.server.stop(0)
        assert len(live.server._roll) == 0
        assert live.server.disconnect(user=7) == 0
        assert [conn.user for conn in conns] == [7, 7, 7]
        assert not live.server.identify(conns[0], user=8)


@each_mode
def test_connection_nobody_holds_is_freed_when_it_is_over(pool: Any) -> None:
    class User:
        pass

    users: list[weakref.ref[Any]] = []

    def on_request(request: Request) -> Accept:
        user = User()
        users.append(weakref.ref(user))
        return Accept(user=user)

    with serve(pool=pool, record_connects=False) as live:
        live.server.on_close = None
        live.server.on_request = on_request
        for _ in range(5):
            client = live.connect()
            ping(client)
            assert users[-1]() is not None
            client.close_cleanly()
        # Without the collector: what is over is not part of a cycle. Where there is no GIL an object stays until the
        # thread that made it, one that waits for requests here, or the collector has seen that nobody refers to it.
        gc.disable()
        try:
            wait_until(
                lambda: (HAS_GIL or gc.collect() >= 0) and not any(user() for user in users), "the users have gone"
            )
        finally:
            gc.enable()


@each_mode
def test_identify_changes_who_a_connection_is(pool: Any) -> None:
    with serve(pool=pool) as live:
        client, conn = live.connect_conn()
        assert live.server.identify(conn, user="a", session=1)
        assert (conn.user, conn.session) == ("a", 1)
        assert live.server.identify(conn, user="b")
        assert (conn.user, conn.session) == ("b", None)
        assert live.server.disconnect(user="a") == live.server.disconnect(session=1) == 0
        assert live.server.disconnect(user="b") == 1
        assert client.recv_close().code == 3000
        assert not live.server.identify(conn, user="c")
        client.send_close(3000)
        assert live.ended_of(client).conn.user == "b"
        wait_until(lambda: len(live.server._roll) == 0, "the roll is empty")


@each_mode
def test_stranger_that_is_not_identified_in_time_is_closed_with_3000(pool: Any) -> None:
    with serve(pool=pool, auth_timeout=0.2) as live:
        live.server.on_request = lambda request: Accept(authenticated=False)
        in_time, conn = live.connect_conn()
        late = live.connect()
        assert live.server.identify(conn, user="a")
        assert late.recv_close().code == 3000
        late.send_close(3000)
        assert live.ended_of(late).conn.close_cause is CloseCause.UNAUTHENTICATED
        ping(in_time)


@each_mode
def test_connection_is_closed_when_its_credential_expires_unless_it_is_renewed(pool: Any) -> None:
    with serve(pool=pool) as live:
        live.server.on_request = lambda request: Accept(user=7, expires=time.time() + 0.3)
        renewed, first = live.connect_conn()
        graced, second = live.connect_conn()
        silent = live.connect()
        assert live.server.identify(first, user=7)
        assert live.server.identify(second, user=7, expires=time.time(), grace=0.6)
        begin = time.monotonic()
        assert silent.recv_close().code == 3000
        assert not readable(graced.sock)
        assert graced.recv_close().code == 3000
        assert time.monotonic() - begin > 0.15
        ping(renewed)
        silent.send_close(3000)
        assert live.ended_of(silent).conn.close_cause is CloseCause.EXPIRED


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s, c: s.disconnect(), TypeError, "Neither user nor session"),
        (lambda s, c: s.disconnect(user=[]), TypeError, "user: must be hashable"),
        (lambda s, c: s.disconnect(user=1, code=1006), ValueError, "close code 1006"),
        (lambda s, c: s.disconnect(user=1, reason="x" * 124), ValueError, "at most 123"),
        (lambda s, c: s.identify(c, user=None), ValueError, "user is None"),
        (lambda s, c: s.identify(c, user=[]), TypeError, "user: must be hashable"),
        (lambda s, c: s.identify(c, user=1, session={}), TypeError, "session: must be hashable"),
        (lambda s, c: s.identify(c, user=1, expires="x"), TypeError, "expires"),
        (lambda s, c: s.identify(c, user=1, expires=0, grace=-1), ValueError, "grace"),
        (lambda s, c: setattr(s, "auth", print), TypeError, "auth: must have a method check"),
        (lambda s, c: setattr(s, "auth", BearerAuth), TypeError, "auth: must be an authenticator, not the class"),
    ],
)
def test_impossible_request_of_the_application_is_refused_and_changes_nothing(
    call: Callable[[Any, Any], Any], error: type[Exception], message: str
) -> None:
    with serve() as live:
        client, conn = live.connect_conn()
        with pytest.raises(error, match=message):
            call(live.server, conn)
        assert conn.user is None
        ping(client)


# Authentication


class Tokens:
    """An authenticator of a few lines, of either kind."""

    def __init__(self, is_async: bool) -> None:
        if is_async:
            self.check = self._check_async
        else:
            self.check = self._check

    def _check(self, request: Request) -> Any:
        token = request.headers.get("x-token")
        if token is None:
            return None
        return Accept(user=token) if token != "bad" else Reject(401)

    async def _check_async(self, request: Request) -> Any:
        await asyncio.sleep(0)
        return self._check(request)


@each_mode
@each_kind
def test_authenticator_is_asked_before_on_request(pool: Any, is_async: bool) -> None:
    seen: queue.Queue[Any] = queue.Queue()
    with serve(pool=pool) as live:
        live.server.auth = auth = Tokens(is_async)
        assert live.server.auth is auth
        _, conn = live.connect_conn(headers=[("X-Token", "alice")])
        assert conn.user == "alice"
        assert refused(ask(live, headers=[("X-Token", "bad")]))[0] == 401

        @live.server.on_request
        def on_request(request: Request) -> Reject | None:
            seen.put(request.user)
            return Reject(403) if request.user is None else None

        _, conn = live.connect_conn(headers=[("X-Token", "bob")])
        assert (conn.user, take(seen)) == ("bob", "bob")
        assert refused(ask(live))[0] == 403
        assert take(seen) is None
        assert refused(ask(live, headers=[("X-Token", "bad")]))[0] == 401
        assert seen.empty()
        live.server.auth = None
        live.server.on_request = None
        ping(live.connect())


class Introductions:
    """Takes the first message for a name."""

    timeout = 0.3

    def __init__(self, is_async: bool) -> None:
        self.is_async = is_async

    @property
    def first_message(self) -> Introductions:
        return self

    def check(self, request: Request) -> Accept:
        return Accept(authenticated=False)

    def check_message(self, conn: Any, message: str | bytes) -> Any:
        accept = Accept(user=message) if message != "mallory" else None
        if not self.is_async:
            return accept

        async def verify() -> Any:
            await asyncio.sleep(0)
            return accept

        return verify()


@each_mode
@each_kind
@pytest.mark.parametrize("name", ["on_message", "on_read", "on_fragment", "streaming", None])
def test_first_message_says_who_it_is_before_there_is_any_callback(
    pool: Any, is_async: bool, name: str | None
) -> None:
    seen: queue.Queue[Any] = queue.Queue()
    with serve(pool=pool, streaming=name == "streaming") as live:
        live.server.auth = Introductions(is_async)
        if name == "on_fragment":
            live.server.on_fragment = lambda conn, fragment: seen.put((conn.user, fragment.data.decode()))
        elif name == "on_message":
            live.server.on_message = lambda conn, message: seen.put((conn.user, message))
        elif name in ("on_read", "streaming"):
            live.server.on_read = lambda conn: seen.put(
                (conn.user, unlimitedws.wsutil.read_client_data(conn)[0].decode())
            )
        client = live.connect()
        ping(client)
        assert live.opened.empty()
        # The second without waiting for anything.
        client.send(raw.frame(TEXT, "alice") + raw.frame(TEXT, "hello"))
        assert take(live.opened).user == "alice"
        if name is not None:
            assert take(seen) == ("alice", "hello")
            client.send_frame(TEXT, "again")
            assert take(seen) == ("alice", "again")
        assert live.server.disconnect(user="alice") == 1
        client.recv_close()
        client.send_close(3000)
        assert live.ended_of(client).conn.user == "alice"


@each_mode
@each_kind
def test_stranger_that_does_not_become_somebody_is_never_seen(pool: Any, is_async: bool) -> None:
    with serve(pool=pool, on_message=lambda conn, message: None) as live:
        live.server.auth = Introductions(is_async)
        wrong, silent, gone = live.connect(), live.connect(), live.connect()
        gone.reset()
        wrong.send(raw.frame(TEXT, "mallory") + raw.frame(TEXT, "alice"))
        for client in (wrong, silent):
            assert client.recv_close().code == 3000
            client.send_close(3000)
            expect_eof(client)
        wait_until(lambda: live.server.counters()["closed"] == 3, "all are over")
        counters = live.server.counters()
        assert counters["closed_by_unauthenticated"] == 2
        assert (live.opened.empty(), live.ended.empty(), live.errors.empty()) == (True, True, True)
        assert len(live.server._roll) == 0


@each_mode
def test_error_in_checking_the_first_message_closes_with_1011_unseen(pool: Any) -> None:
    with serve(pool=pool) as live:
        auth = Introductions(False)
        auth.check_message = lambda conn, message: 1 / 0  # type: ignore[method-assign]
        live.server.auth = auth
        client = live.connect()
        client.send_frame(TEXT, "alice")
        assert client.recv_close().code == 1011
        assert isinstance(take(live.errors)[1], ZeroDivisionError)
        assert live.opened.empty()


# Nothing that nobody asked for


def test_python_is_not_asked_where_no_hook_is_set() -> None:
    with ServerProcess('server = unlimitedws.NewServer("127.0.0.1:0")\n') as process:
        assert process.process.stdin is not None
        # Its first turn of polling has begun, and that was the last thing for which it needs the interpreter.
        before = process.connect()
        ping(before)
        # Computes in C for a second or more, without letting go of the interpreter's lock.
        process.process.stdin.write(b"(7 ** 2000000).bit_length() > 0\n")
        process.process.stdin.flush()
        count = 0
        while not process.has_line():
            with process.connect() as client:
                ping(client)
                count += 1
        assert count > 20
        process.read_line()
        before.close()
