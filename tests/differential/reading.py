"""A third reader of every stream: the RFCs frame by frame, with all that is wrong with the first wrong one.

Two implementations may differ where a frame breaks several rules, or where they notice it at different
moments. What this reader finds tells such differences from mistakes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import rfc
from raw import CLOSE, CONT, PING, TEXT, xor_mask
from rfc import Header

from .streams import Terms

# ("message", opcode, payload), ("ping", payload), ("pong", payload), ("close", code, reason)
Event = tuple[object, ...]

EMPTY_BLOCK = b"\x00\x00\xff\xff"
MAX_REST_BYTES = 2 << 20


@dataclass
class Reading:
    """What a stream says.

    codes: the close codes for what is wrong with the first wrong frame, of which any may be named (7.1.7 of
        RFC 6455); empty: nothing is wrong.
    due: False: not all of that frame is there, so that somebody who judges whole frames cannot know yet.
    facts: what was met on the way that not everybody deals with alike.
    rest: what would complete the stream: the frame that is cut, and the end of its message.
    """

    events: list[Event] = field(default_factory=list)
    codes: set[int] = field(default_factory=set)
    due: bool = True
    facts: set[str] = field(default_factory=set)
    rest: bytes = b""


class Utf8:
    """Knows at each byte whether what came so far may still become text; from rfc.UTF8, byte by byte."""

    def __init__(self) -> None:
        self._rows: list[tuple[rfc.Span, ...]] = []
        self.good = True

    def feed(self, data: bytes) -> bool:
        for byte in data:
            if not self._rows:
                if byte < 0x80:
                    continue
                rows = [row for row in rfc.UTF8 if row[0][0] <= byte <= row[0][1]]
            else:
                rows = [row for row in self._rows if row[0][0] <= byte <= row[0][1]]
            if not rows:
                self.good = False
                return False
            self._rows = [row[1:] for row in rows if row[1:]]
        return self.good

    @property
    def complete(self) -> bool:
        return self.good and not self._rows


class Message:
    """A message that has begun."""

    def __init__(self, opcode: int, limit: int, inflate: zlib._Decompress | None) -> None:
        self.opcode = opcode
        self.limit = limit
        self.inflate = inflate
        self.payload = b""
        self.utf8 = Utf8()

    def add(self, data: bytes) -> set[int]:
        """Add what a frame brings; returns what is wrong with it."""
        if self.inflate is not None:
            try:
                data = self.inflate.decompress(data, self.limit + 1 - len(self.payload))
            except zlib.error:
                return {1007}
        self.payload += data
        if len(self.payload) > self.limit:
            return {1009}
        if self.opcode == TEXT and not self.utf8.feed(data):
            return {1007}
        return set()


def read(data: bytes, terms: Terms | None, limit: int) -> Reading:
    """Read a stream up to its end, its close frame, or the first frame that is wrong."""
    found = Reading()
    message: Message | None = None
    kept = zlib.decompressobj(-terms.bits) if terms is not None and terms.takeover else None
    pos = 0
    while len(data) - pos >= 2:
        b0, b1 = data[pos], data[pos + 1]
        opcode, short = b0 & 15, b1 & 127
        extra = {126: 2, 127: 8}.get(short, 0)
        coded = data[pos + 2 : pos + 2 + extra]
        masked = bool(b1 & 0x80)
        header = Header(
            bool(b0 & 0x80), b0 >> 4 & 7, opcode, masked, short, message is not None, terms is not None
        )
        if broken := rfc.broken(header):
            found.codes = {1002}
            found.facts |= {rule.says for rule in broken}
        # What is not there yet becomes a length that fits, for who wants to see all of the frame.
        filled = coded + (b"\x00\x7e" if extra == 2 else bytes(5) + b"\x01" + bytes(2))[len(coded) : extra]
        length = int.from_bytes(filled, "big") if extra else short
        top_bit = length >> 63 == 1 and len(coded) > 0
        if top_bit or (
            (len(coded) == extra or found.codes) and extra and length < (126 if extra == 2 else 65_536)
        ):
            found.codes.add(1002)
            found.facts.add("top bit" if top_bit else "length in a longer form than it needs")
        held = len(message.payload) if message is not None else 0
        # Whatever is wrong already, somebody may count as a part of the message, and judge by its length.
        if length > limit - held and (found.codes or (len(coded) == extra and opcode in rfc.DATA)):
            found.codes.add(1009)
            found.facts.add("too long")
        at = pos + 2 + extra + (4 if masked else 0)
        key = data[at - 4 : at] if masked else b""
        payload = data[at : at + length]
        missing = at + length - len(data)
        if missing > 0:
            # Nobody waits for all of a frame that is much too long; a byte of it some do.
            end = at + length if length <= MAX_REST_BYTES else at + 1
            head = filled[len(coded) :]
            found.rest = head + bytes(max(0, end - len(data) - len(head)))
            found.due = False
        if found.codes:
            return found
        if opcode in rfc.CONTROL and message is not None and length > limit - held:
            found.facts.add("control frame longer than what is left of the limit")
        if len(data) < at:
            return found
        if masked:
            payload = xor_mask(payload, key)

        if opcode in rfc.CONTROL:
            if missing > 0:
                return found
            if message is not None and message.inflate is not None:
                found.facts.add("control frame within a compressed message")
            if opcode == CLOSE:
                if message is not None:
                    found.facts.add("close frame within a message")
                close(payload, found)
                return found
            found.events.append(("ping" if opcode == PING else "pong", payload))
        else:
            if message is None:
                inflate = None
                if terms is not None and header.rsv == 4:
                    inflate = kept if kept is not None else zlib.decompressobj(-terms.bits)
                message = Message(opcode, limit, inflate)
            fin = header.fin and missing <= 0
            codes = message.add(payload)
            if not codes and fin:
                if message.inflate is not None:
                    codes = message.add(EMPTY_BLOCK)
                if not codes and message.opcode == TEXT and not message.utf8.complete:
                    codes = {1007}
            if codes:
                found.codes = codes
                found.due = missing <= 0 and header.fin
                if not header.fin:
                    found.rest += END
                return found
            if missing > 0:
                found.rest += b"" if header.fin else END
                return found
            if fin:
                found.events.append(("message", message.opcode, message.payload))
                message = None
        pos = at + length
    return found


# The end of a message, empty.
END = bytes([0x80 | CONT, 0x80]) + bytes(4)


def close(body: bytes, found: Reading) -> None:
    """Read a close frame's body (6455: 5.5.1)."""
    if not body:
        found.events.append(("close", 1005, b""))
        return
    code = int.from_bytes(body[:2], "big")
    if len(body) == 1 or not rfc.may_be_sent(code):
        found.codes.add(1002)
    utf8 = Utf8()
    utf8.feed(body[2:])
    if not utf8.complete:
        found.codes.add(1007)
    if code == 1014:
        found.facts.add("close code 1014")
    if not found.codes:
        found.events.append(("close", code, body[2:]))
