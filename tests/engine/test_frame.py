"""Frames: headers, the RFC's rules on them, close bodies. Enumerated, not sampled, where that is possible."""

import random
import struct

import pytest
from uws_shims import frame_shim
from websockets.exceptions import ProtocolError
from websockets.frames import Close, Frame, Opcode

OK, PROTOCOL, TOO_BIG, UTF8 = frame_shim.OK, frame_shim.E_PROTOCOL, frame_shim.E_TOO_BIG, frame_shim.E_UTF8
KEY = bytes([1, 2, 3, 4])
LENGTHS = [0, 1, 124, 125, 126, 127, 128, 255, 256, 65534, 65535, 65536, 65537, 2**31, 2**32, 2**63 - 1]


def header(b0: int, length: int, key: bytes = KEY) -> bytes:
    mask = 0x80 if key else 0
    if length < 126:
        return bytes([b0, mask | length]) + key
    if length < 65536:
        return bytes([b0, mask | 126]) + struct.pack("!H", length) + key
    return bytes([b0, mask | 127]) + struct.pack("!Q", length) + key


# ---- decode --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, b""], ids=["masked", "unmasked"])
@pytest.mark.parametrize("length", LENGTHS)
def test_header_is_decoded_for_every_first_byte(length: int, key: bytes) -> None:
    for b0 in range(256):
        data = header(b0, length, key)
        fields = (b0 >> 7, b0 >> 4 & 7, b0 & 15, int(bool(key)), length, key or bytes(4), len(data))
        assert frame_shim.decode(data) == (len(data), fields)
        assert frame_shim.decode(data + b"payload") == (len(data), fields)


@pytest.mark.parametrize("length", LENGTHS)
def test_header_needs_all_of_its_bytes(length: int) -> None:
    for key in (KEY, b""):
        data = header(0x82, length, key)
        for cut in range(len(data)):
            assert frame_shim.decode(data[:cut]) == (0, None)


def test_length_in_two_bytes_that_fits_in_seven_bits_is_1002() -> None:
    for length in range(126):
        assert frame_shim.decode(b"\x82\xfe" + struct.pack("!H", length)) == (PROTOCOL, None)
    assert frame_shim.decode(b"\x82\xfe" + struct.pack("!H", 126) + KEY)[0] == 8


def test_length_in_eight_bytes_that_fits_in_two_is_1002() -> None:
    for length in (0, 1, 125, 126, 65535):
        assert frame_shim.decode(b"\x82\xff" + struct.pack("!Q", length)) == (PROTOCOL, None)
    assert frame_shim.decode(b"\x82\xff" + struct.pack("!Q", 65536) + KEY)[0] == 14


def test_top_bit_of_a_length_is_1002_as_soon_as_it_is_there() -> None:
    data = b"\x82\xff" + struct.pack("!Q", 1 << 63)
    assert frame_shim.decode(data[:2]) == (0, None)
    for cut in range(3, 11):
        assert frame_shim.decode(data[:cut], 2**64 - 1) == (PROTOCOL, None)


@pytest.mark.parametrize("length", LENGTHS)
def test_payload_beyond_the_limit_is_1009_before_the_key_is_there(length: int) -> None:
    data = header(0x82, length)
    assert frame_shim.decode(data, length)[0] == len(data)
    if length:
        assert frame_shim.decode(data, length - 1) == (TOO_BIG, None)
        assert frame_shim.decode(data[:-4], length - 1) == (TOO_BIG, None)
        assert frame_shim.decode(data, 0) == (TOO_BIG, None)


def test_length_is_compared_before_it_is_cast() -> None:
    # Cut to 32 bits, these would be 0 and 1.
    assert frame_shim.decode(header(0x82, 1 << 32), 1000) == (TOO_BIG, None)
    assert frame_shim.decode(header(0x82, (1 << 62) + 1), 1000) == (TOO_BIG, None)


def test_frames_of_a_peer_are_decoded() -> None:
    for length in (0, 5, 125, 126, 65535, 65536):
        data = Frame(Opcode.BINARY, b"x" * length).serialize(mask=True)
        size, fields = frame_shim.decode(data)
        assert size == len(data) - length
        assert fields[:5] == (1, 0, 2, 1, length)
        assert fields[5] == data[size - 4 : size]


# ---- check ---------------------------------------------------------------------------------------


