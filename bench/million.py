"""A million WebSocket connections in one process: each with its own handshake, each with its message there and back.

    python bench/million.py [--connections 1000000]

The server is servers/ours_many.py: as many loops as it takes with a descriptor table each, since RLIMIT_NOFILE counts
per table. The client is wsmany, which checks each handshake and each reply. Both ends are on this machine, so the
kernel holds both ends of every connection: some 9 KB a pair, whatever either program does. Where memory does not allow
that, fewer connections are opened, and this says so.

Printed: how long it takes to open them and for all to echo; the server's resident memory before, with all of them, and
after a message on each; what one connection takes in the process, and in the kernel, slab by slab. `run` is also what
tests/test_scale.py measures a hundred thousand by.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rig
from processes import resident_bytes, status_bytes

# What a connection on the loopback takes, both ends in the kernel and in both processes; and what is left to others.
PAIR_BYTES = 9_600
SPARE_BYTES = 1 << 30
PAGE_BYTES = resource.getpagesize()
# Of a table that cannot be used for connections: a few more than the engine needs.
RESERVED_FDS = 32
# Of one server: the library's own limit.
MAX_LOOPS = 64
# Before the count begins, so that code and tables which all share are no part of what one costs.
FIRST = 100
OPEN_TIMEOUT_S = 600.0
# Of a slab that is worth a line, for each connection.
LEAST_BYTES = 12
SETTLE_S = 1.0


@dataclass(frozen=True)
class Memory:
    """A process's memory, in bytes. peak: the most that was ever resident."""

    resident: int
    shared: int
    peak: int


@dataclass(frozen=True)
class Kernel:
    """What the kernel holds for itself: /proc/meminfo, and /proc/slabinfo where it may be read. Bytes."""

    available: int
    meminfo: dict[str, int]
    slabs: dict[str, tuple[int, int]]  # objects, bytes


@dataclass(frozen=True)
class Figures:
    """What one run came to. Times in seconds."""

    connections: int
    loops: int
    processes: int
    ramp_s: float
    echo_s: tuple[float, ...]
    before: Memory
    held: Memory
    echoed: tuple[Memory, ...]
    kernel_before: Kernel
    kernel_held: Kernel
    kernel_echoed: Kernel
    counters: dict[str, int]

    def bytes_each(self, memory: Memory) -> float:
        """Of the server's process, for each connection that came after the count began."""
        return (memory.resident - self.before.resident) / (self.connections - FIRST)


def memory_of(pid: int) -> Memory:
    peak, of_files = status_bytes(pid, "VmHWM", "RssFile")
    resident = resident_bytes(pid)
    return Memory(resident, of_files, max(peak, resident))


def kernel() -> Kernel:
    meminfo = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        meminfo[name] = int(rest.split()[0]) << 10
    slabs = {}
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()[2:]
    except PermissionError:
        lines = []
    for line in lines:
        name, *fields = line.split()
        # active_objs num_objs objsize objperslab pagesperslab : tunables ... : slabdata active_slabs num_slabs
        slabs[name] = (int(fields[0]), int(fields[-2]) * int(fields[4]) * PAGE_BYTES)
    return Kernel(meminfo["MemAvailable"], meminfo, slabs)


