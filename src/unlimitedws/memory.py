"""Where a server's memory goes: what `Server.memory` returns, and how it is put together.

The engine counts what it has (`Loop.memory`); the Python objects are counted times their size. Nothing is kept for this
while messages pass.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields

from _uws.conn import Conn
from _uws.core import Loop

from .about import Roll

__all__ = ["Memory"]

# What the interpreter adds to an object that its collector watches; nothing on free-threaded builds.
_WATCHED_BYTES = 16 if getattr(sys, "_is_gil_enabled", lambda: True)() else 0
_CONN_BYTES = (Conn.__basicsize__ + _WATCHED_BYTES + 15) // 16 * 16


@dataclass(frozen=True)
class Memory:
    """Memory of a server's engine in this process, all loops together; bytes, but for the two counts.

    *Resident* is what the kernel has given: pages, whole ones. Mappings that were never touched are address space and
    cost nothing. Where a figure is of buffers it is what these take of the slab, each rounded up to its size class.

    Attributes:
        connections: Of any kind, those in a handshake and those closing included.
        conns: Those of them that have a `Conn`: somebody holds it, or `conn.data` is set.
        table_bytes: The slots, 56 bytes each, resident. Indexed by descriptor: descriptors in use by others count, too.
        extra_bytes: The rows beside the slots that have one (lifetime, subprotocol, address behind a proxy), resident.
        slab_bytes: All buffers of connections, resident.
        side_blocks_bytes: Of these: what a connection has while something is queued or waits.
        send_queues_bytes: ... what waits for the kernel to take it.
        inboxes_bytes: ... what was received and waits for its callback.
        partial_messages_bytes: ... messages of which not everything has come.
        request_heads_bytes: ... requests that are incomplete, or that Python is deciding on.
        compression_bytes: ... contexts that are kept from message to message.
        delivering_bytes: ... messages with a buffer of their own whose callbacks run or are about to.
        slab_free_bytes: ... nobody's, kept for the next one. Buffers that are taken and have not been written
            to yet have no pages: so this may be less than the difference of the others to `slab_bytes`.
        interned_bytes: Request targets, subprotocols and addresses, one copy for all who share one.
        arenas_bytes: What the threads receive into, resident.
        events_bytes: Their arrays of events, resident.
        stacks_bytes: Stacks of the threads that poll and run callbacks, resident.
        shared_compression_bytes: The contexts of connections that keep none, one for each loop.
        conn_objects_bytes: `conns` times the size of a `Conn`, without what the application hangs on it.
        identities_bytes: About: the tables that find the connections of a user or a session, and an entry for each.
        fixed_bytes: The loops themselves, and the page.
        rss_bytes: The resident memory of the whole process: the interpreter and the application, too. 0 where it
            cannot be read, such as when no descriptor is left.
    """

    connections: int = 0
    conns: int = 0
    table_bytes: int = 0
    extra_bytes: int = 0
    slab_bytes: int = 0
    side_blocks_bytes: int = 0
    send_queues_bytes: int = 0
    inboxes_bytes: int = 0
    partial_messages_bytes: int = 0
    request_heads_bytes: int = 0
    compression_bytes: int = 0
    delivering_bytes: int = 0
    slab_free_bytes: int = 0
    interned_bytes: int = 0
    arenas_bytes: int = 0
    events_bytes: int = 0
    stacks_bytes: int = 0
    shared_compression_bytes: int = 0
    conn_objects_bytes: int = 0
    identities_bytes: int = 0
    fixed_bytes: int = 0
    rss_bytes: int = 0

    @property
    def parts(self) -> dict[str, int]:
        """What `total_bytes` is the sum of, by name: without the purposes of the slab's buffers."""
        return {name: getattr(self, _FIELDS[name]) for name in _PARTS}

    @property
    def purposes(self) -> dict[str, int]:
        """What the buffers of the slab are used for, by name."""
        return {name: getattr(self, _FIELDS[name]) for name in _PURPOSES}

    @property
    def total_bytes(self) -> int:
        """The engine in all."""
        return sum(self.parts.values())

    @property
    def connections_bytes(self) -> int:
        """What there is for the connections' sake, and not for the threads' or the loops'."""
        return sum(self.parts[name] for name in _OF_CONNECTIONS)

    @property
    def per_connection_bytes(self) -> float:
        """`connections_bytes`, shared out; 0.0 where there is no connection."""
        return self.connections_bytes / self.connections if self.connections else 0.0

    def __str__(self) -> str:
        """Return a table for people."""
        lines = [f"{self.connections:,} connections, {self.per_connection_bytes:,.1f} bytes each"]
        for name, value in self.parts.items():
            lines.append(_line(name, value))
            if name == "slab":
                lines.extend(_line(f"  {purpose}", amount) for purpose, amount in self.purposes.items())
        lines += [_line("total", self.total_bytes), _line("process (RSS)", self.rss_bytes)]
        return "\n".join(lines)


_PURPOSES = (
    "side_blocks",
    "send_queues",
    "inboxes",
    "partial_messages",
    "request_heads",
    "compression",
    "delivering",
    "slab_free",
)
_OF_CONNECTIONS = ("table", "extra", "slab", "interned", "conn_objects", "identities")
_PARTS = (*_OF_CONNECTIONS, "arenas", "events", "stacks", "shared_compression", "fixed")
# Put together once: CPython's cache of methods keeps the names that attributes were asked for by, up to 4,096, and one
# that is made anew is another one.
_FIELDS = {name: f"{name}_bytes" for name in (*_PARTS, *_PURPOSES)}
assert {*_FIELDS.values(), "rss_bytes"} == {field.name for field in fields(Memory) if field.name.endswith("_bytes")}


def _line(name: str, value: int) -> str:
    return f"{value:>16,}  {name.replace('_', ' ')}"


def memory_of(loops: Iterable[Loop], roll: Roll) -> Memory:
    """Ask a server's loops. Thread: any."""
    sums: Counter[str] = Counter()
    for loop in loops:
        sums.update(loop.memory())
    bytes_of = {field: sums[name] for name, field in _FIELDS.items() if name in sums}
    known = sum(sums[name] for name in _PURPOSES if name in sums)
    # Each is of a moment of its own.
    delivering = max(0, sums["slab_used"] - known)
    return Memory(
        connections=sums["connections"],
        conns=sums["conns"],
        delivering_bytes=delivering,
        slab_free_bytes=max(0, sums["slab"] - sums["slab_used"]),
        conn_objects_bytes=sums["conns"] * _CONN_BYTES,
        identities_bytes=roll.memory_bytes(),
        rss_bytes=rss_bytes(),
        **bytes_of,
    )


def rss_bytes() -> int:
    """Return the resident memory of this process; 0 where no descriptor is left to ask with. Thread: any."""
    # As bytes: to decode text CPython asks for an attribute by a name that it makes anew each time. See _FIELDS.
    try:
        with open("/proc/self/smaps_rollup", "rb") as rollup:
            for line in rollup:
                if line.startswith(b"Rss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        # Not every kernel has it. What is always there may be some hundred kilobytes late.
        pass
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        # The engine's own figures are wanted all the more by who has run out of something.
        return 0
