"""What callbacks and other threads may do with a conn and a server, over real sockets.

Reading on, writing into a full buffer, using what is closed, stopping, changing hooks, errors, addresses.
"""

from __future__ import annotations

import array
import contextlib
import logging
import queue
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import raw
from fixtures import open_fds
from live import (
    STOP_TIMEOUT,
    ServerProcess,
    each_mode,
    echo,
    expect_eof,
    expect_goodbye,
    frames,
    ping,
    serve,
    take,
    wait,
    wait_until,
)
from raw import BINARY, CLOSE, PING, PONG, TEXT, TIMEOUT, Frame, RawClient

import unlimitedws
from unlimitedws import ConnectionClosed, wsutil

pytestmark = pytest.mark.usefixtures("both_tables", "no_fd_leaks")


# --- reading on in one callback ---


@each_mode
def test_second_read_in_one_callback_waits_for_the_next_message(pool: Any) -> None:
    waiting = threading.Event()

    def read_two(conn: Any) -> None:
        first = wsutil.read_client_text(conn)
        waiting.set()
        second = wsutil.read_client_text(conn)
        conn.send(first + second)

    with serve(pool=pool, io_timeout=TIMEOUT, on_read=read_two) as live:
        client = live.connect()
        client.send_frame(TEXT, "a")
        wait(waiting, "the callback")
        client.send_frame(TEXT, "b")
        assert client.recv_message() == "ab"
        # Both were consumed: the next message is a first one again.
        client.send(frames((TEXT, "c"), (TEXT, "d")))
        assert client.recv_message() == "cd"


@each_mode
def test_second_read_that_gets_nothing_raises_timeouterror_after_the_io_timeout(pool: Any) -> None:
    result: queue.Queue[Any] = queue.Queue()

    def read_two(conn: Any) -> None:
        message = wsutil.read_client_text(conn)
        start = time.monotonic()
        try:
            wsutil.read_client_text(conn)
        except TimeoutError as exc:
            result.put((time.monotonic() - start, exc))
        conn.send(message)

    with serve(pool=pool, io_timeout=0.2, on_read=read_two) as live:
        client = live.connect()
        client.send_frame(TEXT, "a")
        waited, exc = take(result, "TimeoutError")
        assert isinstance(exc, TimeoutError)
        assert 0.2 <= waited < 2
        assert client.recv_message() == "a"
        # The connection is none the worse.
        client.send(frames((TEXT, "b"), (TEXT, "dropped by the second read")))
        assert client.recv_message() == "b"
        assert live.ended.empty()


@each_mode
def test_message_that_comes_after_the_timeout_gets_a_callback_of_its_own(pool: Any) -> None:
    timed_out = threading.Event()

    def read_two(conn: Any) -> None:
        message = wsutil.read_client_text(conn)
        conn.send(message)
        if message == "first":
            with pytest.raises(TimeoutError):
                wsutil.read_client_text(conn)
            timed_out.set()

    with serve(pool=pool, io_timeout=0.05, on_read=read_two) as live:
        client = live.connect()
        client.send_frame(TEXT, "first")
        wait(timed_out, "TimeoutError")
        client.send_frame(TEXT, "second")
        assert [client.recv_message(), client.recv_message()] == ["first", "second"]


@each_mode
def test_other_connections_go_on_while_one_callback_waits_to_read(pool: Any) -> None:
    waiting = threading.Event()

    def read(conn: Any) -> None:
        message = wsutil.read_client_text(conn)
        if message == "wait":
            waiting.set()
            message += wsutil.read_client_text(conn)
        conn.send(message)

    with serve(pool=pool, io_timeout=TIMEOUT, on_read=read, record_connects=False) as live:
        waiter, other = live.connect(), live.connect()
        waiter.send_frame(TEXT, "wait")
        wait(waiting, "the callback")
        ping(other)
        ping(waiter)
        late = live.connect()
        ping(late)
        for client in (other, late):
            client.send_frame(TEXT, "x")
            if pool is not None:
                # Inline, callbacks wait for the one that runs; with a pool nobody does.
                assert client.recv_message() == "x"
        waiter.send_frame(TEXT, " no more")
        assert waiter.recv_message() == "wait no more"
        if pool is None:
            assert [other.recv_message(), late.recv_message()] == ["x", "x"]


