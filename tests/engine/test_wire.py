"""The kernels as Python sees them: what they take, what they refuse, and that they let go of the GIL."""

from __future__ import annotations

import random
import sys
import threading
from typing import Any

import pytest

import unlimitedws
from _uws import wire

KEY = b"\x01\x20\xf3\x84"


def naive(data: bytes, key: bytes, offset: int = 0) -> bytes:
    return bytes(byte ^ key[(offset + i) % 4] for i, byte in enumerate(data))


# ---- masking


@pytest.mark.parametrize("length", [*range(0, 70), 127, 128, 129, 1000, 4096, 4099])
def test_masks_are_those_of_a_naive_loop_at_every_offset(length: int) -> None:
    data = random.Random(length).randbytes(length)
    for offset in (*range(9), 2**31 + 1, 2**64 + 2):
        want = naive(data, KEY, offset)
        assert wire.masked(data, KEY, offset) == want
        room = bytearray(b"<" + data + b">")
        wire.mask_in_place(memoryview(room)[1 : length + 1], KEY, offset)
        assert bytes(room) == b"<" + want + b">"


def test_masking_in_pieces_is_masking_the_whole() -> None:
    data = random.Random(7).randbytes(3001)
    whole = wire.masked(data, KEY)
    for cut in (0, 1, 2, 3, 31, 33, 1000, 3000, 3001):
        assert wire.masked(data[:cut], KEY) + wire.masked(data[cut:], KEY, cut) == whole


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_data_and_any_buffer_is_a_key(kind: Any) -> None:
    assert wire.masked(kind(b"hello, world"), kind(KEY)) == naive(b"hello, world", KEY)
    assert type(wire.masked(kind(b"x"), KEY)) is bytes


def test_bytes_are_never_masked_in_place() -> None:
    data = bytes(range(64))
    for readonly in (data, memoryview(data)):
        with pytest.raises(BufferError):
            wire.mask_in_place(readonly, KEY)
    assert data == bytes(range(64))


def test_a_buffer_with_gaps_is_refused() -> None:
    with pytest.raises(BufferError):
        wire.mask_in_place(memoryview(bytearray(8))[::2], KEY)
    with pytest.raises(BufferError):
        wire.masked(memoryview(b"12345678")[::2], KEY)


@pytest.mark.parametrize("key", [b"", b"123", b"12345"])
def test_a_key_has_four_bytes(key: bytes) -> None:
    room = bytearray(b"untouched")
    with pytest.raises(ValueError, match="4 bytes"):
        wire.masked(b"data", key)
    with pytest.raises(ValueError, match="4 bytes"):
        wire.mask_in_place(room, key)
    with pytest.raises(ValueError, match="4 bytes"):
        wire.encode_header(1, 0, True, 0, key)
    assert room == b"untouched"


def test_a_key_is_no_text_and_data_neither() -> None:
    text: Any = "text"
    with pytest.raises(TypeError):
        wire.masked(b"data", text)
    with pytest.raises(TypeError):
        wire.masked(text, KEY)


def test_a_buffer_is_let_go_of_whether_it_was_taken_or_refused() -> None:
    room = bytearray(16)
    wire.mask_in_place(room, KEY)
    wire.masked(room, KEY)
    wire.decode_header(room)
    wire.is_utf8(room)
    with pytest.raises(ValueError, match="offset"):
        wire.decode_header(room, 17)
    with pytest.raises(ValueError, match="4 bytes"):
        wire.masked(b"", room)
    # A bytearray with an open view does not grow.
    room.extend(b"more")


def test_large_buffers_are_masked_while_others_run() -> None:
    room = bytearray(64 << 20)
    seen: list[int] = []
    begun = threading.Event()

    def other() -> None:
        begun.wait(10)
        seen.append(1)

    thread = threading.Thread(target=other)
    thread.start()
    interval = sys.getswitchinterval()
    # Nobody is asked for the GIL: whoever lets go of it does so by itself.
    sys.setswitchinterval(100)
    try:
        begun.set()
        for _ in range(50):
            wire.mask_in_place(room, KEY)
            if seen:
                break
        ran = len(seen)
    finally:
        sys.setswitchinterval(interval)
        thread.join(10)
    assert ran == 1


# ---- headers


def test_every_header_is_encoded_and_decoded_again() -> None:
    for length in (0, 125, 126, 65535, 65536, 2**63 - 1):
        for opcode in range(16):
            for rsv in range(8):
                for fin in (False, True):
                    for key in (None, KEY):
                        data = wire.encode_header(opcode, length, fin, rsv, key)
                        fields = (opcode, length, fin, rsv, key)
                        assert wire.decode_header(data) == fields
                        assert wire.decode_header(b"...." + data + b"....", 4) == fields
                        for cut in range(len(data)):
                            assert wire.decode_header(data[:cut]) is None


@pytest.mark.parametrize(
    "fields", [(-1, 0, 0), (16, 0, 0), (1, -1, 0), (1, 2**63, 0), (1, 2**64, 0), (1, 0, -1), (1, 0, 8)]
)
def test_what_does_not_fit_its_field_is_refused(fields: tuple[int, int, int]) -> None:
    opcode, length, rsv = fields
    with pytest.raises(ValueError, match=r"opcode|length|reserved"):
        wire.encode_header(opcode, length, True, rsv, None)


@pytest.mark.parametrize("offset", [-1, 5])
def test_an_offset_lies_within_the_data(offset: int) -> None:
    with pytest.raises(ValueError, match="offset"):
        wire.decode_header(b"\x81\x00\x81\x00", offset)


def test_nothing_is_there_at_the_end_of_the_data() -> None:
    assert wire.decode_header(b"\x81\x00", 2) is None
    assert wire.decode_header(b"") is None


def test_a_length_in_a_longer_form_than_it_needs_is_a_protocol_error() -> None:
    for data in (b"\x82\x7e\x00\x7d", b"\x82\x7f" + bytes(6) + b"\xff\xff", b"\x82\x7f\x80"):
        with pytest.raises(unlimitedws.ProtocolError) as caught:
            wire.decode_header(data)
        assert caught.value.code == 1002


# ---- text and close codes


def test_text_is_utf8_where_python_decodes_it() -> None:
    pieces = [b"", b"plain", "häßlich €".encode(), "\U0010ffff".encode(), b"\x80", b"\xc3", b"\xff"]
    pieces += [b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"a" * 100 + b"\xe2\x82"]
    for piece in pieces:
        try:
            piece.decode()
        except UnicodeDecodeError:
            assert not wire.is_utf8(piece)
        else:
            assert wire.is_utf8(bytearray(piece))


def test_close_codes_of_any_size_may_be_asked_about() -> None:
    may = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    assert {code for code in range(-10, 70000) if wire.may_close_with(code)} == may
    assert not wire.may_close_with(2**64 + 1000)
