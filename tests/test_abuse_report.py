"""What is said of abuse and of the soak: what is lost is told, what misses its target is not called met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import abuse
import abuse_report
import pytest
import soak_report

FACTS = {"commit": "abc", "date": "2026-11-23"}
SIZES = {"handshake_timeout": 10.0}


def slow(upgrade: float, **more: Any) -> dict[str, Any]:
    zero = dict.fromkeys((key for key, _ in abuse_report.COLUMNS["slowloris"].values()), 0)
    return {**zero, "held": 10_000, "longest_s": 10.1, "upgrade_p99_ms": upgrade, **more}


def part(**samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {"facts": FACTS, "sizes": SIZES, "samples": samples}


def cells(text: str, first: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first}")]
    return [cell.strip() for cell in line.split("|")[1:-1]]


@pytest.mark.parametrize(
    ("rounds", "met"),
    [
        ((10.0, 20.0, 40.0), "yes"),
        ((10.0, 20.0, 60.0), "yes, within the spread"),
        ((10.0, 60.0, 70.0), "**no**, within the spread"),
        ((55.0, 60.0, 70.0), "**no**"),
    ],
)
def test_the_median_decides_and_a_spread_across_the_target_is_said(rounds: tuple[float, ...], met: str) -> None:
    text = abuse_report.render_part("slowloris", part(inline=[slow(one) for one in rounds]))
    assert cells(text, "inline: honest handshake")[2:] == ["at most 50 ms", met]


def test_a_ratio_is_that_of_the_same_round() -> None:
    def sample(p99: float, asleep: int) -> dict[str, Any]:
        zero = dict.fromkeys((key for key, _ in abuse_report.COLUMNS["stopped"].values()), 0)
        ended = {"ended": {"slow_reader": asleep}}
        return {**zero, "p99_ms": p99, "asleep": asleep, "grown_mib": 1.0, "waiting_mib": 1.0, **ended}

    without, beside = [sample(10.0, 0), sample(100.0, 0)], [sample(11.0, 9), sample(110.0, 9)]
    of_part = part(**{"pool, 0% stopped": without, "pool, 10% stopped": beside})
    text = abuse_report.render_part("stopped", of_part)
    assert cells(text, "pool, 10% stopped: p99")[1] == "1.10"
    assert "in all: 18 slow_reader" in text


def test_whatever_was_lost_in_any_round_is_told() -> None:
    fine, lost = slow(10.0, honest_lost=0, left=0), slow(10.0, honest_lost=2, left=0)
    assert abuse_report.losses("slowloris", part(inline=[fine, fine])) == []
    assert abuse_report.losses("slowloris", part(inline=[fine, lost])) == ["slowloris: inline: honest_lost 2"]


def test_every_case_has_columns_and_a_name_for_what_must_not_be() -> None:
    for name in abuse_report.PARTS:
        assert abuse.cases(name, abuse.SMALL)
        known = {key for key, _ in abuse_report.COLUMNS[name].values()}
        assert set(abuse_report.NOTHING[name]) <= known | {"left"}


def test_nothing_is_said_of_what_was_not_recorded(tmp_path: Path) -> None:
    assert abuse_report.recorded(tmp_path) is None and soak_report.recorded(tmp_path) is None


# --- the soak ---


def soaked(kib_per_minute: float, minutes: int = 60, **more: Any) -> dict[str, Any]:
    samples = [
        {
            "s": 60.0 * n, "rss_kib": 80_000 + kib_per_minute * n, "slab_used_bytes": 1024, "slab_held_bytes": 4096,
            "server_cpu_s": n, "client_cpu_s": n,
        }
        for n in range(minutes + 1)
    ]  # fmt: skip
    return {
        "facts": FACTS, "minutes": minutes, "connections": 10_000, "churn_per_minute": 0.1, "samples": samples,
        "opened": 1, "received": 1, "numbered": 1, "ends": {"close": 1}, "wrong": {}, "told": [], "is_empty": True,
        "descriptors_before": ["pipe", "socket"], "descriptors_after": ["pipe", "socket"], "threads_before": 3,
        "threads_after": 3, "rss_before_kib": 1, "rss_after_kib": 1, "left": {"slab_used_bytes": 0, "descriptors": 0},
        **more,
    }  # fmt: skip


def unmet(soak: dict[str, Any]) -> list[str]:
    return [verdict.what.split(",")[0] for verdict in soak_report.verdicts(soak) if verdict.met is False]


def test_a_soak_is_judged_by_what_grows_what_is_lost_and_what_stays() -> None:
    assert unmet(soaked(2.0)) == []
    assert unmet(soaked(40.0)) == ["resident memory"]
    assert unmet(soaked(2.0, wrong={"message": 1})) == ["messages lost"]
    # As many descriptors, but others: one has leaked and another has gone.
    assert unmet(soaked(2.0, descriptors_after=["socket", "socket"])) == ["descriptors when all have left"]
    assert unmet(soaked(2.0, left={"slab_used_bytes": 64, "descriptors": 0})) == ["buffers of the engine in use then"]
    assert unmet(soaked(2.0, is_empty=False)) == ["connections that it knows then"]


def test_of_a_soak_no_block_of_the_interpreter_may_stay_for_every_hundredth_connection() -> None:
    whole, few = {"blocks": 700, "came": 100_000}, {"blocks": 700, "came": 1000}
    assert unmet(soaked(2.0, stayed=whole)) == []
    assert unmet(soaked(2.0, stayed={**whole, "blocks": 1001})) == ["blocks of the interpreter that have stayed"]
    # Of so few what is made once is more than what each leaves.
    assert unmet(soaked(2.0, stayed=few)) == []
    # One of before that was counted.
    assert "blocks of the interpreter" not in soak_report.render(soaked(2.0))


def test_pages_that_an_arena_has_not_touched_are_no_memory() -> None:
    soak = soaked(2.0)
    for n, sample in enumerate(soak["samples"]):
        sample["slab_resident_bytes"] = 1024 * (1 + 2 * n)
    told = soak_report.render(soak)
    assert "+2.0 free ones in arenas of which others are, and +0.0 Python's and the C library's" in told


def test_a_short_soak_says_nothing_of_a_slope() -> None:
    soak = soaked(40.0, minutes=2)
    assert unmet(soak) == []
    assert "too short to tell" in soak_report.render(soak)
