"""Random streams of frames as a client might send them: in order, or with something damaged on purpose.

A stream is made from its seed and its number alone, so that any one can be made again.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import rfc
from raw import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame

# What a message may have; the smaller ones are passed by frames and by fragments together.
LIMITS = [1 << 20, 1 << 20, 1000, 125]
# A header of 14 bytes and a payload: above that, feeding byte by byte is only slow.
BYTEWISE_BYTES = 2000

WORDS = [
    "",
    "a",
    "hello",
    "größe",
    "世界",
    "😀",
    "\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U0010ffff",
    "x" * 40,
]
EDGES = [0, 1, 124, 125, 126, 127, 128, 1000]
LONG_EDGES = [65_535, 65_536, 65_537, 70_000]
CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]


class Terms(NamedTuple):
    """permessage-deflate as negotiated for what the client sends: window, and whether a context is kept."""

    bits: int
    takeover: bool


@dataclass
class Piece:
    """One frame to be written; length None declares the payload's own, form None the shortest."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    masked: bool = True
    length: int | None = None
    form: int | None = None

    def encode(self, rng: random.Random) -> bytes:
        mask = rng.randbytes(4) if self.masked else False
        declared = len(self.payload) if self.length is None else self.length
        # Something else may have been done to it since its form was chosen.
        form = 64 if self.form is not None and declared >= 1 << 16 else self.form
        return frame(self.opcode, self.payload, self.fin, self.rsv, mask, form, declared)


class Stream(NamedTuple):
    """What a client sends, and in which pieces it arrives. made: what was done to it."""

    number: int
    limit: int
    terms: Terms | None
    data: bytes
    cuts: tuple[int, ...]
    made: tuple[str, ...]

    def pieces(self) -> list[bytes]:
        return [self.data[a:b] for a, b in pairwise((0, *self.cuts, len(self.data)))]


# --- what is in order ---


def text(rng: random.Random) -> bytes:
    if rng.random() < 0.05:
        return b"".join(rng.choice(WORDS).encode() for _ in range(rng.randrange(200)))
    return "".join(rng.choice(WORDS) for _ in range(rng.randrange(4))).encode()


def binary(rng: random.Random) -> bytes:
    size = rng.choice(EDGES) if rng.random() < 0.3 else rng.randrange(40)
    if rng.random() < 0.005:
        size = rng.choice(LONG_EDGES)
    return rng.randbytes(size) if rng.random() < 0.5 else bytes([rng.randrange(256)]) * size


def parts(rng: random.Random, payload: bytes) -> list[bytes]:
    """Cut a payload into fragments, now and then empty ones, in the middle of characters too."""
    if rng.random() < 0.5:
        return [payload]
    at = sorted(rng.randrange(len(payload) + 1) for _ in range(rng.randrange(1, 5)))
    return [payload[a:b] for a, b in pairwise((0, *at, len(payload)))]


