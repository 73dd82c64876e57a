"""The benchmark: ours, the peers and a floor in plain C, row by row as workloads.py has them, in interleaved rounds.

    python bench/run.py [--quick | --smoke] [--rows KEY ...] [--only NAME ...] [--resume] [--write]

The server runs on one core, the client on another. In each round of a row each server is started afresh and gives
one sample, and another one begins; so a slow minute of the machine falls on all of them alike. A sample during which
others than the two used more than 0.15 of a core is dropped and taken again, up to four times; then the server has no
sample in that round. Ratios are taken within a round, and their median over the rounds is what counts.

What was measured is kept in build/bench/run.json after every sample: --resume goes on from there. A whole run writes
bench/RESULTS.md, its plots, and the README's table; so does --write for one that is not whole, keeping what the other
rows had. Exits 1 if a sample of ours or of the floor failed; one of a peer that failed stands in the table.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import report
import rig
import workloads
from rig import Server
from workloads import Row

STATE = rig.ROOT / "build" / "bench" / "run.json"
SMOKE_OUT = rig.ROOT / "build" / "bench" / "smoke"
# Descriptors that both ends need beside those of the connections.
SPARE_FDS = 200
# As Row.around_s, where connections are few.
SMOKE_AROUND_S = 0.5


@dataclass(frozen=True)
class Pace:
    """How thorough a run is. company: whether the servers that set no bound take part."""

    rounds: int
    seconds: float
    warmup: float
    tries: int = rig.TRIES
    company: bool = True
    smoke: bool = False


FULL = Pace(rounds=5, seconds=1.5, warmup=0.3)
QUICK = Pace(rounds=3, seconds=0.6, warmup=0.2, company=False)
# One try: a busy machine is no reason to fail a test of whether it runs at all.
SMOKE = Pace(rounds=1, seconds=0.2, warmup=0.05, tries=1, smoke=True)


@dataclass
class Plan:
    """Who is measured in which round of a row."""

    row: Row
    servers: list[Server]
    company: list[Server] = field(default_factory=list)
    company_rounds: int = 0

    def turns(self, rounds: int) -> list[tuple[int, Server]]:
        everybody = list(rig.turns([*self.servers, *self.company], rounds))
        return [(n, s) for n, s in everybody if s in self.servers or n < self.company_rounds]

    def seconds(self, pace: Pace) -> float:
        measured = pace.seconds + pace.warmup if self.row.timed else 0.0
        if pace.smoke:
            return len(self.turns(pace.rounds)) * (SMOKE_AROUND_S + measured)
        around = len(self.servers) * self.row.around_s * pace.rounds
        around += len(self.company) * self.row.company_around_s * self.company_rounds
        return around + measured * len(self.turns(pace.rounds))


def planned(row: Row, present: list[Server], pace: Pace) -> Plan:
    company = [s for s in row.company if s in present] if pace.company else []
    return Plan(row, [s for s in row.servers if s in present], company, min(row.company_rounds, pace.rounds))


def options_of(row: Row, pace: Pace) -> dict[str, Any]:
    options = dict(row.options)
    if pace.smoke:
        options.update(row.smoke)
    fds = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if fds != resource.RLIM_INFINITY:
        options["connections"] = min(options["connections"], fds - SPARE_FDS)
    if row.timed:
        options.update(seconds=pace.seconds, warmup=pace.warmup)
    return options


def sampled(row: Row, server: Server, pace: Pace) -> report.Result:
    """Take one sample; what went wrong is part of the result."""
    server_core, client_core = rig.cores()
    take = rig.load if row.tool == "load" else rig.probe
    try:
        with rig.running(server, server_core) as (pid, port):
            if pace.smoke:
                return report.Result(take(client_core, pid, port, **options_of(row, pace)))
            sample, dropped = rig.measure(
                client_core, pid, port, tries=pace.tries, take=take, **options_of(row, pace)
            )
    except rig.Failed as why:
        return report.Result(None, failed=str(why))
    return report.Result(sample, dropped)


def progress(begun: float, done_s: float, all_s: float, text: str) -> None:
    left = (all_s - done_s) / 60
    print(f"{(time.monotonic() - begun) / 60:5.1f} min, {left:4.1f} to go  {text}", file=sys.stderr, flush=True)


def take_all(
    plans: list[Plan], results: report.Results, pace: Pace, state: Path | None, limit_s: float = float("inf")
) -> bool:
    """Take the samples that results has not got yet. Returns False if the time was over before."""
    begun = time.monotonic()
    all_s = sum(plan.seconds(pace) for plan in plans)
    done_s = 0.0
    for plan in plans:
        rows = results.row(plan.row.key)
        turns = plan.turns(pace.rounds)
        for number, server in turns:
            done_s += plan.seconds(pace) / len(turns)
            if number in rows.get(server.name, {}):
                continue
            if time.monotonic() - begun > limit_s:
                return False
            result = sampled(plan.row, server, pace)
            rows.setdefault(server.name, {})[number] = result
            text = f"{plan.row.key}, round {number + 1}, {server.name}"
            if result.failed:
                text += f": failed: {result.failed}"
            elif result.sample is None:
                text += ": no clean sample"
            progress(begun, done_s, all_s, text)
            if state is not None:
                results.save(state)
    return True


def broken(results: report.Results, servers: list[Server]) -> list[str]:
    """What failed and should not have: ours, and the floor."""
    ours = [s.name for s in servers if s is rig.FLOOR or s.name.startswith("ours")]
    return [
        f"{key}: {name}: {result.failed}"
        for key, row in results.rows.items()
        for name, rounds in row.items()
        for result in rounds.values()
        if result.failed and name in ours
    ]


def names(rows: list[str], given: list[str]) -> list[str]:
    unknown = set(given) - set(rows)
    if unknown:
        raise SystemExit(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(rows)}")
    return [key for key in rows if not given or key in given]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="3 short rounds of ours, the floor and the best peers")
    parser.add_argument("--smoke", action="store_true", help="one moment of every row: does it run at all")
    parser.add_argument("--rows", nargs="+", default=[], metavar="KEY", help="only these rows")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="only servers whose names contain one, and the floor"
    )
    parser.add_argument("--rounds", type=int, help="instead of 5")
    parser.add_argument("--seconds", type=float, help="measured time of a sample instead of 1.5")
    parser.add_argument("--limit", type=float, default=60.0, metavar="MIN", help="end after so many minutes (60)")
    parser.add_argument("--against", metavar="NAME", help="show ratios to this server, too")
    parser.add_argument("--resume", action="store_true", help="go on with the last run, which was cut short")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md although it is no whole run")
    parser.add_argument("--list", action="store_true", help="list the rows and end")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    pace = SMOKE if args.smoke else QUICK if args.quick else FULL
    if args.rounds or args.seconds:
        pace = Pace(
            rounds=args.rounds or pace.rounds,
            seconds=args.seconds or pace.seconds,
            warmup=pace.warmup,
            tries=pace.tries,
            company=pace.company,
            smoke=pace.smoke,
        )
    rows = {row.key: row for row in workloads.ROWS}
    if args.list:
        for row in workloads.ROWS:
            print(f"{row.key:16} {row.title}")
        return 0
    wanted = [rows[key] for key in names(list(rows), args.rows)]

    servers = list(dict.fromkeys(s for row in wanted for s in (*row.servers, *row.company)))
    if args.only:
        servers = [s for s in servers if s is rig.FLOOR or any(text in s.name for text in args.only)]
    if args.smoke:
        # Building those takes longer than all the rest.
        servers = [s for s in servers if not (s.script or "").startswith("go/")]
    if not pace.company:
        servers = [s for s in servers if any(s in row.servers for row in wanted)]
    present = rig.present(servers)
    left_out = {s.name: s.missing() or "" for s in servers if s not in present}
    if any(s is rig.OURS_INLINE for s in servers) and rig.OURS_INLINE not in present:
        raise SystemExit("ours cannot be imported: there is nothing to measure")

    facts = report.facts(present, pace.rounds, pace.seconds, left_out)
    results = report.Results(facts)
    if args.resume:
        results = report.Results.load(STATE)
        if results.facts.comparable() != facts.comparable():
            raise SystemExit("the last run had another commit, machine, pace or set of servers: it cannot be resumed")
    plans = [plan for plan in (planned(row, present, pace) for row in wanted) if plan.servers or plan.company]
    print("\n".join(facts.lines()), flush=True)
    samples = sum(len(plan.turns(pace.rounds)) for plan in plans)
    minutes = sum(plan.seconds(pace) for plan in plans) / 60
    print(
        f"{samples} samples, about {minutes:.0f} minutes; longer where samples have to be taken again", flush=True
    )

    whole = take_all(plans, results, pace, None if args.smoke else STATE, args.limit * 60)
    print(report.tables(results, [plan.row for plan in plans], against=args.against))
    if not whole:
        print(f"cut short after {args.limit:g} minutes, nothing is written: --resume goes on", file=sys.stderr)
        return 1
    everything = not (args.quick or args.rows or args.only)
    if args.smoke:
        report.write(results, SMOKE_OUT, None)
    elif everything or args.write:
        report.write(results.over(report.recorded()), rig.BENCH, rig.ROOT / "README.md")
    wrong = broken(results, present)
    for line in wrong:
        print(f"FAILED {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
