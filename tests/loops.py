"""A loop of the engine without the server above it: real sockets and threads, all that it calls recorded.

Owns the life of a loop in a test, and the check that it leaves nothing behind. For tests/engine.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from live import take, wait, wait_until
from raw import TEXT, TIMEOUT, RawClient

from _uws.core import Crowd, Loop

MIB = 1 << 20
# Whether callbacks take turns, whatever threads there are.
HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()

SETTINGS = {
    "max_message_bytes": 4 * MIB,
    "max_stream_bytes": 64 * MIB,
    "streaming": 0,
    "max_fragments": 1000,
    "max_header_bytes": 8192,
    "max_header_fields": 100,
    "max_line_bytes": 4096,
    "handshake_timeout_ms": 10_000,
    "request_timeout_ms": 5_000,
    "close_timeout_ms": 10_000,
    "ping_interval_ms": 0,
    "ping_timeout_ms": 10_000,
    "send_timeout_ms": 0,
    "idle_timeout_ms": 0,
    "max_lifetime_ms": 0,
    "max_pings_per_second": 100,
    "max_incomplete_total_bytes": 64 * MIB,
    "max_buffered_bytes": MIB,
    "high_water_bytes": 64 << 10,
    "low_water_bytes": 16 << 10,
    "overflow": 0,
    "max_buffered_total_bytes": 256 * MIB,
    "max_inbox_bytes": MIB,
    "max_inbox_messages": 1000,
    "max_inbox_total_bytes": 64 * MIB,
    "max_connections": 0,
    "schedule_timeout_us": 1000,
    "cooldown_us": 5000,
    "io_timeout_us": 10_000_000,
    "runners": 1,
    "jobs": 0,
    "proxy_protocol": 0,
    "private_fds": 0,
    "compression": 0,
    "compression_level": 1,
    "compression_mem_level": 8,
    "compression_server_takeover": 0,
    "compression_client_takeover": 0,
    "compression_server_bits": 15,
    "compression_client_bits": 15,
    "compression_threshold": 1024,
}

# What a loop without connections has none of.
NOTHING = dict.fromkeys(
    (
        "connections",
        "descriptors",
        "ready",
        "timers",
        "targets",
        "inbox_bytes",
        "buffered_bytes",
        "incomplete_bytes",
        "slab_blocks",
        "slab_used_bytes",
    ),
    0,
)


class Failure(NamedTuple):
    """What the loop's `failed` was called with."""

    conn: Any
    exc: BaseException
    hook: str


