"""Server.drain, health, and what stop leaves behind: nothing."""

from __future__ import annotations

import http.client
import os
import threading
from functools import partial
from typing import Any

import pytest
from fixtures import open_fds
from live import Live, each_mode, expect_eof, serve, take, wait, wait_until
from raw import TEXT, RawClient

import unlimitedws
from unlimitedws import CloseCause, NewServer
from unlimitedws.auth import FirstMessageAuth

pytestmark = pytest.mark.usefixtures("no_fd_leaks")


def get(live: Live, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def kernel_threads() -> set[str]:
    """Threads of this process as the kernel counts them, those without Python included."""
    return set(os.listdir("/proc/self/task"))


class Background:
    """A call on a thread of its own, and what it raised."""

    def __init__(self, func: Any, *args: Any, **keywords: Any) -> None:
        self.raised: BaseException | None = None
        self._work = lambda: func(*args, **keywords)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as exc:
            self.raised = exc

    def end(self) -> None:
        self.thread.join(10)
        assert not self.thread.is_alive()
        if self.raised is not None:
            raise self.raised


@each_mode
def test_drain_asks_everybody_to_leave_and_waits_until_all_has_ended(pool: Any) -> None:
    with serve(pool=pool) as live:
        clients = [live.connect() for _ in range(5)]
        call = Background(live.server.drain, 0.2)
        for client in clients:
            assert client.recv_close() == (1012, "")
            client.send_close(1012)
            expect_eof(client)
        call.end()
        assert not live.server.running
        assert not live.server.draining
        ends = [take(live.ended) for _ in clients]
        assert {(end.code, end.conn.close_cause) for end in ends} == {(1012, CloseCause.DRAIN)}


def test_drain_of_a_server_without_connections_ends_at_once() -> None:
    with serve() as live:
        live.server.drain(600)
        assert not live.server.running


def test_drain_with_a_code_of_ones_own() -> None:
    with serve() as live:
        client = live.connect()
        live.server.drain(0, 4999, wait=False)
        assert client.recv_close().code == 4999
        client.send_close(4999)
        live.server.drain(600)
        assert not live.server.running


@pytest.mark.parametrize("code", [999, 1005, 1006, 1015, 2999, 5000])
def test_drain_refuses_a_code_that_may_not_be_sent(code: int) -> None:
    with serve() as live:
        client = live.connect()
        with pytest.raises(ValueError, match="may not be sent"):
            live.server.drain(0, code)
        assert not live.server.draining
        client.close_cleanly()


def test_drain_refuses_what_is_no_duration() -> None:
    with serve() as live:
        with pytest.raises(TypeError, match="over"):
            live.server.drain("1")
        with pytest.raises(ValueError, match="over"):
            live.server.drain(-1)
        assert not live.server.draining


@each_mode
def test_callback_that_drains_is_not_waited_for(pool: Any) -> None:
    with serve(pool=pool, on_message=lambda conn, message: (server[0].drain(0), conn.send("drains"))) as live:
        server = [live.server]
        client = live.connect()
        client.send_frame(TEXT, "go")
        assert client.recv_message() == "drains"
        assert client.recv_close().code == 1012
        client.send_close(1012)
        wait_until(lambda: not live.server.running, "it has stopped")


def test_stop_wins_over_a_drain() -> None:
    with serve() as live:
        client = live.connect()
        call = Background(live.server.drain, 600, jitter=False)
        # Without jitter a connection that is alone leaves at once: so another code would say what won.
        assert client.recv_close().code == 1012
        wait_until(lambda: live.server.draining, "it drains")
        live.server.stop(0)
        call.end()
        assert not live.server.running


def test_server_can_be_started_again_after_a_drain() -> None:
    with serve() as live:
        live.server.drain(0)
        live.server.start()
        assert not live.server.draining
        live.connect().close_cleanly()


def test_drain_of_a_server_that_never_ran_closes_its_socket() -> None:
    server = NewServer("127.0.0.1:0")
    server.drain(600)
    assert not server.running


def test_drain_says_so_when_a_callback_does_not_end() -> None:
    gate, inside = threading.Event(), threading.Event()

    def block(conn: Any, message: Any) -> None:
        inside.set()
        wait(gate)

    with serve(on_message=block, close_timeout=0.1) as live:
        live.connect().send_frame(TEXT, "hold")
        wait(inside)
        try:
            with pytest.raises(TimeoutError, match="unlimitedws-1"):
                live.server.drain(0.1)
            assert live.server.running
        finally:
            gate.set()


def test_stranger_is_asked_to_leave_too() -> None:
    async def nobody(*args: Any) -> None:
        raise AssertionError("it says nothing")

    server = NewServer("127.0.0.1:0")
    server.auth = FirstMessageAuth(nobody)
    with server:
        client = RawClient(server.local_addr.port)
        server.drain(0, wait=False)
        assert client.recv_close().code == 1012
        client.close()


@each_mode
def test_health_is_green_until_it_drains(pool: Any) -> None:
    with serve(pool=pool) as live:
        live.server.route("/healthz", unlimitedws.health(live.server))
        client = live.connect()
        assert get(live, "/healthz") == (200, b"ok\n")
        live.server.drain(3600, wait=False)
        assert live.server.draining
        assert get(live, "/healthz") == (503, b"draining\n")
        client.close_cleanly()


def test_health_of_another_server() -> None:
    with serve() as watched, serve() as health:
        health.server.route("/healthz", unlimitedws.health(watched.server))
        client = watched.connect()
        watched.server.drain(3600, wait=False)
        assert get(health, "/healthz") == (503, b"draining\n")
        client.close()


# What stop keeps


@each_mode
def test_stop_flushes_megabytes_to_a_client_that_reads(pool: Any) -> None:
    payload = bytes(range(256)) * 4096
    # Long enough for a client that the machine, or a sanitizer, slows down.
    with serve(pool=pool, close_timeout=5, max_buffered_bytes=1 << 30) as live:
        client, conn = live.connect_conn(rcvbuf=65536)
        for _ in range(24):
            conn.send(payload)
        assert conn.buffered_amount > len(payload)
        call = Background(live.server.stop, 30)
        wait_until(lambda: not conn.is_open, "it is closed on our side")
        for _ in range(24):
            assert client.recv_message() == payload
        assert client.recv_close().code == 1001
        client.send_close(1001)
        call.end()
        assert take(live.ended).code == 1001


@each_mode
def test_stop_leaves_no_thread_and_no_descriptor(pool: Any) -> None:
    async def later(request: Any) -> None:
        return None

    threads = kernel_threads()
    server = NewServer("127.0.0.1:0")
    if pool is not None:
        server.set_pool(*pool)
    ended = []
    server.on_close = lambda conn: ended.append(conn.close_code)
    server.on_message = lambda conn, message: conn.send(message)
    server.on_request = later
    server.on_host = lambda host: None
    port = server.local_addr.port
    before = open_fds()
    for _ in range(5):
        server.start()
        clients = [RawClient(port) for _ in range(6)]
        for client in clients:
            client.send_frame(TEXT, "x")
            assert client.recv_message() == "x"
        half = RawClient(port, handshake=False)
        half.send(b"GET / HT")
        answering = [Background(answer_close, client) for client in clients]
        server.stop()
        # At once, not in a while.
        assert {t.name for t in threading.enumerate() if t.name.startswith("unlimitedws")} == set()
        for one in answering:
            one.end()
        half.close()
        # Python lets go of one that ends a moment before the kernel does.
        wait_until(lambda: kernel_threads() <= threads, "the kernel has ended them")
        assert len(ended) == 6
        assert set(ended) == {1001}
        ended.clear()
    # But for the listening socket.
    assert len(open_fds()) == len(before) - 1


def answer_close(client: RawClient) -> None:
    got = client.recv_close()
    client.send_close(got.code)
    client.close()


def test_run_leaves_no_thread() -> None:
    threads = kernel_threads()
    for _ in range(20):
        server = NewServer("127.0.0.1:0")
        server.run(ready=partial(server.stop, 0))
        assert not any(thread.name.startswith("unlimitedws") for thread in threading.enumerate())
    wait_until(lambda: kernel_threads() <= threads, "the kernel has ended them")
