"""What the Go original's own tests check: accept and close, a storm of both, setters, defaults, hooks, echo.

Its pool tests are in tests/library.
"""

from __future__ import annotations

import datetime
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fixtures import open_fds
from live import STOP_TIMEOUT, each_mode, echo, expect_eof, serve, take, wait, wait_until
from raw import BINARY, TEXT, RawClient

import unlimitedws
from unlimitedws import wsutil

pytestmark = pytest.mark.usefixtures("no_fd_leaks")


# --- accept and close ---


@each_mode
def test_accept_and_close(pool: Any) -> None:
    with serve(pool=pool) as live:
        client, conn = live.connect_conn()
        assert tuple(conn.remote_addr) == client.address
        assert tuple(conn.local_addr) == ("127.0.0.1", live.port)
        assert live.server.connections == 1
        client.close()
        assert take(live.ended, "on_close").conn is conn
        wait_until(lambda: live.server.connections == 0, "the connection is no longer counted")


def storm(port: int, count: int, reset: bool) -> None:
    """Connect and close, one after the other; reset leaves no TIME_WAIT behind."""
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@each_mode
def test_ten_thousand_connects_and_closes_in_a_row(pool: Any) -> None:
    with serve(pool=pool, on_read=echo) as live:
        before = len(open_fds())
        storm(live.port, 5_000, reset=False)
        storm(live.port, 5_000, reset=True)
        # The backlog is first in, first out: when this one is answered, the server has seen all the others.
        client = live.connect()
        client.send_frame(TEXT, "still here")
        assert client.recv_message() == "still here"
        client.close_cleanly()
        wait_until(lambda: len(open_fds()) <= before, "the descriptors are given back")
        assert live.server.connections == 0
        # None of them was a WebSocket connection but the last.
        assert take(live.ended, "on_close").code == 1000
    assert live.ended.empty()


