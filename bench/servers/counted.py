"""unlimitedws for bench/instructions.py: `python counted.py KIND`, under callgrind, with native/counted.c preloaded.

Lines on stdin: "begin" and "end NAME" of what is counted, "stop" the clock, or "hold" it and "run MS" of it; each is
answered when it is done.
"""

import ctypes
import gc
import sys
from typing import Any

import unlimitedws
from unlimitedws import wsutil

kind = sys.argv[1]
counted = ctypes.CDLL(None)
counted.counted_run_clock.argtypes = [ctypes.c_int64]
make = unlimitedws.DefaultServer if kind in ("pool", "go") else unlimitedws.NewServer
# The watchdog has nothing to do but to look now and then: with this it does not look at all.
server = make("127.0.0.1:0", schedule_timeout=3600.0)

if kind == "go":

    @server.on_read
    def echo_as_in_go(conn: Any) -> None:
        msg, op = wsutil.read_client_data(conn)
        wsutil.write_server_message(conn, op, msg)

elif kind in ("inline", "pool"):

    @server.on_message
    def echo(conn: Any, message: bytes | str) -> None:
        conn.send(message)

elif kind == "hook":

    @server.on_request
    def admit(request: Any) -> None:
        return None

elif kind != "plain":
    raise SystemExit(f"counted.py: {kind}: inline, pool, go, plain or hook")

with server:
    print(server.local_addr.port, flush=True)
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "begin":
            # Each time from the same state of the collector's.
            gc.collect()
            counted.counted_begin()
        elif word == "end":
            counted.counted_end(rest.encode())
        elif word in ("stop", "hold"):
            counted.counted_stop_clock(word == "hold")
        elif word == "run":
            counted.counted_run_clock(int(rest))
        else:
            raise SystemExit(f"counted.py: {word}?")
        print("done", flush=True)