@each_mode
def test_read_that_waits_ends_with_connectionclosed_when_the_peer_goes(pool: Any) -> None:
    waiting = threading.Event()
    result: queue.Queue[Any] = queue.Queue()

    def read_two(conn: Any) -> None:
        wsutil.read_client_data(conn)
        waiting.set()
        try:
            wsutil.read_client_data(conn)
        except BaseException as exc:
            result.put(exc)

    with serve(pool=pool, io_timeout=6 * TIMEOUT, on_read=read_two) as live:
        for leave in (RawClient.reset, RawClient.shutdown, RawClient.send_close):
            waiting.clear()
            client = live.connect()
            client.send_frame(TEXT, "x")
            wait(waiting, "the callback")
            leave(client)
            assert isinstance(take(result, "the exception"), ConnectionClosed)
            take(live.ended, "on_close")
            client.close()


@each_mode
def test_message_left_unread_is_dropped(pool: Any) -> None:
    def read_some(conn: Any) -> None:
        conn.data = (conn.data or 0) + 1
        if conn.data % 2 == 0:
            conn.send(wsutil.read_client_text(conn))

    with serve(pool=pool, on_read=read_some) as live:
        client = live.connect()
        client.send(frames(*((TEXT, str(n)) for n in range(1, 11))))
        assert [client.recv_message() for _ in range(5)] == ["2", "4", "6", "8", "10"]


@each_mode
def test_read_text_drops_binary_before_it_and_the_other_way_round(pool: Any) -> None:
    def read(conn: Any) -> None:
        conn.send(wsutil.read_client_text(conn))
        conn.send(wsutil.read_client_binary(conn))

    with serve(pool=pool, io_timeout=TIMEOUT, on_read=read) as live:
        client = live.connect()
        client.send(frames((BINARY, b"dropped"), (TEXT, "text"), (TEXT, "dropped"), (BINARY, b"binary")))
        assert client.recv_message() == "text"
        assert client.recv_message() == b"binary"


def test_read_outside_of_a_callback_is_refused() -> None:
    with serve(on_read=echo) as live:
        client, conn = live.connect_conn()
        with pytest.raises(RuntimeError):
            wsutil.read_client_data(conn)
        client.send_frame(TEXT, "x")
        assert client.recv_message() == "x"


# --- writing into a full buffer ---

CHUNK = 64 * 1024


@each_mode
def test_write_into_a_full_buffer_raises_timeouterror_and_goes_on_when_the_client_reads(pool: Any) -> None:
    result: queue.Queue[Any] = queue.Queue()

    def flood(conn: Any) -> None:
        message = wsutil.read_client_text(conn)
        if message != "flood":
            conn.send(message)
            return
        sent = 0
        # The kernel's buffers hold a few megabytes at most.
        while sent < 4096:
            start = time.monotonic()
            try:
                conn.send(sent.to_bytes(4, "big") + bytes(CHUNK))
            except TimeoutError:
                result.put((sent, time.monotonic() - start))
                return
            sent += 1
        result.put((sent, 0.0))

    with serve(pool=pool, io_timeout=0.2, on_read=flood, max_buffered_bytes=4 * CHUNK) as live:
        client, other = live.connect(rcvbuf=16 * 1024), live.connect()
        client.send_frame(TEXT, "flood")
        sent, waited = take(result, "TimeoutError")
        assert 4 <= sent < 4096
        assert 0.2 <= waited < 2
        # Nobody else is concerned, and the connection is none the worse.
        other.send_frame(TEXT, "x")
        assert other.recv_message() == "x"
        assert live.ended.empty()
        for n in range(sent):
            assert client.recv_message() == n.to_bytes(4, "big") + bytes(CHUNK)
        # Of the one that was refused not a byte was sent.
        client.send_frame(TEXT, "there is room again")
        assert client.recv_message() == "there is room again"


@each_mode
def test_write_into_a_full_buffer_waits_until_the_client_reads(pool: Any) -> None:
    count = 300

    def flood(conn: Any) -> None:
        wsutil.read_client_data(conn)
        for n in range(count):
            conn.send(n.to_bytes(4, "big") + bytes(CHUNK))

    with serve(pool=pool, io_timeout=TIMEOUT, on_read=flood, max_buffered_bytes=2 * CHUNK) as live:
        client = live.connect(rcvbuf=16 * 1024)
        client.send_frame(TEXT, "flood")
        for n in range(count):
            assert client.recv_message() == n.to_bytes(4, "big") + bytes(CHUNK)
        assert live.errors.empty()


