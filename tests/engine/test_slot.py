"""A slot of the connection table: handles, the side block, and what epoll is asked for on its behalf."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator

import pytest
from uws_shims import slot_shim as shim
from uws_shims.slot_shim import Table

# ---- handles


def test_a_slot_is_what_an_idle_connection_costs() -> None:
    assert shim.SLOT_BYTES <= 64


def test_a_handle_finds_its_connection() -> None:
    table = Table(10)
    for index in range(10):
        table.make(index, 1000 + index)
    assert [table.at(index, 1000 + index) for index in range(10)] == list(range(10))


def test_a_handle_of_an_earlier_generation_finds_nothing() -> None:
    table = Table(4)
    table.make(2, 8)
    for generation in (0, 7, 9, 8 + (1 << 31), 2**32 - 1):
        assert table.at(2, generation) is None
    assert table.at(2, 8) == 2
    # The descriptor goes to somebody else.
    table.make(2, 9)
    assert table.at(2, 8) is None
    assert table.at(2, 9) == 2


def test_a_free_slot_is_nobodys_whatever_the_generation() -> None:
    table = Table(4)
    assert table.at(1, 0) is None
    table.make(1, 5, shim.S_FREE)
    assert table.at(1, 5) is None


def test_a_dead_connection_is_found_until_its_slot_is_free() -> None:
    """Its CLOSE event has not been consumed: on_close still asks for it."""
    table = Table(4)
    table.make(1, 5, shim.S_DEAD)
    assert table.at(1, 5) == 1


def test_index_minus_one_is_no_connection() -> None:
    table = Table(1)
    for generation in (0, 1, 2**32 - 1):
        assert table.at(-1, generation) is None
    assert table.at(-(2**31), 0) is None


# ---- the side block


def test_the_side_block_is_made_once_and_begins_with_zeros() -> None:
    table = Table(3)
    # Another block, so that the allocator does not begin anew.
    table.side(0)
    for _ in range(3):
        # A block that was used by another before is as good as a new one.
        assert table.side(1) is None
        assert table.side(1) is True
        assert table.live_blocks == 2
        table.scribble(1)
        table.trim(1)
        assert not table.has_side(1)
        assert table.live_blocks == 1


def test_trimming_a_slot_without_a_side_block_does_nothing() -> None:
    table = Table(3)
    table.trim(1)
    assert (table.has_side(1), table.live_blocks) == (False, 0)


@pytest.mark.parametrize("what", ["out", "inbox", "request", "waiters", "pong"])
def test_a_side_block_is_kept_while_something_is_in_it(what: str) -> None:
    table = Table(3)
    table.side(1)
    table.fill(1, what, True)
    table.trim(1)
    assert table.has_side(1)
    table.fill(1, what, False)
    assert table.live_blocks == 1
    table.trim(1)
    assert (table.has_side(1), table.live_blocks) == (False, 0)


@pytest.mark.parametrize("flag", [shim.F_DIRTY, shim.F_READY])
def test_a_side_block_is_kept_while_its_links_are_in_a_list(flag: int) -> None:
    table = Table(3)
    table.side(1)
    table.set_flags(1, flag)
    table.trim(1)
    assert table.has_side(1)
    table.set_flags(1, 0)
    table.trim(1)
    assert (table.has_side(1), table.live_blocks) == (False, 0)


def test_a_request_head_is_given_back_once() -> None:
    table = Table(3)
    table.side(1)
    table.fill(1, "request", True)
    assert table.live_blocks == 3
    table.fill(1, "request", False)
    table.fill(1, "request", False)
    assert table.live_blocks == 1


def test_side_blocks_of_two_slots_are_two() -> None:
    table = Table(3)
    table.side(0)
    table.side(1)
    assert table.live_blocks == 2
    table.trim(0)
    assert not table.has_side(0) and table.has_side(1)


# ---- epoll


class Polled:
    """A table that has one connection, in the epoll set for reading, and what the kernel says of it."""

    GENERATION = 0xABC

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.fd = self.ours.fileno()
        self.table = Table(self.fd + 1, polls=True)
        self.table.make(self.fd, self.GENERATION)
        self.table.add(self.fd)

    def close(self) -> None:
        self.table.close()
        self.ours.close()
        self.theirs.close()

    def _row(self) -> list[str] | None:
        """What the kernel has for the descriptor; None if it is not in the set."""
        with open(f"/proc/self/fdinfo/{self.table.epoll_fd}") as info:
            return next((row for row in map(str.split, info) if row[:2] == ["tfd:", str(self.fd)]), None)

    def events(self) -> int | None:
        """What it is asked for, whoever has asked."""
        row = self._row()
        return None if row is None else int(row[3], 16) & (shim.IN | shim.OUT)

    def asked(self) -> tuple[int, int] | None:
        """(events, index), with a look at what the tag says beside: that it means a connection, and which one of those
        that have had the slot."""
        row, events = self._row(), self.events()
        if row is None or events is None:
            return None
        tag = int(row[5], 16)
        assert tag >> 32 == self.GENERATION
        return events, tag & 0xFFFFFFFF


@pytest.fixture
def polled() -> Iterator[Polled]:
    running = Polled()
    try:
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("first", [(True, False), (True, True), (False, False), (False, True)])
@pytest.mark.parametrize("second", [(True, False), (True, True), (False, False), (False, True)])
def test_epoll_is_asked_for_what_the_slot_wants(
    polled: Polled, first: tuple[bool, bool], second: tuple[bool, bool]
) -> None:
    table, fd = polled.table, polled.fd
    for reading, writing in (first, second):
        table.poll_for(fd, reading, writing)
        assert polled.asked() == ((shim.IN if reading else 0) | (shim.OUT if writing else 0), fd)
        flags = (0 if reading else shim.F_IN_OFF) | (shim.F_OUT_ON if writing else 0)
        assert table.flags(fd) == flags


@pytest.mark.parametrize(("reading", "writing"), [(True, False), (True, True), (False, True)])
def test_no_system_call_where_nothing_changes(polled: Polled, reading: bool, writing: bool) -> None:
    table, fd = polled.table, polled.fd
    table.poll_for(fd, reading, writing)
    # Through a descriptor of its own: the object closes it.
    with select.epoll.fromfd(os.dup(table.epoll_fd)) as kernel:
        other = shim.IN if writing else shim.OUT
        kernel.modify(fd, other)
        table.poll_for(fd, reading, writing)
        assert polled.events() == other, "the slot has asked again"


@pytest.mark.parametrize("flag", ["F_PAUSED", "F_EOF"])
def test_reading_stops_while_a_flag_says_so_and_writing_does_not(polled: Polled, flag: str) -> None:
    table, fd = polled.table, polled.fd
    for writing in (False, True):
        table.poll_for(fd, True, writing)
        out = shim.OUT if writing else 0
        table.set_flags(fd, table.flags(fd) | getattr(shim, flag))
        table.reading(fd)
        assert polled.asked() == (out, fd)
        table.set_flags(fd, table.flags(fd) & ~getattr(shim, flag))
        table.reading(fd)
        assert polled.asked() == (shim.IN | out, fd)


def test_unpolling_takes_the_descriptor_out_once(polled: Polled) -> None:
    table, fd = polled.table, polled.fd
    table.poll_for(fd, True, True)
    for _ in range(2):
        table.unpoll(fd)
        assert polled.asked() is None
        assert table.flags(fd) == shim.F_UNPOLLED | shim.F_IN_OFF


@pytest.mark.parametrize(("reading", "writing"), [(True, False), (True, True), (False, True)])
def test_what_is_wanted_again_is_polled_again(polled: Polled, reading: bool, writing: bool) -> None:
    table, fd = polled.table, polled.fd
    table.unpoll(fd)
    table.poll_for(fd, False, False)
    assert polled.asked() is None
    table.poll_for(fd, reading, writing)
    assert polled.asked() == ((shim.IN if reading else 0) | (shim.OUT if writing else 0), fd)
    assert not table.flags(fd) & shim.F_UNPOLLED


def test_a_transport_that_is_gone_is_polled_again_until_its_end_was_read(polled: Polled) -> None:
    table, fd = polled.table, polled.fd
    table.unpoll(fd)
    table.set_flags(fd, table.flags(fd) | shim.F_GONE)
    table.poll_for(fd, True, False)
    assert polled.asked() == (shim.IN, fd)
    table.unpoll(fd)
    table.set_flags(fd, table.flags(fd) | shim.F_EOF)
    table.poll_for(fd, True, True)
    assert polled.asked() is None
    assert table.flags(fd) & shim.F_UNPOLLED


@pytest.mark.parametrize("state", [shim.S_OPEN, shim.S_DEAD], ids=["open", "over"])
def test_a_descriptor_that_epoll_refuses_stays_out_and_an_open_one_is_looked_at_again(
    polled: Polled, state: int
) -> None:
    """Nobody would hear of it: only its timer brings it back."""
    table, fd = polled.table, polled.fd
    table.make(fd, polled.GENERATION, state)
    table.unpoll(fd)
    polled.ours.close()
    table.poll_for(fd, True, True)
    assert table.flags(fd) & (shim.F_UNPOLLED | shim.F_IN_OFF) == shim.F_UNPOLLED | shim.F_IN_OFF
    assert not table.flags(fd) & (shim.F_OUT_ON | shim.F_GONE)
    assert table.has_timer(fd) == (state == shim.S_OPEN)
