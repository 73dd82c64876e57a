"""A third reader of every stream: the RFCs frame by frame, with all that is wrong with the first wrong one.

Two implementations may differ where a frame breaks several rules, or where they notice it at different
moments. What this reader finds tells such differences from mistakes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import NamedTuple

import inflate_oracle
import rfc
from raw import CLOSE, CONT, PING, TEXT, xor_mask
from rfc import Header

from .streams import Terms

# ("message", opcode, payload), ("ping", payload), ("pong", payload), ("close", code, reason)
Event = tuple[object, ...]

# 7692: 7.2.2. What the sender has left out, and an end that shows whether a block ended before it.
EMPTY_BLOCK = b"\x00\x00\xff\xff"
LAST_BLOCK = b"\x01\x00\x00\xff\xff"
WINDOW_BYTES = 1 << 15
# The end of a message, empty.
END = bytes([0x80 | CONT, 0x80]) + bytes(4)

MAX_REST_BYTES = 2 << 20
# The oracle reads bit by bit; for longer messages zlib answers the same questions.
MAX_ORACLE_BYTES = 2000


@dataclass
class Reading:
    """What a stream says.

    codes: the close codes for what is wrong with the first wrong frame, of which any may be named (7.1.7 of
        RFC 6455); empty: nothing is wrong.
    due: False: not all of that frame is there, so that somebody who judges whole frames cannot know yet.
    facts: what was met on the way that not everybody deals with alike, and how many events came before it.
    rest: what would complete the stream: the frame that is cut, and the end of its message.
    unclear: a client that breaks what it has agreed to in a way that zlib finds only sometimes.
    """

    events: list[Event] = field(default_factory=list)
    codes: set[int] = field(default_factory=set)
    due: bool = True
    facts: dict[str, int] = field(default_factory=dict)
    rest: bytes = b""
    unclear: bool = False

    def met(self, fact: str) -> None:
        self.facts.setdefault(fact, len(self.events))


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


class Part(NamedTuple):
    """One frame, as far as it is there.

    length: as declared; where not all of its bytes are there, one that they may be the beginning of.
    known: whether all of them are.
    payload: what is there of it, unmasked.
    missing: bytes of the frame that are not there.
    rest: these bytes, for who wants to see all of a frame.
    """

    header: Header
    length: int
    known: bool
    longer_form: bool
    top_bit: bool
    payload: bytes
    has_head: bool
    end: int
    missing: int
    rest: bytes


def part_at(data: bytes, pos: int, inside: bool, compression: bool) -> Part:
    """Read the frame that begins at pos; two bytes of it are there."""
    b0, b1 = data[pos], data[pos + 1]
    short = b1 & 127
    extra = {126: 2, 127: 8}.get(short, 0)
    coded = data[pos + 2 : pos + 2 + extra]
    filled = coded + (b"\x00\x7e" if extra == 2 else bytes(5) + b"\x01" + bytes(2))[len(coded) : extra]
    length = int.from_bytes(filled, "big") if extra else short
    masked = bool(b1 & 0x80)
    at = pos + 2 + extra + (4 if masked else 0)
    payload = data[at : at + length]
    if masked and payload:
        payload = xor_mask(payload, data[at - 4 : at])
    # Nobody waits for all of a frame that is much too long; a byte of it some do.
    end = at + length if length <= MAX_REST_BYTES else at + 1
    head = filled[len(coded) :]
    return Part(
        header=Header(bool(b0 & 0x80), b0 >> 4 & 7, b0 & 15, masked, short, inside, compression),
        length=length,
        known=len(coded) == extra,
        longer_form=extra != 0 and length < (126 if extra == 2 else 65_536),
        top_bit=length >> 63 == 1 and len(coded) > 0,
        payload=payload,
        has_head=len(data) >= at,
        end=at + length,
        missing=max(0, at + length - len(data)),
        rest=head + bytes(max(0, end - len(data) - len(head))),
    )


class Inflated(NamedTuple):
    """What a compressed message holds.

    good: False: it is damaged, and the payload ends before that.
    farthest: how far back its matches reach, if it is known.
    fills_limit: it may be seen to be too long before it is seen to be damaged.
    """

    payload: bytes
    good: bool
    farthest: int
    fills_limit: bool


class Message:
    """A message that has begun. raw: the payloads of its frames, which may be compressed."""

    def __init__(self, opcode: int, limit: int, terms: Terms | None, window: bytes) -> None:
        self.opcode = opcode
        self.limit = limit
        self.terms = terms
        self.raw = b""
        self._window = window
        # What somebody knows who inflates a compressed message as it comes.
        self._so_far = zlib.decompressobj(-terms.bits, window) if terms is not None else None
        # Bytes so far of the message itself.
        self._inflated = 0
        self._utf8 = Utf8()

    @property
    def held(self) -> int:
        """How much of a limit somebody may take it to have used up."""
        return max(len(self.raw), self._inflated)

    @property
    def wire_limit(self) -> int:
        """How long it may be in its frames; compressed, as long as the worst compressor makes it."""
        return self.limit if self.terms is None else self.limit + (self.limit >> 3) + 1024

    def add(self, data: bytes, found: Reading) -> set[int]:
        """Add what a frame brings; return what is wrong with it that need not wait for the message's end."""
        self.raw += data
        if self._so_far is None:
            return set() if self.opcode != TEXT or self._utf8.feed(data) else {1007}
        if len(self.raw) > self.limit:
            found.met("compressed message longer than the limit in its frames")
        try:
            data = self._so_far.decompress(data, self.limit + 1)
        except zlib.error:
            found.met("damaged deflate data")
            found.met("compressed message that is wrong before its end")
            return set()
        if self._so_far.eof:
            found.met("final block")
        self._inflated += len(data)
        if self._inflated >= self.limit:
            found.met("compressed message that fills the limit")
        if self._inflated > self.limit or (self.opcode == TEXT and not self._utf8.feed(data)):
            found.met("compressed message that is wrong before its end")
        return set()

    def finish(self, found: Reading) -> tuple[bytes, set[int]]:
        """Return the message, and what is wrong with it as a whole."""
        if self._so_far is None:
            return self.raw, set() if self.opcode != TEXT or self._utf8.complete else {1007}
        assert self.terms is not None
        if not self.raw:
            found.met("compressed message without a byte")
        payload, good, farthest, fills_limit = inflated(self.raw, self._window, self.limit)
        if farthest > 1 << self.terms.bits:
            found.unclear = True
        codes = set()
        if not good:
            codes.add(1007)
            try:
                zlib.decompressobj(-self.terms.bits, self._window).decompress(self.raw + EMPTY_BLOCK)
            except zlib.error:
                found.met("damaged deflate data")
            else:
                found.met("message that does not end where a block does")
                if goes_on_in_tail(self.raw, self._window):
                    found.met("message that goes on in what its receiver appends")
        elif goes_on_in_tail(self.raw, self._window):
            found.met("message that goes on in what its receiver appends")
        if len(payload) > self.limit or fills_limit:
            codes.add(1009)
            found.met("too long")
        utf8 = Utf8()
        utf8.feed(payload)
        if self.opcode == TEXT and not (utf8.good if codes else utf8.complete):
            codes.add(1007)
        return payload, codes


