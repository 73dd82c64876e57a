"""Signals come to a handler one after the other, however fast they come."""

from __future__ import annotations

import gc
import signal
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from _uws.relay import Relay

WAITING = 16
USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2


@contextmanager
def handling(handler: Callable[[int], object]) -> Iterator[Relay]:
    relay = Relay(handler)
    before = {number: signal.signal(number, relay) for number in (USR1, USR2)}
    try:
        yield relay
    finally:
        for number, was in before.items():
            signal.signal(number, was)


def test_each_signal_is_handed_over() -> None:
    seen: list[int] = []
    with handling(seen.append):
        for number in (USR1, USR2, USR2):
            signal.raise_signal(number)
    assert seen == [USR1, USR2, USR2]


def test_a_handler_is_not_interrupted_by_another() -> None:
    seen: list[tuple[str, int]] = []

    def handler(number: int) -> None:
        seen.append(("begins", number))
        if len(seen) == 1:
            signal.raise_signal(USR2)
            signal.raise_signal(USR1)
        seen.append(("ends", number))

    with handling(handler):
        signal.raise_signal(USR1)
    assert seen == [(what, number) for number in (USR1, USR2, USR1) for what in ("begins", "ends")]


def test_a_storm_has_no_depth() -> None:
    # Deeper than the interpreter would go.
    left = 100_000

    def handler(number: int) -> None:
        nonlocal left
        if left:
            left -= 1
            signal.raise_signal(number)

    with handling(handler):
        signal.raise_signal(USR1)
    assert left == 0


def test_what_comes_meanwhile_is_bounded() -> None:
    handled = 0

    def handler(number: int) -> None:
        nonlocal handled
        handled += 1
        if handled == 1:
            for _ in range(1000):
                signal.raise_signal(USR2)

    with handling(handler):
        signal.raise_signal(USR1)
        assert handled == 1 + WAITING
        signal.raise_signal(USR1)
        assert handled == 2 + WAITING


def test_a_handler_that_wants_no_more_gets_none_of_those_that_wait() -> None:
    seen: list[int] = []

    def handler(number: int) -> bool:
        seen.append(number)
        signal.raise_signal(USR2)
        signal.raise_signal(USR2)
        return False

    with handling(handler):
        signal.raise_signal(USR1)
    assert seen == [USR1]


def test_what_a_handler_raises_comes_out_where_the_signal_came_in() -> None:
    seen: list[int] = []

    def handler(number: int) -> None:
        seen.append(number)
        if len(seen) == 1:
            signal.raise_signal(USR2)
            raise KeyboardInterrupt

    with handling(handler):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(USR1)
        assert seen == [USR1]
        signal.raise_signal(USR1)
    assert seen == [USR1, USR2, USR1]


def test_it_keeps_nothing_alive_for_ever() -> None:
    class Handler:
        def __init__(self) -> None:
            self.relay = Relay(self)

        def __call__(self, number: int) -> None: ...

    gone = weakref.ref(Handler())
    gc.collect()
    assert gone() is None
