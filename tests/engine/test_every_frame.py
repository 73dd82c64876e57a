"""Every frame there can be, not a sample: headers, lengths, close codes, close bodies, ill-formed text.

The oracle is tests/rfc.py: tables written from the RFCs. Feeding byte by byte shows where it fails.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import pytest
import rfc
from raw import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame
from rfc import Deflated, Header
from uws_shims import proto_shim as shim
from uws_shims.proto_shim import Proto

OK, PROTOCOL, UTF8, TOO_BIG = shim.OK, shim.E_PROTOCOL, shim.E_UTF8, shim.E_TOO_BIG
KEY = bytes([0x5A, 0x00, 0xFF, 0x81])
KINDS = {PING: "ping", PONG: "pong"}

# An event's kind, opcode, payload, code and reply.
Seen = tuple[str, int, bytes, int, "int | None"]


def fed(proto: Proto, *pieces: bytes) -> tuple[int, list[Seen], int]:
    """Return the status, the events, and how many bytes had been fed when the connection was over."""
    events: list[Seen] = []
    count = 0
    for piece in pieces:
        status, found = proto.feed(piece)
        events += [event[:5] for event in found]
        count += len(piece)
        if status != OK or proto.done:
            return status, events, count
    return OK, events, count


def bytewise(data: bytes, head: int = 20) -> list[bytes]:
    """Return the first bytes one by one, and the rest in a piece."""
    return [*(data[i : i + 1] for i in range(min(head, len(data)))), *([data[head:]] if data[head:] else [])]


def message(opcode: int, payload: bytes) -> Seen:
    return "message", opcode, payload, 0, None


# --- headers ---


class Case(NamedTuple):
    """A frame, and what was there before it: no message, a plain one, or a compressed one."""

    before: str
    header: Header
    payload: bytes


# Well-formed as text, and as a close body: code 3130.
PAYLOADS = [b"", b"\x0c:", b"\x0c:" + b"x" * 123, b"\x0c:" + b"x" * 124]


def cases(compression: bool) -> Iterator[Case]:
    befores = ["nothing", "plain", "compressed"] if compression else ["nothing", "plain"]
    for before, rsv, opcode, fin, masked, payload in product(
        befores, range(8), range(16), (False, True), (False, True), PAYLOADS
    ):
        header = Header(fin, rsv, opcode, masked, len(payload), before != "nothing", compression)
        yield Case(before, header, payload)


def play(case: Case) -> tuple[bytes, bytes, bytes, list[Seen]]:
    """Return what comes before the frame, the frame, what comes behind it, and the events if accepted."""
    fin, rsv, opcode, masked, _, inside, _ = case.header
    lead, end = b"lead ", b" end"
    deflated = Deflated()
    is_data = opcode in rfc.DATA
    compressed = case.before == "compressed" or (not inside and rsv == 4 and opcode in (TEXT, BINARY))

    def coded(payload: bytes, last: bool) -> bytes:
        return deflated.part(payload, last) if compressed else payload

    before = b""
    if inside:
        before = frame(TEXT, coded(lead, False), False, 4 if compressed else 0, KEY)
    payload = coded(case.payload, fin) if is_data else case.payload
    own = frame(opcode, payload, fin, rsv, KEY if masked else False)

    events: list[Seen] = []
    whole = (lead if inside else b"") + (case.payload if is_data else b"")
    kind = TEXT if inside else opcode
    if opcode == CLOSE:
        code = 3130 if case.payload else 1005
        return before, own, frame(PING, b"ignored", mask=KEY), [("close", 0, case.payload[2:], code, code)]
    if not is_data:
        events.append((KINDS.get(opcode, "reserved"), 0, case.payload, 0, None))
    if is_data and fin:
        return before, own, frame(BINARY, b"next", mask=KEY), [message(kind, whole), message(BINARY, b"next")]
    if is_data or inside:
        behind = frame(CONT, coded(end, True), mask=KEY)
        return before, own, behind, [*events, message(kind, whole + end)]
    return before, own, frame(BINARY, b"next", mask=KEY), [*events, message(BINARY, b"next")]


@pytest.mark.parametrize("compression", [False, True], ids=lambda on: "compression" if on else "plain")
def test_every_header_is_accepted_or_refused_as_the_rfc_says(compression: bool) -> None:
    """8 RSV x 16 opcodes x FIN x masked or not x inside a message or not, each with four payloads."""
    proto = Proto(window_bits=15 if compression else 0)
    accepted = 0
    for case in cases(compression):
        before, own, behind, events = play(case)
        header = case.header._replace(length=len(own)) if case.header.opcode in rfc.DATA else case.header
        refused = rfc.broken(header)
        for pieces in ([before + own + behind], [before, *bytewise(own), behind]):
            proto.reset()
            status, seen, at = fed(proto, *pieces)
            if refused:
                assert (status, seen) == (PROTOCOL, []), (case, refused)
                # All that these rules need is there with the second byte.
                assert len(pieces) == 1 or at <= len(before) + 2, case
            else:
                assert (status, seen) == (OK, events), case
        accepted += not refused
        proto.reset()
        assert proto.live_blocks == 0
    # Between messages: text and binary with and without FIN, in all four lengths, and three kinds of control
    # frames in three. Within one: continuations instead of text and binary. With compression: text and binary
    # once more, and a second kind of message to be within.
    assert accepted == (
        (2 * 2 * 4 * 2 + 3 * 3) + 2 * (2 * 4 + 3 * 3) if compression else 2 * 2 * 4 + 9 + 2 * 4 + 9
    )


def test_no_rule_of_the_oracle_is_idle() -> None:
    """Each is the only one to refuse some frame: without it the table above would accept too much."""
    alone = set()
    for compression in (False, True):
        for case in cases(compression):
            if len(refused := rfc.broken(case.header)) == 1:
                alone.add(refused[0])
    assert alone == set(rfc.RULES)


# --- lengths ---

LIMITS = [1, 100, 124, 125, 126, 127, 1000, 65534, 65535, 65536, 65537, 1 << 20, (1 << 32) + 5]


def opens(proto: Proto, head: bytes) -> tuple[int, int]:
    """Feed a head byte by byte; return the status, and after how many bytes it was there."""
    proto.reset()
    status, events, at = fed(proto, *bytewise(head))
    assert events == []
    return status, at


@pytest.mark.parametrize("opcode", [TEXT, BINARY, CONT], ids=["text", "binary", "continuation"])
def test_every_length_is_taken_in_its_shortest_form_only(opcode: int) -> None:
    """Every length of two bytes, and those around each power of two, in every form that holds it."""
    limit = 1 << 62
    lengths = {*range(0, 1 << 16, 1 if opcode == BINARY else 97), *range(130), *range(65_400, 65_700)}
    lengths |= {min((1 << bit) + off, limit) for bit in range(16, 63) for off in (-1, 0, 1)}
    proto = Proto(max_message_bytes=limit)
    before = frame(TEXT, b"", False, mask=KEY) if opcode == CONT else b""
    for length in lengths:
        for _bits, coded, minimal in rfc.forms(length):
            proto.reset()
            proto.feed(before)
            head = bytes([0x80 | opcode, coded[0] | 0x80]) + coded[1:]
            status, events = proto.feed(head)
            # The length is judged when it is there; the mask's key is still to come.
            assert (status, events) == (OK if minimal else PROTOCOL, []), (length, coded)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE], ids=["ping", "pong", "close"])
def test_control_frames_have_one_form_of_length(opcode: int) -> None:
    proto = Proto(max_message_bytes=1)
    for length in [*range(300), 65535, 65536, 1 << 32, (1 << 63) - 1]:
        for bits, coded, _ in rfc.forms(length):
            status, at = opens(proto, bytes([0x80 | opcode, coded[0] | 0x80]) + coded[1:])
            if bits == 7:
                assert status == OK, length
            else:
                # 126 and 127 in the second byte already say that it is too long.
                assert (status, at) == (PROTOCOL, 2), length


def test_top_bit_of_a_length_is_refused_with_its_first_byte() -> None:
    for opcode in (TEXT, BINARY):
        proto = Proto(max_message_bytes=(1 << 64) - 1)
        for first in range(128, 256):
            for rest in (bytes(7), b"\xff" * 7):
                assert opens(proto, bytes([0x80 | opcode, 0xFF, first]) + rest) == (PROTOCOL, 3)
        for first in range(128):
            assert opens(proto, bytes([0x80 | opcode, 0xFF, first]) + b"\xff" * 7)[0] == OK


@pytest.mark.parametrize("fin", [True, False], ids=["final", "fragment"])
@pytest.mark.parametrize("limit", LIMITS)
def test_limit_is_met_exactly_in_every_form_of_length(limit: int, fin: bool) -> None:
    """Alone, and as a continuation of what takes up a part of the limit."""
    proto = Proto(max_message_bytes=limit)
    for held in {0, 1, min(limit, 1000)}:
        before = frame(BINARY, b"x" * held, False, mask=KEY) if held else b""
        for length in {limit - held - 1, limit - held, limit - held + 1} - {-1}:
            for _, coded, minimal in rfc.forms(length):
                b0 = (0x80 if fin else 0) | (CONT if held else BINARY)
                head = before + bytes([b0, coded[0] | 0x80]) + coded[1:]
                proto.reset()
                status, events, at = fed(proto, *bytewise(head + KEY, 5000))
                expected = OK if minimal and held + length <= limit else TOO_BIG if minimal else PROTOCOL
                whole = expected == OK and fin and length == 0
                assert (status, events) == (expected, [message(BINARY, b"x" * held)] if whole else []), coded
                # By the header, without a byte of the payload.
                assert status == OK or len(head) <= at <= len(head + KEY)
                # Nothing was set aside for what was only declared.
                assert proto.used_bytes <= 1024 + 3 * held


# --- close frames ---


def test_every_close_code_is_echoed_or_refused() -> None:
    proto = Proto()
    table = [code for first, last, *_ in rfc.CLOSE_CODES for code in range(first, last + 1)]
    assert table == list(range(65536))
    for code in range(65536):
        sendable = rfc.may_be_sent(code)
        for reason in (b"", b"why"):
            proto.reset()
            expected = (OK, [("close", 0, reason, code, code)]) if sendable else (PROTOCOL, [])
            status, events = proto.feed(frame(CLOSE, struct.pack("!H", code) + reason, mask=KEY))
            assert (status, [event[:5] for event in events]) == expected, code
            assert proto.done


@pytest.mark.parametrize("length", [0, 1, 2, 3, 124, 125, 126])
def test_close_body_of_every_length_at_the_edges(length: int) -> None:
    body = (b"\x0c:" + b"x" * 124)[:length]
    proto = Proto()
    own = frame(CLOSE, body, mask=KEY)
    for pieces in ([own], bytewise(own, 200)):
        proto.reset()
        status, events, at = fed(proto, *pieces)
        if length == 0:
            assert (status, events) == (OK, [("close", 0, b"", 1005, 1005)])
        elif length in (1, 126):
            # 1: half a code (section 5.5.1). 126: refused by the header, see above.
            assert (status, events) == (PROTOCOL, [])
            assert length == 1 or len(pieces) == 1 or at == 2
        else:
            assert (status, events) == (OK, [("close", 0, body[2:], 3130, 3130)])


def test_close_reason_is_well_formed_or_refused_at_every_place() -> None:
    """Sections 5.5.1 and 8.1; as long as a reason may be, so that each place of it has been wrong once."""
    kinds = [
        b"\x80",
        b"\xff",
        b"\xc0\xaf",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf0\x80\x80\x80",
        b"\xf4\x90\x80\x80",
    ]
    proto = Proto()
    for bad in [*kinds, *rfc.unfinished()]:
        for size in (len(bad), 40, 123):
            for at in range(size - len(bad) + 1):
                if bad not in kinds and 1 < at < size - len(bad):
                    # A character that is cut by an x, not by the end: in the middle once is enough.
                    continue
                reason = b"x" * at + bad + b"x" * (size - len(bad) - at)
                proto.reset()
                got = proto.feed(frame(CLOSE, b"\x03\xe8" + reason, mask=KEY))
                assert got == (UTF8, []), reason


def test_close_reason_of_whole_characters_is_taken() -> None:
    proto = Proto()
    for character in "aé世😀":
        for count in range(1, 123 // len(character.encode()) + 1):
            reason = (character * count).encode()
            proto.reset()
            status, events, _ = fed(proto, frame(CLOSE, b"\x03\xe8" + reason, mask=KEY))
            assert (status, events) == (OK, [("close", 0, reason, 1000, 1000)])


# --- text ---

ILL_FORMED = list(rfc.ill_formed())
OPEN = frame(TEXT, b"", False, mask=KEY)


def pieces_of(data: bytes, way: str) -> list[bytes]:
    """Return the frames in pieces; the last ends with the last byte of data; more is declared."""
    if way == "one frame":
        whole = frame(TEXT, data, False, mask=KEY, length=len(data) + 1000)
        head = len(whole) - len(data)
        return [whole[:head], *(whole[i : i + 1] for i in range(head, len(whole)))]
    if way == "fragments":
        return [OPEN, *(frame(CONT, data[i : i + 1], False, mask=KEY) for i in range(len(data)))]
    # A control frame within a character leaves the character as it is.
    ping = frame(PING, b"\xff", mask=KEY)
    return [OPEN, *(ping + frame(CONT, data[i : i + 1], False, mask=KEY) for i in range(len(data)))]


@pytest.mark.parametrize("way", ["one frame", "fragments", "with pings"])
@pytest.mark.parametrize("lead", [b"", "ok é世😀".encode()], ids=["first", "behind text"])
def test_every_ill_formed_sequence_is_refused_at_exactly_its_first_bad_byte(way: str, lead: bytes) -> None:
    proto = Proto()
    for bad in ILL_FORMED:
        *good, last = pieces_of(lead + bad, way)
        proto.reset()
        for piece in good:
            assert proto.feed(piece)[0] == OK, bad
        status, events = proto.feed(last)
        assert (status, proto.done) == (UTF8, True), bad
        assert len(events) == (way == "with pings")


def test_every_ill_formed_sequence_is_refused_in_a_whole_message() -> None:
    proto = Proto()
    for bad in ILL_FORMED:
        for payload in (bad, b"x" * 40 + bad, bad + b"x" * 40):
            proto.reset()
            assert proto.feed(frame(TEXT, payload, mask=KEY)) == (UTF8, []), payload


def test_every_unfinished_character_is_refused_by_the_messages_end_and_not_before() -> None:
    proto = Proto()
    for cut in rfc.unfinished():
        proto.reset()
        assert proto.feed(frame(TEXT, cut, mask=KEY)) == (UTF8, []), cut
        proto.reset()
        assert proto.feed(frame(TEXT, cut, False, mask=KEY)) == (OK, []), cut
        assert proto.feed(frame(CONT, b"", False, mask=KEY)) == (OK, []), cut
        assert proto.feed(frame(CONT, b"", mask=KEY)) == (UTF8, []), cut


def test_every_shortest_and_highest_character_passes_in_every_cut() -> None:
    """The other side of the table: what is well-formed is not refused, one byte in a fragment."""
    proto = Proto()
    count = 0
    for start, allowed in rfc.starts():
        for byte in (min(allowed), max(allowed)):
            whole = start + bytes([byte])
            try:
                whole.decode()
            except UnicodeDecodeError:
                continue
            count += 1
            proto.reset()
            *good, last = pieces_of(whole, "fragments")
            for piece in good:
                assert proto.feed(piece) == (OK, [])
            # The last fragment of them, with FIN.
            status, events, _ = fed(proto, bytes([last[0] | 0x80]) + last[1:])
            assert (status, events) == (OK, [message(TEXT, whole)])
    assert count > 100


def test_the_oracles_table_of_characters_is_unicodes() -> None:
    """CPython's decoder, which has the same table from elsewhere, agrees on every kind of sequence."""
    kinds = [b"", b"\x80", b"\xbf", b"\x80\x80", b"\xbf\xbf", b"\x80\x80\x80", b"\xbf\xbf\xbf"]

    def decodes(data: bytes) -> bool:
        try:
            data.decode()
        except UnicodeDecodeError:
            return False
        return True

    for bad in ILL_FORMED:
        assert not any(decodes(bad + tail) for tail in kinds), bad
    for start in rfc.unfinished():
        assert any(decodes(start + tail) for tail in kinds), start