def affordable(connections: int) -> int:
    """Return how many of the connections there is memory and are files for."""
    available = kernel().available
    files = int(Path("/proc/sys/fs/file-max").read_text())
    used = int(Path("/proc/sys/fs/file-nr").read_text().split()[0])
    most = min((available - SPARE_BYTES) // PAIR_BYTES, (files - used) // 2 - 10_000, MAX_LOOPS * seats())
    if most >= connections:
        return connections
    print(
        f"not {connections:,} but {max(most, 0):,} connections: {available / 2**30:.1f} GiB of memory are free, of"
        f" which a pair takes {PAIR_BYTES:,} bytes and {SPARE_BYTES / 2**30:.0f} GiB are for others;"
        f" {files - used:,} files may be opened; {MAX_LOOPS} loops have room for {MAX_LOOPS * seats():,}",
        flush=True,
    )
    return max(most, 0)


def seats() -> int:
    """Return how many connections a table has room for."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1] - RESERVED_FDS


@contextmanager
def _serving(loops: int) -> Iterator[tuple[rig.Peer, int]]:
    server = dataclasses.replace(
        rig.OURS_INLINE, name=f"ours, {loops} loops", script="ours_many.py", args=(str(loops),)
    )
    with rig.serving(server, None) as served:
        yield served


def _tell(client: rig.Peer, order: str) -> dict[str, Any]:
    """Have wsmany do something; raises SystemExit where it went wrong on any connection."""
    client.say(order)
    answer: dict[str, Any] = json.loads(client.hear(OPEN_TIMEOUT_S))
    if answer["failed"]:
        raise SystemExit(f"{order}: {answer['failed']:,} connections failed, the first one: {answer['error']}")
    return answer


def run(connections: int, *, echoes: int = 2, talk: bool = True) -> Figures:
    """Open the connections, have each echo, and measure. Raises SystemExit if one was lost or a reply was wrong.

    Args:
        connections: How many; more than `FIRST`.
        echoes: Messages on each, one round after the other.
        talk: Print what has been reached, as it is reached.
    """

    def say(text: str) -> None:
        if talk:
            print(text, flush=True)

    loops = math.ceil(connections / seats())
    with _serving(loops) as (server, port):
        command = [str(rig.native_tool("wsmany")), "--port", str(port), "--connections", str(connections)]
        client = rig.Peer("wsmany", command, None, [])
        try:
            _tell(client, f"connect {FIRST}")
            time.sleep(SETTLE_S)
            before, kernel_before = memory_of(server.pid), kernel()
            say(f"{loops} loops; {before.resident / 1e6:.1f} MB before")
            opened = _tell(client, f"connect {connections}")
            time.sleep(SETTLE_S)
            held, kernel_held = memory_of(server.pid), kernel()
            say(f"{connections:,} connections after {opened['seconds']:.1f} s; {held.resident / 1e6:.1f} MB")
            echo_s, echoed = [], []
            for _ in range(echoes):
                answer = _tell(client, "echo")
                assert answer["done"] == connections, answer
                echo_s.append(answer["seconds"])
                time.sleep(SETTLE_S)
                echoed.append(memory_of(server.pid))
                say(f"all have echoed after {echo_s[-1]:.1f} s; {echoed[-1].resident / 1e6:.1f} MB")
            kernel_echoed = kernel()
            counters = server.ask("counters")
            assert counters["connections"] == connections, counters
            assert counters["messages_in"] == connections * echoes, counters
            _tell(client, "close")
        finally:
            client.end()
    return Figures(
        connections, loops, opened["processes"], opened["seconds"], tuple(echo_s), before, held, tuple(echoed),
        kernel_before, kernel_held, kernel_echoed, counters,
    )  # fmt: skip


def print_process(figures: Figures) -> None:
    rows = []
    states = [("before, with 100", figures.before), ("with all", figures.held)]
    states += [(f"after message {n} on each", one) for n, one in enumerate(figures.echoed, 1)]
    for name, memory in states:
        each = "" if memory is figures.before else f"{figures.bytes_each(memory):.1f}"
        rows.append([name, f"{memory.resident / 1e6:.1f}", f"{memory.shared / 1e6:.1f}", each])
    rows.append(["at most", f"{figures.echoed[-1].peak / 1e6:.1f}", "", ""])
    rig.print_table(["the server's process", "MB resident", "of which files'", "bytes each"], rows)


def print_kernel(figures: Figures) -> None:
    """What one more connection, both its ends, costs the kernel."""
    count = figures.connections - FIRST
    before, held = figures.kernel_before, figures.kernel_held
    rows = []
    for name, (objects, size) in held.slabs.items():
        had_objects, had = before.slabs.get(name, (0, 0))
        if size - had >= LEAST_BYTES * count:
            rows.append([name, f"{(objects - had_objects) / count:.2f}", f"{(size - had) / count:.0f}"])
    rows.sort(key=lambda row: -int(row[2]))
    if rows:
        rig.print_table(["slab", "objects each", "bytes each"], rows)
    else:
        print("/proc/slabinfo cannot be read: no figures by slab")
    print()
    rows = []
    for name in ("MemAvailable", "MemFree", "Slab", "SUnreclaim", "SReclaimable", "PageTables", "KernelStack"):
        change = held.meminfo[name] - before.meminfo[name]
        after = figures.kernel_echoed.meminfo[name] - before.meminfo[name]
        rows.append([name, f"{change / 1e6:,.0f}", f"{change / count:,.0f}", f"{after / count:,.0f}"])
    rig.print_table(["/proc/meminfo", "MB more", "bytes each", "after the echoes"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--connections", type=int, default=1_000_000)
    args = parser.parse_args()
    rig.print_facts([rig.OURS_INLINE])
    connections = affordable(args.connections)
    if connections <= FIRST:
        raise SystemExit("too little memory for any of it")
    figures = run(connections)
    print()
    print(
        f"{figures.connections:,} connections in {figures.loops} loops of one process, from {figures.processes}"
        f" processes: opened in {figures.ramp_s:.1f} s ({figures.connections / figures.ramp_s:,.0f} a second),"
        f" echoed in {', '.join(f'{one:.1f}' for one in figures.echo_s)} s"
        f" ({figures.connections / min(figures.echo_s):,.0f} a second)"
    )
    print()
    print_process(figures)
    print("\nWhat one connection takes in the kernel, both ends and their epoll entries:\n")
    print_kernel(figures)


if __name__ == "__main__":
    main()
