"""hold: a connection that is held is neither read nor delivered, and nothing of it is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from uws_shims.deliver_shim import Bare

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

Make = Callable[..., tuple[Bare, list[int]]]


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
