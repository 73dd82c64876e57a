"""The part of RESULTS.md that tells of growth: tables, and what they say. Read by report.py and plots.py."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import rig

# Curve: connections -> median.
Curve = dict[int, float]


def recorded(out: Path) -> dict[str, Any] | None:
    path = out / "results" / "growth.json"
    return json.loads(path.read_text()) if path.exists() else None


def curve(rounds_by_point: dict[str, dict[str, float]]) -> Curve:
    """The median of each point that has a clean sample."""
    return {int(n): statistics.median(rounds.values()) for n, rounds in rounds_by_point.items() if rounds}


def to_floor(own: dict[str, dict[str, float]], floor: dict[str, dict[str, float]]) -> Curve:
    """The median ratio to the floor at each point, of the rounds that both have."""
    found = {}
    for n, rounds in own.items():
        both = [value / floor[n][number] for number, value in rounds.items() if number in floor.get(n, {})]
        if both:
            found[int(n)] = statistics.median(both)
    return found


def curve_table(curves: dict[str, dict[str, dict[str, float]]], first: str) -> list[str]:
    points = [int(n) for n in next(iter(curves.values()))]
    floor = curves[rig.FLOOR.name]
    lines = []
    for name, taken in curves.items():
        own, shares = curve(taken), to_floor(taken, floor)
        cells = []
        for n in points:
            share = f" ({shares[n]:.2f})" if n in shares and name != rig.FLOOR.name else ""
            cells.append(f"{own[n]:.2f}{share}" if n in own else "no clean sample")
        lines.append([name, *cells])
    return rig.table_lines([first, *(f"{n:,}" for n in points)], lines)


def grown(found: Curve) -> float:
    """By what factor the last point is above the first."""
    return found[max(found)] / found[min(found)]


def render(growth: dict[str, Any]) -> str:
    facts = growth["facts"]
    connections, silent = growth["connections"]["curves"], growth["silent"]["curves"]
    ours, floor = rig.OURS_INLINE.name, rig.FLOOR.name
    share = to_floor(connections[ours], connections[floor])
    beside = curve(silent[ours])
    dropped = sum(growth[part]["dropped"] for part in ("connections", "silent", "many"))
    if len(share) < 2 or len(beside) < 2:
        return f"## Growth\n\nToo few clean samples: {dropped} were contaminated."
    out = [
        "## Growth",
        "",
        f"`make growth`, commit {facts['commit']}, {facts['date']}; medians of {facts['rounds']} interleaved rounds, "
        f"{dropped} contaminated samples dropped.",
        "",
        "![growth](results/growth.svg)",
        "",
        "### CPU of a message, by connections",
        "",
        "One message of 32 bytes under way on each. Server CPU in us a message (ratio to the floor in the same round).",
        "",
        *curve_table(connections, "us a message"),
        "",
        f"From {min(share):,} to {max(share):,} connections a message becomes "
        f"{grown(curve(connections[floor])):.2f} times as dear to the floor, which does nothing but read, unmask and "
        f"write: that is the kernel's part, whose sockets no longer fit into the caches (some 9 KB of its memory for a "
        f"pair of ends, against 56 bytes of ours). Ours becomes {grown(curve(connections[ours])):.2f} times as dear, "
        f"and the ratio to the floor goes from {share[min(share)]:.2f} to {share[max(share)]:.2f}.",
        "",
        *many_lines(growth["many"]["curves"]),
        "### CPU of a message, by connections on which nothing happens",
        "",
        "100 connections with one message under way on each, beside so many silent ones.",
        "",
        *curve_table(silent, "us a message"),
        "",
        f"A turn of the loop looks at those that have something to say: beside {max(beside):,} silent connections a "
        f"message costs {grown(beside):.2f} times what it costs without them (5 to 15 % are noise here).",
        "",
        "### CPU of a tick, by idle connections",
        "",
        "Idle connections that are pinged, some 4,000 times a second in all however many there are: for each ping, "
        "what ours takes (timers, frames, the loop) and what the kernel takes (a send, a wait, a receive).",
        "",
        *tick_table(growth["ticks"]),
        "",
        "A timer is put into the wheel and taken out of it in constant time, and a tick looks at one bucket of 16 ms: "
        "how many more wait in the others makes no difference.",
    ]
    return "\n".join(out)


def many_lines(curves: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """What is told of servers with several tables of descriptors; nothing where none was measured."""
    lines = []
    for name, taken in curves.items():
        found = curve(taken)
        if len(found) < 2:
            continue
        figures = ", ".join(f"{micros:.2f} us with {n:,}" for n, micros in found.items())
        lines += [
            f"Beyond what one table of descriptors holds, {name}: {figures}, {grown(found):.2f} times as dear.",
            "Here the loops poll and parse on threads of their own and hand their messages to one that runs the",
            "callbacks, all on one core: that is part of the figure, which is not to be compared with those above.",
            "",
        ]
    return lines


def tick_table(ticks: dict[str, dict[str, list[float]]]) -> list[str]:
    lines = []
    for n, rounds in ticks.items():
        user, system, rate = (statistics.median(column) for column in zip(*rounds.values(), strict=True))
        lines.append([f"{int(n):,}", f"{rate:,.0f}", f"{user:.2f}", f"{system:.2f}"])
    return rig.table_lines(["connections", "pings/s", "ours, us a ping", "the kernel, us a ping"], lines)
