"""What was measured, as numbers, tables, RESULTS.md and the README's table; plots are in plots.py.

    python bench/report.py            writes bench/RESULTS.md, plots and the README's table from bench/results/ anew
    python bench/report.py --check    exits 1 if RESULTS.md or the README's table is not what bench/results/ says

Owns the rules by which samples become figures: a ratio is taken within a round, its median over the rounds counts, its
spread is from the lowest to the highest round. Measures nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import abuse_report
import growth_report
import rig
import soak_report
import workloads
from rig import Server
from workloads import BEST_PEER, FLOOR, Metric, Row, Sample, Target

ROWS = {row.key: row for row in workloads.ROWS}
README = rig.ROOT / "README.md"
README_BLOCK = re.compile(r"(<!-- figures: .*? -->\n).*?(<!-- end of figures -->)", re.DOTALL)
# A verdict on fewer says so.
FEW_ROUNDS = 3
# Of what a server that failed has to say.
MAX_SAID_CHARS = 300
# What a recorded sample keeps.
KEPT = re.compile(
    r"(messages|handshakes)_per_s|server_us_per_\w+|size|connections|bytes_per_\w+|round_trip|(server|other)_cpu"
)


@dataclass(frozen=True)
class Facts:
    """What a figure means nothing without."""

    machine: str
    cores: int
    kernel: str
    python: str
    commit: str
    date: str
    rounds: int
    seconds: float
    versions: tuple[str, ...]
    left_out: dict[str, str]

    def comparable(self) -> tuple[Any, ...]:
        """What has to be the same for samples of two runs to stand in one row."""
        return (*self.run(), self.versions, sorted(self.left_out.items()))

    def run(self) -> tuple[Any, ...]:
        """What rows of one table of contents share, though not the same servers may be in all of them."""
        return (self.machine, self.cores, self.kernel, self.python, self.commit, self.rounds, self.seconds)

    def lines(self) -> list[str]:
        return [
            f"machine: {self.machine}, {self.cores} cores; kernel {self.kernel}",
            f"versions: {'; '.join((self.python, *self.versions))}",
            f"commit: {self.commit}; {self.date}; {self.rounds} rounds of {self.seconds:g} s",
        ]


def commit() -> str:
    """The commit that is checked out, and whether the library or the benchmarks differ from it."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", *words], cwd=rig.ROOT, capture_output=True, text=True)
        except FileNotFoundError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    rev = git("rev-parse", "--short=12", "HEAD")
    if not rev:
        return "none"
    # What a run writes is no change.
    measured = ["src", "bench", ":!bench/results", ":!bench/RESULTS.md"]
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *measured)
    return rev + (" with changes" if changed else "")


