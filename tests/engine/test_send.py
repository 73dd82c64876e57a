"""send: what is queued for a peer, and what happens when it does not read."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest
import raw
from live import take, wait_until
from loops import echo, running
from raw import TEXT
from uws_shims.deliver_shim import Bare

from unlimitedws import ConnectionClosed

pytestmark = pytest.mark.usefixtures("both_tables", "no_fd_leaks")
Make = Callable[..., tuple[Bare, list[int]]]
each_runners = pytest.mark.parametrize("runners", [1, 4])


@each_runners
def test_sender_waits_for_room_and_goes_on_when_the_peer_reads(runners: int) -> None:
    total = 200
    sent: queue.Queue[Any] = queue.Queue()

    def on_message(conn: Any, message: Any) -> None:
        for i in range(total):
            conn.send(b"%03d" % i + bytes(100_000))
        sent.put(conn.buffered_amount)

    with running(runners=runners, on_message=on_message, max_buffered_bytes=300_000) as engine:
        client, conn = engine.connect_conn(rcvbuf=8192)
        client.send_frame(TEXT, "go")
        wait_until(lambda: conn.buffered_amount >= 300_000, "the queue is full")
        # Others are served meanwhile.
        other = engine.connect()
        other.send_frame(raw.PING, b"?")
        assert other.recv_frame().payload == b"?"
        for i in range(total):
            assert client.recv_message()[:3] == b"%03d" % i
        assert take(sent) < 300_000 + 100_013
        engine.wait_for(messages_out=total, slab_blocks=0)


@pytest.mark.parametrize("threads", [1, 4])
def test_foreign_threads_that_wait_for_room_end_with_the_connection(threads: int) -> None:
    ended: queue.Queue[Any] = queue.Queue()

    def pour(conn: Any) -> None:
        try:
            while True:
                conn.send(bytes(100_000))
        except ConnectionClosed as exc:
            ended.put(exc)

    with running(on_message=echo, max_buffered_bytes=300_000) as engine:
        client, conn = engine.connect_conn(rcvbuf=8192)
        senders = [threading.Thread(target=pour, args=(conn,)) for _ in range(threads)]
        for sender in senders:
            sender.start()
        wait_until(lambda: conn.buffered_amount >= 300_000, "the queue is full")
        client.reset()
        for _ in senders:
            take(ended)
        for sender in senders:
            sender.join()
        engine.wait_empty()


def test_waiting_for_room_ends_with_the_timeout_and_nothing_of_the_message_is_sent() -> None:
    with running(max_buffered_bytes=100_000, io_timeout_us=50_000) as engine:
        client, conn = engine.connect_conn(rcvbuf=8192)
        count = 0
        with pytest.raises(TimeoutError):
            while True:
                conn.send(b"%06d" % count + bytes(50_000))
                count += 1
        for i in range(count):
            assert client.recv_message()[:6] == b"%06d" % i
        conn.send("after")
        assert client.recv_message() == "after"


# ---- straight to the kernel

STRAIGHT_BYTES = 8192
LENGTHS = (STRAIGHT_BYTES - 1, STRAIGHT_BYTES, 65_536, 65_537, 6_000_000)


def pattern(length: int) -> bytes:
    return bytes(range(251)) * (length // 251) + bytes(range(length % 251))


@pytest.mark.parametrize("length", LENGTHS)
def test_long_message_arrives_whole_whatever_the_kernel_takes_at_once(length: int) -> None:
    with running(on_message=lambda conn, message: conn.send(pattern(length))) as engine:
        for rcvbuf in (4096, None):
            client, _ = engine.connect_conn(rcvbuf=rcvbuf) if rcvbuf else engine.connect_conn()
            for _ in range(2):
                client.send_frame(TEXT, "go")
                assert client.recv_message() == pattern(length)
        engine.wait_for(messages_out=4, bytes_out=4 * length, slab_blocks=0, buffered_bytes=0)


def test_long_and_short_messages_keep_their_order() -> None:
    words = [b"a", pattern(20_000), b"b", pattern(3_000_000), pattern(9000), b"c", pattern(100_000)]

    def on_message(conn: Any, message: Any) -> None:
        for word in words:
            conn.send(word)

    with running(on_message=on_message, max_buffered_bytes=1 << 30) as engine:
        client, _ = engine.connect_conn(rcvbuf=4096)
        # The second comes while most of the first waits for the kernel.
        for _ in range(2):
            client.send_frame(TEXT, "go")
        for _ in range(2):
            assert [client.recv_message() for _ in words] == words


def test_long_replies_to_messages_that_came_together_keep_their_order() -> None:
    texts = [f"{number} " * 5000 for number in range(20)]
    with running(on_message=echo) as engine:
        client, _ = engine.connect_conn()
        client.send(b"".join(raw.frame(TEXT, text) for text in texts))
        assert [client.recv_message() for _ in texts] == texts


def test_long_messages_of_several_threads_never_interleave() -> None:
    threads, each, length = 4, 30, 50_000

    with running(on_message=echo, max_buffered_bytes=1 << 30) as engine:
        client, conn = engine.connect_conn(rcvbuf=4096)

        def pour(mark: int) -> None:
            for number in range(each):
                conn.send(bytes([mark, number]) + bytes([mark]) * length)

        pouring = [threading.Thread(target=pour, args=(mark,)) for mark in range(threads)]
        for thread in pouring:
            thread.start()
        next_of = [0] * threads
        for _ in range(threads * each):
            message = client.recv_message()
            mark, number = message[0], message[1]
            assert message[2:] == bytes([mark]) * length
            assert number == next_of[mark]
            next_of[mark] += 1
        for thread in pouring:
            thread.join()


def test_long_message_to_a_peer_that_is_gone() -> None:
    with running(on_message=echo) as engine:
        client, conn = engine.connect_conn()
        client.reset()
        with pytest.raises(ConnectionClosed):
            for _ in range(1000):
                conn.send(bytes(100_000))
        engine.wait_for(connections=0, slab_blocks=0)