def inflated(raw: bytes, window: bytes, limit: int) -> Inflated:
    """Read a compressed message (7692: 7.2.2); if it is damaged, up to there or up to the limit."""
    if len(raw) > MAX_ORACLE_BYTES and (found := by_zlib(raw, window, limit)).good:
        return found
    try:
        said = inflate_oracle.inflate(raw, window)
    except inflate_oracle.BrokenStreamError:
        return by_zlib(raw, window, limit)._replace(good=False)
    return Inflated(said.message, True, said.farthest, False)


def by_zlib(raw: bytes, window: bytes, limit: int) -> Inflated:
    """Do the same as far as zlib tells: one that it calls damaged may only end in an odd way."""
    appended = EMPTY_BLOCK + LAST_BLOCK
    payload, rest, good = b"", raw + appended, False
    while rest and len(payload) <= limit:
        inflate = zlib.decompressobj(-15, (window + payload)[-WINDOW_BYTES:])
        try:
            # Above the limit it stops, whatever comes behind.
            payload += inflate.decompress(rest, limit + 1 - len(payload))
        except zlib.error:
            fills = fills_before_damage(rest, window + payload, limit - len(payload))
            return Inflated(payload, False, 0, fills)
        # Behind a final block the message may end, or go on in the same window.
        good = inflate.eof and inflate.unused_data in (b"", appended)
        if good or not inflate.eof or len(inflate.unused_data) < len(appended):
            break
        rest = inflate.unused_data
    return Inflated(payload, good or len(payload) > limit, 0, False)