def facts(servers: list[Server], rounds: int, seconds: float, left_out: dict[str, str]) -> Facts:
    return Facts(
        machine=rig.cpu_model(),
        cores=os.cpu_count() or 0,
        kernel=platform.release(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        commit=commit(),
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        rounds=rounds,
        seconds=seconds,
        versions=tuple(dict.fromkeys(text for s in servers if s.script and (text := s.versions()))),
        left_out=left_out,
    )


@dataclass(frozen=True)
class Result:
    """What one turn of a server has given: a sample; none, for all tries were contaminated; none, for it failed."""

    sample: Sample | None
    dropped: int = 0
    failed: str = ""


# server -> round -> result
Taken = dict[str, dict[int, Result]]


@dataclass
class Results:
    """All rows, each with the facts of the run that it is from. facts: those of rows that are added."""

    facts: Facts
    rows: dict[str, Taken] = field(default_factory=dict)
    facts_of: dict[str, Facts] = field(default_factory=dict)

    def row(self, key: str) -> Taken:
        self.facts_of.setdefault(key, self.facts)
        return self.rows.setdefault(key, {})

    def over(self, older: Results | None) -> Results:
        """Return these rows, and of an older run those that are not among them."""
        if older is None:
            return self
        return Results(self.facts, {**older.rows, **self.rows}, {**older.facts_of, **self.facts_of})

    def save(self, path: Path, slim: bool = False) -> None:
        every = list({id(f): f for f in (self.facts, *self.facts_of.values())}.values())
        rows = {
            key: {
                "facts": every.index(self.facts_of[key]),
                "servers": {
                    name: {str(n): _result_out(result, slim) for n, result in sorted(rounds.items())}
                    for name, rounds in taken.items()
                },
            }
            for key, taken in self.rows.items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        text = json.dumps({"facts": [dataclasses.asdict(f) for f in every], "rows": rows}, indent=1)
        fresh.write_text(_one_line_a_round(text) + "\n")
        fresh.replace(path)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Raises FileNotFoundError."""
        data = json.loads(path.read_text())
        every = [Facts(**{**f, "versions": tuple(f["versions"])}) for f in data["facts"]]
        results = cls(every[0])
        for key, row in data["rows"].items():
            results.facts_of[key] = every[row["facts"]]
            results.rows[key] = {
                name: {int(n): Result(**result) for n, result in rounds.items()}
                for name, rounds in row["servers"].items()
            }
        return results


def _result_out(result: Result, slim: bool) -> dict[str, Any]:
    out = dataclasses.asdict(result)
    if slim and result.sample is not None:
        out["sample"] = {k: v for k, v in result.sample.items() if KEPT.fullmatch(k)}
    return out


def _one_line_a_round(text: str) -> str:
    """Lay JSON out so that a diff shows samples, and not braces."""
    return re.sub(r'("\d+": )\{\n.*?\n {5}\}', lambda m: re.sub(r"\n\s*", " ", m[0]), text, flags=re.DOTALL)


def recorded(path: Path = rig.BENCH) -> Results | None:
    """The results that bench/results holds."""
    samples = path / "results" / "samples.json"
    return Results.load(samples) if samples.exists() else None


def record(name: str, measured: Any, out: Path) -> None:
    """Write what was measured to results/, and RESULTS.md, which has a part about it, anew where there is one."""
    path = out / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(measured, indent=1) + "\n")
    results = recorded(out)
    if results is not None:
        (out / "RESULTS.md").write_text(render(results, out))


# --- figures ---


@dataclass(frozen=True)
class Figure:
    """The median of some rounds, and the lowest and the highest of them."""

    median: float
    low: float
    high: float
    rounds: int


def figure(values: list[float]) -> Figure | None:
    return Figure(statistics.median(values), min(values), max(values), len(values)) if values else None


def values(taken: Taken, name: str, metric: Metric) -> dict[int, float]:
    """Round -> figure, of the rounds in which the server has a clean sample."""
    return {
        n: metric.of(result.sample) for n, result in taken.get(name, {}).items() if result.sample is not None
    }


def best_of(taken: Taken, peers: list[str], metric: Metric) -> dict[int, float]:
    """Round -> the best figure that any of the peers has in it."""
    found: dict[int, list[float]] = {}
    for name in peers:
        for n, value in values(taken, name, metric).items():
            found.setdefault(n, []).append(value)
    return {n: (max if metric.more_is_better else min)(all_) for n, all_ in found.items()}


def reference(row: Row, taken: Taken, against: str, metric: Metric) -> dict[int, float]:
    if against == BEST_PEER:
        return best_of(taken, workloads.best_peers(row), metric)
    return values(taken, against, metric)


def ratio(row: Row, taken: Taken, name: str, against: str, metric: Metric) -> Figure | None:
    """One figure in terms of another, round by round; None if they have no round in common."""
    own, other = values(taken, name, metric), reference(row, taken, against, metric)
    return figure([own[n] / other[n] for n in sorted(own) if other.get(n)])


@dataclass(frozen=True)
class Verdict:
    target: Target
    figure: Figure | None

    @property
    def met(self) -> bool | None:
        return None if self.figure is None else self.target.met(self.figure.median)

    def words(self) -> str:
        if self.figure is None:
            return "not measured"
        words = "yes" if self.met else "**no**"
        if self.target.met(self.figure.low) != self.target.met(self.figure.high):
            words += ", within the spread"
        if self.figure.rounds < FEW_ROUNDS:
            words += f" (clean rounds: {self.figure.rounds})"
        return words


def verdicts(row: Row, taken: Taken) -> list[Verdict]:
    out = []
    for target in row.targets:
        if target.against is None:
            found = figure(list(values(taken, target.ours, target.metric).values()))
        else:
            found = ratio(row, taken, target.ours, target.against, target.metric)
        out.append(Verdict(target, found))
    return out


# --- tables ---


def number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def spread(found: Figure | None, digits: int) -> str:
    if found is None:
        return "-"
    if found.rounds == 1:
        return number(found.median, digits)
    return f"{number(found.median, digits)} ({number(found.low, digits)} to {number(found.high, digits)})"


def row_table(row: Row, taken: Taken, against: str | None = None) -> list[str]:
    """Markdown: a line for each server, the better ones first."""
    references = [name for name in dict.fromkeys((FLOOR, BEST_PEER, against)) if name]
    header = ["server", *(f"{metric.unit} (spread)" for metric in row.metrics)]
    header += [f"{metric.name} / {name}" for name in references for metric in row.metrics]
    header += ["rounds", "dropped"]
    order = []
    for name, rounds in taken.items():
        dropped = sum(result.dropped for result in rounds.values())
        failed = [result.failed for result in rounds.values() if result.failed]
        own = {metric: figure(list(values(taken, name, metric).values())) for metric in row.metrics}
        first = own[row.metrics[0]]
        if first is None:
            why = f"failed {len(failed)} of {len(rounds)} times" if failed else "no clean sample"
            order.append((float("inf"), [name, why, *["-"] * (len(header) - 4), "0", str(dropped)]))
            continue
        cells = [name, *(spread(own[metric], metric.digits) for metric in row.metrics)]
        for against_name in references:
            for metric in row.metrics:
                found = ratio(row, taken, name, against_name, metric)
                cells.append("-" if found is None else f"{found.median:.2f}")
        cells += [str(first.rounds) + (f", {len(failed)} failed" if failed else ""), str(dropped)]
        order.append((-first.median if row.metrics[0].more_is_better else first.median, cells))
    return rig.table_lines(header, [cells for _, cells in sorted(order, key=lambda entry: entry[0])])


def failures(taken: Taken) -> list[str]:
    """Markdown: what the servers that failed said, the first time."""
    lines = []
    for name, rounds in taken.items():
        said = [result.failed for result in rounds.values() if result.failed]
        if said:
            text = " ".join(said[0].split()).replace("|", "/").replace("`", "'")
            lines.append(f"- {name} failed: `{text[:MAX_SAID_CHARS]}`")
    return ["", *lines] if lines else []


def target_table(results: Results) -> list[str]:
    lines = []
    for row in workloads.ROWS:
        taken = results.rows.get(row.key)
        if taken is None:
            continue
        for verdict in verdicts(row, taken):
            target = verdict.target
            what = target.metric.name if target.against is None else f"{target.metric.name} / {target.against}"
            digits = target.metric.digits if target.against is None else 2
            lines.append(
                [row.title, target.ours, what, spread(verdict.figure, digits), target.words(), verdict.words()]
            )
    return rig.table_lines(["work", "ours", "figure", "median (spread)", "target", "met"], lines)


def tables(results: Results, rows: list[Row], against: str | None = None) -> str:
    """The tables of some rows, and how they stand to their targets."""
    out = []
    for row in rows:
        if results.rows.get(row.key):
            taken = results.rows[row.key]
            out += ["", row.title, "", *row_table(row, taken, against), *failures(taken)]
    shown = Results(results.facts, {row.key: results.rows[row.key] for row in rows if row.key in results.rows})
    return "\n".join([*out, "", *target_table(shown)])


# What the README shows: a column is a row of the benchmark, a figure of it, and whether in terms of the floor as well.
README_COLUMNS = [
    ("echo-100", workloads.RATE, "1 outstanding, 100 connections"),
    ("echo-10000", workloads.RATE, "10,000 connections"),
    ("echo-100x16", workloads.RATE, "16 outstanding, 100 connections"),
    ("handshakes", workloads.HANDSHAKE_CPU, "CPU us a handshake"),
    ("idle", workloads.IDLE, "bytes an idle connection"),
]


# By file name: what a plot shows, and the row that it is drawn of.
PLOTS = {
    "throughput": ("Throughput", "echo-100"),
    "memory": ("Memory of an idle connection", "idle"),
    "latency": ("Round trip", "round-trip"),
}


def pictures(results: Results, where: str) -> list[str]:
    return [f"![{title}]({where}/{name}.svg)" for name, (title, key) in PLOTS.items() if key in results.rows]


def readme_block(results: Results) -> str:
    """The README's table and plots: what ours and the peers do in the rows that say most."""
    columns = [column for column in README_COLUMNS if column[0] in results.rows]
    floor_ratio = {key: ROWS[key] for key, metric, _ in columns if metric.more_is_better}
    everybody = dict.fromkeys(name for key, _, _ in columns for name in results.rows[key])
    lines = []
    for name in sorted(everybody, key=lambda name: (name != FLOOR, not name.startswith("ours"))):
        cells = []
        for key, metric, _ in columns:
            own = figure(list(values(results.rows[key], name, metric).values()))
            text = "-" if own is None else number(own.median, 0)
            if own is not None and key in floor_ratio and name != FLOOR:
                share = ratio(floor_ratio[key], results.rows[key], name, FLOOR, metric)
                text += "" if share is None else f" ({share.median:.2f})"
            cells.append(text)
        lines.append([name, *cells])
    header = ["thousand messages/s (ratio to the floor)", *(title for _, _, title in columns)]
    first = results.facts_of[columns[0][0]]
    about = (
        f"{first.machine}, {first.cores} cores, kernel {first.kernel}, {first.python}; medians of {first.rounds} "
        "interleaved rounds, of the ratios within each round; server and client on a core each. "
        "All rows, their spread and the targets: "
        "[bench/RESULTS.md](bench/RESULTS.md)."
    )
    shown = pictures(results, "bench/results")
    return "\n".join([*rig.table_lines(header, lines), "", *textwrap.wrap(about, 118), "", *shown]) + "\n"


INTRO = """# Results

Written by `make bench` ([how it measures](README.md)); do not edit. Server and client have a core each. Every round
starts every server afresh, one after the other, and another one begins; a ratio is taken within a round, its median
counts, and the spread is from the lowest round to the highest. A sample during which others used more than {limit:g}
of a core was dropped and taken again, up to {tries} times; the last column counts them. Repeats of a whole run differ
by 5 to 15 %: less than that is a tie. The floor is an echo server in plain C (`bench/native/wsfloor.c`), without
timers, limits, fragments or UTF-8; the client is C, too, and checks every reply."""


def render(results: Results, out_of: Path) -> str:
    """The whole of RESULTS.md. out_of: where results/ is, for the parts that other commands record."""
    out = [INTRO.format(limit=rig.MAX_OTHER_CPU, tries=rig.TRIES), ""]
    shown = [row for row in workloads.ROWS if row.key in results.rows]
    of_first = results.facts_of[shown[0].key]
    alike = [facts for facts in results.facts_of.values() if facts.run() == of_first.run()]
    versions = dict.fromkeys(version for facts in alike for version in facts.versions)
    left_out = {name: why for facts in alike for name, why in facts.left_out.items()}
    out += [f"- {line}" for line in dataclasses.replace(of_first, versions=tuple(versions)).lines()]
    out += [f"- left out: {name} ({why})" for name, why in left_out.items()]
    out += ["", "## Targets", "", *target_table(results), "", "## Plots", ""]
    out += pictures(results, "results")
    for row in shown:
        out += ["", f"## {row.title}", "", f"`--rows {row.key}`", ""]
        own = results.facts_of[row.key]
        if own.run() != of_first.run():
            out += [f"From another run: {'; '.join(own.lines())}.", ""]
        out += [*row_table(row, results.rows[row.key]), *failures(results.rows[row.key])]
    for part in (growth_report, abuse_report, soak_report):
        recording = part.recorded(out_of)
        if recording is not None:
            out += ["", part.render(recording)]
    return "\n".join(out) + "\n"


def write(results: Results, out: Path, readme: Path | None) -> None:
    """Write RESULTS.md and results/ below out, and the README's table."""
    import plots

    results.save(out / "results" / "samples.json", slim=True)
    plots.draw(results, out / "results")
    (out / "RESULTS.md").write_text(render(results, out))
    print(f"written: {out / 'RESULTS.md'}")
    if readme is not None:
        readme.write_text(with_block(readme.read_text(), readme_block(results)))


def with_block(text: str, block: str) -> str:
    """Return the README with its table replaced. Raises ValueError if it has no place for one."""
    new, count = README_BLOCK.subn(lambda match: match[1] + block + match[2], text)
    if count != 1:
        raise ValueError(f"the README has {count} places for the figures, not one")
    return new


def stale(results: Results) -> list[str]:
    """Which files are not what the recorded samples say."""
    found = []
    if (rig.BENCH / "RESULTS.md").read_text() != render(results, rig.BENCH):
        found.append("bench/RESULTS.md")
    if README.read_text() != with_block(README.read_text(), readme_block(results)):
        found.append("README.md")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, and exit 1 if something would change")
    args = parser.parse_args()
    results = recorded()
    if results is None:
        raise SystemExit("nothing is recorded in bench/results: make bench")
    if args.check:
        old = stale(results)
        for name in old:
            print(f"{name} is not what bench/results says: python bench/report.py")
        return 1 if old else 0
    write(results, rig.BENCH, README)
    return 0


if __name__ == "__main__":
    sys.exit(main())
