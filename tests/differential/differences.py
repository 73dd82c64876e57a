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


def same_until(fact: str, read: Reading, ours: Outcome, theirs: Outcome) -> bool:
    """Tell whether the fact was met, and both say the same up to there."""
    count = read.facts.get(fact, -1)
    return count >= 0 and ours.events[:count] == theirs.events[:count]


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
        "wsproto",
        "7692: 6.1; 6455: 5.4",
        "forgets at a control frame that the message around it is compressed",
        lambda read, ours, theirs: same_until(
            "control frame within a compressed message", read, ours, theirs
        ),
    ),
    Difference(
        "any",
        "7692: 6",
        "inflates what is in a wrong frame, and finds it wrong, before it looks at all of its header",
        lambda read, ours, theirs: (
            "wrong frame that somebody may inflate" in read.facts
            and ours.code == 1002
            and theirs.code in (1007, 1009)
            and theirs.events == ours.events
        ),
    ),
    Difference(
        "any",
        "7692: 7.2.3.6",
        "is out of step behind a compressed message without a byte, which an empty one should have",
        lambda read, ours, theirs: same_until("compressed message without a byte", read, ours, theirs),
    ),
    Difference(
        "websockets",
        "6455: 10.4",
        "refuses a compressed message of exactly the limit",
        lambda read, ours, theirs: (
            theirs.code == 1009 and same_until("compressed message that fills the limit", read, ours, theirs)
        ),
    ),
    Difference(
        "websockets",
        "6455: 10.4",
        "passes by the limit, with what zlib still holds, where fragments have filled it to the byte",
        lambda read, ours, theirs: (
            ours.code == 1009
            and "too long" in read.facts
            and same_until("compressed message that fills the limit", read, ours, theirs)
        ),
    ),
    Difference(
        "any",
        "7692: 7.2.3.4, 7.2.3.5",
        "does not go on behind a final block",
        lambda read, ours, theirs: same_until("final block", read, ours, theirs),
    ),
    Difference(
        "any",
        "7692: 7.2.2",
        "takes compressed data that ends within a block",
        lambda read, ours, theirs: (
            "message that does not end where a block does" in read.facts
            and ours.code == 1007
            and begins(theirs, ours)
            and len(theirs.events) > len(ours.events)
        ),
    ),
    Difference(
        "websockets",
        "6455: 7.4.1",
        "names 1002 or 1009 where compressed data is damaged, which is not what it is said to be (1007)",
        lambda read, ours, theirs: (
            "damaged deflate data" in read.facts
            and ours.code in (1007, 1009)
            and theirs.code in (1002, 1009)
            and theirs.events == ours.events
        ),
    ),
    Difference(
        "websockets",
        "7692: 7.2.2",
        "names 1009 where a long message goes on in the four bytes that its receiver appends",
        lambda read, ours, theirs: (
            theirs.code == 1009
            and same_until("message that goes on in what its receiver appends", read, ours, theirs)
        ),
    ),
    Difference(
        "any",
        "6455: 5.4",
        "inflates a message as it comes, and refuses it before we do, at its end",
        lambda read, ours, theirs: (
            "compressed message that is wrong before its end" in read.facts
            and theirs.code is not None
            and theirs.events == ours.events[: read.facts["compressed message that is wrong before its end"]]
        ),
    ),
    Difference(
        "websockets",
        "6455: 10.4",
        "holds what is compressed to the limit on the message, although it may be longer",
        lambda read, ours, theirs: (
            theirs.code == 1009
            and same_until("compressed message longer than the limit in its frames", read, ours, theirs)
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
