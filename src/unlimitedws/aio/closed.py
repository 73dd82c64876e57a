"""How a connection of `unlimitedws.aio` ends: its states, its exceptions. Imports nothing of asyncio.

The names are those of `websockets`, so that ``except`` clauses written for it read the same.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from _uws.conn import Conn

from ..causes import CloseCause
from ..errors import ConnectionClosed as _ConnectionClosed
from ..errors import UnlimitedWSError
from ..statuscode import STATUS_APPLICATION, STATUS_PRIVATE

__all__ = [
    "Close",
    "ConcurrencyError",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "State",
    "closed_by",
]

# What a peer says that has nothing to complain about; 1005 is a close frame without a code.
_OK = frozenset({1000, 1001, 1005})
_NO_CLOSE_FRAME = 1006

# In the words of `websockets`, which people search their logs for.
_MEANINGS = {
    1000: "OK",
    1001: "going away",
    1002: "protocol error",
    1003: "unsupported data",
    1005: "no status received [internal]",
    1007: "invalid frame payload data",
    1008: "policy violation",
    1009: "message too big",
    1010: "mandatory extension",
    1011: "internal error",
    1012: "service restart",
    1013: "try again later",
    1014: "bad gateway",
}

# Where the peer is failed (RFC 6455, section 7.1.7): the code is ours, and nobody waits for an answer.
_FAILED = frozenset({CloseCause.PROTOCOL, CloseCause.LIMIT, CloseCause.CALLBACK, CloseCause.MEMORY})


class State(IntEnum):
    """Where a connection is in its life."""

    CONNECTING = 0
    OPEN = 1
    CLOSING = 2
    CLOSED = 3


class Close(NamedTuple):
    """What a close frame says.

    Attributes:
        code: 1005 where it has none.
        reason: Often ``""``.
    """

    code: int
    reason: str

    def __str__(self) -> str:
        if self.code in STATUS_APPLICATION:
            meaning = "registered"
        elif self.code in STATUS_PRIVATE:
            meaning = "private use"
        else:
            meaning = _MEANINGS.get(self.code, "unknown")
        return f"{self.code} ({meaning})" + (f" {self.reason}" if self.reason else "")


class ConcurrencyError(UnlimitedWSError, RuntimeError):
    """Two tasks do what only one can: receive from one connection, or wait for one and the same pong."""


class ConnectionClosed(_ConnectionClosed):
    """A connection was used that is closed. One of the two below, according to how it ended.

    Attributes:
        rcvd: What the peer's close frame said; None: there was none.
        sent: What ours said; None likewise.
        rcvd_then_sent: Who was first, where there were both: True, the peer. None elsewhere.
        code, reason: As `ServerConnection.close_code` and `close_reason`.
    """

    def __init__(
        self,
        rcvd: Close | None = None,
        sent: Close | None = None,
        rcvd_then_sent: bool | None = None,
        code: int = _NO_CLOSE_FRAME,
        reason: str = "",
    ) -> None:
        super().__init__(code, reason)
        self.args = (rcvd, sent, rcvd_then_sent, code, reason)
        self.rcvd = rcvd
        self.sent = sent
        self.rcvd_then_sent = rcvd_then_sent

    def __str__(self) -> str:
        if self.rcvd is None:
            if self.sent is None:
                return "no close frame received or sent"
            return f"sent {self.sent}; no close frame received"
        if self.sent is None:
            return f"received {self.rcvd}; no close frame sent"
        if self.rcvd_then_sent:
            return f"received {self.rcvd}; then sent {self.sent}"
        return f"sent {self.sent}; then received {self.rcvd}"


class ConnectionClosedOK(ConnectionClosed):
    """It ended as it should: with a close frame from either side, and 1000, 1001 or no code in both."""


class ConnectionClosedError(ConnectionClosed):
    """It ended otherwise: with another code, or without a close frame."""


def closed_by(conn: Conn, said: Close | None) -> ConnectionClosed:
    """Return the exception for a connection that is closed.

    Args:
        conn: The engine's, in or after its `on_close`.
        said: What the application had it closed with; None: it did not.
    """
    code = _NO_CLOSE_FRAME if conn.close_code is None else conn.close_code
    reason = conn.close_reason or ""
    cause = conn.close_cause
    sent = said
    if sent is None and (ours := conn._sent) is not None:
        # `conn.close`, `Server.disconnect`, a deadline, the server's end.
        sent = Close(*ours)
    rcvd: Close | None = None
    first: bool | None = None
    if cause in _FAILED:
        sent = sent or Close(code, reason)
    elif code != _NO_CLOSE_FRAME:
        rcvd = Close(code, reason)
        first = cause is CloseCause.PEER
        if sent is None:
            # The engine repeats the peer's code (RFC 6455, section 5.5.1).
            sent = Close(code, "")
    is_ok = rcvd is not None and sent is not None and rcvd.code in _OK and sent.code in _OK
    kind = ConnectionClosedOK if is_ok else ConnectionClosedError
    return kind(rcvd, sent, first, code, reason)
