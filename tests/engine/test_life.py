"""life: the table of states of life.pyx, each transition seen from outside, and nothing left after it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import raw
from live import expect_date, expect_end, expect_eof, readable, take, wait, wait_until
from loops import Running, echo, running
from raw import TEXT, RawClient
from uws_shims.deliver_shim import Bare

from unlimitedws import ConnectionClosed

pytestmark = pytest.mark.usefixtures("both_tables", "no_fd_leaks")

Make = Callable[..., tuple[Bare, list[int]]]

each_runners = pytest.mark.parametrize("runners", [1, 3])
SHORT_MS = 60


@pytest.fixture(params=[1, 3], ids=["inline", "pool"])
def engine(request: pytest.FixtureRequest, no_fd_leaks: None) -> Iterator[Running]:
    with running(runners=request.param, on_message=echo) as made:
        yield made


@pytest.fixture(params=[1, 3], ids=["inline", "pool"])
def hasty(request: pytest.FixtureRequest, no_fd_leaks: None) -> Iterator[Running]:
    """A loop with short deadlines."""
    with running(
        runners=request.param, on_message=echo, handshake_timeout_ms=SHORT_MS, close_timeout_ms=SHORT_MS
    ) as made:
        yield made


# --- FREE, UPGRADING ---


def test_accepted_connection_is_upgrading_with_a_deadline_and_not_open(engine: Running) -> None:
    with RawClient(engine.port, handshake=False):
        engine.wait_for(accepted=1, descriptors=1, timers=1, connections=0)
    engine.wait_empty()
    assert engine.ended.empty()


def test_upgraded_connection_has_no_deadline_and_no_memory(engine: Running) -> None:
    client, conn = engine.connect_conn()
    engine.wait_for(upgraded=1, connections=1, descriptors=1, timers=0, slab_blocks=0, targets=0)
    assert conn.is_open
    client.close()


def test_target_is_shared_and_given_back(engine: Running) -> None:
    clients = [engine.connect(path="/room?a=b") for _ in range(3)]
    engine.wait_for(connections=3, targets=1)
    for client in clients:
        client.close()
    engine.wait_empty()


def test_refused_request_lingers_until_the_peers_fin(engine: Running) -> None:
    with RawClient(engine.port, handshake=False) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv_response().status == 426
        client.recv_body()
        expect_eof(client)
        engine.wait_for(descriptors=1, connections=0, timers=1, slab_blocks=0)
        # What still comes is dropped.
        client.send(b"more")
    engine.wait_empty()
    assert engine.counter("timeouts") == 0


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("sent", [b"", b"GET / HT"])
def test_end_while_upgrading_frees_at_once(engine: Running, how: str, sent: bytes) -> None:
    client = RawClient(engine.port, handshake=False)
    client.send(sent)
    engine.wait_for(accepted=1, bytes_in=len(sent))
    client.reset() if how == "rst" else client.close()
    engine.wait_empty()
    assert (engine.counter("refused"), engine.counter("timeouts")) == (0, 0)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_late_request_is_408(hasty: Running, sent: bytes) -> None:
    with RawClient(hasty.port, handshake=False) as client:
        client.send(sent)
        response = client.recv_response()
        assert response.status == 408
        expect_date(response.headers.get("date"))
        client.recv_body()
        expect_eof(client)
        # Nobody's FIN comes: the linger has a deadline as well.
        hasty.wait_empty()
        assert (hasty.counter("timeouts"), hasty.counter("refused")) == (2, 1)
    assert hasty.opened.empty() and hasty.ended.empty()


def test_request_that_keeps_coming_has_the_same_deadline(hasty: Running) -> None:
    with RawClient(hasty.port, handshake=False) as client:
        client.send(b"GET / HTTP/1.1\r\n")

        def answered() -> bool:
            client.send(b"X: y\r\n")
            return hasty.counter("timeouts") > 0

        wait_until(answered, "the deadline passes although bytes come in")
        assert client.recv_response().status == 408


# --- OPEN ---


def test_peers_close_is_answered_reported_and_freed(engine: Running) -> None:
    client, conn = engine.connect_conn()
    assert client.close_cleanly(4321, "so long") == (4321, "")
    assert engine.end() == (4321, "so long")
    assert (conn.is_open, conn.close_code, conn.close_reason) == (False, 4321, "so long")
    engine.wait_empty()
    assert (engine.counter("closed"), engine.counter("timeouts")) == (1, 0)


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_end_without_a_close_frame_is_1006(engine: Running, how: str) -> None:
    client = engine.connect()
    client.reset() if how == "rst" else client.shutdown()
    assert engine.end() == (1006, "")
    if how == "fin":
        # Nothing is owed to a peer that went without a word.
        expect_eof(client)
        client.close()
    engine.wait_empty()


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (raw.frame(TEXT, "x", mask=False), 1002),
        (raw.frame(TEXT, b"\xff"), 1007),
        (raw.frame(TEXT, length=1 << 40), 1009),
    ],
)
def test_broken_rule_ends_with_its_code(engine: Running, wrong: bytes, code: int) -> None:
    client = engine.connect()
    client.send(wrong)
    assert client.recv_close().code == code
    expect_eof(client)
    assert engine.end() == (code, "")
    client.close()
    engine.wait_empty()


# --- CLOSE_SENT ---


def test_close_is_awaited_with_a_deadline_and_still_a_connection(engine: Running) -> None:
    client, conn = engine.connect_conn()
    conn.close(4000, "we go")
    assert client.recv_close() == (4000, "we go")
    engine.wait_for(connections=1, descriptors=1, timers=1)
    assert not conn.is_open and conn.close_code is None and engine.ended.empty()
    with pytest.raises(ConnectionClosed):
        conn.send("more")
    # A second close says nothing.
    conn.close(4001)
    client.send_close(4000, "you go")
    assert engine.end() == (4000, "you go")
    expect_eof(client)
    client.close()
    engine.wait_empty()
    assert engine.counter("timeouts") == 0


def test_messages_that_cross_our_close_frame_are_dropped(engine: Running) -> None:
    client, conn = engine.connect_conn()
    conn.close()
    client.send_frame(TEXT, "crossed")
    client.send_frame(raw.PING, "crossed")
    assert client.recv_close().code == 1000
    client.send_close()
    expect_eof(client)
    engine.wait_empty()
    assert engine.counter("messages_in") == 1


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_end_instead_of_the_answer_is_1006(engine: Running, how: str) -> None:
    client, conn = engine.connect_conn()
    conn.close()
    assert client.recv_close().code == 1000
    client.reset() if how == "rst" else client.shutdown()
    assert engine.end() == (1006, "")
    client.close()
    engine.wait_empty()
    assert engine.counter("timeouts") == 0


def test_close_that_is_not_answered_is_dropped_at_the_deadline_with_1006(hasty: Running) -> None:
    client, conn = hasty.connect_conn()
    conn.close(4000)
    assert client.recv_close().code == 4000
    assert hasty.end() == (1006, "")
    expect_end(client)
    hasty.wait_empty()
    assert hasty.counter("timeouts") == 1


# --- ENDING ---


@each_runners
def test_replies_to_the_messages_before_the_end_leave_before_our_close_frame(runners: int) -> None:
    gate, entered = threading.Event(), threading.Event()

    def slow(conn: Any, message: Any) -> None:
        entered.set()
        assert gate.wait(20)
        conn.send(f"re: {message}")

    with running(runners=runners, on_message=slow) as engine:
        client, conn = engine.connect_conn()
        client.send_frame(TEXT, "1")
        wait(entered)
        client.send(raw.frame(TEXT, "2") + raw.close_frame(4000, "bye"))
        wait_until(lambda: not conn.is_open, "the close frame is read")
        # Over, and off the books; but the application has not come to it yet.
        engine.wait_for(connections=0, descriptors=1)
        assert conn.close_code is None and engine.ended.empty()
        gate.set()
        assert [client.recv_message(), client.recv_message()] == ["re: 1", "re: 2"]
        assert client.recv_close() == (4000, "")
        expect_eof(client)
        assert engine.end() == (4000, "bye")
        client.close()
        engine.wait_empty()


@each_runners
def test_closing_what_is_ending_chooses_the_close_frame(runners: int) -> None:
    gate, entered = threading.Event(), threading.Event()

    def slow(conn: Any, message: Any) -> None:
        entered.set()
        assert gate.wait(20)
        conn.close(4444, "ours")

    with running(runners=runners, on_message=slow) as engine:
        client, conn = engine.connect_conn()
        client.send_frame(TEXT, "1")
        wait(entered)
        client.send_close(4000, "theirs")
        wait_until(lambda: not conn.is_open, "the close frame is read")
        gate.set()
        assert client.recv_close() == (4444, "ours")
        expect_eof(client)
        assert engine.end() == (4000, "theirs")
        client.close()
        engine.wait_empty()


def test_nobody_is_waited_for_where_nobody_wants_to_know() -> None:
    with running(record=False) as engine:
        client = engine.connect()
        assert client.close_cleanly(4000).code == 4000
        engine.wait_empty()
        engine.connect().reset()
        engine.wait_empty()
        assert engine.counter("closed") == 2


# --- LINGER ---


@contextlib.contextmanager
def lingering() -> Iterator[tuple[Running, RawClient]]:
    """Yield a client whose callback raised, with our close frame read and the descriptor still ours."""

    def fail(conn: Any, message: Any) -> None:
        raise ValueError(message)

    with running(on_message=fail, expect_failures=True) as engine, engine.connect() as client:
        client.send_frame(TEXT, "x")
        assert client.recv_close().code == 1011
        assert engine.end()[0] == 1011
        assert take(engine.failures).hook == "on_message"
        yield engine, client


LAST = {
    "its answer": lambda client: client.send_close(1011),
    "its FIN": lambda client: client.shutdown(),
    "a broken rule": lambda client: client.send(raw.frame(TEXT, "x", mask=False)),
}


@pytest.mark.parametrize("last", LAST)
def test_fin_follows_what_the_peer_says_last_and_nothing_before(last: str) -> None:
    """A proxy that sees our FIN closes to its client, with RST where the client's answer is unread."""
    with lingering() as (engine, client):
        assert not readable(client.sock, 0.1)
        client.send_frame(TEXT, "crossed")
        assert not readable(client.sock, 0.1)
        LAST[last](client)
        expect_eof(client)
        client.close()
        engine.wait_empty()
        assert engine.counter("timeouts") == 0


