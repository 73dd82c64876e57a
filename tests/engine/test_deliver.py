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


# --- callbacks that go on elsewhere ---


@pytest.mark.parametrize("owned", [False, True])
def test_what_is_behind_a_suspended_callback_waits_for_its_recall(make: Make, owned: bool) -> None:
    loop, (a, b) = make(2)
    for payload in (b"1", b"2", b"3"):
        loop.post(a, payload, owned)
    taken = loop.begin()
    assert loop.next(taken) == b"1"
    assert loop.suspend(a) == 0
    assert loop.held(taken)
    loop.done(taken)
    # Who resumes it does not recall it.
    loop.release(a)
    loop.post(a, b"4", owned)
    assert loop.begin() is None and loop.inbox(a) == (3, 3)
    assert not loop.recall(b)
    assert loop.recall(a)
    assert not loop.recall(a)
    taken = loop.begin()
    assert [loop.next(taken) for _ in range(5)] == ["recall", b"2", b"3", b"4", None]
    loop.done(taken)
    assert loop.flags(a) == set() and loop.figures()["blocks"] == 0


def test_recall_comes_behind_the_callback_that_it_is_of_however_early_it_is(make: Make) -> None:
    loop, (a,) = make()
    loop.post(a, b"1")
    loop.post(a, b"2")
    taken = loop.begin()
    assert loop.next(taken) == b"1"
    loop.suspend(a)
    assert loop.recall(a)
    assert loop.held(taken)
    loop.done(taken)
    taken = loop.begin()
    assert [loop.next(taken) for _ in range(3)] == ["recall", b"2", None]
    loop.done(taken)
    assert loop.flags(a) == set() and loop.figures()["blocks"] == 0


def test_recall_is_all_that_waits_and_may_suspend_again(make: Make) -> None:
    loop, (a,) = make()
    loop.post(a, b"1")
    taken = loop.begin()
    assert loop.next(taken) == b"1"
    loop.suspend(a)
    loop.done(taken)
    for _ in range(2):
        assert loop.recall(a)
        taken = loop.begin()
        assert loop.next(taken) == "recall"
        loop.suspend(a)
        assert loop.next(taken) is None
        loop.done(taken)
        assert loop.begin() is None
    loop.drained(a)
    taken = loop.begin()
    # Room to send is told all the same, to whoever has filled the queue.
    assert [loop.next(taken), loop.next(taken)] == ["drain", None]
    loop.done(taken)
    assert loop.recall(a)
    taken = loop.begin()
    assert [loop.next(taken), loop.next(taken)] == ["recall", None]
    loop.done(taken)
    assert loop.flags(a) == set() and loop.figures()["blocks"] == 0


def test_connection_that_has_been_aborted_is_not_suspended_any_more(make: Make) -> None:
    loop, (a,) = make()
    loop.post(a, b"1")
    taken = loop.begin()
    assert loop.next(taken) == b"1"
    loop.abort(a)
    assert loop.suspend(a) != 0
    assert not loop.recall(a)
    loop.done(taken)
    taken = loop.begin()
    assert loop.next(taken) == "close"
    loop.done(taken)


def test_suspended_connection_that_is_aborted_has_its_close_behind_its_recall(make: Make) -> None:
    loop, (a,) = make()
    loop.post(a, b"1")
    taken = loop.begin()
    assert loop.next(taken) == b"1"
    assert loop.suspend(a) == 0
    loop.done(taken)
    loop.abort(a)
    assert loop.begin() is None
    assert loop.recall(a)
    taken = loop.begin()
    assert [loop.next(taken), loop.next(taken)] == ["recall", "close"]
    loop.done(taken)
    assert loop.figures()["blocks"] == 0


# --- connections whose callbacks block ---


def run(loop: Bare, taken: Any) -> list[Any]:
    events = []
    while (event := loop.next(taken)) is not None:
        events.append(event)
    return events


def block(loop: Bare, conn: int) -> None:
    """Let conn be known for callbacks that block. There are two runners then, and one polls."""
    loop.threads(2, polled=True)
    loop.post(conn, b"block")
    taken = loop.begin()
    assert taken is not None and run(loop, taken) == [b"block"]
    loop.blame(10_000_000)
    loop.done(taken)
    assert loop.blocks(conn)


def test_connection_that_blocks_is_left_to_a_runner_that_does_not_poll(make: Make) -> None:
    loop, (a, b) = make(2)
    block(loop, a)
    for conn, payload in ((a, b"1"), (b, b"2"), (a, b"3")):
        loop.post(conn, payload)
    assert loop.inbox(a) == (2, 2)
    taken = loop.begin(loop.role)
    assert taken.index == b
    loop.done(taken)
    assert loop.begin(loop.role) is None
    taken = loop.begin()
    assert taken.index == a and run(loop, taken) == [b"1", b"3"]
    loop.done(taken)
    assert loop.figures()["ready"] == 0


