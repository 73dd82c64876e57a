"""Connections that come and go: half of them whole lives, the others cut short in eight ways (bench/native/wscycle.c).

What they took has to be back: every descriptor, and memory within 5 % of what it was after a warm-up. Used by
bench/floods.py (`make cycles`: a million) and by tests/abuse/test_cycles.py.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import rig
from flooded import files_at_rest, flooded, settled
from processes import cpu_seconds, descriptors, resident_bytes

MAX_GROWTH_PERCENT = 5.0
CYCLES_TIMEOUT_S = 1800.0



@dataclass(frozen=True)
class Cycles:
    """What so many connections that came and went have left behind."""

    cycles: int
    warmup: int
    seconds: float
    ways: dict[str, int]
    files_before: int
    files_after: int
    resident_before: int
    resident_after: int
    left: dict[str, int]
    upgraded: int
    opened: int
    ended: int
    server_cpu_s: float
    error: str

    @property
    def growth_percent(self) -> float:
        return 100 * (self.resident_after - self.resident_before) / self.resident_before

    @property
    def met(self) -> bool:
        return (
            not self.error
            and not self.left
            and self.files_after == self.files_before
            and self.opened == self.ended == self.upgraded
            and self.growth_percent <= MAX_GROWTH_PERCENT
        )


def wscycle(port: int, cycles: int, at_once: int, core: int | None) -> dict[str, Any]:
    command = [str(rig.native_tool("wscycle")), "--port", str(port), "--cycles", str(cycles), "--at-once", str(at_once)]
    client = rig.Peer("wscycle", command, core, [])
    try:
        told: dict[str, Any] = json.loads(client.hear(CYCLES_TIMEOUT_S))
    finally:
        client.end()
    return told


def run(
    cycles: int, warmup: int, at_once: int = 64, *, hook: str = "on_message", options: dict[str, Any] | None = None
) -> Cycles:
    """Have connections come and go, half of them whole lives. Raises rig.Failed if the server ended."""
    # What is left behind does not depend on who shares a core with whom.
    usable = sorted(os.sched_getaffinity(0))
    server_core, client_core = usable[0], usable[-1]
    with rig.serving(flooded(hook, options or {}), server_core) as (server, port):
        files = files_at_rest(server, port)
        error = wscycle(port, warmup, at_once, client_core)["error"]
        settled(server, server.pid, files)
        before, memory, cpu = server.ask("counters"), resident_bytes(server.pid), sum(cpu_seconds(server.pid))
        told = wscycle(port, cycles, at_once, client_core)
        left = settled(server, server.pid, files)
        spent = sum(cpu_seconds(server.pid)) - cpu
        after, files_after, memory_after = server.ask("counters"), descriptors(server.pid), resident_bytes(server.pid)
    return Cycles(
        cycles=told.get("cycles", 0),
        warmup=warmup,
        seconds=told.get("seconds", 0.0),
        ways={name: count for name, count in told.items() if name not in ("cycles", "seconds", "error")},
        files_before=files,
        files_after=files_after,
        resident_before=memory,
        resident_after=memory_after,
        left=left,
        upgraded=after["answered_101"] - before["answered_101"],
        opened=after["opened"] - before["opened"],
        ended=after["ended"] - before["ended"],
        server_cpu_s=spent,
        error=error or told["error"],
    )


def table(figures: Cycles) -> tuple[list[str], list[list[str]]]:
    header = ["connections", "s", "a second", "CPU us each", "files before / after", "resident before / after, MB",
              "grew by", "on_connect / on_close", "met"]  # fmt: skip
    return header, [[
        f"{figures.cycles:,}",
        f"{figures.seconds:.0f}",
        f"{figures.cycles / max(figures.seconds, 0.001):,.0f}",
        f"{1e6 * figures.server_cpu_s / max(figures.cycles, 1):.0f}",
        f"{figures.files_before} / {figures.files_after}",
        f"{figures.resident_before / 1e6:.2f} / {figures.resident_after / 1e6:.2f}",
        f"{figures.growth_percent:+.2f} %",
        f"{figures.opened:,} / {figures.ended:,}",
        "yes" if figures.met else f"NO {figures.error} {figures.left or ''}",
    ]]  # fmt: skip
