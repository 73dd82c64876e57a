"""loop: made, listening, stopped; what it refuses, and that all of it goes back."""

from __future__ import annotations

import errno
import fcntl
import os
import queue
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import raw
from fixtures import open_fds
from live import ping, take, wait, wait_until
from loops import SETTINGS, Held, echo, listener, running
from raw import BINARY, TEXT, RawClient
from uws_shims.deliver_shim import Bare

from _uws.core import Loop

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

ROOT = Path(__file__).resolve().parents[2]
MAX_LISTENERS = 16

each_runners = pytest.mark.parametrize("runners", [1, 3])


def make(**settings: int) -> Loop:
    return Loop({**SETTINGS, **settings}, lambda: None, lambda *_: None, None)


def run(program: str) -> subprocess.CompletedProcess[str]:
    head = f"import sys; sys.path[:0] = [{str(ROOT / 'src')!r}, {str(ROOT / 'tests')!r}]\n"
    head += "import errno, os, resource\nfrom loops import SETTINGS\nfrom _uws.core import Loop\n"
    head += "def make():\n    return Loop(SETTINGS, lambda: None, lambda *_: None, None)\n"
    return subprocess.run([sys.executable, "-c", head + program], capture_output=True, text=True, timeout=60)


# --- made and dropped ---


def test_loop_that_never_ran_gives_everything_back() -> None:
    before = open_fds()
    loop = make()
    assert len(open_fds()) > len(before)
    del loop
    assert open_fds() == before


