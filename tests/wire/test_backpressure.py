"""Back-pressure over real sockets: messages for a peer that does not read, and pausing one that sends."""

from __future__ import annotations

import itertools
import os
import queue
import threading
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from live import each_mode, frames, serve, take, wait, wait_until
from raw import BINARY, CLOSE, PING, TEXT, RawClient

from unlimitedws import CloseCause, Compression, ConnectionClosed, Sent, wsutil

pytestmark = pytest.mark.usefixtures("both_tables", "no_fd_leaks")

KIB = 1024
OFFER = [("Sec-WebSocket-Extensions", "permessage-deflate; client_no_context_takeover")]
# Longer than any test runs: nobody is dropped for a reason that is not the test's.
PATIENT: dict[str, Any] = {"send_timeout": None, "ping_interval": None}


def numbered(i: int, size: int = 10_000) -> bytes:
    """A message that says which one it is, and whether it is whole."""
    body = b"%08d" % i + bytes((i + k) & 255 for k in range(64)) * ((size - 12) // 64)
    return body + zlib.crc32(body).to_bytes(4, "big")


def number(message: bytes | str) -> int:
    assert isinstance(message, bytes)
    assert zlib.crc32(message[:-4]) == int.from_bytes(message[-4:], "big")
    return int(message[:8])


def fill(conn: Any, until: Callable[[Sent], bool], start: int = 0) -> list[Sent]:
    """Send numbered messages until one is answered so; what all of them were answered."""
    answers = []
    while not answers or not until(answers[-1]):
        answers.append(conn.send(numbered(start + len(answers))))
        assert len(answers) < 100_000
    return answers


def rest(client: RawClient, last: int) -> list[int]:
    """The numbers of the messages that come, up to the last one."""
    got = [number(client.recv_message())]
    while got[-1] != last:
        got.append(number(client.recv_message()))
    return got


# --- what send says ---


def test_only_a_message_that_was_not_sent_is_false() -> None:
    assert [bool(sent) for sent in Sent] == [False, True, True, True]


@each_mode
def test_send_says_high_and_on_drain_is_called_once_for_each_time(pool: Any) -> None:
    drained: queue.Queue[tuple[Any, int]] = queue.Queue()
    with serve(pool=pool, max_buffered_bytes=8 << 20, **PATIENT) as live:

        @live.server.on_drain
        def on_drain(conn: Any) -> None:
            drained.put((conn, conn.buffered_amount))

        client, conn = live.connect_conn(rcvbuf=4096)
        for round_ in range(1, 4):
            answers = fill(conn, lambda sent: sent is Sent.HIGH)
            assert set(answers) == {Sent.OK, Sent.HIGH}
            # Above it nothing else is said, and no second time is begun.
            assert all(conn.send(numbered(len(answers) + i)) is Sent.HIGH for i in range(3))
            assert conn.buffered_amount > 64 * KIB
            assert rest(client, len(answers) + 2) == list(range(len(answers) + 3))
            who, amount = take(drained, "on_drain")
            assert who is conn and amount <= 16 * KIB
            wait_until(lambda: conn.buffered_amount == 0, "everything has left")
            figures = live.server.counters()
            assert (figures["highs"], figures["drained"]) == (round_, round_)
            assert drained.empty()
        assert live.errors.empty()


def test_marks_are_those_of_the_options_and_the_kernel_is_asked_first() -> None:
    with serve(high_water_bytes=3000, low_water_bytes=0, **PATIENT) as live:
        client, conn = live.connect_conn()
        # Far above the mark, but the kernel takes it.
        for i in range(20):
            assert conn.send(numbered(i, 5000)) is Sent.OK
        assert rest(client, 19) == list(range(20))
        assert live.server.counters()["highs"] == 0


def test_wsutil_and_ping_say_what_send_says() -> None:
    with serve(overflow="drop-newest", max_buffered_bytes=50_000, **PATIENT) as live:
        _, conn = live.connect_conn(rcvbuf=4096)
        assert wsutil.write_server_text(conn, "a") is Sent.OK
        assert wsutil.write_server_binary(conn, b"b") is Sent.OK
        assert wsutil.write_server_message(conn, BINARY, b"c") is Sent.OK
        assert conn.ping(b"d") is Sent.OK
        fill(conn, lambda sent: sent is Sent.DROPPED)
        assert wsutil.write_server_text(conn, "a") is Sent.DROPPED
        assert conn.ping(b"d") is Sent.DROPPED
        assert wsutil.write_server_message(conn, CLOSE, b"") is Sent.OK


# --- a queue that is full ---


@each_mode
def test_close_drops_the_connection_and_send_raises(pool: Any) -> None:
    with serve(pool=pool, overflow="close", max_buffered_bytes=100_000, **PATIENT) as live:
        client, conn = live.connect_conn(rcvbuf=4096)
        other, _ = live.connect_conn()
        with pytest.raises(ConnectionClosed):
            fill(conn, lambda sent: False)
        with pytest.raises(ConnectionClosed):
            conn.send("again")
        ended = live.ended_of(client)
        assert ended.code == 1006 and ended.conn.close_cause is CloseCause.SLOW_READER
        figures = live.server.counters()
        assert (figures["overflow_closed"], figures["closed_by_slow_reader"]) == (1, 1)
        assert figures["buffered_bytes"] == 0
        assert other.close_cleanly().code == 1000


@each_mode
def test_drop_newest_says_so_and_what_was_accepted_arrives(pool: Any) -> None:
    with serve(pool=pool, overflow="drop-newest", max_buffered_bytes=100_000, **PATIENT) as live:
        client, conn = live.connect_conn(rcvbuf=4096)
        answers = fill(conn, lambda sent: sent is Sent.DROPPED)
        while answers.count(Sent.DROPPED) < 6:
            # The kernel may have taken some more meanwhile.
            answers.append(conn.send(numbered(len(answers))))
        accepted = [i for i, sent in enumerate(answers) if sent]
        assert live.server.counters()["dropped_newest"] == len(answers) - len(accepted) == 6
        assert rest(client, accepted[-1]) == accepted
        wait_until(lambda: conn.buffered_amount == 0, "everything has left")
        assert conn.send(numbered(7)) is Sent.OK
        assert number(client.recv_message()) == 7


@each_mode
@pytest.mark.parametrize("compressed", [None, "shared", "kept"])
def test_drop_oldest_leaves_whole_messages_in_their_order(pool: Any, compressed: str | None) -> None:
    """The peer gets what had begun to leave, and the newest; what is missing is what the counter says."""
    compression: Any = False
    if compressed is not None:
        compression = Compression(server_context_takeover=compressed == "kept", threshold=100_000)
    with serve(
        pool=pool, overflow="drop-oldest", max_buffered_bytes=100_000, compression=compression, **PATIENT
    ) as live:
        client, conn = live.connect_conn(rcvbuf=4096, headers=OFFER if compressed else ())
        answers = fill(conn, lambda sent: sent is Sent.DROPPED_OLDER)
        conn.ping(b"stays")
        answers += [conn.send(numbered(len(answers) + i)) for i in range(40)]
        assert Sent.DROPPED not in answers
        last = len(answers) - 1
        got, pings = [], 0
        while not got or got[-1] != last:
            frame = client.recv_frame()
            assert frame.fin and frame.rsv == 0
            if frame.opcode == PING:
                assert frame.payload == b"stays"
                pings += 1
            else:
                got.append(number(frame.payload))
        assert pings == 1
        assert got == sorted(set(got))
        missing = last + 1 - len(got)
        figures = live.server.counters()
        dropping = answers.count(Sent.DROPPED_OLDER)
        assert figures["dropped_oldest"] == missing >= dropping
        assert figures["dropped_newest"] == 0
        if dropping == 41:
            # The kernel took nothing meanwhile: what was lost was in one piece, between what had left and the newest.
            assert max(b - a for a, b in itertools.pairwise(got)) == missing + 1


def test_messages_that_later_ones_build_on_are_not_dropped() -> None:
    compression = Compression(server_context_takeover=True, threshold=1)
    with serve(overflow="drop-oldest", max_buffered_bytes=60_000, compression=compression, **PATIENT) as live:
        client, conn = live.connect_conn(rcvbuf=4096, headers=OFFER)
        answers = []
        while not answers or answers[-1] is not Sent.DROPPED:
            # What does not compress, so that the queue fills.
            answers.append(conn.send(b"%08d" % len(answers) + os.urandom(6000)))
        assert Sent.DROPPED_OLDER not in answers
        assert live.server.counters()["dropped_oldest"] == 0
        inflate = zlib.decompressobj(-15)
        for i in range(len(answers) - 1):
            frame = client.recv_frame()
            assert frame.rsv == 4
            assert inflate.decompress(frame.payload + b"\x00\x00\xff\xff")[:8] == b"%08d" % i
        # One that is dropped was not compressed before: the next one still makes sense.
        wait_until(lambda: conn.buffered_amount == 0, "everything has left")
        assert conn.send("x" * 500)
        assert inflate.decompress(client.recv_frame().payload + b"\x00\x00\xff\xff") == b"x" * 500


@pytest.mark.parametrize("policy", ["block", "close", "drop-newest", "drop-oldest"])
def test_message_that_fills_the_queue_is_taken_whole(policy: Any) -> None:
    with serve(overflow=policy, max_buffered_bytes=1000, **PATIENT) as live:
        client, conn = live.connect_conn(rcvbuf=4096)
        big = numbered(0, 3 << 20)
        assert conn.send(big) is Sent.HIGH
        assert client.recv_message() == big


# --- all queues together ---


@each_mode
def test_above_the_total_the_slowest_are_dropped_first(pool: Any) -> None:
    with serve(
        pool=pool, max_buffered_bytes=64 << 20, max_buffered_total_bytes=32 << 20, **PATIENT
    ) as live:
        slow = [live.connect_conn(rcvbuf=4096)[1] for _ in range(3)]
        client, reader = live.connect_conn(rcvbuf=4096)
        _, newest = live.connect_conn(rcvbuf=4096)
        for conn in (*slow, reader):
            conn.send(bytes(8 << 20))
            assert conn.buffered_amount > 0
        for dropped in (1, 2):
            # Whoever reads, however slowly, gets on.
            amount = reader.buffered_amount
            while reader.buffered_amount > amount - (1 << 20):
                client.recv_exactly(4096)
            while live.server.counters()["overload_closed"] < dropped:
                assert newest.send(bytes(1 << 20))
            ended = take(live.ended, "on_close")
            assert ended.conn in slow
            assert ended.conn.close_cause is CloseCause.SLOW_READER
        assert reader.is_open and newest.is_open
        figures = live.server.counters()
        assert figures["overload_closed"] == 2 and figures["buffered_bytes"] <= 32 << 20


def test_sender_whose_own_message_is_too_much_is_told() -> None:
    with serve(max_buffered_bytes=64 << 20, max_buffered_total_bytes=1 << 20, **PATIENT) as live:
        client, conn = live.connect_conn(rcvbuf=4096)
        with pytest.raises(ConnectionClosed):
            conn.send(bytes(16 << 20))
        assert live.ended_of(client).conn.close_cause is CloseCause.SLOW_READER


def test_many_small_queues_that_the_kernel_would_take_cost_nobody_the_connection() -> None:
    def broadcast(conn: Any, message: Any) -> None:
        for one in everybody:
            assert one.send(bytes(20_000)) is Sent.OK

    with serve(max_buffered_total_bytes=100_000, on_message=broadcast, **PATIENT) as live:
        pairs = [live.connect_conn() for _ in range(30)]
        everybody = [conn for _, conn in pairs]
        pairs[0][0].send_frame(TEXT, "all")
        for client, _ in pairs:
            assert client.recv_message() == bytes(20_000)
        assert live.server.counters()["overload_closed"] == 0
        assert live.errors.empty()


# --- pausing ---


@each_mode
def test_pause_from_a_callback_holds_what_came_with_it(pool: Any) -> None:
    got: queue.Queue[Any] = queue.Queue()

    def on_message(conn: Any, message: Any) -> None:
        got.put(message)
        if message == "3":
            conn.pause()
            conn.pause()

    with serve(pool=pool, on_message=on_message) as live:
        client, conn = live.connect_conn()
        other, _ = live.connect_conn()
        for i in range(10):
            client.send_frame(TEXT, str(i))
        assert [take(got) for _ in range(4)] == ["0", "1", "2", "3"]
        wait_until(lambda: conn.is_paused, "it is paused")
        client.send_frame(TEXT, "10")
        client.send_frame(PING, b"not seen")
        # Others are served, and not a word of this one's comes between.
        for i in range(20):
            other.send_frame(TEXT, f"other {i}")
            assert take(got) == f"other {i}"
        assert live.server.counters()["holds"] == 1
        conn.resume()
        assert not conn.is_paused
        assert [take(got) for _ in range(7)] == [str(i) for i in range(4, 11)]
        assert client.recv_frame().payload == b"not seen"
        client.send_frame(TEXT, "11")
        assert take(got) == "11"


@each_mode
def test_pause_and_resume_from_other_threads_lose_and_reorder_nothing(pool: Any) -> None:
    total = 3000
    got: list[int] = []
    done = threading.Event()

    def on_message(conn: Any, message: bytes) -> None:
        got.append(number(message))
        if len(got) == total:
            done.set()

    with serve(pool=pool, on_message=on_message, max_inbox_messages=20) as live:
        client, conn = live.connect_conn()

        def toggle() -> None:
            while not done.is_set():
                conn.pause()
                conn.resume()

        threads = [threading.Thread(target=toggle) for _ in range(2)]
        for thread in threads:
            thread.start()
        for i in range(total):
            client.send_frame(BINARY, numbered(i, 200))
        # Two that toggle may end with a pause each; whoever resumes last is this one.
        wait(done, "the last message")
        for thread in threads:
            thread.join()
        conn.resume()
        assert got == list(range(total))


@each_mode
def test_reader_may_pause_until_what_it_sends_has_left(pool: Any) -> None:
    """The usual way to relay: whoever sends faster than the other end reads is held back, by TCP in the end."""
    total = 400

    def on_message(conn: Any, message: bytes) -> None:
        assert not conn.is_paused
        if conn.send(message) is Sent.HIGH:
            conn.pause()

    with serve(pool=pool, on_message=on_message, max_buffered_bytes=200_000, **PATIENT) as live:
        live.server.on_drain = lambda conn: conn.resume()
        client = live.connect(rcvbuf=4096)

        def pour() -> None:
            for i in range(total):
                client.send_frame(BINARY, numbered(i))

        sender = threading.Thread(target=pour)
        sender.start()
        assert rest(client, total - 1) == list(range(total))
        sender.join()
        assert live.errors.empty()
        assert live.server.counters()["dropped_newest"] == 0


@each_mode
@pytest.mark.parametrize("how", ["close", "abort", "reset", "stop", "idle"])
def test_pause_ends_with_the_connection_and_on_close_comes(pool: Any, how: str) -> None:
    got: queue.Queue[Any] = queue.Queue()

    def on_message(conn: Any, message: Any) -> None:
        got.put(message)
        if message == "0":
            conn.pause()

    options: dict[str, Any] = {"idle_timeout": 0.2} if how == "idle" else {}
    with serve(pool=pool, on_message=on_message, **options) as live:
        stopper = threading.Thread(target=live.server.stop, args=(5,))
        client, conn = live.connect_conn()
        client.send(frames((TEXT, "0"), (TEXT, "1"), (TEXT, "2")))
        assert take(got) == "0"
        wait_until(lambda: conn.is_paused, "it is paused")
        if how == "close":
            conn.close(4000)
            client.send_close(4000)
        elif how == "abort":
            conn.abort()
        elif how == "reset":
            client.reset()
        elif how == "stop":
            stopper.start()
        if how in ("stop", "idle"):
            # These leave it its rights: what it had sent is delivered.
            assert client.recv_close().code == 1001
            client.send_close(1001)
            assert [take(got), take(got)] == ["1", "2"]
        ended = take(live.ended, "on_close")
        assert ended.conn is conn and not conn.is_paused
        conn.resume()
        with pytest.raises(ConnectionClosed):
            conn.pause()
        if how == "stop":
            # It has the loop in its hands, and that is not to outlive the test.
            stopper.join()


def test_paused_connection_is_not_pinged_and_not_taken_for_vanished() -> None:
    with serve(ping_interval=0.05, ping_timeout=0.05) as live:
        _, conn = live.connect_conn()
        other, _ = live.connect_conn()
        conn.pause()
        # By the time that another one has been dropped, it would have been too.
        assert other.recv_frame().opcode == PING
        assert other.recv_until_eof() == b""
        assert conn.is_open
        conn.resume()
        assert live.ended_of(other).conn.close_cause is CloseCause.PING_TIMEOUT


# --- from anywhere ---


@each_mode
@pytest.mark.parametrize("compressed", [False, True])
def test_messages_of_many_threads_to_many_connections_arrive_whole_and_in_order(
    pool: Any, compressed: bool
) -> None:
    threads, clients, each = 8, 10, 60
    with serve(pool=pool, compression=Compression(threshold=1) if compressed else False, io_timeout=0) as live:
        pairs = [live.connect_conn(headers=OFFER if compressed else ()) for _ in range(clients)]

        def pour(thread: int) -> None:
            for i in range(each):
                for _, conn in pairs:
                    assert conn.send(numbered(thread * 1000 + i, 100 + 700 * (i % 3)))
                    if i % 20 == 0:
                        conn.ping(b"%d" % thread)

        senders = [threading.Thread(target=pour, args=(n,)) for n in range(threads)]
        for sender in senders:
            sender.start()
        for client, _ in pairs:
            seen: dict[int, list[int]] = {n: [] for n in range(threads)}
            count = 0
            while count < threads * each:
                frame = client.recv_frame()
                if frame.opcode == PING:
                    continue
                payload = frame.payload
                if frame.rsv:
                    payload = zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
                thread, i = divmod(number(payload), 1000)
                seen[thread].append(i)
                count += 1
            assert all(order == list(range(each)) for order in seen.values())
        for sender in senders:
            sender.join()
        assert live.errors.empty()


@each_mode
def test_close_and_disconnect_from_other_threads_end_each_connection_once(pool: Any) -> None:
    clients = 24
    with serve(pool=pool) as live:
        pairs = [live.connect_conn() for _ in range(clients)]
        for i, (_, conn) in enumerate(pairs):
            assert live.server.identify(conn, user=i % 4)
        start = threading.Barrier(6)
        found: queue.Queue[int] = queue.Queue()

        def disconnect(user: int) -> None:
            start.wait()
            found.put(live.server.disconnect(user=user))

        def close_and_send(n: int) -> None:
            start.wait()
            for _, conn in pairs[n::2]:
                try:
                    while True:
                        conn.send(b"x")
                        conn.ping()
                        conn.close(4000 + n)
                except ConnectionClosed:
                    pass

        calls: list[tuple[Callable[[int], None], int]] = [(disconnect, user) for user in range(4)]
        calls += [(close_and_send, n) for n in range(2)]
        threads = [threading.Thread(target=target, args=(n,)) for target, n in calls]
        for thread in threads:
            thread.start()
        for client, _ in pairs:
            while (frame := client.recv_frame()).opcode != CLOSE:
                assert frame.opcode in (BINARY, PING)
            client.send_close(None)
            assert client.recv_until_eof() == b""
        for thread in threads:
            thread.join()
        conns = {take(live.ended, "on_close").conn for _ in range(clients)}
        assert conns == {conn for _, conn in pairs}
        assert live.ended.empty() and live.errors.empty()


def test_what_send_says_and_why_a_connection_ended_are_printed_by_name() -> None:
    assert f"{Sent.HIGH!s} {CloseCause.PEER!s}" == "Sent.HIGH CloseCause.PEER"
