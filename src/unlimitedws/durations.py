"""Durations: seconds or `timedelta` in the library, whole milliseconds and microseconds in the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["Duration", "microseconds", "milliseconds", "seconds"]

Duration: TypeAlias = "float | timedelta"
"""Seconds as a number, or a `timedelta`."""

# Longer than anything we wait for, and short enough for every unit and every clock it is converted to.
_DAY = 86400.0


def seconds(value: Duration, name: str) -> float:
    """Return a duration in seconds.

    Args:
        value: Seconds, or a `timedelta`; from 0 to one day.
        name: What it is the duration of, for the message.

    Raises:
        TypeError: value is neither.
        ValueError: value is negative, not finite, or longer than a day.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        # Half a megabyte that whoever says seconds does not need.
        from datetime import timedelta

        if not isinstance(value, timedelta):
            raise TypeError(f"{name}: must be seconds or a timedelta, not {value!r}")
        value = value.total_seconds()
    # Neither NaN nor an int that is too long to be a float is within.
    if not 0 <= value <= _DAY:
        raise ValueError(f"{name}: must be from 0 to {_DAY:.0f} seconds, not {value!r}")
    return float(value)


def milliseconds(value: Duration, name: str) -> int:
    """Return whole milliseconds; what is more than nothing never becomes nothing. Raises as `seconds`."""
    return _whole(seconds(value, name) * 1e3)


def microseconds(value: Duration, name: str) -> int:
    """Return whole microseconds; what is more than nothing never becomes nothing. Raises as `seconds`."""
    return _whole(seconds(value, name) * 1e6)


def _whole(value: float) -> int:
    return max(round(value), 1) if value else 0
