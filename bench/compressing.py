"""Compression: MB of messages per second of the server's CPU, out and in, and memory per connection.

    python bench/compressing.py [--megabytes 48] [--rounds 3]

The client does not compress: it sends messages that were compressed before, and only counts the frames that come.
So it is the server that is measured. Out: the server sends one document over and over. In: it is sent one, and counts.
MB are those of the messages as the application sees them. The rounds of all servers are interleaved; medians.
Levels differ: the size that a message had on the wire says what the CPU was spent for.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import struct
import sys
import time
import zlib
from pathlib import Path

import rig
from processes import cpu_seconds, resident_bytes

sys.path.insert(0, str(Path(__file__).resolve().parent / "servers"))

from documents import DOCUMENTS

SERVERS = [
    ("ours, shared context", "shared", rig.Server("ours", "ours_deflate.py", ("unlimitedws",), ("unlimitedws",))),
    ("ours, contexts kept", "own", rig.Server("ours", "ours_deflate.py", ("unlimitedws",), ("unlimitedws",))),
    ("websockets", "", rig.Server("websockets", "websockets_deflate.py", ("websockets",), ("websockets",))),
    (
        "uWebSockets (socketify)",
        "",
        rig.Server("uWebSockets (socketify)", "socketify_deflate.py", ("socketify",), ("socketify",)),
    ),
]
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)
MB = 1e6
IDLE = 1000


class Client:
    """One connection that has negotiated compression."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(REQUEST)
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.sock.recv(4096)
        assert b" 101 " in head, head
        if b"permessage-deflate" not in head:
            raise SystemExit(f"compression was not negotiated: {head!r}")
        self.unread = bytearray(head.partition(b"\r\n\r\n")[2])

    def close(self) -> None:
        self.sock.sendall(b"\x88\x82" + bytes(4) + b"\x03\xe8")
        while self.sock.recv(65536):
            pass
        self.sock.close()

    def frames(self, count: int) -> tuple[int, bytes]:
        """Read so many frames: the bytes of all, and the last one's payload."""
        size = 0
        payload = b""
        while count:
            at = 0
            have = len(self.unread)
            while count and have - at >= 2:
                length, start = self.unread[at + 1] & 0x7F, at + 2
                if length == 126 and have - at >= 4:
                    length, start = int.from_bytes(self.unread[at + 2 : at + 4], "big"), at + 4
                elif length == 126:
                    break
                if have - start < length:
                    break
                assert self.unread[at] & 0x0F == 1, self.unread[at]
                payload = bytes(self.unread[start : start + length]) if count == 1 else b""
                at = start + length
                size += length
                count -= 1
            del self.unread[:at]
            if count:
                chunk = self.sock.recv(1 << 20)
                assert chunk, "the server has closed the connection"
                self.unread += chunk
        return size, payload


def frame(text: str, compressed: bool) -> bytes:
    """A masked text frame; the key is zero, so that masking costs us nothing and the server as much as ever."""
    payload = text.encode()
    first = 0x81
    if compressed:
        # A window that every server here has agreed to or may have.
        deflater = zlib.compressobj(6, zlib.DEFLATED, -9)
        payload = (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
        first = 0xC1
    if len(payload) < 126:
        return bytes([first, 0x80 | len(payload)]) + bytes(4) + payload
    return struct.pack("!BBH", first, 0x80 | 126, len(payload)) + bytes(4) + payload


def speed(pid: int, port: int, name: str, megabytes: float) -> tuple[float, float, float]:
    """MB per second of CPU out and in, and what is left on the wire of 100 bytes."""
    texts = DOCUMENTS[name]
    each = sum(map(len, texts)) / len(texts)
    times = max(1, int(megabytes * MB / each) // len(texts)) * len(texts)
    client = Client(port)
    client.sock.sendall(frame(f"{name} 1", False) + frame("count", False))
    client.frames(1)
    counted_before = client.frames(1)[1]
    before = sum(cpu_seconds(pid))
    client.sock.sendall(frame(f"{name} {times}", False))
    size, _ = client.frames(times)
    out_s = sum(cpu_seconds(pid)) - before

    many = b"".join(frame(text, True) for text in texts)
    sent = 0
    before = sum(cpu_seconds(pid))
    while sent < 4 * times:
        client.sock.sendall(many)
        sent += len(texts)
    client.sock.sendall(frame("count", False))
    _, counted = client.frames(1)
    in_s = sum(cpu_seconds(pid)) - before
    client.close()
    # Servers that compress even this answer say it in other bytes.
    if counted.isdigit() and counted_before.isdigit():
        assert int(counted) - int(counted_before) == sent * each, (counted_before, counted, sent * each)
    return times * each / MB / out_s, sent * each / MB / in_s, 100 * size / (times * each)


def memory(pid: int, port: int) -> float:
    """Bytes of the process for each connection that has sent and received a compressed message."""
    first = Client(port)
    first.sock.sendall(frame(DOCUMENTS["small"][0], True) + frame("small 1", False))
    first.frames(1)
    time.sleep(0.5)
    before = resident_bytes(pid)
    clients = []
    for _ in range(IDLE):
        client = Client(port)
        client.sock.sendall(frame(DOCUMENTS["small"][0], True) + frame("small 1", False))
        client.frames(1)
        clients.append(client)
    time.sleep(0.5)
    each = (resident_bytes(pid) - before) / IDLE
    for client in [first, *clients]:
        client.close()
    return each


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=float, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    server_core, client_core = rig.cores()
    os.sched_setaffinity(0, {client_core})
    present = rig.present([server for _, _, server in SERVERS])
    servers = [entry for entry in SERVERS if entry[2] in present]
    rig.print_facts(list(dict.fromkeys(present)))
    samples: dict[str, list[list[float]]] = {name: [] for name, _, _ in servers}
    for _ in range(args.rounds):
        for name, mode, server in servers:
            os.environ["BENCH_DEFLATE"] = mode
            with rig.running(server, server_core) as (pid, port):
                figures = [*speed(pid, port, "small", args.megabytes), *speed(pid, port, "large", args.megabytes)]
                samples[name].append([*figures, memory(pid, port)])
    rows = []
    for name, runs in samples.items():
        medians = [statistics.median(column) for column in zip(*runs, strict=True)]
        rows.append([name, *(f"{value:,.0f}" for value in medians)])
    print()
    sizes = {name: f"{len(texts[0]) / 1000:.0f} kB" for name, texts in DOCUMENTS.items()}
    header = ["server"]
    for size in sizes.values():
        header += [f"{size} out, MB/CPU s", "in", "wire %"]
    rig.print_table([*header, "bytes/connection"], rows)


if __name__ == "__main__":
    main()
