"""Inflate (RFC 1951), read bit by bit by somebody who cares about nothing else: what a stream says, how far
back its matches reach, and whether it ends where a block does. Slow; an oracle for tests."""

from __future__ import annotations

from typing import NamedTuple

_LENGTHS = [(3 + i, 0) for i in range(8)]
for _bits in range(1, 6):
    _LENGTHS += [(_LENGTHS[-1][0] + (1 << _LENGTHS[-1][1]) + (i << _bits), _bits) for i in range(4)]
_LENGTHS.append((258, 0))
_DISTANCES = [(1 + i, 0) for i in range(4)]
for _bits in range(1, 14):
    _DISTANCES += [(_DISTANCES[-1][0] + (1 << _DISTANCES[-1][1]) + (i << _bits), _bits) for i in range(2)]
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)

Code = dict[tuple[int, int], int]


class Said(NamedTuple):
    """message: without the window before it. farthest: the largest distance of a match; 0: there was none."""

    message: bytes
    farthest: int
    blocks: int


class BrokenStreamError(Exception):
    """No deflate data, or not all of it. so_far: the message up to there."""

    so_far = b""


class _Bits:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> int:
        if self.at + count > 8 * len(self.data):
            raise BrokenStreamError("it ends within a block")
        value = 0
        for i in range(count):
            value |= (self.data[self.at >> 3] >> (self.at & 7) & 1) << i
            self.at += 1
        return value

    def symbol(self, code: Code) -> int:
        value = 0
        for length in range(1, 16):
            value = value << 1 | self.take(1)
            if (length, value) in code:
                return code[length, value]
        raise BrokenStreamError("no such code")


def _code(lengths: list[int], single: bool = False) -> Code:
    """Section 3.2.2. single: one code of one bit is fine, though it leaves the other one unused (3.2.7)."""
    code, value = {}, 0
    for length in range(1, 16):
        value <<= 1
        for symbol, its in enumerate(lengths):
            if its == length:
                code[length, value] = symbol
                value += 1
        if value > 1 << length:
            raise BrokenStreamError("more codes than there is room for")
    if code and value != 1 << 15 and not (single and list(code) == [(1, 0)]):
        raise BrokenStreamError("codes that are never used")
    return code


def _tables(bits: _Bits) -> tuple[Code, Code]:
    literals, distances, count = bits.take(5) + 257, bits.take(5) + 1, bits.take(4) + 4
    if literals > 286 or distances > 30:
        raise BrokenStreamError("more symbols than there are")
    lengths = [0] * 19
    for symbol in _ORDER[:count]:
        lengths[symbol] = bits.take(3)
    code, lengths = _code(lengths), []
    while len(lengths) < literals + distances:
        symbol = bits.symbol(code)
        if symbol < 16:
            lengths.append(symbol)
        elif symbol == 16:
            if not lengths:
                raise BrokenStreamError("nothing to repeat")
            lengths += [lengths[-1]] * (3 + bits.take(2))
        else:
            lengths += [0] * (3 + bits.take(3) if symbol == 17 else 11 + bits.take(7))
    if len(lengths) > literals + distances or lengths[256] == 0:
        raise BrokenStreamError("too many lengths, or no end of the block")
    return _code(lengths[:literals], True), _code(lengths[literals:], True)


_FIXED = (_code([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8), _code([5] * 32))


def inflate(payload: bytes, window: bytes = b"") -> Said:
    """Read one message as RFC 7692, section 7.2.2, has it. Behind a final block it may end, or go on at the
    next byte."""
    out = bytearray(window)
    try:
        farthest, blocks = _read(payload, out)
    except BrokenStreamError as exc:
        exc.so_far = bytes(out[len(window) :])
        raise
    return Said(bytes(out[len(window) :]), farthest, blocks)


def _read(payload: bytes, out: bytearray) -> tuple[int, int]:
    if not payload:
        return 0, 0
    bits = _Bits(payload + b"\x00\x00\xff\xff")
    farthest = blocks = 0
    while 8 * len(bits.data) - bits.at >= 3:
        final, kind = bits.take(1), bits.take(2)
        blocks += 1
        if kind == 3:
            raise BrokenStreamError("no such kind of block")
        if kind == 0:
            bits.at = (bits.at + 7) & ~7
            length, check = bits.take(16), bits.take(16)
            if length != check ^ 0xFFFF:
                raise BrokenStreamError("a stored block's lengths differ")
            for _ in range(length):
                out.append(bits.take(8))
        else:
            literals, distances = _FIXED if kind == 1 else _tables(bits)
            while (symbol := bits.symbol(literals)) != 256:
                if symbol < 256:
                    out.append(symbol)
                    continue
                if symbol > 285:
                    raise BrokenStreamError("no such length")
                length, extra = _LENGTHS[symbol - 257]
                length += bits.take(extra)
                symbol = bits.symbol(distances)
                if symbol > 29:
                    raise BrokenStreamError("no such distance")
                distance, extra = _DISTANCES[symbol]
                distance += bits.take(extra)
                if distance > len(out):
                    raise BrokenStreamError("a match before the beginning")
                farthest = max(farthest, distance)
                for _ in range(length):
                    out.append(out[-distance])
        if final:
            bits.at = (bits.at + 7) & ~7
            if bits.at > 8 * len(payload):
                raise BrokenStreamError("a final block that ends in what the receiver appends")
            if bits.at == 8 * len(payload):
                break
    return farthest, blocks
