"""What a server sends, in pieces: whole, byte by byte and randomly cut it says the same; each rule holds."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from uws_shims import client_shim, frame_shim
from uws_shims.client_shim import E_PROTOCOL, E_UTF8, MORE, Client
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

Piece = tuple[Any, ...]


def frame(opcode: int, payload: bytes = b"", fin: bool = True, rsv: int = 0) -> bytes:
    return bytes(frame_shim.head(opcode, fin, rsv, len(payload))) + payload


def joined(pieces: list[Piece]) -> list[Piece]:
    """What was said, without regard to how it was cut."""
    said: list[Piece] = []
    opcode, message = 0, b""
    for piece in pieces:
        if piece[0] != "data":
            said.append(piece)
            continue
        _, kind, first, last, data = piece
        if first:
            assert opcode == 0
            opcode, message = kind, b""
        assert kind == opcode
        message += data
        if last:
            said.append(("message", opcode, message))
            opcode = 0
    return said


def chopped(client: Client, wire: bytes, ends: list[int]) -> tuple[int, list[Piece]]:
    pieces: list[Piece] = []
    at = 0
    for end in [*ends, len(wire)]:
        status, some = client.feed(wire[at:end])
        pieces += some
        at = end
        if status != MORE:
            return status, joined(pieces)
    return MORE, joined(pieces)


STREAM = b"".join(
    [
        frame(1, b"hello"),
        frame(9, b"ping"),
        frame(2, bytes(range(256)) * 3),
        frame(2, b""),
        frame(1, b"a", fin=False),
        frame(10, b""),
        frame(0, b"", fin=False),
        frame(9, b"x" * 125),
        frame(0, b"b" * 200),
        frame(2, b"c" * 70_000),
        frame(8, struct.pack("!H", 1001) + "grüße".encode()),
    ]
)
SAID = [
    ("message", 1, b"hello"),
    ("ping", b"ping"),
    ("message", 2, bytes(range(256)) * 3),
    ("message", 2, b""),
    ("pong", b""),
    ("ping", b"x" * 125),
    ("message", 1, b"a" + b"b" * 200),
    ("message", 2, b"c" * 70_000),
    ("close", 1001, "grüße".encode()),
]


def test_a_stream_says_the_same_whole_and_byte_by_byte() -> None:
    assert chopped(Client(), STREAM, []) == (MORE, SAID)
    assert chopped(Client(check_utf8=True), STREAM, list(range(1, len(STREAM)))) == (MORE, SAID)


def test_a_stream_says_the_same_however_it_is_cut() -> None:
    rng = random.Random(3)
    for _ in range(300):
        ends = sorted(rng.randrange(len(STREAM)) for _ in range(rng.randrange(1, 40)))
        client = Client()
        assert chopped(client, STREAM, ends) == (MORE, SAID)
        client.reset()
        assert client.used == 0


def test_nothing_is_kept_between_messages() -> None:
    client = Client()
    for cut in range(1, 8):
        wire = frame(2, b"12345")
        client.feed(wire[:cut])
        client.feed(wire[cut:])
        assert client.used == 0
    ping = frame(9, b"12345")
    client.feed(ping[:3])
    assert client.feed(ping[3:])[1] == [("ping", b"12345")]
    client.feed(frame(2, b"x"))
    assert client.used == 0


@pytest.mark.parametrize("b0", range(256))
def test_every_first_byte_within_and_between_messages(b0: int) -> None:
    """Against another implementation of the rules."""
    for in_message in (False, True):
        before = frame(1, b"x", fin=False) if in_message else b""
        wire = before + bytes([b0, 2]) + b"\x03\xe8"
        theirs = Protocol(Side.CLIENT)
        theirs.receive_data(wire)
        status, _ = Client().feed(wire)
        if b0 == 0x88 and in_message:
            # They want the message to end first; section 5.4 lets control frames stand within one.
            assert status == MORE
            continue
        assert (status == E_PROTOCOL) == (theirs.parser_exc is not None), (b0, in_message)


@pytest.mark.parametrize("opcode", [0, 1, 2, 8, 9, 10])
def test_a_masked_frame_is_refused(opcode: int) -> None:
    # Section 5.1: a client closes a connection if it detects a masked frame.
    before = frame(1, b"x", fin=False) if opcode == 0 else b""
    wire = before + bytes([0x80 | opcode, 0x80, 1, 2, 3, 4])
    assert Client().feed(wire)[0] == E_PROTOCOL
    # With its second byte, before the key is there.
    assert Client().feed(wire[: len(before) + 2])[0] == E_PROTOCOL


@pytest.mark.parametrize(
    "wire",
    [
        bytes([0x89, 126, 0, 126]),
        bytes([0x82, 126, 0, 125]),
        bytes([0x82, 127]) + (65535).to_bytes(8, "big"),
        bytes([0x82, 127, 0x80]),
        frame(8, b"\x03"),
        frame(8, struct.pack("!H", 1005)),
        frame(8, struct.pack("!H", 999)),
    ],
)
def test_what_breaks_a_rule_is_refused_whole_and_byte_by_byte(wire: bytes) -> None:
    assert chopped(Client(), wire, [])[0] == E_PROTOCOL
    assert chopped(Client(), wire, list(range(1, len(wire))))[0] == E_PROTOCOL


def test_after_a_close_frame_nothing_is_heard() -> None:
    client = Client()
    assert client.feed(frame(8) + frame(2, b"late")) == (MORE, [("close", 1005, b"")])
    assert client.feed(b"\xff" * 100) == (MORE, [])
    client.reset()
    assert client.feed(frame(2, b"new")) == (MORE, [("data", 2, True, True, b"new")])


def test_text_is_validated_where_that_is_asked_for() -> None:
    for bad in (b"\xff", b"ab\xc3", b"\xed\xa0\x80", "é".encode()[:1]):
        assert Client(check_utf8=True).feed(frame(1, bad))[0] == E_UTF8
        assert Client(check_utf8=True).feed(frame(2, bad))[0] == MORE
        assert Client().feed(frame(1, bad))[0] == MORE
    cut = frame(1, "é".encode()[:1], fin=False) + frame(0, "é".encode()[1:])
    assert chopped(Client(check_utf8=True), cut, [])[1] == [("message", 1, "é".encode())]
    assert Client(check_utf8=True).feed(frame(8, b"\x03\xe8\xff"))[0] == E_UTF8


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536, 2**40])
def test_a_clients_header_is_what_a_server_reads(length: int) -> None:
    for opcode in (1, 2, 8, 9, 10):
        for fin in (False, True):
            head = client_shim.head(opcode, fin, length, b"\x01\x02\x03\x04")
            assert frame_shim.decode(head) == (
                len(head), (int(fin), 0, opcode, 1, length, b"\x01\x02\x03\x04", len(head))
            )  # fmt: skip


def test_frames_of_another_implementation_are_read() -> None:
    rng = random.Random(9)
    for _ in range(200):
        payload = rng.randbytes(rng.choice([0, 1, 125, 126, 1000, 65536]))
        wire = Frame(Opcode.BINARY, payload).serialize(mask=False)
        assert chopped(Client(), wire, sorted(rng.sample(range(len(wire) + 1), 2)))[1] == [
            ("message", 2, payload)
        ]
