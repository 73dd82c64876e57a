"""exchange: requests that Python is asked about, and every way in which they are answered, late ones too."""

from __future__ import annotations

import copy
import gc
import pickle
import queue
import threading
import weakref
from typing import Any

import pytest
import raw
from live import expect_date, expect_eof, ping, take, wait, wait_until
from loops import Running, echo, running
from raw import TEXT, RawClient

from _uws.exchange import Exchange
from _uws.peer import RawEnds
from unlimitedws.address import Address, Ends

pytestmark = pytest.mark.usefixtures("both_tables", "no_fd_leaks")

TEAPOT = b"HTTP/1.1 418 I'm a teapot\r\nConnection: close\r\nContent-Length: 5\r\n\r\nshort"
GET = b"GET /health?x=1 HTTP/1.1\r\nHost: x\r\n\r\n"


class About:
    """What the library lets a connection keep."""

    def __init__(self, user: object = "ann") -> None:
        self.user = user
        self.session = f"{user}'s"
        self.request = None
        self.conn: Any = None
        self.over: queue.Queue[Any] = queue.Queue()

    def closed(self, conn: Any) -> None:
        self.over.put((conn, conn.close_code))


def accept(exchange: Exchange) -> None:
    assert exchange.accept()


def asked(engine: Running, head: bytes, exchanges: queue.Queue[Exchange]) -> tuple[RawClient, Exchange]:
    """A client whose request waits for its answer."""
    client = RawClient(engine.port, handshake=False)
    client.send(head)
    return client, take(exchanges)


def test_exchange_says_what_the_request_said() -> None:
    exchanges: queue.Queue[Exchange] = queue.Queue()
    with running(on_request=exchanges.put, on_route=exchanges.put) as engine:
        head = raw.request("/a?b=\xe9", headers=[("X-Twice", "1"), ("X-Twice", "2"), ("X-\xe9"[:2] + "Odd", "\xff")])
        head = head.replace(b"b=\xe9", b"b=c")
        client, exchange = asked(engine, head, exchanges)
        assert (exchange.is_upgrade, exchange.head, exchange.target) == (True, head, "/a?b=c")
        assert exchange.ends.remote_addr == exchange.ends.peer_addr == client.address
        assert exchange.ends.local_addr == ("127.0.0.1", engine.port)
        assert exchange.pending
        assert "b=c" not in repr(exchange)
        client.close()
        plain, exchange = asked(engine, GET, exchanges)
        assert (exchange.is_upgrade, exchange.head, exchange.target) == (False, GET, "/health?x=1")
        with pytest.raises(ValueError, match="no upgrade"):
            exchange.accept()
        plain.close()
    with pytest.raises(TypeError):
        Exchange()


def test_addresses_outlive_the_connection_and_the_exchange() -> None:
    exchanges: queue.Queue[Exchange] = queue.Queue()
    with running(on_request=exchanges.put) as engine:
        client, exchange = asked(engine, raw.request("/"), exchanges)
        address, ours = Address(*client.address), Address("127.0.0.1", engine.port)
        client.reset()
        engine.wait_for(descriptors=0)
        engine.wait_empty()
    assert repr(exchange) == f"<Exchange upgrade from {address}>"
    ends = exchange.ends
    del exchange
    gc.collect()
    assert (ends.remote_addr, ends.peer_addr, ends.local_addr, ends.is_secure) == (address, address, ours, False)
    for other in (copy.copy(ends), pickle.loads(pickle.dumps(ends))):
        assert other == Ends(address, ours, False)
    with pytest.raises(TypeError):
        RawEnds()