class Client:
    """Writes one stream's frames."""

    def __init__(self, rng: random.Random, terms: Terms | None) -> None:
        self.rng = rng
        self.terms = terms
        self.pieces: list[Piece] = []
        self._deflate = self._deflater()

    def _deflater(self) -> zlib._Compress | None:
        if self.terms is None:
            return None
        # All that a compressor may choose is a client's choice: level (0 stores), strategy, a smaller window.
        # zlib cannot write raw deflate with a window of 256 bytes.
        least = max(9, self.terms.bits - 2)
        bits = self.rng.randrange(least, self.terms.bits + 1) if self.terms.bits > 9 else 9
        strategy = self.rng.choice([zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE])
        return zlib.compressobj(
            self.rng.randrange(10), zlib.DEFLATED, -bits, self.rng.randrange(1, 10), strategy
        )

    def compressed(self, payload: bytes) -> bytes:
        """Return a message's payload as RFC 7692 (7.2.1) has it, in one of the ways that 7.2.3 shows."""
        assert self.terms is not None
        if not self.terms.takeover or self._deflate is None:
            self._deflate = self._deflater()
        assert self._deflate is not None
        if not self.terms.takeover and self.rng.random() < 0.1:
            # 7.2.3.4: a last block, and behind it the beginning of an empty one.
            return self._deflate.compress(payload) + self._deflate.flush(zlib.Z_FINISH) + b"\x00"
        data = b""
        if self.rng.random() < 0.3:
            # 7.2.3.5: several blocks.
            at = self.rng.randrange(len(payload) + 1)
            mode = self.rng.choice([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH])
            data = self._deflate.compress(payload[:at]) + self._deflate.flush(mode)
            payload = payload[at:]
        data += self._deflate.compress(payload) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        if not data.endswith(b"\x00\x00\xff\xff"):
            # zlib flushes only once what it has flushed already; 7.2.3.6 says how an empty message looks.
            return b"\x00"
        return data[:-4]

    def message(self) -> None:
        opcode = self.rng.choice([TEXT, TEXT, BINARY])
        payload = text(self.rng) if opcode == TEXT else binary(self.rng)
        rsv = 0
        if self.terms is not None and self.rng.random() < 0.7:
            payload, rsv = self.compressed(payload), 4
        fragments = parts(self.rng, payload)
        for i, part in enumerate(fragments):
            last = i == len(fragments) - 1
            self.pieces.append(Piece(CONT if i else opcode, part, last, 0 if i else rsv))
            if not last and self.rng.random() < 0.3:
                self.control()

    def control(self) -> None:
        payload = self.rng.randbytes(self.rng.choice([0, 1, 4, 125]))
        self.pieces.append(Piece(self.rng.choice([PING, PONG]), payload))

    def close(self) -> None:
        body = b""
        if self.rng.random() < 0.8:
            body = struct.pack("!H", self.rng.choice(CODES)) + text(self.rng)[:123]
            while True:
                try:
                    body[2:].decode()
                    break
                except UnicodeDecodeError:
                    body = body[:-1]
        self.pieces.append(Piece(CLOSE, body))


def in_order(rng: random.Random, terms: Terms | None) -> list[Piece]:
    client = Client(rng, terms)
    for _ in range(rng.randrange(1, 6)):
        if rng.random() < 0.25:
            client.control()
        else:
            client.message()
    if rng.random() < 0.7:
        client.close()
        if rng.random() < 0.2:
            # What comes behind a close frame is nobody's concern.
            client.message()
    return client.pieces


# --- what is not: first what is done to the frames, then what is done to their bytes ---

ILL_FORMED = [bad for bad in rfc.ill_formed() if bad[0] >= 0x80]


def length_lies(rng: random.Random, piece: Piece) -> Piece:
    own = len(piece.payload)
    which = rng.randrange(5)
    if which == 0:
        return replace(piece, length=max(0, own + rng.choice([-3, -2, -1, 1, 2, 3])))
    if which == 1:
        return replace(piece, form=rng.choice([16, 64]) if own < 65536 else 64)
    if which == 2:
        return replace(piece, form=64, length=rng.choice([1 << 63, (1 << 64) - 1, own | 1 << 63]))
    if which == 3:
        return replace(piece, length=rng.choice([1000, 1 << 20, (1 << 20) + 1, 1 << 32, (1 << 63) - 1]))
    return replace(piece, length=rng.choice([0, 125, 126, 65_535, 65_536]))


def mask_is_missing(rng: random.Random, piece: Piece) -> Piece:
    return replace(piece, masked=False)


def reserved_bits(rng: random.Random, piece: Piece) -> Piece:
    return replace(piece, rsv=rng.randrange(8))


def another_opcode(rng: random.Random, piece: Piece) -> Piece:
    return replace(piece, opcode=rng.randrange(16))


def another_fin(rng: random.Random, piece: Piece) -> Piece:
    return replace(piece, fin=not piece.fin)


def text_is_damaged(rng: random.Random, piece: Piece) -> Piece:
    at = rng.randrange(len(piece.payload) + 1)
    return replace(piece, payload=piece.payload[:at] + rng.choice(ILL_FORMED) + piece.payload[at:])


