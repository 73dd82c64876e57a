"""role: somebody always polls, whatever the callbacks do; and how many threads that takes."""

from __future__ import annotations

import os
import queue
import threading
import time
from typing import Any

import pytest
import raw
from live import ServerProcess, ping, readable, take, wait_until
from loops import HAS_GIL, echo, running
from raw import PONG, TEXT, Frame

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

# How a callback keeps the thread that polled for a second: without the GIL, taking it again and again, and
# never letting go of it.
BLOCKERS = {
    "sleeps": "time.sleep(1)",
    "computes": "compute(1)",
    "holds the GIL": "ctypes.PyDLL(None).usleep(1_000_000)",
}

SERVER = """
import ctypes

def compute(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

server = unlimitedws.NewServer("127.0.0.1:0", handshake_timeout=5)
{pool}

@server.on_message
def on_message(conn, message):
    if message == "block":
        {blocker}
    conn.send(message)
"""


@pytest.mark.parametrize("pool", ["", "server.set_pool(4, 8)"], ids=["inline", "pool"])
@pytest.mark.parametrize("how", BLOCKERS)
def test_loop_lives_while_a_callback_keeps_its_thread(how: str, pool: str) -> None:
    # In a process of its own, so that this one has a GIL to measure with. The order of events is the proof:
    # the callback's reply is the last thing that comes.
    with ServerProcess(SERVER.format(pool=pool, blocker=BLOCKERS[how])) as server:
        blocked, other = server.connect(), server.connect()
        for client in (blocked, other):
            client.send_frame(TEXT, "warm")
            assert client.recv_message() == "warm"
        before = server.ask("server.counters()['takeovers']")
        blocked.send_frame(TEXT, "block")
        blocked.send_frame(raw.PING, b"mine")
        assert blocked.recv_frame() == Frame(True, 0, PONG, b"mine")
        for _ in range(5):
            ping(other)
        newcomers = [server.connect() for _ in range(5)]
        for client in newcomers:
            ping(client)
        refused = raw.RawClient(server.port, handshake=False)
        refused.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert refused.recv_response().status == 426
        assert not readable(blocked.sock), "all of this took longer than the callback"
        assert blocked.recv_message() == "block"
        assert server.ask("server.counters()['takeovers']") > before
        # The role is a runner's again, and callbacks run.
        for client in (blocked, other, *newcomers):
            client.send_frame(TEXT, "after")
            assert client.recv_message() == "after"
        for client in (blocked, other, refused, *newcomers):
            client.close()


@pytest.mark.parametrize("runners", [1, 4])
def test_messages_that_come_while_callbacks_block_are_delivered_afterwards(runners: int) -> None:
    gate = threading.Event()
    entered = threading.Semaphore(0)

    def block(conn: Any, message: str) -> None:
        if message == "block":
            entered.release()
            assert gate.wait(20)
        conn.send(message)

    with running(runners=runners, on_message=block) as engine:
        blockers = [engine.connect() for _ in range(runners)]
        others = [engine.connect() for _ in range(10)]
        for client in blockers:
            client.send_frame(TEXT, "block")
        for _ in blockers:
            assert entered.acquire(timeout=10)
        for client in others:
            client.send_frame(TEXT, "later")
        engine.wait_for(messages_in=runners + 10, ready=10)
        assert engine.counter("takeovers") > 0
        for client in others:
            ping(client)
        gate.set()
        for client in blockers:
            assert client.recv_message() == "block"
        for client in others:
            assert client.recv_message() == "later"


