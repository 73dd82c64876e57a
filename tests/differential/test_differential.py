"""Random streams, read by our engine and by two implementations that we did not write.

Some of the many that `make differential` compares.
"""

from __future__ import annotations

from differential.comparing import Tally, check
from differential.differences import DIFFERENCES
from differential.streams import BYTES, CHANGES, ORDERS, stream

SEED = 6455
COUNT = 2000


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
    # An entry that explains nothing any more is no entry.
    assert {says for _, says in tally.differences} == {difference.says for difference in DIFFERENCES}


def test_a_stream_is_made_again_by_its_number() -> None:
    assert stream(SEED, 17) == stream(SEED, 17) != stream(SEED, 18)