@each_runners
def test_peer_that_does_not_close_after_our_answer_does_not_keep_the_descriptor(runners: int) -> None:
    # Both close frames are exchanged: it is the server that closes (RFC 6455, section 7.1.1), and what it waits
    # for the peer's FIN has nothing to do with the close timeout.
    with running(runners=runners, close_timeout_ms=3_600_000) as engine:
        client = engine.connect()
        client.send_close(1000)
        assert client.recv_close().code == 1000
        expect_eof(client)
        engine.wait_empty()


def test_second_close_frame_of_a_peer_is_not_answered_with_rst(engine: Running) -> None:
    client, conn = engine.connect_conn()
    conn.close(1000)
    assert client.recv_close().code == 1000
    client.send_close(1000)
    expect_eof(client)
    # As some clients do. Were the descriptor closed by now, sending would be refused.
    client.send_close(1000)
    client.send_close(1000)
    expect_eof(client)
    client.close()
    engine.wait_empty()
    assert engine.counter("timeouts") == 0


def test_peer_that_broke_a_rule_and_stays_is_dropped_at_the_deadline(hasty: Running) -> None:
    client = hasty.connect()
    client.send_frame(TEXT, "x", rsv=7)
    assert client.recv_close().code == 1002
    hasty.wait_empty()
    assert hasty.counter("timeouts") == 1