def goes_on_in_tail(raw: bytes, window: bytes) -> bool:
    inflate = zlib.decompressobj(-15, window)
    inflate.decompress(raw)
    return bool(inflate.decompress(EMPTY_BLOCK))


def fills_before_damage(data: bytes, window: bytes, limit: int) -> bool:
    """Tell whether the limit is reached before the damage: with no more room zlib still reads headers."""
    try:
        return len(zlib.decompressobj(-15, window[-WINDOW_BYTES:]).decompress(data, limit)) == limit
    except zlib.error:
        return False


def read(data: bytes, terms: Terms | None, limit: int) -> Reading:
    """Read a stream up to its end, its close frame, or the first frame that is wrong."""
    found = Reading()
    message: Message | None = None
    window = b""
    pos = 0
    while len(data) - pos >= 2:
        part = part_at(data, pos, message is not None, terms is not None)
        opcode, pos = part.header.opcode, part.end
        found.due = not part.missing
        found.rest = part.rest if part.missing else b""
        begun = message
        if opcode in (TEXT, 2) and message is None:
            compressed = terms if part.header.rsv == 4 else None
            begun = Message(
                opcode, limit, compressed, window if terms is not None and terms.takeover else b""
            )
        found.codes = wrong_with_head(part, begun, limit, found)
        if found.codes or not part.has_head:
            return found
        if opcode in rfc.CONTROL:
            if part.missing:
                return found
            if message is not None and message.terms is not None:
                found.met("control frame within a compressed message")
            if opcode == CLOSE:
                close(part.payload, message is not None, found)
                return found
            found.events.append(("ping" if opcode == PING else "pong", part.payload))
            continue
        assert begun is not None
        message = begun
        found.codes = message.add(part.payload, found)
        if found.codes or part.missing or not part.header.fin:
            if found.codes or part.missing:
                # Who judges whole messages is to see its end.
                found.due = found.due and part.header.fin
                found.rest += b"" if part.header.fin else END
                return found
            continue
        payload, found.codes = message.finish(found)
        if found.codes:
            return found
        found.events.append(("message", message.opcode, payload))
        if message.terms is not None:
            window = (window + payload)[-WINDOW_BYTES:]
        message = None
    return found


def wrong_with_head(part: Part, message: Message | None, limit: int, found: Reading) -> set[int]:
    """Return the codes for what is wrong with a frame's header, and note what it is."""
    codes = set()
    for rule in rfc.broken(part.header):
        codes.add(1002)
        found.met(rule.says)
    if part.top_bit:
        codes.add(1002)
        found.met("top bit")
    elif part.longer_form and (part.known or codes):
        codes.add(1002)
        found.met("length in a longer form than it needs")
    if codes and part.header.compression and (part.header.rsv & 4 or (message and message.terms)):
        found.met("wrong frame that somebody may inflate")
    held, most = (len(message.raw), message.wire_limit) if message is not None else (0, limit)
    is_data = part.header.opcode in rfc.DATA
    # Whatever is wrong already, somebody may count as a part of the message, and judge by its length.
    if part.length > most - held and (codes or (part.known and is_data)):
        codes.add(1009)
        found.met("too long")
    elif part.length > limit - (message.held if message is not None else 0):
        if not is_data and message is not None:
            found.met("control frame longer than what is left of the limit")
        elif codes:
            codes.add(1009)
        else:
            found.met("compressed message longer than the limit in its frames")
    return codes


def close(body: bytes, inside: bool, found: Reading) -> None:
    """Read a close frame's body (6455: 5.5.1)."""
    if inside:
        found.met("close frame within a message")
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
        found.met("close code 1014")
    if not found.codes:
        found.events.append(("close", code, body[2:]))
