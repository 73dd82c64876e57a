"""Isolation: how long the others wait while some callbacks take their time.

    python bench/isolation.py [--rounds 3] [--smoke]

100 connections, one message of 32 bytes under way on each, a Python callback that echoes. 10 of them ask for a
callback that sleeps for 100 ms, over and over; then for one that computes for 100 ms in pure Python. Measured is
the round trip of the other 90: once on a schedule (10,000 messages/s in all, timed from when a message was due), and
once as fast as replies come. What still waits at the end counts with the time that it has waited so far. Ratios are
to the same 90 in the same round while the 10 only echo, medians of the rounds.
Samples during which others were at work are taken again, as run.py does it.

What computes holds the GIL. Another thread gets it when the switch interval (5 ms) is over, and of those that
wait the kernel chooses one: with k callbacks that compute, a message waits for some k times 5 ms, whoever does the I/O.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import rig

OURS_POOL = rig.Server("ours, DefaultServer", "ours_slow.py", ("unlimitedws",), ("unlimitedws",), ("pool",))
SERVERS = [
    OURS_POOL,
    rig.Server("ours, inline", "ours_slow.py", ("unlimitedws",), ("unlimitedws",), ("inline",)),
    rig.Server("websockets, threads", "websockets_slow.py", ("websockets",), ("websockets",), ("threads",)),
    rig.Server("websockets, asyncio", "websockets_slow.py", ("websockets",), ("websockets",), ("asyncio",)),
]
# What the slow ones ask for: nothing, to sleep, to compute.
KINDS = {"E": "alone", "S": "beside sleepers", "C": "beside computers"}
# A callback takes 100 ms: until all slow ones are in the midst of one.
WARMUP_S = 0.5

# kind -> round -> sample
Samples = dict[str, dict[int, dict[str, Any]]]


def p99(sample: dict[str, Any]) -> float:
    return float(sample["round_trip"]["p99_us"])


def row(name: str, samples: Samples) -> list[str]:
    cells = [name]
    for kind in KINDS:
        taken = samples[kind].values()
        if not taken:
            cells += ["-", "no clean sample", "-"]
            continue
        tail = f"{statistics.median(map(p99, taken)) / 1000:.2f}"
        if kind != "E":
            both = [p99(samples[kind][n]) / p99(samples["E"][n]) for n in samples[kind] if n in samples["E"]]
            tail += f" ({statistics.median(both):.1f})" if both else " (-)"
        cells += [
            f"{statistics.median(sample['round_trip']['p50_us'] for sample in taken) / 1000:.2f}",
            tail,
            f"{statistics.median(sample['messages_per_s'] for sample in taken) / 1000:.1f}",
        ]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--slow", type=int, default=10)
    parser.add_argument("--rate", type=float, default=10_000, help="messages/s in all, on the schedule")
    parser.add_argument("--seconds", type=float, default=4.0, help="measured time of a sample")
    parser.add_argument("--only", nargs="+", default=[], help="only servers whose names contain one of these")
    parser.add_argument("--smoke", action="store_true", help="one short round of ours: does it run at all")
    args = parser.parse_args()
    if args.smoke:
        args.rounds, args.seconds, args.only = 1, 0.3, [OURS_POOL.name]

    server_core, client_core = rig.cores()
    servers = rig.present([s for s in SERVERS if not args.only or any(text in s.name for text in args.only)])
    rig.print_facts(servers)
    print(
        f"{args.connections} connections, {args.slow} of them slow, {args.rounds} rounds of {args.seconds:g} s; "
        "round trips of the others in ms",
        flush=True,
    )
    paces = {f"on a schedule of {args.rate:,.0f} messages/s": args.rate, "as fast as replies come": 0}
    results: dict[str, dict[str, Samples]] = {
        pace: {server.name: {kind: {} for kind in KINDS} for server in servers} for pace in paces
    }
    dropped = 0
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
        first = number % len(servers)
        for server in servers[first:] + servers[:first]:
            for pace, rate in paces.items():
                for kind in KINDS:
                    # A server each: what the last sample has left undone is not this one's.
                    options = {
                        "mode": "echo",
                        "seconds": args.seconds,
                        "warmup": WARMUP_S,
                        "connections": args.connections,
                        "slow": args.slow,
                        "kind": kind,
                        "rate": rate,
                    }
                    sample: dict[str, Any] | None
                    with rig.running(server, server_core) as (pid, port):
                        if args.smoke:
                            sample = rig.probe(client_core, pid, port, **options)
                        else:
                            sample, lost = rig.measure(client_core, pid, port, take=rig.probe, **options)
                            dropped += lost
                    if sample is not None:
                        results[pace][server.name][kind][number] = sample
    header = ["server"]
    for name in KINDS.values():
        header += [f"{name}: p50", "p99" if name == KINDS["E"] else "p99 (ratio)", "k/s"]
    for pace, by_server in results.items():
        print(f"\n{pace}")
        rig.print_table(header, [row(name, samples) for name, samples in by_server.items()])
    print(f"\n{dropped} contaminated samples dropped")


if __name__ == "__main__":
    main()
