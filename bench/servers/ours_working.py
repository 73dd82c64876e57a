"""unlimitedws with an `on_message` that computes: `python ours_working.py STEPS inline|loops|pool N`.

STEPS: of a loop in pure Python, for each message. loops: N of them. pool: one loop, and N threads for callbacks.
"""

import signal
import sys
from typing import Any

import unlimitedws

steps, kind, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
server = (
    unlimitedws.Server("0.0.0.0:0", pool=(count, 1024))
    if kind == "pool"
    else unlimitedws.NewServer("0.0.0.0:0", loops=count)
)


@server.on_message
def work(conn: Any, message: bytes | str) -> None:
    x = 0
    for i in range(steps):
        x += i * i
    conn.send(message)


with server:
    print(server.local_addr.port, flush=True)
    signal.pause()
