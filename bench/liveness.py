"""Liveness: what becomes of connections while a foreign thread of the server's process holds the GIL.

    python bench/liveness.py [--connections 10000] [--seconds 60] [--newcomers 1000] [--smoke]

A thread of the server calls a function of C that does not let go of the GIL for --seconds. Meanwhile the client
pings every connection once a second; one without its pong after 2 s is lost, and closed. The newcomers open
connections, evenly spread, and have 2 s each from connect() to the end of the upgrade; then they are pinged as well.
Before that the same is measured for some seconds with a server that is not held. The client is C, on a core of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
from typing import Any

import rig

SERVERS = [
    rig.OURS_INLINE,
    rig.OURS_POOL,
    rig.WEBSOCKETS,
    rig.UVICORN,
]
# Files of either process that are no connections; a pool's threads need none.
OTHER_DESCRIPTORS = 100


def measure(server: rig.Server, connections: int, seconds: float, newcomers: int, before: float) -> dict[str, Any]:
    """Hold the GIL of one server. Returns what wsprobe saw before it, and then."""
    server_core, client_core = rig.cores()
    options = {"connections": connections, "newcomers": newcomers, "seconds": seconds, "warmup": before}
    held = server.in_company("holds")
    with rig.serving(held, server_core) as (peer, port):
        options["server_pid"] = peer.pid
        with rig.probing(client_core, port, "pings", **options) as client:
            quiet = json.loads(client.hear(before + rig.PATIENCE_S))
            peer.say(str(seconds))
            said = peer.hear(rig.PATIENCE_S)
            if said != "holding":
                raise SystemExit(f"{server.name} said {said!r}")
            client.say("now")
            held_result = json.loads(client.hear(seconds + rig.PATIENCE_S))
    return {"quiet": quiet, "held": held_result}


def row(name: str, result: dict[str, Any]) -> list[str]:
    quiet, held = result["quiet"], result["held"]
    pong, upgrade = held["pong"], held["upgrade"]

    def times(histogram: dict[str, Any]) -> str:
        if not histogram["count"]:
            return "none came"
        return " / ".join(f"{histogram[key] / 1000:.1f}" for key in ("p50_us", "p99_us", "max_us"))

    return [
        name,
        times(quiet["before"]),
        f"{held['lost']:,}",
        times(pong),
        f"{held['newcomers_in_time']:,}",
        times(upgrade),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="for which the GIL is held")
    parser.add_argument("--newcomers", type=int, default=1000)
    parser.add_argument("--before", type=float, default=5.0, help="seconds measured before that")
    parser.add_argument("--only", nargs="+", default=[], help="only servers whose names contain one of these")
    parser.add_argument("--smoke", action="store_true", help="ours, few and for 5 s: exits 1 if anybody is lost")
    args = parser.parse_args()
    if args.smoke:
        args.connections, args.seconds, args.newcomers, args.before, args.only = 200, 5.0, 20, 0.5, ["ours"]

    needed = args.connections + args.newcomers + OTHER_DESCRIPTORS
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        raise SystemExit(f"{needed} descriptors are needed, and {allowed} allowed: --connections, --newcomers")
    servers = rig.present([s for s in SERVERS if not args.only or any(text in s.name for text in args.only)])
    rig.print_facts(servers)
    print(
        f"{args.connections:,} connections, {args.newcomers:,} newcomers, the GIL held for {args.seconds:g} s; "
        "times in ms",
        flush=True,
    )
    rows = []
    failed = False
    for server in servers:
        result = measure(server, args.connections, args.seconds, args.newcomers, args.before)
        rows.append(row(server.name, result))
        held = result["held"]
        print(
            f"{server.name}: others used {held['other_cpu']:.2f} of a core; first loss: {held['error'] or 'none'}",
            flush=True,
        )
        if server in (rig.OURS_INLINE, rig.OURS_POOL):
            failed |= bool(held["lost"] or held["wrong"] or held["newcomers_in_time"] != held["newcomers"])
    print()
    header = [
        "server",
        "pong before: p50 / p99 / max",
        "lost",
        "pong: p50 / p99 / max",
        "newcomers in time",
        "upgrade: p50 / p99 / max",
    ]
    rig.print_table(header, rows)
    if failed:
        raise SystemExit("ours has lost a connection, or let a newcomer wait")


if __name__ == "__main__":
    main()