@pytest.mark.parametrize("free", [0, 1])
def test_no_descriptor_for_a_loop_is_an_error_that_leaves_none_open(free: int) -> None:
    done = run(
        f"""
limit = max(int(name) for name in os.listdir("/proc/self/fd")) + 50
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
for _ in range({free}):
    os.close(taken.pop())
for _ in range(3):
    try:
        make()
    except OSError as exc:
        assert exc.errno == errno.EMFILE, exc
    else:
        raise AssertionError("made")
# epoll and the eventfd are what it needs; the spare descriptor is a luxury.
for _ in range(2 - {free}):
    os.close(taken.pop())
make()
"""
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_memory_for_the_table_is_an_error() -> None:
    done = run(
        """
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 200_000, resource.RLIM_INFINITY))
before = len(os.listdir("/proc/self/fd"))
for _ in range(3):
    try:
        make()
    except OSError as exc:
        assert exc.errno == errno.ENOMEM, exc
    else:
        raise AssertionError("made")
assert len(os.listdir("/proc/self/fd")) == before
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
make()
"""
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_table_costs_no_memory_until_it_is_used() -> None:
    done = run(
        """
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

make()
before = resident()
loops = [make() for _ in range(50)]
assert resident() - before < 50 * 64 * 1024, resident() - before
"""
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_descriptor_beyond_the_table_is_refused() -> None:
    # As when RLIMIT_NOFILE was raised after the loop was made.
    loop = Bare()
    ours, theirs = socket.socketpair()
    beyond = fcntl.fcntl(ours, fcntl.F_DUPFD, loop.table_cap)
    with pytest.raises(OSError):
        loop.open(beyond)
    assert loop.figures()["conns"] == 0
    os.close(beyond)
    ours.close()
    theirs.close()


# --- listening ---


def test_number_of_listeners_is_limited() -> None:
    loop = make()
    sockets = [listener(1) for _ in range(MAX_LISTENERS + 1)]
    for sock in sockets[:-1]:
        loop.listen(sock.fileno())
    with pytest.raises(ValueError, match="listening"):
        loop.listen(sockets[-1].fileno())
    for sock in sockets:
        sock.close()


def test_what_epoll_does_not_take_is_an_error() -> None:
    loop = make()
    with open(__file__) as file, pytest.raises(OSError) as regular:
        loop.listen(file.fileno())
    with pytest.raises(OSError) as nothing:
        loop.listen(-1)
    with listener() as sock:
        loop.listen(sock.fileno())
        with pytest.raises(OSError) as twice:
            loop.listen(sock.fileno())
    errors = [caught.value.errno for caught in (regular, nothing, twice)]
    assert errors == [errno.EPERM, errno.EBADF, errno.EEXIST]


def test_listening_socket_stays_the_callers() -> None:
    with running(on_message=echo) as engine:
        ping(engine.connect())
        engine.shut(timeout_ms=0)
        engine.join()
        assert engine.sockets[0].getsockname()[1] != 0


# --- stopping ---


@each_runners
def test_stop_without_connections_ends_at_once(runners: int) -> None:
    with running(runners=runners) as engine:
        engine.wait_for(runners=1)
        engine.shut()
        engine.join()
        assert engine.counter("runners") == 0


def test_stop_before_the_run_is_the_end_of_it() -> None:
    with running(start=False) as engine:
        engine.shut()
        engine.start()
        engine.join()


def test_run_after_the_end_returns_and_so_does_everything_else() -> None:
    with running(on_message=echo) as engine:
        client, conn = engine.connect_conn()
        engine.shut(timeout_ms=0)
        engine.join()
        for _ in range(3):
            engine.loop.run()
            engine.shut()
        assert not conn.is_open and conn.buffered_amount == 0
        conn.close()
        conn.abort()
        engine.loop.set_hook("on_read", None)
        engine.loop.set_time("io_timeout_us", 1)
        with pytest.raises(OSError):
            engine.loop.listen(engine.sockets[0].fileno())
        client.close()


def test_run_in_more_threads_than_runners_is_allowed() -> None:
    with running(on_message=echo) as engine:
        for _ in range(5):
            engine.start()
        engine.wait_for(runners=6)
        ping(engine.connect())


@each_runners
def test_stop_says_1001_to_everybody_and_waits_for_the_answers(runners: int) -> None:
    with running(runners=runners, on_message=echo) as engine:
        clients = [engine.connect() for _ in range(20)]
        engine.wait_for(connections=20)
        engine.shut(timeout_ms=20_000, code=1012)
        for client in clients:
            assert client.recv_close().code == 1012
        assert any(thread.is_alive() for thread in engine.threads)
        for client in clients:
            client.send_close(1012)
            assert client.recv_until_eof() == b""
        engine.join()
        assert [engine.end()[0] for _ in clients] == [1012] * 20


@each_runners
def test_stop_drops_who_does_not_answer(runners: int) -> None:
    with running(runners=runners, on_message=echo) as engine:
        clients = [engine.connect() for _ in range(5)]
        engine.wait_for(connections=5)
        engine.shut(timeout_ms=50)
        engine.join()
        # 1001 for one whose on_connect had not returned: its close frame lined up behind what that sends.
        assert {engine.end()[0] for _ in clients} <= {1001, 1006}


def test_second_stop_brings_the_deadline_forward_but_not_back() -> None:
    with running(on_message=echo) as engine:
        engine.connect()
        engine.wait_for(connections=1)
        engine.shut(timeout_ms=3_600_000)
        engine.shut(timeout_ms=20)
        engine.shut(timeout_ms=3_600_000)
        engine.join()


def test_stop_answers_the_messages_that_came_before() -> None:
    gate, entered = threading.Event(), threading.Event()

    def slow(conn: Any, message: Any) -> None:
        entered.set()
        assert gate.wait(20)
        conn.send(message)

    with running(runners=2, on_message=slow) as engine:
        client = engine.connect()
        client.send_frame(TEXT, "1")
        wait(entered)
        engine.shut(timeout_ms=20_000)
        gate.set()
        assert client.recv_message() == "1"
        assert client.recv_close().code == 1001
        client.send_close(1001)
        engine.join()


def test_stop_in_a_callback_ends_the_run() -> None:
    with running(on_message=lambda conn, message: engine.loop.shut(1001, "", 1000)) as engine:
        client = engine.connect()
        client.send_frame(TEXT, "stop")
        assert client.recv_close().code == 1001
        client.send_close(1001)
        engine.join()


def test_stop_drops_requests_that_are_coming_in() -> None:
    with running() as engine, RawClient(engine.port, handshake=False) as client:
        client.send(b"GET / ")
        engine.wait_for(descriptors=1, bytes_in=6)
        engine.shut(timeout_ms=20_000)
        engine.join()


def test_same_socket_is_served_by_one_loop_after_the_other() -> None:
    with listener() as sock:
        for _ in range(5):
            seen: list[Any] = []
            loop = make()
            loop.set_hook(
                "on_message", lambda conn, message, seen=seen: (seen.append(message), conn.send(message))
            )
            loop.listen(sock.fileno())
            thread = threading.Thread(target=loop.run)
            thread.start()
            with RawClient(sock.getsockname()[1]) as client:
                client.send_frame(TEXT, "x")
                assert client.recv_message() == "x"
            loop.shut(1001, "", 1000)
            thread.join(10)
            assert not thread.is_alive() and seen == ["x"]


def test_two_loops_on_one_socket_share_the_work() -> None:
    with listener() as sock:
        loops = [make() for _ in range(2)]
        threads = [threading.Thread(target=loop.run) for loop in loops]
        for loop, thread in zip(loops, threads, strict=True):
            loop.listen(sock.fileno())
            thread.start()
        clients = [RawClient(sock.getsockname()[1]) for _ in range(20)]
        for client in clients:
            ping(client)
        assert sum(loop.counters()["upgraded"] for loop in loops) == 20
        for client in clients:
            client.close()
        for loop, thread in zip(loops, threads, strict=True):
            loop.shut(1001, "", 1000)
            thread.join(10)
            assert not thread.is_alive()


# --- a turn ---


def test_everybody_who_is_ready_is_read_before_anybody_is_read_again() -> None:
    """More is there than a turn takes. epoll reports those first again whom it reported first."""
    n, each, payload = 24, 3, bytes(60_000)
    gate, came = threading.Event(), queue.Queue[int]()

    def on_message(conn: Any, message: bytes) -> None:
        if message == b"wait":
            assert gate.wait(20)
        else:
            came.put(id(conn))

    with running(on_message=on_message, schedule_timeout_us=20_000_000) as engine:
        pairs = [engine.connect_conn() for _ in range(n)]
        blocker = engine.connect()
        blocker.send_frame(raw.BINARY, b"wait")
        for client, _ in pairs:
            for _ in range(each):
                client.send_frame(raw.BINARY, payload)
        gate.set()
        order = [take(came, "on_message") for _ in range(n * each)]
    seen: dict[int, int] = {}
    for conn in order:
        seen[conn] = seen.get(conn, 0) + 1
        # What one reading brings may end behind a message; so two rounds may lie side by side, but no more.
        assert seen[conn] - min(seen.get(id(other), 0) for _, other in pairs) <= 2
    assert set(seen.values()) == {each}


def test_messages_of_those_who_end_while_others_wait_for_their_turn_go_to_nobody_else() -> None:
    """A callback ends everybody who was reported ready and has not had a turn; newcomers get their descriptors."""
    n, payload = 24, bytes(60_000)
    gate, entered = threading.Event(), threading.Event()
    conns: list[Any] = []
    came: list[tuple[Any, bytes]] = []

    def on_message(conn: Any, message: bytes) -> None:
        if message == b"wait":
            entered.set()
            assert gate.wait(20)
            return
        came.append((conn, message))
        if len(came) == 1:
            for other in conns:
                if other is not conn:
                    other.abort()

    with running(on_message=on_message, schedule_timeout_us=20_000_000) as engine:
        pairs = [engine.connect_conn() for _ in range(n)]
        conns += [conn for _, conn in pairs]
        blocker = engine.connect()
        blocker.send_frame(raw.BINARY, b"wait")
        wait(entered)
        for client, _ in pairs:
            client.send_frame(raw.BINARY, payload)
        late = [engine.connect(handshake=False) for _ in range(n)]
        for client in late:
            client.send(raw.request())
        gate.set()
        for client in late:
            assert client.recv_response().status == 101
            client.send_frame(raw.BINARY, b"late")
        wait_until(lambda: len(came) >= n + 1, "everybody who is left has said something")
        assert [message for _, message in came] == [payload] + [b"late"] * n
        assert len({id(conn) for conn, _ in came}) == n + 1


def test_who_fills_every_batch_leaves_room_for_those_behind() -> None:
    """Empty messages are short: one reading has ten thousand, and there is room for no second one."""
    once = 65536 // len(raw.frame(BINARY, b""))
    held = Held(max_inbox_messages=100_000)
    with held.engine as engine:
        flooders = [engine.connect() for _ in range(3)]
        for client in flooders:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        other = engine.connect()
        with held.while_it_is_kept(engine, 3 * 60_000 + 1):
            for client in flooders:
                client.send(raw.frame(BINARY, b"") * 60_000)
            other.send_frame(TEXT, b"word")
        assert held.by(other)[0] <= 3 * once
