"""A few runs of every scenario of exits.py; `make exits` makes hundreds."""

from __future__ import annotations

import pytest
from exits import HOOKS, KINDS, SCENARIOS, Scenario, run_many

# Every hook with every kind of server, every variant.
RUNS = {"sys-exit-in-a-hook": len(HOOKS) * len(KINDS), "exception-in-a-hook": len(HOOKS) * len(KINDS)}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_process_ends_in_time_and_without_a_word(scenario: Scenario) -> None:
    runs = RUNS.get(scenario.name, len(scenario.vary) * len(KINDS))
    assert [outcome.problem for outcome in run_many(scenario, runs, 2) if outcome.problem] == []
