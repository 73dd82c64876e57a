"""What the kernel says of a process: memory, processor, descriptors, threads."""

from __future__ import annotations

import os
from pathlib import Path

# HEAP_MAX_SIZE of glibc's malloc.
HEAP_BYTES = 64 << 20


def status_bytes(pid: int, *names: str) -> list[int]:
    """Figures of /proc/PID/status, such as VmHWM, in the order of their names."""
    values = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in names:
            values[name] = int(rest.split()[0]) << 10
    return [values[name] for name in names]


def resident_bytes(pid: int) -> int:
    """VmRSS is counted per thread and now and then added up; this one is exact."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) << 10
    raise ValueError("no Rss in smaps_rollup")


def heap_bytes(pid: int) -> tuple[int, int]:
    """What is resident of glibc's heaps: of the main one, and of those of threads.

    The latter are 64 MiB of addresses each, at a multiple of that: what may be used, and behind it what may not yet.
    """
    main = threads_ = 0
    maps: list[tuple[int, int, str, str]] = []
    resident: list[int] = []
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        fields = line.split()
        if fields[0] == "Rss:":
            resident.append(int(fields[1]) << 10)
        elif "-" in fields[0]:
            begin, _, end = fields[0].partition("-")
            maps.append((int(begin, 16), int(end, 16), fields[1], fields[5] if len(fields) > 5 else ""))
    for (begin, end, access, name), behind, size in zip(maps, [*maps[1:], (0, 0, "", "")], resident, strict=True):
        if name == "[heap]":
            main += size
        elif not name and begin % HEAP_BYTES == 0 and access.startswith("rw"):
            rest = behind[0] == end and behind[1] == begin + HEAP_BYTES and behind[2].startswith("---")
            threads_ += size if rest or end == begin + HEAP_BYTES else 0
    return main, threads_


def forget_peak(pid: int) -> None:
    """From here on VmHWM counts anew: clear_refs, 5 (proc(5))."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_seconds(pid: int) -> tuple[float, float]:
    """User and system time so far, in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    hz = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / hz, int(fields[12]) / hz


def run_ns(pid: int) -> int:
    """The time that the threads there are have run, exactly."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))
