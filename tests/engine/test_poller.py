"""poller: what epoll reports under which tag, and the bell that wakes it."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import wait_until
from uws_shims import poller_shim
from uws_shims.poller_shim import CONN, ERR, EXCLUSIVE, HUP, IN, LISTEN, OUT, WAKE, Poller

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_MS = 10_000
RANG = [(WAKE, 0, IN)]

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def poller(no_fd_leaks: None) -> Iterator[Poller]:
    made = Poller()
    yield made
    made.destroy()


@pytest.fixture
def pair(no_fd_leaks: None) -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("generation", [0, 1, 0xFFFFFF, 0x1000000, 0xFFFFFFFF])
def test_tag_is_that_of_one_generation(generation: int) -> None:
    assert poller_shim.tag_means(generation, generation)
    assert not poller_shim.tag_means(generation, (generation + 1) & 0xFFFFFFFF)
    assert not poller_shim.tag_means(generation, (generation - 1) & 0xFFFFFFFF)


def test_what_is_ready_carries_its_generation_beside_its_number(poller: Poller, pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(b"x")
    poller.add(ours.fileno(), IN, CONN, 0xFFFFFFFF, 0x12ABCDEF)
    assert poller.wait(0) == [(CONN, 0xFFFFFFFF, IN)]


def test_descriptors_are_not_inherited_and_go_back() -> None:
    poller = Poller()
    assert not any(os.get_inheritable(fd) for fd in poller.fds)
    fds = poller.fds
    poller.destroy()
    for fd in fds:
        with pytest.raises(OSError):
            os.fstat(fd)
    # A number that is somebody else's by now has to survive.
    others = [os.open("/dev/null", os.O_RDONLY) for _ in fds]
    poller.destroy()
    for fd in others:
        os.close(fd)


def test_wake_is_reported_once_however_often_it_was_asked_for(poller: Poller) -> None:
    assert poller.wait(0) == []
    for _ in range(1000):
        poller.wake()
    assert poller.wait(0) == RANG
    poller.awake()
    assert poller.wait(0) == []


def test_wake_stays_until_it_is_taken_note_of(poller: Poller) -> None:
    poller.wake()
    assert poller.wait(-1) == RANG
    assert poller.wait(-1) == RANG
    poller.awake()
    poller.wake()
    assert poller.wait(-1) == RANG


def test_wake_ends_a_wait_that_is_under_way(poller: Poller) -> None:
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(poller.wait(TIMEOUT_MS)))
    thread.start()
    poller.wake()
    thread.join()
    assert got == [RANG]


def test_neither_side_of_the_bell_ever_blocks(poller: Poller) -> None:
    poller.awake()
    os.write(poller.fds[1], (2**64 - 2).to_bytes(8, sys.byteorder))
    poller.wake()
    assert poller.wait(0) == RANG
    poller.awake()
    assert poller.wait(0) == []


@pytest.mark.parametrize("kind", [CONN, LISTEN])
@pytest.mark.parametrize("value", [0, 1, 1 << 24, 2**31 - 1, 2**32 - 1])
def test_tag_comes_back_as_it_was(
    poller: Poller, pair: Pair, kind: int, value: int
) -> None:
    ours, theirs = pair
    poller.add(ours.fileno(), IN, kind, value)
    assert poller.wait(0) == []
    theirs.send(b"x")
    assert poller.wait(TIMEOUT_MS) == [(kind, value, IN)]


def test_readiness_is_reported_as_long_as_it_lasts(
    poller: Poller, pair: Pair
) -> None:
    ours, theirs = pair
    poller.add(ours.fileno(), IN, CONN, 5)
    theirs.send(b"xy")
    assert poller.wait(0) == [(CONN, 5, IN)]
    ours.recv(1)
    assert poller.wait(0) == [(CONN, 5, IN)]
    ours.recv(1)
    assert poller.wait(0) == []


def test_change_asks_for_something_else(poller: Poller, pair: Pair) -> None:
    ours, theirs = pair
    poller.add(ours.fileno(), IN, CONN, 5)
    assert poller.wait(0) == []
    poller.change(ours.fileno(), OUT, LISTEN, 6)
    theirs.send(b"x")
    assert poller.wait(0) == [(LISTEN, 6, OUT)]
    poller.change(ours.fileno(), IN | OUT, CONN, 7)
    assert poller.wait(0) == [(CONN, 7, IN | OUT)]
    poller.change(ours.fileno(), 0, CONN, 7)
    assert poller.wait(0) == []


def test_hangup_is_reported_though_nothing_is_asked_for(poller: Poller) -> None:
    # Why conn_unpoll has to take such a descriptor out of the set.
    ours, theirs = socket.socketpair()
    poller.add(ours.fileno(), 0, CONN, 3)
    theirs.close()
    assert poller.wait(0) == [(CONN, 3, HUP)]
    ours.close()


def test_failed_connect_is_an_error(poller: Poller) -> None:
    with socket.socket() as unused, socket.socket() as sock:
        unused.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        sock.connect_ex(unused.getsockname())
        poller.add(sock.fileno(), IN, CONN, 3)
        ((_, _, events),) = poller.wait(TIMEOUT_MS)
        assert events & ERR


def test_of_those_who_listen_together_one_is_woken_and_who_was_served_is_the_last_of_the_line() -> None:
    # What accept_batch relies on: the kernel goes by the order of adding, and adding again tells of who waits.
    pollers = [Poller() for _ in range(3)]
    woken: queue.SimpleQueue[int] = queue.SimpleQueue()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, contextlib.ExitStack() as clients:
        for poller in pollers:
            poller.add(listener.fileno(), IN | EXCLUSIVE, LISTEN, 0)

        def serve(number: int) -> None:
            poller = pollers[number]
            while (LISTEN, 0, IN) in (ready := poller.wait(TIMEOUT_MS)):
                listener.accept()[0].close()
                poller.remove(listener.fileno())
                poller.add(listener.fileno(), IN | EXCLUSIVE, LISTEN, 0)
                woken.put(number)
            assert ready == RANG

        threads = [threading.Thread(target=serve, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        order = []
        for _ in range(60):
            wait_until(lambda: all(sleeps(thread) for thread in threads), "all wait")
            clients.enter_context(socket.create_connection(listener.getsockname()))
            order.append(woken.get(timeout=10))
        for poller in pollers:
            poller.wake()
        for thread in threads:
            thread.join()
    for poller in pollers:
        poller.destroy()
    # Adding it only once, one of them would have had nearly all.
    assert min(order.count(number) for number in range(3)) >= 10


def sleeps(thread: threading.Thread) -> bool:
    """Whether the kernel says that a thread sleeps: in epoll_wait, or for a moment because it wants the GIL."""
    return Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_removed_descriptor_is_silent_and_may_be_added_again(
    poller: Poller, pair: Pair
) -> None:
    ours, theirs = pair
    poller.add(ours.fileno(), IN, CONN, 5)
    theirs.send(b"x")
    poller.remove(ours.fileno())
    assert poller.wait(0) == []
    poller.remove(ours.fileno())
    poller.add(ours.fileno(), IN, CONN, 6)
    assert poller.wait(0) == [(CONN, 6, IN)]


def test_what_epoll_refuses_is_an_error_with_its_errno(
    poller: Poller, pair: Pair
) -> None:
    ours, theirs = pair
    poller.add(ours.fileno(), IN, CONN, 5)
    with pytest.raises(OSError) as twice:
        poller.add(ours.fileno(), IN, CONN, 5)
    with pytest.raises(OSError) as unknown:
        poller.change(theirs.fileno(), IN, CONN, 5)
    with open(__file__) as file, pytest.raises(OSError) as regular:
        poller.add(file.fileno(), IN, CONN, 5)
    closed = os.dup(0)
    os.close(closed)
    with pytest.raises(OSError) as gone:
        poller.add(closed, IN, CONN, 5)
    errors = [caught.value.errno for caught in (twice, unknown, regular, gone)]
    assert errors == [errno.EEXIST, errno.ENOENT, errno.EPERM, errno.EBADF]


def test_more_than_fits_is_reported_the_next_time(poller: Poller) -> None:
    pairs = [socket.socketpair() for _ in range(poller_shim.EVENTS + 40)]
    for i, (ours, _) in enumerate(pairs):
        poller.add(ours.fileno(), OUT, CONN, i)
    seen: set[int] = set()
    for _ in range(2):
        ready = poller.wait(0)
        assert len(ready) <= poller_shim.EVENTS
        seen.update(value for _, value, _ in ready)
        for _, value, _ in ready:
            poller.remove(pairs[value][0].fileno())
    assert seen == set(range(len(pairs)))
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_signal_ends_a_wait_with_nothing(poller: Poller) -> None:
    heard = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    try:
        # Again and again: the first may come before the wait has begun.
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        assert poller.wait(-1) == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert heard


@pytest.mark.parametrize("free", [0, 1])
def test_init_without_descriptors_says_emfile_and_keeps_none(free: int) -> None:
    program = f"""
import errno, os, resource
from uws_shims.poller_shim import Poller
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
        Poller()
    except OSError as exc:
        assert exc.errno == errno.EMFILE, exc
    else:
        raise AssertionError("made")
os.close(taken.pop())
os.close(taken.pop())
Poller()
"""
    head = f"import sys; sys.path[:0] = [{str(ROOT / 'src')!r}, {str(ROOT / 'tests')!r}]\n"
    done = subprocess.run([sys.executable, "-c", head + program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
