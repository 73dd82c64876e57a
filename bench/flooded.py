"""A server that is attacked: what it may take, and what is left of those who have gone.

Used by bench/floods.py, bench/cycles.py and tests/abuse.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import rig
from processes import descriptors

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


def flooded(hook: str, options: dict[str, Any]) -> rig.Server:
    return rig.ours("ours", "ours_flooded.py", hook, json.dumps(options))


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


def files_at_rest(server: rig.Peer, port: int) -> int:
    """How many descriptors its process has while nobody is there: once it has let somebody in, that is.

    A loop with private_fds closes one as it begins, and nobody waits for that when the server starts.
    """
    with socket.create_connection(("127.0.0.1", port), SETTLE_TIMEOUT_S) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while peer.recv(4096):
            pass
    if left := settled(server, server.pid, None):
        raise rig.Failed(f"{server.name}: of one who was refused there is left {left}")
    return descriptors(server.pid)


def settled(server: rig.Peer, pid: int, files: int | None) -> dict[str, int]:
    """Wait until nobody is left, for as long as a close may take; return what is left then: nothing, it is hoped.

    files: How many descriptors the process has then; None: whatever it has.
    """
    end = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        now = server.ask("counters")
        left = {name: now[name] for name in NOTHING if now[name]}
        if now["opened"] != now["ended"]:
            left["opened, not ended"] = now["opened"] - now["ended"]
        if files is not None and (count := descriptors(pid)) != files:
            left["files"] = count - files
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.02)
