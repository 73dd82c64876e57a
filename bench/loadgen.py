"""`unlimitedws bench` beside the clients in C: does it measure the server, or itself?

    python bench/loadgen.py [--rounds 7] [--seconds 1.5] [--server floor|inline] [--other DIR]

Against one server, on a core of its own, each client in turn on another; contaminated samples are dropped. For each
work: what the load generator says in terms of what the client in C says, round by round, with the interval that holds
the median with 95 % certainty (see compare.py). Above 1 in a rate is more load, below 1 in a round trip is a faster
client.
DIR holds a client of other authorship, wsbench.c, which is then measured as well.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import agreement
import compare
import rig
from processes import run_ns

Take = Callable[..., dict[str, float]]
OURS, NATIVE, OTHER = "unlimitedws bench", "in C", "the other"
RTT_RATE = 10_000
# Work: options of ours, of wsload (of wsprobe where it is timed), of the other one, and the unit.
WORK: dict[str, tuple[list[str], dict[str, Any], list[str], str]] = {
    "100 x 1": (["-c", "100"], {"outstanding": 1}, ["-m", "echo", "-P", "1"], "messages/s"),
    "100 x 16": (["-c", "100", "-p", "16"], {"outstanding": 16}, ["-m", "echo", "-P", "16"], "messages/s"),
    "100 x 1, 16 KiB": (
        ["-c", "100", "-s", "16K"],
        {"size": 16384},
        ["-m", "echo", "-s", "16384"],
        "messages/s",
    ),
    "handshakes": (
        ["-c", "64", "--mode", "handshakes", "--abort"],
        {"mode": "handshakes", "connections": 64},
        ["-m", "hs", "-c", "64"],
        "handshakes/s",
    ),
    "round trip, p50": (
        ["-c", "100", "--rate", str(RTT_RATE)],
        {"rate": RTT_RATE},
        ["-m", "lat", "-r", str(RTT_RATE)],
        "us",
    ),
}


def busy_beside(pid: int, run: Callable[[], str]) -> tuple[str, float]:
    """Run a client; returns what it said, and the cores that neither it nor the server used meanwhile."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return machine_cpu_s() - run_ns(pid) / 1e9 - children.ru_utime - children.ru_stime

    before, began = used(), time.monotonic()
    said = run()
    return said, (used() - before) / (time.monotonic() - began)


def machine_cpu_s() -> float:
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def ours(seconds: float) -> Take:
    def take(core: int, pid: int, port: int, flags: list[str]) -> dict[str, float]:
        command = [sys.executable, "-m", "unlimitedws", "bench", f"ws://127.0.0.1:{port}/", "--json", "-q"]
        command += ["-d", str(seconds), "-w", "0.3", *flags]
        path = [str(rig.ROOT / "src")] if rig.built_in_place() else []

        def run() -> str:
            with rig.pinned(core):
                done = subprocess.run(command, env=rig.environment(path), stdout=subprocess.PIPE, text=True)
            if done.returncode != 0:
                raise rig.Failed(f"unlimitedws bench {' '.join(flags)}: {done.stdout.strip()}")
            return done.stdout

        said, other_cpu = busy_beside(pid, run)
        result = json.loads(said)
        if "--rate" in flags:
            value = result["latency_seconds"]["p50"] * 1e6
        else:
            value = result["handshakes_per_second"] or result["messages_per_second"]
        return {"value": value, "other_cpu": other_cpu}

    return take


def native(seconds: float) -> Take:
    def take(core: int, pid: int, port: int, options: dict[str, Any]) -> dict[str, float]:
        options = {"connections": 100, "warmup": 0.3, **options}
        if "rate" in options:
            sample = rig.probe(core, pid, port, "echo", seconds, **options)
            return {"value": sample["round_trip"]["p50_us"], "other_cpu": sample["other_cpu"]}
        sample = rig.load(core, pid, port, seconds=seconds, **options)
        value = sample.get("messages_per_s") or sample["handshakes_per_s"]
        return {"value": value, "other_cpu": sample["other_cpu"]}

    return take


def other(program: Path, seconds: float) -> Take:
    def take(core: int, pid: int, port: int, flags: list[str]) -> dict[str, float]:
        command = [
            str(program),
            "-p",
            str(port),
            "-S",
            str(pid),
            "-c",
            "100",
            "-d",
            str(seconds),
            "-w",
            "0.3",
            *flags,
        ]
        with rig.pinned(core):
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
        said = dict(re.findall(r"(\S+?)=([-0-9.]+)", done.stdout))
        if done.returncode != 0 or float(said["err"]):
            raise rig.Failed(f"{program.name} {' '.join(flags)}: {done.stdout.strip()}")
        value = said["p50"] if "lat" in flags else said.get("msgs/s") or said["hs/s"]
        return {"value": float(value), "other_cpu": float(said["other"])}

    return take


def line(work: str, unit: str, samples: dict[str, dict[int, float]]) -> list[str]:
    cells = [
        f"{work}, {unit}",
        *(f"{statistics.median(s.values()):,.0f}" if s else "-" for s in samples.values()),
    ]
    for name in list(samples)[1:]:
        both = sorted(n for n in samples[OURS] if n in samples[name])
        ratios = [samples[OURS][n] / samples[name][n] for n in both]
        bounds = compare.interval(ratios)
        text = f"{statistics.median(ratios):.2f}" if ratios else "-"
        cells.append(text + (f" ({bounds[0]:.2f} to {bounds[1]:.2f})" if bounds else ""))
    return [*cells, str(min(len(found) for found in samples.values()))]


def one_round(
    number: int,
    work: str,
    takes: dict[str, Take],
    found: dict[str, dict[int, float]],
    where: tuple[int, int, int],
) -> None:
    own, native_options, other_flags, _ = WORK[work]
    more = {OURS: {"flags": own}, NATIVE: {"options": native_options}, OTHER: {"flags": other_flags}}
    names = list(takes)
    # Each is as often the first.
    for name in names[number % len(names) :] + names[: number % len(names)]:
        sample, _ = rig.measure(*where, take=takes[name], **more[name])
        if sample is not None:
            found[name][number] = sample["value"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--server", choices=("floor", "inline"), default="floor")
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--other", metavar="DIR", type=Path)
    args = parser.parse_args()
    server_core, client_core = rig.cores()
    server = rig.FLOOR if args.server == "floor" else rig.OURS_INLINE
    takes: dict[str, Take] = {OURS: ours(args.seconds), NATIVE: native(args.seconds)}
    if args.other:
        takes[OTHER] = other(agreement.compiled(args.other / "wsbench.c"), args.seconds)
    found: dict[str, dict[str, dict[int, float]]] = {work: {name: {} for name in takes} for work in args.work}
    # Whoever has to end it early gets what there is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        for number in range(args.rounds):
            for work in args.work:
                with rig.running(server, server_core) as (pid, port):
                    one_round(number, work, takes, found[work], (client_core, pid, port))
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    rig.print_facts([server])
    header = ["work", *takes, *(f"to {name} (95 %)" for name in list(takes)[1:]), "rounds"]
    rig.print_table(header, [line(work, WORK[work][3], samples) for work, samples in found.items()])


if __name__ == "__main__":
    main()