def test_accepting_opens_with_all_that_was_said() -> None:
    def on_request(exchange: Exchange) -> None:
        assert exchange.accept(b"chat", b"Set-Cookie: a=1\r\nX-B: 2\r\n", about=About())

    with running(on_request=on_request, on_message=echo) as engine:
        client, conn = engine.connect_conn(headers=[("Sec-WebSocket-Protocol", "chat")])
        assert client.response is not None
        assert client.response.headers["sec-websocket-protocol"] == "chat"
        assert client.response.headers["set-cookie"] == "a=1"
        assert client.response.headers["x-b"] == "2"
        assert (conn.user, conn.session, conn.request, conn.subprotocol) == ("ann", "ann's", None, "chat")
        client.send_frame(TEXT, "hello")
        assert client.recv_message() == "hello"
        client.close()
        engine.end()
        assert (conn.user, conn.subprotocol) == ("ann", "chat")


def test_without_about_nobody_is_known_and_no_object_is_kept() -> None:
    with running(on_request=accept, record=False, on_message=echo) as engine:
        client = engine.connect()
        client.send_frame(TEXT, "x")
        assert client.recv_message() == "x"
        client.close()
        engine.wait_empty()


def test_about_is_told_of_the_end_once_and_let_go_of() -> None:
    about = About()
    holder = [about]
    with running(on_request=lambda exchange: exchange.accept(about=holder[0]), record=False) as engine:
        client = engine.connect()
        client.send_close(4000)
        conn, code = take(about.over)
        assert code == 4000
        assert conn.user == "ann"
        client.close()
        engine.wait_empty()
        assert about.over.empty()
        gone = weakref.ref(about)
        holder.clear()
        del about, conn
        engine.loop.set_hook("on_request", None)
        gc.collect()
        wait_until(lambda: gone() is None, "about was let go of")


def test_frames_and_fin_that_come_with_the_request_wait_for_the_answer() -> None:
    exchanges: queue.Queue[Exchange] = queue.Queue()
    seen: queue.Queue[Any] = queue.Queue()
    with running(on_request=exchanges.put, on_message=lambda conn, message: seen.put(message)) as engine:
        head = raw.request("/")
        client, exchange = asked(engine, head + raw.frame(TEXT, "one") + raw.frame(TEXT, "tw", fin=False), exchanges)
        client.send(raw.frame(0, "o") + raw.frame(TEXT, "x" * 40_000))
        client.shutdown()
        assert seen.empty()
        assert exchange.accept()
        assert [take(seen) for _ in range(3)] == ["one", "two", "x" * 40_000]
        assert engine.end() == (1006, "")
        client.close()
        engine.wait_empty()


def test_request_in_pieces_is_asked_about_once() -> None:
    exchanges: queue.Queue[Exchange] = queue.Queue()
    with running(on_request=exchanges.put) as engine, RawClient(engine.port, handshake=False) as client:
        head = raw.request("/pieces")
        client.send_bytewise(head)
        exchange = take(exchanges)
        assert exchange.head == head
        assert exchange.accept()
        assert client.recv_response().status == 101
        assert exchanges.empty()


def test_answer_is_sent_and_the_connection_ends() -> None:
    for kind, head in (("on_request", raw.request("/")), ("on_route", GET)):
        hooks: Any = {kind: lambda exchange: exchange.answer(418, TEAPOT)}
        with running(**hooks) as engine, RawClient(engine.port, handshake=False) as client:
            client.send(head)
            assert client.recv_response().status == 418
            assert client.recv_body() == b"short"
            expect_eof(client)
            client.close()
            engine.wait_empty()
            assert engine.counter("answered_418") == 1
            assert engine.counter("refused") == 1


def test_answer_gets_a_date_behind_its_first_line_unless_it_has_one() -> None:
    def decide(exchange: Exchange) -> None:
        exchange.answer(418, TEAPOT, exchange.target == "/dated")

    with running(on_request=decide) as engine:
        for path, is_dated in (("/dated", True), ("/other", False)):
            with RawClient(engine.port, handshake=False) as client:
                client.send(raw.request(path))
                got = client.recv_until_eof()
            first, date, rest = got.split(b"\r\n", 2)
            if is_dated:
                assert got == TEAPOT
            else:
                assert first + b"\r\n" + rest == TEAPOT
                assert date.startswith(b"Date: ")
                expect_date(date[6:].decode())


