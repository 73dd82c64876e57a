"""What is measured: the rows of `make bench`, who takes part in each, and what we want to reach.

Data only: run.py takes the samples, report.py judges them. A row's key is its name for --rows and in the recorded
samples; changing what a row does means a new key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import rig
from rig import Server

Sample = dict[str, Any]

FLOOR = rig.FLOOR.name
# Not a server: in each round the best of the Python servers that are not ours.
BEST_PEER = "best Python peer"


@dataclass(frozen=True)
class Metric:
    """A figure of a sample. unit: as a table's header has it; more_is_better: which way is good."""

    name: str
    unit: str
    of: Callable[[Sample], float]
    more_is_better: bool
    digits: int = 1


def key(*path: str, scale: float = 1.0) -> Callable[[Sample], float]:
    """Return what reads a figure of a sample."""

    def read(sample: Sample) -> float:
        value: Any = sample
        for step in path:
            value = value[step]
        return float(value) * scale

    return read


RATE = Metric("throughput", "k messages/s", key("messages_per_s", scale=1e-3), True)
CPU = Metric("CPU per message", "server CPU us", key("server_us_per_message"), False, 2)
VOLUME = Metric("throughput", "MB/s", lambda sample: sample["messages_per_s"] * sample["size"] / 1e6, True, 0)
HANDSHAKES = Metric("handshakes", "k handshakes/s", key("handshakes_per_s", scale=1e-3), True)
HANDSHAKE_CPU = Metric("CPU per handshake", "server CPU us", key("server_us_per_handshake"), False)
P50 = Metric("round trip p50", "p50 us", key("round_trip", "p50_us"), False)
P99 = Metric("round trip p99", "p99 us", key("round_trip", "p99_us"), False)
# One that never sleeps is waited for by nobody, and takes a core for it.
SHARE = Metric("CPU", "% of a core", key("server_cpu", scale=100), False, 0)
IDLE = Metric("bytes per connection", "bytes each", key("bytes_per_connection"), False, 0)
IDLE_AFTER = Metric("bytes after a message", "after a message", key("bytes_per_connection_after_message"), False, 0)


