from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from unlimitedws import UnlimitedWSError
from unlimitedws.auth import Identity, MemoryTickets, TooManyTickets


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def switching() -> Iterator[None]:
    """Have threads switch as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_ticket_is_random_and_needs_no_encoding() -> None:
    store = MemoryTickets()
    tickets = {store.issue("alice") for _ in range(1000)}
    assert len(tickets) == 1000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", ticket) for ticket in tickets)


def test_take_returns_the_identity_once() -> None:
    store = MemoryTickets()
    ticket = store.issue("alice", "s1", 5.0, {"role": "admin"})
    identity = store.take(ticket)
    assert identity == Identity("alice", "s1", 5.0)
    assert identity.claims == {"role": "admin"}
    assert store.take(ticket) is None


@pytest.mark.parametrize("ticket", ["", "x", "\ud800", "\u00e9", "a" * 100_000])
def test_unknown_ticket_is_nobodys(ticket: str) -> None:
    assert MemoryTickets().take(ticket) is None


def test_ticket_is_good_for_its_lifetime(clock: Clock) -> None:
    store = MemoryTickets(10, clock=clock)
    early, late = store.issue("alice"), store.issue("bob")
    clock.now += 9.999
    assert store.take(early) == Identity("alice")
    clock.now += 0.001
    assert store.take(late) is None


def test_old_ticket_takes_no_room(clock: Clock) -> None:
    store = MemoryTickets(10, 4, clock=clock)
    for _ in range(100):
        store.issue("alice")
        store.issue("alice")
        clock.now += 7
        assert len(store) <= 2
    clock.now += 10
    assert len(store) == 0


def test_full_store_voids_nobodys_ticket(clock: Clock) -> None:
    store = MemoryTickets(10, 2, clock=clock)
    tickets = [store.issue("alice"), store.issue("bob")]
    with pytest.raises(TooManyTickets, match="2 tickets") as raised:
        store.issue("mallory")
    assert isinstance(raised.value, UnlimitedWSError)
    assert store.take(tickets[0]) == Identity("alice")
    store.issue("carol")
    assert store.take(tickets[1]) == Identity("bob")


def test_ticket_is_not_kept_in_the_clear() -> None:
    store = MemoryTickets()
    ticket = store.issue("alice")
    assert ticket not in repr(vars(store))
    assert ticket.encode() not in repr(vars(store)).encode()
    assert ticket not in repr(store)


@pytest.mark.usefixtures("switching")
def test_of_many_who_take_a_ticket_at_once_one_gets_it() -> None:
    store = MemoryTickets()
    threads = 8
    barrier = threading.Barrier(threads)
    tickets = [store.issue(number) for number in range(300)]
    got: list[list[Any]] = [[] for _ in range(threads)]

    def race(mine: list[Any]) -> None:
        for ticket in tickets:
            barrier.wait(30)
            identity = store.take(ticket)
            if identity is not None:
                mine.append(identity.user)

    started = [threading.Thread(target=race, args=(mine,)) for mine in got]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert sorted(user for mine in got for user in mine) == list(range(300))


@pytest.mark.parametrize("lifetime", [0, -1, float("nan"), float("inf"), "30", True])
def test_lifetime_that_is_none_is_refused(lifetime: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="lifetime: "):
        MemoryTickets(lifetime)


@pytest.mark.parametrize("most", [0, -1, 1.5, True, "3"])
def test_number_of_tickets_that_is_none_is_refused(most: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_tickets: "):
        MemoryTickets(max_tickets=most)


@pytest.mark.parametrize("user", [None, ""])
def test_ticket_of_nobody_is_refused(user: Any) -> None:
    store = MemoryTickets()
    with pytest.raises(ValueError, match="needs a user"):
        store.issue(user)
    assert len(store) == 0
