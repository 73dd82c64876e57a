"""Streaming UTF-8 validation against CPython's decoder, which nobody here wrote."""

import functools
import random

import pytest
from uws_shims import utf8_shim

# The last code point of each length, the first of the next, and what lies around the surrogates.
EDGES = [0, 0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xCFFF, 0xD000, 0xD7FF, 0xE000, 0xFFFD, 0xFFFF]
EDGES += [0x10000, 0x3FFFF, 0x40000, 0xFFFFF, 0x100000, 0x10FFFF]
# At least one byte of every kind that the standard tells apart, and both ends of each.
KINDS = [0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED]
KINDS += [0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF8, 0xFC, 0xFE, 0xFF]


# What may follow an unfinished character, if anything may: the lowest and the highest second byte cover the
# four lead bytes that restrict it.
ENDINGS = [b"", b"\x80", b"\xbf", b"\x80\x80", b"\xbf\x80", b"\x80\x80\x80", b"\xbf\x80\x80"]


@functools.lru_cache(100_000)
def may_go_on(unfinished: bytes) -> bool:
    return any(is_utf8(unfinished + ending) for ending in ENDINGS)


def refused_at(data: bytes) -> int:
    """Index of the first byte after which CPython decodes no continuation; -1: valid; -2: unfinished.

    Its incremental decoder is no oracle for this: it takes ED A0 and refuses the byte after it.
    """
    begin = 0
    for i in range(len(data)):
        if is_utf8(data[begin : i + 1]):
            begin = i + 1
        elif not may_go_on(data[begin : i + 1]):
            return i
    return -1 if begin == len(data) else -2


def is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def feed(*pieces: bytes) -> int:
    """As refused_at(), but -3 for a refusal somewhere."""
    state = 0
    for piece in pieces:
        status, state = utf8_shim.feed(state, piece)
        if status != utf8_shim.OK:
            assert status == utf8_shim.E_UTF8
            return -3
    return -2 if state else -1


def test_the_oracle_itself_refuses_at_the_first_byte_that_shows_it() -> None:
    assert refused_at(b"\xed\xa0\x80") == 1
    assert refused_at(b"\xf4\x90\x80\x80") == 1
    assert refused_at(b"\xf8\x88") == 0
    assert refused_at(b"a\xe4\xb8") == -2


def verdict(data: bytes) -> int:
    """1 + the index that is refused; 0: valid; 4: unfinished. As the shim's scan_three() says it."""
    at = refused_at(data)
    return at + 1 if at >= 0 else {-1: 0, -2: 4}[at]


def behind(before: int, found: int) -> int:
    """A verdict on bytes that stand behind this many good ones."""
    return found if found in (0, 4) else found + before


def test_every_sequence_of_one_to_three_bytes() -> None:
    one = [verdict(bytes([a])) for a in range(256)]
    two = [[verdict(bytes([a, b])) for b in range(256)] for a in range(256)]
    behind_one = [bytes(behind(1, found) for found in row) for row in two]
    behind_two = bytes(behind(2, found) for found in one)
    at_once = bytes([0, 9, 9, 9, 4]) + bytes(251)
    asked = 0
    for a in range(256):
        for b in range(256):
            # CPython is asked about three bytes only where the first two leave it open, or this takes minutes.
            if 0 < two[a][b] < 4:
                expected = bytes([two[a][b]]) * 256
            elif one[a] == 0:
                expected = behind_one[b]
            elif two[a][b] == 0:
                expected = behind_two
            else:
                asked += 1
                expected = bytes(verdict(bytes([a, b, c])) for c in range(256))
            got = utf8_shim.scan_three(a, b)
            assert got[:256] == expected, (a, b)
            assert got[256:] == expected.translate(at_once), (a, b)
    assert asked == 32 + 14 * 64 + 32 + 48 + 3 * 64 + 16


def test_every_code_point() -> None:
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    for at in range(0, len(points), 0x1000):
        assert feed("".join(map(chr, points[at : at + 0x1000])).encode()) == -1


