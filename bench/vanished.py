"""How long peers that vanish are kept: the figures of bench/floods.py. How they vanish: bench/vanishing.py."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import Any

import flooded  # noqa: F401 (from there on unlimitedws is this tree's)
import vanishing

# A deadline is looked at by a wheel of 16 ms; the rest is the kernel's and Python's.
MAX_LATE_MS = 100.0
# More than the kernel takes for one that does not acknowledge it.
QUEUED_BYTES = 8 << 20

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@dataclass(frozen=True)
class Vanished:
    """How long peers that vanished were kept, in seconds.

    due: from the last byte that came of them, when the first may be dropped, and when the last has to be.
    """

    what: str
    connections: int
    due: tuple[float, float]
    times: tuple[float, ...]
    causes: dict[str, int]

    @property
    def late_ms(self) -> float:
        """How long after its deadline the last one was dropped."""
        return 1000 * max(0.0, self.times[-1] - self.due[1]) if self.times else float("inf")

    @property
    def met(self) -> bool:
        return len(self.times) == self.connections and self.times[0] >= self.due[0] and self.late_ms <= MAX_LATE_MS


def run(what: str, connections: int) -> Vanished:
    """Open connections, have all of them vanish, and wait for the server to find out.

    what: "idle", with nothing to be sent; "queued", with a message that the kernel does not take whole; "handshake",
        in the middle of the request.
    """
    import unlimitedws

    interval, timeout, send_timeout, handshake_timeout, close_timeout = 1.0, 1.0, 2.0, 1.0, 1.0
    server = unlimitedws.NewServer(
        "0.0.0.0:0", ping_interval=interval, ping_timeout=timeout, send_timeout=send_timeout,
        handshake_timeout=handshake_timeout, close_timeout=close_timeout, max_buffered_total_bytes=1 << 34,
    )  # fmt: skip
    conns: list[Any] = []
    ended: list[tuple[float, str]] = []
    server.on_connect = conns.append
    server.on_close = lambda conn: ended.append((time.monotonic(), conn.close_cause.name))
    clients = []
    with server:
        address = ("127.0.0.1", server.local_addr.port)
        try:
            for _ in range(connections):
                client = socket.create_connection(address, 10)
                clients.append(client)
                if what == "handshake":
                    client.sendall(REQUEST[:-2])
                else:
                    client.sendall(REQUEST)
                    while not client.recv(4096).endswith(b"\r\n\r\n"):
                        pass
            # Those who are still in the backlog have not gone.
            while server.counters()["accepted"] < connections:
                time.sleep(0.001)
            heard = time.monotonic()
            for client in clients:
                vanishing.fall_silent(client)
            if what == "queued":
                for conn in conns:
                    conn.send(bytes(QUEUED_BYTES))
                    assert conn.buffered_amount > 0
                # A queue's time begins with the last byte that the kernel took of it.
                heard = time.monotonic()
            times: list[float] = []
            patience = heard + 30.0
            while len(times) < connections and time.monotonic() < patience:
                if what == "handshake":
                    gone = connections - server.counters()["descriptors"]
                    times += [time.monotonic() - heard] * (gone - len(times))
                else:
                    times = [at - heard for at, _ in ended]
                time.sleep(0.002)
        finally:
            for client in clients:
                client.close()
    causes: dict[str, int] = {}
    for _, cause in ended:
        causes[cause] = causes.get(cause, 0) + 1
    # The clock of each began when its own last byte came, which is before the last one's.
    opened_s = 0.5
    due = {
        "idle": (0.8 * interval + timeout - opened_s, 1.2 * interval + timeout),
        "queued": (send_timeout - opened_s, send_timeout),
        "handshake": (handshake_timeout + close_timeout - opened_s, handshake_timeout + close_timeout),
    }[what]
    return Vanished(what, connections, due, tuple(sorted(times)), causes)


def table(found: list[Vanished]) -> tuple[list[str], list[list[str]]]:
    header = ["vanished", "connections", "due after, s", "dropped after: first / median / last, s", "late, ms", "met"]
    rows = []
    for one in found:
        some = one.times or (float("nan"),)
        rows.append([
            WHAT_VANISHED[one.what],
            f"{one.connections:,}",
            f"{one.due[1]:.2f}",
            f"{some[0]:.2f} / {some[len(some) // 2]:.2f} / {some[-1]:.2f}",
            f"{one.late_ms:.0f}",
            "yes" if one.met else "NO",
        ])  # fmt: skip
    return header, rows


WHAT_VANISHED = {
    "idle": "with nothing on its way",
    "queued": "with 8 MiB on their way to each",
    "handshake": "in the middle of the request",
}
