"""Puts random streams to all readers and compares what they say.

    python -m differential.comparing [--count 100000] [--seed 1] [--only NUMBER]      (in tests/)

Exits 1 if there is a difference that nobody has explained; its stream can be had again by the number printed.
"""

from __future__ import annotations

import argparse
import reprlib
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .differences import DIFFERENCES, explained
from .readers import READERS, Outcome, ours
from .reading import Reading, read
from .streams import Stream, stream

PROGRESS_S = 5.0
# Unexplained differences that are shown in full; the rest are counted.
SHOWN = 10


class Unexplained(AssertionError):
    """Two readers differ, and no entry of the list says why."""


@dataclass
class Tally:
    """What a run has met: so that one which met nothing does not pass for one that found nothing."""

    streams: int = 0
    bytes: int = 0
    compressed: int = 0
    unclear: int = 0
    events: Counter[str] = field(default_factory=Counter)
    codes: Counter[int | None] = field(default_factory=Counter)
    made: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    differences: Counter[tuple[str, str]] = field(default_factory=Counter)


def check(one: Stream, tally: Tally) -> None:
    """Compare all readers on one stream. Raises Unexplained."""
    reading = read(one.data, one.terms, one.limit)
    if reading.unclear:
        tally.unclear += 1
        return
    mine = ours(one.pieces(), one.terms, one.limit)
    silent_in_time = mine.code is None and (not reading.codes or not reading.due)
    if mine.events != reading.events or not (mine.code in reading.codes or silent_in_time):
        raise Unexplained(described(one, reading, {"ours": mine}))
    for name, reader in READERS.items():
        own, theirs = mine, reader(one.pieces(), one.terms, one.limit)
        if own.events == theirs.events and (own.code is None) != (theirs.code is None) and reading.rest:
            # Not everybody needs to see all of a frame to refuse it. Who does, is shown the rest of it.
            pieces = [*one.pieces(), reading.rest]
            if theirs.code is None:
                tally.late[name] += 1
                theirs = reader(pieces, one.terms, one.limit)
            else:
                tally.late["ours"] += 1
                own = ours(pieces, one.terms, one.limit)
        if theirs != own:
            difference = explained(name, reading, own, theirs)
            if difference is None:
                raise Unexplained(described(one, reading, {"ours": own, name: theirs}))
            tally.differences[name, difference.says] += 1
    tally.streams += 1
    tally.bytes += len(one.data)
    tally.compressed += one.terms is not None
    tally.events.update(str(event[0]) for event in mine.events)
    tally.codes[mine.code] += 1
    tally.made.update(one.made)


def described(one: Stream, reading: Reading, outcomes: dict[str, Outcome]) -> str:
    """Say which stream it is, and the end of what each reader has made of it."""
    lines = [
        f"stream {one.number}, limit {one.limit}, {one.terms}, made by {one.made}, cut at {one.cuts[:20]}",
        f"the RFC: {len(reading.events)} events, {reading.codes}, {reading.due=}, {reading.facts}",
    ]
    seen = reading.events
    for name, (events, code) in outcomes.items():
        same = next((i for i, (a, b) in enumerate(zip(seen, events, strict=False)) if a != b), len(events))
        lines.append(f"{name}: {code}, {len(events)} events, from {same} on {reprlib.repr(events[same:])}")
    return "\n".join([*lines, one.data[:4000].hex()])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="compare this stream only")
    args = parser.parse_args()

    numbers = range(args.count) if args.only is None else range(args.only, args.only + 1)
    tally = Tally()
    unexplained = 0
    begin = shown = time.monotonic()
    for number in numbers:
        try:
            check(stream(args.seed, number), tally)
        except Unexplained as exc:
            unexplained += 1
            if unexplained <= SHOWN:
                print(f"--- not explained\n{exc}", flush=True)
        if time.monotonic() - shown > PROGRESS_S:
            shown = time.monotonic()
            done = number - numbers.start + 1
            print(f"{done} of {len(numbers)}, {done / (shown - begin):.0f} a second", flush=True)
    report(tally)
    print(f"{len(numbers)} streams of seed {args.seed}, {unexplained} with an unexplained difference")
    return 1 if unexplained else 0


def report(tally: Tally) -> None:
    """Print what was met."""

    def line(name: str, counts: Counter[Any]) -> None:
        print(f"{name}:", ", ".join(f"{count} {what}" for what, count in counts.most_common()))

    print(f"{tally.bytes} bytes; {tally.compressed} streams with compression, {tally.unclear} left out")
    line("events", tally.events)
    line("failed with", tally.codes)
    line("done to the streams", tally.made)
    line("refused by others before all of the frame was there, and then here too", tally.late)
    print("explained differences:")
    for difference in DIFFERENCES:
        for peer in READERS:
            if count := tally.differences[peer, difference.says]:
                print(f"  {count:7} {peer}: {difference.says} ({difference.section})")


if __name__ == "__main__":
    sys.exit(main())
