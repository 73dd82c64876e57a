"""tend: the deadlines of open connections, each with its cause and its counter, one timer for all of them."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
import raw
from live import expect_eof, ping, take, wait, wait_until
from loops import echo, running
from raw import BINARY, PING, PONG, TEXT
from uws_shims.deliver_shim import Bare

pytestmark = pytest.mark.usefixtures("both_tables", "no_fd_leaks")
Make = Callable[..., tuple[Bare, list[int]]]


def test_silent_peer_is_pinged_and_a_pong_keeps_it() -> None:
    with running(ping_interval_ms=100, ping_timeout_ms=5000) as engine:
        client, conn = engine.connect_conn()
        for _ in range(3):
            got = client.recv_frame()
            assert got.opcode == PING
            client.send_frame(PONG, got.payload)
        assert engine.counter("pings_out") >= 3
        assert conn.is_open


def test_any_byte_is_life() -> None:
    with running(ping_interval_ms=100, ping_timeout_ms=5000) as engine:
        client, conn = engine.connect_conn()
        # A frame that never ends: one byte of it for each ping.
        client.send(raw.frame(BINARY, bytes(100))[:10])
        for _ in range(3):
            assert client.recv_frame().opcode == PING
            client.send(b"x")
        assert conn.is_open


def test_peer_that_does_not_answer_a_ping_is_dropped() -> None:
    with running(ping_interval_ms=100, ping_timeout_ms=100) as engine:
        client, conn = engine.connect_conn()
        assert client.recv_frame().opcode == PING
        expect_eof(client)
        assert engine.end() == (1006, "")
        assert conn.close_cause.name == "PING_TIMEOUT"
        assert engine.counter("closed_by_ping_timeout") == 1
        engine.wait_empty()


def test_peer_is_pinged_and_dropped_though_python_is_busy() -> None:
    gate = threading.Event()
    inside = threading.Event()

    def block(conn: Any, message: Any) -> None:
        inside.set()
        wait(gate)

    with running(ping_interval_ms=100, ping_timeout_ms=100, on_message=block) as engine:
        vanished = engine.connect()
        client = engine.connect()
        client.send_frame(TEXT, "hold")
        wait(inside)
        assert vanished.recv_frame().opcode == PING
        expect_eof(vanished)
        got = client.recv_frame()
        assert got.opcode == PING
        gate.set()


def test_connection_that_we_do_not_read_is_not_taken_for_vanished() -> None:
    gate = threading.Event()

    def block(conn: Any, message: Any) -> None:
        wait(gate)

    with running(ping_interval_ms=60, ping_timeout_ms=60, max_inbox_messages=2, on_message=block) as engine:
        client, conn = engine.connect_conn()
        for _ in range(50):
            client.send_frame(BINARY, bytes(1000))
        engine.wait_for(pauses=1)
        other = engine.connect()
        # By the time that another one has been dropped, it would have been too.
        expect_pings(other)
        assert conn.is_open
        gate.set()


def expect_pings(client: raw.RawClient) -> None:
    """Pings, unanswered, and then the end."""
    rest = client.recv_until_eof()
    assert rest in (b"\x89\x00", b""), rest


def test_reader_that_is_stuck_is_dropped() -> None:
    with running(send_timeout_ms=200, max_buffered_bytes=1 << 30) as engine:
        client, conn = engine.connect_conn(rcvbuf=4096)
        while conn.buffered_amount < 100_000:
            conn.send(bytes(100_000))
        assert engine.end() == (1006, "")
        assert conn.close_cause.name == "SLOW_READER"
        assert engine.counter("closed_by_slow_reader") == 1
        client.close()
        engine.wait_empty()


def test_reader_that_is_slow_is_not() -> None:
    with running(send_timeout_ms=400, max_buffered_bytes=1 << 30) as engine:
        client, conn = engine.connect_conn(rcvbuf=4096)
        sent = 0
        while conn.buffered_amount < 100_000:
            conn.send(bytes(100_000))
            sent += 100_000 + 10
        got = 0
        while got < sent:
            # Not in one go: progress is made all the time, and never all of it.
            part = client.sock.recv(65536)
            assert part
            got += len(part)
        ping(client)


def test_idle_connection_is_closed_with_1001_and_pings_are_no_message() -> None:
    with running(idle_timeout_ms=300, on_message=echo) as engine:
        idle, conn = engine.connect_conn()
        busy, _ = engine.connect_conn()
        idle.send_frame(PING, b"")
        assert idle.recv_frame().opcode == PONG
        closed = threading.Event()

        def keep_busy() -> None:
            while not closed.wait(0.05):
                busy.send_frame(TEXT, "x")
                assert busy.recv_message() == "x"

        thread = threading.Thread(target=keep_busy)
        thread.start()
        try:
            close = idle.recv_close()
        finally:
            closed.set()
            thread.join()
        assert (close.code, close.reason) == (1001, "idle")
        idle.send_close(1001)
        expect_eof(idle)
        assert engine.end() == (1001, "")
        assert conn.close_cause.name == "IDLE"
        ping(busy)


def test_what_we_send_is_a_message_too() -> None:
    with running(idle_timeout_ms=300) as engine:
        _, quiet = engine.connect_conn()
        client, conn = engine.connect_conn()
        while quiet.close_cause is None and quiet.is_open:
            conn.send("tick")
            client.recv_message()
        assert conn.is_open


def test_lifetime_ends_with_1001_and_not_for_all_at_once() -> None:
    with running(max_lifetime_ms=500) as engine:
        clients = [engine.connect() for _ in range(40)]
        for client in clients:
            close = client.recv_close()
            assert (close.code, close.reason) == (1001, "maximum lifetime")
            client.send_close(1001)
            client.close()
        engine.wait_for(closed_by_lifetime=40)
        engine.wait_empty()


def test_messages_that_wait_when_a_lifetime_ends_are_delivered_and_answered() -> None:
    gate = threading.Event()
    inside = threading.Event()

    def slow(conn: Any, message: Any) -> None:
        inside.set()
        wait(gate)
        conn.send(message)

    with running(max_lifetime_ms=300, on_message=slow) as engine:
        client, conn = engine.connect_conn()
        for i in range(3):
            client.send_frame(TEXT, str(i))
        wait(inside)
        wait_until(lambda: not conn.is_open, "the lifetime ends")
        gate.set()
        assert [client.recv_message() for _ in range(3)] == ["0", "1", "2"]
        assert client.recv_close().code == 1001
        client.close()
        engine.wait_for(closed_by_lifetime=1)
        engine.wait_empty()


def test_close_that_is_not_answered_keeps_its_cause() -> None:
    with running(max_lifetime_ms=100, close_timeout_ms=100) as engine:
        client, conn = engine.connect_conn()
        assert client.recv_close().code == 1001
        assert engine.end() == (1006, "")
        assert conn.close_cause.name == "LIFETIME"
        other, conn = engine.connect_conn()
        conn.close()
        assert engine.end() == (1006, "")
        assert conn.close_cause.name == "CLOSE_TIMEOUT"
        client.close()
        other.close()


def test_loop_that_slept_does_not_take_the_living_for_dead() -> None:
    # A thread of Python opens and speaks while nothing wakes the loop: ticks are taken from the clock then.
    exchanges: queue.Queue[Any] = queue.Queue()
    with running(idle_timeout_ms=400, on_request=exchanges.put) as engine:
        client = raw.RawClient(engine.port, handshake=False)
        client.send(raw.request("/"))
        exchange = take(exchanges)
        pause = threading.Event()
        assert not pause.wait(0.6)
        assert exchange.accept()
        assert client.recv_response().status == 101
        conn = take(engine.opened)
        assert conn.is_open
        assert client.recv_close().code == 1001
        client.close()


def test_nothing_is_set_where_nothing_is_asked_for() -> None:
    with running() as engine:
        client = engine.connect()
        ping(client)
        assert engine.counter("timers") == 0
        wait_until(lambda: engine.counter("slab_blocks") == 0, "nothing is held")


# --- what waits for all of them together ---


def stuck(count: int) -> tuple[Bare, list[int], list[socket.socket]]:
    """Connections whose peers do not read, in the order in which they stopped."""
    loop = Bare()
    conns: list[int] = []
    peers: list[socket.socket] = []
    for _ in range(count):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        conns.append(loop.open(ours.detach()))
        peers.append(theirs)
        loop.queue(conns[-1], bytes(4 << 20))
        loop.flush(conns[-1])
    # They have been offered to the kernel, and are not asked about again.
    loop.tend_queues(1 << 40)
    assert loop.line() == conns
    return loop, conns, peers


def test_slowest_go_first_and_no_more_of_them_than_it_takes() -> None:
    loop, (a, b, c, d), peers = stuck(4)
    peers[0].recv(1 << 16, socket.MSG_WAITALL)
    loop.flush(a)
    assert loop.line() == [b, c, d, a]
    total = loop.queued()[0]
    loop.tend_queues(total)
    assert loop.line() == [b, c, d, a]
    loop.tend_queues(total - 1)
    assert loop.line() == [c, d, a]
    # Three of 4 MiB, less what the kernel took: below seven eighths of 10 MiB there are two, of 6 MiB there is one.
    loop.tend_queues(10 << 20)
    assert loop.line() == [d, a]
    loop.tend_queues(6 << 20)
    assert loop.line() == [a]
    loop.tend_queues(0)
    assert loop.line() == [] and loop.queued()[0] == 0
    for peer in peers:
        peer.close()


def test_who_gets_on_when_looked_at_stays() -> None:
    loop, (a, _), peers = stuck(2)
    # The kernel has room, and nobody has been there to see it.
    while peers[0].recv(1 << 16, socket.MSG_DONTWAIT) and not loop.writable(a):
        pass
    loop.tend_queues(loop.queued()[0] - 1)
    assert loop.line() == [a] and loop.is_there(a)
    for peer in peers:
        peer.close()


def test_what_the_kernel_has_not_been_offered_is_nobodys_fault(make: Make) -> None:
    loop, conns = make(5)
    for conn in conns:
        loop.queue(conn, bytes(1000))
    loop.tend_queues(100)
    assert loop.queued()[0] == 0 and all(loop.is_there(conn) for conn in conns)
