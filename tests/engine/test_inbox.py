"""Events that wait for their callback: in their order, with their payloads, and back at zero afterwards."""

from __future__ import annotations

import random
from collections import deque

import pytest
from uws_shims.inbox_shim import CLOSE, E_NOMEM, MESSAGE, OK, Inbox

SIZES = [0, 1, 15, 16, 17, 125, 4096, 65_536, 200_000]


def assert_clean(inbox: Inbox) -> None:
    assert inbox.empty
    assert (inbox.live_blocks, inbox.used_bytes) == (0, 0)


def test_an_empty_inbox_gives_nothing() -> None:
    inbox = Inbox()
    assert inbox.take() is None
    inbox.drop()
    assert_clean(inbox)


@pytest.mark.parametrize("size", SIZES)
def test_a_payload_that_is_not_the_events_own_is_copied(size: int) -> None:
    """The shim overwrites it at once, as the next turn overwrites the arena."""
    inbox = Inbox()
    payload = random.Random(size).randbytes(size)
    status, at = inbox.put(MESSAGE, 2, payload)
    assert status == OK
    # One block: the note with its payload behind it.
    assert (inbox.count, inbox.bytes, inbox.live_blocks) == (1, size, 1)
    kind, opcode, taken, code, where = inbox.take()
    assert (kind, opcode, taken, code) == (MESSAGE, 2, payload, 0)
    assert where is None or where != at
    assert_clean(inbox)


@pytest.mark.parametrize("size", SIZES)
def test_a_payload_that_an_event_owns_goes_with_it_uncopied(size: int) -> None:
    inbox = Inbox()
    payload = random.Random(size).randbytes(size)
    status, at = inbox.put(MESSAGE, 1, payload, owned=True)
    assert status == OK
    assert (inbox.count, inbox.bytes, inbox.live_blocks) == (1, size, 2)
    kind, opcode, taken, _, where = inbox.take()
    assert (kind, opcode, taken) == (MESSAGE, 1, payload)
    if size:
        assert where == at
    assert_clean(inbox)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_a_payload_in_a_block_of_more_than_twice_its_size_is_copied_and_the_block_given_back(
    size: int, back: bool
) -> None:
    inbox = Inbox()
    payload = random.Random(size).randbytes(size)
    assert inbox.put(MESSAGE, 1, payload, owned=True, room=2_000_000, back=back)[0] == OK
    assert (inbox.count, inbox.bytes) == (1, size)
    if size:
        assert inbox.live_blocks == 1
        assert inbox.used_bytes <= 2 * (size + 64)
    assert inbox.take()[:3] == (MESSAGE, 1, payload)
    assert_clean(inbox)


def test_all_of_an_event_is_kept() -> None:
    inbox = Inbox()
    inbox.put(CLOSE, 0, b"going away", code=1001)
    assert inbox.take()[:4] == (CLOSE, 0, b"going away", 1001)
    assert_clean(inbox)


def test_events_leave_in_the_order_in_which_they_came() -> None:
    inbox = Inbox()
    for i in range(500):
        assert inbox.put(MESSAGE, 1 + i % 2, b"%d" % i, owned=i % 3 == 0)[0] == OK
    for i in range(500):
        assert inbox.take()[1:3] == (1 + i % 2, b"%d" % i)
    assert inbox.take() is None
    assert_clean(inbox)


def test_dropping_gives_back_payloads_of_both_kinds() -> None:
    inbox = Inbox()
    for i in range(50):
        inbox.put(MESSAGE, 2, bytes(i * 100), owned=i % 2 == 0)
    inbox.take()
    inbox.drop()
    assert_clean(inbox)
    # Dropped means empty, not broken.
    inbox.put(MESSAGE, 2, b"again")
    assert inbox.take()[2] == b"again"
    assert_clean(inbox)


def test_out_of_memory_is_said_and_nothing_has_changed() -> None:
    inbox = Inbox()
    inbox.put(MESSAGE, 2, b"first")
    before = (inbox.count, inbox.bytes, inbox.live_blocks, inbox.used_bytes)
    assert inbox.put_absurd(1 << 62) == E_NOMEM
    assert (inbox.count, inbox.bytes, inbox.live_blocks, inbox.used_bytes) == before
    inbox.put(MESSAGE, 2, b"second")
    assert [inbox.take()[2], inbox.take()[2], inbox.take()] == [b"first", b"second", None]
    assert_clean(inbox)


def test_random_life_is_that_of_a_queue() -> None:
    rng = random.Random(8)
    inbox = Inbox()
    naive: deque[tuple[int, int, bytes, int]] = deque()
    taken = 0
    for _ in range(5000):
        if rng.random() < 0.52:
            kind = rng.choice([MESSAGE, MESSAGE, CLOSE])
            event = (
                kind,
                rng.randrange(3),
                rng.randbytes(rng.choice([0, 1, 30, 500, 70_000])),
                rng.randrange(5000),
            )
            assert inbox.put(*event[:3], owned=rng.random() < 0.4, code=event[3])[0] == OK
            naive.append(event)
        else:
            got = inbox.take()
            assert (got and got[:4]) == (naive.popleft() if naive else None)
            taken += got is not None
        if rng.random() < 0.002:
            inbox.drop()
            naive.clear()
            assert_clean(inbox)
        assert (inbox.count, inbox.bytes) == (len(naive), sum(len(event[2]) for event in naive))
    assert taken > 1000
    inbox.drop()
    assert_clean(inbox)


def test_what_is_put_back_comes_before_what_is_there() -> None:
    inbox = Inbox()
    for payload in (b"4", b"5"):
        inbox.put(MESSAGE, 2, payload)
    for payload, owned in ((b"3", True), (b"2", False), (b"1", True)):
        assert inbox.put(MESSAGE, 2, payload, owned=owned, back=True)[0] == OK
    assert (inbox.count, inbox.bytes) == (5, 5)
    inbox.put(MESSAGE, 2, b"6")
    assert [inbox.take()[2] for _ in range(6)] == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert_clean(inbox)
    # Into an empty one it is the last as well.
    inbox.put(MESSAGE, 2, b"1", back=True)
    inbox.put(MESSAGE, 2, b"2")
    assert [inbox.take()[2] for _ in range(2)] == [b"1", b"2"]
    assert_clean(inbox)
