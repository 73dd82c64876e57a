"""send: long messages, which go past the queue, and short ones between them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from loops import echo, running
from raw import TEXT

from unlimitedws import ConnectionClosed

pytestmark = pytest.mark.usefixtures("both_tables", "no_fd_leaks")

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
