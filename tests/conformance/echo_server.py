"""The server under test: echoes every message, by the API that its first argument names; prints its port.

Apart from the tests' own process, as a user's server is. Ends with SIGTERM.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import unlimitedws
from unlimitedws import wsutil

# The cases of 9.* send messages of up to 16 MiB, and 4 MiB in fragments of 64 bytes.
LIMITS = {"max_message_bytes": 16 << 20, "max_fragments": 65_536}


def main(api: str, compression: str = "plain") -> None:
    options: dict[str, Any] = dict(LIMITS)
    if compression == "compression":
        options["compression"] = True
    elif compression != "plain":
        raise SystemExit(f"plain or compression, not {compression!r}")
    server = unlimitedws.DefaultServer("127.0.0.1:0", **options)

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
    main(*sys.argv[1:])
