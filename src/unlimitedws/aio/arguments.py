"""The arguments of `serve`: the names of `websockets` become ours, and what is impossible is refused by its name."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ..durations import Duration
from ..options import CommonKeywords, Options

__all__ = [
    "NO_LIMIT",
    "AioKeywords",
    "Origins",
    "address_of",
    "check_options",
    "checked_origins",
    "compression_of",
    "marks_of",
    "translated",
]

Origins: TypeAlias = Sequence["str | re.Pattern[str] | None"]

NO_LIMIT = 2**31 - 1
# The longest that a time of the engine's may be, for "without limit".
_FOR_EVER = 86400.0
# Options that have other names in `websockets`.
_THEIRS = {
    "handshake_timeout": "open_timeout",
    "request_timeout": "open_timeout",
    "max_message_bytes": "max_size",
    "high_water_bytes": "write_limit",
    "low_water_bytes": "write_limit",
}


class AioKeywords(CommonKeywords, total=False):
    """The options of `serve`, for type checkers and editors: the fields of `Options`, and the names of `websockets`."""

    open_timeout: Duration | None
    ping_timeout: Duration | None
    close_timeout: Duration | None
    max_size: int | None
    write_limit: int | tuple[int, int | None]


def address_of(host: str | Sequence[str] | None, port: int | None, sock: socket.socket | None) -> Any:
    if sock is not None:
        if host is not None or port is not None:
            raise ValueError("sock: it has an address already; host and port are for another one")
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.listen()
        return f"fd:{sock.fileno()}"
    if isinstance(host, str) and port is None and (":" in host or host == "systemd"):
        return host
    number = 0 if port is None else port
    hosts = ["" if host is None else host] if host is None or isinstance(host, str) else list(host)
    return [f"[{one}]:{number}" if ":" in one else f"{one}:{number}" for one in hosts]


def compression_of(value: Any) -> Any:
    if isinstance(value, str):
        if value != "deflate":
            raise ValueError(f'compression: "deflate" or None, not {value!r}')
        return True
    return False if value is None else value


def marks_of(name: str, limits: Any, what: str) -> tuple[int | None, int]:
    """Return the high mark, None where there is none, and the low one, of what may also be a single number."""
    pair = tuple(limits) if isinstance(limits, tuple | list) else (limits, None)
    wrong = f"{name}: must be {what}, or (high, low), not {limits!r}"
    if len(pair) != 2 or any(isinstance(one, bool) or not isinstance(one, int | None) for one in pair):
        raise TypeError(wrong)
    high, low = pair
    if high is None:
        return (None, 0)
    low = high // 4 if low is None else low
    if not 0 <= low <= high:
        raise ValueError(wrong)
    return (high, low)


def checked_origins(origins: Any) -> Origins | None:
    if origins is None:
        return None
    if isinstance(origins, str | bytes) or not isinstance(origins, Iterable):
        raise TypeError(f"origins: must be a list of str, patterns and None, not {origins!r}")
    found = tuple(origins)
    for one in found:
        text = one.pattern if isinstance(one, re.Pattern) else one
        if not isinstance(text, str | None):
            raise TypeError(f"origins: must be of str, patterns of str and None, not of {one!r}")
    return found


def translated(options: Mapping[str, Any]) -> dict[str, Any]:
    """Our names for those of `websockets`."""
    found = dict(options)
    if "open_timeout" in found:
        limit = found.pop("open_timeout")
        found["handshake_timeout"] = found["request_timeout"] = _FOR_EVER if limit is None else limit
    for name in ("ping_timeout", "close_timeout"):
        if name in found and found[name] is None:
            found[name] = _FOR_EVER
    if "max_size" in found:
        size = found.pop("max_size")
        if isinstance(size, tuple):
            raise ValueError("max_size: messages have a limit here, fragments have none; give one number")
        found["max_message_bytes"] = NO_LIMIT if size is None else size
    if "write_limit" in found:
        limits = found.pop("write_limit")
        high, low = marks_of("write_limit", limits, "a number of bytes")
        if high is None:
            raise TypeError(f"write_limit: must be a number of bytes, or (high, low), not {limits!r}")
        found["high_water_bytes"], found["low_water_bytes"] = high, low
    return found


def check_options(found: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse options that are impossible, by the names they were given.

    Args:
        found: By our names.
        given: As `serve` got them.

    Raises:
        TypeError, ValueError: As `Options`.
    """
    try:
        Options.of(found)
    except (TypeError, ValueError) as exc:
        name, _, wrong = str(exc).partition(":")
        if _THEIRS.get(name) not in given:
            raise
        raise type(exc)(f"{_THEIRS[name]}:{wrong}") from None