@pytest.mark.parametrize("response", [b"", b"nothing that has lines"])
def test_answer_that_has_no_first_line_is_sent_as_it_is(response: bytes) -> None:
    with running(on_request=lambda exchange: exchange.answer(200, response)) as engine:
        with RawClient(engine.port, handshake=False) as client:
            client.send(raw.request())
            assert client.recv_until_eof() == response
        engine.wait_empty()


def test_second_answer_is_late() -> None:
    results: queue.Queue[list[bool]] = queue.Queue()

    def on_request(exchange: Exchange) -> None:
        first = [exchange.pending, exchange.accept(), exchange.pending]
        results.put([*first, exchange.accept(), exchange.answer(418, TEAPOT)])

    with running(on_request=on_request) as engine:
        engine.connect()
        assert take(results) == [True, True, False, False, False]


def test_second_answer_leaves_the_first_ones_conn_alone() -> None:
    first, second = About("ann"), About("bob")
    accepted: queue.Queue[bool] = queue.Queue()
    seen: queue.Queue[Any] = queue.Queue()

    def on_request(exchange: Exchange) -> None:
        accepted.put(exchange.accept(about=first))
        accepted.put(exchange.accept(about=second))

    def on_message(conn: Any, message: Any) -> None:
        seen.put((conn.user, conn is first.conn))

    with running(on_request=on_request, on_message=on_message, record=False) as engine:
        client = engine.connect()
        assert (take(accepted), take(accepted)) == (True, False)
        client.send_frame(TEXT, "who am I?")
        assert take(seen) == ("ann", True)
        # Its own Conn is nobody's.
        assert not second.conn.is_open
        second.conn.close()
        ping(client)
        client.close()
        assert take(first.over)[0] is first.conn
        engine.wait_empty()
        assert second.over.empty()


def test_garbage_collected_while_a_conn_is_made_may_let_another_thread_make_one() -> None:
    exchanges: queue.Queue[Exchange] = queue.Queue()
    made: queue.Queue[bool] = queue.Queue()
    collecting, done = threading.Event(), threading.Event()

    class Garbage:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            collecting.set()
            wait(done)

    def other(exchange: Exchange) -> None:
        wait(collecting)
        made.put(exchange.accept(about=About()))
        done.set()

    with running(on_request=exchanges.put, record=False) as engine:
        one, first = asked(engine, raw.request("/"), exchanges)
        two, second = asked(engine, raw.request("/"), exchanges)
        thread = threading.Thread(target=other, args=(second,))
        thread.start()
        about, before = About(), gc.get_threshold()
        gc.collect()
        gc.disable()
        Garbage()
        try:
            gc.set_threshold(1)
            gc.enable()
            accepted = first.accept(b"", b"", about)
        finally:
            gc.set_threshold(*before)
            gc.enable()
        gc.collect()
        thread.join()
        assert accepted
        assert take(made)
        one.close()
        two.close()


def test_deadline_is_503_and_the_answer_behind_it_is_late() -> None:
    exchanges: queue.Queue[Exchange] = queue.Queue()
    with running(on_request=exchanges.put, request_timeout_ms=50) as engine:
        client, exchange = asked(engine, raw.request("/"), exchanges)
        assert client.recv_response().status == 503
        client.recv_body()
        expect_eof(client)
        assert not exchange.pending
        assert not exchange.accept(about=About())
        client.close()
        engine.wait_empty()


def test_deadline_holds_while_the_callback_blocks_python() -> None:
    # The watchdog answers: nothing of it needs the thread that is stuck.
    gate = threading.Event()
    late: queue.Queue[bool] = queue.Queue()

    def on_request(exchange: Exchange) -> None:
        wait(gate)
        late.put(exchange.accept())

    with (
        running(on_request=on_request, request_timeout_ms=50) as engine,
        RawClient(engine.port, handshake=False) as client,
    ):
        client.send(raw.request("/"))
        assert client.recv_response().status == 503
        gate.set()
        assert take(late) is False


