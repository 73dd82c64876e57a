"""post: which way an event goes, when reading has to pause for it, and when the poller is rung for."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest
from uws_shims import deliver_shim
from uws_shims.deliver_shim import Bare

Make = Callable[..., tuple[Bare, list[int]]]


def drain(loop: Bare) -> list[tuple[int, Any]]:
    """Deliver everything, one connection at a time."""
    got = []
    while (taken := loop.begin()) is not None:
        while (event := loop.next(taken)) is not None:
            got.append((taken.index, event))
        loop.done(taken)
    return got


# --- the way of an event ---


def test_events_go_to_the_batch_while_the_poller_is_there(make: Make) -> None:
    loop, (a, b) = make(2)
    loop.post(a, b"1")
    loop.post(b, b"2")
    loop.post(a, b"3")
    assert loop.figures()["batch"] == 3 and loop.figures()["blocks"] == 0
    assert loop.flags(a) == {"pending"}
    assert drain(loop) == [(a, b"1"), (b, b"2"), (a, b"3")]
    assert loop.flags(a) == loop.flags(b) == set()


def test_events_go_to_the_inbox_while_the_poller_is_away(make: Make) -> None:
    loop, (a, b) = make(2)
    loop.poller_present(False)
    loop.post(a, b"1")
    loop.post(b, b"22")
    loop.post(a, b"333")
    assert loop.figures()["batch"] == 0
    assert (loop.inbox(a), loop.inbox(b)) == ((2, 4), (1, 2))
    assert loop.figures()["inbox_bytes"] == 6 and loop.figures()["ready"] == 2
    assert loop.flags(a) == {"pending", "ready"}
    # First come, first served; all of one connection in one delivery.
    assert drain(loop) == [(a, b"1"), (a, b"333"), (b, b"22")]
    assert loop.figures() == {"batch": 0, "ready": 0, "inbox_bytes": 0, "blocks": 0, "conns": 2, "pauses": 0}


def test_event_lines_up_behind_those_that_wait_although_the_poller_is_back(make: Make) -> None:
    loop, (a,) = make()
    loop.poller_present(False)
    loop.post(a, b"1")
    loop.poller_present(True)
    loop.post(a, b"2")
    assert loop.inbox(a) == (2, 2) and loop.figures()["batch"] == 0
    assert drain(loop) == [(a, b"1"), (a, b"2")]


def test_event_of_a_busy_connection_waits_for_its_turn(make: Make) -> None:
    loop, (a, b) = make(2)
    loop.post(a, b"1")
    taken = loop.begin()
    assert loop.next(taken) == b"1"
    loop.post(a, b"2")
    loop.post(b, b"other")
    # Nobody else gets a; it is not even on the list, so that no runner wakes for it.
    assert loop.flags(a) == {"busy", "pending"} and loop.figures()["ready"] == 0
    assert drain(loop) == [(b, b"other")]
    loop.done(taken)
    assert loop.flags(a) == {"ready", "pending"}
    assert drain(loop) == [(a, b"2")]


def test_spilling_keeps_the_order_of_every_connection(make: Make) -> None:
    loop, (a, b) = make(2)
    for i in range(6):
        loop.post((a, b)[i % 2], b"%d" % i)
    taken = loop.begin()
    assert loop.next(taken) == b"0"
    loop.spill()
    assert loop.figures()["batch"] == 0 and loop.figures()["inbox_bytes"] == 5
    loop.poller_present(False)
    loop.post(a, b"6")
    assert drain(loop) == [(b, b"1"), (b, b"3"), (b, b"5")]
    loop.done(taken)
    assert drain(loop) == [(a, b"2"), (a, b"4"), (a, b"6")]
    assert loop.figures()["blocks"] == 0


@pytest.mark.parametrize("owned", [False, True])
def test_payload_survives_the_arena(make: Make, owned: bool) -> None:
    loop, (a,) = make()
    payload = os.urandom(5000)
    loop.post(a, payload, owned)
    loop.spill()
    assert loop.figures()["inbox_bytes"] == 5000
    assert drain(loop) == [(a, payload)]
    assert loop.figures()["blocks"] == 0


def test_full_batch_overflows_into_the_inboxes_in_order(make: Make) -> None:
    loop, (a, b) = make(2, max_inbox_messages=100_000)
    count = deliver_shim.BATCH_EVENTS + 10
    for i in range(count):
        loop.post((a, b)[i % 2], b"%d" % (i % 7))
    got = drain(loop)
    for conn, first in ((a, 0), (b, 1)):
        assert [event for index, event in got if index == conn] == [
            b"%d" % (i % 7) for i in range(first, count, 2)
        ]
    assert loop.figures()["blocks"] == loop.figures()["inbox_bytes"] == 0


@pytest.mark.parametrize("owned", [False, True])
def test_events_of_a_connection_that_is_over_go_back(make: Make, owned: bool) -> None:
    loop, (a, b) = make(2)
    loop.post(a, b"x" * 1000, owned)
    loop.post(b, b"y")
    loop.abort(a)
    got = drain(loop)
    # The shim shows the muted message, that callbacks skip. The end is the last event; then the slot is free.
    assert [event for index, event in got if index == a][-1] == "close"
    assert (b, b"y") in got
    assert not loop.is_there(a)
    assert loop.figures()["conns"] == 1 and loop.figures()["blocks"] == 0


# --- the caps ---

# What post.pyx counts for each event that waits, beside its payload.
NOTE_COST = 64


@pytest.mark.parametrize(
    ("limits", "fits"),
    [
        ({"max_inbox_messages": 4}, 4),
        ({"max_inbox_bytes": 40}, 4),
        ({"max_inbox_total_bytes": 4 * (10 + NOTE_COST)}, 4),
        ({"max_inbox_messages": 1}, 1),
        ({"max_inbox_bytes": 1}, 1),
    ],
)
def test_reading_pauses_at_the_cap_and_goes_on_when_the_inbox_is_empty(
    make: Make, limits: dict[str, int], fits: int
) -> None:
    loop, (a,) = make(**limits)
    loop.poller_present(False)
    for i in range(fits):
        assert "paused" not in loop.flags(a), i
        loop.post(a, b"%010d" % i)
    assert "paused" in loop.flags(a) and loop.figures()["pauses"] == 1
    # What was read along with it is taken all the same, and counted once.
    loop.post(a, b"more than fits")
    assert loop.figures()["pauses"] == 1
    assert drain(loop) == [*((a, b"%010d" % i) for i in range(fits)), (a, b"more than fits")]
    assert loop.flags(a) == set()


def test_total_cap_pauses_those_who_add_to_it_and_nobody_else(make: Make) -> None:
    loop, (a, b, c) = make(3, max_inbox_total_bytes=100 + 2 * NOTE_COST)
    loop.poller_present(False)
    loop.post(a, bytes(60))
    assert "paused" not in loop.flags(a)
    loop.post(b, bytes(40))
    assert "paused" in loop.flags(b)
    assert "paused" not in loop.flags(a) and "paused" not in loop.flags(c)
    # A message of no bytes costs something, too.
    loop.post(c, b"")
    assert "paused" in loop.flags(c)
    drain(loop)
    assert loop.flags(a) == loop.flags(b) == loop.flags(c) == set()


def test_paused_connection_is_not_polled_for_input(make: Make) -> None:
    loop, (a,) = make(max_inbox_messages=1)
    loop.poller_present(False)
    # The end of the pair's other side is something to read, and nothing that is reported unasked.
    with socket.socket(fileno=os.dup(a)) as ours:
        ours.shutdown(socket.SHUT_RD)
    assert loop.poll() == 1
    loop.post(a, b"1")
    assert loop.poll() == 0
    drain(loop)
    assert loop.poll() == 1


def test_closing_reads_on_for_the_peers_answer(make: Make) -> None:
    loop, (a,) = make(max_inbox_messages=1)
    loop.poller_present(False)
    loop.post(a, b"1")
    assert "paused" in loop.flags(a)
    loop.close(a)
    assert "paused" not in loop.flags(a)


# --- the bell ---


def rings(loop: Bare) -> int:
    """How often the poller was rung for since the last time."""
    try:
        return int.from_bytes(os.read(loop.wake_fd, 8), sys.byteorder)
    except BlockingIOError:
        return 0


def test_poller_that_waits_is_woken_once_however_often_it_is_asked(make: Make) -> None:
    loop, (a, b) = make(2)
    loop.sleep()
    for _ in range(100):
        loop.nudge()
    assert rings(loop) == 1
    # It has been woken and has not come back yet.
    loop.nudge()
    assert rings(loop) == 0
    loop.sleep()
    loop.post(a, b"1")
    loop.post(b, b"2")
    assert rings(loop) == 1


def test_poller_that_does_not_wait_is_not_woken(make: Make) -> None:
    loop, (a,) = make()
    loop.nudge()
    loop.post(a, b"1")
    assert rings(loop) == 0


def test_whatever_there_is_to_do_rings(make: Make) -> None:
    loop, (a,) = make()
    for act in (lambda: loop.post(a, b"1"), lambda: loop.spill(), lambda: loop.close(a)):
        loop.sleep()
        act()
        assert rings(loop) == 1


# --- a queue that has drained ---


def test_drain_is_told_once_and_takes_no_memory_but_the_side_block(make: Make) -> None:
    loop, (a,) = make()
    loop.drained(a)
    assert loop.flags(a) == {"ready", "pending"} and loop.figures()["blocks"] == 1
    loop.drained(a)
    assert drain(loop) == [(a, "drain")]
    assert loop.flags(a) == set() and loop.figures()["blocks"] == 0


def test_drain_comes_behind_the_opening_and_before_messages_that_wait(make: Make) -> None:
    loop, (a,) = make()
    loop.poller_present(False)
    loop.post_open(a)
    loop.post(a, b"1")
    loop.drained(a)
    loop.post(a, b"2")
    assert drain(loop) == [(a, "open"), (a, "drain"), (a, b"1"), (a, b"2")]
    assert loop.flags(a) == set()


def test_drain_leaves_messages_in_the_batch_their_place(make: Make) -> None:
    """Were the connection on the ready list, its messages would line up in the inbox, behind whatever came there."""
    loop, (a,) = make()
    loop.post(a, b"1")
    loop.drained(a)
    assert loop.flags(a) == {"pending"}
    loop.abort(a)
    got = []
    while (taken := loop.begin()) is not None:
        while (event := loop.next(taken)) is not None:
            got.append(event)
        loop.done(taken)
    assert got == [b"1", "close"]
    assert not loop.is_there(a)


def test_drain_of_a_busy_connection_waits_for_its_turn_and_the_end_comes_last(make: Make) -> None:
    loop, (a,) = make()
    loop.post(a, b"1")
    taken = loop.begin()
    assert loop.next(taken) == b"1"
    loop.drained(a)
    loop.abort(a)
    assert loop.figures()["ready"] == 0 and loop.next(taken) is None
    loop.done(taken)
    # Of the two, the end is what counts.
    assert drain(loop) == [(a, "close")]


def test_drain_after_the_end_is_not_told(make: Make) -> None:
    loop, (a,) = make()
    loop.close(a)
    loop.drained(a)
    assert loop.figures()["ready"] == 0


def test_burst_of_sends_to_many_wakes_the_poller_once(make: Make) -> None:
    loop, conns = make(8)
    loop.sleep()
    for i in range(1000):
        loop.queue(conns[i % 8], b"x" * 10)
    assert loop.queued() == (10_000, 1)
    assert int.from_bytes(os.read(loop.wake_fd, 8), sys.byteorder) == 1
    for conn in conns:
        loop.flush(conn)
    assert loop.queued() == (0, 1)
