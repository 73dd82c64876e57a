"""Memory of idle connections: resident bytes of the server's process per held connection.

    python bench/idle.py [--connections 10000] [--peers]

One connection comes before the count begins, so that code and tables which all share are no part of what
one costs. The memory is the kernel's smaps_rollup, once all are open and quiet, and again after one message
on each of them. The connections go to several addresses, 127.0.1.x: to one, the kernel's search for a local
port slows down.
"""

from __future__ import annotations

import argparse

import rig

OURS = [rig.OURS_INLINE, rig.OURS_POOL, rig.FLOOR]
PEERS = [rig.PICOWS, rig.WEBSOCKETS]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--hold", type=float, default=1.0, help="seconds of quiet before each reading")
    parser.add_argument("--peers", action="store_true", help="picows and websockets too")
    args = parser.parse_args()

    server_core, client_core = rig.cores()
    servers = rig.present(OURS + (PEERS if args.peers else []))
    rig.print_facts(servers)
    rows = []
    for server in servers:
        with rig.running(server, server_core) as (pid, port):
            result = rig.load(
                client_core, pid, port, mode="idle", connections=args.connections, hold=args.hold
            )
        rows.append(
            [
                server.name,
                f"{result['held']}",
                f"{result['bytes_per_connection']:.0f}",
                f"{result['bytes_per_connection_after_message']:.0f}",
                f"{result['rss_before_kb'] / 1024:.1f}",
                f"{result['rss_held_kb'] / 1024:.1f}",
                f"{result['rss_after_kb'] / 1024:.1f}",
            ]
        )
    print()
    header = ["server", "held", "bytes each", "after a message", "MB before", "MB held", "MB after"]
    rig.print_table(header, rows)


if __name__ == "__main__":
    main()
