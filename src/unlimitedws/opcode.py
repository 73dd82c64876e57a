"""Opcodes of frames (RFC 6455, section 5.2). Imports nothing of ours: the engine takes `OpCode` from here."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["OpCode"]


class OpCode(IntEnum):
    """What a frame carries (RFC 6455, section 11.8)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA

    @property
    def is_control(self) -> bool:
        """Whether it is a control frame: close, ping or pong (RFC 6455, section 5.5)."""
        return self >= OpCode.CLOSE

    @property
    def is_data(self) -> bool:
        """Whether it begins a message: text or binary (RFC 6455, section 5.6)."""
        return self in (OpCode.TEXT, OpCode.BINARY)