def test_buffer_of_a_client_that_does_not_read_stays_within_its_limit() -> None:
    with serve(io_timeout=0.01, on_read=echo, max_buffered_bytes=4 * CHUNK) as live:
        client, conn = live.connect_conn(rcvbuf=16 * 1024)
        with pytest.raises(TimeoutError):
            for _ in range(4096):
                conn.send(bytes(CHUNK))
        # The message that fills it is still taken whole; the kernel may have taken some since.
        assert 0 < conn.buffered_amount <= 5 * CHUNK + 16
        client.reset()
        take(live.ended, "on_close")
        assert conn.buffered_amount == 0


@each_mode
def test_message_longer_than_the_send_buffer_is_sent(pool: Any) -> None:
    payload = bytes(range(256)) * 16384
    with serve(pool=pool, io_timeout=TIMEOUT, on_read=echo) as live:
        client, conn = live.connect_conn()
        conn.send(payload)
        assert client.recv_message() == payload


def test_pings_of_a_client_that_does_not_read_do_not_fill_the_memory() -> None:
    body = """
server = unlimitedws.NewServer("127.0.0.1:0")
server.on_read = echo
"""
    with ServerProcess(body) as process, process.connect(rcvbuf=4096, timeout=0.5) as client:
        before, _ = process.memory_bytes()
        pings = frames(*((PING, b"x" * 125) for _ in range(1000)))
        with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
            # 130 MB, unless the server stops reading or gives up.
            for _ in range(1000):
                client.send(pings)
        after, _ = process.memory_bytes()
        assert after - before < 16 * 1024 * 1024
        with process.connect() as other:
            ping(other)


# --- what may be sent ---


@pytest.mark.parametrize(
    "message, opcode, payload",
    [
        ("text", TEXT, b"text"),
        ("", TEXT, b""),
        ("é€🗺\x00", TEXT, "é€🗺\x00".encode()),
        (b"bytes", BINARY, b"bytes"),
        (b"", BINARY, b""),
        (bytearray(b"bytearray"), BINARY, b"bytearray"),
        (memoryview(b"memoryview")[2:6], BINARY, b"mory"),
        (array.array("I", [1, 2]), BINARY, array.array("I", [1, 2]).tobytes()),
    ],
    ids=["str", "empty str", "unicode", "bytes", "empty bytes", "bytearray", "memoryview", "array"],
)
def test_send_takes_text_and_buffers(message: Any, opcode: int, payload: bytes) -> None:
    def answer(conn: Any, _: Any) -> None:
        conn.send(message)

    with serve(on_message=answer) as live:
        client, conn = live.connect_conn()
        conn.send(message)
        assert client.recv_frame() == Frame(True, 0, opcode, payload)
        client.send_frame(TEXT, "from a callback too")
        assert client.recv_frame() == Frame(True, 0, opcode, payload)


@pytest.mark.parametrize("message", [None, 1, 1.5, ["x"], {"a": 1}, object()], ids=repr)
def test_send_refuses_what_is_neither_text_nor_buffer(message: Any) -> None:
    with serve(on_read=echo) as live:
        client, conn = live.connect_conn()
        with pytest.raises(TypeError):
            conn.send(message)
        ping(client)


def test_send_refuses_lone_surrogates_and_the_connection_lives() -> None:
    with serve(on_read=echo) as live:
        client, conn = live.connect_conn()
        with pytest.raises(UnicodeEncodeError):
            conn.send("\ud800")
        ping(client)


def test_send_refuses_a_buffer_with_holes() -> None:
    with serve(on_read=echo) as live:
        client, conn = live.connect_conn()
        with pytest.raises((TypeError, BufferError)):
            conn.send(memoryview(b"abcdef")[::2])
        ping(client)


def test_message_is_what_it_was_when_it_was_sent() -> None:
    message = bytearray(b"x" * 3_000_000)
    with serve(on_read=echo) as live:
        client, conn = live.connect_conn(rcvbuf=16 * 1024)
        # More than the kernel takes at once: the rest waits in our queue.
        conn.send(message)
        message[:] = b"y" * len(message)
        assert client.recv_message() == b"x" * 3_000_000


