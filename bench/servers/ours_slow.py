"""unlimitedws for bench/isolation.py: `python ours_slow.py pool|inline`."""

import signal
import sys
from typing import Any

from slow import work

import unlimitedws

make = {"pool": unlimitedws.DefaultServer, "inline": unlimitedws.NewServer}[sys.argv[1]]
server = make("0.0.0.0:0")


@server.on_message
def echo(conn: Any, message: Any) -> None:
    work(message)
    conn.send(message)


with server:
    print(server.local_addr.port, flush=True)
    signal.pause()
