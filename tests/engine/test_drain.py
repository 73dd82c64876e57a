"""Draining: everybody leaves at a moment of his own, nobody comes in, and then the loop stops by itself."""

from __future__ import annotations

import select
import socket
import threading
from typing import Any

import pytest
import raw
from live import expect_eof, ping, wait, wait_until
from loops import Running, echo, running
from raw import TEXT, TIMEOUT, RawClient

pytestmark = pytest.mark.usefixtures("both_tables", "no_fd_leaks")

RESTART = 1012
LONG_MS = 60_000


def leaving_order(clients: list[RawClient]) -> list[int]:
    """Answer each close frame when it comes; whose came when, as indices."""
    waiting = {client.sock.fileno(): place for place, client in enumerate(clients)}
    order: list[int] = []
    while waiting:
        ready = select.select(list(waiting), [], [], TIMEOUT)[0]
        assert ready, f"{len(waiting)} were not asked to leave"
        for fd in ready:
            place = waiting.pop(fd)
            got = clients[place].recv_close()
            assert got == (RESTART, "")
            clients[place].send_close(RESTART)
            order.append(place)
    return order


def causes(engine: Running) -> dict[str, int]:
    counters = engine.loop.counters()
    return {name: n for name, n in counters.items() if name.startswith("closed_by_") and n}


def test_all_leave_in_turn_with_the_code_and_the_loop_stops() -> None:
    with running() as engine:
        clients = [engine.connect() for _ in range(20)]
        engine.loop.drain(400, RESTART, False, 5000)
        assert engine.loop.draining
        assert leaving_order(clients) == list(range(20))
        for client in clients:
            expect_eof(client)
            assert engine.end() == (RESTART, "")
        engine.join()
        assert causes(engine) == {"closed_by_drain": 20}


def test_with_jitter_the_order_is_another_one_each_time() -> None:
    orders = []
    for _ in range(2):
        with running() as engine:
            clients = [engine.connect() for _ in range(24)]
            engine.loop.drain(600, RESTART, True, 5000)
            orders.append(leaving_order(clients))
            engine.join()
            assert causes(engine) == {"closed_by_drain": 24}
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(24))
    # Each of these is as likely as one in 24!, or one in 24 to the power of 24.
    assert orders[0] != list(range(24)) != orders[1]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 65, 200])
def test_everybody_has_a_turn_of_his_own(n: int) -> None:
    # Two with the same turn would mean that somebody has none, and is found only when the time is over.
    with running(record=False) as engine:
        clients = [engine.connect() for _ in range(n)]
        engine.loop.drain(50, RESTART, True, 5000)
        assert len(leaving_order(clients)) == n
        engine.join()
        assert causes(engine) == {"closed_by_drain": n}


def test_time_that_is_over_at_once() -> None:
    with running() as engine:
        clients = [engine.connect() for _ in range(3)]
        engine.loop.drain(0, RESTART, True, 5000)
        assert len(leaving_order(clients)) == 3
        engine.join()
        assert causes(engine) == {"closed_by_drain": 3}


def test_loop_without_connections_stops_at_once() -> None:
    with running() as engine:
        engine.loop.drain(LONG_MS, RESTART, True, 5000)
        engine.join()


def test_loop_that_drains_before_it_runs_stops_when_it_does() -> None:
    with running(start=False) as engine:
        engine.loop.drain(LONG_MS, RESTART, True, 5000)
        engine.start()
        engine.join()


def test_who_leaves_by_himself_is_not_waited_for() -> None:
    with running() as engine:
        client = engine.connect()
        engine.loop.drain(LONG_MS, RESTART, True, 5000)
        ping(client)
        client.send_close(1000)
        assert client.recv_close().code == 1000
        engine.join()
        assert causes(engine) == {"closed_by_peer": 1}


def test_who_does_not_answer_is_dropped_by_the_stop() -> None:
    ended: list[tuple[int, str]] = []
    # No on_connect: while it is at work the code of a close is settled before the peer's answer is due.
    with running(record=False, on_close=lambda conn: ended.append((conn.close_code, conn.close_reason))) as engine:
        client = engine.connect()
        engine.loop.drain(0, RESTART, True, 50)
        assert client.recv_close().code == RESTART
        expect_eof(client)
        engine.join()
    assert ended == [(1006, "")]


