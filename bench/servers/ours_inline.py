"""unlimitedws without a pool: on_message runs on the loop's thread."""

import signal
from typing import Any

import unlimitedws

server = unlimitedws.NewServer("0.0.0.0:0")


@server.on_message
def echo(conn: Any, message: bytes | str) -> None:
    conn.send(message)


with server:
    print(server.local_addr.port, flush=True)
    signal.pause()
