"""Shows that the installed library works: handshake, echo by each API, clean close, command line.

Run with the interpreter of the environment that has it, and from anywhere but the source tree's src/.
"""

from __future__ import annotations

import queue
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import raw  # noqa: E402

import unlimitedws  # noqa: E402
from unlimitedws import wsutil  # noqa: E402


def on_read(conn: Any) -> None:
    msg, op = wsutil.read_client_data(conn)
    wsutil.write_server_message(conn, op, msg)


def on_message(conn: Any, message: bytes | str) -> None:
    conn.send(message)


def exchange(server: Any) -> None:
    closed: queue.Queue[tuple[int, str]] = queue.Queue()
    server.on_close = lambda conn: closed.put((conn.close_code, conn.close_reason))
    with server, raw.RawClient(server.local_addr.port) as client:
        for message in ("gr\u00fc\u00df dich", bytes(range(256)) * 400):
            client.send_frame(raw.TEXT if isinstance(message, str) else raw.BINARY, message)
            assert client.recv_message() == message
        assert client.close_cleanly(4001, "bye").code == 4001
        assert closed.get(timeout=10) == (4001, "bye")


def main() -> None:
    assert not Path(unlimitedws.__file__).is_relative_to(ROOT / "src"), unlimitedws.__file__
    go = unlimitedws.DefaultServer("127.0.0.1:0")
    go.on_read = on_read
    exchange(go)
    inline = unlimitedws.NewServer("127.0.0.1:0")
    inline.on_message = on_message
    exchange(inline)
    helped = subprocess.run(
        [sys.executable, "-m", "unlimitedws", "--help"], stdout=subprocess.PIPE, text=True
    )
    assert helped.returncode == 0 and "echo" in helped.stdout, helped


if __name__ == "__main__":
    main()