def test_rst_while_lingering_frees(engine: Running) -> None:
    client = engine.connect()
    client.send_frame(TEXT, "x", rsv=7)
    assert client.recv_close().code == 1002
    engine.wait_for(descriptors=1, timers=1)
    client.reset()
    engine.wait_empty()


# --- conn.abort() ---


def test_abort_of_an_open_connection(engine: Running) -> None:
    client, conn = engine.connect_conn()
    conn.abort()
    conn.abort()
    assert engine.end() == (1006, "")
    assert expect_end(client) == b""
    engine.wait_empty()


def test_abort_resets_at_once_though_on_close_has_not_run() -> None:
    gate, entered = threading.Event(), threading.Event()

    def slow(conn: Any, message: Any) -> None:
        entered.set()
        assert gate.wait(20)

    with running(on_message=slow) as engine:
        client, conn = engine.connect_conn()
        client.send_frame(TEXT, "x")
        wait(entered)
        try:
            conn.abort()
            with pytest.raises(ConnectionResetError):
                client.sock.recv(10)
        finally:
            gate.set()
        engine.wait_empty()


def test_abort_while_the_close_is_not_answered(engine: Running) -> None:
    client, conn = engine.connect_conn()
    conn.close()
    assert client.recv_close().code == 1000
    conn.abort()
    assert engine.end() == (1006, "")
    expect_end(client)
    engine.wait_empty()


