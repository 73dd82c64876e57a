"""The option private_fds: more connections than RLIMIT_NOFILE, and a server like any other otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from live import ServerProcess, expect_eof, ping, serve, take, wait, wait_until
from raw import TEXT, RawClient

import unlimitedws
from unlimitedws import Accept, Options, Reject, aio

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

FILES = 64
SEATS = FILES - 24

FEW_FILES = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))
server = unlimitedws.NewServer("127.0.0.1:0", loops=3, private_fds=True)
closed = []

@server.on_message
def on_message(conn, message):
    conn.send(message)

@server.on_close
def on_close(conn):
    closed.append(conn.close_code)
"""


@contextlib.contextmanager
def clients_of(port: int, count: int) -> Iterator[list[RawClient]]:
    with contextlib.ExitStack() as opened:
        yield [opened.enter_context(RawClient(port)) for _ in range(count)]


def refused(port: int) -> bool:
    """Whether a newcomer is answered with 503."""
    with RawClient(port, handshake=False) as client:
        return client.recv_until_eof().startswith(b"HTTP/1.1 503 ")


# --- as many as the tables have room for ---


def test_there_are_as_many_connections_as_the_loops_have_room_for_and_each_echoes() -> None:
    with ServerProcess(FEW_FILES) as process:
        with clients_of(process.port, 3 * SEATS) as clients:
            for number, client in enumerate(clients):
                client.send_frame(TEXT, b"%d" % number)
            for number, client in enumerate(clients):
                assert client.recv_frame().payload == b"%d" % number
            assert process.ask("server.connections") == 3 * SEATS
            # None of them is a file of the process, which still has room for its own.
            assert process.ask("len(os.listdir('/proc/self/fd'))") < 20
            # And there is no more room in any table: who comes is told so.
            assert refused(process.port)
            assert process.ask("server.counters()['turned_away']") >= 1
            # Whoever leaves makes room, in whichever loop that is.
            for client in clients[::10]:
                client.close_cleanly(1000)
                client.close()
            wait_until(lambda: process.ask("server.connections") == 3 * SEATS - 12, "those have left")
            with clients_of(process.port, 12) as others:
                for other in others:
                    ping(other)
        wait_until(lambda: process.ask("server.connections") == 0, "all have left")
        # Their callbacks may still be on their way.
        wait_until(lambda: process.ask("len(closed)") >= 3 * SEATS + 12, "of each it is told")
        assert process.ask("len(closed)") == 3 * SEATS + 12


def test_max_connections_is_a_limit_on_all_loops_together() -> None:
    with serve(loops=3, private_fds=True, max_connections=5) as live:
        clients = [live.connect() for _ in range(5)]
        assert refused(live.port)
        clients[2].close_cleanly(1000)
        wait_until(lambda: live.server.counters()["descriptors"] == 4, "one has left")
        ping(live.connect())


# --- what is the process's stays the process's ---


def test_a_file_that_the_application_closes_is_closed() -> None:
    reading, writing = os.pipe()
    with serve(loops=2, private_fds=True) as live:
        ping(live.connect())
        os.close(writing)
        assert os.read(reading, 1) == b""
        os.close(reading)


def test_nobody_listens_any_more_when_the_server_has_stopped() -> None:
    server = unlimitedws.NewServer("127.0.0.1:0", loops=3, private_fds=True)
    port = server.local_addr.port
    for _ in range(20):
        server.start()
        with RawClient(port) as client:
            ping(client)
        server.stop(5)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)


def test_no_thread_is_left() -> None:
    def tasks() -> set[str]:
        return set(os.listdir("/proc/self/task"))

    # One of the test before may be about to end.
    before = tasks()
    with serve(loops=4, private_fds=True, pool=(8, 8)) as live:
        for _ in range(8):
            ping(live.connect())
        assert len(tasks() - before) >= 8
    # A thread that was joined may be there for a moment longer.
    wait_until(lambda: tasks() <= before, "the threads have gone")


# --- callbacks and hooks ---


