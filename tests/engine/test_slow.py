"""slow: who waits for the kernel, in the order in which they last got on."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from uws_shims.deliver_shim import Bare

Make = Callable[..., tuple[Bare, list[int]]]


def test_nobody_is_the_slowest_where_nobody_waits(make: Make) -> None:
    loop, (a,) = make()
    assert loop.slowest() == -1 and loop.line() == []
    loop.got_on(a)
    loop.caught_up(a)
    assert loop.slowest() == -1 and loop.line() == []


def test_who_got_on_least_recently_is_first(make: Make) -> None:
    loop, (a, b, c) = make(3)
    for conn in (a, b, c):
        loop.got_on(conn)
    assert loop.line() == [a, b, c] and loop.slowest() == a
    loop.got_on(c)
    assert loop.line() == [a, b, c]
    loop.got_on(a)
    assert loop.line() == [b, c, a]
    loop.caught_up(c)
    loop.caught_up(c)
    assert loop.line() == [b, a]


@pytest.mark.parametrize("seed", range(3))
def test_line_is_that_of_a_plain_list(make: Make, seed: int) -> None:
    loop, conns = make(7)
    rng = random.Random(seed)
    line: list[int] = []
    for _ in range(2000):
        conn = rng.choice(conns)
        if conn in line:
            line.remove(conn)
        if rng.random() < 0.6:
            loop.got_on(conn)
            line.append(conn)
        else:
            # Who is in the line has a side block; who is not may have none.
            loop.got_on(conn)
            loop.caught_up(conn)
        assert loop.line() == line
        assert loop.slowest() == (line[0] if line else -1)


def test_who_ends_leaves_the_line(make: Make) -> None:
    loop, (a, b, c) = make(3)
    for conn in (a, b, c):
        loop.got_on(conn)
    loop.abort(b)
    assert loop.line() == [a, c]
    loop.abort(a)
    loop.abort(c)
    assert loop.line() == [] and loop.slowest() == -1
