"""Echo throughput: ours beside picows, websockets and a floor in plain C, in one interleaved run.

    python bench/echo.py [--rounds 5] [--json FILE]

100 connections, 32-byte binary messages, 1 and 16 outstanding; the server on one core, the client on another.
Each round starts each server afresh and takes one sample of each setting, so that a slow minute of the
machine falls on all of them alike. A sample during which others used more than 0.15 of a core is dropped and
taken again, up to four times; then the server has no sample in that round. Ratios are medians of the ratios
within each round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

import rig

SERVERS = [
    rig.OURS_INLINE,
    rig.OURS_POOL,
    rig.OURS_GO,
    rig.OURS_AIO,
    rig.OURS_AIO_UVLOOP,
    rig.PICOWS,
    rig.WEBSOCKETS,
    rig.WEBSOCKETS_UVLOOP,
    rig.FLOOR,
]

# round -> sample, of one server with one setting
Samples = dict[int, dict[str, Any]]


def rate(sample: dict[str, Any]) -> float:
    return float(sample["messages_per_s"])


def ratio(own: Samples, other: Samples) -> str:
    """The median of the ratios of those rounds in which both have a sample."""
    both = [rate(own[n]) / rate(other[n]) for n in own if n in other]
    return f"{statistics.median(both):.2f}" if both else "-"


def print_pool_ratio(results: dict[str, dict[int, Samples]], outstanding: int) -> None:
    """What the pool costs: beside the same server without one, round by round."""
    inline = results.get(rig.OURS_INLINE.name, {}).get(outstanding, {})
    pool = results.get(rig.OURS_POOL.name, {}).get(outstanding, {})
    both = sorted(n for n in inline if n in pool)
    if not both:
        return
    rates = [rate(pool[n]) / rate(inline[n]) for n in both]
    cpu = [pool[n]["server_us_per_message"] / inline[n]["server_us_per_message"] for n in both]
    print(
        f"pool / inline, {outstanding} outstanding: {statistics.median(rates):.3f} of the messages/s "
        f"(rounds: {min(rates):.2f} to {max(rates):.2f}), {statistics.median(cpu):.3f} times the CPU a message"
    )


def table(
    results: dict[str, dict[int, Samples]], dropped: dict[str, dict[int, int]], outstanding: int
) -> None:
    rows = []
    floor = results.get(rig.FLOOR.name, {}).get(outstanding, {})
    picows = results.get(rig.PICOWS.name, {}).get(outstanding, {})
    for name, by_setting in results.items():
        samples = by_setting[outstanding]
        lost = str(dropped[name][outstanding])
        if not samples:
            rows.append([name, "no clean sample", "-", "-", "-", "-", "0", lost])
            continue
        rates = [rate(s) / 1000 for s in samples.values()]
        micros = statistics.median(s["server_us_per_message"] for s in samples.values())
        rows.append(
            [
                name,
                f"{statistics.median(rates):.1f}",
                f"{min(rates):.1f} to {max(rates):.1f}",
                f"{micros:.2f}",
                ratio(samples, floor),
                ratio(samples, picows),
                str(len(samples)),
                lost,
            ]
        )
    print(f"\n{outstanding} outstanding")
    header = [
        "server",
        "k messages/s",
        "spread",
        "server CPU us",
        "/ floor",
        "/ picows",
        "samples",
        "dropped",
    ]
    rig.print_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--outstanding", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--size", type=int, default=32, help="payload bytes")
    parser.add_argument("--seconds", type=float, default=1.5, help="measured time of a sample")
    parser.add_argument(
        "--only", nargs="+", default=[], help="only servers whose names contain one of these, and the floor"
    )
    parser.add_argument(
        "--pool", action="store_true", help="only ours with on_message, inline and with a pool, and no floor"
    )
    parser.add_argument("--json", help="write every sample to this file")
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="one short round that keeps contaminated samples: does it run at all",
    )
    args = parser.parse_args()
    rounds, seconds, warmup = (1, 0.3, 0.1) if args.smoke else (args.rounds, args.seconds, 0.3)

    server_core, client_core = rig.cores()
    wanted = [
        s for s in SERVERS if not args.only or s is rig.FLOOR or any(text in s.name for text in args.only)
    ]
    if args.pool:
        wanted = [rig.OURS_INLINE, rig.OURS_POOL]
    servers = rig.present(wanted)
    if args.smoke and rig.OURS_INLINE in wanted and rig.OURS_INLINE not in servers:
        raise SystemExit("ours cannot be imported: there is nothing to smoke-test")
    rig.print_facts(servers)
    print(
        f"{args.connections} connections, {args.size}-byte binary, {rounds} rounds of {seconds:g} s",
        flush=True,
    )

    results: dict[str, dict[int, Samples]] = {s.name: {n: {} for n in args.outstanding} for s in servers}
    dropped = {s.name: dict.fromkeys(args.outstanding, 0) for s in servers}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        # Another one begins each round: none is always measured behind the same neighbour.
        first = number % len(servers)
        for server in servers[first:] + servers[:first]:
            with rig.running(server, server_core) as (pid, port):
                for outstanding in args.outstanding:
                    options = {
                        "connections": args.connections,
                        "outstanding": outstanding,
                        "size": args.size,
                        "seconds": seconds,
                        "warmup": warmup,
                    }
                    if args.smoke:
                        results[server.name][outstanding][number] = rig.load(
                            client_core, pid, port, **options
                        )
                        continue
                    sample, lost = rig.measure(client_core, pid, port, **options)
                    dropped[server.name][outstanding] += lost
                    if sample is not None:
                        results[server.name][outstanding][number] = sample

    for outstanding in args.outstanding:
        table(results, dropped, outstanding)
        print_pool_ratio(results, outstanding)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
