"""deliver: one connection's events in order, one at a time, whoever runs them; and callbacks that wait."""

from __future__ import annotations

import collections
import queue
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
import raw
from live import take, wait, wait_until
from loops import running
from raw import BINARY, TEXT
from uws_shims import deliver_shim
from uws_shims.deliver_shim import WAITED, WAITED_CLOSED, WAITED_TIMEOUT, Bare

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

Make = Callable[..., tuple[Bare, list[int]]]

each_runners = pytest.mark.parametrize("runners", [1, 4])


# --- step by step ---


def test_delivery_takes_the_events_of_one_connection_that_follow_each_other(make: Make) -> None:
    loop, (a, b) = make(2)
    for conn, payload in ((a, b"1"), (a, b"2"), (b, b"3"), (a, b"4")):
        loop.post(conn, payload)
    first, second = loop.begin(), loop.begin()
    assert (first.index, second.index) == (a, b)
    assert [loop.next(first) for _ in range(3)] == [b"1", b"2", None]
    assert [loop.next(second) for _ in range(2)] == [b"3", None]
    # The fourth is of a connection that somebody is at work on: it is left to whoever comes later.
    assert loop.begin() is None
    assert loop.inbox(a) == (1, 1)
    loop.done(second)
    assert loop.begin() is None
    loop.done(first)
    third = loop.begin()
    assert loop.next(third) == b"4"
    loop.done(third)
    assert loop.flags(a) == loop.flags(b) == set()


def test_connection_that_never_stops_does_not_keep_a_runner(make: Make) -> None:
    loop, (a, b) = make(2, max_inbox_messages=100_000)
    loop.poller_present(False)
    for _ in range(deliver_shim.DELIVER_NOTES + 5):
        loop.post(a, b"x")
    loop.post(b, b"y")
    taken = loop.begin()
    count = 0
    while loop.next(taken) is not None:
        count += 1
    assert (taken.index, count) == (a, deliver_shim.DELIVER_NOTES)
    loop.done(taken)
    # The other one's turn first.
    turns = []
    while (taken := loop.begin()) is not None:
        turns.append(taken.index)
        while loop.next(taken) is not None:
            pass
        loop.done(taken)
    assert turns == [b, a]


def test_reading_goes_on_at_half_the_cap(make: Make) -> None:
    loop, (a,) = make(max_inbox_messages=deliver_shim.DELIVER_NOTES * 2)
    loop.poller_present(False)
    for _ in range(deliver_shim.DELIVER_NOTES * 2 + 1):
        loop.post(a, b"x")
    for paused in (True, False, False):
        assert ("paused" in loop.flags(a)) or not paused
        taken = loop.begin()
        while loop.next(taken) is not None:
            pass
        left = loop.inbox(a)[0]
        loop.done(taken)
        assert ("paused" in loop.flags(a)) == (left > deliver_shim.DELIVER_NOTES)


def test_slot_of_a_dead_connection_is_kept_until_its_callback_returns(make: Make) -> None:
    loop, (a,) = make()
    loop.post(a, b"1")
    taken = loop.begin()
    loop.abort(a)
    assert loop.is_there(a)
    loop.done(taken)
    assert loop.is_there(a)
    taken = loop.begin()
    assert loop.next(taken) == "close"
    assert loop.is_there(a)
    loop.done(taken)
    assert not loop.is_there(a)
    assert loop.figures()["blocks"] == loop.figures()["conns"] == 0


def test_waiting_takes_from_the_span_then_from_the_inbox(make: Make) -> None:
    loop, (a,) = make()
    loop.post(a, b"1")
    loop.post(a, b"2")
    taken = loop.begin()
    loop.post(a, b"3")
    loop.post(a, b"4")
    assert loop.next(taken) == b"1"
    assert [loop.wait(taken) for _ in range(3)] == [(WAITED, b"2"), (WAITED, b"3"), (WAITED, b"4")]
    assert loop.wait(taken) == (WAITED_TIMEOUT, None)
    loop.done(taken)
    assert loop.begin() is None and loop.figures()["blocks"] == 0