def test_what_was_in_the_batch_before_its_connection_blocked_is_left_as_well(make: Make) -> None:
    loop, (a, b) = make(2)
    loop.threads(2, polled=True)
    for conn, payload in ((a, b"1"), (b, b"2"), (a, b"3")):
        loop.post(conn, payload)
    taken = loop.begin(loop.role)
    assert run(loop, taken) == [b"1"]
    loop.blame(10_000_000)
    loop.done(taken)
    taken = loop.begin(loop.role)
    assert taken.index == b
    loop.done(taken)
    assert loop.begin(loop.role) is None
    taken = loop.begin()
    assert run(loop, taken) == [b"3"]
    loop.done(taken)


def test_while_no_runner_polls_who_comes_takes_what_is_quick_only(make: Make) -> None:
    loop, (a, b) = make(2)
    block(loop, a)
    loop.threads(2, polled=False)
    loop.poller_present(False)
    loop.post(a, b"1")
    loop.post(b, b"2")
    taken = loop.begin()
    assert taken.index == b and run(loop, taken) == [b"2"]
    loop.done(taken)
    assert loop.begin() is None
    loop.threads(2, polled=True)
    taken = loop.begin()
    assert taken.index == a
    loop.done(taken)


def test_the_only_runner_takes_everything(make: Make) -> None:
    loop, (a,) = make()
    block(loop, a)
    loop.post(a, b"1")
    assert loop.begin(loop.role) is None
    # The other one has gone.
    loop.threads(1, polled=True)
    loop.post(a, b"2")
    taken = loop.begin(loop.role)
    assert run(loop, taken) == [b"1", b"2"]
    loop.blame(10_000_000)
    loop.done(taken)
    loop.post(a, b"3")
    assert loop.figures()["batch"] == 1


def test_many_short_callbacks_in_a_row_do_not_block(make: Make) -> None:
    loop, (a,) = make()
    loop.threads(2, polled=True)
    for _ in range(100):
        loop.post(a, b"x")
    taken = loop.begin(loop.role)
    assert len(run(loop, taken)) == 100
    loop.blame(5_000_000)
    loop.done(taken)
    assert not loop.blocks(a)


def test_quick_ones_in_a_row_make_it_quick_again(make: Make) -> None:
    loop, (a,) = make()
    block(loop, a)

    def quick() -> None:
        loop.post(a, b"x")
        taken = loop.begin()
        run(loop, taken)
        loop.done(taken)

    for _ in range(deliver_shim.QUICK_ENOUGH - 1):
        quick()
    assert loop.blocks(a)
    block(loop, a)
    for _ in range(deliver_shim.QUICK_ENOUGH):
        assert loop.blocks(a)
        quick()
    assert not loop.blocks(a)
    loop.post(a, b"y")
    assert loop.figures()["batch"] == 1


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


def test_order_is_kept_while_connections_come_to_block_and_to_be_quick_again() -> None:
    clients, turns, each = 6, 12, 40
    seen: dict[Any, list[int]] = collections.defaultdict(list)
    busy: collections.Counter[Any] = collections.Counter()
    overlaps: list[Any] = []
    blocking: set[int] = set()
    rng = random.Random(5)
    pauses = threading.Event()

    def on_message(conn: Any, message: str) -> None:
        busy[conn] += 1
        if busy[conn] != 1:
            overlaps.append(conn)
        number = int(message)
        seen[conn].append(number)
        if number // each % 2 == 0 and rng.random() < 0.2:
            pauses.wait(rng.random() * 0.005)
        if number % 10 == 0:
            blocking.add(engine.counter("blocking"))
        busy[conn] -= 1
        if number % each == each - 1:
            conn.send(message)

    with running(runners=4, on_message=on_message) as engine:

        def pour(client: raw.RawClient) -> None:
            for turn in range(turns):
                for number in range(turn * each, (turn + 1) * each):
                    client.send_frame(TEXT, str(number))
                assert client.recv_message() == str(turn * each + each - 1)

        opened = [engine.connect_conn() for _ in range(clients)]
        threads = [threading.Thread(target=pour, args=(client,)) for client, _ in opened]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(seen[conn] == list(range(turns * each)) for _, conn in opened)
        assert overlaps == [] and max(blocking) > 0
        engine.wait_for(inbox_bytes=0, ready=0, slab_blocks=0)
        for client, _ in opened:
            client.close()
        engine.wait_for(connections=0, descriptors=0, blocking=0)


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