def test_connections_of_other_loops_are_sent_to_from_a_callback() -> None:
    everybody: list[Any] = []

    def tell(conn: Any, message: Any) -> None:
        for other in everybody:
            other.send(message)

    with serve(loops=3, private_fds=True, on_message=tell) as live:
        pairs = [live.connect_conn() for _ in range(9)]
        everybody += [conn for _, conn in pairs]
        assert len({conn._loop for conn in everybody}) > 1
        for number in range(50):
            pairs[number % 9][0].send_frame(TEXT, b"%d" % number)
            for client, _ in pairs:
                assert client.recv_frame().payload == b"%d" % number


def test_hooks_of_the_handshake_know_the_peer_and_decide() -> None:
    seen = []

    def decide(request: Any) -> Any:
        seen.append(tuple(request.remote_addr))
        return Reject(403) if request.path == "/no" else Accept(user="somebody")

    with serve(loops=2, private_fds=True) as live:
        live.server.on_request = decide
        client, conn = live.connect_conn()
        assert conn.user == "somebody" and seen == [client.address]
        with RawClient(live.port, path="/no", handshake=False) as other:
            other.send(b"GET /no HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")  # fmt: skip
            assert other.recv_response().status == 403
            assert seen[1] == other.address


def test_a_sender_waits_for_a_peer_that_does_not_read_and_goes_on_when_it_does() -> None:
    with serve(private_fds=True, max_buffered_bytes=1 << 16, io_timeout=10.0) as live:
        client, conn = live.connect_conn(rcvbuf=4096)
        done = threading.Event()

        def send() -> None:
            for number in range(200):
                conn.send(b"%06d" % number * 10_000)
            done.set()

        thread = threading.Thread(target=send)
        thread.start()
        wait_until(lambda: conn.buffered_amount >= 1 << 16, "the queue is full")
        assert not done.is_set()
        for number in range(200):
            assert client.recv_frame().payload == b"%06d" % number * 10_000
        wait(done)
        thread.join()


# --- the end ---


def test_all_are_told_when_the_server_stops() -> None:
    with serve(loops=3, private_fds=True) as live:
        clients = [live.connect() for _ in range(30)]
        stopping = threading.Thread(target=live.server.stop, args=(5,))
        stopping.start()
        for client in clients:
            assert client.recv_close().code == 1001
            client.send_close(1001)
            expect_eof(client)
            client.close()
        stopping.join()
        assert not live.server.running
        assert sorted(take(live.ended).code for _ in clients) == [1001] * 30


def test_all_leave_in_turn_when_it_drains() -> None:
    with serve(loops=2, private_fds=True) as live:
        clients = [live.connect() for _ in range(10)]
        live.server.drain(0.2, wait=False)
        assert live.server.draining
        for client in clients:
            assert client.recv_close().code == 1012
            client.send_close(1012)
            expect_eof(client)
            client.close()
        wait_until(lambda: not live.server.running, "it has stopped")


def test_a_signal_stops_a_server_whose_callback_computes() -> None:
    with ServerProcess(
        'server = unlimitedws.NewServer("127.0.0.1:0", loops=2, private_fds=True, drain_time=0, close_timeout=0.5)\n'
        "server.on_message = lambda conn, message: conn.send(message)\n",
        "server.run(ready=lambda: print(server.local_addr.port, flush=True))\n",
    ) as process:
        client = RawClient(process.port)
        client.send_frame(TEXT, b"there")
        assert client.recv_frame().payload == b"there"
        process.signal(signal.SIGTERM)
        assert client.recv_close().code == 1001
        client.close()


# --- what it excludes ---


def test_workers_have_tables_of_their_own_anyway() -> None:
    with pytest.raises(ValueError, match="private_fds: not with workers"):
        Options(private_fds=True, workers=2)


def test_an_event_loop_of_others_cannot_drive_it() -> None:
    async def serve_there() -> None:
        async with aio.serve(lambda _: None, "127.0.0.1", 0, private_fds=True):
            pass

    with pytest.raises(ValueError, match="private_fds: must be False"):
        asyncio.run(serve_there())


def test_seats_follow_the_limit_that_is_in_force() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/proc/self/fd")) + 100
    server = unlimitedws.NewServer("127.0.0.1:0", loops=1, private_fds=True, raise_nofile_limit=False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        with server, contextlib.ExitStack() as opened:
            for _ in range(40):
                opened.enter_context(RawClient(server.local_addr.port))
            assert server.connections == 40
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