def test_waiting_leaves_the_close_for_on_close(make: Make) -> None:
    loop, (a,) = make()
    loop.post(a, b"1")
    taken = loop.begin()
    assert loop.next(taken) == b"1"
    loop.abort(a)
    assert loop.wait(taken, 10_000_000) == (WAITED_CLOSED, None)
    loop.done(taken)
    taken = loop.begin()
    assert loop.next(taken) == "close"
    loop.done(taken)


def test_waiting_for_room_ends_at_once_where_there_is_room_and_where_there_is_nobody(make: Make) -> None:
    loop, (a,) = make(max_buffered_bytes=1000)
    generation = loop.generation(a)
    assert loop.wait_room(a, generation) == WAITED
    loop.queue_bytes(a, bytes(999))
    assert loop.wait_room(a, generation) == WAITED
    loop.queue_bytes(a, b"x")
    assert loop.wait_room(a, generation) == WAITED_TIMEOUT
    assert loop.wait_room(a, generation + 1, 10_000_000) == WAITED_CLOSED
    loop.close(a)
    assert loop.wait_room(a, generation, 10_000_000) == WAITED_CLOSED


def test_paused_connection_is_not_delivered_until_it_is_resumed_and_then_in_order(make: Make) -> None:
    loop, (a, b) = make(2)
    loop.post(a, b"1")
    loop.hold(a)
    assert loop.flags(a) == {"paused", "pending"}
    loop.post(a, b"2")
    loop.post(b, b"other")
    taken = loop.begin()
    assert taken.index == b
    loop.done(taken)
    assert loop.begin() is None and loop.inbox(a) == (2, 2) and loop.figures()["ready"] == 0
    loop.post(a, b"3")
    loop.release(a)
    assert loop.flags(a) == {"ready", "pending"}
    taken = loop.begin()
    assert [loop.next(taken) for _ in range(4)] == [b"1", b"2", b"3", None]
    loop.done(taken)
    assert loop.flags(a) == set() and loop.figures()["blocks"] == 0


@pytest.mark.parametrize("owned", [False, True])
def test_rest_of_a_span_goes_to_the_front_of_the_inbox(make: Make, owned: bool) -> None:
    loop, (a,) = make()
    for payload in (b"1", b"2", b"3"):
        loop.post(a, payload, owned)
    taken = loop.begin()
    assert loop.next(taken) == b"1"
    assert not loop.held(taken)
    # Behind it, because it is busy.
    loop.post(a, b"4", owned)
    loop.hold(a)
    assert loop.held(taken)
    loop.done(taken)
    assert loop.begin() is None and loop.inbox(a) == (3, 3)
    loop.release(a)
    taken = loop.begin()
    assert [loop.next(taken) for _ in range(4)] == [b"2", b"3", b"4", None]
    loop.done(taken)
    assert loop.flags(a) == set() and loop.figures()["blocks"] == 0


def test_pause_in_the_middle_of_an_inbox_leaves_the_rest_there(make: Make) -> None:
    loop, (a,) = make()
    loop.poller_present(False)
    for payload in (b"1", b"2"):
        loop.post(a, payload)
    taken = loop.begin()
    assert loop.next(taken) == b"1"
    loop.hold(a)
    assert loop.next(taken) is None
    loop.done(taken)
    assert loop.begin() is None and loop.inbox(a) == (1, 1)
    # A drain is told all the same: perhaps it is what is waited for.
    loop.drained(a)
    taken = loop.begin()
    assert [loop.next(taken) for _ in range(2)] == ["drain", None]
    loop.done(taken)
    assert loop.begin() is None
    loop.release(a)
    taken = loop.begin()
    assert [loop.next(taken) for _ in range(2)] == [b"2", None]
    loop.done(taken)


def test_opening_is_told_of_a_connection_that_is_paused_before(make: Make) -> None:
    for present in (True, False):
        loop, (a,) = make()
        loop.poller_present(present)
        loop.post_open(a)
        loop.post(a, b"1")
        loop.hold(a)
        taken = loop.begin()
        assert (not present or not loop.held(taken)) and loop.next(taken) == "open"
        if present:
            assert loop.held(taken)
        else:
            assert loop.next(taken) is None
        loop.done(taken)
        assert loop.begin() is None and loop.inbox(a) == (1, 1)


