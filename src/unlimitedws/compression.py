"""The settings of permessage-deflate (RFC 7692), in one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Compression"]

_INTS = {
    "level": (-1, 9),
    "mem_level": (1, 9),
    "server_max_window_bits": (9, 15),
    "client_max_window_bits": (9, 15),
    "threshold": (0, 2**31 - 1),
}


@dataclass(frozen=True, kw_only=True)
class Compression:
    """How messages are compressed, for the option of that name; `compression=True` means the defaults.

    No context is kept from message to message unless that is asked for: then all connections share one
    compressor, and one that is idle costs nothing. A context that is kept makes similar messages smaller, to
    a half or a tenth, and costs memory for as long as the connection lives and has sent a compressed message.

    Raises:
        TypeError: A value is not of its setting's type.
        ValueError: A value is out of range.
    """

    level: int = 1
    """0 (not at all) to 9 (slow); -1 is zlib's default, 6. On JSON of 1 KiB level 6 takes a sixth longer
    than level 1, for 2.5 % less."""

    mem_level: int = 8
    """1 to 9: memory for a compressor's tables, 2 ** (mem_level + 9) bytes. A smaller one pays where contexts
    are kept: 5 costs 5 % of the speed and nothing of the size on messages of 1 KiB."""

    server_context_takeover: bool = False
    """Keep our context from message to message, where the client does not forbid it:
    2 ** (server_max_window_bits + 2) + 2 ** (mem_level + 9) bytes a connection, 256 KiB with the defaults."""

    client_context_takeover: bool = False
    """Allow the client to keep its context: 2 ** client_max_window_bits + 8 KiB a connection to follow it, and
    the messages that it sends have to be inflated in turn."""

    server_max_window_bits: int = 15
    """9 to 15: how far back our compressor looks, 2 ** bits bytes. A client may ask for less."""

    client_max_window_bits: int = 15
    """9 to 15: how far back clients may look. Below 15, of a client that cannot be told this no context is
    kept, so that the memory that it stands for is a limit."""

    threshold: int = 1024
    """Shorter messages are sent as they are, unless `conn.send` says otherwise, 1 KiB: a packet is a packet,
    and each message costs the compressor a start."""

    def __post_init__(self) -> None:
        for name, (low, high) in _INTS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"compression.{name}: must be an int, not {value!r}")
            if not low <= value <= high:
                raise ValueError(f"compression.{name}: must be from {low} to {high}, not {value}")
        for name in ("server_context_takeover", "client_context_takeover"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"compression.{name}: must be True or False, not {getattr(self, name)!r}")
