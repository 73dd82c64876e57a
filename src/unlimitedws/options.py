"""Every limit and every time of a server, in one frozen dataclass: the engine is told, and never asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, TypedDict

from .compression import Compression
from .durations import Duration, microseconds, milliseconds, seconds
from .pool import MAX_WORKERS, check_size
from .proxies import Proxies

__all__ = ["CommonKeywords", "OptionKeywords", "Options"]

Overflow: TypeAlias = Literal["block", "close", "drop-newest", "drop-oldest"]
# In the engine's order.
_OVERFLOWS = ("block", "close", "drop-newest", "drop-oldest")

# The engine keeps sizes and counts in 31 bits.
_MAX_INT = 2**31 - 1
# ... but what no memory has to hold.
_MAX_LONG = 2**63 - 1

MAX_LOOPS = 64
MAX_PROCESSES = 256


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a server. Each is also a keyword of `Server`, `NewServer` and `DefaultServer`.

    Times are seconds, as a number or a `timedelta`; they are kept as `float`. Sizes are bytes. A wrong value
    is refused here and by name, not later and by a connection that behaves oddly.

    Raises:
        TypeError: A value is not of the option's type, or there is no option of that name.
        ValueError: A value is impossible.
    """

    # What a peer may send

    max_message_bytes: int = 1 << 20
    """Longest message, 1 MiB; a longer one closes its connection with 1009. Memory is taken as the bytes
    arrive, never because a length was announced, so this is a limit on what one peer can make us hold."""

    streaming: bool = False
    """Call `on_read` as soon as a message begins, and let `wsutil.open_message` read it while it arrives: for
    messages that are longer than memory should hold. With the hook `on_fragment` it is so anyway, with
    `on_message` never. Compressed messages still come whole."""

    max_stream_bytes: int | None = 1 << 30
    """Longest message that is streamed, instead of `max_message_bytes`, 1 GiB; a longer one closes its connection with
    1009. We keep nothing of it, but whoever writes it to a disk wants an end. None: without limit."""

    max_incomplete_total_bytes: int = 64 << 20
    """Messages of all connections that are not complete yet, 64 MiB together. Above it those connections are
    closed with 1013 whose message has not grown for longest: who begins messages to keep us waiting goes
    before anybody who sends."""

    max_fragments: int = 1024
    """Most fragments of one message; more close the connection with 1008. A million fragments of no bytes
    cost time and are within any limit on bytes."""

    max_inbox_bytes: int = 1 << 20
    """Undelivered messages of one connection, 1 MiB: while its callback runs, what comes behind waits up to
    here, then the connection is no longer read and TCP holds the peer back. A message that is begun is always
    finished."""

    max_inbox_messages: int = 1024
    """The same limit, counted in messages: small ones cost more than their bytes."""

    max_inbox_total_bytes: int = 64 << 20
    """Undelivered messages of all connections together, 64 MiB: above it no connection that has some waiting
    is read, however little it has, and nobody else gets on with a long message. A program that computes for a
    minute keeps its memory."""

    max_pings_per_second: int = 100
    """Pings of one connection that are all answered, 100 in a second, at most 255; of more only the newest is
    (RFC 6455, section 5.5.3), when the second is over. 0: without limit."""

    # The opening handshake

    max_header_bytes: int = 16 << 10
    """Longest request head, 16 KiB; then 431. Browsers with their cookies stay below 8 KiB."""

    max_header_fields: int = 100
    """Most header fields of the request; then 431."""

    max_line_bytes: int = 8 << 10
    """Longest line of the request head, 8 KiB; then 414 for the target, 431 for a field."""

    handshake_timeout: Duration = 10.0
    """From accept to the last byte of the request head, 10 s in total, however often a byte comes; then 408.
    Nothing waits with it but a few bytes, so slow networks get their time and half-open ones do not stay."""

    request_timeout: Duration = 5.0
    """How long `on_request` and the other hooks of the handshake may take to decide, 5 s; then 503. So long may
    the handler of a route take, too."""

    request_workers: int = 8
    """Threads for these hooks where callbacks run inline, so that a slow one holds nobody up. They start when
    they are needed. Of more requests than they can see to 1024 wait; then 503. With a pool they run on its
    threads, on half of them at a time, and then on these. 0: where callbacks run, for hooks that only look at the
    request."""

    auth_timeout: Duration = 10.0
    """How long a client that was let in with ``Accept(authenticated=False)`` has until it is somebody
    (`Server.identify`), 10 s; then it is closed with 3000. A `FirstMessageAuth` has its own time."""

    keep_request: bool = False
    """Whether `conn.request` is there after the handshake. A request is kept whole, so this may cost each
    connection some kilobytes, and Python is asked for each handshake."""

    # Orphans: connections that nobody needs any more

    ping_interval: Duration | None = 25.0
    """Silence after which the peer is pinged, 25 s, +-20 % so that pings spread evenly. Any byte counts as
    life. Below the 30 to 60 s after which proxies and NATs forget a silent connection. None: no pings."""

    ping_timeout: Duration = 10.0
    """From our ping to the next byte, 10 s; then the peer has vanished, and the connection is dropped."""

    send_timeout: Duration | None = 10.0
    """How long queued bytes may wait without any progress, 10 s; then the peer does not read, and the
    connection is dropped. None: as long as TCP keeps it."""

    idle_timeout: Duration | None = None
    """Longest time without a message either way; pings do not count. Then 1001. None: without limit."""

    max_lifetime: Duration | None = None
    """Longest life of a connection, +-10 % so that those who came together do not leave together. Then 1001.
    None: without limit."""

    # Sending

    max_buffered_bytes: int = 1 << 20
    """Bytes sent to one connection that the kernel has not taken, 1 MiB. While so many wait, it goes by `overflow`.
    The message that fills it is still taken whole."""

    overflow: Overflow = "block"
    """What `conn.send` does about a queue that is full. "block": it waits, up to `io_timeout`, then raises
    `TimeoutError`. "close": the connection is dropped. "drop-newest": the message is. "drop-oldest": the oldest
    messages are of which nothing has left. `Sent` says so, and counters count."""

    high_water_bytes: int = 64 << 10
    """Above so many bytes that wait `conn.send` returns `Sent.HIGH`, 64 KiB, or `max_buffered_bytes` where that is
    less."""

    low_water_bytes: int = 16 << 10
    """... and when it is down to so many, `on_drain` is called, 16 KiB, or a quarter of `high_water_bytes` where that
    is below it."""

    max_buffered_total_bytes: int = 256 << 20
    """Bytes that wait to be sent to all connections together, 256 MiB. Above it connections are dropped until it is
    below seven eighths, first those whose queue has made no progress for longest."""

    tcp_nodelay: bool = True
    """Send at once, without Nagle's algorithm: what belongs together is joined already, before the kernel
    sees it."""

    # Listening

    backlog: int = 4096
    """Connections that the kernel keeps until they are accepted; it cuts this to net.core.somaxconn. 4096 is
    that setting's default: a burst of reconnecting clients should find room."""

    unix_mode: int = 0o600
    """Permissions of a Unix socket's file, the umask notwithstanding; connecting takes the right to write.
    Whoever connects is believed to be a proxy where `trusted_proxies` has "unix", so nobody but the server's
    own user may unless this says so: 0o660 and a group for a proxy that runs as another user."""

    tcp_keepalive: Duration | None = 60.0
    """After so long a silence the kernel probes whether the peer is still there, three times, a sixth of this
    apart; 60 s, so a machine that has gone is known to be gone after 90 s. Whole seconds. None: no probes.
    Beneath the pings of the protocol, which find the same sooner, and for connections that are not pinged."""

    tcp_user_timeout: Duration | None = 90.0
    """How long what was sent may stay unacknowledged before the kernel gives the connection up; its own rule
    is some 15 minutes. 90 s, not less than what `tcp_keepalive` takes in all: Linux lets the first unanswered
    probe be the last where this is shorter, and one packet is easily lost. None: the kernel's rule."""

    # Proxies

    trusted_proxies: Sequence[str] = ()
    """Whom to believe about others: networks such as "10.0.0.0/8", and "unix" for whoever connects to a Unix
    socket. What they say of a client is its address from then on; of everybody else's requests these fields
    mean nothing. None by default: whoever can send a header could be anybody."""

    forwarded_header: str = "x-forwarded-for"
    """In which field trusted proxies name their clients: "x-forwarded-for" (with X-Forwarded-Proto and
    X-Forwarded-Host) or "forwarded" (RFC 7239). One of them: what the proxy does not write itself it passes
    on as the client sent it."""

    proxy_protocol: bool = False
    """Every connection begins with a PROXY header of version 1 or 2, as HAProxy's send-proxy and load balancers
    on TCP's level write it; one that does not gets 400. Only from `trusted_proxies`, which has to name them:
    others get 403. Never guessed: a client could pretend."""

    # Callbacks

    pool: tuple[int, int] | None = None
    """(workers, jobs), as `set_pool` takes them: callbacks run on up to so many threads, and so many
    connections may wait for one. None: callbacks run inline, one at a time, on the thread that also does the
    I/O. `DefaultServer` has (128, 128), as in Go."""

    schedule_timeout: Duration = 0.001
    """How long I/O may rest because of a callback before another thread does it, 1 ms as in Go; with a pool and
    without one. Below 0.1 ms it is 0.1 ms."""

    cooldown_time: Duration = 0.005
    """How long accepting rests when there is no file descriptor, or no room among the pool's jobs, 5 ms; as
    in Go."""

    io_timeout: Duration = 0.1
    """How long one call of a callback waits, 0.1 s as in Go: for a further message, or for room to write.
    Then `TimeoutError`. 0: without limit. It is the callback's patience, not the peer's time: no client is
    closed for it."""

    # More than one core

    loops: int = 1
    """Loops in this process, each with its own threads, that share the listening sockets; at most 64. What is said of
    all connections together, and the pool's numbers, they divide among them, and `max_connections` is a limit on
    their sum. Under the GIL they run the engine in parallel, never two callbacks. See docs/scaling.md."""

    private_fds: bool = False
    """Whether each loop has a table of descriptors of its own, so that RLIMIT_NOFILE limits each loop and not the
    process: for more connections than that, where it cannot be raised. Callbacks run on other threads than the I/O
    then, and pay for the way there and back. Not with `workers`, whose processes have tables of their own, nor in
    `unlimitedws.aio`. See docs/scaling.md."""

    workers: int = 1
    """Processes that share the listening sockets, at most 256. With more than one, `Server.run` supervises them and
    serves nobody itself. Each is a server of its own: every option is for each of them. See docs/scaling.md."""

    worker_restart_limit: int = 10
    """How many workers may die within `worker_restart_window` and be replaced, 10; one more, and all is stopped and
    `run` raises. What dies so often does not get better by being started again."""

    worker_restart_window: Duration = 60.0
    """See `worker_restart_limit`; 60 s."""

    # Closing

    close_timeout: Duration = 10.0
    """From our close frame to the peer's, 10 s; then the connection is dropped. Who still reads what was sent
    before has longer, as long as some of it leaves within this time, and 4 KiB a second on average; who was
    disconnected, or whose credential has expired, has not. Also how long `stop` and `run` give all connections
    together."""

    drain_time: Duration = 20.0
    """Over which the connections are asked to leave when SIGTERM comes to `run`, 20 s: Kubernetes kills after 30, and
    those who are asked last have to answer. 0: SIGTERM stops the server at once, as SIGINT does."""

    # The server

    max_connections: int | None = None
    """Most connections, handshakes included; more are refused with 503. None: as many as there are
    descriptors."""

    raise_nofile_limit: bool = True
    """Raise RLIMIT_NOFILE to its hard limit when the server starts: the usual soft limit, 1024, is kept low
    for programs that use select(), and a connection is a descriptor."""

    page: bytes | None = None
    """Body of an HTML page, UTF-8, that is served for an ordinary ``GET /``. None: 426, as for other
    paths."""

    compression: bool | Compression = False
    """permessage-deflate (RFC 7692): False, True for the defaults of `Compression`, or a `Compression`. Off by
    default: it costs more time than all the rest, and secrets beside what an attacker chooses leak through
    the length of what they are compressed to."""

    def __post_init__(self) -> None:
        for name, low in _INTS.items():
            _check_int(name, getattr(self, name), low)
        for name in _TIMES:
            # Frozen is for those who come after us.
            object.__setattr__(self, name, seconds(getattr(self, name), name))
        for name in _TIMES_OR_NONE:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, seconds(getattr(self, name), name))
        for name in (*_DEADLINES, *_TIMES_OR_NONE):
            if getattr(self, name) == 0:
                hint = "; None switches it off" if name in _TIMES_OR_NONE else ""
                raise ValueError(f"{name}: must be more than 0 seconds{hint}")
        if self.request_workers > MAX_WORKERS:
            raise ValueError(f"request_workers: must be at most {MAX_WORKERS}, not {self.request_workers}")
        if self.overflow not in _OVERFLOWS:
            raise ValueError(f"overflow: must be one of {', '.join(_OVERFLOWS)}, not {self.overflow!r}")
        self._settle_marks()
        if self.max_pings_per_second > 255:
            raise ValueError(f"max_pings_per_second: must be at most 255, not {self.max_pings_per_second}")
        if self.max_stream_bytes is not None:
            _check_int("max_stream_bytes", self.max_stream_bytes, 1, _MAX_LONG)
        _check_int("max_buffered_total_bytes", self.max_buffered_total_bytes, 1, _MAX_LONG)
        _check_int("unix_mode", self.unix_mode, 0, 0o777)
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: must be True or False, not {getattr(self, name)!r}")
        if not Proxies(self.trusted_proxies, self.forwarded_header) and self.proxy_protocol:
            raise ValueError("proxy_protocol: name the proxies in trusted_proxies; nobody else may speak for others")
        object.__setattr__(self, "trusted_proxies", tuple(self.trusted_proxies))
        _check_int("loops", self.loops, 1, MAX_LOOPS)
        _check_int("workers", self.workers, 1, MAX_PROCESSES)
        if self.private_fds and self.workers > 1:
            raise ValueError("private_fds: not with workers, whose processes have tables of descriptors of their own")
        if self.max_connections is not None:
            _check_int("max_connections", self.max_connections, 1)
        if self.pool is not None:
            if not isinstance(self.pool, tuple) or len(self.pool) != 2:
                raise TypeError(f"pool: must be (workers, jobs) or None, not {self.pool!r}")
            check_size(*self.pool)
        if self.page is not None and not isinstance(self.page, bytes):
            raise TypeError(f"page: must be bytes or None, not {type(self.page).__name__}")
        if not isinstance(self.compression, (bool, Compression)):
            raise TypeError(f"compression: must be True, False or a Compression, not {self.compression!r}")

    def _settle_marks(self) -> None:
        """Let the marks be where a queue can reach them: defaults give way, what somebody chose is refused."""
        if self.high_water_bytes > self.max_buffered_bytes:
            if self.high_water_bytes != Options.high_water_bytes:
                raise ValueError(
                    f"high_water_bytes: must be at most max_buffered_bytes, {self.max_buffered_bytes},"
                    f" not {self.high_water_bytes}"
                )
            object.__setattr__(self, "high_water_bytes", self.max_buffered_bytes)
        if self.low_water_bytes > self.high_water_bytes:
            if self.low_water_bytes != Options.low_water_bytes:
                raise ValueError(
                    f"low_water_bytes: must be at most high_water_bytes, {self.high_water_bytes},"
                    f" not {self.low_water_bytes}"
                )
            object.__setattr__(self, "low_water_bytes", self.high_water_bytes // 4)

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> Options:
        """Make options from keywords, and say which name was meant where one is unknown.

        Raises:
            TypeError, ValueError: As the class.
        """
        names = [field.name for field in fields(cls)]
        for name in keywords:
            if name not in names:
                # Here, as most programs never need it: a quarter of a megabyte.
                import difflib

                near = difflib.get_close_matches(name, names, 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"
                raise TypeError(f"unknown option {name!r}{hint}")
        return cls(**keywords)

    def settings_of_loops(self) -> list[dict[str, int]]:
        """Return what each of the loops is told: `settings`, and of what they divide its share.

        Of what cannot be divided evenly the first ones have one more; every loop has at least one.
        """
        whole = self.settings()
        divided = [name for name in _DIVIDED if name != "jobs" or self.pool is not None]
        return [
            {**whole, **{name: _share(whole[name], number, self.loops) for name in divided}}
            for number in range(self.loops)
        ]

    def settings(self) -> dict[str, int]:
        """Return what the engine is told: integers, times in the units of their names."""
        workers, jobs = self.pool or (1, 0)
        compression = self.compression if isinstance(self.compression, Compression) else Compression()
        return {
            "max_message_bytes": self.max_message_bytes,
            "max_stream_bytes": _MAX_LONG if self.max_stream_bytes is None else self.max_stream_bytes,
            "streaming": int(self.streaming),
            "max_fragments": self.max_fragments,
            "max_header_bytes": self.max_header_bytes,
            "max_header_fields": self.max_header_fields,
            "max_line_bytes": min(self.max_line_bytes, self.max_header_bytes),
            "handshake_timeout_ms": milliseconds(self.handshake_timeout, "handshake_timeout"),
            "request_timeout_ms": milliseconds(self.request_timeout, "request_timeout"),
            "close_timeout_ms": milliseconds(self.close_timeout, "close_timeout"),
            "ping_interval_ms": milliseconds(self.ping_interval or 0, "ping_interval"),
            "ping_timeout_ms": milliseconds(self.ping_timeout, "ping_timeout"),
            "send_timeout_ms": milliseconds(self.send_timeout or 0, "send_timeout"),
            "idle_timeout_ms": milliseconds(self.idle_timeout or 0, "idle_timeout"),
            "max_lifetime_ms": milliseconds(self.max_lifetime or 0, "max_lifetime"),
            "max_pings_per_second": self.max_pings_per_second,
            "max_incomplete_total_bytes": self.max_incomplete_total_bytes,
            "max_buffered_bytes": self.max_buffered_bytes,
            "high_water_bytes": self.high_water_bytes,
            "low_water_bytes": self.low_water_bytes,
            "overflow": _OVERFLOWS.index(self.overflow),
            "max_buffered_total_bytes": self.max_buffered_total_bytes,
            "max_inbox_bytes": self.max_inbox_bytes,
            "max_inbox_messages": self.max_inbox_messages,
            "max_inbox_total_bytes": self.max_inbox_total_bytes,
            "max_connections": self.max_connections or 0,
            "schedule_timeout_us": microseconds(self.schedule_timeout, "schedule_timeout"),
            "cooldown_us": microseconds(self.cooldown_time, "cooldown_time"),
            "io_timeout_us": microseconds(self.io_timeout, "io_timeout"),
            "runners": workers,
            "jobs": jobs,
            "proxy_protocol": int(self.proxy_protocol),
            "private_fds": int(self.private_fds),
            "compression": int(bool(self.compression)),
            "compression_level": compression.level,
            "compression_mem_level": compression.mem_level,
            "compression_server_takeover": int(compression.server_context_takeover),
            "compression_client_takeover": int(compression.client_context_takeover),
            "compression_server_bits": compression.server_max_window_bits,
            "compression_client_bits": compression.client_max_window_bits,
            "compression_threshold": compression.threshold,
        }


class CommonKeywords(TypedDict, total=False):
    """Those of `OptionKeywords` that `unlimitedws.aio.serve` takes likewise."""

    max_message_bytes: int
    max_stream_bytes: int | None
    max_incomplete_total_bytes: int
    max_fragments: int
    max_pings_per_second: int
    max_inbox_bytes: int
    max_inbox_messages: int
    max_inbox_total_bytes: int
    max_header_bytes: int
    max_header_fields: int
    max_line_bytes: int
    handshake_timeout: Duration
    request_timeout: Duration
    auth_timeout: Duration
    keep_request: bool
    ping_interval: Duration | None
    send_timeout: Duration | None
    idle_timeout: Duration | None
    max_lifetime: Duration | None
    max_buffered_bytes: int
    overflow: Overflow
    high_water_bytes: int
    low_water_bytes: int
    max_buffered_total_bytes: int
    tcp_nodelay: bool
    backlog: int
    unix_mode: int
    tcp_keepalive: Duration | None
    tcp_user_timeout: Duration | None
    trusted_proxies: Sequence[str]
    forwarded_header: str
    proxy_protocol: bool
    schedule_timeout: Duration
    cooldown_time: Duration
    io_timeout: Duration
    worker_restart_limit: int
    worker_restart_window: Duration
    drain_time: Duration
    max_connections: int | None
    raise_nofile_limit: bool
    page: bytes | None


class OptionKeywords(CommonKeywords, total=False):
    """The fields of `Options` as keywords, for type checkers and editors. A test keeps the two the same."""

    streaming: bool
    request_workers: int
    ping_timeout: Duration
    pool: tuple[int, int] | None
    loops: int
    private_fds: bool
    workers: int
    close_timeout: Duration
    compression: bool | Compression


# The smallest value that makes sense: the shortest valid request has five fields and about 140 bytes.
_INTS = {
    "max_message_bytes": 1,
    "max_incomplete_total_bytes": 1,
    "max_fragments": 1,
    "max_pings_per_second": 0,
    "max_inbox_bytes": 1,
    "max_inbox_messages": 1,
    "max_inbox_total_bytes": 1,
    "max_header_bytes": 256,
    "max_header_fields": 5,
    "max_line_bytes": 64,
    "request_workers": 0,
    "worker_restart_limit": 0,
    "max_buffered_bytes": 1,
    "high_water_bytes": 0,
    "low_water_bytes": 0,
    "backlog": 1,
}
_TIMES = (
    "handshake_timeout",
    "request_timeout",
    "auth_timeout",
    "close_timeout",
    "drain_time",
    "ping_timeout",
    "schedule_timeout",
    "cooldown_time",
    "io_timeout",
    "worker_restart_window",
)
_TIMES_OR_NONE = (
    "ping_interval",
    "send_timeout",
    "idle_timeout",
    "max_lifetime",
    "tcp_keepalive",
    "tcp_user_timeout",
)
_SWITCHES = ("streaming", "tcp_nodelay", "raise_nofile_limit", "keep_request", "proxy_protocol", "private_fds")
_DEADLINES = ("handshake_timeout", "request_timeout", "auth_timeout", "close_timeout", "ping_timeout")


# What several loops have between them. "max_connections" is not here: they count together.
_DIVIDED = (
    "runners",
    "jobs",
    "max_incomplete_total_bytes",
    "max_inbox_total_bytes",
    "max_buffered_total_bytes",
)


def _share(whole: int, number: int, count: int) -> int:
    return max(whole // count + (number < whole % count), 1)


def _check_int(name: str, value: object, low: int, high: int = _MAX_INT) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: must be an int, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name}: must be from {low} to {high}, not {value!r}")
