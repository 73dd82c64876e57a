"""The clients of bench/abuse.py that mean no good, or have none of it: a process each.

    python bench/attackers.py slowloris|stopped|storm|crowd PORT COUNT [--seconds S] [--pause S] [--reset]

slowloris: requests that come byte by byte, one in --pause, and never end. Says "here", waits for a line, and says
    "ready" when all are connected; at the end of all of them, or after --seconds, how they ended.
stopped: connections that are open, ask for much and read nothing. Says "ready", and stays.
storm: COUNT connects at once, and when all have their answer again as many, for --seconds; with --reset they are reset
    before anybody has accepted them. Says "ready", waits for a line, and says how it went.
crowd: COUNT open connections, or as many as are let in; fifty more are tried all the while, --pause apart. Says how
    many are in; after a line all are closed but one, a newcomer is tried, and it says how long until it was let in.

On loopback only. What it says at the end is a line of JSON.
"""

from __future__ import annotations

import argparse
import base64
import errno
import json
import os
import select
import socket
import struct
import sys
import time
from typing import Any

RST = struct.pack("ii", 1, 0)
PER_ADDRESS = 1000
PATIENCE_S = 30.0
AT_A_TIME = 50
# The text "fill", with a mask of zeros.
FILL = b"\x81\x84\0\0\0\0fill"


def request(more: str = "") -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        "GET / HTTP/1.1\r\nHost: abuse\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{more}\r\n"
    ).encode()


def dial(port: int, index: int, rcvbuf: int | None = None) -> socket.socket:
    """A socket that is being connected; closed by RST, so that no TIME_WAIT is left."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    if rcvbuf is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    result = sock.connect_ex((f"127.0.1.{1 + index // PER_ADDRESS}", port))
    if result not in (0, errno.EINPROGRESS):
        sock.close()
        raise OSError(result, os.strerror(result))
    return sock


def say(what: Any) -> None:
    print(what if isinstance(what, str) else json.dumps(what), flush=True)


def heard() -> bool:
    """Whether a line has come."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def slowloris(port: int, count: int, seconds: float, pause: float) -> None:
    head = request(more="X-Slow: " + "a" * 4000)
    epoll = select.epoll()
    socks: dict[int, socket.socket] = {}
    begun: dict[int, float] = {}
    longest = 0.0
    refused = 0
    at = 0

    def drop(fd: int) -> None:
        nonlocal longest
        epoll.unregister(fd)
        socks.pop(fd).close()
        longest = max(longest, time.monotonic() - begun[fd])

    def listen() -> None:
        nonlocal refused
        for fd, _ in epoll.poll(0):
            try:
                got = socks[fd].recv(4096)
            except BlockingIOError:
                continue
            except OSError:
                drop(fd)
                continue
            if not got:
                drop(fd)
            elif got.startswith(b"HTTP/1.1 408 "):
                refused += 1

    # Whoever competes with the honest for a core may take long to import what is above.
    say("here")
    sys.stdin.readline()
    for index in range(count):
        sock = dial(port, index)
        socks[sock.fileno()] = sock
        begun[sock.fileno()] = time.monotonic()
        epoll.register(sock.fileno(), select.EPOLLIN)
        if index % 50 == 49:
            # Not a storm: that is another question.
            time.sleep(0.005)
    say("ready")
    first = time.monotonic()
    round_of = list(socks)
    sent = 0
    while socks and time.monotonic() - first < seconds:
        due = int((time.monotonic() - first) * count / pause)
        while sent < due:
            fd = round_of[sent % count]
            at = sent // count
            sent += 1
            if fd in socks:
                try:
                    socks[fd].send(head[at : at + 1])
                except BlockingIOError:
                    pass
                except OSError:
                    drop(fd)
        listen()
        time.sleep(0.005)
    say({"gone": count - len(socks), "refused": refused, "left": len(socks), "longest_s": longest, "bytes": sent})


def upgrade(sock: socket.socket) -> bool:
    """Whether it was let in. Waits."""
    sock.settimeout(PATIENCE_S)
    response = b""
    try:
        sock.sendall(request())
        while b"\r\n\r\n" not in response:
            got = sock.recv(1024)
            if not got:
                return False
            response += got
    except ConnectionError:
        return False
    return response.startswith(b"HTTP/1.1 101 ")


def stopped(port: int, count: int) -> None:
    socks = []
    for index in range(count):
        sock = dial(port, index, rcvbuf=4096)
        if not upgrade(sock):
            raise SystemExit("was not let in")
        sock.sendall(FILL)
        # What comes of it stays where it is.
        select.select([sock], [], [], PATIENCE_S)
        socks.append(sock)
    say("ready")
    sys.stdin.readline()


def storm(port: int, count: int, seconds: float, reset: bool) -> None:
    say("ready")
    sys.stdin.readline()
    end = time.monotonic() + seconds
    connects = answered = failed = waves = 0
    longest = 0.0
    while time.monotonic() < end:
        waves += 1
        begun = time.monotonic()
        epoll = select.epoll()
        socks: dict[int, socket.socket] = {}
        for index in range(count):
            sock = dial(port, index)
            connects += 1
            if reset:
                sock.close()
                continue
            socks[sock.fileno()] = sock
            epoll.register(sock.fileno(), select.EPOLLOUT)
        asked: set[int] = set()
        while socks and time.monotonic() - begun < PATIENCE_S:
            for fd, _ in epoll.poll(0.1):
                try:
                    if fd not in asked:
                        asked.add(fd)
                        socks[fd].send(request())
                        epoll.modify(fd, select.EPOLLIN)
                        continue
                    fine = socks[fd].recv(1024).startswith(b"HTTP/1.1 101 ")
                except OSError:
                    fine = False
                answered += fine
                failed += not fine
                socks.pop(fd).close()
        if not reset:
            longest = max(longest, time.monotonic() - begun)
        failed += len(socks)
        for sock in socks.values():
            sock.close()
        epoll.close()
    say({"connects": connects, "answered": answered, "failed": failed, "waves": waves, "longest_s": longest})


def crowd(port: int, count: int, pause: float) -> None:
    inside = []
    for index in range(count):
        sock = dial(port, index)
        if not upgrade(sock):
            sock.close()
            break
        inside.append(sock)
    say(str(len(inside)))
    tried = 0
    while not heard():
        socks = [dial(port, index) for index in range(AT_A_TIME)]
        for sock in socks:
            upgrade(sock)
            sock.close()
        tried += len(socks)
        time.sleep(pause)
    sys.stdin.readline()
    for sock in inside[1:]:
        sock.close()
    begun = time.monotonic()
    refused = 0
    while True:
        sock = dial(port, 0)
        if upgrade(sock):
            break
        refused += 1
        sock.close()
        if time.monotonic() - begun > PATIENCE_S:
            raise SystemExit("there is room, and nobody is let in")
    say({"tried": tried, "again_after_s": time.monotonic() - begun, "refused": refused})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("mode", choices=["slowloris", "stopped", "storm", "crowd"])
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--pause", type=float, default=1.0)
    parser.add_argument("--reset", action="store_true")
    args = parser.parse_args()
    if args.mode == "slowloris":
        slowloris(args.port, args.count, args.seconds, args.pause)
    elif args.mode == "stopped":
        stopped(args.port, args.count)
    elif args.mode == "storm":
        storm(args.port, args.count, args.seconds, args.reset)
    else:
        crowd(args.port, args.count, args.pause)


if __name__ == "__main__":
    main()