@pytest.mark.parametrize("runners", [1, 4])
def test_short_callbacks_are_no_reason_to_take_the_role(runners: int) -> None:
    # A timeout far above what a busy machine takes a thread away for; with takeovers that are not needed,
    # there would be about one a message.
    messages = 2000
    with running(runners=runners, on_message=echo, schedule_timeout_us=50_000) as engine:
        clients = [engine.connect() for _ in range(4)]
        for _ in range(messages // 4):
            for client in clients:
                client.send_frame(TEXT, "x")
            for client in clients:
                assert client.recv_message() == "x"
        assert engine.counter("takeovers") < messages // 100


@pytest.mark.parametrize("runners", [1, 4])
def test_role_returns_to_a_runner(runners: int) -> None:
    gate = threading.Event()

    def block(conn: Any, message: str) -> None:
        if message == "block":
            assert gate.wait(20)
        conn.send(message)

    with running(runners=runners, on_message=block, schedule_timeout_us=20_000) as engine:
        for _ in range(10):
            gate.clear()
            client = engine.connect()
            takeovers = engine.counter("takeovers")
            client.send_frame(TEXT, "block")
            wait_until(
                lambda before=takeovers: engine.counter("takeovers") > before, "the watchdog takes the role"
            )
            ping(client)
            gate.set()
            assert client.recv_message() == "block"
            takeovers = engine.counter("takeovers")
            for _ in range(50):
                client.send_frame(TEXT, "x")
                assert client.recv_message() == "x"
            # Still the watchdog's, every one of these would be a takeover more, or never be delivered.
            assert engine.counter("takeovers") - takeovers < 10
            client.close()


def test_blocking_callbacks_get_a_runner_each_up_to_the_pools_size() -> None:
    size, clients = 6, 15
    gate = threading.Event()
    lock = threading.Lock()
    inside: list[int] = [0, 0]
    entered: queue.Queue[Any] = queue.Queue()

    def block(conn: Any, message: str) -> None:
        with lock:
            inside[0] += 1
            inside[1] = max(inside)
        entered.put(message)
        assert gate.wait(20)
        with lock:
            inside[0] -= 1
        conn.send(message)

    with running(runners=size, jobs=100, on_message=block) as engine:
        opened = [engine.connect() for _ in range(clients)]
        # One at work and one in reserve. Without a GIL one at work for each processor, and one that asks for the role.
        few = 2 if HAS_GIL else len(os.sched_getaffinity(0)) + 2
        assert engine.counter("runners") <= few, "threads start when they are needed"
        for i, client in enumerate(opened):
            client.send_frame(TEXT, str(i))
        for _ in range(size):
            take(entered)
        engine.wait_for(runners=size, parked=0, ready=clients - size)
        for client in opened:
            ping(client)
        assert inside == [size, size] and entered.empty()
        gate.set()
        for i, client in enumerate(opened):
            assert client.recv_message() == str(i)
        assert inside[1] == size
        assert engine.spawned == size - 1
        # And on: they wait, they do not spin or go away.
        engine.wait_for(runners=size, ready=0)
        ping(opened[0])


@pytest.mark.skipif(HAS_GIL or len(os.sched_getaffinity(0)) < 2, reason="callbacks take turns here")
def test_without_a_gil_what_waits_is_shared_among_runners_though_each_gets_on() -> None:
    threads: queue.Queue[int] = queue.Queue()

    def compute(conn: Any, message: Any) -> None:
        end = time.monotonic() + 0.003
        while time.monotonic() < end:
            pass
        threads.put(threading.get_ident())

    with running(runners=4, on_message=compute) as engine:
        clients = [engine.connect() for _ in range(20)]
        seen: set[int] = set()
        for _ in range(50):
            for client in clients:
                client.send_frame(TEXT, "x")
            seen |= {take(threads) for _ in clients}
            if len(seen) > 1:
                break
        assert len(seen) > 1


def test_idle_runners_are_asleep() -> None:
    with running(runners=4, on_message=echo) as engine:
        client = engine.connect()
        for _ in range(20):
            client.send_frame(TEXT, "x")
            assert client.recv_message() == "x"
        # One has the role, the others are parked; the last one may only just have been started.
        assert engine.counter("runners") >= 2
        wait_until(lambda: engine.counter("parked") == engine.counter("runners") - 1, "all but one are parked")


@pytest.mark.parametrize("runners", [1, 4])
def test_stop_ends_every_runner_though_callbacks_blocked(runners: int) -> None:
    gate = threading.Event()
    entered = threading.Semaphore(0)

    def block(conn: Any, message: str) -> None:
        entered.release()
        assert gate.wait(20)

    with running(runners=runners, on_message=block) as engine:
        clients = [engine.connect() for _ in range(8)]
        for client in clients:
            client.send_frame(TEXT, "x")
        for _ in range(runners):
            assert entered.acquire(timeout=10)
        # The watchdog polls, and it is the watchdog that finds the deadline past.
        engine.shut(timeout_ms=20)
        for client in clients:
            client.close()
        gate.set()
        engine.join()
        assert engine.counter("runners") == engine.counter("parked") == 0


def test_deadlines_pass_while_the_only_runner_is_away() -> None:
    gate, entered = threading.Event(), threading.Event()

    def block(conn: Any, message: str) -> None:
        entered.set()
        assert gate.wait(20)

    with running(on_message=block, handshake_timeout_ms=50, close_timeout_ms=50) as engine:
        client, _ = engine.connect_conn()
        closing, conn = engine.connect_conn()
        client.send_frame(TEXT, "x")
        assert entered.wait(10)
        with raw.RawClient(engine.port, handshake=False) as late:
            conn.close(4000)
            assert late.recv_response().status == 408
        assert closing.recv_close().code == 4000
        wait_until(lambda: engine.counter("timeouts") >= 2, "the close handshake times out")
        gate.set()
        assert engine.end()[0] == 1006


def test_reply_of_another_thread_leaves_while_the_only_runner_is_away() -> None:
    gate, entered = threading.Event(), threading.Event()

    def block(conn: Any, message: str) -> None:
        entered.set()
        assert gate.wait(20)

    with running(on_message=block) as engine:
        client, _ = engine.connect_conn()
        other, conn = engine.connect_conn()
        client.send_frame(TEXT, "x")
        assert entered.wait(10)
        conn.send("from outside")
        assert other.recv_message() == "from outside"
        gate.set()
