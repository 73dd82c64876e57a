"""The server under test: echoes every message, by the API that its argument names; prints its port.

Apart from the tests' own process, as a user's server is. Ends with SIGTERM.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import unlimitedws
from unlimitedws import wsutil

# The cases of 9.* send messages of up to 16 MiB.
MAX_MESSAGE_BYTES = 16 << 20


def main(api: str) -> None:
    server = unlimitedws.DefaultServer("127.0.0.1:0", max_message_bytes=MAX_MESSAGE_BYTES)

    def on_read(conn: Any) -> None:
        msg, op = wsutil.read_client_data(conn)
        wsutil.write_server_message(conn, op, msg)

    def on_message(conn: Any, message: bytes | str) -> None:
        conn.send(message)

    if api == "on_read":
        server.on_read = on_read
    elif api == "on_message":
        server.on_message = on_message
    else:
        raise SystemExit(f"on_read or on_message, not {api!r}")
    with server:
        print(server.local_addr.port, flush=True)
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1])
