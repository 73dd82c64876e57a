"""How urgent the end of a server is, by the signals that have come; and what that means for those who are connected."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from .durations import seconds

if TYPE_CHECKING:
    from .options import Options
    from .serving import Serving

__all__ = ["DRAIN", "NONE", "STOP", "more_urgent", "obey", "patience"]

NONE, DRAIN, STOP = range(3)
"""What signals have asked for so far; each is more urgent than the one before, and beyond the last nobody waits."""

# Whoever goes on sending signals gets no more than this, and the number stays one that a byte can hold.
_DROP = STOP + 1

# The close code of a drain (RFC 6455, section 7.4.1, and IANA's registry).
_RESTART = 1012
# After the drain of a signal: with the default of `drain_time` all is over before an orchestrator kills.
_LAST_ANSWERS = 5.0


def more_urgent(options: Options, urgency: int, number: int) -> int:
    """Return how urgent the end is after one more signal."""
    gentle = number == signal.SIGTERM and options.drain_time != 0
    return min(max(urgency + 1, DRAIN if gentle else STOP), _DROP)


def obey(options: Options, run: Serving, urgency: int) -> None:
    """Let a run end as urgently. Takes no lock and writes no log: what a signal interrupted may hold either."""
    if urgency == DRAIN:
        limit = min(seconds(options.close_timeout, "close_timeout"), _LAST_ANSWERS)
        run.drain(options.drain_time, _RESTART, True, limit)
    elif urgency != NONE:
        run.shut(options.close_timeout if urgency == STOP else 0)


def patience(options: Options, urgency: int) -> float:
    """Return how long connections may have until all is over, in seconds."""
    limit = seconds(options.close_timeout, "close_timeout")
    if urgency == DRAIN:
        return seconds(options.drain_time, "drain_time") + min(limit, _LAST_ANSWERS)
    return limit if urgency == STOP else 0.0
