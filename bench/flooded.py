"""A server that is attacked, and what can be seen of it from outside: memory, descriptors, processor, what is left.

Used by bench/floods.py, bench/cycles.py and tests/abuse.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rig

if rig.built_in_place():
    # The options are those of this tree, as the servers that are run are.
    sys.path.insert(0, str(rig.ROOT / "src"))

# For the engine to have ended everybody who has gone, and closed what was theirs.
SETTLE_TIMEOUT_S = 15.0


def formula() -> Callable[..., dict[str, int]]:
    """The program of docs/limits.md, which says what connections may take."""
    page = (rig.ROOT / "docs" / "limits.md").read_text()
    (program,) = re.findall(r"^```python\n(.+?)^```", page, re.MULTILINE | re.DOTALL)
    scope: dict[str, Any] = {}
    exec(program, scope)
    worst_case: Callable[..., dict[str, int]] = scope["worst_case"]
    return worst_case


def allowed_bytes(options: dict[str, Any], connections: int) -> int:
    """What so many connections may take by docs/limits.md, beside what the server's threads and loops do."""
    from unlimitedws import Compression, Options

    given = dict(options)
    if isinstance(given.get("compression"), dict):
        given["compression"] = Compression(**given["compression"])
    return sum(formula()(Options(**given), connections, 125).values())


def resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("smaps_rollup has no Rss")


def peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("status has no VmHWM")


def forget_peak(pid: int) -> None:
    """From here on `peak` counts anew: clear_refs, 5 (proc(5))."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def flooded(hook: str, options: dict[str, Any]) -> rig.Server:
    return rig.Server(
        "ours", "ours_flooded.py", ("unlimitedws",), ("unlimitedws",), args=(hook, json.dumps(options))
    )


def counters(server: rig.Peer) -> dict[str, int]:
    server.say("counters")
    told: dict[str, int] = json.loads(server.hear(rig.PATIENCE_S))
    return told


# What nobody has left who is gone.
NOTHING = (
    "connections",
    "descriptors",
    "inbox_bytes",
    "buffered_bytes",
    "incomplete_bytes",
    "slab_used_bytes",
    "timers",
)


def settled(server: rig.Peer, pid: int, files: int) -> dict[str, int]:
    """Wait until nobody is left, for as long as a close may take; return what is left then: nothing, it is hoped."""
    end = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        now = counters(server)
        left = {name: now[name] for name in NOTHING if now[name]}
        if now["opened"] != now["ended"]:
            left["opened, not ended"] = now["opened"] - now["ended"]
        if (count := descriptors(pid)) != files:
            left["files"] = count - files
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.02)
