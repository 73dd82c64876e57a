"""Random streams, read by our engine and by two implementations that we did not write.

Some of the many that `make differential` compares.
"""

from __future__ import annotations

import struct
import zlib

import pytest
import raw
import rfc
from raw import BINARY, CLOSE, CONT, PING, TEXT

from differential import comparing
from differential.comparing import Tally, Unexplained, check
from differential.differences import DIFFERENCES, Difference
from differential.readers import Outcome, ours
from differential.streams import BYTES, CHANGES, ORDERS, Stream, Terms, stream

SEED = 6455
COUNT = 2000
LIMIT = 125


def test_streams_mean_to_us_what_they_mean_to_the_peers() -> None:
    tally = Tally()
    for number in range(COUNT):
        check(stream(SEED, number), tally)
    # It says something only if all of it was met.
    assert tally.streams == COUNT
    assert {name.__name__ for name in (*CHANGES, *ORDERS, *BYTES)} == set(tally.made)
    assert set(tally.codes) == {None, 1002, 1007, 1009}
    assert min(tally.events[kind] for kind in ("message", "ping", "pong", "close")) > COUNT / 10
    assert COUNT / 4 < tally.codes[None] < COUNT * 3 / 4


def coded(*frames: tuple[object, ...]) -> bytes:
    return b"".join(raw.frame(*part) for part in frames)  # type: ignore[arg-type]


def squeezed(payload: bytes) -> bytes:
    return rfc.Deflated().part(payload, True)


KEPT = Terms(15, True)
HELLO = squeezed(b"hello")
FINAL = zlib.compress(b"hello", wbits=-15) + b"\x00"
FULL = squeezed(b"x" * LIMIT)
EMPTY = b"\x00\x00\xff\xff"
STORED = b"\x00\x70\x00\x8f\xff" + b"x" * 112
# A byte more than the limit, of which zlib gives all but one before the message's end.
HELD = bytes.fromhex("000000ffff04c1810000000000902eff630000000000000000000000000000000002")

# A stored block, and behind it one with fixed codes: the first of them is cut, and made whole by zeros.
GOES_ON = b"\x00" + struct.pack("<HH", 2100, 2100 ^ 0xFFFF) + b"x" * 2100 + b"\x62"

EXAMPLES = {
    "takes a length in a longer form": raw.frame(TEXT, b"x", length_form=16),
    "fails with 1002 where a close frame": coded((TEXT, b"x", False), (CLOSE, b"\x03\xe8")),
    "counts a control frame": coded((TEXT, b"x" * 100, False), (PING, b"y" * 26)),
    "does not know close code 1014": raw.close_frame(1014),
    "has no limit": raw.frame(BINARY, b"x" * (LIMIT + 1)),
    "notices some ill-formed text": coded((TEXT, b"\xed\xa0", False), (PING, b"p"), (CONT, b"\x80")),
    "forgets at a control frame": coded((TEXT, HELLO[:2], False, 4), (PING, b""), (CONT, HELLO[2:])),
    "inflates what is in a wrong frame": coded((BINARY, HELLO + EMPTY, False, 4), (TEXT, b"\xff")),
    "is out of step": coded((TEXT, b"", True, 4), (TEXT, HELLO, True, 4)),
    "refuses a compressed message of exactly": coded((TEXT, FULL[:-1], False, 4), (CONT, FULL[-1:])),
    "passes by the limit": coded((BINARY, HELD, False, 4), (CONT, b"")),
    "does not go on behind a final block": coded((TEXT, FINAL, True, 4), (TEXT, HELLO, True, 4)),
    "takes compressed data that ends": coded((TEXT, HELLO[:-3], True, 4)),
    "names 1009 where a long message": raw.frame(BINARY, GOES_ON, True, 4),
    "names 1002 or 1009": coded((BINARY, b"\xff", True, 4)),
    "inflates a message as it comes": coded((BINARY, b"\xff\xff", False, 4), (PING, b"p"), (CONT, b"")),
    "holds what is compressed": coded((BINARY, STORED + (b"\x00" + EMPTY) * 4 + b"\x00", True, 4)),
    "one frame breaks several rules": raw.close_frame(999, b"\xff"),
}


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.says)
def test_every_entry_of_the_list_still_explains_something(difference: Difference) -> None:
    """One that a peer has put right, or that we have, is to be taken off."""
    (data,) = [data for says, data in EXAMPLES.items() if difference.says.startswith(says)]
    tally = Tally()
    check(Stream(0, LIMIT if len(data) < 2000 else 1 << 20, KEPT, data, (), ()), tally)
    assert difference.says in {says for _, says in tally.differences}


@pytest.mark.parametrize("wrong", ["loses an event", "names another code", "lets it pass"])
def test_a_reader_that_errs_is_found(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def errs(pieces: list[bytes], terms: Terms | None, limit: int) -> Outcome:
        events, code = ours(pieces, terms, limit)
        if wrong == "loses an event":
            return Outcome(events[1:], code)
        return Outcome(events, 1011 if wrong == "names another code" and code else None)

    monkeypatch.setattr(comparing, "ours", errs)
    data = coded((PING, b"p"), (TEXT, b"\xff"))
    with pytest.raises(Unexplained):
        check(Stream(0, LIMIT, None, data, (), ()), Tally())
