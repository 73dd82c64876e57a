"""unlimitedws for bench/floods.py: answers short messages, swallows long ones. Prints its port.

    python ours_flooded.py HOOK OPTIONS

HOOK is on_message, on_read or on_fragment; OPTIONS are JSON. Each line of its stdin is answered with `Server.counters`
as JSON, and with how often on_connect and on_close were called; at the end of them it stops.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import unlimitedws
from unlimitedws import wsutil

# What an honest client sends, and waits for. The others are counted by the engine.
SHORT_BYTES = 125

hook, options = sys.argv[1], json.loads(sys.argv[2])
if isinstance(options.get("compression"), dict):
    options["compression"] = unlimitedws.Compression(**options["compression"])
if "pool" in options:
    options["pool"] = tuple(options["pool"])
server = unlimitedws.NewServer("0.0.0.0:0", **options)
called = {"opened": 0, "ended": 0}


@server.on_connect
def opened(conn: Any) -> None:
    called["opened"] += 1


@server.on_close
def ended(conn: Any) -> None:
    called["ended"] += 1


def on_message(conn: Any, message: str | bytes) -> None:
    if 0 < len(message) <= SHORT_BYTES:
        conn.send(message)


def on_read(conn: Any) -> None:
    message, opcode = wsutil.read_client_data(conn)
    if 0 < len(message) <= SHORT_BYTES:
        wsutil.write_server_message(conn, opcode, message)


def on_fragment(conn: Any, fragment: unlimitedws.Fragment) -> None:
    if fragment.first and fragment.final and 0 < len(fragment.data) <= SHORT_BYTES:
        conn.send(fragment.data)


setattr(server, hook, {"on_message": on_message, "on_read": on_read, "on_fragment": on_fragment}[hook])
server.start()
print(server.local_addr.port, flush=True)
for _ in sys.stdin:
    print(json.dumps({**server.counters(), **called}), flush=True)
server.stop(10)
