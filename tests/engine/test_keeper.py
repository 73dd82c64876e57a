"""keeper: what other threads want with a connection's descriptor is done by the thread in whose table it is."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from live import ping, take, wait, wait_until
from loops import SETTINGS, Running, echo, running
from raw import TEXT, TIMEOUT
from uws_shims.keeper_shim import is_foreign, is_kept, tend

from _uws.core import Loop, seats_of_own
from unlimitedws import ConnectionClosed

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

MIB = 1 << 20


@pytest.fixture
def engine() -> Iterator[Running]:
    with running(private_fds=1, on_message=echo) as made:
        yield made


def sockets() -> int:
    """How many sockets this process has in its own table."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except FileNotFoundError:
            continue
    return found


# --- whose the descriptors are ---


def test_connections_are_not_in_the_table_of_the_process(engine: Running) -> None:
    before = sockets()
    client = engine.connect()
    client.send_frame(TEXT, b"here")
    assert client.recv_frame().payload == b"here"
    assert sockets() == before + 1
    assert is_kept(engine.loop) and is_foreign(engine.loop)


def test_a_loop_without_a_table_of_its_own_is_foreign_to_nobody() -> None:
    with running() as engine:
        ping(engine.connect())
        assert not is_foreign(engine.loop) and not is_kept(engine.loop)


def test_its_table_goes_with_the_loop() -> None:
    with running(private_fds=1) as engine:
        ping(engine.connect())
        port = engine.port
    # The keeper's copy of the listener, too: nobody is in a backlog that nobody sees to.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), TIMEOUT)


def test_a_listener_that_comes_later_is_refused(engine: Running) -> None:
    ping(engine.connect())
    with socket.create_server(("127.0.0.1", 0)) as late, pytest.raises(ValueError, match="table of its own"):
        engine.loop.listen(late.fileno())


def test_a_guest_cannot_drive_it() -> None:
    loop = Loop({**SETTINGS, "private_fds": 1}, lambda: None, lambda *_: None, None)
    with pytest.raises(RuntimeError, match="another table"):
        loop.enter()


def test_there_are_as_many_seats_as_descriptors_less_what_the_engine_needs() -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 30 <= seats_of_own()
    assert seats_of_own() < resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 20


# --- what others want ---


def test_abort_of_another_thread_sends_rst(engine: Running) -> None:
    client, conn = engine.connect_conn()
    address = tuple(conn.remote_addr)
    conn.abort()
    assert engine.end()[0] == 1006
    with pytest.raises(ConnectionResetError):
        client.sock.recv(1)
    # They were asked for while there was somebody.
    assert tuple(conn.remote_addr) == address == client.address
    engine.wait_empty()


def test_addresses_are_those_of_the_socket_from_any_thread(engine: Running) -> None:
    client, conn = engine.connect_conn()
    assert tuple(conn.remote_addr) == client.sock.getsockname()
    assert tuple(conn.local_addr) == client.sock.getpeername()
    seen: list[Any] = []
    threads = [
        threading.Thread(target=lambda: seen.extend(conn.remote_addr for _ in range(200))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert len(seen) == 800 and {tuple(one) for one in seen} == {client.sock.getsockname()}


def test_addresses_are_asked_for_while_the_loop_comes_to_its_end() -> None:
    stop = threading.Event()
    with running(private_fds=1) as engine:
        conns = [engine.connect_conn()[1] for _ in range(4)]

        def asking(conn: Any) -> None:
            while not stop.is_set():
                assert isinstance(conn.remote_addr.port, int)

        threads = [threading.Thread(target=asking, args=(conn,)) for conn in conns]
        for thread in threads:
            thread.start()
        engine.shut(timeout_ms=0)
        engine.join()
        stop.set()
        for thread in threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()


def test_all_queues_together_are_tended_by_the_keeper() -> None:
    with running(private_fds=1, max_buffered_total_bytes=4 * MIB, max_buffered_bytes=64 * MIB) as engine:
        pairs = [engine.connect_conn(rcvbuf=4096) for _ in range(3)]
        # The kernel takes some megabytes of each.
        for _, conn in pairs:
            with contextlib.suppress(ConnectionClosed):
                for _ in range(200):
                    conn.send(b"z" * 100_000)
        wait_until(lambda: engine.counter("overload_closed") >= 1, "somebody has gone")
        assert engine.counter("buffered_bytes") <= 4 * MIB
        # Below the limit it does nothing, and comes back.
        before = engine.counter("overload_closed")
        tend(engine.loop)
        assert engine.counter("overload_closed") == before


def test_a_pause_by_another_thread_holds_at_once_and_a_resume_wakes_the_keeper(engine: Running) -> None:
    client, conn = engine.connect_conn()
    for _ in range(50):
        conn.pause()
        client.send_frame(TEXT, b"one")
        assert conn.is_paused
        conn.resume()
        assert client.recv_frame().payload == b"one"
    engine.wait_for(slab_blocks=0)


# --- its end ---


def test_fork_leaves_numbers_alone_that_mean_others_files_in_the_child(engine: Running) -> None:
    clients = [engine.connect() for _ in range(20)]
    for client in clients:
        ping(client)
    # The numbers of the connections, and more: in this process they are these files.
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(60)]
    try:
        pid = os.fork()
        if pid == 0:
            try:
                for fd in files:
                    os.fstat(fd)
                os._exit(0)
            except OSError as exc:
                os._exit(exc.errno or 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, errno.EBADF
        for client in clients:
            client.send_frame(TEXT, b"still here")
            assert client.recv_frame().payload == b"still here"
    finally:
        for fd in files:
            os.close(fd)


def test_a_callback_that_blocks_holds_up_neither_pings_nor_newcomers() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def block(conn: Any, message: Any) -> None:
        entered.set()
        wait(go_on)

    with running(private_fds=1, on_message=block, record=False) as engine:
        first = engine.connect()
        first.send_frame(TEXT, b"go")
        wait(entered)
        ping(first)
        ping(engine.connect())
        go_on.set()


@pytest.mark.parametrize("runners", [1, 4])
def test_messages_of_many_are_delivered_in_order_and_one_at_a_time(runners: int) -> None:
    got: dict[Any, list[bytes]] = {}
    busy: set[Any] = set()
    lock = threading.Lock()
    wrong: list[Any] = []

    def note(conn: Any, message: bytes) -> None:
        with lock:
            if conn in busy:
                wrong.append(conn)
            busy.add(conn)
        got.setdefault(conn, []).append(message)
        conn.send(message)
        with lock:
            busy.discard(conn)

    with running(private_fds=1, on_message=note, runners=runners) as engine:
        pairs = [engine.connect_conn() for _ in range(8)]
        for number in range(200):
            for client, _ in pairs:
                client.send_frame(2, b"%d" % number)
        for client, conn in pairs:
            assert [client.recv_frame().payload for _ in range(200)] == [b"%d" % n for n in range(200)]
            assert got[conn] == [b"%d" % n for n in range(200)]
        assert wrong == []


def test_who_does_not_answer_is_dropped_when_the_loop_stops() -> None:
    with running(private_fds=1, on_message=echo) as engine:
        _, conn = engine.connect_conn()
        engine.shut(timeout_ms=200)
        engine.join()
        assert take(engine.ended, "on_close")[0] in (1001, 1006)
        assert not conn.is_open
