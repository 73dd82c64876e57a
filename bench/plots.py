"""The plots of RESULTS.md as SVG, by matplotlib (extra `bench`); without it nothing is drawn, and a line says so.

The same figures give the same file: no date, no random ids.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import growth_report
import report
import rig
import soak_report
import workloads
from workloads import Metric

try:
    import matplotlib
except ModuleNotFoundError:
    matplotlib = None  # type: ignore[assignment]

OURS, FLOOR, PEERS = "#1f6feb", "#8c959f", "#d4a72c"
NO_DATE = {"Date": None, "Creator": None}


def available() -> bool:
    if matplotlib is None:
        print("no plots: matplotlib is missing (pip install 'unlimitedws[bench]')")
        return False
    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "unlimitedws",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.facecolor": "white",
        }
    )
    return True


def colour(name: str) -> str:
    return FLOOR if name == rig.FLOOR.name else OURS if name.startswith("ours") else PEERS


def bars(axes: Any, results: report.Results, key: str, metric: Metric, title: str, log: bool = False) -> None:
    """One bar a server, the best on top, with its spread and its figure."""
    taken = results.rows[key]
    found = {
        name: figure
        for name in taken
        if (figure := report.figure(list(report.values(taken, name, metric).values()))) is not None
    }
    names = sorted(found, key=lambda name: found[name].median, reverse=not metric.more_is_better)
    medians = [found[name].median for name in names]
    errors = [
        [found[name].median - found[name].low for name in names],
        [found[name].high - found[name].median for name in names],
    ]
    axes.barh(names, medians, xerr=errors, color=[colour(name) for name in names], ecolor="#57606a", capsize=2)
    for at, name in enumerate(names):
        text = report.number(found[name].median, 0 if found[name].median >= 100 else 1)
        axes.annotate(text, (found[name].high, at), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    if log:
        axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(metric.unit)


def panels(
    results: report.Results, path: Path, wanted: list[tuple[str, Metric, str]], log: bool = False
) -> None:
    """A file with a panel for each of the rows that were measured; none if none was."""
    from matplotlib import pyplot

    there = [entry for entry in wanted if entry[0] in results.rows]
    if not there:
        return
    most = max(len(results.rows[key]) for key, _, _ in there)
    figure, axes = pyplot.subplots(1, len(there), figsize=(5.2 * len(there), 1.1 + 0.27 * most), squeeze=False)
    for one, (key, metric, title) in zip(axes[0], there, strict=True):
        bars(one, results, key, metric, title, log)
    figure.tight_layout()
    figure.savefig(path, metadata=NO_DATE)
    pyplot.close(figure)


def draw(results: report.Results, out: Path) -> None:
    if not available():
        return
    out.mkdir(parents=True, exist_ok=True)
    panels(
        results,
        out / "throughput.svg",
        [
            ("echo-100", workloads.RATE, "echo, 100 connections, 1 outstanding"),
            ("echo-100x16", workloads.RATE, "echo, 100 connections, 16 outstanding"),
        ],
    )
    panels(
        results,
        out / "memory.svg",
        [
            ("idle", workloads.IDLE, "process bytes for an idle connection"),
            ("idle", workloads.IDLE_AFTER, "the same after a message on each"),
        ],
        log=True,
    )
    panels(
        results,
        out / "latency.svg",
        [
            ("round-trip", workloads.P50, "round trip at 10,000 messages/s, median"),
            ("round-trip", workloads.P99, "99th percentile"),
        ],
    )


def draw_growth(growth: dict[str, Any], out: Path) -> None:
    if not available():
        return
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10.4, 3.4))
    for one, part, title in (
        (axes[0], "connections", "CPU of a message, one under way on each connection"),
        (axes[1], "silent", "CPU of a message on 100 connections, beside silent ones"),
    ):
        curves = {**growth[part]["curves"], **(growth["many"]["curves"] if part == "connections" else {})}
        for name, taken in curves.items():
            curve = growth_report.curve(taken)
            style = "--" if name == rig.FLOOR.name else "-"
            one.plot(list(curve), list(curve.values()), style, marker="o", markersize=3, label=name)
        one.set_xscale("symlog" if part == "silent" else "log", **({"linthresh": 1000} if part == "silent" else {}))
        one.set_ylim(bottom=0)
        one.set_xlabel("connections" if part == "connections" else "silent connections")
        one.set_ylabel("server CPU, us a message")
        one.set_title(title, fontsize=9)
        one.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out / "growth.svg", metadata=NO_DATE)
    pyplot.close(figure)


def draw_soak(soak: dict[str, Any], out: Path) -> None:
    if not available():
        return
    from matplotlib import pyplot

    samples, judged = soak["samples"], soak_report.warm(soak)
    minutes = [sample["s"] / 60 for sample in samples]
    rates = [
        (later["messages"] - sooner["messages"]) / (later["s"] - sooner["s"])
        for sooner, later in itertools.pairwise(samples)
    ]
    figure, axes = pyplot.subplots(1, 3, figsize=(13.0, 3.2))
    axes[0].plot(minutes, [sample["rss_kib"] / 1024 for sample in samples], color=OURS, linewidth=1)
    if len(judged) > 2:
        grown = soak_report.slope(judged)
        mean_s = sum(sample["s"] for sample in judged) / len(judged)
        mean = sum(sample["rss_kib"] for sample in judged) / len(judged)
        ends = [judged[0]["s"], judged[-1]["s"]]
        line = [(mean + grown * (s - mean_s) / 60) / 1024 for s in ends]
        axes[0].plot([s / 60 for s in ends], line, "--", color=PEERS, label=f"{grown:+.2f} KiB/min")
        axes[0].legend(fontsize=7)
    axes[0].set_ylim(bottom=0)
    axes[0].set_title("resident memory of the server, MiB", fontsize=9)
    axes[1].plot(minutes, [sample["descriptors"] for sample in samples], color=OURS, linewidth=1, label="descriptors")
    axes[1].plot(minutes, [sample["connections"] for sample in samples], color=FLOOR, linewidth=1, label="connections")
    axes[1].set_ylim(bottom=0)
    axes[1].legend(fontsize=7)
    axes[1].set_title(f"open; {soak['opened']:,} connections came in all", fontsize=9)
    axes[2].plot(minutes[1:], rates, color=OURS, linewidth=1)
    axes[2].set_ylim(bottom=0)
    axes[2].set_title("messages/s, all of them checked", fontsize=9)
    for one in axes:
        one.set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(out / "soak.svg", metadata=NO_DATE)
    pyplot.close(figure)
