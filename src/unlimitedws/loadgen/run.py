"""Keeps a load's time: starts the engine's threads, tells them the phases, collects what they counted."""

from __future__ import annotations

import errno as errnos
import resource
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from _uws import load as engine

from ..auth.extras import need
from .options import LoadOptions
from .result import Durations, Result
from .target import local_ports, pack, request, resolve, spread

__all__ = ["LoadError", "Progress", "Run", "run"]

# Of neighbours that differ; a power of two of them, at least two.
_RING = 256
# Within the second-level cache: they are read twice for each message.
_RING_BYTES = 512 << 10
# Descriptors of a thread that are no connections.
_SPARE_FDS = 64
_MAX_FDS = 1 << 24
_MAX_HEAD_BYTES = 16384
# A look costs the GIL and some microseconds of a core that may be the one that makes the load.
_LOOK = 0.05
# They are not asked to close all at once; a server that is slower than this is late.
_CLOSES_PER_SECOND = 2000
# Beyond what the engine's own deadlines allow for, which it looks at twice a second.
_GRACE = 1.5
_TEXT = bytes(range(0x20, 0x7F))


class LoadError(Exception):
    """A load that cannot be made on this machine, or to this target: too few ports or descriptors, an unknown name."""


class Progress(NamedTuple):
    """How far it is.

    Attributes:
        phase: ``connecting``, ``holding``, ``warming up``, ``measuring``, ``waiting for replies``, ``closing``.
        done, total: Of the phase: connections while they come and go, seconds otherwise.
        open: Connections.
        messages: Replies so far. upgraded: handshakes so far. errors: so far.
    """

    phase: str
    done: float
    total: float
    open: int
    messages: int
    upgraded: int
    errors: int


def run(url: str, **options: Any) -> Result:
    """Put load on a server, and say what came out.

    Args:
        url: ``ws://host:port/path`` or ``unix:/path``.
        options: Those of `LoadOptions`.

    Raises:
        ValueError: An option is out of its range.
        LoadError: It cannot be made from here.
        ImportError: The extra ``load`` is not installed.
    """
    return Run(LoadOptions(url, **options)).run()


