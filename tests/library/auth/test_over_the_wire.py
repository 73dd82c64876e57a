"""Authentication as a client meets it: a real server, real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import raw
from live import STOP_TIMEOUT, each_mode, expect_eof, take, wait, wait_until
from raw import TEXT, Close, RawClient

from unlimitedws import Accept, CloseCause, Server, coroutines
from unlimitedws.auth import (
    AnyOf,
    Authenticator,
    BearerAuth,
    CookieAuth,
    FirstMessageAuth,
    Identity,
    MemoryTickets,
    Origins,
    SubprotocolAuth,
    TicketAuth,
    renew,
)

TOKEN = "a-token-of-the-tests"
BEARER = ("Authorization", f"Bearer {TOKEN}")


def verify(token: str) -> Identity | None:
    return Identity("alice", "s1") if token == TOKEN else None


class Site:
    """A server that echoes, and what its callbacks have seen."""

    def __init__(self, auth: Any, addr: str = "127.0.0.1:0", **options: Any) -> None:
        self.server = Server(addr, **options)
        self.server.auth = auth
        self.opened: queue.Queue[Any] = queue.Queue()
        self.closed: queue.Queue[tuple[Any, CloseCause | None, int | None]] = queue.Queue()
        self.messages: queue.Queue[str | bytes] = queue.Queue()
        self.server.on_connect = self.opened.put
        self.server.on_close = lambda conn: self.closed.put((conn.user, conn.close_cause, conn.close_code))
        self.server.on_message = self.echo

    def echo(self, conn: Any, message: str | bytes) -> None:
        self.messages.put(message)
        conn.send(message)

    def client(self, *fields: tuple[str, str], path: str = "/", **options: Any) -> RawClient:
        return RawClient(self.server.local_addr.port, path=path, headers=fields, **options)

    def answer(self, *fields: tuple[str, str], path: str = "/") -> raw.Response:
        """Return the answer to a request, whatever it is."""
        with self.client(handshake=False) as client:
            host, port = client.sock.getpeername()
            client.send(raw.request(path, host=f"{host}:{port}", headers=fields))
            response = client.recv_response()
            # What has gone wrong in the server is said by others.
            if 300 <= response.status < 500:
                assert client.recv_until_eof().decode() == f"{response.reason}\n"
            return response


Serve = Callable[..., Site]


@pytest.fixture
def serve(no_fd_leaks: None) -> Iterator[Serve]:
    """Run sites: ``serve(authenticator)``."""
    sites: list[Site] = []

    def start(auth: Any, **options: Any) -> Site:
        sites.append(Site(auth, **options))
        sites[-1].server.start()
        return sites[-1]

    yield start
    for site in sites:
        site.server.stop(STOP_TIMEOUT)


def test_known_client_is_let_in_as_somebody(serve: Serve) -> None:
    site = serve(BearerAuth(verify))
    with site.client(BEARER) as client:
        conn = take(site.opened)
        assert (conn.user, conn.session) == ("alice", "s1")
        client.send_frame(TEXT, "hello")
        assert client.recv_message() == "hello"
        client.close_cleanly()
    assert take(site.closed) == ("alice", CloseCause.PEER, 1000)


def test_unknown_client_gets_a_challenge_and_no_callback(serve: Serve) -> None:
    site = serve(BearerAuth(verify, realm="the tests"))
    response = site.answer()
    assert (response.status, response.headers["www-authenticate"]) == (401, 'Bearer realm="the tests"')
    assert site.answer(("Authorization", "Bearer wrong")).status == 401
    assert site.answer(BEARER, BEARER).status == 400
    assert site.answer(BEARER, ("Origin", "https://evil.com")).status == 403
    assert site.opened.empty() and site.closed.empty()


def test_cookie_needs_an_origin_that_is_the_servers_or_listed(serve: Serve) -> None:
    site = serve(CookieAuth("sid", verify, origins=["https://app.example.com"]))
    own = f"http://127.0.0.1:{site.server.local_addr.port}"
    cookie = ("Cookie", f"sid={TOKEN}")
    for origin in (None, "null", "https://evil.com", "http://127.0.0.1:1", own + "/", own.upper() + "0"):
        fields = [cookie] if origin is None else [cookie, ("Origin", origin)]
        assert site.answer(*fields).status == 403, origin
    for origin in (own, own.upper(), "https://app.example.com"):
        with site.client(cookie, ("Origin", origin)) as client:
            assert take(site.opened).user == "alice"
            client.close_cleanly()
    assert site.answer(cookie, ("Cookie", "sid=other"), ("Origin", own)).status == 403


def test_origins_can_be_the_only_guard(serve: Serve) -> None:
    site = serve(Origins(["https://app.example.com"]))
    assert site.answer(("Origin", "https://evil.com")).status == 403
    with site.client(("Origin", "https://app.example.com")) as client:
        assert take(site.opened).user is None
        client.close_cleanly()


def test_of_many_who_come_with_one_ticket_one_is_let_in(serve: Serve) -> None:
    store = MemoryTickets()
    site = serve(TicketAuth(store), pool=(8, 8))
    rounds, clients = 10, 12
    for _ in range(rounds):
        path = f"/?ticket={store.issue('alice')}"
        barrier = threading.Barrier(clients)
        statuses: queue.Queue[int] = queue.Queue()

        def come(
            path: str = path,
            barrier: threading.Barrier = barrier,
            statuses: queue.Queue[int] = statuses,
        ) -> None:
            with site.client(handshake=False) as client:
                barrier.wait(raw.TIMEOUT)
                client.send(raw.request(path))
                statuses.put(client.recv_response().status)

        threads = [threading.Thread(target=come) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses.queue) == [101] + [403] * (clients - 1)


def test_ticket_is_in_no_log_of_ours(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = MemoryTickets()
    site = serve(TicketAuth(store))
    shown: list[str] = []

    @site.server.on_request
    def ask(request: Any) -> None:
        shown.append(repr(request))
        if "fail" in request.path:
            raise LookupError("an error of the application's")

    tickets = [store.issue("alice") for _ in range(3)]
    with site.client(path=f"/chat?ticket={tickets[0]}") as client:
        conn = take(site.opened)
        shown.append(repr(conn))
        assert conn.query == f"ticket={tickets[0]}"
        client.close_cleanly()
    take(site.closed)
    assert site.answer(path=f"/chat?ticket={tickets[0]}").status == 403
    assert site.answer(("Origin", "https://evil.com"), path=f"/chat?ticket={tickets[1]}").status == 403
    assert site.answer(path=f"/fail?ticket={tickets[2]}").status == 500
    # The answer comes before the log: only now is all of that written.
    site.server.stop(STOP_TIMEOUT)
    text = caplog.text + "".join(shown)
    assert "an error of the application's" in text and "/chat" in text
    for ticket in tickets:
        assert ticket not in text


def test_token_of_a_subprotocol_is_not_echoed(serve: Serve) -> None:
    site = serve(SubprotocolAuth(verify, subprotocols=["chat"]))
    response = site.answer(("Sec-WebSocket-Protocol", f"bearer.{TOKEN}, chat"))
    assert (response.status, response.headers["sec-websocket-protocol"]) == (101, "chat")
    assert take(site.opened).subprotocol == "chat"
    refused = site.answer(("Sec-WebSocket-Protocol", "bearer.wrong, chat"))
    assert refused.status == 403
    assert "sec-websocket-protocol" not in refused.headers
    assert site.answer(("Sec-WebSocket-Protocol", f"bearer.{TOKEN}")).status == 400
    left_to_the_server = serve(SubprotocolAuth(verify))
    left_to_the_server.server.subprotocols = ["mqtt", "chat"]
    response = left_to_the_server.answer(("Sec-WebSocket-Protocol", f"bearer.{TOKEN}, chat"))
    assert response.headers["sec-websocket-protocol"] == "chat"
    # A hook that takes what it gets first does not get the token.
    left_to_the_server.server.on_request = lambda request: Accept(subprotocol=request.subprotocols[0])
    response = left_to_the_server.answer(("Sec-WebSocket-Protocol", f"bearer.{TOKEN}, mine, chat"))
    assert response.headers["sec-websocket-protocol"] == "mine"


def test_verifier_that_raises_or_says_true_is_an_error_of_the_servers(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def raising(token: str) -> Identity | None:
        raise LookupError("no database")

    def nodding(token: str) -> Any:
        return True

    async def anodding(token: str) -> Any:
        return True

    for one in (raising, nodding, anodding):
        site = serve(BearerAuth(one))
        assert site.answer(BEARER).status == 500
        site.server.stop(STOP_TIMEOUT)
        assert site.opened.empty()
    assert "no database" in caplog.text and "must return an Identity or None" in caplog.text
    assert TOKEN not in caplog.text


def test_async_verifier_holds_nobody_up(serve: Serve) -> None:
    started, go_on = threading.Event(), threading.Event()

    async def slow(token: str) -> Identity | None:
        if token != "slow":
            return verify(token)
        started.set()
        while not go_on.is_set():
            await asyncio.sleep(0.002)
        return Identity("bob")

    site = serve(AnyOf(CookieAuth("sid", slow), BearerAuth(slow)))
    with site.client(handshake=False) as waiting:
        waiting.send(raw.request(headers=[("Authorization", "Bearer slow")]))
        wait(started)
        with site.client(BEARER) as client:
            assert take(site.opened).user == "alice"
            client.close_cleanly()
        go_on.set()
        assert waiting.recv_response().status == 101
        assert take(site.opened).user == "bob"


# --- the first message ---


@each_mode
def test_first_message_says_who_it_is_and_is_not_delivered(serve: Serve, pool: Any) -> None:
    site = serve(FirstMessageAuth(verify), pool=pool)
    with site.client() as client:
        # Without waiting for anything: what comes behind the credential is the application's.
        client.send(raw.frame(TEXT, TOKEN) + raw.frame(TEXT, "one") + raw.frame(TEXT, "two"))
        conn = take(site.opened)
        assert (conn.user, conn.session) == ("alice", "s1")
        assert [client.recv_message(), client.recv_message()] == ["one", "two"]
        client.close_cleanly()
    assert take(site.closed) == ("alice", CloseCause.PEER, 1000)
    assert list(site.messages.queue) == ["one", "two"]


@each_mode
def test_async_verifier_of_a_first_message_keeps_the_order(serve: Serve, pool: Any) -> None:
    async def slow(token: str) -> Identity | None:
        await asyncio.sleep(0.05)
        return verify(token)

    site = serve(FirstMessageAuth(slow), pool=pool)
    with site.client() as client:
        client.send(raw.frame(TEXT, TOKEN) + raw.frame(TEXT, "one") + raw.frame(TEXT, "two"))
        assert [client.recv_message(), client.recv_message()] == ["one", "two"]
        client.close_cleanly()


@each_mode
@pytest.mark.parametrize("end", ["close", "fin"])
def test_end_right_behind_a_first_message_waits_for_its_async_verifier(serve: Serve, pool: Any, end: str) -> None:
    go_on = threading.Event()

    async def slow(token: str) -> Identity | None:
        while not go_on.is_set():
            await asyncio.sleep(0.002)
        return verify(token)

    site = serve(FirstMessageAuth(slow), pool=pool)
    with site.client() as client:
        behind = raw.frame(TEXT, "hello") + (raw.close_frame(1000) if end == "close" else b"")
        client.send(raw.frame(TEXT, TOKEN) + behind)
        if end == "fin":
            client.sock.shutdown(socket.SHUT_WR)
        # Somebody else comes, whose message is looked at behind all of that, and is refused by the same verifier.
        with site.client() as other:
            other.send(raw.frame(raw.BINARY, "x"))
            assert other.recv_close() == Close(3000, "")
        assert site.opened.empty() and site.closed.empty()
        go_on.set()
        assert take(site.opened).user == "alice"
        assert take(site.messages) == "hello"
        assert client.recv_message() == "hello"
        if end == "close":
            assert client.recv_close() == Close(1000, "")
        expect_eof(client)
    assert take(site.closed)[:2] == ("alice", CloseCause.PEER if end == "close" else CloseCause.LOST)


@each_mode
@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_client_that_is_gone_has_left_behind_waits_for_the_verifier(
    serve: Serve, pool: Any, is_async: bool, end: str
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    async def slow(token: str) -> Identity | None:
        entered.set()
        while not go_on.is_set():
            await asyncio.sleep(0.002)
        return verify(token)

    def blocking(token: str) -> Identity | None:
        entered.set()
        wait(go_on)
        return verify(token)

    site = serve(FirstMessageAuth(slow if is_async else blocking, timeout=100), pool=pool, close_timeout=0.1)
    site.server.on_message = lambda conn, message: site.messages.put((conn.user, message))
    with site.client() as client:
        sent = raw.frame(TEXT, TOKEN) + raw.frame(TEXT, "one") + raw.frame(TEXT, "two")
        client.send(sent + (raw.close_frame(1000) if end == "close" else b""))
        wait(entered)
        if end == "close":
            # Whoever closes is not kept waiting for the verifier.
            assert client.recv_close() == Close(1000, "")
        else:
            client.reset()
        if end == "close" or not is_async:
            # Where it waits without a thread it is not read on, and what ends it is found behind.
            wait_until(lambda: site.server.connections == 0, "it is over")
        assert site.opened.empty() and site.messages.empty() and site.closed.empty()
        go_on.set()
        assert take(site.opened).user == "alice"
        assert [take(site.messages), take(site.messages)] == [("alice", "one"), ("alice", "two")]
        assert take(site.closed)[:2] == ("alice", CloseCause.PEER if end == "close" else CloseCause.LOST)


@each_mode
@pytest.mark.parametrize("where", ["TCP", "Unix"])
def test_what_comes_while_the_verifier_is_awaited_survives_a_hang_up(
    serve: Serve, pool: Any, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coroutines, "_LOOK_INTERVAL", 0.005)
    entered, go_on, cancelled = threading.Event(), threading.Event(), threading.Event()

    async def slow(token: str) -> Identity | None:
        entered.set()
        try:
            while not go_on.is_set():
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return verify(token)

    path = tmp_path / "socket"
    addr = "127.0.0.1:0" if where == "TCP" else f"unix:{path}"
    site = serve(FirstMessageAuth(slow, timeout=100), addr=addr, pool=pool)
    site.server.on_message = lambda conn, message: site.messages.put(message)
    sock = socket.socket(socket.AF_INET if where == "TCP" else socket.AF_UNIX)
    with sock:
        sock.settimeout(raw.TIMEOUT)
        sock.connect(("127.0.0.1", site.server.local_addr.port) if where == "TCP" else str(path))
        if where == "TCP":
            # Else the order waits here for the token to be acknowledged, and the reset takes it back.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(raw.request())
        assert sock.recv(65536).startswith(b"HTTP/1.1 101 ")
        sock.sendall(raw.frame(TEXT, TOKEN))
        wait(entered)
        # It is not read: this stays with the kernel, and with the hang-up behind it nobody polls the connection.
        sock.sendall(raw.frame(TEXT, "an order") + raw.close_frame(1000))
        if where == "TCP":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Time to be looked at some dozens of times.
    assert not cancelled.wait(0.3)
    go_on.set()
    assert take(site.opened).user == "alice"
    assert take(site.messages) == "an order"
    assert take(site.closed)[:2] == ("alice", CloseCause.PEER)


@each_mode
def test_who_has_closed_is_waited_for_while_its_callback_has_what_it_left(serve: Serve, pool: Any) -> None:
    awaited: list[bool] = []

    class Asking(FirstMessageAuth):
        def check_message(self, conn: Any, message: str | bytes) -> Any:
            awaited.append(conn._is_awaited())
            return super().check_message(conn, message)

    site = serve(Asking(verify), pool=pool)
    with site.client() as client:
        # All of it is with the callback, and none of it lines up behind it.
        client.send(raw.frame(TEXT, TOKEN) + raw.frame(TEXT, "an order") + raw.close_frame(1000))
        assert take(site.messages) == "an order"
    assert awaited == [True]


@pytest.mark.parametrize("how", ["silent", "verified too late", "awaited too late"])
def test_what_on_request_allowed_ends_strangers_too(serve: Serve, how: str) -> None:
    until = 0.0

    def late(token: str) -> Identity | None:
        while time.time() <= until:
            time.sleep(0.002)
        return verify(token)

    async def awaited(token: str) -> Identity | None:
        while time.time() <= until:
            await asyncio.sleep(0.002)
        return verify(token)

    def allow(request: Any) -> Accept:
        nonlocal until
        until = time.time() + 0.2
        return Accept(expires=until, authenticated=False)

    site = serve(FirstMessageAuth(awaited if how.startswith("awaited") else late, timeout=3600))
    site.server.on_request = allow
    with site.client() as client:
        if how != "silent":
            client.send(raw.frame(TEXT, TOKEN) + raw.frame(TEXT, "an order"))
        assert client.recv_close().code == 3000
    assert site.opened.empty() and site.messages.empty() and site.closed.empty()


@each_mode
@pytest.mark.parametrize("end", ["close", "reset"])
def test_verifier_of_who_is_gone_and_has_left_nothing_is_cancelled(serve: Serve, pool: Any, end: str) -> None:
    entered, cancelled = threading.Event(), threading.Event()

    async def never(token: str) -> Identity | None:
        entered.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()
        return None

    site = serve(FirstMessageAuth(never, timeout=3600), pool=pool, close_timeout=0.1)
    with site.client() as client:
        client.send(raw.frame(TEXT, TOKEN) + (raw.close_frame(1000) if end == "close" else b""))
        wait(entered)
        if end == "reset":
            client.reset()
        wait(cancelled)
    wait_until(lambda: site.server.counters()["descriptors"] == 0, "its slot is free")
    assert site.opened.empty() and site.closed.empty()


@each_mode
@pytest.mark.parametrize("is_async", [False, True])
def test_first_message_cannot_widen_what_the_handshake_allows(serve: Serve, pool: Any, is_async: bool) -> None:
    async def slow(token: str) -> Identity | None:
        await asyncio.sleep(0.01)
        return Identity("alice", expires=time.time() + 3600)

    def quick(token: str) -> Identity | None:
        return Identity("alice", expires=time.time() + 3600)

    site = serve(FirstMessageAuth(slow if is_async else quick), pool=pool)
    site.server.on_request = lambda request: Accept(session="of the request", expires=time.time() + 1)
    with site.client() as client:
        client.send(raw.frame(TEXT, TOKEN) + raw.frame(TEXT, "one"))
        conn = take(site.opened)
        assert (conn.user, conn.session) == ("alice", "of the request")
        assert client.recv_message() == "one"
        assert client.recv_close() == Close(3000, "credential expired")
        client.send_close(3000)
        expect_eof(client)
    assert take(site.closed) == ("alice", CloseCause.EXPIRED, 3000)
    site.server.on_request = lambda request: Accept(session="of the request")
    with site.client() as client:
        client.send_frame(TEXT, TOKEN)
        take(site.opened)
        assert site.server.disconnect(session="of the request") == 1
        assert client.recv_close().code == 3000


@each_mode
def test_drain_does_not_wait_for_the_verifier_of_a_first_message(serve: Serve, pool: Any) -> None:
    entered = threading.Event()

    async def never(token: str) -> Identity | None:
        entered.set()
        await asyncio.sleep(3600)
        return None

    site = serve(FirstMessageAuth(never, timeout=3600), pool=pool, close_timeout=5)
    with site.client() as client:
        client.send_frame(TEXT, TOKEN)
        wait(entered)
        site.server.drain(0.1, wait=False)
        # Interrupted is not refused: it is told to come again, as everybody is.
        assert client.recv_close().code == 1012
        client.send_close(1012)
        wait_until(lambda: not site.server.running, "it has ended")
    assert site.opened.empty() and site.closed.empty()


@each_mode
def test_strangers_whose_verifiers_are_awaited_hold_up_no_callback(serve: Serve, pool: Any) -> None:
    go_on = threading.Event()
    begun = threading.Semaphore(0)

    async def slow(token: str) -> Identity | None:
        if token == TOKEN:
            return verify(token)
        begun.release()
        while not go_on.is_set():
            await asyncio.sleep(0.002)
        return None

    site = serve(FirstMessageAuth(slow), pool=pool)
    with contextlib.ExitStack() as opened:
        strangers = [opened.enter_context(site.client()) for _ in range(8)]
        for stranger in strangers:
            stranger.send(raw.frame(TEXT, "wrong"))
        for _ in strangers:
            assert begun.acquire(timeout=raw.TIMEOUT)
        with site.client() as client:
            client.send(raw.frame(TEXT, TOKEN) + raw.frame(TEXT, "one"))
            assert client.recv_message() == "one"
            client.close_cleanly()
        # Two of them leave, in two ways, before it is known who they are.
        strangers[0].reset()
        strangers[1].sock.close()
        go_on.set()
        for stranger in strangers[2:]:
            assert stranger.recv_close() == Close(3000, "")
            stranger.send_close(3000)
            expect_eof(stranger)
    assert take(site.opened).user == "alice"
    assert take(site.closed)[0] == "alice"
    site.server.stop(STOP_TIMEOUT)
    assert site.opened.empty() and site.closed.empty()


@each_mode
def test_server_that_stops_does_not_wait_for_the_verifier_of_a_first_message(serve: Serve, pool: Any) -> None:
    begun = threading.Event()

    async def never(token: str) -> Identity | None:
        begun.set()
        await asyncio.sleep(3600)
        return None

    site = serve(FirstMessageAuth(never, timeout=3600), pool=pool)
    with site.client() as client:
        client.send(raw.frame(TEXT, "who knows"))
        wait(begun)
        stopping = threading.Thread(target=site.server.stop)
        stopping.start()
        assert client.recv_close() == Close(1001, "")
        client.send_close(1001)
        expect_eof(client)
        stopping.join(raw.TIMEOUT)
        assert not stopping.is_alive()
    assert site.opened.empty() and site.closed.empty()


@pytest.mark.parametrize(
    "first",
    [
        raw.frame(TEXT, "wrong"),
        raw.frame(raw.BINARY, TOKEN),
        raw.frame(TEXT, ""),
        raw.frame(TEXT, "x" * 8193),
        raw.frame(TEXT, "wrong") + raw.frame(TEXT, TOKEN),
        raw.frame(TEXT, "wrong") * 100,
    ],
)
def test_bad_first_message_closes_with_3000_and_reaches_no_callback(serve: Serve, first: bytes) -> None:
    site = serve(FirstMessageAuth(verify))
    with site.client() as client:
        client.send(first)
        assert client.recv_close() == Close(3000, "")
        client.send_close(3000)
        expect_eof(client)
    # Whoever comes next shows that nothing was under way behind that.
    with site.client() as client:
        client.send(raw.frame(TEXT, TOKEN))
        assert take(site.opened).user == "alice"
        client.close_cleanly()
    assert take(site.closed)[0] == "alice"
    assert site.opened.empty() and site.closed.empty() and site.messages.empty()


@each_mode
def test_close_right_behind_a_first_message_and_more_loses_nothing(serve: Serve, pool: Any) -> None:
    site = serve(FirstMessageAuth(verify), pool=pool)
    with site.client() as client:
        client.send(raw.frame(TEXT, TOKEN) + raw.frame(TEXT, "hello") + raw.close_frame(1000))
        assert take(site.opened).user == "alice"
        assert take(site.messages) == "hello"
        assert client.recv_message() == "hello"
        assert client.recv_close() == Close(1000, "")
        expect_eof(client)
    assert take(site.closed) == ("alice", CloseCause.PEER, 1000)


def test_bad_first_message_and_a_close_behind_it_reach_no_callback(serve: Serve) -> None:
    site = serve(FirstMessageAuth(verify))
    with site.client() as client:
        client.send(raw.frame(TEXT, "wrong") + raw.frame(TEXT, TOKEN) + raw.close_frame(1000))
        client.recv_close()
        expect_eof(client)
    site.server.stop(STOP_TIMEOUT)
    assert site.opened.empty() and site.closed.empty() and site.messages.empty()


def test_who_is_disconnected_while_its_first_message_is_verified_stays_out(serve: Serve) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(token: str) -> Identity | None:
        entered.set()
        wait(leave)
        return verify(token)

    site = serve(FirstMessageAuth(slow), pool=(4, 4), request_timeout=0.05)
    with site.client() as client:
        client.send_frame(TEXT, TOKEN)
        wait(entered)
        site.server.disconnect(user="alice")
        time.sleep(0.1)  # longer than a request is decided on
        site.server.disconnect(user="bob")
        leave.set()
        assert client.recv_close() == Close(3000, "")
        client.send_close(3000)
        expect_eof(client)
    assert site.opened.empty() and site.closed.empty()


@each_mode
def test_stop_does_not_wait_for_the_verifier_of_a_first_message(serve: Serve, pool: Any) -> None:
    entered = threading.Event()

    async def forever(token: str) -> None:
        entered.set()
        await asyncio.sleep(1000)

    site = serve(FirstMessageAuth(forever, timeout=100), pool=pool)
    with site.client() as client:
        client.send_frame(TEXT, TOKEN)
        wait(entered)
        site.server.stop(0.2)
        assert not site.server.running
    assert site.opened.empty() and site.closed.empty()


@pytest.mark.parametrize("message", ["x" * 401, "\N{grinning face}" * 101])
def test_first_message_of_a_size_that_no_credential_has_closes_with_1009(serve: Serve, message: str) -> None:
    site = serve(FirstMessageAuth(verify, max_chars=100))
    with site.client() as client:
        client.send_frame(TEXT, message)
        assert client.recv_close().code == 1009
        client.send_close(1009)
        expect_eof(client)
    assert site.opened.empty() and site.closed.empty()


def test_no_first_message_in_time_closes_with_3000(serve: Serve) -> None:
    site = serve(FirstMessageAuth(verify, timeout=0.2))
    began = time.monotonic()
    with site.client() as client:
        # Being alive is not being somebody.
        client.send_frame(raw.PING, b"x")
        assert client.recv_frame().opcode == raw.PONG
        assert client.recv_close().code == 3000
        assert 0.15 < time.monotonic() - began < 5
        client.send_close(3000)
        expect_eof(client)
    assert site.opened.empty() and site.closed.empty()


def test_first_message_is_not_asked_of_whom_another_credential_has_named(serve: Serve) -> None:
    site = serve(AnyOf(BearerAuth(verify), FirstMessageAuth(verify, timeout=0.2)))
    with site.client(BEARER) as client:
        assert take(site.opened).user == "alice"
        client.send_frame(TEXT, "hello")
        assert client.recv_message() == "hello"
        client.close_cleanly()
    with site.client() as client:
        client.send_frame(TEXT, TOKEN)
        assert take(site.opened).user == "alice"
        client.close_cleanly()


def test_page_of_another_origin_does_not_get_to_send_a_first_message(serve: Serve) -> None:
    assert serve(FirstMessageAuth(verify)).answer(("Origin", "https://evil.com")).status == 403


# --- how long ---


def expiring(after: float) -> Callable[[str], Identity | None]:
    return lambda token: Identity("alice", "s1", time.time() + after) if token == TOKEN else None


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (lambda verify: BearerAuth(verify), 0.3),
        (lambda verify: BearerAuth(verify, grace=0.3), 0.6),
        (lambda verify: FirstMessageAuth(verify), 0.3),
    ],
)
def test_silent_connection_ends_with_its_credential(
    serve: Serve, make: Callable[[Any], Authenticator], least: float
) -> None:
    auth = make(expiring(0.3))
    site = serve(auth)
    began = time.monotonic()
    with site.client(BEARER) as client:
        if auth.first_message is not None:
            client.send_frame(TEXT, TOKEN)
        take(site.opened)
        assert client.recv_close().code == 3000
        assert least - 0.02 < time.monotonic() - began < 5
        client.send_close(3000)
        expect_eof(client)
    assert take(site.closed) == ("alice", CloseCause.EXPIRED, 3000)


def test_renewed_connection_lives_on(serve: Serve) -> None:
    site = serve(BearerAuth(expiring(0.4)))
    with site.client(BEARER) as client:
        conn = take(site.opened)
        assert not renew(site.server, conn, Identity("bob"))
        assert renew(site.server, conn, Identity("alice", "s2", time.time() + 1000))
        # One that came later, and was not renewed, ends first.
        with site.client(BEARER) as other:
            assert other.recv_close().code == 3000
            other.send_close(3000)
        client.send_frame(TEXT, "still here")
        assert client.recv_message() == "still here"
        assert (conn.user, conn.session) == ("alice", "s2")
        client.close_cleanly()


def test_sessions_are_what_disconnect_finds(serve: Serve) -> None:
    sessions = iter(["s1", "s2", "s1"])
    site = serve(BearerAuth(lambda token: Identity("alice", next(sessions))))
    with site.client(BEARER) as one, site.client(BEARER) as other, site.client(BEARER) as two:
        for _ in range(3):
            take(site.opened)
        assert site.server.disconnect(session="s1", reason="logged out") == 2
        for client in (one, two):
            assert client.recv_close() == Close(3000, "logged out")
            client.send_close(3000)
            assert take(site.closed) == ("alice", CloseCause.REVOKED, 3000)
        other.send_frame(TEXT, "still here")
        assert other.recv_message() == "still here"
        other.close_cleanly()