@dataclass(frozen=True)
class Target:
    """What one of ours is to reach.

    against: a server's name, BEST_PEER, or None where the bound is on the figure itself and not on a ratio.
    """

    ours: str
    metric: Metric
    against: str | None
    bound: float

    @property
    def at_least(self) -> bool:
        return self.metric.more_is_better

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def words(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    """A workload.

    servers: take part in every round; company: in the first company_rounds only, for they set no bound.
    tool: takes a sample: rig.load or rig.probe.
    options: of the tool. timed: whether it takes seconds and warmup.
    around_s: what a sample takes beside its measured time, in about: the start, opening, closing.
    """

    key: str
    title: str
    servers: tuple[Server, ...]
    metrics: tuple[Metric, ...]
    options: dict[str, Any]
    company: tuple[Server, ...] = ()
    company_rounds: int = 3
    targets: tuple[Target, ...] = ()
    tool: str = "load"
    timed: bool = True
    around_s: float = 1.1
    company_around_s: float = 1.6
    # What --smoke does instead, so that it takes a second.
    smoke: dict[str, Any] = field(default_factory=dict)


ON_MESSAGE = (rig.OURS_INLINE, rig.OURS_POOL)
OURS = (*ON_MESSAGE, rig.OURS_GO)
OTHERS = (rig.AIOHTTP, rig.WEBSOCKETS, rig.UVICORN, rig.NODE_WS, rig.GWS, rig.GO_ORIGINAL)
AIO = (rig.OURS_AIO, rig.OURS_AIO_UVLOOP, rig.WEBSOCKETS_UVLOOP)


def targets(servers: tuple[Server, ...], *bounds: tuple[Metric, str | None, float]) -> tuple[Target, ...]:
    return tuple(Target(server.name, *bound) for server in servers for bound in bounds)


def one_outstanding(connections: int, around_s: float, company_around_s: float, company_rounds: int) -> Row:
    return Row(
        key=f"echo-{connections}",
        title=f"Echo, 32 bytes, 1 outstanding, {connections:,} connections",
        servers=(rig.FLOOR, *OURS, rig.PICOWS, rig.SOCKETIFY),
        company=(*OTHERS, *AIO) if connections == 100 else OTHERS,
        company_rounds=company_rounds,
        metrics=(RATE, CPU),
        options={"mode": "echo", "connections": connections, "outstanding": 1, "size": 32},
        targets=targets(OURS, (CPU, FLOOR, 1.10), (RATE, BEST_PEER, 1.2)),
        around_s=around_s,
        company_around_s=company_around_s,
        smoke={"connections": min(connections, 200)},
    )


def large(key: str, title: str, size: int, connections: int) -> Row:
    return Row(
        key=key,
        title=title,
        servers=(rig.FLOOR, *ON_MESSAGE, rig.PICOWS, rig.SOCKETIFY),
        company=(rig.AIOHTTP, rig.WEBSOCKETS, rig.NODE_WS, rig.GWS, rig.GO_ORIGINAL),
        metrics=(VOLUME, CPU),
        options={"mode": "echo", "connections": connections, "outstanding": 1, "size": size},
        targets=targets(ON_MESSAGE, (VOLUME, FLOOR, 0.9)),
    )


ROWS: tuple[Row, ...] = (
    one_outstanding(100, 1.1, 1.6, 3),
    one_outstanding(1_000, 1.2, 2.2, 3),
    one_outstanding(10_000, 3.0, 10.0, 2),
    Row(
        key="echo-100x16",
        title="Echo, 32 bytes, 16 outstanding, 100 connections",
        servers=(rig.FLOOR, *OURS, rig.PICOWS, rig.SOCKETIFY),
        company=(*OTHERS, *AIO),
        metrics=(RATE, CPU),
        options={"mode": "echo", "connections": 100, "outstanding": 16, "size": 32},
        targets=(
            *targets(ON_MESSAGE, (RATE, FLOOR, 0.7), (RATE, BEST_PEER, 7.0)),
            *targets((rig.OURS_GO,), (RATE, FLOOR, 0.55), (RATE, BEST_PEER, 7.0)),
        ),
    ),
    large("echo-16k", "Echo, 16 KiB, 1 outstanding, 100 connections", 16 << 10, 100),
    large("echo-1m", "Echo, 1 MiB, 1 outstanding, 10 connections", 1 << 20, 10),
    Row(
        key="handshakes",
        title="Handshakes without a hook, 64 at once",
        servers=(rig.FLOOR, *ON_MESSAGE, rig.PICOWS, rig.SOCKETIFY),
        company=OTHERS,
        metrics=(HANDSHAKES, HANDSHAKE_CPU),
        options={"mode": "handshakes", "connections": 64},
        targets=targets(ON_MESSAGE, (HANDSHAKE_CPU, FLOOR, 1.25), (HANDSHAKE_CPU, rig.SOCKETIFY.name, 1.0)),
    ),
    Row(
        key="handshakes-hook",
        title="Handshakes that a hook in Python decides on, 64 at once",
        servers=(rig.FLOOR, rig.OURS_HOOK_INLINE, rig.OURS_HOOK_POOL, rig.PICOWS, rig.SOCKETIFY_HOOK),
        metrics=(HANDSHAKES, HANDSHAKE_CPU),
        options={"mode": "handshakes", "connections": 64},
        targets=targets(
            (rig.OURS_HOOK_INLINE, rig.OURS_HOOK_POOL),
            (HANDSHAKE_CPU, FLOOR, 2.0),
            (HANDSHAKE_CPU, rig.SOCKETIFY_HOOK.name, 1.0),
        ),
    ),
    Row(
        key="round-trip",
        title="Round trip at 10,000 messages/s on a schedule, 100 connections",
        servers=(rig.FLOOR, *OURS, rig.PICOWS, rig.SOCKETIFY),
        company=OTHERS,
        metrics=(P50, P99, SHARE),
        options={"mode": "echo", "connections": 100, "rate": 10_000, "size": 32},
        targets=targets(OURS, (P50, FLOOR, 1.1)),
        tool="probe",
    ),
    Row(
        key="idle",
        title="Process bytes for an idle connection, 18,000 held",
        servers=(rig.FLOOR, *ON_MESSAGE, rig.SOCKETIFY),
        company=(rig.PICOWS, *OTHERS),
        company_rounds=1,
        metrics=(IDLE, IDLE_AFTER),
        # Longer than anybody keeps memory for what may come next: ours a second.
        options={"mode": "idle", "connections": 18_000, "hold": 1.5},
        targets=targets(ON_MESSAGE, (IDLE, None, 64), (IDLE_AFTER, None, 64)),
        timed=False,
        around_s=8.0,
        company_around_s=17.0,
        smoke={"connections": 300, "hold": 0.05},
    ),
)


def best_peers(row: Row) -> list[str]:
    """Names of the servers of a row that BEST_PEER is chosen from."""
    return [s.name for s in (*row.servers, *row.company) if s.is_python and not s.name.startswith("ours")]
