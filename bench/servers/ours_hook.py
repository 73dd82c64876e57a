"""unlimitedws with an `on_request` in Python: `python ours_hook.py pool|inline`.

inline: `request_workers=0`, which hooks that only look at the request may have; the default would be helper threads.
"""

import signal
import sys
from typing import Any

import unlimitedws

server = (
    unlimitedws.DefaultServer("0.0.0.0:0")
    if sys.argv[1] == "pool"
    else unlimitedws.NewServer("0.0.0.0:0", request_workers=0)
)


@server.on_request
def let_in(request: Any) -> Any:
    return None if request.path == "/" else unlimitedws.Reject(404)


@server.on_message
def echo(conn: Any, message: bytes | str) -> None:
    conn.send(message)


with server:
    print(server.local_addr.port, flush=True)
    signal.pause()
