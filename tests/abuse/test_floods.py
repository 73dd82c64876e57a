"""Floods of what costs a peer nothing: what ends them, what they leave behind, and those who are served beside them.

The floods, their full sizes and their figures are bench/floods.py's (`make floods`); here it is some hundredths of it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil

import floods
import pytest
import rig

from unlimitedws import Options

pytestmark = [
    pytest.mark.skipif(shutil.which(os.environ.get("CC", "gcc")) is None, reason="no C compiler"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core"),
]

# What one connection does in full, many do here a few times.
SHARES = {"closes": 0.03, "storm": 0.5}
SHARE = 0.02
KINDS = [flood for flood in floods.floods() if not flood.bombs]


@pytest.mark.parametrize("flood", KINDS, ids=lambda flood: flood.key)
def test_flood_ends_as_it_should_and_honest_ones_are_served(flood: floods.Flood) -> None:
    flood = floods.scaled(flood, SHARES.get(flood.key, SHARE))
    figures = floods.run(flood, quiet_s=0.1)
    assert figures.error == ""
    # Every one of them was told why it ended, and what was to be sent was sent, or cut short by that.
    assert figures.codes == {str(flood.code): flood.connections}
    assert figures.connections == flood.connections
    if flood.code == 1000 and flood.last:
        assert figures.units == flood.units
    assert figures.left == {}
    assert figures.wrong == 0
    assert figures.echoes > 0
    # An honest server of this size is some 20 MB: the flood has not added as much again, and the formula allows more.
    assert figures.growth <= min(figures.allowed, 16 << 20)


def test_pings_above_the_limit_are_answered_by_their_newest_alone() -> None:
    most = 5
    (pings,) = (flood for flood in KINDS if flood.key == "pings")
    pings = floods.scaled(pings, SHARE)
    limited = dataclasses.replace(pings, options={"max_pings_per_second": most})
    figures = floods.run(limited, quiet_s=0.1)
    assert figures.units == pings.units > 100_000
    # Seconds that have begun, and a pong that was put off for each.
    assert 0 < figures.pongs <= limited.connections * (most + 1) * (figures.seconds + 2)


def test_fragments_above_another_limit_end_there() -> None:
    most = 10
    (fragments,) = (flood for flood in KINDS if flood.key == "fragments")
    few = dataclasses.replace(fragments, each=most, connections=20, options={"max_fragments": most})
    assert floods.run(few, quiet_s=0.1).codes == {"1008": 20}
    # One less, of which the last one is none: the message is whole, and the close frame is answered.
    last = floods.frame(floods.OP_CONT) + floods.CLOSE
    enough = dataclasses.replace(few, each=most - 2, last=last, code=1000)
    assert floods.run(enough, quiet_s=0.1).codes == {"1000": 20}


@pytest.mark.parametrize("flood", floods.floods(), ids=lambda flood: flood.key)
def test_what_bounds_a_flood_is_an_option_by_that_name(flood: floods.Flood) -> None:
    for name in re.findall(r"`(\w+)`", flood.limit):
        assert hasattr(Options(), name)
        assert f"| `{name}` |" in (rig.ROOT / "docs" / "limits.md").read_text()


def test_page_of_figures_says_what_was_recorded() -> None:
    recorded = json.loads((floods.RESULTS / "floods.json").read_text())
    assert (floods.RESULTS / "floods.md").read_text() == floods.render(recorded)
    # Every kind is there, in its full size.
    assert [cells[:3] for cells in recorded["floods"]] == [
        [flood.title, f"{flood.units:,}", f"{flood.connections:,}"] for flood in floods.floods()
    ]
    assert recorded["cycles"][1][0][0] == "1,000,000"


def test_a_server_that_fails_is_not_said_to_have_kept_anything() -> None:
    """What judges is judged: a figure that is not as promised is named."""
    flood = KINDS[0]
    good = floods.Figures(
        units=flood.units, connections=flood.connections, seconds=1.0, codes={str(flood.code): flood.connections},
        unasked=0, pongs=0, server_cpu_s=1.0, resident=1, growth=1, allowed=2, quiet=(1.0, 1.0, 1.0),
        honest=(1.0, 1.0, 1.0), echoes=1, wrong=0, error="", left={},
    )  # fmt: skip
    assert all(one.met for one in floods.verdicts(flood, good))
    for change in (
        {"codes": {"1006": flood.connections}},
        {"error": "lost"},
        {"growth": 3},
        {"left": {"connections": 1}},
        {"wrong": 1},
        {"echoes": 0},
        {"honest": (1.0, floods.MAX_P99_MS + 1, 1.0)},
    ):
        bad = dataclasses.replace(good, **change)
        assert sum(not one.met for one in floods.verdicts(flood, bad)) == 1, change
