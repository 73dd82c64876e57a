"""write: what a message waits for, and what it leaves with, as a callback or another thread sends it."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest
import raw
from live import take, wait_until
from loops import echo, running
from raw import TEXT

from unlimitedws import ConnectionClosed

pytestmark = pytest.mark.usefixtures("both_tables", "no_fd_leaks")


@pytest.mark.parametrize("runners", [1, 4])
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


def test_long_replies_to_messages_that_came_together_keep_their_order() -> None:
    texts = [f"{number} " * 5000 for number in range(20)]
    with running(on_message=echo) as engine:
        client, _ = engine.connect_conn()
        client.send(b"".join(raw.frame(TEXT, text) for text in texts))
        assert [client.recv_message() for _ in texts] == texts
