"""Callbacks that compute: what a second loop, or a second thread of the pool, is worth.

    python bench/scaling.py [--rounds 5] [--work-us 200] [--smoke]

Each callback computes in pure Python, about as long as --work-us says, and echoes. The server has all cores; the client
has one message under way on each of 64 connections and takes what little it needs of the last one. With the GIL one
callback computes at a time, whatever there is; on a free-threaded Python loops and threads scale. The interpreter that
runs this is the server's: to measure without the GIL, run it with one that has none.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import rig

CONNECTIONS = 64


def steps_of(work_us: float) -> int:
    """How many steps of the server's loop take so long here."""
    count = 2_000_000
    x = 0
    since = time.perf_counter()
    for i in range(count):
        x += i * i
    return max(round(work_us * 1e-6 * count / (time.perf_counter() - since)), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work-us", type=float, default=200.0, help="of each callback, about")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured time of a sample")
    parser.add_argument("--smoke", action="store_true", help="one short round: does it run at all")
    args = parser.parse_args()
    if args.smoke:
        args.rounds, args.seconds = 1, 0.5

    server_core, client_core = rig.cores()
    most = client_core - server_core + 1
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    steps = str(steps_of(args.work_us))
    kinds = {"one loop": ("loops", "1"), f"{most} loops": ("loops", str(most)), f"pool of {most}": ("pool", str(most))}
    servers = [rig.ours(f"ours, {name}", "ours_working.py", steps, *kind) for name, kind in kinds.items()]
    rig.print_facts(servers)
    print(
        f"the GIL is {'on' if has_gil else 'off'}; {steps} steps, about {args.work_us:g} us, in each callback; "
        f"{args.rounds} rounds of {args.seconds:g} s",
        flush=True,
    )
    rates: dict[str, list[float]] = {server.name: [] for server in servers}
    for _, server in rig.turns(servers, args.rounds):
        with rig.serving(server, None) as (peer, port):
            sample = rig.load(
                client_core,
                peer.pid,
                port,
                connections=CONNECTIONS,
                outstanding=1,
                seconds=args.seconds,
                warmup=0.3,
            )
        rates[server.name].append(sample["messages_per_s"])
    first = rates[servers[0].name]
    rows = []
    for name, found in rates.items():
        ratios = [mine / alone for mine, alone in zip(found, first, strict=True)]
        rows.append(
            [
                name,
                f"{statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f})",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            ]
        )
    rig.print_table(["", "messages/s (spread)", "times one loop"], rows)


if __name__ == "__main__":
    main()