def payload_is_damaged(rng: random.Random, piece: Piece) -> Piece:
    payload = bytearray(piece.payload or b"\x00")
    payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
    return replace(piece, payload=bytes(payload))


def control_is_too_long(rng: random.Random, piece: Piece) -> Piece:
    size = 70_000 if rng.random() < 0.01 else rng.choice([124, 125, 200])
    return Piece(rng.choice([CLOSE, PING, PONG]), b"\x03\xe8" + b"x" * size)


def close_is_damaged(rng: random.Random, piece: Piece) -> Piece:
    codes = [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535]
    code = rng.choice(CODES if rng.random() < 0.5 else codes)
    reason = rng.choice([b"", b"why", b"\xff", "é".encode()[:1], b"x" * 123])
    return Piece(CLOSE, rng.choice([b"\x03", struct.pack("!H", code) + reason]))


CHANGES: list[Callable[[random.Random, Piece], Piece]] = [
    length_lies,
    mask_is_missing,
    reserved_bits,
    another_opcode,
    another_fin,
    text_is_damaged,
    payload_is_damaged,
    control_is_too_long,
    close_is_damaged,
]


def swapped(rng: random.Random, pieces: list[Piece], at: int) -> None:
    other = rng.randrange(len(pieces))
    pieces[at], pieces[other] = pieces[other], pieces[at]


def left_out(rng: random.Random, pieces: list[Piece], at: int) -> None:
    del pieces[at]


def twice(rng: random.Random, pieces: list[Piece], at: int) -> None:
    pieces.insert(at, pieces[at])


def message_between(rng: random.Random, pieces: list[Piece], at: int) -> None:
    pieces.insert(at, Piece(rng.choice([TEXT, BINARY, CONT]), text(rng), rng.random() < 0.5))


def control_between(rng: random.Random, pieces: list[Piece], at: int) -> None:
    payload = rng.choice([b"", b"\x03\xe8", b"\x03\xe8bye"])
    pieces.insert(at, Piece(rng.choice([CLOSE, PING, PONG]), payload, rng.random() < 0.9))


ORDERS: list[Callable[[random.Random, list[Piece], int], None]] = [
    swapped,
    left_out,
    twice,
    message_between,
    control_between,
]


def bits_flip(rng: random.Random, data: bytes) -> bytes:
    flipped = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def cut_short(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


BYTES: list[Callable[[random.Random, bytes], bytes]] = [bits_flip, cut_short]


def cuts(rng: random.Random, size: int) -> tuple[int, ...]:
    """Return where the stream is cut: nowhere, everywhere, or at random places."""
    how = rng.random()
    if how < 0.2 or size < 2:
        return ()
    if how < 0.4 and size <= BYTEWISE_BYTES:
        return tuple(range(1, size))
    return tuple(sorted({rng.randrange(1, size) for _ in range(rng.choice([1, 2, 5, 20]))}))


def stream(seed: int, number: int) -> Stream:
    """Make one stream, the same for the same seed and number."""
    rng = random.Random(f"{seed}:{number}")
    terms = None
    if rng.random() < 0.5:
        terms = Terms(rng.choice([15, 15, 12, 9]), rng.random() < 0.5)
    pieces = in_order(rng, terms)
    made = []
    for _ in range(rng.choice([0, 0, 1, 1, 1, 2, 3])):
        if not pieces:
            break
        at = rng.randrange(len(pieces))
        if rng.random() < 0.65:
            change = rng.choice(CHANGES)
            pieces[at] = change(rng, pieces[at])
            made.append(change.__name__)
        else:
            order = rng.choice(ORDERS)
            order(rng, pieces, at)
            made.append(order.__name__)
    data = b"".join(piece.encode(rng) for piece in pieces)
    for damage in BYTES:
        if data and rng.random() < 0.1:
            data = damage(rng, data)
            made.append(damage.__name__)
    return Stream(number, rng.choice(LIMITS), terms, data, cuts(rng, len(data)), tuple(made))
