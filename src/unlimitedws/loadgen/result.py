"""What came out of a load: counts, rates, durations, errors by kind; for programs, for people and as JSON."""

from __future__ import annotations

import errno as errnos
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from ..auth.extras import need

__all__ = ["Durations", "Result"]

_LONGEST_NS = 3600 * 10**9
_PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)

# What the errors of the engine are called where a person reads them.
_KINDS = {
    "connect_timeout": "not connected in time",
    "handshake_timeout": "no answer to the handshake in time",
    "handshake_cut": "ended during the handshake",
    "protocol": "frames that break RFC 6455",
    "cut": "ended without a close frame",
    "wrong_reply": "replies that are not the message",
    "unasked": "messages that nobody asked for",
    "reply_timeout": "connections without a reply in time",
    "missing": "publications that did not arrive",
    "close_timeout": "closing handshakes not answered in time",
    "no_memory": "out of memory",
}
_FAULTS = {
    "http": "answers that are no HTTP/1.1",
    "too_long": "answers whose head is too long",
    "upgrade": "101 without Upgrade and Connection",
    "accept": "wrong or missing Sec-WebSocket-Accept",
    "extension": "an extension that was not offered",
    "subprotocol": "a subprotocol that was not offered",
}


class Durations:
    """Durations in a High Dynamic Range histogram: three significant figures from a nanosecond to an hour.

    Attributes:
        histogram: The ``HdrHistogram``, in nanoseconds, for what is not offered here.
        max: The longest, in seconds, exact. 0 without samples, as all others.
    """

    def __init__(self, parts: Iterable[tuple[int, list[tuple[int, int]]]]) -> None:
        """parts: what `Load.latency` of the engine gives, of each thread."""
        self.histogram: Any = need("hdrh.histogram", "load", "the load generator").HdrHistogram(
            1, _LONGEST_NS, 3
        )
        longest = 0
        for part_longest, counts in parts:
            longest = max(longest, part_longest)
            for value, count in counts:
                # A lowest of 1 has no bucket for 0.
                self.histogram.record_value(max(value, 1), count)
        self.max = longest / 1e9

    @property
    def count(self) -> int:
        return int(self.histogram.total_count)

    @property
    def mean(self) -> float:
        """Seconds."""
        return float(self.histogram.get_mean_value()) / 1e9 if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """Seconds that so many percent of the samples took at most."""
        return (
            min(float(self.histogram.get_value_at_percentile(percent)) / 1e9, self.max) if self.count else 0.0
        )

    def as_dict(self) -> dict[str, float | int]:
        figures: dict[str, float | int] = {"count": self.count, "mean": self.mean, "max": self.max}
        figures.update({f"p{percent:g}": self.percentile(percent) for percent in _PERCENTILES})
        return figures


@dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
        mode, url: As they were asked for.
        connections: As many as were asked for.
        opened: Handshakes that succeeded. held: connections that were open when the load ended.
        ramp_seconds: From the first ``connect()`` until all were open, or would not be.
        seconds: That were measured; 0 if it did not come to that.
        messages: Replies in that time; of a broadcast deliveries. sent: messages that left in it, or publications.
        offered: Messages that were due in it, where there was a rate.
        size: Bytes of a message.
        handshakes: Handshakes that succeeded in it.
        latency: Of messages that left, or should have left, in it.
        opening: From ``connect()`` to the end of the handshake.
        pings: Of the server's, answered, in all.
        errors: Kind to count; see docs/loadgen.md.
        details: What kinds consist of: HTTP statuses, close codes, errno names, broken rules.
        busy: CPU seconds per second of each thread of the load generator.
        interrupted: It was ended before its time.
    """

    mode: str
    url: str
    connections: int
    opened: int
    held: int
    ramp_seconds: float
    seconds: float
    messages: int
    sent: int
    offered: int
    size: int
    handshakes: int
    latency: Durations
    opening: Durations
    pings: int
    errors: Mapping[str, int]
    details: Mapping[str, Mapping[str, int]]
    busy: tuple[float, ...]
    interrupted: bool

    @property
    def messages_per_second(self) -> float:
        return self.messages / self.seconds if self.seconds else 0.0

    @property
    def handshakes_per_second(self) -> float:
        return self.handshakes / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> int:
        """Errors of all kinds."""
        return sum(self.errors.values())

    def as_dict(self) -> dict[str, Any]:
        """All of it for ``json.dumps``. Durations are seconds."""
        return {
            "mode": self.mode,
            "url": self.url,
            "connections": self.connections,
            "opened": self.opened,
            "held": self.held,
            "ramp_seconds": self.ramp_seconds,
            "seconds": self.seconds,
            "messages": self.messages,
            "messages_per_second": self.messages_per_second,
            "sent": self.sent,
            "offered": self.offered,
            "size": self.size,
            "handshakes": self.handshakes,
            "handshakes_per_second": self.handshakes_per_second,
            "latency_seconds": self.latency.as_dict(),
            "handshake_seconds": self.opening.as_dict(),
            "pings": self.pings,
            "errors": dict(self.errors),
            "details": {name: dict(counts) for name, counts in self.details.items()},
            "client_busy": list(self.busy),
            "interrupted": self.interrupted,
        }

    def lines(self) -> list[str]:
        """The same for a person."""
        rows: list[tuple[str, str]] = []
        if self.mode != "handshakes":
            speed = f" ({self.opened / self.ramp_seconds:,.0f}/s)" if self.ramp_seconds else ""
            rows.append(
                (
                    "connections",
                    f"{self.opened:,} of {self.connections:,} opened in {self.ramp_seconds:.2f} s{speed}",
                )
            )
            if self.held != self.opened:
                rows.append(("", f"{self.held:,} held to the end"))
        rows.append(("handshake", _durations(self.opening)))
        if self.seconds:
            rows += self._measured()
        rows += self._errors()
        return [f"{name:<13} {text}".rstrip() for name, text in rows]

    def _measured(self) -> list[tuple[str, str]]:
        rows = [("measured", f"{self.seconds:.2f} s" + (", interrupted" if self.interrupted else ""))]
        if self.mode == "handshakes":
            rows.append(("handshakes", f"{self.handshakes_per_second:,.0f}/s ({self.handshakes:,})"))
        elif self.mode == "idle":
            rows.append(("received", f"{self.messages:,} messages, {self.pings:,} pings answered"))
        else:
            what = "deliveries" if self.mode == "broadcast" else "messages"
            volume = self.messages_per_second * self.size / 1e6
            rows.append((what, f"{self.messages_per_second:,.0f}/s ({self.messages:,}), {volume:,.1f} MB/s"))
            if self.mode == "broadcast":
                rows.append(("publications", f"{self.sent / self.seconds:,.0f}/s ({self.sent:,})"))
            rows.append(("latency", _durations(self.latency)))
        busiest = max(self.busy, default=0.0)
        if self.offered:
            if self.sent < 0.99 * self.offered:
                rows.append(
                    (
                        "",
                        f"{self.offered:,} messages were due, {self.sent:,} could be sent: the rate was not kept",
                    )
                )
        elif busiest > 0.9:
            threads = "its thread" if len(self.busy) == 1 else "its busiest thread"
            rows.append(
                ("load", f"{threads} used {busiest:.0%} of a core: the limit may be here (--threads)")
            )
        return rows

    def _errors(self) -> list[tuple[str, str]]:
        if not self.errors:
            return [("errors", "none")]
        rows: list[tuple[str, str]] = []
        for kind, count in sorted(self.errors.items(), key=lambda item: -item[1]):
            for text, some in self._parts(kind, count):
                rows.append(("errors" if not rows else "", f"{some:,} {text}"))
        return rows

    def _parts(self, kind: str, count: int) -> list[tuple[str, int]]:
        """What a kind of error consists of, each with its count."""
        if kind == "connect":
            return [(f"not connected: {_strerror(name)}", n) for name, n in self.details["errno"].items()]
        if kind == "status":
            return [(f"refused with {_status(code)}", n) for code, n in self.details["status"].items()]
        if kind == "handshake":
            return [(f"handshakes: {_FAULTS[name]}", n) for name, n in self.details["fault"].items()]
        if kind == "closed":
            return [
                (f"closed by the server with {code}", n) for code, n in self.details["close_code"].items()
            ]
        return [(_KINDS[kind], count)]


def _durations(d: Durations) -> str:
    if not d.count:
        return "no sample"
    parts = [f"p{percent:g} {_duration(d.percentile(percent))}" for percent in _PERCENTILES]
    return "  ".join([*parts, f"max {_duration(d.max)}", f"mean {_duration(d.mean)}"])


def _duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} us" if seconds < 0.9995e-4 else f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms" if seconds < 0.09995 else f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.2f} s"


def _strerror(name: str) -> str:
    number = getattr(errnos, name, None)
    return f"{os.strerror(number)} ({name})" if number else name


def _status(code: str) -> str:
    try:
        return f"{code} {HTTPStatus(int(code)).phrase}"
    except ValueError:
        return code