def test_ping_is_sent_with_its_payload() -> None:
    with serve(on_read=echo) as live:
        client, conn = live.connect_conn()
        conn.ping()
        assert client.recv_frame() == Frame(True, 0, PING, b"")
        conn.ping(b"x" * 125)
        assert client.recv_frame() == Frame(True, 0, PING, b"x" * 125)
        with pytest.raises(ValueError):
            conn.ping(b"x" * 126)
        client.send_frame(PONG, b"x" * 125)
        ping(client)


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536])
def test_close_refuses_codes_that_may_not_be_sent(code: int) -> None:
    with serve(on_read=echo) as live:
        client, conn = live.connect_conn()
        with pytest.raises(ValueError):
            conn.close(code)
        client.send_frame(TEXT, "still open")
        assert client.recv_message() == "still open"


def test_close_refuses_a_reason_that_does_not_fit() -> None:
    with serve(on_read=echo) as live:
        client, conn = live.connect_conn()
        with pytest.raises(ValueError):
            conn.close(1000, "é" * 62)
        conn.close(1000, "é" * 61)
        assert client.recv_close() == (1000, "é" * 61)


def test_close_sends_first_what_was_sent_before() -> None:
    def answer(conn: Any, message: str) -> None:
        for n in range(10):
            conn.send(f"{message} {n}")
        conn.close(4000, "that was all")

    with serve(on_message=answer) as live:
        client = live.connect()
        client.send_frame(TEXT, "x")
        assert [client.recv_message() for _ in range(10)] == [f"x {n}" for n in range(10)]
        assert client.recv_close() == (4000, "that was all")


@each_mode
def test_close_in_a_callback_drops_the_messages_behind(pool: Any) -> None:
    read: list[str] = []

    def once(conn: Any, message: str) -> None:
        read.append(message)
        conn.close(1000, "enough")

    with serve(pool=pool, on_message=once) as live:
        client = live.connect()
        client.send(frames(*((TEXT, str(n)) for n in range(5))))
        assert client.recv_close() == (1000, "enough")
        client.send_close(1000)
        expect_eof(client)
        take(live.ended, "on_close")
    assert read == ["0"]


# --- from elsewhere ---


@each_mode
def test_send_from_another_thread_is_not_held_until_the_next_event(pool: Any) -> None:
    with serve(pool=pool, on_read=echo) as live:
        client, conn = live.connect_conn()
        # Nothing else happens: only the send itself can wake the loop.
        for n in range(100):
            conn.send(str(n))
            assert client.recv_message() == str(n)


def test_send_from_another_thread_while_a_callback_runs() -> None:
    entered, release = threading.Event(), threading.Event()

    def slow(conn: Any, message: str) -> None:
        entered.set()
        wait(release)

    with serve(on_message=slow) as live:
        client, conn = live.connect_conn()
        client.send_frame(TEXT, "x")
        wait(entered, "the callback")
        try:
            conn.send("while it runs")
            assert client.recv_message() == "while it runs"
        finally:
            release.set()


@each_mode
def test_callback_of_one_connection_sends_to_all_the_others(pool: Any) -> None:
    members: set[Any] = set()
    lock = threading.Lock()

    def join(conn: Any) -> None:
        with lock:
            members.add(conn)

    def tell_all(conn: Any, message: str) -> None:
        with lock:
            for member in members:
                member.send(message)

    with serve(pool=pool, on_connect=join, on_message=tell_all) as live:
        clients = [live.connect_conn()[0] for _ in range(10)]
        wait_until(lambda: len(members) == 10, "all have joined")
        for n, client in enumerate(clients):
            client.send_frame(TEXT, f"from {n}")
            assert [other.recv_message() for other in clients] == [f"from {n}"] * 10


def test_close_from_another_thread() -> None:
    with serve(on_read=echo) as live:
        client, conn = live.connect_conn()
        assert conn.is_open and conn.close_code is None and conn.close_reason is None
        conn.close(4001, "from outside")
        assert not conn.is_open
        assert client.recv_close() == (4001, "from outside")
        client.send_close(4001)
        expect_eof(client)
        assert take(live.ended, "on_close").code == 4001