def test_every_surrogate_is_refused_at_its_second_byte() -> None:
    for point in range(0xD800, 0xE000):
        assert utf8_shim.refused_at(chr(point).encode("utf-8", "surrogatepass")) == 1


def test_overlong_forms_and_points_beyond_unicode_are_refused_as_early_as_possible() -> None:
    assert utf8_shim.refused_at(b"\xc0\x80") == 0
    assert utf8_shim.refused_at(b"\xc1\xbf") == 0
    assert utf8_shim.refused_at(b"\xe0\x9f\xbf") == 1
    assert utf8_shim.refused_at(b"\xf0\x8f\xbf\xbf") == 1
    assert utf8_shim.refused_at(b"\xf4\x90\x80\x80") == 1
    assert utf8_shim.refused_at(b"\xf5\x80\x80\x80") == 0
    assert utf8_shim.refused_at(b"\xf8\x88\x80\x80\x80") == 0


def test_four_bytes_of_every_kind() -> None:
    for a in (0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5):
        for b in KINDS:
            for c in KINDS:
                for d in (0x00, 0x7F, 0x80, 0xBF, 0xC0, 0xFF):
                    data = bytes([a, b, c, d])
                    assert utf8_shim.refused_at(data) == refused_at(data), data


@pytest.mark.parametrize("pad", [0, 1, 7, 8, 15, 16, 17, 31, 63, 64, 65, 100])
def test_every_split_of_text_with_every_length_of_character(pad: int) -> None:
    data = b"x" * pad + "".join(map(chr, EDGES)).encode() + b"y" * pad
    for cut in range(len(data) + 1):
        assert feed(data[:cut], data[cut:]) == -1
        assert feed(data[:cut]) == refused_at(data[:cut])
    assert feed(*(data[i : i + 1] for i in range(len(data)))) == -1


def test_a_bad_byte_is_found_wherever_it_stands() -> None:
    # The fast path looks at 16 and 64 bytes at once; nothing may hide in any place of them.
    for length in range(1, 200):
        for at in range(length):
            data = bytearray(b"a" * length)
            data[at] = 0x80
            assert feed(bytes(data)) == -3
            data[at] = 0xC3
            assert feed(bytes(data)) == (-2 if at == length - 1 else -3)


def test_no_continuation_reads_across_the_end_of_a_piece() -> None:
    # The byte behind the piece must not count.
    data = memoryview("é".encode() + b"\xff")
    assert utf8_shim.feed(0, data[:2]) == (utf8_shim.OK, 0)
    assert utf8_shim.feed(0, data[:0]) == (utf8_shim.OK, 0)
    status, state = utf8_shim.feed(0, data[:1])
    assert status == utf8_shim.OK and state != 0
    assert utf8_shim.feed(state, data[:0]) == (utf8_shim.OK, state)


def test_a_refused_message_stays_refused() -> None:
    status, state = utf8_shim.feed(0, b"\xff")
    assert status == utf8_shim.E_UTF8
    for data in (b"", b"a", b"a" * 100, "é".encode()):
        assert utf8_shim.feed(state, data)[0] == utf8_shim.E_UTF8


def test_random_text_damaged_and_chopped_agrees_with_the_decoder() -> None:
    rng = random.Random(3)
    alphabets = ["abc ", "äöü a", "привет ", "世界", "😀a", "".join(map(chr, EDGES))]
    refused = 0
    for _ in range(4000):
        text = "".join(rng.choices(rng.choice(alphabets), k=rng.randrange(80)))
        data = bytearray(text.encode())
        for _ in range(rng.choice([0, 0, 1, 2])):
            if data:
                data[rng.randrange(len(data))] = rng.choice(KINDS)
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(5)))
        pieces = [bytes(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        got = feed(*pieces)
        assert (got == -1) == is_utf8(bytes(data))
        at = refused_at(bytes(data))
        assert got == (-3 if at >= 0 else at)
        assert utf8_shim.refused_at(data) == at
        refused += at >= 0
    assert 1000 < refused < 3000