def rules(b0: int, b1: int, in_message: bool, rsv_allowed: int) -> bool:
    """RFC 6455, sections 5.1 to 5.5, and RFC 7692, section 6.1: sentence after sentence."""
    fin, rsv, opcode = b0 >> 7, b0 >> 4 & 7, b0 & 15
    masked, length = b1 >> 7, b1 & 127
    if not masked:
        return False
    if opcode not in (0, 1, 2, 8, 9, 10):
        return False
    if opcode >= 8:
        return bool(fin) and length <= 125 and rsv == 0
    if opcode == 0:
        return in_message and rsv == 0
    return not in_message and rsv & ~rsv_allowed == 0


@pytest.mark.parametrize("in_message", [False, True], ids=["between messages", "in a message"])
@pytest.mark.parametrize("rsv_allowed", range(8))
def test_every_pair_of_first_bytes_is_judged_as_the_rfc_says(in_message: bool, rsv_allowed: int) -> None:
    for b0 in range(256):
        expected = bytes(rules(b0, b1, in_message, rsv_allowed) for b1 in range(256))
        assert frame_shim.check_all(b0, in_message, rsv_allowed) == expected, hex(b0)


def test_any_number_but_zero_says_that_a_message_is_open() -> None:
    for in_message in (1, 2, 4, 256, -1):
        assert frame_shim.check(0x80, 0x80, in_message, 0) == OK
        assert frame_shim.check(0x81, 0x80, in_message, 0) == PROTOCOL


def test_a_peer_agrees_on_single_frames() -> None:
    # What websockets can judge without a connection: opcodes, reserved bits, control frames.
    for b0 in range(256):
        opcode, fin, rsv = b0 & 15, bool(b0 & 0x80), b0 >> 4 & 7
        try:
            frame = Frame(Opcode(opcode), b"", fin, bool(rsv & 4), bool(rsv & 2), bool(rsv & 1))
            frame.check()
            fine = rsv == 0
        except (ValueError, ProtocolError):
            fine = False
        assert (frame_shim.check(b0, 0x80, int(opcode == 0), 0) == OK) == fine


@pytest.mark.parametrize(
    ("b0", "b1", "in_message", "why"),
    [
        (0x81, 0x05, 0, "5.1: not masked"),
        (0xC1, 0x85, 0, "5.2: RSV1 that was not negotiated"),
        (0x83, 0x85, 0, "5.2: reserved opcode"),
        (0x8B, 0x85, 0, "5.2: reserved control opcode"),
        (0x80, 0x85, 0, "5.4: continuation of nothing"),
        (0x81, 0x85, 1, "5.4: a message inside another"),
        (0x09, 0x85, 0, "5.5: fragmented control frame"),
        (0x89, 0xFE, 0, "5.5: long control frame"),
    ],
)
def test_each_rule_alone_is_1002(b0: int, b1: int, in_message: int, why: str) -> None:
    assert frame_shim.check(b0, b1, in_message, 0) == PROTOCOL, why


def test_compressed_continuations_and_control_frames_are_1002() -> None:
    assert frame_shim.check(0xC1, 0x85, 0, 4) == OK
    assert frame_shim.check(0x41, 0x85, 0, 4) == OK
    assert frame_shim.check(0xC0, 0x85, 1, 4) == PROTOCOL
    assert frame_shim.check(0xC9, 0x85, 0, 4) == PROTOCOL
    assert frame_shim.check(0xE1, 0x85, 0, 4) == PROTOCOL


# ---- head ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [*LENGTHS, 2**64 - 1])
def test_head_is_the_shortest_form(length: int) -> None:
    for opcode in (0, 1, 2, 8, 9, 10):
        for fin in (0, 1):
            for rsv in range(8):
                b0 = fin << 7 | rsv << 4 | opcode
                assert frame_shim.head(opcode, fin, rsv, length) == header(b0, length, b"")


def test_any_true_fin_sets_one_bit() -> None:
    assert frame_shim.head(1, 2, 0, 0) == b"\x81\x00"


def test_head_is_what_a_peer_writes() -> None:
    for length in (0, 125, 126, 65535, 65536):
        data = Frame(Opcode.TEXT, b"x" * length).serialize(mask=False)
        assert frame_shim.head(1, 1, 0, length) + b"x" * length == data


# ---- close ---------------------------------------------------------------------------------------


def valid(code: int) -> bool:
    # RFC 6455, section 7.4, and IANA's registry for 1012 to 1014.
    sendable = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014}
    return code in sendable or 3000 <= code <= 4999


def test_every_close_code() -> None:
    for code in range(65536):
        assert frame_shim.code_valid(code) == valid(code)
        expected = (OK, code) if valid(code) else (PROTOCOL, None)
        assert frame_shim.parse_close(struct.pack("!H", code)) == expected
    for code in (65536 + 1000, 2**31 + 1000, 2**32 - 1):
        assert not frame_shim.code_valid(code)


