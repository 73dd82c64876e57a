"""What was found in pausing, relaying and waiting from many threads, each with a test that fails without its mend."""

from __future__ import annotations

import os
import queue
import threading
import zlib
from contextlib import suppress
from typing import Any

import pytest
import raw
from live import ping, serve, take, wait, wait_until
from raw import BINARY, PONG, TEXT

from unlimitedws import ConnectionClosed, Sent, wsutil

DEFLATE = [("Sec-WebSocket-Extensions", "permessage-deflate")]


def deflated(data: bytes) -> bytes:
    """A masked frame with one compressed message."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return raw.frame(BINARY, (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4], rsv=4)


@pytest.mark.parametrize("with_reset", [False, True], ids=["close", "reset"])
def test_pausing_one_whose_peer_has_closed_loses_none_of_its_messages(with_reset: bool) -> None:
    entered, release = threading.Event(), threading.Event()
    got: list[Any] = []

    def relay(conn: Any, message: str) -> None:
        got.append(message)
        if message == "0":
            entered.set()
            wait(release)
        conn.pause()
        conn.resume()

    with serve(pool=(4, 4), on_message=relay) as live:
        client = live.connect()
        client.send_frame(TEXT, "0")
        wait(entered)
        client.send(b"".join(raw.frame(TEXT, str(i)) for i in range(1, 6)))
        wait_until(lambda: live.server.counters()["messages_in"] == 6, "they have been received")
        if with_reset:
            client.reset()
        else:
            client.send_close(1000)
        wait_until(lambda: live.server.counters()["connections"] == 0, "the end has been seen")
        release.set()
        assert take(live.ended).code == (1006 if with_reset else 1000)
        assert got == [str(i) for i in range(6)]
        assert live.errors.empty()


def test_what_is_closed_cannot_be_paused() -> None:
    with serve() as live:
        client, conn = live.connect_conn()
        conn.close(4000, "mine")
        with pytest.raises(ConnectionClosed):
            conn.pause()
        client.recv_close()
        client.close()
        take(live.ended)
        with pytest.raises(ConnectionClosed):
            conn.pause()


def test_reader_that_drops_an_inbox_full_of_pongs_gets_what_is_behind() -> None:
    entered, release, done = threading.Event(), threading.Event(), threading.Event()
    got: list[Any] = []

    def read(conn: Any) -> None:
        got.append(wsutil.read_client_text(conn))
        if len(got) == 1:
            entered.set()
            wait(release)
            with suppress(TimeoutError):
                got.append(wsutil.read_client_text(conn))
            done.set()

    with serve(pool=(2, 2), on_read=read, max_inbox_messages=4, io_timeout=2.0) as live:
        live.server.on_pong = lambda conn, payload: None
        client = live.connect()
        client.send_frame(TEXT, "a")
        wait(entered)
        client.send(raw.frame(PONG, "x") * 4)
        wait_until(lambda: live.server.counters()["pauses"] == 1, "the inbox is full")
        client.send_frame(TEXT, "b")
        release.set()
        wait(done)
        # Within the timeout, and not behind it as a message of its own.
        assert got == ["a", "b"]


def test_reader_that_waits_is_served_when_a_flood_of_others_is_over() -> None:
    blocked, release = threading.Event(), threading.Event()
    reading, done = threading.Event(), threading.Event()
    got: list[Any] = []

    def read(conn: Any) -> None:
        if conn.path == "/flood":
            blocked.set()
            wait(release)
            return
        got.append(wsutil.read_client_binary(conn))
        if len(got) == 1:
            reading.set()
            with suppress(TimeoutError):
                got.append(wsutil.read_client_binary(conn))
            done.set()

    with serve(
        pool=(4, 4), on_read=read, compression=True, max_inbox_total_bytes=100_000, io_timeout=4.0
    ) as live:
        client = live.connect(headers=DEFLATE)
        flood = live.connect(path="/flood")
        flood.send_frame(BINARY, "x")
        wait(blocked)
        client.send(deflated(b"a"))
        wait(reading)
        flood.send(raw.frame(BINARY, b"y" * 120_000))
        wait_until(lambda: live.server.counters()["inbox_bytes"] >= 100_000, "the flood")
        before = live.server.counters()["pauses"]
        client.send(deflated(b"b"))
        wait_until(lambda: live.server.counters()["pauses"] > before, "it is not read")
        release.set()
        wait(done)
        assert got == [b"a", b"b"]


def test_relay_of_the_docs_goes_on_though_on_drain_comes_before_send_has_returned() -> None:
    told = threading.Event()

    def relay(conn: Any, message: bytes) -> None:
        # As in docs/backpressure.md.
        conn.pause()
        is_high = conn.data.send(message) is Sent.HIGH
        if is_high:
            # The worst that scheduling can do between the two lines.
            told.wait(raw.TIMEOUT)
        else:
            conn.resume()

    def drained(other: Any) -> None:
        other.data.resume()
        told.set()

    with serve(pool=(4, 4), on_message=relay, high_water_bytes=20_000, low_water_bytes=10_000) as live:
        live.server.on_drain = drained
        sender, one = live.connect_conn()
        receiver, other = live.connect_conn(rcvbuf=4096)
        one.data, other.data = other, one
        body = b"x" * 900_000
        writer = threading.Thread(target=lambda: [sender.send_frame(BINARY, body) for _ in range(8)])
        writer.start()
        for _ in range(8):
            assert receiver.recv_message() == body
        writer.join(raw.TIMEOUT)
        assert told.is_set()
        wait_until(lambda: not one.is_paused, "nobody has to wait any more")
        ping(sender)


def test_reset_seen_while_its_inbox_was_full_ends_the_connection_though_a_reply_found_it_first() -> None:
    entered, release = threading.Event(), threading.Event()
    got: list[Any] = []

    def answer(conn: Any, message: bytes) -> None:
        got.append(message[:4])
        if len(got) == 1:
            entered.set()
            wait(release)
        with suppress(ConnectionClosed):
            conn.send("reply")

    with serve(pool=(4, 4), on_message=answer, max_inbox_messages=4) as live:
        client = live.connect()
        client.send_frame(BINARY, b"0000")
        wait(entered)
        # More than is read at once while its callback is busy: the rest stays in the kernel.
        frames = [raw.frame(BINARY, b"%04d" % i + b"x" * 4000) for i in range(1, 20)]
        client.send(b"".join(frames))
        wait_until(lambda: live.server.counters()["pauses"] == 1, "the inbox is full")
        client.reset()
        # A reply finds the end before anything is read.
        wait_until(lambda: is_reset(live), "the reset has been seen")
        release.set()
        assert take(live.ended).code == 1006
        assert got == [b"%04d" % i for i in range(20)]


def is_reset(live: Any) -> bool:
    """Whether the kernel has told a reply of the only connection that its peer is gone."""
    conn = live.opened.queue[0]
    with suppress(ConnectionClosed):
        conn.send("are you there")
    return not conn.is_open


@pytest.mark.parametrize("pool", [None, (4, 4)], ids=["inline", "pool"])
def test_child_that_comes_back_from_a_callback_ends_and_calls_nobody(pool: Any) -> None:
    parent = os.getpid()
    reader, writer = os.pipe()
    children: queue.Queue[int] = queue.Queue()

    def forks(conn: Any, message: str) -> None:
        if os.getpid() != parent:
            os.write(writer, b"on_message")
            return
        if message != "0":
            return
        child = os.fork()
        if child != 0:
            children.put(child)
            conn.send("forked")

    def ended(conn: Any) -> None:
        if os.getpid() != parent:
            os.write(writer, b"on_close")

    with serve(pool=pool, on_message=forks, on_close=ended) as live:
        client = live.connect()
        client.send(b"".join(raw.frame(TEXT, str(i)) for i in range(3)))
        assert client.recv_message() == "forked"
        child = take(children)
        try:
            wait_until(lambda: os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, "it ends")
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
            os.close(writer)
        assert os.read(reader, 100) == b""
        os.close(reader)
        client.close_cleanly()
        take(live.ended)