@each_mode
def test_two_thousand_upgrades_and_closes_in_a_row(pool: Any) -> None:
    count = 2_000
    with serve(pool=pool, on_read=echo) as live:
        before = len(open_fds())
        for n in range(count):
            client = RawClient(live.port)
            if n % 2:
                client.reset()
            else:
                client.close_cleanly()
        conns = {id(take(live.opened, "on_connect")) for _ in range(count)}
        codes = [take(live.ended, "on_close").code for _ in range(count)]
        assert len(conns) <= count
        assert sorted(codes) == [1000] * (count // 2) + [1006] * (count // 2)
        wait_until(lambda: len(open_fds()) <= before, "the descriptors are given back")
        assert live.server.connections == 0
    assert live.opened.empty() and live.ended.empty()


def test_server_can_be_started_on_the_port_of_one_that_was_stopped() -> None:
    with serve(on_read=echo) as live:
        port = live.port
        client, conn = live.connect_conn()
        conn.close()
        client.recv_close()
        client.send_close()
        expect_eof(client)
    # The server closed first, so its end of that connection is in TIME_WAIT on the port.
    with serve(f"127.0.0.1:{port}", on_read=echo) as live:
        assert live.port == port
        live.connect().close_cleanly()


def test_address_in_use_is_reported_where_the_server_is_made() -> None:
    with serve() as live:
        with pytest.raises(OSError, match=r"(?i)address already in use"):
            unlimitedws.NewServer(f"127.0.0.1:{live.port}")
        live.connect().close_cleanly()


# --- pool and setters ---


@pytest.fixture
def server() -> Iterator[unlimitedws.Server]:
    """A server that does not run."""
    made = unlimitedws.NewServer("127.0.0.1:0")
    yield made
    made.stop(STOP_TIMEOUT)


def test_pool_without_workers_is_refused(server: unlimitedws.Server) -> None:
    with pytest.raises(ValueError, match="no worker"):
        server.set_pool(0, 1)


def test_pool_without_queue_is_refused(server: unlimitedws.Server) -> None:
    with pytest.raises(ValueError, match="no job in queue"):
        server.set_pool(1, 0)


@pytest.mark.parametrize("size", [(-1, 1), (1, -1), (-1, -1)])
def test_negative_pool_is_refused(server: unlimitedws.Server, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError):
        server.set_pool(*size)


def test_refused_pool_leaves_the_server_usable(server: unlimitedws.Server) -> None:
    with pytest.raises(ValueError):
        server.set_pool(0, 0)
    server.set_poller()
    with server, RawClient(server.local_addr.port) as client:
        client.close_cleanly()


SETTERS = ["set_schedule_timeout", "set_cooldown_time", "set_io_timeout"]


@pytest.mark.parametrize("setter", SETTERS)
@pytest.mark.parametrize(
    "value", [1, 0.25, datetime.timedelta(milliseconds=250)], ids=["int", "float", "timedelta"]
)
def test_setters_take_seconds_and_timedelta(server: unlimitedws.Server, setter: str, value: Any) -> None:
    getattr(server, setter)(value)
    in_seconds = value.total_seconds() if isinstance(value, datetime.timedelta) else value
    assert getattr(server.options, setter.removeprefix("set_")) == in_seconds


@pytest.mark.parametrize("setter", SETTERS)
@pytest.mark.parametrize("value", [-1, -0.001, float("nan"), datetime.timedelta(seconds=-1)], ids=str)
def test_setters_refuse_impossible_durations(server: unlimitedws.Server, setter: str, value: Any) -> None:
    with pytest.raises(ValueError):
        getattr(server, setter)(value)


@pytest.mark.parametrize("setter", SETTERS)
@pytest.mark.parametrize("value", ["1s", None, [1]], ids=str)
def test_setters_refuse_what_is_no_duration(server: unlimitedws.Server, setter: str, value: Any) -> None:
    with pytest.raises(TypeError):
        getattr(server, setter)(value)


# --- defaults ---


def test_defaults_are_those_of_go() -> None:
    server = unlimitedws.DefaultServer("127.0.0.1:0")
    try:
        options = server.options
        assert options.pool == (128, 128)
        assert (options.schedule_timeout, options.cooldown_time, options.io_timeout) == (0.001, 0.005, 0.1)
        assert server.connections == 0
    finally:
        server.stop(STOP_TIMEOUT)


def test_new_server_has_no_pool(server: unlimitedws.Server) -> None:
    assert server.options.pool is None


def test_default_server_has_a_pool_of_128_workers() -> None:
    entered, release = threading.Semaphore(0), threading.Event()
    workers = set()

    def block(conn: Any) -> None:
        wsutil.read_client_data(conn)
        workers.add(threading.get_ident())
        entered.release()
        wait(release)

    server = unlimitedws.DefaultServer("127.0.0.1:0")
    server.on_read = block
    clients: list[RawClient] = []
    with server:
        try:
            for _ in range(128):
                client = RawClient(server.local_addr.port)
                clients.append(client)
                client.send_frame(TEXT, "x")
            for n in range(128):
                assert entered.acquire(timeout=10), f"only {n} callbacks run side by side"
        finally:
            release.set()
            for client in clients:
                client.close()
    assert len(workers) == 128


def test_new_server_runs_callbacks_one_at_a_time() -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def count(conn: Any) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        message = wsutil.read_client_text(conn)
        # Gives a second callback the time to begin, if anything would let it.
        time.sleep(0.002)
        with lock:
            running -= 1
        conn.send(message)

    with serve(on_read=count) as live:
        clients = [live.connect() for _ in range(20)]
        for client in clients:
            client.send_frame(TEXT, "x")
        for client in clients:
            assert client.recv_message() == "x"
    assert most == 1


def test_hooks_do_nothing_unless_they_are_set() -> None:
    server = unlimitedws.NewServer("127.0.0.1:0")
    with server, RawClient(server.local_addr.port) as client:
        client.send_frame(TEXT, "nobody reads this")
        client.send_frame(BINARY, b"nor this")
        client.close_cleanly(1000)


# --- hooks ---


@each_mode
def test_each_hook_fires_with_its_arguments(pool: Any) -> None:
    calls: list[Any] = []

    def read(conn: Any) -> None:
        calls.append(("read", conn, wsutil.read_client_text(conn)))
        conn.send("seen")

    with serve(
        pool=pool,
        on_connect=lambda conn: calls.append(("connect", conn)),
        on_read=read,
        on_close=lambda conn: calls.append(("close", conn)),
    ) as live:
        client, conn = live.connect_conn()
        client.send_frame(TEXT, "hello")
        assert client.recv_message() == "seen"
        client.close_cleanly()
        take(live.ended, "on_close")
    assert calls == [("connect", conn), ("read", conn, "hello"), ("close", conn)]


@each_mode
@pytest.mark.parametrize(
    "read, write, opcode, payload",
    [
        (wsutil.read_client_text, wsutil.write_server_text, TEXT, "Größe, 大きさ, 🗺"),
        (wsutil.read_client_binary, wsutil.write_server_binary, BINARY, bytes(range(256))),
    ],
    ids=["text", "binary"],
)
def test_echo_gives_back_what_was_sent(pool: Any, read: Any, write: Any, opcode: int, payload: Any) -> None:
    with serve(pool=pool, on_read=lambda conn: write(conn, read(conn))) as live:
        client = live.connect()
        for _ in range(3):
            client.send_frame(opcode, payload)
            assert client.recv_message() == payload


@each_mode
def test_read_client_data_tells_the_opcode(pool: Any) -> None:
    got: list[Any] = []

    def read(conn: Any) -> None:
        msg, op = wsutil.read_client_data(conn)
        got.append((type(msg), msg, int(op)))
        wsutil.write_server_message(conn, op, msg)

    with serve(pool=pool, on_read=read) as live:
        client = live.connect()
        client.send_frame(TEXT, "text")
        assert client.recv_message() == "text"
        client.send_frame(BINARY, b"\x00\xff")
        assert client.recv_message() == b"\x00\xff"
    assert got == [(bytes, b"text", TEXT), (bytes, b"\x00\xff", BINARY)]
