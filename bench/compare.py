"""A change beside what it changes: this tree and a base revision, interleaved in one run.

    python bench/compare.py REV [--rounds 9] [--rows KEY ...] [--smoke]

The base is checked out into build/compare/ as a git worktree and built there; both are measured by this tree's
bench/. For each figure: the medians, and the median of the ratios within the rounds with the interval that holds it
with 95 % certainty. That follows from the order of the rounds alone (the sign test), whatever the noise is like: where
1 is inside, nothing is shown, and with fewer than six rounds nothing can be. Two builds of one revision may differ by
some percent, for their code lies elsewhere in memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

import report
import rig
import run
import workloads
from workloads import Metric, Row

DEFAULT_ROWS = ["echo-100", "echo-100x16", "handshakes"]
CERTAINTY = 0.95


def git(*words: str, cwd: Path) -> str:
    """Raises SystemExit with what git said."""
    done = subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def built(rev: str, root: Path = rig.ROOT) -> tuple[str, Path]:
    """Check a revision out and build it, unless that was done before. Returns its short name and its src."""
    commit = git("rev-parse", "--short=12", f"{rev}^{{commit}}", cwd=root)
    tree = root / "build" / "compare" / commit
    stamp = tree / "build" / "compared"
    if stamp.exists():
        return commit, tree / "src"
    if not tree.exists():
        # One that was removed by hand is still in git's list.
        git("worktree", "prune", cwd=root)
        git("worktree", "add", "--detach", str(tree), commit, cwd=root)
    print(f"building {commit}", file=sys.stderr, flush=True)
    jobs = str(os.cpu_count() or 1)
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "--parallel", jobs],
        cwd=tree,
        env={**os.environ, "UWS_JOBS": jobs, "UWS_SHIMS": "0"},
        stdout=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise SystemExit(f"{commit} cannot be built: exit code {done.returncode}")
    stamp.parent.mkdir(exist_ok=True)
    stamp.touch()
    return commit, tree / "src"


def interval(ratios: list[float]) -> tuple[float, float] | None:
    """The values between which the median lies with CERTAINTY; None if these are too few to tell.

    Of n values, the chance that at most k lie below the median is that of at most k heads of n coins.
    """
    n = len(ratios)
    ordered = sorted(ratios)
    below = 0.0
    found = None
    for k in range(n // 2):
        below += math.comb(n, k) / 2**n
        if 1 - 2 * below < CERTAINTY:
            break
        found = ordered[k], ordered[n - 1 - k]
    return found


def verdict(metric: Metric, ratios: list[float]) -> str:
    bounds = interval(ratios)
    if bounds is None:
        return "too few rounds"
    low, high = bounds
    if low <= 1 <= high:
        return "no difference shown"
    return "better" if (low > 1) == metric.more_is_better else "worse"


def lines_of(row: Row, taken: report.Taken, base: str, change: str) -> list[list[str]]:
    lines = []
    for metric in row.metrics:
        old, new = report.values(taken, base, metric), report.values(taken, change, metric)
        both = sorted(n for n in old if n in new)
        if not both:
            lines.append([row.key, metric.name, "-", "-", "no clean samples", "-", "-"])
            continue
        ratios = [new[n] / old[n] for n in both]
        bounds = interval(ratios)
        lines.append(
            [
                row.key,
                f"{metric.name}, {metric.unit}",
                report.number(statistics.median(old[n] for n in both), metric.digits),
                report.number(statistics.median(new[n] for n in both), metric.digits),
                f"{statistics.median(ratios):.3f}" + (f" ({bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else ""),
                str(len(both)),
                verdict(metric, ratios),
            ]
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("base", metavar="REV", help="a revision of this repository")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.5, help="measured time of a sample")
    parser.add_argument(
        "--rows", nargs="+", default=DEFAULT_ROWS, metavar="KEY", help=f"instead of {' '.join(DEFAULT_ROWS)}"
    )
    parser.add_argument("--smoke", action="store_true", help="one moment of each: does it run at all")
    args = parser.parse_args()
    pace = run.SMOKE if args.smoke else run.Pace(rounds=args.rounds, seconds=args.seconds, warmup=0.3)
    rows = {row.key: row for row in workloads.ROWS}
    wanted = [rows[key] for key in run.names(list(rows), args.rows)]
    if not rig.built_in_place():
        raise SystemExit("this tree is not built: python setup.py build_ext --inplace")
    commit, source = built(args.base)

    results = report.Results(report.facts([], pace.rounds, pace.seconds, {}))
    plans = []
    for row in wanted:
        ours = next(s for s in row.servers if s.name.startswith("ours"))
        base = dataclasses.replace(ours, name=f"base {commit}", source=source)
        change = dataclasses.replace(ours, name="this tree", source=rig.ROOT / "src")
        plans.append(run.Plan(row, [base, change]))
    print("\n".join(results.facts.lines()))
    print(f"about {sum(plan.seconds(pace) for plan in plans) / 60:.0f} minutes", flush=True)
    run.take_all(plans, results, pace, None)
    lines = []
    for plan in plans:
        lines += lines_of(plan.row, results.rows[plan.row.key], *(s.name for s in plan.servers))
    print()
    rig.print_table(["row", "figure", f"base {commit}", "this tree", "ratio (95 %)", "rounds", ""], lines)
    wrong = [f"{key}: {text}" for key, taken in results.rows.items() for text in report.failures(taken) if text]
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