def test_upgrades_are_refused_and_plain_requests_answered() -> None:
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nred\n"
    with running(on_route=lambda exchange: exchange.answer(200, body)) as engine:
        stays = engine.connect()
        engine.loop.drain(LONG_MS, RESTART, True, 5000)
        late = engine.connect(handshake=False)
        late.send(raw.request())
        answer = late.recv_response()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        health = engine.connect(handshake=False)
        health.send(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        assert (health.recv_response().status, health.recv_body()) == (200, b"red\n")
        ping(stays)
        assert engine.counter("answered_503") == 1


def test_upgrades_that_python_decides_on_are_refused_but_not_plain_requests() -> None:
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    asked: list[Any] = []
    seen = threading.Semaphore(0)

    def keep(exchange: Any) -> None:
        asked.append(exchange)
        seen.release()

    with running(on_request=keep, on_route=keep) as engine:
        upgrade = engine.connect(handshake=False)
        upgrade.send(raw.request())
        assert seen.acquire(timeout=TIMEOUT)
        plain = engine.connect(handshake=False)
        plain.send(b"GET /x HTTP/1.1\r\nHost: here\r\n\r\n")
        assert seen.acquire(timeout=TIMEOUT)
        # Somebody has to be open, or the loop would stop at once.
        third = engine.connect(handshake=False)
        third.send(raw.request())
        assert seen.acquire(timeout=TIMEOUT)
        assert asked[2].accept()
        assert third.recv_response().status == 101
        engine.loop.drain(LONG_MS, RESTART, True, 5000)
        assert upgrade.recv_response().status == 503
        assert not asked[0].accept()
        assert asked[1].answer(200, body)
        assert plain.recv_response().status == 200
        expect_eof(plain)
        ping(third)


def test_what_was_sent_before_is_delivered_and_answered_first() -> None:
    inside, gate = threading.Event(), threading.Event()

    def slow(conn: Any, message: Any) -> None:
        inside.set()
        wait(gate)
        conn.send(message)

    with running(on_message=slow) as engine:
        client, conn = engine.connect_conn()
        client.send_frame(TEXT, "one")
        wait(inside)
        client.send_frame(TEXT, "two")
        engine.wait_for(messages_in=2)
        engine.loop.drain(0, RESTART, True, 5000)
        wait_until(lambda: not conn.is_open, "it is asked to leave")
        gate.set()
        assert client.recv_message() == "one"
        assert client.recv_message() == "two"
        assert client.recv_close().code == RESTART


def test_connections_leave_though_python_is_busy() -> None:
    inside, gate = threading.Event(), threading.Event()

    def block(conn: Any, message: Any) -> None:
        inside.set()
        wait(gate)

    with running(on_message=block) as engine:
        others = [engine.connect() for _ in range(5)]
        client = engine.connect()
        client.send_frame(TEXT, "hold")
        wait(inside)
        engine.loop.drain(100, RESTART, True, 5000)
        assert len(leaving_order(others)) == 5
        gate.set()


def test_second_drain_shortens_and_never_lengthens() -> None:
    with running() as engine:
        client = engine.connect()
        engine.loop.drain(LONG_MS, RESTART, True, 5000)
        ping(client)
        engine.loop.drain(2 * LONG_MS, 4000, True, 5000)
        engine.loop.drain(20, RESTART, True, 5000)
        engine.loop.drain(LONG_MS, 4000, True, 5000)
        assert leaving_order([client]) == [0]
        engine.join()


def test_stop_wins_over_a_drain_before_and_behind_it() -> None:
    with running() as engine:
        client = engine.connect()
        engine.loop.drain(LONG_MS, RESTART, True, 5000)
        engine.shut()
        engine.loop.drain(0, RESTART, True, 5000)
        assert client.recv_close().code == 1001
        client.send_close(1001)
        engine.join()
        assert causes(engine) == {"closed_by_shutdown": 1}


def test_lifetime_that_ends_before_is_kept() -> None:
    with running(max_lifetime_ms=100) as engine:
        client = engine.connect()
        engine.loop.drain(LONG_MS, RESTART, False, 5000)
        assert client.recv_close().code == RESTART


def test_shared_listener_is_left_to_the_others_at_once() -> None:
    with running(start=False) as engine, socket.create_server(("127.0.0.1", 0)) as shared:
        shared.setblocking(False)
        engine.loop.listen(shared.fileno(), True)
        engine.start()
        port = shared.getsockname()[1]
        stays = engine.connect(port=port)
        engine.loop.drain(LONG_MS, RESTART, True, 5000)
        engine.wait_for(draining=1)
        with socket.create_connection(("127.0.0.1", port), TIMEOUT):
            assert select.select([shared], [], [], TIMEOUT)[0]
            ping(stays)
            other, _ = shared.accept()
            other.close()
        # Its own it goes on with, to say so.
        refused = engine.connect(handshake=False)
        refused.send(raw.request())
        assert refused.recv_response().status == 503


def test_shared_listener_stays_away_after_a_pause_of_accepting() -> None:
    with running(start=False, max_connections=1) as engine, socket.create_server(("127.0.0.1", 0)) as shared:
        shared.setblocking(False)
        engine.loop.listen(shared.fileno(), True)
        engine.start()
        stays = engine.connect()
        # One more than there is room for: it is refused, and accepting pauses.
        assert engine.connect(handshake=False).recv_response().status == 503
        engine.loop.drain(LONG_MS, RESTART, True, 5000)
        with socket.create_connection(shared.getsockname(), TIMEOUT):
            # The pause is over when another one is refused.
            assert engine.connect(handshake=False).recv_response().status == 503
            ping(stays)
            other, _ = shared.accept()
            other.close()


@pytest.mark.parametrize(("over", "timeout"), [(-1, 0), (1 << 31, 0), (0, -1)])
def test_times_out_of_range_are_refused(over: int, timeout: int) -> None:
    with running(start=False) as engine:
        with pytest.raises(ValueError, match="cannot last"):
            engine.loop.drain(over, RESTART, True, timeout)
        assert not engine.loop.draining
        engine.start()
        ping(engine.connect())


def test_peer_that_still_reads_gets_all_before_the_close_frame() -> None:
    """However slowly: close_timeout counts from where it has come to our close frame."""
    with running(close_timeout_ms=150, max_buffered_bytes=1 << 30) as engine:
        client, conn = engine.connect_conn(rcvbuf=4096)
        payload = bytes(range(256)) * 4096
        for _ in range(4):
            conn.send(payload)
        conn.close(1000)
        got = bytearray()
        pauses = 0
        while len(got) < 4 * (len(payload) + 10) + 4:
            part = client.sock.recv(65536)
            assert part, f"cut off after {len(got)} bytes and {pauses} pauses"
            got += part
            if pauses < 40 and len(got) > pauses * 4096:
                # It is slow: several times as long as the timeout, all in all.
                pauses += 1
                select.select([], [], [], 0.02)
        assert pauses == 40
        assert got[-4:] == b"\x88\x02\x03\xe8"
        assert got.count(payload) == 4


def test_expiry_may_be_years_ahead() -> None:
    with running() as engine:
        client, conn = engine.connect_conn()
        assert conn._identify(None, 3 * 365 * 86_400_000)
        assert engine.counter("timers") == 1
        ping(client)
        assert conn._identify(None, 1)
        assert client.recv_close().code == 3000


def test_child_keeps_no_descriptor_of_the_loop() -> None:
    with running(on_message=echo) as engine:
        client = engine.connect()
        before = client.sock.getsockname()
        pid, status = _fork_and_look(engine)
        assert status == 0, f"child {pid} had a descriptor of the loop's, or lost one of its own"
        client.send_frame(TEXT, "still here")
        assert client.recv_message() == "still here"
        assert client.sock.getsockname() == before
        wait_until(lambda: engine.counter("connections") == 1, "the parent's connection stays")


def _fork_and_look(engine: Running) -> tuple[int, int]:
    """In a child: its descriptors are none of the loop's, and what it opens then outlives the loop."""
    import gc
    import os

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            names = os.listdir("/proc/self/fd")
            links = [os.readlink(f"/proc/self/fd/{name}") for name in names if os.path.exists(f"/proc/self/fd/{name}")]
            own = [os.open("/dev/null", os.O_RDONLY) for _ in range(50)]
            engine.__dict__.clear()
            gc.collect()
            for fd in own:
                os.fstat(fd)
            status = 2 if any("eventpoll" in link or "eventfd" in link for link in links) else 0
        finally:
            os._exit(status)
    return pid, os.waitpid(pid, 0)[1]
