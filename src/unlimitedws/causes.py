"""Why a connection ended. Imports nothing of ours: the engine takes `CloseCause` from here."""

from __future__ import annotations

from enum import Enum, IntEnum

__all__ = ["CloseCause"]


class CloseCause(IntEnum):
    """What ended a connection: `Conn.close_cause`, beside the code and reason that went over the wire.

    Every connection that was open ends with one of these, and there is a counter for each
    (``server.counters()["closed_by_..."]``). The numbers are the engine's (`UwsCause`) and may change.
    """

    PEER = 1
    """The peer's close frame came first."""
    LOCAL = 2
    """`Conn.close` was called."""
    PROTOCOL = 3
    """The peer broke the protocol: closed with 1002 or 1007."""
    LIMIT = 4
    """The peer went above a limit, or its incomplete message did for all together: 1009, 1008 or 1013."""
    CALLBACK = 5
    """A callback raised: closed with 1011. Where the peer's close frame had been read by then it is `PEER`."""
    LOST = 6
    """The transport ended without a close frame: FIN, RST, or an error of the network."""
    ABORT = 7
    """`Conn.abort` was called."""
    SHUTDOWN = 8
    """The server stops: closed with 1001."""
    CLOSE_TIMEOUT = 9
    """`Conn.close` was called, and the peer did not answer within `close_timeout`."""
    PING_TIMEOUT = 10
    """The peer was silent for `ping_interval`, and for `ping_timeout` after our ping: dropped."""
    IDLE = 11
    """No message either way for `idle_timeout`: closed with 1001."""
    LIFETIME = 12
    """Older than `max_lifetime`: closed with 1001."""
    SLOW_READER = 13
    """What was queued for it made no progress for `send_timeout`, was above `max_buffered_bytes` with the policy
    "close", or got on least while all queues were above `max_buffered_total_bytes`: dropped."""
    UNAUTHENTICATED = 14
    """It did not say in time who it is: closed with 3000."""
    EXPIRED = 15
    """Its credential expired: closed with 3000. What was queued for it and had not begun to leave was dropped."""
    REVOKED = 16
    """`Server.disconnect` was called: closed with 3000, or the code that was given. What was queued for it and had not
    begun to leave was dropped."""
    MEMORY = 17
    """The server had no memory for it: closed with 1011."""
    DRAIN = 18
    """The server drains: closed with 1012, or the code that `Server.drain` was given."""

    # Its name, where it is printed: Python 3.11 and later would show the number.
    __str__ = Enum.__str__
