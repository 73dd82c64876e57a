"""unlimitedws for bench/compressing.py. BENCH_DEFLATE: "shared" (no context kept) or "own" (kept on both sides)."""

import os
import signal
from typing import Any

from documents import DOCUMENTS

import unlimitedws

own = os.environ.get("BENCH_DEFLATE") == "own"
compression = unlimitedws.Compression(
    server_context_takeover=own,
    client_context_takeover=own,
    # As websockets has them.
    **({"server_max_window_bits": 12, "client_max_window_bits": 12, "mem_level": 5, "level": 6} if own else {}),
)
server = unlimitedws.NewServer("0.0.0.0:0", compression=compression, max_buffered_bytes=1 << 30)


@server.on_message
def answer(conn: Any, message: Any) -> None:
    if message.startswith("["):
        conn.data = (conn.data or 0) + len(message)
    elif message == "count":
        conn.send(str(conn.data or 0))
    else:
        name, times = message.split()
        for i in range(int(times)):
            conn.send(DOCUMENTS[name][i % len(DOCUMENTS[name])])


with server:
    print(server.local_addr.port, flush=True)
    signal.pause()