@each_runners
def test_abort_while_ending_drops_what_waits(runners: int) -> None:
    seen: queue.Queue[Any] = queue.Queue()
    gate = threading.Event()

    def slow(conn: Any, message: Any) -> None:
        seen.put(message)
        assert gate.wait(20)

    with running(runners=runners, on_message=slow) as engine:
        client, conn = engine.connect_conn()
        client.send_frame(TEXT, "1")
        assert take(seen) == "1"
        client.send(raw.frame(TEXT, "2") + raw.close_frame(4000))
        wait_until(lambda: not conn.is_open, "the close frame is read")
        conn.abort()
        gate.set()
        assert engine.end()[0] == 4000
        engine.wait_empty()
        assert seen.empty()
        client.close()


def test_abort_in_on_close_cuts_the_linger_short() -> None:
    with running(on_close=lambda conn: conn.abort()) as engine:
        client = engine.connect()
        client.send_frame(TEXT, "x", rsv=7)
        assert engine.end()[0] == 1002
        expect_end(client)
        engine.wait_empty()


@pytest.mark.parametrize("hook", ["on_connect", "on_message", "on_close"])
@pytest.mark.parametrize("act", ["close", "abort"])
def test_close_and_abort_in_every_callback(hook: str, act: str) -> None:
    hooks: dict[str, Any] = {hook: lambda conn, *message: getattr(conn, act)()}
    with running(**hooks) as engine:
        client = engine.connect()
        try:
            client.send_frame(TEXT, "x")
            client.send_close(1000)
        except OSError:
            # It was aborted by the time.
            pass
        engine.end()
        engine.wait_empty()
        assert engine.ended.empty()


def test_a_callback_that_raises_wakes_the_poller_for_the_deadline_that_begins(make: Make) -> None:
    # Its CLOSE event lines up behind it, so nobody is told of that; and the poller may sleep without a timer.
    loop, (conn,) = make()
    loop.post(conn, b"a")
    taken = loop.begin()
    assert loop.next(taken) == b"a"
    loop.sleep()
    loop.fail(conn)
    assert loop.queued() == (0, 1)
    loop.done(taken)


def test_the_last_one_of_a_drain_wakes_the_poller_whoever_ends_it(make: Make) -> None:
    loop, (conn,) = make()
    loop.post(conn, b"a")
    taken = loop.begin()
    assert loop.next(taken) == b"a"
    loop.drain(60_000)
    loop.sleep()
    before = loop.queued()[1]
    loop.abort(conn)
    assert loop.queued() == (0, before + 1)
    loop.done(taken)
