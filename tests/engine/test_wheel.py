"""The timing wheel against a dict of deadlines: nothing early, nothing twice, nothing overslept."""

from __future__ import annotations

import random

import pytest
from uws_shims.wheel_shim import BUCKETS, Wheel

WRAP = 1 << 32


def expire_all(wheel: Wheel, now: int) -> list[int]:
    """Advance to tick now (which may be beyond the counter's end) and return the slots that expired."""
    out = []
    while (index := wheel.expire(now % WRAP)) >= 0:
        out.append(index)
        assert len(out) <= 10_000, "the wheel does not end"
    assert wheel.now == now % WRAP
    return out


class Naive:
    """A wheel whose ticks never wrap. Deadlines as the caller gave them, in a dict."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.deadlines: dict[int, int] = {}

    def set(self, index: int, deadline: int) -> None:
        deadline = max(deadline, self.now + 1)
        # 0 is "no timer" in a link, so the wheel waits for one tick more.
        self.deadlines[index] = deadline + (deadline % WRAP == 0)

    def advance(self, now: int) -> set[int]:
        self.now = now
        due = {index for index, deadline in self.deadlines.items() if deadline <= now}
        for index in due:
            del self.deadlines[index]
        return due


# Just before the counter wraps, where its sign changes, and far from both.
STARTS = [0, 1, 12_345, BUCKETS - 1, (1 << 31) - 3000, WRAP - 5000, WRAP - BUCKETS, WRAP - 1]


def test_the_horizon_is_a_power_of_two() -> None:
    assert BUCKETS & (BUCKETS - 1) == 0


@pytest.mark.parametrize("start", STARTS)
def test_a_timer_expires_at_its_tick_and_not_before(start: int) -> None:
    for delay in [
        1,
        2,
        62,
        63,
        64,
        65,
        127,
        128,
        BUCKETS - 1,
        BUCKETS,
        BUCKETS + 1,
        3 * BUCKETS,
        10 * BUCKETS + 7,
    ]:
        wheel = Wheel(4, start)
        wheel.set(2, (start + delay) % WRAP)
        at = start + delay + ((start + delay) % WRAP == 0)
        assert expire_all(wheel, at - 1) == []
        assert wheel.count == 1
        assert expire_all(wheel, at) == [2], (start, delay)
        assert wheel.count == 0 and wheel.busy_buckets() == [] and wheel.deadline(2) == 0
        assert expire_all(wheel, at + 20 * BUCKETS) == []


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("back", [0, 1, 1000, BUCKETS, 1 << 30])
def test_a_deadline_that_has_passed_expires_at_the_next_tick(start: int, back: int) -> None:
    wheel = Wheel(1, start)
    wheel.set(0, (start - back) % WRAP)
    assert wheel.next() in (1, 2)
    assert expire_all(wheel, start) == []
    due = start + 1 + ((start + 1) % WRAP == 0)
    assert expire_all(wheel, due - 1) == []
    assert expire_all(wheel, due) == [0]


def test_going_nowhere_or_back_in_time_expires_nothing() -> None:
    wheel = Wheel(2, 1000)
    wheel.set(0, 1001)
    for now in (1000, 999, 0):
        assert wheel.expire(now) == -1
        assert wheel.now == 1000
    assert expire_all(wheel, 1001) == [0]


def test_setting_again_replaces_the_timer() -> None:
    wheel = Wheel(2, 0)
    for deadline in (10, 5000, 7, 20):
        wheel.set(1, deadline)
        assert wheel.count == 1 and wheel.deadline(1) == deadline
        assert len(wheel.busy_buckets()) == 1
    assert expire_all(wheel, 19) == []
    assert expire_all(wheel, 20) == [1]


def test_cancelling_takes_any_of_a_bucket_out_and_none_twice() -> None:
    for victim in range(5):
        wheel = Wheel(5, 0)
        for index in range(5):
            wheel.set(index, 9 + BUCKETS * index)
        wheel.cancel(victim)
        wheel.cancel(victim)
        assert wheel.count == 4 and wheel.busy_buckets() == [9]
        assert sorted(expire_all(wheel, 9 + 5 * BUCKETS)) == [i for i in range(5) if i != victim]
        assert wheel.busy_buckets() == []


def test_cancelling_a_slot_that_never_had_a_timer_does_nothing() -> None:
    wheel = Wheel(3, 0)
    wheel.set(0, 5)
    wheel.cancel(1)
    assert wheel.count == 1
    assert expire_all(wheel, 5) == [0]


@pytest.mark.parametrize("start", STARTS)
def test_next_is_the_distance_of_a_single_timer(start: int) -> None:
    """Within the horizon it is exact: waking early costs a turn of the loop, oversleeping a deadline."""
    for delay in range(1, BUCKETS + 1):
        wheel = Wheel(1, start)
        wheel.set(0, (start + delay) % WRAP)
        # Tick 0 is put off by one, which may be a tick beyond the horizon: back in the first bucket.
        ticks = delay + ((start + delay) % WRAP == 0)
        assert wheel.next() == (ticks if ticks <= BUCKETS else ticks - BUCKETS), delay
    for delay in (BUCKETS + 1, 2 * BUCKETS + 64, 100 * BUCKETS):
        wheel = Wheel(1, start)
        wheel.set(0, (start + delay) % WRAP)
        assert 1 <= wheel.next() <= BUCKETS


def test_next_without_timers_is_zero() -> None:
    wheel = Wheel(1, 77)
    assert wheel.next() == 0
    wheel.set(0, 100)
    wheel.cancel(0)
    assert wheel.next() == 0
    wheel.set(0, 100)
    assert expire_all(wheel, 100) == [0]
    assert wheel.next() == 0


def test_a_slot_may_be_set_again_while_the_wheel_is_being_emptied() -> None:
    """What the loop does with a ping interval: one that expired is set again before the next is asked for."""
    wheel = Wheel(8, 0)
    for index in range(8):
        wheel.set(index, 10)
    seen = []
    while (index := wheel.expire(10)) >= 0:
        seen.append(index)
        wheel.set(index, 10 + BUCKETS)
        assert len(seen) <= 8
    assert sorted(seen) == list(range(8))
    assert expire_all(wheel, 10 + BUCKETS - 1) == []
    assert sorted(expire_all(wheel, 10 + BUCKETS)) == list(range(8))


@pytest.mark.parametrize("jump", [1, BUCKETS - 1, BUCKETS, BUCKETS + 1, 5 * BUCKETS + 3, 1 << 30])
def test_timers_set_or_cancelled_in_the_middle_of_a_jump_expire_once_or_not_at_all(jump: int) -> None:
    for start in STARTS:
        wheel = Wheel(6, start)
        wheel.set(0, (start + 1) % WRAP)
        wheel.set(1, (start + 1) % WRAP)
        wheel.set(2, (start + jump) % WRAP)
        wheel.set(3, (start + jump + 5) % WRAP)
        now = start + jump + 1  # where a deadline was moved off 0
        first = wheel.expire(now % WRAP)
        assert first in (0, 1, 2)
        wheel.set(4, now % WRAP)
        wheel.set(5, now % WRAP)
        wheel.cancel(5)
        late = 4 if now % WRAP == 0 else -1
        rest = expire_all(wheel, now)
        assert sorted([first, *rest]) == sorted({0, 1, 2, 4} - {late})
        assert 3 in expire_all(wheel, now + 5) and wheel.count == 0


@pytest.mark.parametrize("start", STARTS)
def test_random_life_is_that_of_a_dict(start: int) -> None:
    rng = random.Random(start)
    size = 60
    wheel, naive = Wheel(size, start), Naive(start)
    fired = 0
    for step in range(4000):
        what = rng.random()
        index = rng.randrange(size)
        if what < 0.5:
            reach = rng.choice([3, 64, 200, BUCKETS, 3 * BUCKETS, 20 * BUCKETS])
            deadline = naive.now + rng.randrange(-5, reach)
            wheel.set(index, deadline % WRAP)
            naive.set(index, deadline)
        elif what < 0.6:
            wheel.cancel(index)
            naive.deadlines.pop(index, None)
        else:
            if naive.deadlines:
                ticks = wheel.next()
                assert 1 <= ticks <= BUCKETS
                assert ticks <= min(naive.deadlines.values()) - naive.now, "it would oversleep"
            now = naive.now + rng.choice([0, 1, 1, 2, 17, 63, 64, 65, 500, BUCKETS, BUCKETS + 1, 7 * BUCKETS])
            got = expire_all(wheel, now)
            assert len(got) == len(set(got))
            assert set(got) == naive.advance(now), step
            fired += len(got)
        assert wheel.count == len(naive.deadlines)
    assert fired > 500
    for slot in range(size):
        assert (wheel.deadline(slot) != 0) == (slot in naive.deadlines)
    assert len(wheel.busy_buckets()) == len({deadline % BUCKETS for deadline in naive.deadlines.values()})
    assert wheel.untouched()


def test_sleeping_as_long_as_next_says_meets_every_deadline_on_time() -> None:
    """The loop's way to use it: advance by what next says, and nothing else."""
    rng = random.Random(5)
    start = WRAP - 30_000
    wheel = Wheel(300, start)
    deadlines = {index: start + rng.randrange(1, 60_000) for index in range(300)}
    deadlines = {index: deadline + (deadline == WRAP) for index, deadline in deadlines.items()}
    for index, deadline in deadlines.items():
        wheel.set(index, deadline % WRAP)
    now, turns = start, 0
    while ticks := wheel.next():
        now += ticks
        turns += 1
        for index in expire_all(wheel, now):
            assert deadlines.pop(index) == now
    assert deadlines == {}
    # Nor does it wake for nothing much: at most once a lap for each timer that is laps away.
    assert turns < 300 * (60_000 // BUCKETS + 2)