def test_abort_drops_the_connection_at_once() -> None:
    with serve(on_read=echo) as live:
        client, conn = live.connect_conn()
        conn.abort()
        with contextlib.suppress(ConnectionResetError):
            assert client.recv_until_eof() == b""
        assert take(live.ended, "on_close").code == 1006


# --- after the close ---


def uses(conn: Any) -> list[Callable[[], None]]:
    return [
        lambda: conn.send("x"),
        lambda: conn.send(b"x"),
        lambda: conn.ping(),
        lambda: wsutil.write_server_text(conn, "x"),
        lambda: wsutil.write_server_binary(conn, b"x"),
        lambda: wsutil.write_server_message(conn, unlimitedws.OpCode.TEXT, "x"),
    ]


@each_mode
def test_use_after_close_raises_connectionclosed(pool: Any) -> None:
    in_on_close: list[BaseException] = []

    def bury(conn: Any) -> None:
        for use in uses(conn):
            try:
                use()
            except ConnectionClosed as exc:
                in_on_close.append(exc)

    with serve(pool=pool, on_read=echo, on_close=bury) as live:
        client, conn = live.connect_conn()
        address = conn.remote_addr
        client.close_cleanly(1000, "bye")
        wait_until(lambda: len(in_on_close) == len(uses(conn)), "every use in on_close is refused")
        for use in uses(conn):
            with pytest.raises(ConnectionClosed) as caught:
                use()
            assert (caught.value.code, caught.value.reason) == (1000, "bye")
        conn.close()
        conn.abort()
        assert (conn.close_code, conn.close_reason, conn.is_open) == (1000, "bye", False)
        assert conn.remote_addr == address
        assert conn.data is None
    # And when the server is gone.
    with pytest.raises(ConnectionClosed):
        conn.send("x")
    assert isinstance(hash(conn), int) and repr(conn)


def test_use_after_close_never_reaches_the_socket_that_has_the_descriptor_now() -> None:
    body = """
kept = []

def attempt(conn):
    outcome = []
    for use in (lambda: conn.send("stray"), lambda: conn.ping(b"stray"), lambda: conn.close(4000, "stray"),
                lambda: conn.abort(), lambda: wsutil.write_server_text(conn, "stray")):
        try:
            outcome.append(use())
        except unlimitedws.ConnectionClosed:
            outcome.append("ConnectionClosed")
    return outcome

server = unlimitedws.NewServer("127.0.0.1:0")
server.on_read = echo

@server.on_connect
def keep(conn):
    conn.data = len(kept)
    kept.append(conn)
"""
    with ServerProcess(body) as process:
        for turn in range(3):
            idle = process.fds()
            with process.connect() as first:
                wait_until(lambda n=2 * turn + 1: process.ask("len(kept)") == n, "on_connect")  # type: ignore[misc]
                (descriptor,) = process.fds() - idle
                first.close_cleanly()
            wait_until(lambda before=idle: process.fds() == before, "the descriptor is free")  # type: ignore[misc]
            with process.connect() as second:
                assert process.fds() - idle == {descriptor}
                refused = ["ConnectionClosed", "ConnectionClosed", None, None, "ConnectionClosed"]
                for _ in range(10):
                    assert process.ask(f"attempt(kept[{2 * turn}])") == refused
                # Nothing strayed here: the very next frame is the pong.
                ping(second)
                wait_until(lambda n=2 * turn + 2: process.ask("len(kept)") == n, "on_connect")  # type: ignore[misc]
                assert process.ask(f"kept[{2 * turn}] == kept[{2 * turn + 1}]") is False
                assert process.ask("len(set(kept))") == 2 * turn + 2
                assert process.ask("[conn.data for conn in kept]") == list(range(2 * turn + 2))
                second.close_cleanly()
            wait_until(lambda before=idle: process.fds() == before, "the descriptor is free")  # type: ignore[misc]


# --- stop ---


