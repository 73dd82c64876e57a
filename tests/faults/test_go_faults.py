"""The faults of the Go original, each with a test that would catch it.

Real sockets and real threads. A test waits for the event; where it lets time pass, that is the case itself.
"""

from __future__ import annotations

import collections
import contextlib
import queue
import socket
import threading
import time
from typing import Any

import pytest
import raw
from live import (
    ServerProcess,
    data_segments_in,
    each_mode,
    echo,
    expect_eof,
    expect_failure,
    expect_goodbye,
    frames,
    ping,
    readable,
    send_bytewise,
    send_pieces,
    serve,
    take,
    wait,
    wait_until,
)
from raw import BINARY, CLOSE, CONT, PING, PONG, TEXT, TIMEOUT, Frame, RawClient

from unlimitedws import wsutil

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

# The default of set_io_timeout, in seconds: what the original cuts a connection off after.
IO_TIMEOUT = 0.1


# --- several reads of one connection at the same time ---


class Overlap:
    """Notes when two callbacks of one connection run at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: collections.Counter[Any] = collections.Counter()
        self.found: list[Any] = []

    @contextlib.contextmanager
    def watch(self, conn: Any) -> Any:
        with self._lock:
            self._inside[conn] += 1
            if self._inside[conn] > 1:
                self.found.append(conn.remote_addr)
        try:
            # Gives every other thread the chance that the rule denies it.
            time.sleep(0.0005)
            yield
        finally:
            with self._lock:
                self._inside[conn] -= 1


def test_callbacks_of_one_connection_never_overlap_and_keep_order_with_a_pool() -> None:
    messages, clients = 200, 4
    overlap = Overlap()
    got: dict[Any, list[int]] = collections.defaultdict(list)
    done: queue.Queue[Any] = queue.Queue()

    def collect(conn: Any) -> None:
        with overlap.watch(conn):
            number = int(wsutil.read_client_text(conn))
            got[conn].append(number)
            if number == messages - 1:
                done.put(conn)

    with serve(pool=(8, 64), on_read=collect) as live:
        connected = [live.connect() for _ in range(clients)]
        for start in range(0, messages, 5):
            for client in connected:
                # Some of them share a segment, some have their own.
                client.send(frames(*((TEXT, str(n)) for n in range(start, start + 4))))
                client.send_frame(TEXT, str(start + 4))
        conns = {take(done, "the last message") for _ in connected}
        assert len(conns) == clients
        assert overlap.found == []
        for conn in conns:
            assert got[conn] == list(range(messages))


def test_on_connect_returns_before_the_first_message_is_delivered() -> None:
    entered, release, order = threading.Event(), threading.Event(), []
    read = threading.Event()

    def welcome(conn: Any) -> None:
        entered.set()
        wait(release)
        order.append("connect")

    def note(conn: Any) -> None:
        order.append(wsutil.read_client_text(conn))
        read.set()

    with serve(pool=(8, 8), on_connect=welcome, on_read=note) as live:
        # The 101 may wait for on_connect or not; the message is behind the request in any case.
        client = live.connect(handshake=False)
        client.send(raw.request() + raw.frame(TEXT, "first"))
        wait(entered, "on_connect")
        try:
            assert not read.wait(0.1)
        finally:
            release.set()
        wait(read, "on_read")
        assert order == ["connect", "first"]


def test_on_close_waits_for_the_callback_that_is_running() -> None:
    entered, release, order = threading.Event(), threading.Event(), []

    def slow(conn: Any) -> None:
        entered.set()
        wait(release)
        order.append("read")

    with serve(pool=(8, 8), on_read=slow, on_close=lambda conn: order.append("close")) as live:
        client = live.connect()
        client.send_frame(TEXT, "x")
        wait(entered, "on_read")
        client.reset()
        # The loop serves another connection, so it has been around since.
        try:
            ping(live.connect())
            assert order == []
        finally:
            release.set()
        take(live.ended, "on_close")
        wait_until(lambda: order == ["read", "close"], "on_close comes after on_read")


# --- segments ---


@each_mode
@pytest.mark.parametrize("size", [0, 5, 125, 126, 300])
def test_message_split_over_two_segments_is_delivered_wherever_the_split_is(pool: Any, size: int) -> None:
    payload = bytes(i % 251 for i in range(size))
    whole = raw.frame(BINARY, payload)
    cuts = range(1, len(whole)) if size <= 5 else [1, 2, 3, 4, 6, 8, 9, len(whole) // 2, len(whole) - 1]
    with serve(pool=pool, on_read=echo) as live:
        client = live.connect()
        for cut in cuts:
            send_pieces(client, [whole[:cut], whole[cut:]])
            assert client.recv_message() == payload


def test_message_whose_second_segment_comes_after_the_io_timeout_is_delivered() -> None:
    whole = raw.frame(TEXT, "split in two")
    with serve(on_read=echo) as live:
        client = live.connect()
        client.send(whole[:9])
        time.sleep(3 * IO_TIMEOUT)
        client.send(whole[9:])
        assert client.recv_message() == "split in two"
        assert live.ended.empty()


@each_mode
@pytest.mark.parametrize("count", [2, 3, 50, 1000])
def test_every_message_of_one_segment_is_delivered(pool: Any, count: int) -> None:
    with serve(pool=pool, on_read=echo) as live:
        client = live.connect()
        client.send(frames(*((TEXT, str(n)) for n in range(count))))
        assert [client.recv_message() for _ in range(count)] == [str(n) for n in range(count)]


@each_mode
def test_whole_message_before_half_a_message_is_delivered_at_once(pool: Any) -> None:
    half = raw.frame(TEXT, "second")
    with serve(pool=pool, on_read=echo) as live:
        client = live.connect()
        client.send(raw.frame(TEXT, "first") + half[:7])
        assert client.recv_message() == "first"
        client.send(half[7:])
        assert client.recv_message() == "second"


@each_mode
def test_message_then_fin_in_one_event_is_delivered_answered_and_then_closed(pool: Any) -> None:
    order: list[Any] = []

    def answer(conn: Any) -> None:
        order.append("read")
        echo(conn)

    with serve(pool=pool, on_read=answer, on_close=lambda conn: order.append("close")) as live:
        for turn in range(50):
            order.clear()
            client = live.connect()
            client.send_frame(TEXT, f"last words {turn}")
            client.shutdown()
            assert client.recv_message() == f"last words {turn}"
            # Nobody said a close frame: 1006 for the application, and nothing but FIN is owed to the peer.
            assert take(live.ended, "on_close").code == 1006
            wait_until(lambda: order == ["read", "close"], "on_close comes after on_read")
            client.recv_until_eof()
            client.close()


@each_mode
def test_many_messages_then_close_frame_then_fin_are_all_delivered(pool: Any) -> None:
    with serve(pool=pool, on_read=echo) as live:
        client = live.connect()
        client.send(frames(*((TEXT, str(n)) for n in range(100))) + raw.close_frame(1000, "done"))
        client.shutdown()
        assert [client.recv_message() for _ in range(100)] == [str(n) for n in range(100)]
        assert client.recv_close().code == 1000
        expect_eof(client)
        assert take(live.ended, "on_close").code == 1000


# --- on_close ---


def die_of_clean_close(client: RawClient, conn: Any) -> None:
    client.close_cleanly(1000, "bye")


def die_of_reset(client: RawClient, conn: Any) -> None:
    client.reset()


def die_of_fin(client: RawClient, conn: Any) -> None:
    client.shutdown()
    client.recv_until_eof()


def die_of_fin_within_a_message(client: RawClient, conn: Any) -> None:
    client.send(raw.frame(TEXT, "half a message")[:8])
    client.shutdown()
    client.recv_until_eof()


def die_of_protocol_error(client: RawClient, conn: Any) -> None:
    client.send_frame(3, b"")
    expect_failure(client, 1002)


def die_of_protocol_error_and_reset(client: RawClient, conn: Any) -> None:
    client.send_frame(3, b"")
    client.reset()


def die_of_exception(client: RawClient, conn: Any) -> None:
    client.send_frame(TEXT, "raise")
    expect_goodbye(client, 1011)


def die_of_exception_then_fin(client: RawClient, conn: Any) -> None:
    client.send_frame(TEXT, "raise")
    client.shutdown()
    client.recv_until_eof()


def die_of_conn_close(client: RawClient, conn: Any) -> None:
    conn.close(4000, "go")
    assert client.recv_close() == (4000, "go")
    client.send_close(4000, "go")
    expect_eof(client)


def die_of_conn_close_twice(client: RawClient, conn: Any) -> None:
    conn.close(4000, "go")
    with contextlib.suppress(Exception):
        conn.close(4001, "again")
    assert client.recv_close() == (4000, "go")
    client.send_close(4000, "go")
    expect_eof(client)


def die_of_closing_at_the_same_time(client: RawClient, conn: Any) -> None:
    client.send_close(4000, "we both go")
    with contextlib.suppress(Exception):
        conn.close(4000, "we both go")
    assert client.recv_close().code == 4000
    expect_eof(client)


def die_of_silence_after_close(client: RawClient, conn: Any) -> None:
    conn.close(4000, "go")
    assert client.recv_close() == (4000, "go")
    # No answer: close_timeout ends it.
    client.recv_until_eof()


WAYS_TO_DIE = [
    (die_of_clean_close, 1000),
    (die_of_reset, 1006),
    (die_of_fin, 1006),
    (die_of_fin_within_a_message, 1006),
    (die_of_protocol_error, 1002),
    (die_of_protocol_error_and_reset, None),
    (die_of_exception, 1011),
    (die_of_exception_then_fin, None),
    (die_of_conn_close, 4000),
    (die_of_conn_close_twice, 4000),
    (die_of_closing_at_the_same_time, 4000),
    (die_of_silence_after_close, None),
]


@each_mode
@pytest.mark.parametrize("way, code", WAYS_TO_DIE, ids=lambda value: getattr(value, "__name__", None))
def test_on_close_comes_exactly_once(pool: Any, way: Any, code: int | None) -> None:
    calls: list[Any] = []

    def obey(conn: Any) -> None:
        if wsutil.read_client_text(conn) == "raise":
            raise ValueError("as told")

    with serve(pool=pool, on_read=obey, on_close=calls.append, close_timeout=0.3) as live:
        client, conn = live.connect_conn()
        way(client, conn)
        ended = take(live.ended, "on_close")
        assert ended.conn is conn
        if code is not None:
            assert ended.code == code
        wait_until(lambda: live.server.connections == 0, "the connection is no longer counted")
    # The server has stopped: whatever it would have called a second time, it has called by now.
    assert calls == [conn]


@each_mode
def test_on_close_comes_exactly_once_when_the_server_stops(pool: Any) -> None:
    calls: list[Any] = []
    with serve(pool=pool, on_read=echo, on_close=calls.append) as live:
        conns = [live.connect_conn()[1] for _ in range(5)]
        # None of them answers the close frame: they are dropped.
        live.server.stop(0.3)
        assert {take(live.ended, "on_close").conn for _ in conns} == set(conns)
    assert sorted(map(id, calls)) == sorted(map(id, conns))


@each_mode
def test_no_on_close_for_a_connection_that_was_never_upgraded(pool: Any) -> None:
    with serve(pool=pool, on_read=echo) as live:
        refused = live.connect(handshake=False)
        refused.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert refused.recv_response().status == 426
        refused.close()
        silent = live.connect(handshake=False)
        silent.close()
        half = live.connect(handshake=False)
        half.send(raw.request()[:-2])
        half.reset()
        client, conn = live.connect_conn()
        client.close_cleanly()
        assert take(live.ended, "on_close").conn is conn
    assert live.ended.empty() and live.opened.empty()


# --- the same conn ---


@each_mode
def test_conn_is_the_same_object_in_every_hook_while_it_is_held(pool: Any) -> None:
    seen: queue.Queue[Any] = queue.Queue()

    def welcome(conn: Any) -> None:
        conn.data = {"name": "the user's own"}
        seen.put(conn)

    def read(conn: Any) -> None:
        seen.put(conn)
        echo(conn)

    with serve(pool=pool, on_connect=welcome, on_read=read, on_close=seen.put) as live:
        client = live.connect()
        conn = take(seen, "on_connect")
        before = hash(conn)
        for n in range(3):
            client.send_frame(TEXT, str(n))
            assert client.recv_message() == str(n)
            assert take(seen, "on_read") is conn
        client.close_cleanly()
        assert take(seen, "on_close") is conn
        assert hash(conn) == before
        assert {conn: 1}[conn] == 1
        assert conn.data == {"name": "the user's own"}


@each_mode
def test_conn_data_outlives_the_conn_object_that_nobody_holds(pool: Any) -> None:
    # The engine may make the object anew when nobody holds it; what hangs on it has to be there still.
    seen: queue.Queue[Any] = queue.Queue()

    def welcome(conn: Any) -> None:
        conn.data = 41

    def read(conn: Any) -> None:
        conn.data += 1
        echo(conn)

    with serve(pool=pool, on_read=read) as live:
        # Instead of the hooks that record, for those keep what they are called with.
        live.server.on_connect = welcome
        live.server.on_close = lambda conn: seen.put(conn.data)
        client = live.connect()
        client.send_frame(TEXT, "x")
        client.recv_message()
        client.close_cleanly()
        assert take(seen, "on_close") == 42


# --- timeouts that kill ---


@each_mode
def test_writes_work_long_after_the_first(pool: Any) -> None:
    with serve(pool=pool, on_read=echo) as live:
        client, conn = live.connect_conn()
        conn.send("first")
        assert client.recv_message() == "first"
        for turn in range(3):
            time.sleep(3 * IO_TIMEOUT)
            conn.send(f"later {turn}")
            assert client.recv_message() == f"later {turn}"
            client.send_frame(TEXT, "and back")
            assert client.recv_message() == "and back"


@each_mode
def test_client_that_is_slow_to_send_is_not_killed(pool: Any) -> None:
    whole = raw.frame(TEXT, "one byte every 20 ms")
    with serve(pool=pool, on_read=echo) as live:
        client = live.connect()
        for i in range(len(whole)):
            client.send(whole[i : i + 1])
            time.sleep(0.02)
        assert client.recv_message() == "one byte every 20 ms"
        ping(client)
        assert live.ended.empty()


# --- the socket after an error ---


@each_mode
def test_socket_is_closed_with_1011_after_an_error_in_on_read(pool: Any) -> None:
    boom = ValueError("boom")

    def fail(conn: Any) -> None:
        wsutil.read_client_data(conn)
        raise boom

    with serve(pool=pool, on_read=fail) as live:
        client, conn = live.connect_conn()
        client.send_frame(TEXT, "x")
        expect_goodbye(client, 1011)
        assert take(live.ended, "on_close").code == 1011
        assert take(live.errors, "on_error") == (conn, boom)
        # And the server lives.
        ping(live.connect())


# --- descriptors ---


ECHO = """
server = unlimitedws.{kind}("127.0.0.1:0")
server.on_read = echo
"""


def test_a_connection_costs_one_descriptor() -> None:
    with ServerProcess(ECHO.format(kind="DefaultServer")) as process:
        warm = process.connect()
        before = process.fds()
        clients = [process.connect() for _ in range(100)]
        for client in clients:
            client.send_frame(TEXT, "x")
            assert client.recv_message() == "x"
        assert len(process.fds() - before) == 100
        assert process.ask("server.connections") == 101
        for client in clients:
            client.close_cleanly()
        wait_until(lambda: process.fds() == before, "the descriptors are given back")
        warm.close_cleanly()


NOFILE = 64
# A burst, as after a restart of the application or of a network: each of them has to hear of it soon.
SURPLUS = 200

AT_THE_LIMIT = f"""
import resource
# What it says of refused clients is not the matter here.
logging.getLogger("unlimitedws").addHandler(logging.NullHandler())
logging.getLogger("unlimitedws").propagate = False
resource.setrlimit(resource.RLIMIT_NOFILE, ({NOFILE}, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
server = unlimitedws.DefaultServer("127.0.0.1:0", raise_nofile_limit=False)
server.on_read = echo

taken = []

def take_all():
    try:
        while True:
            taken.append(os.dup(2))
    except OSError:
        return len(taken)

def give_back():
    while taken:
        os.close(taken.pop())
"""


def knock(process: ServerProcess) -> RawClient | None:
    """Connect as every client does; return it upgraded, or None for a polite refusal.

    Polite: 503, or nothing but FIN. A reset before any word, or silence, fails the test.
    """
    client = RawClient(process.port, handshake=False)
    upgraded = False
    try:
        # The refusal may be there before the request has left.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.send(raw.request())
        if client.sock.recv(1, socket.MSG_PEEK) == b"":
            return None
        response = client.recv_response()
        if response.status == 101:
            upgraded = True
            return client
        assert response.status == 503, response
        return None
    finally:
        if not upgraded:
            client.close()


def assert_alive_and_calm(process: ServerProcess) -> None:
    """Measure for one second, in which ten clients are refused: below 5 % of a core."""
    before, start = process.cpu_seconds(), time.monotonic()
    for turn in range(10):
        assert knock(process) is None
        time.sleep(max(0.0, start + (turn + 1) * 0.1 - time.monotonic()))
    share = (process.cpu_seconds() - before) / (time.monotonic() - start)
    assert process.alive()
    assert share < 0.05, f"{share:.0%} of a core while no descriptor is free"


def accepted_within_a_second(process: ServerProcess) -> RawClient:
    """Knock until let in; one second from now is the limit."""
    deadline = time.monotonic() + 1.0
    while (client := knock(process)) is None:
        assert time.monotonic() < deadline, "descriptors are free, and nobody is let in"
    return client


def test_clients_beyond_the_descriptor_limit_are_refused_and_the_server_recovers() -> None:
    with ServerProcess(AT_THE_LIMIT) as process, contextlib.ExitStack() as held:
        clients: list[RawClient] = []
        while (client := knock(process)) is not None:
            clients.append(held.enter_context(client))
            assert len(clients) < NOFILE, "the limit was not the one that was set"
        assert len(clients) > NOFILE // 2
        for _ in range(40):
            assert knock(process) is None
        # Who is in is served as before.
        for client in clients:
            client.send_frame(TEXT, "still here")
            assert client.recv_message() == "still here"
        assert_alive_and_calm(process)
        for client in clients[:5]:
            client.close_cleanly()
        newcomer = held.enter_context(accepted_within_a_second(process))
        newcomer.send_frame(TEXT, "in at last")
        assert newcomer.recv_message() == "in at last"


def test_clients_that_only_connect_beyond_the_descriptor_limit_do_not_hang() -> None:
    # All at once and without a word, so the refusals cannot wait for requests.
    with ServerProcess(AT_THE_LIMIT) as process, contextlib.ExitStack() as held:
        clients = [
            held.enter_context(RawClient(process.port, handshake=False)) for _ in range(NOFILE + SURPLUS)
        ]
        wait_until(
            lambda: sum(readable(client.sock) for client in clients) >= SURPLUS,
            "the surplus clients are answered",
        )
        for client in clients:
            if readable(client.sock):
                answer = client.recv_until_eof()
                assert answer == b"" or answer.startswith(b"HTTP/1.1 503 "), answer
            client.close()
        accepted_within_a_second(process).close()


def test_descriptors_that_the_application_took_are_survived() -> None:
    with ServerProcess(AT_THE_LIMIT) as process, process.connect() as early:
        assert process.ask("take_all()") > 0
        assert_alive_and_calm(process)
        early.send_frame(TEXT, "still here")
        assert early.recv_message() == "still here"
        process.ask("give_back()")
        with accepted_within_a_second(process) as client:
            client.send_frame(TEXT, "in at last")
            assert client.recv_message() == "in at last"


# --- one slow callback ---


def test_slow_callbacks_do_not_stop_the_others_with_a_pool() -> None:
    release, entered = threading.Event(), threading.Semaphore(0)

    def sometimes_slow(conn: Any) -> None:
        message = wsutil.read_client_text(conn)
        if message == "slow":
            entered.release()
            wait(release)
        conn.send(message)

    with serve(pool=(8, 8), on_read=sometimes_slow) as live:
        slow = [live.connect() for _ in range(7)]
        quick = live.connect()
        try:
            for client in slow:
                client.send_frame(TEXT, "slow")
            for _ in slow:
                assert entered.acquire(timeout=TIMEOUT)
            for n in range(100):
                quick.send_frame(TEXT, str(n))
                assert quick.recv_message() == str(n)
            late = live.connect()
            late.send_frame(TEXT, "late")
            assert late.recv_message() == "late"
            # Pings of the very connections whose callbacks are running are the engine's own matter.
            for client in slow:
                ping(client)
        finally:
            release.set()
        for client in slow:
            assert client.recv_message() == "slow"


def test_slow_callback_stops_neither_pings_nor_upgrades_inline() -> None:
    release, entered = threading.Event(), threading.Event()

    def slow(conn: Any) -> None:
        message = wsutil.read_client_text(conn)
        if message == "slow":
            entered.set()
            wait(release)
        conn.send(message)

    with serve(on_read=slow, record_connects=False) as live:
        blocked, other = live.connect(), live.connect()
        blocked.send_frame(TEXT, "slow")
        wait(entered, "on_read")
        try:
            ping(other)
            late = live.connect()
            ping(late)
            ping(blocked)
            other.send_frame(TEXT, "waits its turn")
            ping(other)
        finally:
            release.set()
        assert blocked.recv_message() == "slow"
        assert other.recv_message() == "waits its turn"


def test_sleeping_callback_stops_neither_pings_nor_upgrades_inline() -> None:
    entered = threading.Event()
    left = threading.Event()

    def sleep(conn: Any) -> None:
        conn.send(wsutil.read_client_text(conn))
        entered.set()
        time.sleep(1.0)
        left.set()

    with serve(on_read=sleep, record_connects=False) as live:
        client, other = live.connect(), live.connect()
        client.send_frame(TEXT, "x")
        wait(entered, "on_read")
        ping(other)
        ping(live.connect())
        # What was sent before the sleep does not wait for its end either.
        assert client.recv_message() == "x"
        assert not left.is_set(), "answered only when the callback had ended"


HOLD_GIL = """
import ctypes
server = unlimitedws.{kind}("127.0.0.1:0")

@server.on_message
def hold(conn, message):
    print("held", flush=True)
    # PyDLL keeps the GIL: a long computation in C.
    ctypes.PyDLL(None).usleep(3_000_000)
    print("released", flush=True)
"""


@pytest.mark.parametrize("kind", ["NewServer", "DefaultServer"])
def test_interpreter_that_is_busy_for_seconds_stops_neither_pings_nor_upgrades(kind: str) -> None:
    with (
        ServerProcess(HOLD_GIL.format(kind=kind)) as process,
        process.connect() as busy,
        process.connect() as other,
    ):
        ping(other)
        busy.send_frame(TEXT, "hold")
        assert process.read_line() == "held"
        ping(other)
        ping(busy)
        with process.connect() as late:
            ping(late)
            late.close_cleanly()
            assert not process.has_line(), "answered only when the interpreter was free again"
        assert process.read_line() == "released"
        other.close_cleanly()
        busy.close_cleanly()


def test_full_pool_and_its_cooldown_do_not_stop_the_poller() -> None:
    release, entered = threading.Event(), threading.Event()

    def block(conn: Any) -> None:
        message = wsutil.read_client_text(conn)
        entered.set()
        wait(release)
        conn.send(message)

    with serve(pool=(1, 1), on_read=block) as live:
        clients = [live.connect() for _ in range(4)]
        idle = live.connect()
        for _ in range(5):
            take(live.opened, "on_connect")
        # Longer than any wait of this test, so that what is answered was not answered by its end.
        live.server.set_cooldown_time(6 * TIMEOUT)
        for client in clients:
            client.send_frame(TEXT, "x")
        wait(entered, "on_read")
        # One runs, one is queued, two have no place. The idle one is nobody's fault.
        try:
            for _ in range(20):
                ping(idle)
        finally:
            release.set()
        for client in clients:
            assert client.recv_message() == "x"


def test_new_clients_are_let_in_again_after_the_cooldown() -> None:
    release, entered = threading.Event(), threading.Event()

    def block(conn: Any) -> None:
        message = wsutil.read_client_text(conn)
        if message == "block":
            entered.set()
            wait(release)
        conn.send(message)

    with serve(pool=(1, 1), on_read=block) as live:
        live.server.set_cooldown_time(0.05)
        blockers = [live.connect() for _ in range(4)]
        for client in blockers:
            client.send_frame(TEXT, "block")
        wait(entered, "on_read")
        with socket.create_connection(("127.0.0.1", live.port)) as waiting:
            waiting.settimeout(TIMEOUT)
            waiting.sendall(raw.request() + raw.frame(TEXT, "let me in"))
            release.set()
            answer = b""
            while not answer.endswith(b"\x81\x09let me in"):
                chunk = waiting.recv(65536)
                assert chunk, answer
                answer += chunk
            assert answer.startswith(b"HTTP/1.1 101 ")
        for client in blockers:
            assert client.recv_message() == "block"


# --- slow handshakes ---


@pytest.mark.parametrize("pool", [None, (4, 4), (128, 128)], ids=["inline", "small pool", "default pool"])
def test_two_hundred_slow_handshakes_do_not_hold_up_an_honest_client(pool: Any) -> None:
    head = raw.request()
    # The slow ones are to be there all the while.
    with serve(pool=pool, on_read=echo, handshake_timeout=6 * TIMEOUT) as live:
        slow = [live.connect(handshake=False) for _ in range(200)]
        for i, client in enumerate(slow):
            client.send(head[: 1 + i % (len(head) - 1)])
        honest = live.connect()
        honest.send_frame(TEXT, "x")
        assert honest.recv_message() == "x"
        # Slow is no fault: each gets its upgrade once it has said all.
        for i, client in enumerate(slow):
            client.send(head[1 + i % (len(head) - 1) :])
        for client in slow:
            assert client.recv_response().status == 101


def test_handshake_that_does_not_end_is_refused_at_its_deadline() -> None:
    with serve(on_read=echo, handshake_timeout=0.3) as live:
        silent = live.connect(handshake=False)
        dripping = live.connect(handshake=False)
        start = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # One byte and another do not buy more time: the deadline is for the whole.
            for byte in raw.request(path="/" + "x" * 1000):
                if readable(dripping.sock, 0.01):
                    break
                dripping.send(bytes([byte]))
        assert time.monotonic() - start < TIMEOUT
        assert dripping.recv_response().status == 408
        assert silent.recv_until_eof()[:13] in (b"", b"HTTP/1.1 408 ")
        # An open connection has passed its handshake and owes nothing.
        client = live.connect()
        time.sleep(0.6)
        ping(client)


# --- limits ---


def test_request_head_without_end_is_refused_with_431() -> None:
    with serve(on_read=echo) as live:
        client = live.connect(handshake=False)
        sent = 0
        client.send(raw.request()[:-2])
        line = b"X-Filler: " + b"x" * 1000 + b"\r\n"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while not readable(client.sock):
                client.send(line)
                sent += len(line)
                assert sent < 32 * 1024 * 1024, "there is no limit"
        assert client.recv_response().status == 431


@pytest.mark.parametrize("excess, status", [(-1, 101), (0, 101), (1, 431)])
def test_request_head_may_be_as_long_as_its_limit(excess: int, status: int) -> None:
    bare = len(raw.request(headers=[("X-Filler", "")]))
    head = raw.request(headers=[("X-Filler", "x" * (2048 + excess - bare))])
    assert len(head) == 2048 + excess
    with serve(on_read=echo, max_header_bytes=2048) as live:
        client = live.connect(handshake=False)
        client.send(head)
        assert client.recv_response().status == status


@pytest.mark.parametrize("excess, status", [(-1, 101), (0, 101), (1, 431)])
def test_request_may_have_as_many_fields_as_its_limit(excess: int, status: int) -> None:
    fields = raw.request().count(b"\r\n") - 2
    more = 100 + excess - fields
    with serve(on_read=echo) as live:
        client = live.connect(handshake=False)
        client.send(raw.request(headers=[(f"X-{n}", "") for n in range(more)]))
        assert client.recv_response().status == status


@each_mode
def test_declared_length_above_the_limit_is_refused_with_1009_before_any_payload(pool: Any) -> None:
    with serve(pool=pool, on_read=echo) as live:
        for length in (1024 * 1024 + 1, 1 << 32, (1 << 63) - 1):
            client = live.connect()
            client.send_frame(BINARY, b"", length=length)
            expect_failure(client, 1009)
            assert take(live.ended, "on_close").code == 1009


@each_mode
def test_fragments_that_add_up_to_more_than_the_limit_are_refused_with_1009(pool: Any) -> None:
    with serve(pool=pool, on_read=echo) as live:
        client = live.connect()
        quarter = b"x" * (256 * 1024)
        client.send_frame(BINARY, quarter, fin=False)
        for _ in range(3):
            client.send_frame(CONT, quarter, fin=False)
        ping(client)
        client.send_frame(CONT, b"", fin=True, length=1)
        expect_failure(client, 1009)


@each_mode
def test_message_of_exactly_the_limit_is_echoed(pool: Any) -> None:
    payload = bytes(range(256)) * 4096
    with serve(pool=pool, on_read=echo) as live:
        client = live.connect()
        client.send_frame(BINARY, payload)
        assert client.recv_message() == payload


def test_declared_length_is_not_allocated() -> None:
    clients, declared = 200, 1024 * 1024
    with ServerProcess(ECHO.format(kind="NewServer")) as process, contextlib.ExitStack() as held:
        for size in (100, declared):
            warm = held.enter_context(process.connect())
            warm.send_frame(BINARY, b"x" * size)
            warm.recv_message()
        resident, private = process.memory_bytes()
        for _ in range(clients):
            client = held.enter_context(process.connect())
            send_pieces(client, [raw.frame(BINARY, b"x" * 100, length=declared)])
        resident_after, private_after = process.memory_bytes()
        # 200 MB were declared and 20 kB came; 16 KiB a connection is room for any honest first chunk.
        assert resident_after - resident < clients * 16 * 1024
        # Address space that is only reserved for it would be the same fault, seen later.
        assert private_after - private < clients * declared // 4


# --- the handshake's end ---


@each_mode
def test_bytes_behind_the_handshake_are_delivered(pool: Any) -> None:
    first, second = raw.frame(TEXT, "first"), raw.frame(TEXT, "second")
    with serve(pool=pool, on_read=echo) as live:
        for cut in range(len(second) + 1):
            client = live.connect(handshake=False)
            client.send(raw.request() + first + second[:cut])
            assert client.recv_response().status == 101
            assert client.recv_message() == "first"
            client.send(second[cut:])
            assert client.recv_message() == "second"
            client.close()


@each_mode
def test_everything_in_one_segment_from_the_request_to_the_close(pool: Any) -> None:
    with serve(pool=pool, on_read=echo) as live:
        client = live.connect(handshake=False)
        client.send(raw.request() + frames((TEXT, "a"), (PING, "b"), (BINARY, b"c")) + raw.close_frame(1000))
        client.shutdown()
        assert client.recv_response().status == 101
        got = [client.recv_frame() for _ in range(3)]
        # A pong may overtake a message that a callback has to answer; messages keep their order.
        assert Frame(True, 0, PONG, b"b") in got
        assert [(f.opcode, f.payload) for f in got if f.opcode != PONG] == [(TEXT, b"a"), (BINARY, b"c")]
        assert client.recv_close().code == 1000
        expect_eof(client)


def test_handshake_byte_by_byte_and_a_frame_behind_it() -> None:
    with serve(on_read=echo) as live:
        client = live.connect(handshake=False)
        send_bytewise(client, raw.request() + raw.frame(TEXT, "x"))
        assert client.recv_response().status == 101
        assert client.recv_message() == "x"


# --- codes of failure ---


@each_mode
@pytest.mark.parametrize(
    "wrong, code",
    [
        (raw.frame(TEXT, "unmasked", mask=False), 1002),
        (raw.frame(TEXT, "reserved bit", rsv=2), 1002),
        (raw.frame(5, ""), 1002),
        (raw.frame(CONT, "no beginning"), 1002),
        (raw.frame(PING, b"x" * 126), 1002),
        (raw.frame(CLOSE, b"\x03"), 1002),
        (raw.frame(TEXT, b"\xff"), 1007),
        (raw.close_frame(1000, b"\xff"), 1007),
    ],
    ids=["unmasked", "rsv", "opcode", "continuation", "long ping", "short close", "text", "close reason"],
)
def test_protocol_errors_are_closed_with_their_code(pool: Any, wrong: bytes, code: int) -> None:
    with serve(pool=pool, on_read=echo) as live:
        client = live.connect()
        client.send(wrong)
        expect_failure(client, code)
        assert take(live.ended, "on_close").code == code


# --- what leaves, leaves whole ---


@each_mode
def test_header_and_payload_leave_in_one_segment(pool: Any) -> None:
    with serve(pool=pool, on_read=echo) as live:
        client, conn = live.connect_conn()
        for size in (0, 1, 125, 126, 4000, 30000):
            before = data_segments_in(client.sock)
            client.send_frame(BINARY, b"x" * size)
            assert client.recv_message() == b"x" * size
            assert data_segments_in(client.sock) - before == 1, f"{size} bytes"
            before = data_segments_in(client.sock)
            # From a thread that is not the loop's.
            conn.send(b"y" * size)
            assert client.recv_message() == b"y" * size
            assert data_segments_in(client.sock) - before == 1, f"{size} bytes"


def test_replies_to_one_segment_leave_together() -> None:
    with serve(on_read=echo) as live:
        client = live.connect()
        before = data_segments_in(client.sock)
        client.send(frames(*((TEXT, str(n)) for n in range(32))))
        assert [client.recv_message() for _ in range(32)] == [str(n) for n in range(32)]
        # One is the rule; a callback that was suspended for long may cost one more.
        assert data_segments_in(client.sock) - before <= 4


@each_mode
def test_frames_of_eight_threads_never_interleave(pool: Any) -> None:
    threads, messages = 8, 200
    sizes = [0, 1, 125, 126, 127, 1000, 65535, 65536, 3000]
    trouble: queue.Queue[BaseException] = queue.Queue()

    with serve(pool=pool, io_timeout=TIMEOUT, on_read=echo) as live:
        client, conn = live.connect_conn()
        start = threading.Barrier(threads)

        def send(number: int) -> None:
            try:
                start.wait(TIMEOUT)
                for n in range(messages):
                    fill = bytes([65 + number]) * sizes[(n + number) % len(sizes)]
                    conn.send(b"%d %d " % (number, n) + fill)
            except BaseException as exc:
                trouble.put(exc)

        senders = [threading.Thread(target=send, args=(n,)) for n in range(threads)]
        for sender in senders:
            sender.start()
        try:
            expected = [0] * threads
            for _ in range(threads * messages):
                number, n, fill = client.recv_message().split(b" ", 2)
                number, n = int(number), int(n)
                assert n == expected[number], "the messages of one thread keep their order"
                expected[number] += 1
                assert fill == bytes([65 + number]) * sizes[(n + number) % len(sizes)]
        finally:
            # A sender that waits for room is let go.
            client.close()
            for sender in senders:
                sender.join(TIMEOUT)
        assert expected == [messages] * threads
        assert trouble.empty(), trouble.get()
        assert not any(sender.is_alive() for sender in senders)
