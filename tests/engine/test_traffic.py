"""traffic: what the frames of an open connection set off, and what the engine answers by itself."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest
import raw
from live import expect_eof, frames, ping, take, wait, wait_until
from loops import Running, running
from raw import BINARY, CONT, PING, PONG, TEXT, Frame, RawClient

pytestmark = pytest.mark.usefixtures("no_fd_leaks")


def recorder(seen: queue.Queue[Any]) -> Any:
    return lambda conn, message: seen.put(message)


def test_empty_message_of_empty_fragments_arrives() -> None:
    seen: queue.Queue[Any] = queue.Queue()
    with running(on_message=recorder(seen)) as engine:
        client = engine.connect()
        client.send(frames((TEXT, "", False), (CONT, "", False), (CONT, ""), (TEXT, "next")))
        assert [take(seen), take(seen)] == ["", "next"]


def test_messages_that_nobody_wants_are_dropped_and_pings_answered() -> None:
    with running(record=False) as engine:
        client = engine.connect()
        for payload in (b"small", bytes(300_000)):
            client.send_frame(BINARY, payload)
            client.send_frame(BINARY, payload, fin=False)
            client.send_frame(CONT, payload)
        ping(client)
        engine.wait_for(messages_in=4, inbox_bytes=0, slab_blocks=0)
        assert client.close_cleanly() == (1000, "")
        engine.wait_empty()


def test_frames_behind_a_close_frame_are_not_looked_at() -> None:
    seen: queue.Queue[Any] = queue.Queue()
    with running(on_message=recorder(seen)) as engine:
        client = engine.connect()
        client.send(
            raw.frame(TEXT, "a") + raw.close_frame(1000) + frames((TEXT, "b"), (PING, b"c")) + b"\xff" * 50
        )
        assert client.recv_close().code == 1000
        expect_eof(client)
        assert engine.end() == (1000, "")
        assert list(seen.queue) == ["a"]


# --- pings ---


def clog(engine: Running, conn: Any, client: RawClient) -> int:
    """Send until more than a pong waits for is queued; return how many bytes the messages have."""
    sent = 0
    while conn.buffered_amount < 200_000:
        conn.send(bytes(100_000))
        sent += 100_000
    return sent


def read_binary(client: RawClient, size: int) -> None:
    while size > 0:
        got = client.recv_frame()
        assert got.opcode == BINARY, got
        size -= len(got.payload)


def test_pings_of_a_peer_that_does_not_read_get_one_pong_for_the_last() -> None:
    with running(max_buffered_bytes=1 << 30) as engine:
        client, conn = engine.connect_conn(rcvbuf=4096)
        sent = clog(engine, conn, client)
        for i in range(5):
            client.send_frame(PING, b"%d" % i)
        engine.wait_for(pings=5, pongs_put_off=5)
        read_binary(client, sent)
        assert client.recv_frame() == Frame(True, 0, PONG, b"4")
        # And then each is answered again.
        ping(client, b"")
        ping(client, b"p" * 125)
        assert client.close_cleanly().code == 1000
        engine.wait_empty()


def test_nothing_follows_our_close_frame_not_even_a_pong_that_was_put_off() -> None:
    with running(max_buffered_bytes=1 << 30) as engine:
        client, conn = engine.connect_conn(rcvbuf=4096)
        sent = clog(engine, conn, client)
        client.send_frame(PING, b"late")
        engine.wait_for(pongs_put_off=1)
        conn.close(1000)
        read_binary(client, sent)
        assert client.recv_close().code == 1000
        client.send_close(1000)
        expect_eof(client)


def test_ping_within_a_fragmented_message_is_answered_at_once() -> None:
    seen: queue.Queue[Any] = queue.Queue()
    with running(on_message=recorder(seen)) as engine:
        client = engine.connect()
        client.send_frame(TEXT, "fir", fin=False)
        ping(client, b"in between")
        client.send_frame(CONT, "st")
        assert take(seen) == "first"


def test_more_pings_than_allowed_in_a_second_get_one_pong_for_the_newest() -> None:
    with running(max_pings_per_second=5) as engine:
        client = engine.connect()
        client.send(b"".join(raw.frame(PING, b"%d" % i) for i in range(50)))
        got = [client.recv_frame().payload for _ in range(6)]
        # The second may have ended among the first of them, but not between the last ones.
        assert got[:5] == [b"0", b"1", b"2", b"3", b"4"]
        assert got[5] == b"49"
        assert engine.counter("pongs_put_off") == 45
        # A new second: each is answered again.
        ping(client, b"again")


def test_without_a_limit_every_ping_is_answered() -> None:
    with running(max_pings_per_second=0) as engine:
        client = engine.connect()
        client.send(b"".join(raw.frame(PING, b"%d" % i) for i in range(500)))
        assert [client.recv_frame().payload for _ in range(500)] == [b"%d" % i for i in range(500)]


# --- the budget of incomplete messages ---


def test_who_began_a_message_and_stopped_goes_before_those_who_send() -> None:
    seen: queue.Queue[Any] = queue.Queue()
    with running(on_message=recorder(seen), max_incomplete_total_bytes=9 << 19) as engine:
        stalled = [engine.connect() for _ in range(3)]
        for client in stalled:
            client.send_frame(BINARY, bytes(700_000), fin=False)
            ping(client)
        assert engine.counter("incomplete_bytes") >= 2_100_000
        honest = engine.connect()
        for i in range(10):
            honest.send_frame(CONT if i else BINARY, bytes(150_000), fin=i == 9)
        assert len(take(seen)) == 1_500_000
        assert stalled[0].recv_close().code == 1013
        ping(honest)
        counters = engine.loop.counters()
        assert counters["closed_by_limit"] >= 1
        assert counters["incomplete_bytes"] <= 9 << 19
        # The one that sent last of them is hit last.
        stalled[2].send_frame(CONT, b"")
        assert len(take(seen)) == 700_000


def test_who_is_not_read_for_others_sake_is_not_taken_for_one_who_has_stopped() -> None:
    """All inboxes are full, so nobody gets on with a message: newcomers pay for what is too much, not who waits."""
    let_go = threading.Event()
    seen: queue.Queue[bytes] = queue.Queue()
    budget, begun, rest = 200_000, b"b" * 40_000, b"r" * 40_000

    def stuck(conn: Any, message: bytes) -> None:
        wait(let_go)
        seen.put(message)

    options = {"max_inbox_total_bytes": 100_000, "max_incomplete_total_bytes": budget}
    with running(on_message=stuck, record=False, **options) as engine:
        stopped = engine.connect()
        stopped.send_frame(BINARY, begun, fin=False)
        patient = engine.connect()
        patient.send_frame(BINARY, begun, fin=False)
        wait_until(lambda: engine.counter("incomplete_bytes") >= 2 * len(begun), "what was begun")
        flooder = engine.connect()
        flooder.send_frame(BINARY, b"the callback that keeps its thread")
        wait_until(lambda: engine.counter("takeovers") >= 1, "the watchdog")
        flooder.send_frame(BINARY, bytes(100_000))
        wait_until(lambda: engine.counter("inbox_bytes") >= 100_000, "the flood")
        pauses = engine.counter("pauses")
        patient.send_frame(CONT, rest)
        wait_until(lambda: engine.counter("pauses") > pauses, "that it is not read")
        for _ in range(300):
            newcomer = engine.connect()
            newcomer.send_frame(BINARY, bytes(600), fin=False)
        wait_until(lambda: engine.counter("closed_by_limit") >= 50, "too much")
        assert engine.counter("incomplete_bytes") <= budget
        assert stopped.recv_close().code == 1013
        let_go.set()
        assert begun + rest in [take(seen) for _ in range(3)]
        ping(patient)


def test_budget_smaller_than_one_message_hits_its_sender() -> None:
    with running(max_incomplete_total_bytes=100_000) as engine:
        client = engine.connect()
        client.send_frame(BINARY, bytes(300_000), fin=False)
        assert client.recv_close().code == 1013
        client.close()
        engine.wait_empty()