@each_mode
def test_stop_flushes_what_was_accepted_and_says_1001_to_every_client(pool: Any) -> None:
    big = bytes(range(256)) * 2048
    with serve(pool=pool, io_timeout=TIMEOUT, on_read=echo, close_timeout=TIMEOUT) as live:
        reader, conn = live.connect_conn(rcvbuf=16 * 1024)
        others = [live.connect_conn() for _ in range(5)]
        # Far more than the kernel takes: it waits in our queue when stop is called.
        for _ in range(4):
            conn.send(big)
        stopper = threading.Thread(target=live.server.stop, args=(TIMEOUT,))
        stopper.start()
        for _ in range(4):
            assert reader.recv_message() == big
        for client in [reader, *(client for client, _ in others)]:
            assert client.recv_close().code == 1001
            client.send_close(1001)
            expect_eof(client)
            client.close()
        stopper.join(TIMEOUT)
        assert not stopper.is_alive()
        ended = {take(live.ended, "on_close")[:2] for _ in range(6)}
        assert ended == {(each, 1001) for each in [conn, *(each for _, each in others)]}
        assert live.server.connections == 0
        with pytest.raises(ConnectionRefusedError):
            RawClient(live.port)
    assert live.ended.empty()


@each_mode
def test_stop_delivers_what_had_been_read_before_it(pool: Any) -> None:
    entered, release = threading.Event(), threading.Event()

    def slow(conn: Any, message: str) -> None:
        entered.set()
        wait(release)
        conn.send(message)

    with serve(pool=pool, on_message=slow, close_timeout=TIMEOUT) as live:
        client = live.connect()
        client.send_frame(TEXT, "in work")
        wait(entered, "the callback")
        stopper = threading.Thread(target=live.server.stop, args=(TIMEOUT,))
        stopper.start()
        release.set()
        # The callback that ran is finished; whether its answer is still sent or refused, the end is in order.
        got = client.recv_frame()
        if got.opcode == TEXT:
            assert got.payload == b"in work"
            got = client.recv_frame()
        assert got == Frame(True, 0, CLOSE, (1001).to_bytes(2, "big"))
        client.send_close(1001)
        expect_eof(client)
        client.close()
        stopper.join(TIMEOUT)
        assert not stopper.is_alive()


def test_stop_does_not_wait_longer_than_it_was_told_for_clients_that_say_nothing() -> None:
    with serve(on_read=echo, close_timeout=6 * TIMEOUT) as live:
        clients = [live.connect() for _ in range(5)]
        start = time.monotonic()
        live.server.stop(0.3)
        assert time.monotonic() - start < TIMEOUT
        for client in clients:
            assert client.recv_close().code == 1001
        assert len({take(live.ended, "on_close").conn for _ in clients}) == 5


def test_stopped_server_holds_no_descriptor_though_its_conns_are_held() -> None:
    before = open_fds()
    with serve(on_read=echo) as live:
        client, conn = live.connect_conn()
        client.close_cleanly()
        take(live.ended, "on_close")
    assert {fd: target for fd, target in open_fds().items() if before.get(fd) != target} == {}
    assert not conn.is_open


def test_stop_drops_handshakes_under_way() -> None:
    with serve(on_read=echo) as live:
        half = live.connect(handshake=False)
        half.send(raw.request()[:-2])
        live.connect().close_cleanly()
        start = time.monotonic()
        live.server.stop(STOP_TIMEOUT)
        assert time.monotonic() - start < STOP_TIMEOUT
        with contextlib.suppress(ConnectionResetError):
            half.recv_until_eof()


def test_stop_in_a_callback_stops_the_server() -> None:
    with serve(on_message=lambda conn, message: live.server.stop()) as live:
        client = live.connect()
        client.send_frame(TEXT, "stop")
        assert client.recv_close().code == 1001
        client.send_close(1001)
        expect_eof(client)
        client.close()
        wait_until(lambda: not live.server.running, "the server has stopped")


def test_server_can_be_started_again() -> None:
    with serve(on_read=echo) as live:
        for n in range(3):
            client = live.connect()
            client.send_frame(TEXT, str(n))
            assert client.recv_message() == str(n)
            client.close_cleanly()
            live.server.stop(STOP_TIMEOUT)
            live.server.start()
        live.connect().close_cleanly()


