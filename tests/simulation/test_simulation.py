"""Some thousands of simulated runs; `make simulate` makes more of them. And that they find what is wrong."""

from __future__ import annotations

import os
import shutil

import pytest
from simulate import run, sweep

SEEDS = 6000
# Of CloseCause, all but that of strangers: Python decides who is one.
CAUSES = (*range(1, 14), *range(15, 19))
BUGS = ("nobody is woken", "last in, first out", "no timer runs")

pytestmark = pytest.mark.skipif(shutil.which(os.environ.get("CC", "gcc")) is None, reason="no C compiler")


def test_whatever_network_and_clock_do_nothing_is_lost_told_twice_or_left() -> None:
    totals, failure = sweep(0, SEEDS, len(os.sched_getaffinity(0)))
    assert failure is None, f"{failure.reason}; make simulate SEED={failure.seed}"
    # It would not be, either, where nothing happened.
    for what in ("opened", "told", "heard", "mishaps"):
        assert totals[what] > SEEDS, totals
    for what in ("pauses", "takeovers", "deflated", "inflated", "proxied", *(f"cause {number}" for number in CAUSES)):
        assert totals[what] > SEEDS // 1000, (what, totals)


def test_a_seed_is_the_same_run_each_time() -> None:
    told = ["".join(run(seed, trace=True)[0] for seed in range(5)) for _ in range(2)]
    assert told[0] == told[1] and len(told[0].splitlines()) > 50


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_found_and_named_with_its_seed(bug: str) -> None:
    _, _, failure = run(0, 500, bug=bug)
    assert failure is not None
    _, _, again = run(failure.seed, bug=bug)
    assert again is not None and again.output == failure.output