def test_a_peer_agrees_on_close_bodies() -> None:
    for code in [*range(990, 1030), 2999, 3000, 4999, 5000]:
        body = struct.pack("!H", code) + b"bye"
        try:
            Close.parse(body).check()
            fine = True
        except ProtocolError:
            fine = False
        assert (frame_shim.parse_close(body)[0] == OK) == fine, code


def test_close_without_a_body_is_1005() -> None:
    assert frame_shim.parse_close(b"") == (OK, 1005)


def test_close_body_of_one_byte_is_1002() -> None:
    for byte in range(256):
        assert frame_shim.parse_close(bytes([byte])) == (PROTOCOL, None)


def test_close_body_of_more_than_125_bytes_is_1002() -> None:
    assert frame_shim.parse_close(b"\x03\xe8" + b"x" * 123) == (OK, 1000)
    for length in (126, 127, 1000):
        assert frame_shim.parse_close(b"\x03\xe8" + b"x" * (length - 2)) == (PROTOCOL, None)


def test_close_reason_that_is_no_utf8_or_ends_within_a_character_is_1007() -> None:
    assert frame_shim.parse_close(b"\x03\xe8" + "größe".encode()) == (OK, 1000)
    for reason in (b"\xff", b"ok\xc3", b"\xed\xa0\x80", b"\xf0\x9f\x98"):
        assert frame_shim.parse_close(b"\x03\xe8" + reason) == (UTF8, None)


def test_a_bad_code_is_1002_even_with_a_bad_reason() -> None:
    assert frame_shim.parse_close(struct.pack("!H", 1005) + b"\xff") == (PROTOCOL, None)


def test_close_frame_is_read_back() -> None:
    for code in (1000, 1001, 1011, 3000, 4999):
        for reason in (b"", b"bye", "größe".encode(), b"x" * 123):
            data = frame_shim.write_close(code, reason)
            assert data == Frame(Opcode.CLOSE, struct.pack("!H", code) + reason).serialize(mask=False)
            assert frame_shim.parse_close(data[2:]) == (OK, code)


def test_close_frame_without_a_code_is_empty() -> None:
    assert frame_shim.write_close(1005, b"") == b"\x88\x00"
    assert frame_shim.write_close(1005, b"never sent") == b"\x88\x00"


@pytest.mark.parametrize("character", ["a", "é", "世", "😀"])
def test_long_reason_is_cut_where_a_character_ends(character: str) -> None:
    for lead in range(5):
        text = "-" * lead + character * 200
        data = frame_shim.write_close(1000, text.encode())
        reason = data[4:].decode()
        assert text.startswith(reason)
        assert len(data[4:]) <= 123 < len(data[4:]) + len(character.encode())
        assert data[1] == len(data) - 2
    exact = "x" * (123 - len(character.encode())) + character
    assert frame_shim.write_close(1000, exact.encode() + b"y")[4:].decode() == exact


def test_reason_of_continuation_bytes_only_is_dropped() -> None:
    # Not UTF-8, so nobody's to send; it must not be cut outside its own bytes.
    assert frame_shim.write_close(1000, b"\x80" * 300) == b"\x88\x02\x03\xe8"


def test_random_headers_decode_or_fail_as_the_naive_reading_says() -> None:
    rng = random.Random(4)
    for _ in range(20000):
        data = bytes([rng.randrange(256), rng.choice([rng.randrange(256), 0xFE, 0xFF])])
        data += rng.choice([b"\x00" * rng.randrange(8), b""]) + rng.randbytes(rng.randrange(14))
        limit = rng.choice([0, 125, 65535, 2**20, 2**63])
        assert frame_shim.decode(data, limit)[0] == naive_size(data, limit)


def naive_size(data: bytes, limit: int) -> int:
    if len(data) < 2:
        return 0
    short = data[1] & 127
    extra = {126: 2, 127: 8}.get(short, 0)
    field = data[2 : 2 + extra]
    if short == 127 and field and field[0] & 0x80:
        return PROTOCOL
    if len(field) < extra:
        return 0
    length = int.from_bytes(field, "big") if extra else short
    if (extra == 2 and length < 126) or (extra == 8 and length < 65536):
        return PROTOCOL
    if length > limit:
        return TOO_BIG
    size = 2 + extra + (4 if data[1] & 0x80 else 0)
    return size if len(data) >= size else 0
