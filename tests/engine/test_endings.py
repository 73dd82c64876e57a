"""How a connection ends that we end: what on_close is told of it, what the peer still gets, and for how long."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import raw
from live import take, wait, wait_until
from loops import Running, running
from raw import BINARY, CLOSE, PING, PONG, TEXT, RawClient
from uws_shims.deliver_shim import Bare

from unlimitedws import CloseCause, ConnectionClosed

pytestmark = pytest.mark.usefixtures("both_tables", "no_fd_leaks")

Make = Callable[..., tuple[Bare, list[int]]]

LONG_MS = 3_600_000
REVOKED, EXPIRED = CloseCause.REVOKED, CloseCause.EXPIRED


class Busy:
    """A callback that waits until it may go on, and then answers."""

    def __init__(self) -> None:
        self.inside, self.gate = threading.Event(), threading.Event()

    def __call__(self, conn: Any, message: Any) -> None:
        self.inside.set()
        wait(self.gate)
        with contextlib.suppress(ConnectionClosed):
            conn.send(f"re: {message}")


@contextlib.contextmanager
def leaving(**options: Any) -> Iterator[tuple[Running, RawClient, Any, Busy]]:
    """Yield a connection whose lifetime has ended while a callback of it is at work."""
    busy = Busy()
    with running(max_lifetime_ms=200, on_message=busy, **options) as engine:
        client, conn = engine.connect_conn()
        client.send_frame(TEXT, "1")
        wait(busy.inside)
        wait_until(lambda: not conn.is_open, "the lifetime ends")
        try:
            yield engine, client, conn, busy
        finally:
            busy.gate.set()


# --- what on_close is told: what the peer has said ---


@pytest.mark.parametrize("answer", ["a close frame", "FIN", "nothing"])
@pytest.mark.parametrize("unread", [False, True], ids=["nothing unread", "messages unread"])
def test_close_code_is_what_the_peer_has_said_whether_messages_were_unread_or_not(unread: bool, answer: str) -> None:
    busy = Busy()
    close_timeout_ms = 150 if answer == "nothing" else LONG_MS
    with running(max_lifetime_ms=200, close_timeout_ms=close_timeout_ms, on_message=busy) as engine:
        client, conn = engine.connect_conn()
        if unread:
            client.send_frame(TEXT, "1")
            wait(busy.inside)
            wait_until(lambda: not conn.is_open, "the lifetime ends")
            busy.gate.set()
            assert client.recv_message() == "re: 1"
        assert client.recv_close() == (1001, "maximum lifetime")
        if answer == "a close frame":
            client.send_close(4321, "so long")
        elif answer == "FIN":
            client.shutdown()
        assert engine.end() == ((4321, "so long") if answer == "a close frame" else (1006, ""))
        assert conn.close_cause is CloseCause.LIFETIME
        client.close()
        engine.wait_empty()


def test_what_comes_until_our_close_frame_leaves_is_delivered_and_answered() -> None:
    with leaving() as (engine, client, _, busy):
        client.send(raw.frame(TEXT, "2") + raw.frame(PING, "there?"))
        assert client.recv_frame()[2:] == (PONG, b"there?")
        busy.gate.set()
        assert [client.recv_message(), client.recv_message()] == ["re: 1", "re: 2"]
        assert client.recv_close() == (1001, "maximum lifetime")
        client.send_close(1001)
        assert engine.end() == (1001, "")


def test_peer_that_closes_before_our_close_frame_is_the_one_who_closed() -> None:
    with leaving() as (engine, client, conn, busy):
        client.send_close(4321, "I go")
        engine.wait_for(closed_by_peer=1)
        busy.gate.set()
        assert client.recv_message() == "re: 1"
        assert client.recv_close() == (4321, "")
        assert engine.end() == (4321, "I go")
        assert conn.close_cause is CloseCause.PEER


def test_close_of_the_application_takes_the_place_of_ours() -> None:
    with leaving() as (engine, client, conn, busy):
        conn.close(4000, "ours")
        assert client.recv_close() == (4000, "ours")
        client.send_close(4000)
        busy.gate.set()
        assert engine.end() == (4000, "")
        assert conn.close_cause is CloseCause.LOCAL


def test_callback_that_does_not_return_holds_our_close_frame_up_for_a_second_and_no_message() -> None:
    with leaving() as (engine, client, _, busy):
        client.send_frame(TEXT, "2")
        engine.wait_for(messages_in=2)
        assert client.recv_close() == (1001, "maximum lifetime")
        client.send_close(1001)
        engine.wait_for(closed_by_lifetime=1)
        assert engine.ended.empty()
        busy.gate.set()
        assert engine.end() == (1001, "")


# --- a callback that raises ---


@pytest.mark.parametrize("when", ["before", "behind"])
def test_peer_hears_1011_whether_its_close_frame_was_read_before_the_callback_raised_or_not(when: str) -> None:
    inside, gate = threading.Event(), threading.Event()

    def fail(conn: Any, message: Any) -> None:
        inside.set()
        wait(gate)
        raise ValueError(message)

    with running(on_message=fail, expect_failures=True) as engine:
        client, conn = engine.connect_conn()
        client.send(raw.frame(TEXT, "1") + raw.frame(TEXT, "2"))
        wait(inside)
        if when == "before":
            client.send_close(4321, "bye")
            engine.wait_for(closed_by_peer=1)
        gate.set()
        assert client.recv_close().code == 1011
        client.send_close(4321, "bye")
        failure = take(engine.failures)
        assert (failure.hook, str(failure.exc)) == ("on_message", "1")
        # Who ended it is another question, and so is what was received.
        assert engine.end() == ((4321, "bye") if when == "before" else (1011, ""))
        assert conn.close_cause is (CloseCause.PEER if when == "before" else CloseCause.CALLBACK)
        assert engine.failures.empty()
        client.close()
        engine.wait_empty()


def test_who_is_asked_to_leave_is_told_why_though_a_callback_raises() -> None:
    inside, gate = threading.Event(), threading.Event()

    def fail(conn: Any, message: Any) -> None:
        inside.set()
        wait(gate)
        raise ValueError(message)

    with running(on_message=fail, max_lifetime_ms=200, expect_failures=True) as engine:
        client, conn = engine.connect_conn()
        client.send(raw.frame(TEXT, "1") + raw.frame(TEXT, "2"))
        wait(inside)
        wait_until(lambda: not conn.is_open, "the lifetime ends")
        gate.set()
        assert client.recv_close() == (1001, "maximum lifetime")
        client.send_close(4321, "bye")
        assert engine.end() == (4321, "bye")
        assert conn.close_cause is CloseCause.LIFETIME
        # What came behind the message is dropped.
        assert str(take(engine.failures).exc) == "1"
        assert engine.failures.empty()


def test_close_frame_that_is_ours_already_says_what_it_says_when_a_callback_raises() -> None:
    def fail(conn: Any, message: Any) -> None:
        conn.close(4000, "done")
        raise ValueError(message)

    with running(on_message=fail, expect_failures=True) as engine:
        client, _ = engine.connect_conn()
        client.send_frame(TEXT, "1")
        assert client.recv_close() == (4000, "done")
        client.send_close(4000)
        assert engine.end() == (4000, "")
        assert take(engine.failures).hook == "on_message"


# --- ConnectionClosed, between the end and on_close ---


@pytest.mark.parametrize("thread", ["its own", "another"])
@pytest.mark.parametrize("together", [False, True], ids=["apart", "in one segment"])
def test_connection_closed_says_what_the_peer_said_before_on_close_is_called(thread: str, together: bool) -> None:
    inside, gate = threading.Event(), threading.Event()
    told: list[ConnectionClosed] = []

    def use(conn: Any) -> None:
        with pytest.raises(ConnectionClosed) as info:
            while True:
                conn.send("x")
        told.append(info.value)

    def busy(conn: Any, message: Any) -> None:
        inside.set()
        wait(gate)
        if thread == "its own":
            use(conn)

    with running(on_message=busy, close_timeout_ms=30) as engine:
        client, conn = engine.connect_conn()
        if together:
            client.send(raw.frame(TEXT, "1") + raw.close_frame(4321, "größer"))
            wait(inside)
        else:
            client.send_frame(TEXT, "1")
            wait(inside)
            client.send_close(4321, "größer")
        engine.wait_for(closed_by_peer=1)
        # As long as replies are waited for, sending works.
        assert client.recv_close().code == 4321
        if thread == "another":
            use(conn)
        assert engine.ended.empty()
        gate.set()
        assert engine.end() == (4321, "größer")
        use(conn)
        assert [(exc.code, exc.reason) for exc in told] == [(4321, "größer")] * 2
        client.close()
        engine.wait_empty()


def test_connection_closed_by_us_says_what_we_said_until_the_peer_has_answered() -> None:
    with running() as engine:
        client, conn = engine.connect_conn()
        conn.close(4000, "ours")
        with pytest.raises(ConnectionClosed) as before:
            conn.send("x")
        client.send_close(4001, "theirs")
        assert engine.end() == (4001, "theirs")
        with pytest.raises(ConnectionClosed) as behind:
            conn.send("x")
        assert (before.value.code, before.value.reason) == (4000, "ours")
        assert (behind.value.code, behind.value.reason) == (4001, "theirs")
        client.close()


# --- who is not trusted any more ---


def fill(conn: Any, size: int = 100_000) -> int:
    """Send until the kernel takes no more, and as much again; return how many messages that is."""
    sent = 0
    more = None
    while more != 0:
        conn.send(bytes([sent & 255]) * size)
        sent += 1
        if more is not None:
            more -= 1
        elif conn.buffered_amount > 10 * size:
            more = sent
    return sent


END = {
    "disconnect": lambda conn: conn._end(REVOKED, 3000, "out"),
    "expiry": lambda conn: conn._identify(None, 1),
}


@pytest.mark.parametrize("by", END)
def test_who_is_not_trusted_any_more_gets_the_message_that_has_begun_and_no_other(by: str) -> None:
    with running(max_buffered_bytes=1 << 30, close_timeout_ms=LONG_MS) as engine:
        client, conn = engine.connect_conn(rcvbuf=4096)
        sent = fill(conn)
        END[by](conn)
        wait_until(lambda: conn.buffered_amount < 110_000, "what is queued is dropped")
        got = 0
        frame = client.recv_frame()
        while frame.opcode == BINARY:
            assert frame.payload == bytes([got & 255]) * 100_000
            got += 1
            frame = client.recv_frame()
        assert frame.opcode == CLOSE and frame.payload[:2] == (3000).to_bytes(2, "big")
        assert 0 < got < sent // 2 + 2
        client.send_close(3000)
        assert engine.end() == (3000, "")
        engine.wait_for(buffered_bytes=0)
        client.close()
        engine.wait_empty()


def test_who_reads_gets_what_was_sent_before_it_was_disconnected() -> None:
    with running() as engine:
        client, conn = engine.connect_conn()
        conn.send("farewell")
        conn._end(REVOKED, 3000, "out")
        assert client.recv_message() == "farewell"
        assert client.recv_close() == (3000, "out")
        client.send_close(3000)
        assert engine.end() == (3000, "")


def test_sender_that_waits_for_room_hears_of_the_disconnect() -> None:
    with running(max_buffered_bytes=1000, io_timeout_us=20_000_000) as engine:
        client, conn = engine.connect_conn(rcvbuf=4096)
        told: list[ConnectionClosed] = []

        def send() -> None:
            with pytest.raises(ConnectionClosed) as info:
                while True:
                    conn.send(bytes(100_000))
            told.append(info.value)

        thread = threading.Thread(target=send)
        thread.start()
        wait_until(lambda: conn.buffered_amount > 1000, "the queue is full")
        conn._end(REVOKED, 4001, "out")
        thread.join(20)
        assert [(exc.code, exc.reason) for exc in told] == [(4001, "out")]
        client.close()


@pytest.mark.parametrize("first", ["conn.close", "the peer"])
def test_disconnect_takes_the_queue_from_who_is_closing_already(first: str) -> None:
    busy = Busy()
    with running(on_message=busy, max_buffered_bytes=1 << 30, close_timeout_ms=LONG_MS) as engine:
        client, conn = engine.connect_conn(rcvbuf=4096)
        client.send_frame(TEXT, "1")
        wait(busy.inside)
        fill(conn)
        if first == "conn.close":
            conn.close(4000)
        else:
            client.send_close(4000)
            engine.wait_for(closed_by_peer=1)
        assert conn.buffered_amount > 500_000
        conn._end(REVOKED, 3000, "")
        wait_until(lambda: conn.buffered_amount < 110_000, "what is queued is dropped")
        busy.gate.set()
        client.reset()
        engine.wait_empty()


# --- how long that may take: the clock is the test's ---

QUEUED_BYTES = 65_536


def seconds_to_the_end(loop: Bare, conn: int) -> int:
    """Let the clock go on, and return how long it takes until on_close."""
    for second in range(1, 10_000):
        loop.later(1000)
        taken = loop.begin()
        if taken is not None:
            told = loop.next(taken)
            loop.done(taken)
            if told == "close":
                return second
    raise AssertionError("it does not end")


def test_who_reads_slowly_behind_a_close_frame_has_a_second_for_each_4_kib(make: Make) -> None:
    loop, (conn,) = make()
    loop.queue_message(conn, QUEUED_BYTES)
    loop.sip(10)
    loop.close(conn)
    loop.flush(conn)
    # close_timeout is 10 s: once until it is looked at, and once more. Ticks and steps of ours make it a bit more.
    assert 20 + 15 <= seconds_to_the_end(loop, conn) <= 20 + 20


def test_who_reads_fast_enough_gets_all_of_it(make: Make) -> None:
    loop, (conn,) = make()
    loop.queue_message(conn, QUEUED_BYTES)
    loop.sip(8192)
    loop.close(conn)
    loop.flush(conn)
    for _ in range(12):
        loop.later(2000)
        loop.flush(conn)
    assert loop.queued_for(conn) == 0


@pytest.mark.parametrize("way", ["revoke", "expire"])
def test_who_is_not_trusted_any_more_has_close_timeout_and_not_more_however_it_reads(make: Make, way: str) -> None:
    loop, (conn,) = make()
    for _ in range(4):
        loop.queue_message(conn, QUEUED_BYTES)
    loop.sip(10)
    loop.flush(conn)
    getattr(loop, way)(conn)
    loop.flush(conn)
    assert loop.queued_for(conn) < QUEUED_BYTES + 150
    assert 10 <= seconds_to_the_end(loop, conn) <= 11


def test_disconnect_shortens_a_close_that_has_begun(make: Make) -> None:
    loop, (conn,) = make()
    for _ in range(4):
        loop.queue_message(conn, QUEUED_BYTES)
    loop.sip(10)
    loop.close(conn)
    loop.flush(conn)
    loop.later(30_000)
    loop.revoke(conn)
    loop.flush(conn)
    assert loop.queued_for(conn) < QUEUED_BYTES + 150
    loop.later(1000)
    # Once more lengthens nothing.
    loop.revoke(conn)
    assert 8 <= seconds_to_the_end(loop, conn) <= 10
