"""A server's figures for Prometheus, through ``prometheus_client`` (``pip install unlimitedws[metrics]``).

``metrics.route(server)`` answers ``GET /metrics``. Whoever has a registry of his own gives it, or registers a
`Collector` there. Nothing is measured for this: the engine counts anyway, and is asked when somebody scrapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .request import Request, Response

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector as _Base
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "unlimitedws.metrics needs prometheus_client: pip install unlimitedws[metrics]", name=exc.name
    ) from exc

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from .server import Server

__all__ = ["Collector", "route"]

# The engine's name, ours behind the prefix, what it is. Counters get their _total from the client library.
_GAUGES = (
    ("draining", "draining", "1 while connections are asked to leave, and nobody new is let in"),
    ("connections", "connections", "Open WebSocket connections"),
    ("descriptors", "descriptors", "Connections of any kind, those in a handshake and those closing included"),
    ("ready", "ready_connections", "Connections with something to deliver that wait for a thread"),
    ("blocking", "blocking_connections", "Connections whose callbacks have blocked lately, and run apart"),
    ("inbox_bytes", "inbox_bytes", "Messages received and not yet delivered"),
    ("buffered_bytes", "buffered_bytes", "Bytes sent that the kernel has not taken"),
    ("incomplete_bytes", "incomplete_bytes", "Messages of which not everything has been received"),
    ("runners", "threads", "Threads that poll and run callbacks"),
    ("parked", "parked_threads", "Threads that have nothing to do"),
    ("timers", "timers", "Deadlines that are being kept"),
    ("targets", "targets", "Distinct request targets of the connections"),
    ("slab_used_bytes", "slab_used_bytes", "The engine's buffers in use"),
    ("slab_held_bytes", "slab_held_bytes", "The engine's buffers, free ones included"),
    ("slab_blocks", "slab_blocks", "The engine's buffers in use, counted"),
)
_COUNTERS = (
    ("accepted", "accepted", "TCP connections accepted"),
    ("turned_away", "turned_away", "TCP connections refused for want of room"),
    ("upgraded", "opened", "WebSocket connections opened"),
    ("refused", "refused", "Requests refused"),
    ("closed", "closed", "WebSocket connections closed"),
    ("half_closed", "half_closed", "Peers that ended the transport without a close frame"),
    ("messages_in", "received_messages", "Messages received"),
    ("messages_out", "sent_messages", "Messages sent"),
    ("bytes_in", "received_bytes", "Bytes received"),
    ("bytes_out", "sent_bytes", "Bytes of messages sent"),
    ("inflated", "received_compressed_messages", "Messages received compressed"),
    ("inflated_from_bytes", "received_compressed_bytes", "Their bytes as they came"),
    ("inflated_bytes", "received_compressed_message_bytes", "Their bytes as they are"),
    ("deflated", "sent_compressed_messages", "Messages sent compressed"),
    ("deflated_from_bytes", "sent_compressed_message_bytes", "Their bytes as they are"),
    ("deflated_bytes", "sent_compressed_bytes", "Their bytes as they went"),
    ("pings", "received_pings", "Pings received"),
    ("pings_out", "sent_pings", "Pings sent to find out whether the peer is there"),
    ("pongs_put_off", "postponed_pongs", "Pings above the limit, answered late and together"),
    ("timeouts", "handshake_timeouts", "Opening and closing handshakes that were not completed in time"),
    ("takeovers", "poller_takeovers", "Times that a callback took so long that another thread polled"),
    ("pauses", "reading_pauses", "Times that a connection was not read because its inbox was full"),
    ("cooldowns", "accept_cooldowns", "Times that accepting rested because the pool was full"),
    ("wakeups", "poller_wakeups", "Times that the thread that polls was woken by another"),
    ("holds", "application_pauses", "Times that the application paused a connection"),
    ("highs", "high_marks", "Times that a send queue went above its high mark"),
    ("drained", "drains", "Times that one of these came down to its low mark"),
    ("dropped_newest", "dropped_messages", "Messages not sent because a send queue was full"),
    ("dropped_oldest", "dropped_older_messages", "Messages dropped from a full send queue for newer ones"),
    ("overflow_closed", "overflow_closes", "Connections dropped because their send queue was full"),
    ("overload_closed", "overload_closes", "Connections dropped because all send queues held too much together"),
)
_BY_STATUS = "answered_"
_BY_CAUSE = "closed_by_"


class Collector(_Base):
    """A server's figures, for a registry of ``prometheus_client``.

    ======================================  =================================================================
    `<prefix>_connections`                  open connections, a gauge
    `<prefix>_handshakes_total{status=}`    requests answered, by HTTP status; 101 is a connection opened
    `<prefix>_closes_total{cause=}`         connections closed, by `CloseCause`
    `<prefix>_memory_bytes{part=}`          where the engine's memory is: see `Server.memory`
    `<prefix>_slab_bytes{purpose=}`         ... and its connections' buffers
    `<prefix>_received_messages_total` ...  and what else the engine counts: their help texts say what
    ======================================  =================================================================

    They begin at zero with each run of the server; while it does not run there are none. Where it has several workers,
    these are one worker's, and all of them have the label `worker`: see docs/scaling.md.

    Args:
        server: Whose.
        prefix: What the names begin with; two servers in one registry need two.
    """

    def __init__(self, server: Server, prefix: str = "unlimitedws") -> None:
        self._server = server
        self._prefix = prefix

    def collect(self) -> Iterator[Metric]:
        """Yield the figures. The registry calls this. Thread: any."""
        figures = self._server.counters()
        if not figures:
            return
        worker = self._server.worker
        # Only where there are several: elsewhere the label would say nothing.
        names, values = ([], []) if worker is None else (["worker"], [str(worker)])
        for key, name, text in _GAUGES:
            gauge = GaugeMetricFamily(f"{self._prefix}_{name}", f"{text}.", labels=names)
            gauge.add_metric(values, figures[key])
            yield gauge
        for key, name, text in _COUNTERS:
            counter = CounterMetricFamily(f"{self._prefix}_{name}", f"{text}.", labels=names)
            counter.add_metric(values, figures[key])
            yield counter
        handshakes = CounterMetricFamily(
            f"{self._prefix}_handshakes",
            "Requests answered, by HTTP status; 101 is a connection that was opened.",
            labels=["status", *names],
        )
        closes = CounterMetricFamily(
            f"{self._prefix}_closes",
            "WebSocket connections closed, by what ended them.",
            labels=["cause", *names],
        )
        for key, value in figures.items():
            if key.startswith(_BY_STATUS):
                handshakes.add_metric([key.removeprefix(_BY_STATUS), *values], value)
            elif key.startswith(_BY_CAUSE):
                closes.add_metric([key.removeprefix(_BY_CAUSE), *values], value)
        yield handshakes
        yield closes
        memory = self._server.memory()
        parts = GaugeMetricFamily(
            f"{self._prefix}_memory_bytes",
            "Memory of the engine, by part; the sum is all of it.",
            labels=["part", *names],
        )
        purposes = GaugeMetricFamily(
            f"{self._prefix}_slab_bytes",
            "Buffers of connections, which are the part slab of the memory, by what they are used for.",
            labels=["purpose", *names],
        )
        for family, amounts in ((parts, memory.parts), (purposes, memory.purposes)):
            for name, amount in amounts.items():
                family.add_metric([name, *values], amount)
        yield parts
        yield purposes


def route(
    server: Server,
    path: str = "/metrics",
    *,
    registry: CollectorRegistry | None = None,
    prefix: str = "unlimitedws",
) -> CollectorRegistry:
    """Let a server answer ``GET /metrics``, in the format that the scraper asks for.

    Anybody who reaches the server can read it, so a proxy before it should keep the path to itself; or give the
    metrics a server on an address of their own.

    Args:
        server: Whose figures, and who answers.
        path: Where.
        registry: What is served, and where the figures are registered; ``prometheus_client.REGISTRY`` has those
            of the process and of the application. None: one of its own, with the figures of the server alone.
        prefix: See `Collector`.

    Returns:
        The registry.

    Raises:
        TypeError, ValueError: As `Server.route`, and as the registry where it has these names already.
    """
    served = CollectorRegistry() if registry is None else registry

    def metrics(request: Request) -> Response:
        try:
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
        except (TypeError, ValueError):
            # It takes a version to be numbers with points between them.
            encode, content_type = choose_encoder("")
        return Response(200, encode(served), {"Content-Type": content_type})

    server.route(path, metrics)
    served.register(Collector(server, prefix))
    return served
