"""Where we and a peer differ on purpose: the whole list. Any other difference is a mistake, ours or theirs.

Each entry names the RFC's section that our side rests on. It holds for a stream only where the reader of the
RFCs (reading.py) has met what the entry is about and agrees with us to the letter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .readers import Outcome
from .reading import Reading


class Difference(NamedTuple):
    peer: str
    section: str
    says: str
    holds: Callable[[Reading, Outcome, Outcome], bool]


def begins(longer: Outcome, shorter: Outcome) -> bool:
    return longer.events[: len(shorter.events)] == shorter.events


DIFFERENCES = [
    Difference(
        "websockets",
        "6455: 5.2",
        "takes a length in a longer form than it needs; the shortest one MUST be used",
        lambda read, ours, theirs: (
            "length in a longer form than it needs" in read.facts
            and ours.code == 1002
            and begins(theirs, ours)
        ),
    ),
    Difference(
        "websockets",
        "6455: 5.4, 5.5.1",
        "fails with 1002 where a close frame comes within a message; control frames may, and close is one",
        lambda read, ours, theirs: (
            "close frame within a message" in read.facts
            and ours.code is None
            and theirs == Outcome(ours.events[:-1], 1002)
        ),
    ),
    Difference(
        "websockets",
        "6455: 5.4, 5.5",
        "counts a control frame within a message as a part of it, and fails with 1009 above the limit",
        lambda read, ours, theirs: (
            "control frame longer than what is left of the limit" in read.facts
            and theirs.code == 1009
            and begins(ours, theirs)
        ),
    ),
    Difference(
        "wsproto",
        "IANA's registry",
        "does not know close code 1014",
        lambda read, ours, theirs: (
            "close code 1014" in read.facts
            and theirs.code == 1002
            and ours.code in (None, 1007)
            and begins(ours, theirs)
        ),
    ),
    Difference(
        "wsproto",
        "6455: 10.4",
        "has no limit on a message",
        lambda read, ours, theirs: "too long" in read.facts and ours.code == 1009 and begins(theirs, ours),
    ),
    Difference(
        "wsproto",
        "6455: 8.1",
        "notices some ill-formed text one byte late; a control frame may come in between",
        lambda read, ours, theirs: (
            ours.code == 1007
            and begins(theirs, ours)
            and all(event[0] != "message" for event in theirs.events[len(ours.events) :])
        ),
    ),
    Difference(
        "any",
        "6455: 7.1.7",
        "one frame breaks several rules, and another one is named",
        lambda read, ours, theirs: (
            ours.events == theirs.events and len(read.codes) > 1 and {ours.code, theirs.code} <= read.codes
        ),
    ),
]


def explained(peer: str, reading: Reading, ours: Outcome, theirs: Outcome) -> Difference | None:
    """Return the entry that a difference falls under; None: it is not explained."""
    for difference in DIFFERENCES:
        if difference.peer in (peer, "any") and difference.holds(reading, ours, theirs):
            return difference
    return None