class Running:
    """A loop, its listening sockets, its threads and its clients."""

    def __init__(
        self,
        *,
        on_connect: Callable[[Any], object] | None = None,
        on_read: Callable[[Any], object] | None = None,
        on_message: Callable[[Any, Any], object] | None = None,
        on_close: Callable[[Any], object] | None = None,
        on_drain: Callable[[Any], object] | None = None,
        on_request: Callable[[Any], object] | None = None,
        on_route: Callable[[Any], object] | None = None,
        failed: Callable[[Any, BaseException, str], object] | None = None,
        spawn: Callable[[], object] | None = None,
        page: bytes | None = None,
        crowd: Crowd | None = None,
        record: bool = True,
        listeners: int = 1,
        backlog: int = 512,
        **settings: int,
    ) -> None:
        self.opened: queue.Queue[Any] = queue.Queue()
        self.ended: queue.Queue[Any] = queue.Queue()
        self.failures: queue.Queue[Failure] = queue.Queue()
        self.threads: list[threading.Thread] = []
        self.crashes: list[BaseException] = []
        self.spawned = 0
        self._clients: list[RawClient] = []
        self._then = {"on_connect": on_connect, "on_close": on_close, "failed": failed, "spawn": spawn}
        self.loop = Loop({**SETTINGS, **settings}, self._spawn, self._failed, page, crowd)
        if record or on_connect is not None:
            self.loop.set_hook("on_connect", self._opened)
        if record or on_close is not None:
            self.loop.set_hook("on_close", self._ended)
        self.loop.set_hook("on_read", on_read)
        self.loop.set_hook("on_message", on_message)
        self.loop.set_hook("on_drain", on_drain)
        self.loop.set_hook("on_request", on_request)
        self.loop.set_hook("on_route", on_route)
        self.sockets = [listener(backlog) for _ in range(listeners)]
        for sock in self.sockets:
            self.loop.listen(sock.fileno())

    # --- what the loop calls ---

    def _opened(self, conn: Any) -> None:
        self.opened.put(conn)
        if self._then["on_connect"] is not None:
            self._then["on_connect"](conn)

    def _ended(self, conn: Any) -> None:
        self.ended.put((conn.close_code, conn.close_reason))
        if self._then["on_close"] is not None:
            self._then["on_close"](conn)

    def _failed(self, conn: Any, exc: BaseException, hook: str) -> None:
        self.failures.put(Failure(conn, exc, hook))
        if self._then["failed"] is not None:
            self._then["failed"](conn, exc, hook)

    def _spawn(self) -> None:
        self.spawned += 1
        if self._then["spawn"] is not None:
            self._then["spawn"]()
        self.start()

    # --- running ---

    def start(self) -> None:
        """Run the loop in one more thread."""
        thread = threading.Thread(target=self._run, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _run(self) -> None:
        try:
            self.loop.run()
        except BaseException as exc:
            self.crashes.append(exc)

    def shut(self, timeout_ms: int = 5000, code: int = 1001) -> None:
        self.loop.shut(code, "", timeout_ms)

    def join(self) -> None:
        """Wait until every runner has returned."""
        for thread in self.threads:
            thread.join(TIMEOUT)
        assert not any(thread.is_alive() for thread in self.threads), "a runner did not return"

    def close(self) -> None:
        """End clients, loop and sockets."""
        for client in self._clients:
            client.close()
        self.shut(timeout_ms=1000)
        self.join()
        for sock in self.sockets:
            sock.close()

    # --- clients and waiting ---

    @property
    def port(self) -> int:
        port: int = self.sockets[0].getsockname()[1]
        return port

    def connect(self, **options: Any) -> RawClient:
        """Return a raw client that has done its handshake (options: see RawClient)."""
        client = RawClient(options.pop("port", self.port), **options)
        self._clients.append(client)
        return client

    def connect_conn(self, **options: Any) -> tuple[RawClient, Any]:
        """Return a client and the conn that on_connect got; one at a time."""
        client = self.connect(**options)
        return client, take(self.opened, "on_connect")

    def end(self) -> tuple[int, str]:
        """Wait for the next on_close: code and reason."""
        ended: tuple[int, str] = take(self.ended, "on_close")
        return ended

    def counter(self, name: str) -> int:
        value: int = self.loop.counters()[name]
        return value

    def wait_for(self, **figures: int) -> None:
        """Wait until the loop's counters are these."""

        def there() -> bool:
            counters = self.loop.counters()
            return all(counters[name] == value for name, value in figures.items())

        try:
            wait_until(there, str(figures))
        except AssertionError:
            counters = self.loop.counters()
            raise AssertionError(f"{figures} was not reached: {counters}") from None

    def wait_empty(self) -> None:
        """Wait until nothing of any connection is left."""
        self.wait_for(**NOTHING)


def listener(backlog: int = 512, host: str = "127.0.0.1") -> socket.socket:
    """Return a listening socket as the engine wants it."""
    sock = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.listen(backlog)
    sock.setblocking(False)
    return sock


@contextlib.contextmanager
def running(*, expect_failures: bool = False, start: bool = True, **options: Any) -> Iterator[Running]:
    """Run a loop; at the end assert that it has stopped, and that nothing of it is left."""
    engine = Running(**options)
    try:
        if start:
            engine.start()
        yield engine
    finally:
        engine.close()
    assert engine.crashes == []
    assert expect_failures or engine.failures.empty(), engine.failures.queue
    if engine.threads:
        counters = engine.loop.counters()
        left = {name: counters[name] for name in (*NOTHING, "runners", "parked") if counters[name] != 0}
        assert not left, left


def echo(conn: Any, message: Any) -> None:
    """Send a message back."""
    conn.send(message)


class Held:
    """A loop that is kept in a callback while others send: what it found when it was let go, by who had sent it."""

    def __init__(self, **settings: int) -> None:
        self.order: list[tuple[int, int]] = []
        self._held, self._go = threading.Event(), threading.Event()
        # No other thread polls meanwhile.
        self.engine = running(on_message=self._see, schedule_timeout_us=60_000_000, **settings)

    def _see(self, conn: Any, message: bytes | str) -> None:
        if message == "hold":
            self._held.set()
            wait(self._go)
        else:
            self.order.append((conn.remote_addr[1], len(message)))

    @contextlib.contextmanager
    def while_it_is_kept(self, engine: Running, expected: int) -> Iterator[None]:
        """What is sent in the block is there before any of it is read. Returns when that many messages have come."""
        self.order.clear()
        self._held.clear()
        self._go.clear()
        with engine.connect() as holder:
            holder.send_frame(TEXT, b"hold")
            wait(self._held)
            try:
                yield
            finally:
                self._go.set()
            wait_until(lambda: len(self.order) == expected, "all of them")

    def by(self, *clients: RawClient) -> list[int]:
        """The places at which what these sent came."""
        ports = {client.address[1] for client in clients}
        return [place for place, (port, _) in enumerate(self.order) if port in ports]
