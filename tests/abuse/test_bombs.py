"""Zip bombs: a thousandth of what they come to, in one frame, in a thousand, with a window that is kept; and those that
come to nothing, but only after work. Full sizes and figures: bench/floods.py (`make floods`)."""

from __future__ import annotations

import dataclasses
import os
import shutil
import zlib

import floods
import pytest

from unlimitedws import Options

pytestmark = [
    pytest.mark.skipif(shutil.which(os.environ.get("CC", "gcc")) is None, reason="no C compiler"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core"),
]

BOMBS = {flood.key: flood for flood in floods.floods() if flood.bombs}
# Above the limit, and within it.
REFUSED = ["bombs", "bombs-cut", "bombs-kept"]
ALLOWED = {"bombs-just": 0.02, "bombs-empty": 0.1}


def test_bombs_are_bombs() -> None:
    """A quarter of a gigabyte from a quarter of a megabyte; and a megabyte that takes work and gives nothing."""
    data = floods.deflated(floods.BOMB_BYTES)
    assert len(data) * 1000 < floods.BOMB_BYTES
    inflater = zlib.decompressobj(-15)
    size = len(inflater.decompress(data + b"\x00\x00\xff\xff", 1 << 20))
    while inflater.unconsumed_tail:
        size += len(inflater.decompress(inflater.unconsumed_tail, 1 << 24))
    assert size == floods.BOMB_BYTES
    empty = floods.empty_blocks(1 << 20)
    assert 1_000_000 < len(empty) <= 1 << 20
    inflater = zlib.decompressobj(-15)
    assert inflater.decompress(empty + b"\x00\x00\xff\xff") == b""
    assert not inflater.unused_data


@pytest.mark.parametrize("key", REFUSED)
def test_bomb_above_the_limit_ends_with_1009_and_takes_no_more_than_the_limit(key: str) -> None:
    flood = floods.scaled(BOMBS[key], 0.04)
    figures = floods.run(flood, quiet_s=0.1)
    assert figures.error == ""
    assert figures.codes == {"1009": flood.connections}
    assert (figures.left, figures.wrong) == ({}, 0)
    # Sixteen at once: what has come of each, in a block that is twice that at most, and one message as far as it was
    # inflated. A quarter of a gigabyte each is what they asked for.
    received = flood.at_once * 2 * len(flood.unit)
    assert figures.growth <= received + 4 * Options().max_message_bytes + (8 << 20)
    assert figures.growth <= figures.allowed


@pytest.mark.parametrize("key", ALLOWED)
def test_bomb_within_the_limit_is_a_message_and_memory_stays_bounded(key: str) -> None:
    flood = floods.scaled(BOMBS[key], ALLOWED[key])
    figures = floods.run(flood, quiet_s=0.1)
    assert figures.error == ""
    assert figures.codes == {"1000": flood.connections}
    assert (figures.left, figures.wrong) == ({}, 0)
    assert figures.units == flood.units
    assert figures.growth <= figures.allowed


def test_a_smaller_limit_makes_bombs_cheaper() -> None:
    """The option that bounds what one costs, in memory, is max_message_bytes."""
    small = dataclasses.replace(
        floods.scaled(BOMBS["bombs"], 0.02), options={"compression": True, "max_message_bytes": 16 << 10}
    )
    figures = floods.run(small, quiet_s=0.1)
    # On the wire it is longer than a message of the limit may be: most of it is never looked at.
    assert figures.codes == {"1009": small.connections}
    assert figures.growth <= 4 << 20
