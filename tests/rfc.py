"""RFC 6455 and RFC 7692 as tables: what a server has to accept, what it has to refuse, and with which code.

Written from the RFCs' sentences, one row each, and from nothing of the engine's. Any test may use it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from raw import BINARY, CLOSE, CONT, PING, PONG, TEXT

DATA = (CONT, TEXT, BINARY)
CONTROL = (CLOSE, PING, PONG)


class Header(NamedTuple):
    """One frame's header, and where it comes. rsv: the three bits as a number, RSV1 = 4."""

    fin: bool
    rsv: int
    opcode: int
    masked: bool
    length: int
    inside: bool
    compression: bool


class Rule(NamedTuple):
    section: str
    says: str
    broken_by: Callable[[Header], bool]


RULES = (
    Rule("6455: 5.1", "what a client sends is masked", lambda h: not h.masked),
    Rule(
        "6455: 5.2",
        "RSV2 and RSV3 are 0: no extension gives them a meaning",
        lambda h: h.rsv in (1, 2, 3, 5, 6, 7),
    ),
    Rule(
        "6455: 5.2", "RSV1 is 0 where no extension was negotiated", lambda h: h.rsv == 4 and not h.compression
    ),
    Rule("7692: 6.1", "RSV1 is 0 in control frames", lambda h: h.rsv == 4 and h.opcode in CONTROL),
    Rule("7692: 6.1", "RSV1 is 0 in all fragments but the first", lambda h: h.rsv == 4 and h.opcode == CONT),
    Rule("6455: 5.2", "opcodes 3 to 7 are reserved", lambda h: h.opcode in (3, 4, 5, 6, 7)),
    Rule("6455: 5.2", "opcodes 11 to 15 are reserved", lambda h: h.opcode in (11, 12, 13, 14, 15)),
    Rule("6455: 5.4", "a continuation continues something", lambda h: h.opcode == CONT and not h.inside),
    Rule("6455: 5.4", "messages are not interleaved", lambda h: h.opcode in (TEXT, BINARY) and h.inside),
    Rule("6455: 5.5", "control frames are not fragmented", lambda h: h.opcode in CONTROL and not h.fin),
    Rule(
        "6455: 5.5", "control frames hold 125 bytes at most", lambda h: h.opcode in CONTROL and h.length > 125
    ),
)


def broken(header: Header) -> list[Rule]:
    """Return the rules that a frame breaks; each of them is answered with 1002 (6455: 7.4.1)."""
    return [rule for rule in RULES if rule.broken_by(header)]


# 6455: 7.4.1, 7.4.2, and IANA's WebSocket Close Code Number Registry. Who may name a code in a close frame?
CLOSE_CODES = (
    (0, 999, False, "not used"),
    (1000, 1003, True, "normal, going away, protocol error, data that cannot be accepted"),
    (1004, 1004, False, "reserved"),
    (1005, 1006, False, "never on the wire: no code was there, the connection was lost"),
    (1007, 1011, True, "not consistent, policy, too big, extension missing, internal error"),
    (1012, 1014, True, "IANA: service restart, try again later, bad gateway"),
    (1015, 1015, False, "never on the wire: TLS failed"),
    (1016, 2999, False, "for later versions of the protocol, and not yet given out"),
    (3000, 3999, True, "libraries, frameworks, applications"),
    (4000, 4999, True, "private use"),
    (5000, 65535, False, "not defined"),
)


def may_be_sent(code: int) -> bool:
    """Tell whether an endpoint may name this code in a close frame."""
    (sendable,) = [sendable for first, last, sendable, _ in CLOSE_CODES if first <= code <= last]
    return sendable


def forms(length: int) -> Iterator[tuple[int, bytes, bool]]:
    """Yield each form that holds a length (6455: 5.2): its bits, its bytes, whether it is minimal."""
    if length < 126:
        yield 7, bytes([length]), True
    if length < 1 << 16:
        yield 16, b"\x7e" + struct.pack("!H", length), length >= 126
    yield 64, b"\x7f" + struct.pack("!Q", length), 65536 <= length < 1 << 63


# The Unicode Standard, table 3-7: the well-formed byte sequences. All others are ill-formed.
Span = tuple[int, int]
TAIL: Span = (0x80, 0xBF)
UTF8: tuple[tuple[Span, ...], ...] = (
    ((0x00, 0x7F),),
    ((0xC2, 0xDF), TAIL),
    ((0xE0, 0xE0), (0xA0, 0xBF), TAIL),
    ((0xE1, 0xEC), TAIL, TAIL),
    ((0xED, 0xED), (0x80, 0x9F), TAIL),
    ((0xEE, 0xEF), TAIL, TAIL),
    ((0xF0, 0xF0), (0x90, 0xBF), TAIL, TAIL),
    ((0xF1, 0xF3), TAIL, TAIL, TAIL),
    ((0xF4, 0xF4), (0x80, 0x8F), TAIL, TAIL),
)


def starts() -> Iterator[tuple[bytes, frozenset[int]]]:
    """Yield every unfinished character, and what may come next; of tails only the lowest and the highest."""
    yield b"", frozenset(byte for row in UTF8 for byte in range(row[0][0], row[0][1] + 1))
    for (first, last), *tails in UTF8:
        begun = [bytes([lead]) for lead in range(first, last + 1)]
        for low, high in tails:
            for start in begun:
                yield start, frozenset(range(low, high + 1))
            begun = [start + bytes([byte]) for start in begun for byte in (low, high)]


def ill_formed() -> Iterator[bytes]:
    """Yield every kind of ill-formed sequence; its last byte is the first that cannot be right."""
    for start, allowed in starts():
        for byte in range(256):
            if byte not in allowed:
                yield start + bytes([byte])


def unfinished() -> list[bytes]:
    """Return every character that is cut; of tail bytes only the lowest and the highest."""
    return [start for start, _ in starts() if start]


class Deflated:
    """One message as a client compresses it (7692: 7.2.1), fragment by fragment, without a context."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(wbits=-15)

    def part(self, payload: bytes, last: bool) -> bytes:
        """Compress one fragment's payload; of the last one the empty block's four bytes are left out."""
        data = self._deflate.compress(payload) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        if not last:
            return data
        assert data.endswith(b"\x00\x00\xff\xff")
        return data[:-4]