class Run:
    """One load, which is made once.

    Thread: `run` in any; `interrupt` in any other, or in a signal handler.
    """

    def __init__(self, options: LoadOptions) -> None:
        """
        Raises:
            LoadError: It cannot be made from here.
            ImportError: The extra ``load`` is not installed.
        """
        need("hdrh.histogram", "load", "the load generator")
        self.options = options
        self._interrupts = 0
        self._report: Callable[[Progress], None] = lambda _: None
        self._failures: list[BaseException] = []
        self._lacking = 0
        self._held = 0
        self._unclosed = 0
        self._threads: list[threading.Thread] = []
        sources, destinations = self._ends()
        shares = self._shares()
        self.threads = len(shares)
        head, key_at = request(options.target, options.headers, options.subprotocols)
        self._plan = engine.Plan(
            options.mode,
            threads=len(shares),
            request=head,
            key_at=key_at,
            targets=destinations,
            sources=sources,
            payloads=_payloads(options.size, options.text or options.mode == "broadcast"),
            size=options.size,
            text=options.text,
            pipelining=options.pipelining,
            rate=options.rate,
            connect_rate=options.connections / options.ramp if options.ramp else 0.0,
            connecting=max(1, options.connecting // len(shares)),
            publishers=options.publishers if options.mode == "broadcast" else 0,
            others_only=options.others_only,
            protocols=", ".join(options.subprotocols).encode(),
            any_reply=options.any_reply,
            abort=options.abort,
            greeting=options.greeting,
            max_head_bytes=_MAX_HEAD_BYTES,
            connect_timeout=options.connect_timeout,
            handshake_timeout=options.handshake_timeout,
            reply_timeout=options.reply_timeout,
            close_timeout=options.close_timeout,
            run_id=secrets.randbits(24),
        )
        self._loads = []
        for index, share in enumerate(shares):
            self._loads.append(engine.Load(self._plan, index, share, sum(shares[:index])))

    def interrupt(self) -> None:
        """Have the load end early, in good order; called a second time, at once."""
        self._interrupts += 1

    def run(self, report: Callable[[Progress], None] | None = None) -> Result:
        """Make the load. report: called some times a second, in this thread.

        Raises:
            LoadError: The kernel refuses the threads what they need.
            RuntimeError: It was made before.
        """
        if self._threads:
            raise RuntimeError("a load is made once")
        if report is not None:
            self._report = report
        self._threads = [
            threading.Thread(target=self._drive, args=(load,), name=f"uws-load-{i}", daemon=True)
            for i, load in enumerate(self._loads)
        ]
        for thread in self._threads:
            thread.start()
        try:
            self._phases()
        finally:
            self._order(engine.END)
            for thread in self._threads:
                thread.join()
        if self._failures:
            raise LoadError(
                f"the kernel gives a thread no descriptors of its own ({self._failures[0]}): raise RLIMIT_NOFILE, "
                "or use fewer connections and a single thread"
            ) from self._failures[0]
        return self._result()

    # ---- before

    def _ends(self) -> tuple[list[bytes], list[bytes]]:
        """Both ends' addresses: sources, none if the kernel chooses, and destinations."""
        o = self.options
        if o.target.unix is not None:
            return [], [pack(o.target.unix, 0)]
        try:
            hosts = list(o.destinations) or [resolve(o.target, o.connect_timeout)]
        except socket.gaierror as exc:
            raise LoadError(f"{o.target.host}: {exc.strerror}") from exc
        sources = list(o.sources)
        if not sources and not o.destinations:
            sources = spread(hosts[0], o.connections)
        room = local_ports() * max(len(sources), 1) * len(hosts)
        if room < o.connections:
            raise LoadError(
                f"{o.connections:,} connections need as many local ports, and there are {room:,} "
                f"(net.ipv4.ip_local_port_range times {max(len(sources), 1)} sources times {len(hosts)} destinations): "
                f"give more --source or --destination addresses"
            )
        return [pack(host, 0) for host in sources], [pack(host, o.target.port) for host in hosts]

    def _shares(self) -> list[int]:
        """Connections of each thread."""
        o = self.options
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        room = max(1, (_MAX_FDS if limit == resource.RLIM_INFINITY else limit) - _SPARE_FDS)
        threads = o.threads or 1
        threads = min(max(threads, -(-o.connections // room)), o.connections)
        base, more = divmod(o.connections, threads)
        shares = [base + (i < more) for i in range(threads)]
        if o.mode == "broadcast" and o.publishers > shares[0]:
            raise LoadError(
                f"the first of {threads} threads has {shares[0]:,} connections, too few for {o.publishers:,} publishers"
            )
        return shares

    # ---- meanwhile

    def _drive(self, load: engine.Load) -> None:
        try:
            # A table of its own also where one thread would do without: system calls are quicker on it.
            load.run(private_table=True, required=len(self._loads) > 1)
        except BaseException as exc:
            self._failures.append(exc)

    def _order(self, phase: int) -> None:
        for load in self._loads:
            load.order(phase)

    def _sum(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for load in self._loads:
            total.update(load.shown())
        return total

    def _show(self, phase: str, done: float, total: float, now: Counter[str]) -> None:
        self._report(
            Progress(phase, done, total, now["open"], now["replies"], now["upgraded"], now["errors"])
        )

    def _until(
        self, phase: str, over: Callable[[Counter[str]], bool], seconds: float, patient: bool = False
    ) -> bool:
        """Wait until something is so. False: the time was over first, or (unless patient) it was interrupted."""
        began = time.monotonic()
        while not self._failures:
            now = self._sum()
            if over(now):
                return True
            passed = time.monotonic() - began
            if passed >= seconds or self._interrupts > patient:
                return False
            self._show(phase, passed, seconds, now)
            time.sleep(min(_LOOK, max(seconds - passed, 0.001)))
        return False

    def _in_phase(self, phase: int) -> bool:
        return all(load.shown()["phase"] >= phase for load in self._loads)

    def _phases(self) -> None:
        """Take the threads through all phases."""
        o = self.options
        loaded = o.mode == "handshakes" or self._connect()
        if loaded and o.hold and o.mode != "handshakes":
            loaded = self._for("holding", o.hold)
        if loaded and not self._interrupts:
            measure = True
            if o.warmup and o.mode != "idle":
                self._order(engine.WARM)
                measure = self._for("warming up", o.warmup)
            if measure:
                self._order(engine.MEASURE)
                self._for("measuring", o.duration)
            self._order(engine.DRAIN)
            self._drain()
        self._held = self._sum()["open"]
        self._order(engine.CLOSE)
        self._until(
            "closing",
            lambda now: self._in_phase(engine.CLOSE) and not now["open"] and not now["closing"],
            o.close_timeout + _GRACE + o.connections / _CLOSES_PER_SECOND,
            patient=True,
        )
        if not self._interrupts:
            now = self._sum()
            self._unclosed = now["open"] + now["closing"]

    def _connect(self) -> bool:
        """Wait until all connections are open, or will not be. Whether there is one, and nobody wants to stop."""
        o = self.options
        while not self._failures and not self._interrupts:
            now = self._sum()
            self._show("connecting", now["settled"], o.connections, now)
            if now["settled"] >= o.connections:
                return now["open"] > 0
            time.sleep(_LOOK)
        return False

    def _for(self, phase: str, seconds: float) -> bool:
        """Let time pass. False: it was interrupted, or nobody is left."""
        if self.options.mode == "handshakes":
            self._until(phase, lambda now: False, seconds)
        else:
            self._until(phase, lambda now: not now["open"], seconds)
        return (
            not self._interrupts
            and not self._failures
            and (self.options.mode == "handshakes" or self._sum()["open"] > 0)
        )

    def _drain(self) -> None:
        o = self.options
        patience = o.handshake_timeout + o.close_timeout if o.mode == "handshakes" else o.reply_timeout
        self._until(
            "waiting for replies",
            lambda now: self._in_phase(engine.DRAIN) and not now["outstanding"],
            patience + _GRACE,
            patient=True,
        )
        self._lacking = self._sum()["outstanding"] if o.mode == "broadcast" else 0

    # ---- afterwards

    def _result(self) -> Result:
        o = self.options
        figures: list[dict[str, Any]] = [load.figures() for load in self._loads]
        at = {
            name: sum(one["at_end"][name] - one["at_begin"][name] for one in figures)
            for name in ("sent", "replies", "upgraded")
        }
        total = {name: sum(one["total"][name] for one in figures) for name in ("upgraded", "pings")}
        errors = _summed(one["errors"] for one in figures)
        if self._lacking:
            errors["missing"] += self._lacking
        if self._unclosed:
            errors["close_timeout"] += self._unclosed
        codes = _summed(one["codes"] for one in figures)
        details = {
            "errno": {
                errnos.errorcode.get(number, str(number)): n
                for number, n in _summed(one["errnos"] for one in figures).items()
            },
            "status": {str(code): n for code, n in _summed(one["statuses"] for one in figures).items()},
            "fault": dict(_summed(one["faults"] for one in figures)),
            "close_code": {str(code): n for code, n in codes.items()},
        }
        if others := sum(one["other_codes"] for one in figures):
            details["close_code"]["others"] = others
        seconds = max(one["seconds"] for one in figures)
        return Result(
            mode=o.mode,
            url=o.url,
            connections=o.connections,
            opened=total["upgraded"],
            held=self._held,
            ramp_seconds=max(one["ramp_seconds"] for one in figures),
            seconds=seconds,
            messages=at["replies"],
            sent=at["sent"],
            offered=int(o.rate * seconds),
            size=o.size,
            handshakes=at["upgraded"],
            latency=Durations(load.latency() for load in self._loads),
            opening=Durations(load.opening() for load in self._loads),
            pings=total["pings"],
            errors=dict(errors),
            details={name: counts for name, counts in details.items() if counts},
            busy=tuple(one["cpu_seconds"] / one["seconds"] for one in figures if one["seconds"]),
            interrupted=self._interrupts > 0,
        )


def _summed(counts: Iterable[dict[Any, int]]) -> Counter[Any]:
    total: Counter[Any] = Counter()
    for one in counts:
        total.update(one)
    return total


def _payloads(size: int, text: bool) -> bytes:
    count = _RING
    while count > 2 and count * size > _RING_BYTES:
        count //= 2
    if not size:
        return b""
    content = secrets.token_bytes(count * size)
    # Printable characters of ASCII; that some are more frequent than others is of no interest.
    return content.translate(bytes(_TEXT[i % len(_TEXT)] for i in range(256))) if text else content
