"""CPU time of an opening handshake that comes in 1-byte writes, beside the same one in one piece.

    UWS_SHIMS=1 python setup.py build_ext --inplace && python bench/handshake.py [--rounds 20]

First the parser alone, called anew for each byte that came (the loop runs in C, inside the tests' shim): the
time per byte has to be the same from 1 to 16 KiB, and a head of 16 KiB has to stay below 2 ms; exits 1 if not.
Then a whole server in a process of its own: nearly all of that is a wait and a read for each byte, and a client
that sends bytes one by one pays as much.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import rig
from processes import run_ns

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from handshakes import EXTENSIONS, PROTOCOL, head, plus  # noqa: E402
from uws_shims import upgrade_shim  # noqa: E402

KIB = 1024
SIZES = [KIB, 2 * KIB, 4 * KIB, 8 * KIB, 16 * KIB]
MAX_NS = 2_000_000
RESPONSE_TIMEOUT_S = 10.0

# What a head is filled up with: each makes the parser interpret something else when a part of the head ends.
FILLINGS: dict[str, Callable[[int], bytes]] = {
    "long values": lambda size: b"X: " + b"a" * (size - 5),
    "lists of tokens": lambda size: b"Connection: " + (b"a, " * size)[: size - 14],
    "extensions": lambda size: EXTENSIONS + (b"a; b=c, " * size)[: size - len(EXTENSIONS) - 3] + b"d",
    "subprotocols": lambda size: PROTOCOL + b"," * (size - len(PROTOCOL) - 3) + b"p",
}


def filled(size: int, filling: Callable[[int], bytes]) -> bytes:
    """Return a valid head of exactly this size, its lines as long as the limit on a line allows."""
    lines: list[bytes] = []
    left = size - len(head())
    while left:
        # What is left for the last line has to be a whole one. A subprotocol may be there once only.
        take = left if left <= 4 * KIB else 4 * KIB
        lines.append(filling(take) if not lines else FILLINGS["long values"](take))
        left -= take
    request = plus(*lines)
    assert len(request) == size, (len(request), size)
    return request


def parser_ns(request: bytes, rounds: int) -> tuple[int, float]:
    """Return the parser's time for a head byte by byte and in one piece, the fastest of rounds."""
    upgrade = upgrade_shim.Upgrade()
    times = []
    for _ in range(rounds):
        status, ns = upgrade.time_bytewise_ns(request)
        assert status == upgrade_shim.OK
        times.append(ns)
    return min(times), min(upgrade.time_ns(request, 20)[0] for _ in range(rounds))


def handshake(port: int, request: bytes, bytewise: bool) -> None:
    with socket.create_connection(("127.0.0.1", port), RESPONSE_TIMEOUT_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if bytewise:
            for i in range(len(request)):
                sock.send(request[i : i + 1])
        else:
            sock.sendall(request)
        response = sock.recv(4096)
        if not response.startswith(b"HTTP/1.1 101 "):
            raise SystemExit(f"not upgraded: {response!r}")


def server_ns(request: bytes, rounds: int) -> dict[bool, float]:
    """Return the median CPU time of a whole server for one handshake; the key tells whether byte by byte."""
    server_core, _ = rig.cores()
    taken: dict[bool, list[int]] = {True: [], False: []}
    with rig.running(rig.OURS_INLINE, server_core) as (pid, port):
        handshake(port, request, False)
        for _ in range(rounds):
            for bytewise, times in taken.items():
                before = run_ns(pid)
                handshake(port, request, bytewise)
                times.append(run_ns(pid) - before)
    return {bytewise: statistics.median(times) for bytewise, times in taken.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds

    print("the parser, called for each byte; ns per byte in brackets")
    rows = []
    worst = 0
    for name, filling in FILLINGS.items():
        row = [name]
        for size in SIZES:
            ns, whole = parser_ns(filled(size, filling), rounds)
            row.append(f"{ns / 1000:.0f} us ({ns / size:.1f})")
            if size == SIZES[-1]:
                worst = max(worst, ns)
                row.append(f"{whole / 1000:.1f} us ({whole / size:.2f})")
        rows.append(row)
    rig.print_table(["filled with", *(f"{size // KIB} KiB" for size in SIZES), "in one piece"], rows)
    print(f"16 KiB in 1-byte writes: {worst / 1e6:.3f} ms of CPU in the parser, {MAX_NS / 1e6:.0f} allowed")

    request = filled(16 * KIB, FILLINGS["long values"])
    times = server_ns(request, rounds)
    print(
        f"a whole server, system calls included: {times[True] / 1e6:.2f} ms byte by byte, "
        f"{times[False] / 1e6:.2f} ms in one piece"
    )
    return 0 if worst < MAX_NS else 1


if __name__ == "__main__":
    sys.exit(main())
