"""What a load is to be: one frozen dataclass, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from .target import Target, addresses, request

__all__ = ["LoadOptions", "Mode"]

Mode: TypeAlias = Literal["echo", "idle", "handshakes", "broadcast"]

_MAX_MESSAGE = 1 << 28
# What a publication begins with says whose it is, which, and when it left.
_MIN_PUBLICATION = 24


@dataclass(frozen=True)
class LoadOptions:
    """All that a load can be told. Times are seconds.

    Attributes:
        url: ``ws://host:port/path`` or ``unix:/path``.
        unix: Unix socket to connect to instead of the URL's host.
        mode: ``echo``: messages that come back; ``idle``: connections that are held; ``handshakes``: connections that
            are made and ended, one after the other; ``broadcast``: messages that come back to everybody.
        connections: How many; in ``handshakes`` as many at once.
        duration: What is measured.
        warmup: Load before that, which is not measured.
        hold: Time between the last handshake and the first message.
        ramp: Time for the connections to come; 0: as fast as the server takes them.
        connecting: Handshakes under way at once.
        pipelining: Messages under way on each connection, or publications of each publisher. Without a rate.
        rate: Messages per second on all connections together, or publications; 0: the next one leaves when a reply
            comes. With a rate they leave when they are due, and latency is counted from then.
        size: Bytes of a message.
        text: Text messages instead of binary ones.
        any_reply: Count whatever comes as a reply, instead of comparing it with the message.
        greeting: First messages of each connection that are no replies.
        publishers: Connections that publish, in ``broadcast``.
        others_only: The server does not send a publication back to its publisher.
        abort: End connections with RST instead of a closing handshake.
        headers: Further fields of the request.
        subprotocols: Offered in the handshake.
        sources: Local addresses to come from, in turn; empty: the kernel chooses, or for many connections to this
            machine's own loopback some of 127.0.0.0/8.
        destinations: Addresses to go to, in turn, instead of the URL's host.
        threads: Threads of the load generator; None: one, or as many as RLIMIT_NOFILE makes necessary.
        connect_timeout, handshake_timeout, reply_timeout, close_timeout: How long the server may take. That of the
            handshake counts from the beginning of connecting.

    Raises:
        ValueError: A value is out of its range, or two do not go together.
    """

    url: str
    unix: str | None = None
    mode: Mode = "echo"
    connections: int = 100
    duration: float = 10.0
    warmup: float = 1.0
    hold: float = 0.0
    ramp: float = 0.0
    connecting: int = 128
    pipelining: int = 1
    rate: float = 0.0
    size: int = 32
    text: bool = False
    any_reply: bool = False
    greeting: int = 0
    publishers: int = 1
    others_only: bool = False
    abort: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    subprotocols: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    threads: int | None = None
    connect_timeout: float = 10.0
    handshake_timeout: float = 20.0
    reply_timeout: float = 10.0
    close_timeout: float = 5.0
    target: Target = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", Target.parse(self.url, self.unix))
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode: {self.mode!r} is none of {', '.join(get_args(Mode))}")
        self._within("connections", 1, 1 << 24)
        self._within("connecting", 1, 1 << 20)
        self._within("pipelining", 1, 1 << 20)
        self._within("size", 0, _MAX_MESSAGE)
        self._within("greeting", 0, 1 << 30)
        for name in ("duration", "connect_timeout", "handshake_timeout", "reply_timeout", "close_timeout"):
            self._within(name, 0.001, 1e7)
        for name in ("warmup", "hold", "ramp"):
            self._within(name, 0, 1e7)
        self._within("rate", 0, 1e9)
        if self.threads is not None:
            self._within("threads", 1, 1024)
        if self.rate and self.pipelining > 1:
            raise ValueError(
                "rate and pipelining: at a rate messages leave when they are due, however many are under way"
            )
        if self.mode == "broadcast":
            self._within("publishers", 1, 1000)
            if self.publishers > self.connections:
                raise ValueError(f"publishers: {self.publishers} of {self.connections} connections")
            if self.size < _MIN_PUBLICATION:
                raise ValueError(
                    f"size: a publication has at least {_MIN_PUBLICATION} bytes, not {self.size}"
                )
            if self.any_reply:
                raise ValueError("any_reply: what a broadcast delivers has to be told apart")
        for name in ("sources", "destinations"):
            found = [one for text in getattr(self, name) for one in addresses(text)]
            if self.target.unix is not None and found:
                raise ValueError(f"{name}: a Unix socket has none")
            object.__setattr__(self, name, tuple(found))
        # Whatever cannot be sent is said now.
        request(self.target, self.headers, self.subprotocols)

    def _within(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        # A NaN is on neither side.
        if not low <= value <= high:
            raise ValueError(f"{name}: {value:g} is not from {low:g} to {high:g}")