RUN = """
server.on_connect = lambda conn: conn.send("welcome")
try:
    server.run(ready=lambda: print(server.local_addr.port, flush=True))
finally:
    print("run returned", flush=True)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1001), (signal.SIGTERM, 1012)])
def test_run_stops_in_good_order_at_a_signal(number: signal.Signals, code: int) -> None:
    with ServerProcess('server = unlimitedws.DefaultServer("127.0.0.1:0", drain_time=0.05)', RUN) as process:
        client = process.connect()
        assert client.recv_message() == "welcome"
        process.signal(number)
        assert client.recv_close().code == code
        client.send_close(code)
        expect_eof(client)
        client.close()
        assert process.read_line() == "run returned"


@pytest.mark.parametrize("kind", ["NewServer", "DefaultServer"])
def test_systemexit_in_a_callback_stops_the_server_and_comes_out_of_run(kind: str) -> None:
    body = f"""
server = unlimitedws.{kind}("127.0.0.1:0")

@server.on_message
def leave(conn, message):
    raise SystemExit(int(message))
"""
    process = ServerProcess(body, RUN)
    try:
        client, other = process.connect(), process.connect()
        for each in (client, other):
            assert each.recv_message() == "welcome"
        client.send_frame(TEXT, "7")
        assert client.recv_close().code in (1001, 1011)
        client.send_close(1001)
        assert other.recv_close().code == 1001
        other.send_close(1001)
        for each in (client, other):
            expect_eof(each)
            each.close()
        assert process.read_line() == "run returned"
        process.finish(7)
    finally:
        process.kill()


# --- hooks ---


@each_mode
def test_hooks_may_be_swapped_while_the_server_runs(pool: Any) -> None:
    with serve(pool=pool, on_read=echo) as live:
        client = live.connect()

        def ask(message: str) -> Any:
            client.send_frame(TEXT, message)
            return client.recv_message()

        assert ask("a") == "a"

        @live.server.on_read
        def shout(conn: Any) -> None:
            conn.send(wsutil.read_client_text(conn).upper())

        assert ask("a") == "A"
        # on_message, where it is set, is used instead of on_read.
        live.server.on_message = lambda conn, message: conn.send(f"<{message}>")
        assert ask("a") == "<a>"
        live.server.on_message = None
        assert ask("a") == "A"
        live.server.on_read = echo
        assert ask("a") == "a"

        closed = threading.Event()
        live.server.on_close = lambda conn: closed.set()
        client.close_cleanly()
        wait(closed, "the new on_close")
    assert live.ended.empty()


@each_mode
def test_on_message_gets_str_for_text_and_bytes_for_binary(pool: Any) -> None:
    got: queue.Queue[Any] = queue.Queue()
    with serve(pool=pool, on_message=lambda conn, message: got.put((conn, message))) as live:
        client, conn = live.connect_conn()
        client.send(frames((TEXT, "é"), (BINARY, b"\xff"), (TEXT, ""), (BINARY, b"")))
        for expected in ("é", b"\xff", "", b""):
            who, message = take(got, "on_message")
            assert who is conn
            assert type(message) is type(expected) and message == expected


# --- errors ---


@each_mode
@pytest.mark.parametrize("hook", ["on_connect", "on_read", "on_message"])
def test_exception_in_a_hook_is_logged_reported_and_closes_that_connection_with_1011(
    pool: Any, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    boom = RuntimeError(f"{hook} went wrong")

    def fail(conn: Any, *_: Any) -> None:
        if armed.is_set():
            raise boom

    armed = threading.Event()
    with caplog.at_level(logging.ERROR, logger="unlimitedws"), serve(pool=pool, **{hook: fail}) as live:
        bystander, innocent = live.connect_conn()
        armed.set()
        client, conn = live.connect_conn()
        if hook != "on_connect":
            client.send_frame(TEXT, "x")
        expect_goodbye(client, 1011)
        assert take(live.errors, "on_error") == (conn, boom)
        ended = take(live.ended, "on_close")
        assert (ended.conn, ended.code) == (conn, 1011)
        armed.clear()
        ping(bystander)
        bystander.close_cleanly()
        assert take(live.ended, "on_close").conn is innocent
    assert live.errors.empty() and live.ended.empty()
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert logged == [boom]


@each_mode
def test_exception_in_on_close_is_reported_and_nobody_else_is_concerned(pool: Any) -> None:
    boom = RuntimeError("on_close went wrong")

    def fail(conn: Any) -> None:
        raise boom

    with serve(pool=pool, on_read=echo, on_close=fail) as live:
        bystander = live.connect()
        client = live.connect()
        client.close_cleanly()
        take(live.ended, "on_close")
        assert take(live.errors, "on_error")[1] is boom
        bystander.send_frame(TEXT, "x")
        assert bystander.recv_message() == "x"
        bystander.close_cleanly()
        take(live.ended, "on_close")
    assert live.ended.empty()


@each_mode
def test_exception_in_on_error_is_logged_and_the_server_lives(
    pool: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = ValueError("first"), ValueError("second")

    def fail(conn: Any) -> None:
        raise first

    def fail_again(conn: Any, exc: BaseException) -> None:
        raise second

    with caplog.at_level(logging.ERROR, logger="unlimitedws"), serve(pool=pool, on_read=fail) as live:
        live.server.on_error = fail_again
        client = live.connect()
        client.send_frame(TEXT, "x")
        expect_goodbye(client, 1011)
        ping(live.connect())
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert logged == [first, second]


@each_mode
def test_messages_behind_an_error_are_not_delivered(pool: Any) -> None:
    read: list[str] = []

    def fail(conn: Any, message: str) -> None:
        read.append(message)
        raise ValueError(message)

    with serve(pool=pool, on_message=fail) as live:
        client = live.connect()
        client.send(frames((TEXT, "a"), (TEXT, "b"), (TEXT, "c")))
        expect_goodbye(client, 1011)
        take(live.ended, "on_close")
    assert read == ["a"]


def test_peer_that_left_during_a_callback_is_no_error_of_the_callback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entered, release = threading.Event(), threading.Event()

    def answer_late(conn: Any, message: str) -> None:
        entered.set()
        wait(release)
        wait_until(lambda: not conn.is_open, "the engine sees the end")
        conn.send(message)

    with (
        caplog.at_level(logging.ERROR, logger="unlimitedws"),
        serve(pool=(2, 2), on_message=answer_late) as live,
    ):
        client = live.connect()
        client.send_frame(TEXT, "x")
        wait(entered, "the callback")
        client.reset()
        release.set()
        assert take(live.ended, "on_close").code == 1006
    assert caplog.records == []


# --- the request and the addresses ---


@pytest.mark.parametrize(
    "target, path, query",
    [
        ("/", "/", ""),
        ("/chat", "/chat", ""),
        ("/chat/room?name=x&y=%20z", "/chat/room", "name=x&y=%20z"),
        ("/a%2Fb", "/a%2Fb", ""),
        ("/?", "/", ""),
        ("/?a?b=/c", "/", "a?b=/c"),
        ("//x", "//x", ""),
        ("http://example.org/absolute?form=1", "/absolute", "form=1"),
    ],
)
def test_path_and_query_are_those_of_the_request(target: str, path: str, query: str) -> None:
    with serve(on_message=lambda conn, message: conn.send(f"{conn.path} {conn.query}")) as live:
        client, conn = live.connect_conn(path=target)
        assert (conn.path, conn.query) == (path, query)
        client.send_frame(TEXT, "?")
        assert client.recv_message() == f"{path} {query}"


def test_ipv6() -> None:
    with serve("[::1]:0", on_read=echo) as live:
        assert live.server.local_addr.host == "::1"
        client, conn = live.connect_conn(host="::1")
        client.send_frame(TEXT, "six")
        assert client.recv_message() == "six"
        assert tuple(conn.remote_addr) == client.address
        assert tuple(conn.local_addr) == ("::1", live.port)


@pytest.mark.parametrize("host, shown", [("127.0.0.1", "127.0.0.1"), ("::1", "::1")])
def test_without_a_host_both_families_are_served_and_ipv4_looks_like_ipv4(host: str, shown: str) -> None:
    with serve(":0", on_read=echo) as live:
        client, conn = live.connect_conn(host=host)
        client.send_frame(TEXT, "x")
        assert client.recv_message() == "x"
        assert tuple(conn.remote_addr) == (shown, client.address[1])
        assert tuple(conn.local_addr) == (shown, live.port)
        assert conn.remote_addr.host == shown and conn.remote_addr.port == client.address[1]


def test_ipv4_host_does_not_serve_ipv6() -> None:
    with serve("127.0.0.1:0", on_read=echo) as live, pytest.raises(ConnectionRefusedError):
        RawClient(live.port, host="::1")
