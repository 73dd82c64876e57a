"""What became of a message. Imports nothing of ours: the engine takes `Sent` from here."""

from __future__ import annotations

from enum import Enum, IntEnum

__all__ = ["Sent"]


class Sent(IntEnum):
    """What `Conn.send` returns: whether the message is on its way, and what that did to the connection's queue.

    Only `DROPPED` is false: ``if not conn.send(message): ...``. See docs/backpressure.md.
    """

    DROPPED = 0
    """It was not sent: the queue is full, and `overflow` says that then new messages are dropped."""
    OK = 1
    """It is on its way, or in the queue and below the high mark."""
    HIGH = 2
    """It is in the queue, which is above `high_water_bytes` though the kernel took what it could: better wait for
    `on_drain` before the next one."""
    DROPPED_OLDER = 3
    """It is in the queue, and older messages were dropped to make room for it."""

    # Its name, where it is printed: Python 3.11 and later would show the number.
    __str__ = Enum.__str__
