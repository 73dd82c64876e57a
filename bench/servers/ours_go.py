"""unlimitedws as the README's example has it: DefaultServer, on_read, wsutil."""

import signal
from typing import Any

import unlimitedws
from unlimitedws import wsutil

server = unlimitedws.DefaultServer("0.0.0.0:0")


@server.on_read
def echo(conn: Any) -> None:
    msg, op = wsutil.read_client_data(conn)
    wsutil.write_server_message(conn, op, msg)


with server:
    print(server.local_addr.port, flush=True)
    signal.pause()