def test_pause_ends_with_the_connection_and_the_end_comes_last(make: Make) -> None:
    loop, (a,) = make()
    loop.post(a, b"1")
    loop.hold(a)
    assert loop.begin() is None
    loop.abort(a)
    taken = loop.begin()
    assert [loop.next(taken) for _ in range(3)] == [b"1", "close", None]
    loop.done(taken)
    assert not loop.is_there(a)


def test_pausing_what_is_closing_is_refused(make: Make) -> None:
    loop, (a,) = make()
    loop.close(a)
    assert loop.hold(a) != 0
    assert "paused" not in loop.flags(a)


# --- with real runners ---


@each_runners
def test_every_message_arrives_once_in_order_and_one_at_a_time(runners: int) -> None:
    clients, count = 12, 400
    rng = random.Random(runners)
    seen: dict[Any, list[int]] = collections.defaultdict(list)
    busy: collections.Counter[Any] = collections.Counter()
    overlaps: list[Any] = []
    pauses = threading.Event()

    def on_message(conn: Any, message: bytes) -> None:
        busy[conn] += 1
        if busy[conn] != 1:
            overlaps.append(conn)
        number = int(message[:5])
        seen[conn].append(number)
        if rng.random() < 0.02:
            # Longer than the schedule timeout: the poller's role changes hands, and the batch is spilled.
            pauses.wait(0.003)
        busy[conn] -= 1

    with running(runners=runners, on_message=on_message, max_inbox_messages=50) as engine:

        def pour(client: raw.RawClient, seed: int) -> None:
            own = random.Random(seed)
            for i in range(count):
                client.send_frame(BINARY, b"%05d" % i + bytes(own.choice([0, 10, 3000])))

        opened = [engine.connect_conn() for _ in range(clients)]
        threads = [threading.Thread(target=pour, args=(client, i)) for i, (client, _) in enumerate(opened)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: sum(map(len, seen.values())) == clients * count, "every message is delivered", 30)
        assert all(seen[conn] == list(range(count)) for _, conn in opened)
        assert overlaps == []
        engine.wait_for(messages_in=clients * count, inbox_bytes=0, ready=0, slab_blocks=0)


@each_runners
def test_messages_before_the_close_are_delivered_before_on_close(runners: int) -> None:
    order: queue.Queue[Any] = queue.Queue()
    with running(
        runners=runners,
        on_message=lambda conn, message: order.put(message),
        on_close=lambda conn: order.put(conn.close_code),
    ) as engine:
        for _ in range(20):
            client = engine.connect()
            client.send(raw.frame(TEXT, "a") * 50 + raw.close_frame(4000))
            assert [take(order) for _ in range(51)] == ["a"] * 50 + [4000]
            client.close()
        engine.wait_empty()


def test_slow_callback_pauses_reading_and_nothing_is_lost() -> None:
    gate, entered = threading.Event(), threading.Event()
    seen: list[bytes] = []

    def on_message(conn: Any, message: bytes) -> None:
        entered.set()
        assert gate.wait(20)
        seen.append(message)

    messages = [b"%06d" % i + bytes(2000) for i in range(3000)]
    for limits in (
        {"max_inbox_messages": 10},
        {"max_inbox_bytes": 20_000},
        {"max_inbox_total_bytes": 20_000},
    ):
        gate.clear()
        entered.clear()
        seen.clear()
        with running(runners=2, on_message=on_message, **limits) as engine:
            client, other = engine.connect(), engine.connect()
            stream = b"".join(raw.frame(BINARY, message) for message in messages)
            sender = threading.Thread(target=client.send, args=(stream,))
            sender.start()
            wait(entered)
            engine.wait_for(pauses=1)
            # What one more reading brings is taken; then the rest waits in the kernel.
            assert engine.counter("inbox_bytes") < 20_000 + 2 * 65_536, limits
            other.send_frame(raw.PING, b"?")
            assert other.recv_frame().payload == b"?"
            assert engine.counter("bytes_in") < len(stream), limits
            gate.set()
            wait_until(lambda: len(seen) == len(messages), "every message is delivered", 30)
            sender.join()
            assert seen == messages
            engine.wait_for(inbox_bytes=0, ready=0, slab_blocks=0)


# --- callbacks that wait ---
