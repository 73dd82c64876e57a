"""The part of RESULTS.md that tells of the soak: its targets, whether they are met, and what else was seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rig

# The first sixth is not judged: memory grows until everything has been used that there is.
WARMING = 1 / 6
# Of the resident memory. With 10,000 connections of which a tenth is replaced in a minute that is 8 bytes for each that
# comes and goes, less than the smallest block that could be lost.
MOST_KIB_PER_MINUTE = 8.0
# Of the interpreter's allocator, when all have left, for each connection that came: what is lost is lost by the block.
# Some hundred come with threads, and with what is used for the first time.
MOST_BLOCKS_PER_CONNECTION = 0.01
LEAST_CONNECTIONS = 50_000
# Of the warm part; below it one page more or less would be a slope.
LEAST_MINUTES = 5.0


@dataclass(frozen=True)
class Verdict:
    """A target. met: None where the run was too short to tell."""

    what: str
    figure: str
    target: str
    met: bool | None


def recorded(out: Path) -> dict[str, Any] | None:
    path = out / "results" / "soak.json"
    return json.loads(path.read_text()) if path.exists() else None


def _resident(sample: dict[str, float]) -> float:
    return sample["rss_kib"]


def _used(sample: dict[str, float]) -> float:
    return sample["slab_used_bytes"] / 1024


def _paged(sample: dict[str, float]) -> float:
    """What the engine's arenas have in pages: the rest of what they hold are addresses."""
    return sample["slab_resident_bytes"] / 1024


def warm(soak: dict[str, Any]) -> list[dict[str, float]]:
    """The samples that are judged."""
    samples = soak["samples"]
    begin = samples[0]["s"] + WARMING * (samples[-1]["s"] - samples[0]["s"])
    return [sample for sample in samples if sample["s"] >= begin]


def slope(samples: list[dict[str, float]], size: Callable[[dict[str, float]], float] = _resident) -> float:
    """KiB a minute, by least squares; 0 of fewer than three samples. size: of a sample, in KiB."""
    if len(samples) < 3:
        return 0.0
    minutes = [sample["s"] / 60 for sample in samples]
    sizes = [size(sample) for sample in samples]
    mean_minute, mean_size = sum(minutes) / len(minutes), sum(sizes) / len(sizes)
    above = sum((t - mean_minute) * (size - mean_size) for t, size in zip(minutes, sizes, strict=True))
    return above / sum((t - mean_minute) ** 2 for t in minutes)


def verdicts(soak: dict[str, Any]) -> list[Verdict]:
    judged = warm(soak)
    span = (judged[-1]["s"] - judged[0]["s"]) / 60
    wrong = sum(soak["wrong"].values())
    grown = slope(judged)
    before, after = soak["descriptors_before"], soak["descriptors_after"]
    used = soak["left"]["slab_used_bytes"]
    return [
        Verdict("messages lost, damaged, out of order; connections that ended wrongly", f"{wrong:,}", "0", not wrong),
        Verdict(
            f"resident memory, slope over the last {span:.0f} minutes",
            f"{grown:+.2f} KiB/min",
            f"at most {MOST_KIB_PER_MINUTE:g} KiB/min",
            grown <= MOST_KIB_PER_MINUTE if span >= LEAST_MINUTES else None,
        ),
        Verdict(
            "descriptors when all have left",
            f"{len(after):,}",
            f"{len(before):,}, as before, of the same kinds",
            after == before,
        ),
        Verdict("buffers of the engine in use then", f"{used:,} bytes", "0", used == 0),
        *_stayed(soak),
        Verdict("connections that it knows then", f"{soak['left']['descriptors']:,}", "0", soak["is_empty"]),
    ]


def _stayed(soak: dict[str, Any]) -> list[Verdict]:
    """Of the interpreter's memory. Those recorded of old do not have it."""
    if "stayed" not in soak:
        return []
    blocks, came = soak["stayed"]["blocks"], soak["stayed"]["came"]
    each = blocks / max(1, came)
    return [
        Verdict(
            "blocks of the interpreter that have stayed, for each connection that came",
            f"{each:.4f} ({blocks:+,})",
            f"at most {MOST_BLOCKS_PER_CONNECTION:g}",
            each <= MOST_BLOCKS_PER_CONNECTION if came >= LEAST_CONNECTIONS else None,
        )
    ]


def _shares(judged: list[dict[str, float]]) -> str:
    """Whose the slope is."""
    more = "What it is made of, and that it ends: [README.md](README.md), \"Why memory creeps\"."
    if any("slab_resident_bytes" not in sample for sample in judged):
        return more
    used, paged = slope(judged, _used), slope(judged, _paged)
    return (
        f"Of the slope {used:+.1f} KiB/min are buffers of the engine that are in use, {paged - used:+.1f} free ones in "
        f"arenas of which others are, and {slope(judged) - paged:+.1f} Python's and the C library's. {more}"
    )


def words(met: bool | None) -> str:
    return "too short to tell" if met is None else "yes" if met else "**no**"


def render(soak: dict[str, Any]) -> str:
    facts, samples = soak["facts"], soak["samples"]
    seconds = samples[-1]["s"] - samples[0]["s"]
    server = 100 * (samples[-1]["server_cpu_s"] - samples[0]["server_cpu_s"]) / seconds
    client = 100 * (samples[-1]["client_cpu_s"] - samples[0]["client_cpu_s"]) / seconds
    sizes = [sample["rss_kib"] for sample in warm(soak)]
    ends = ", ".join(f"{count:,} {how}" for how, count in sorted(soak["ends"].items()))
    rows = [[v.what, v.figure, v.target, words(v.met)] for v in verdicts(soak)]
    told = [f"- `{line}`" for line in soak["told"]]
    out = [
        "## Soak",
        "",
        f"`make soak MINUTES={soak['minutes']:g}`, commit {facts['commit']}, {facts['date']}; nobody had a core for "
        "himself.",
        "",
        f"{soak['connections']:,} connections, {100 * soak['churn_per_minute']:g} % of them replaced in a minute, of "
        "six kinds in one process: `DefaultServer` with `wsutil`, `on_message`, the same compressed with contexts "
        "that are kept, numbered messages to everybody from a thread of the application, an asyncio echo, and "
        "`aio.broadcast`. Messages come whole, in fragments with pings between them, and cut in the middle.",
        "",
        "![soak](results/soak.svg)",
        "",
        *rig.table_lines(["what", "figure", "target", "met"], rows),
        *(["", *told] if told else []),
        "",
        _shares(warm(soak)),
        "",
        f"{soak['opened']:,} connections came. How they ended: {ends}. {soak['received']:,} messages were echoed "
        f"and {soak['numbered']:,} numbered ones received, all compared byte by byte. The process had "
        f"{soak['rss_before_kib']:,} KiB before, {min(sizes):,} to {max(sizes):,} KiB with all of them, "
        f"{soak['rss_after_kib']:,} KiB when they had left; {soak['threads_before']} threads, and in the end "
        f"{soak['threads_after']} (the pool's come as they are needed). Server {server:.1f} %, clients {client:.1f} % "
        "of a core.",
    ]
    return "\n".join(out)
