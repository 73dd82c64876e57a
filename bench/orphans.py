"""What it costs to look after idle connections: CPU of the server while it pings them, and while it does not.

    python bench/orphans.py [--connections 18000] [--as-many-as 100000] [--seconds 20]

Where descriptors are few, the pings come more often instead: so many a second as --as-many-as connections have that
are pinged every 25 s, the default. The client answers every ping, as browsers do. User time is ours: timers, frames,
the loop. System time is the kernel's: a send, a wait and a receive for each ping, on loopback the client's share of TCP
too; no server can do without.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import select
import socket
import statistics
import time
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized

import rig
from processes import cpu_seconds

DEFAULT_INTERVAL_S = 25.0
PER_ADDRESS = 1000
PING = b"\x89\x00"
PONG = b"\x8a\x80\x00\x00\x00\x00"
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def hold(core: int, port: int, count: int, ready: Connection, pings: Synchronized[int]) -> None:
    """Hold connections and answer pings, until the process is ended."""
    os.sched_setaffinity(0, {core})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    epoll = select.epoll()
    socks = {}
    for i in range(count):
        # To one address, the kernel's search for a local port slows down.
        sock = socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.1.{1 + i // PER_ADDRESS}", 0))
        sock.sendall(REQUEST)
        socks[sock.fileno()] = sock
        epoll.register(sock.fileno(), select.EPOLLIN)
    for sock in socks.values():
        response = b""
        while b"\r\n\r\n" not in response:
            response += sock.recv(4096)
        assert response.startswith(b"HTTP/1.1 101"), response
        sock.setblocking(False)
    ready.send(len(socks))
    while True:
        for fd, _ in epoll.poll():
            got = socks[fd].recv(4096)
            if not got:
                raise SystemExit("the server dropped a connection that answers its pings")
            answers = got.count(PING)
            socks[fd].sendall(PONG * answers)
            pings.value += answers


def measure(interval: float | None, connections: int, seconds: float) -> tuple[float, float, float]:
    """User and system time of the server in percent of a core, and pings a second."""
    os.environ["BENCH_PING_INTERVAL"] = "none" if interval is None else str(interval)
    server_core, client_core = rig.cores()
    server = rig.Server("ours", "ours_pings.py", ("unlimitedws",), ("unlimitedws",))
    pings = multiprocessing.Value("q", 0)
    here, there = multiprocessing.Pipe()
    with rig.running(server, server_core) as (pid, port):
        client = multiprocessing.Process(target=hold, args=(client_core, port, connections, there, pings), daemon=True)
        client.start()
        try:
            while not here.poll(1.0):
                if not client.is_alive():
                    raise SystemExit("the client has died")
            here.recv()
            # The first round is over by then, and pings are spread as they will be.
            time.sleep(1.3 * (interval or 1.0))
            begin, user, system, seen = time.monotonic(), *cpu_seconds(pid), pings.value
            time.sleep(seconds)
            took, (user_end, system_end), seen_end = time.monotonic() - begin, cpu_seconds(pid), pings.value
            if not client.is_alive():
                raise SystemExit("the client has died")
        finally:
            client.terminate()
            client.join()
    return 100 * (user_end - user) / took, 100 * (system_end - system) / took, (seen_end - seen) / took


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--connections", type=int, default=18_000)
    parser.add_argument("--as-many-as", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    interval = DEFAULT_INTERVAL_S * args.connections / args.as_many_as
    rows = []
    for name, value in (("no pings", None), (f"pings as {args.as_many_as:,} connections have", interval)):
        samples = [measure(value, args.connections, args.seconds) for _ in range(args.rounds)]
        user, system, rate = (statistics.median(column) for column in zip(*samples, strict=True))
        rows.append([name, f"{rate:,.0f}", f"{user:.2f}", f"{system:.2f}"])
    print(f"{args.connections:,} connections held, pinged after {interval:g} s of silence; medians of {args.rounds}")
    rig.print_table(["", "pings/s", "user, % of a core", "system, % of a core"], rows)


if __name__ == "__main__":
    main()
