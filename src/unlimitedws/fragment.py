"""Pieces of messages that are streamed. Imports but the opcodes of ours: the engine takes `Fragment` from here."""

from __future__ import annotations

from typing import NamedTuple

from .opcode import OpCode

__all__ = ["Fragment"]


class Fragment(NamedTuple):
    """A piece of a message, as it was received: not a frame as the peer cut it (RFC 6455, section 5.4)."""

    opcode: OpCode
    """The message's: `OpCode.TEXT` or `OpCode.BINARY`, the same for all of its pieces."""

    data: bytes
    """Never empty, but for an empty message and an end that came by itself. Of a text valid UTF-8 when all is put
    together; a piece may end within a character: see `codecs.getincrementaldecoder`."""

    first: bool
    """Whether the message begins with it."""

    final: bool
    """Whether the message ends with it."""
