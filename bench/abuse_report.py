"""The part of RESULTS.md that tells of abuse: figures of honest clients beside others, and their targets."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rig

Samples = list[dict[str, Any]]

TITLES = {
    "slowloris": "Handshakes that never end",
    "stopped": "Readers that stopped",
    "descriptors": "No descriptors",
    "storm": "Storms of connections",
}
PARTS = tuple(TITLES)


def recorded(out: Path) -> dict[str, Any] | None:
    path = out / "results" / "abuse.json"
    return json.loads(path.read_text()) if path.exists() else None


def spread(values: list[float], digits: int) -> str:
    """The median, and from where to where."""
    text = f"{statistics.median(values):,.{digits}f}"
    if min(values) != max(values):
        text += f" ({min(values):,.{digits}f} to {max(values):,.{digits}f})"
    return text


def of(samples: Samples, key: str) -> list[float]:
    return [sample[key] for sample in samples]


def ratios(part: dict[str, Any], name: str, base: str, key: str) -> list[float]:
    """To the base of the same round."""
    both = zip(part["samples"][name], part["samples"][base], strict=False)
    return [own[key] / other[key] for own, other in both]


@dataclass(frozen=True)
class Target:
    """What a figure has to be: at most so much, in the median."""

    what: str
    values: list[float]
    most: float
    unit: str = ""
    digits: int = 1

    @property
    def met(self) -> bool:
        return statistics.median(self.values) <= self.most

    def line(self) -> list[str]:
        met = "yes" if self.met else "**no**"
        if (min(self.values) <= self.most) != (max(self.values) <= self.most):
            met += ", within the spread"
        return [self.what, spread(self.values, self.digits), f"at most {self.most:g}{self.unit}", met]


def targets(name: str, part: dict[str, Any]) -> list[Target]:
    samples, sizes = part["samples"], part["sizes"]
    found = []
    for case, taken in samples.items():
        kind = case.partition(",")[0]
        if name == "slowloris" and taken[0]["held"]:
            found.append(Target(f"{case}: honest handshake, p99", of(taken, "upgrade_p99_ms"), 50, " ms"))
            # What they are told they hear late: the attackers' process has little of a say.
            most = sizes["handshake_timeout"] + 2
            found.append(Target(f"{case}: the longest that one stayed", of(taken, "longest_s"), most, " s"))
        elif name == "stopped" and taken[0]["asleep"] and (base := f"{kind}, 0% stopped") in samples:
            against = ratios(part, case, base, "p99_ms")
            found.append(Target(f"{case}: p99 of the others / without", against, 1.2, digits=2))
            # What may wait for each of them, with the chunk that it is in, twice for what is not used of it.
            bound = taken[0]["asleep"] * 2 * (128 + 16) / 1024 + 8
            memory = [sample["waiting_mib"] + sample["grown_mib"] for sample in taken]
            found.append(Target(f"{case}: memory for them", memory, round(bound), " MiB"))
        elif name == "descriptors":
            found.append(Target(f"{case}: CPU meanwhile", [100 * one for one in of(taken, "server_cpu")], 15, " %"))
            found.append(Target(f"{case}: next one in after", of(taken, "again_after_ms"), 150, " ms"))
        elif name == "storm" and case.partition(", ")[2] != "none":
            found.append(Target(f"{case}: longest gap of those who talk", of(taken, "talk_max_ms"), 100, " ms"))
    return found


# Column -> key of a sample, digits.
COLUMNS: dict[str, dict[str, tuple[str, int]]] = {
    "slowloris": {
        "slow ones held": ("held", 0),
        "honest handshake p99, ms": ("upgrade_p99_ms", 1),
        "longest": ("upgrade_max_ms", 1),
        "pong p99, ms": ("pong_p99_ms", 1),
        "honest lost": ("honest_lost", 0),
        "slow left": ("left", 0),
        "408 sent": ("refused", 0),
        "server CPU, cores": ("server_cpu", 2),
    },
    "stopped": {
        "stopped": ("asleep", 0),
        "MiB queued for them": ("waiting_mib", 1),
        "delivery p50, ms": ("p50_ms", 2),
        "p99, ms": ("p99_ms", 2),
        "deliveries": ("deliveries", 0),
        "errors": ("errors", 0),
        "still there": ("still_there", 0),
        "memory more meanwhile, MiB": ("grown_mib", 1),
    },
    "descriptors": {
        "inside": ("inside", 0),
        "tried meanwhile": ("tried", 0),
        "let in": ("let_in", 0),
        "answered 503": ("turned_away", 0),
        "server CPU, cores": ("server_cpu", 3),
        "next one in after, ms": ("again_after_ms", 1),
        "round trip p99, ms": ("talk_p99_ms", 2),
        "longest": ("talk_max_ms", 1),
        "lost": ("talk_wrong", 0),
    },
    "storm": {
        "accepts/s": ("accepts_per_s", 0),
        "connects": ("connects", 0),
        "failed": ("failed", 0),
        "round trip p99, ms": ("talk_p99_ms", 2),
        "longest": ("talk_max_ms", 1),
        "lost": ("talk_wrong", 0),
        "honest handshake p99, ms": ("came_p99_ms", 1),
        "longest ": ("came_max_ms", 1),
        "kept out": ("kept_out", 0),
    },
}
# What has to be zero in every round.
NOTHING: dict[str, tuple[str, ...]] = {
    "slowloris": ("honest_lost", "left"),
    "stopped": ("errors", "still_there"),
    "descriptors": ("talk_wrong", "let_in"),
    "storm": ("talk_wrong", "kept_out", "failed", "left"),
}


def losses(name: str, part: dict[str, Any]) -> list[str]:
    """What was lost that must not be, a line each."""
    return [
        f"{name}: {case}: {key} {sample[key]}"
        for case, taken in part["samples"].items()
        for sample in taken
        for key in NOTHING[name]
        if sample[key]
    ]


def render_part(name: str, part: dict[str, Any]) -> str:
    """A part's tables."""
    columns = COLUMNS[name]
    rows = [
        [case, *(spread(of(taken, key), digits) for key, digits in columns.values())]
        for case, taken in part["samples"].items()
    ]
    lines = [f"### {TITLES[name]}", "", f"`make abuse ARGS={name}`", ""]
    lines += rig.table_lines(["server", *columns], rows)
    if name == "stopped":
        ended: dict[str, int] = {}
        for taken in part["samples"].values():
            for sample in taken:
                for cause, count in sample["ended"].items():
                    ended[cause] = ended.get(cause, 0) + count
        causes = ", ".join(f"{count:,} {cause}" for cause, count in ended.items())
        lines += ["", f"What ended those who had stopped, in all: {causes or 'nothing'}."]
    judged = [target.line() for target in targets(name, part)]
    lines += ["", *rig.table_lines(["figure", "median (spread)", "target", "met"], judged)]
    return "\n".join(lines)


def render(found: dict[str, Any]) -> str:
    out = [
        "## Abuse",
        "",
        "Honest clients beside others, which share a core with them; the server has one of its own. Medians of "
        "interleaved rounds, and from the lowest to the highest.",
    ]
    for name in PARTS:
        if name in found:
            facts = found[name]["facts"]
            out += ["", render_part(name, found[name]), "", f"Commit {facts['commit']}, {facts['date']}."]
    return "\n".join(out)

