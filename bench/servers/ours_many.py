"""Echo for very many connections: loops with descriptor tables of their own. Prints its port, then answers lines.

    python ours_many.py LOOPS

Each line of its stdin is answered with some of `Server.counters` as JSON; at the end of them it stops.
"""

from __future__ import annotations

import json
import sys

import unlimitedws

# Pings and keep-alive probes are left out: at a million connections they would be tens of thousands of packets in each
# second, and what is measured is what a connection takes that is there. `make orphans` measures the looking after.
server = unlimitedws.NewServer(
    "0.0.0.0:0",
    loops=int(sys.argv[1]),
    private_fds=True,
    ping_interval=None,
    tcp_keepalive=None,
    max_inbox_total_bytes=8 << 20,
)


@server.on_message
def echo(conn: unlimitedws.Conn, message: str | bytes) -> None:
    conn.send(message)


server.start()
print(server.local_addr.port, flush=True)
for _ in sys.stdin:
    figures = server.counters()
    names = ("connections", "turned_away", "slab_used_bytes", "slab_held_bytes", "messages_in", "wakeups")
    print(json.dumps({name: figures[name] for name in names}), flush=True)
server.stop(10)