def test_client_that_has_gone_gets_no_answer() -> None:
    exchanges: queue.Queue[Exchange] = queue.Queue()
    with running(on_request=exchanges.put) as engine:
        client, exchange = asked(engine, raw.request("/"), exchanges)
        client.reset()
        engine.wait_for(descriptors=0)
        about = About()
        assert not exchange.pending
        assert not exchange.accept(about=about)
        assert about.over.empty()
        engine.wait_empty()


def test_many_wait_and_are_answered_by_other_threads() -> None:
    exchanges: queue.Queue[Exchange] = queue.Queue()
    with running(on_request=exchanges.put, on_message=echo) as engine:
        clients = [RawClient(engine.port, handshake=False) for _ in range(60)]
        for i, client in enumerate(clients):
            client.send(raw.request(f"/{i}") + raw.frame(TEXT, f"hello {i}"))
        waiting = [take(exchanges) for _ in clients]
        threads = [
            threading.Thread(target=lambda part: [e.accept(about=About(e.target)) for e in part], args=(waiting[k::4],))
            for k in range(4)
        ]
        for thread in threads:
            thread.start()
        for i, client in enumerate(clients):
            assert client.recv_response().status == 101
            assert client.recv_message() == f"hello {i}"
            client.close()
        for thread in threads:
            thread.join()
        engine.wait_empty()


def test_hook_that_raises_is_500_and_reported() -> None:
    def on_request(exchange: Exchange) -> None:
        raise LookupError("oops")

    with running(on_request=on_request, expect_failures=True) as engine:
        with RawClient(engine.port, handshake=False) as client:
            client.send(raw.request("/"))
            assert client.recv_response().status == 500
            client.recv_body()
            expect_eof(client)
        failure = take(engine.failures)
        assert (failure.conn, failure.hook) == (None, "on_request")
        assert isinstance(failure.exc, LookupError)


def test_stop_ends_those_who_wait() -> None:
    exchanges: queue.Queue[Exchange] = queue.Queue()
    with running(on_request=exchanges.put) as engine:
        client, exchange = asked(engine, raw.request("/"), exchanges)
        engine.shut()
        engine.join()
        assert not exchange.accept(about=About())
        client.close()


def test_strangers_are_closed_with_3000_unless_they_say_who_they_are() -> None:
    def on_request(exchange: Exchange) -> None:
        assert exchange.accept(auth_timeout_ms=150)

    with running(on_request=on_request) as engine:
        stranger, _ = engine.connect_conn()
        known, conn = engine.connect_conn()
        about = About("bob")
        assert conn._identify(about)
        assert stranger.recv_close().code == 3000
        stranger.send_close(3000)
        assert engine.end() == (3000, "")
        assert engine.counter("closed_by_unauthenticated") == 1
        ping(known)
        assert conn.user == "bob"
        known.close()
        take(about.over)


def test_connection_ends_when_its_credential_expires_unless_it_is_renewed() -> None:
    def on_request(exchange: Exchange) -> None:
        assert exchange.accept(about=About(), expires_ms=150)

    with running(on_request=on_request) as engine:
        silent, first = engine.connect_conn()
        renewed, second = engine.connect_conn()
        assert second._identify(About(), 60_000)
        close = silent.recv_close()
        assert (close.code, close.reason) == (3000, "credential expired")
        silent.close()
        wait_until(lambda: first.close_cause is not None, "on_close")
        assert first.close_cause.name == "EXPIRED"
        assert second.is_open
        assert second._identify(About(), 0)
        renewed.close()


def test_expiry_that_any_thread_sets_is_kept_by_a_loop_that_sleeps() -> None:
    with running(on_request=accept) as engine:
        client, conn = engine.connect_conn()
        engine.wait_for(timers=0)
        # Whatever was under way is over: the poller waits for something to come, for ever.
        ping(client)
        assert conn._identify(About(), expires_ms=100)
        assert client.recv_close().code == 3000
        client.close()
