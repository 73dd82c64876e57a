"""Exceptions of the library. Imports nothing of ours: the engine takes its exceptions from here."""

from __future__ import annotations

__all__ = ["AddressError", "ConnectionClosed", "ProtocolError", "ScheduleTimeoutError", "UnlimitedWSError"]


class UnlimitedWSError(Exception):
    """Base of every exception that is the library's own.

    Wrong arguments are plain `TypeError` and `ValueError`, waiting too long is `TimeoutError`, and what the
    kernel refuses is `OSError`, as everywhere in Python.
    """


class ConnectionClosed(UnlimitedWSError):
    """A connection was used that is closed, or whose close handshake has begun.

    Attributes:
        code: Close code (RFC 6455, section 7.4.1): `Conn.close_code`, also where the end is known and `on_close` has
            not been called yet. 1005 where the close frame had none, 1006 where there was none; while the peer's answer
            is awaited, what `Conn.close` or `Server.disconnect` was called with.
        reason: What came with the code, often ``""``.
    """

    def __init__(self, code: int = 1006, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"connection closed: {self.code}" + (f" ({self.reason})" if self.reason else "")


class ProtocolError(UnlimitedWSError):
    """Frames were read, with `unlimitedws.ws`, that break the protocol.

    A server's own connections are watched by the engine, which closes them; there nobody sees this.

    Attributes:
        code: Close code to fail the connection with (RFC 6455, section 7.1.7): mostly 1002.
        reason: The rule that was broken.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason} ({self.code})"


class ScheduleTimeoutError(UnlimitedWSError, TimeoutError):
    """The pool's queue stayed full for as long as the caller would wait. The job was not scheduled."""

    def __init__(self, message: str = "schedule timeout") -> None:
        super().__init__(message)


class AddressError(UnlimitedWSError, ValueError):
    """An address to listen on that is not written as one: see `unlimitedws.address.parse`."""
