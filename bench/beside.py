"""Echo throughput beside one Python thread that computes without pause.

    python bench/beside.py [--rounds 3] [--smoke]

1,000 connections, 32-byte binary messages, 1 and 16 outstanding. The server and the thread that computes share a
process, so the GIL, and a core. Whoever wants the GIL from a thread that computes waits for the switch interval, 5 ms:
how many messages a server gets done each time it has the GIL is what decides. Beside it the same without that thread.
Samples during which others were at work are taken again, as run.py does it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import rig

SERVERS = [rig.OURS_INLINE, rig.OURS_POOL, rig.PICOWS, rig.WEBSOCKETS]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--outstanding", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time of a sample")
    parser.add_argument("--only", nargs="+", default=[], help="only servers whose names contain one of these")
    parser.add_argument("--smoke", action="store_true", help="one short round of ours: does it run at all")
    args = parser.parse_args()
    if args.smoke:
        args.rounds, args.seconds, args.only = 1, 1.0, ["ours"]

    server_core, client_core = rig.cores()
    servers = rig.present([s for s in SERVERS if not args.only or any(text in s.name for text in args.only)])
    rig.print_facts(servers)
    print(
        f"{args.connections:,} connections, {args.rounds} rounds of {args.seconds:g} s; switch interval "
        f"{sys.getswitchinterval() * 1000:g} ms",
        flush=True,
    )
    rates: dict[tuple[str, bool, int], list[float]] = {}
    dropped = 0
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
        first = number % len(servers)
        for server in servers[first:] + servers[:first]:
            for beside in (False, True):
                with rig.running(server.in_company("computes") if beside else server, server_core) as (pid, port):
                    for outstanding in args.outstanding:
                        options = {
                            "connections": args.connections,
                            "outstanding": outstanding,
                            "seconds": args.seconds,
                            "warmup": 0.5,
                        }
                        sample: dict[str, Any] | None
                        if args.smoke:
                            sample = rig.load(client_core, pid, port, **options)
                        else:
                            sample, lost = rig.measure(client_core, pid, port, **options)
                            dropped += lost
                        if sample is not None:
                            found = rates.setdefault((server.name, beside, outstanding), [])
                            found.append(sample["messages_per_s"] / 1000)
    header = ["k messages/s (spread)"]
    for outstanding in args.outstanding:
        header += [f"{outstanding} outstanding, alone", "beside a thread that computes"]
    rows = []
    for server in servers:
        cells = [server.name]
        for outstanding in args.outstanding:
            for beside in (False, True):
                clean = rates.get((server.name, beside, outstanding))
                cells.append(
                    f"{statistics.median(clean):,.1f} ({min(clean):,.0f} to {max(clean):,.0f})"
                    if clean
                    else "no clean sample"
                )
        rows.append(cells)
    print()
    rig.print_table(header, rows)
    print(f"{dropped} contaminated samples dropped")


if __name__ == "__main__":
    main()
