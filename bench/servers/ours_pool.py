"""unlimitedws as DefaultServer sets it up, a pool of 128, with on_message."""

import signal
from typing import Any

import unlimitedws

server = unlimitedws.DefaultServer("0.0.0.0:0")


@server.on_message
def echo(conn: Any, message: bytes | str) -> None:
    conn.send(message)


with server:
    print(server.local_addr.port, flush=True)
    signal.pause()
