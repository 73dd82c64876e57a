"""role: somebody always polls, whatever the callbacks do; and how many threads that takes."""

from __future__ import annotations

import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import raw
from live import ServerProcess, ping, readable, take, wait_until
from loops import HAS_GIL, SETTINGS, echo, running
from raw import PONG, TEXT, Frame

from _uws.core import Loop

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

    # Long, so that on a busy machine nobody is taken for one that blocks who only waits for a core.
    with running(runners=size, jobs=100, on_message=block, schedule_timeout_us=100_000) as engine:
        opened = [engine.connect() for _ in range(clients)]
        # One at work and one in reserve.
        assert engine.counter("runners") <= 2, "threads start when they are needed"
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


# ---- connections whose callbacks block

NEVER_US = 60_000_000
QUICK_ENOUGH = 16


class Gate:
    """A callback that echoes, and waits at a gate with those that say "block"."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)

    def __call__(self, conn: Any, message: str) -> None:
        if message == "block":
            self.entered.release()
            assert self.open.wait(20)
        conn.send(message)

    def mark(self, engine: Any, client: raw.RawClient) -> None:
        """Have client known for blocking callbacks; from then on nobody takes the role from who has it."""
        engine.loop.set_time("schedule_timeout_us", 1000)
        before, blocking = engine.counter("takeovers"), engine.counter("blocking")
        # Until the runner that polls took it: another one costs nobody anything.
        while engine.counter("blocking") == blocking:
            self.open.clear()
            client.send_frame(TEXT, "block")
            assert self.entered.acquire(timeout=10)
            time.sleep(0.01)
            self.open.set()
            assert client.recv_message() == "block"
        assert engine.counter("takeovers") > before
        self.open.clear()
        engine.loop.set_time("schedule_timeout_us", NEVER_US)


def test_poller_is_not_blocked_by_the_same_connection_again() -> None:
    gate = Gate()
    with running(runners=4, on_message=gate) as engine:
        blocker, other = engine.connect(), engine.connect()
        gate.mark(engine, blocker)
        takeovers = engine.counter("takeovers")
        for _ in range(5):
            gate.open.clear()
            blocker.send_frame(TEXT, "block")
            assert gate.entered.acquire(timeout=10)
            for _ in range(20):
                other.send_frame(TEXT, "x")
                assert other.recv_message() == "x"
            ping(blocker)
            gate.open.set()
            assert blocker.recv_message() == "block"
        assert engine.counter("takeovers") == takeovers
        # Quick ones make it as good as any other. A message that comes before the callback's return has been noticed
        # belongs to the same delivery: some more than there have to be deliveries.
        for _ in range(10 * QUICK_ENOUGH):
            blocker.send_frame(TEXT, "x")
            assert blocker.recv_message() == "x"
        engine.wait_for(blocking=0)
        gate.mark(engine, blocker)
        engine.wait_for(blocking=1)
        blocker.close()
        engine.wait_for(blocking=0)


def test_without_a_pool_nothing_is_kept_apart() -> None:
    gate = Gate()
    with running(on_message=gate) as engine:
        client, other = engine.connect(), engine.connect()
        for _ in range(3):
            gate.open.clear()
            client.send_frame(TEXT, "block")
            assert gate.entered.acquire(timeout=10)
            # By the watchdog; which may have the role since last time, as this may be the same delivery still.
            ping(other)
            assert engine.counter("takeovers") > 0
            gate.open.set()
            assert client.recv_message() == "block"
        assert engine.counter("blocking") == 0


def test_others_are_served_though_all_runners_but_the_poller_block() -> None:
    size, gate = 3, Gate()
    with running(runners=size, on_message=gate) as engine:
        blockers, other = [engine.connect() for _ in range(5)], engine.connect()
        for client in blockers:
            gate.mark(engine, client)
        engine.wait_for(blocking=5)
        for client in blockers:
            client.send_frame(TEXT, "block")
        for _ in range(size - 1):
            assert gate.entered.acquire(timeout=10)
        engine.wait_for(runners=size, parked=0, ready=5 - (size - 1))
        takeovers = engine.counter("takeovers")
        for _ in range(50):
            other.send_frame(TEXT, "x")
            assert other.recv_message() == "x"
        assert not gate.entered.acquire(blocking=False)
        assert engine.counter("takeovers") == takeovers
        gate.open.set()
        for client in blockers:
            assert client.recv_message() == "block"


def test_blocking_connection_is_called_for_when_another_thread_resumes_it() -> None:
    gate = Gate()
    with running(runners=4, on_message=gate) as engine:
        client, conn = engine.connect_conn()
        gate.mark(engine, client)
        for i in range(5):
            conn.pause()
            conn.resume()
            client.send_frame(TEXT, str(i))
            assert client.recv_message() == str(i)
            conn.pause()
            client.send_frame(TEXT, "held")
            ping(engine.connect())
            conn.resume()
            assert client.recv_message() == "held"


def test_stop_while_blocking_connections_wait_for_a_runner() -> None:
    gate = Gate()
    with running(runners=2, on_message=gate) as engine:
        blockers = [engine.connect() for _ in range(3)]
        for client in blockers:
            gate.mark(engine, client)
        for client in blockers:
            client.send_frame(TEXT, "block")
        assert gate.entered.acquire(timeout=10)
        engine.wait_for(ready=2)
        engine.shut(timeout_ms=20)
        for client in blockers:
            client.close()
        gate.open.set()
        engine.join()


# ---- guests


class Guest:
    """A loop that is driven by whoever calls `visit`, and by the watchdog meanwhile."""

    def __init__(self, **settings: int) -> None:
        self.messages: list[Any] = []
        self.loop = Loop({**SETTINGS, **settings}, lambda: None, lambda *_: None, None)
        self.loop.set_hook("on_message", self._on_message)
        self.loop.set_hook("on_pong", lambda _, payload: self.messages.append(payload))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.loop.listen(self._listener.fileno(), False)
        self.port = self._listener.getsockname()[1]
        self.poll = select.poll()
        for fd in self.loop.enter():
            self.poll.register(fd, select.POLLIN)

    def _on_message(self, conn: Any, message: Any) -> None:
        self.messages.append(message)
        conn.send(message)

    def visit_until(self, condition: Callable[[], bool]) -> None:
        """Visit as an event loop does: when a descriptor is readable, or it was asked for."""
        deadline = time.monotonic() + raw.TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, "the guest was never called"
            self.poll.poll(1000)
            while self.loop.visit() == 1:
                pass

    def close(self) -> None:
        self.loop.shut(1001, "", 0)
        while self.loop.visit() != 0:
            self.poll.poll(1000)
        self.loop.leave()
        self._listener.close()


@pytest.fixture
def guest() -> Iterator[Guest]:
    one = Guest()
    yield one
    one.close()


def test_the_watchdog_does_what_needs_no_python_while_the_guest_stays_away(guest: Guest) -> None:
    clients = [raw.RawClient(guest.port) for _ in range(3)]
    for client in clients:
        ping(client)
        client.send_frame(TEXT, "hello")
    wait_until(lambda: guest.loop.counters()["messages_in"] == 3, "the messages to be read")
    assert guest.messages == []
    assert guest.loop.counters()["takeovers"] > 0
    guest.visit_until(lambda: len(guest.messages) == 3)
    for client in clients:
        assert client.recv_message() == "hello"
        client.close()


def test_a_guest_that_rests_is_called_by_what_other_threads_send(guest: Guest) -> None:
    conns: list[Any] = []
    guest.loop.set_hook("on_connect", conns.append)
    client = raw.RawClient(guest.port)
    guest.visit_until(lambda: bool(conns))
    thread = threading.Thread(target=lambda: conns[0].send("from a thread"))
    thread.start()
    thread.join()
    # Whoever is first sends it, the guest or the watchdog.
    assert client.recv_message() == "from a thread"
    client.close()


def test_pongs_are_told_in_order_with_messages(guest: Guest) -> None:
    client = raw.RawClient(guest.port)
    client.send_frame(TEXT, "one")
    client.send_frame(PONG, b"two")
    client.send_frame(TEXT, "three")
    guest.visit_until(lambda: len(guest.messages) == 3)
    assert guest.messages == ["one", b"two", "three"]
    client.close()


def test_a_guests_deadlines_are_kept_without_calling_it() -> None:
    one = Guest(ping_interval_ms=100)
    try:
        client = raw.RawClient(one.port)
        one.visit_until(lambda: one.loop.connections == 1)
        while one.loop.visit() == 1:
            pass
        for _ in range(3):
            assert client.recv_frame().opcode == raw.PING
            client.send_frame(PONG, b"")
        client.close()
    finally:
        one.close()


def test_a_loop_has_one_guest_which_leaves_when_it_has_finished(guest: Guest) -> None:
    with pytest.raises(RuntimeError):
        guest.loop.enter()
    with pytest.raises(RuntimeError):
        guest.loop.leave()
    raised: list[BaseException] = []

    def visit(conn: Any, message: str) -> None:
        try:
            guest.loop.visit()
        except RuntimeError as exc:
            raised.append(exc)

    guest.loop.set_hook("on_message", visit)
    client = raw.RawClient(guest.port)
    client.send_frame(TEXT, "x")
    guest.visit_until(lambda: bool(raised))
    client.close()
