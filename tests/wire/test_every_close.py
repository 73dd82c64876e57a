"""Which close code a client sees for each frame there can be: what tests/engine/test_every_frame.py asks the
decoder, asked of a live server. The oracle is tests/rfc.py; one server serves them all.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import product

import pytest
import rfc
from live import Live, echo, expect_eof, expect_failure, frames, ping, serve
from raw import BINARY, CLOSE, CONT, PING, PONG, TEXT, Frame, RawClient, frame
from rfc import Deflated, Header

LIMIT = 70_000
# Well-formed as text, and as a close body: code 3130.
PAYLOAD = b"\x0c:"


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    # Clients that do not ask for compression do not get it.
    with serve(on_read=echo, record_connects=False, max_message_bytes=LIMIT, compression=True) as running:
        yield running


OFFER = [("Sec-WebSocket-Extensions", "permessage-deflate; client_no_context_takeover")]


def connect(live: Live, compression: bool) -> RawClient:
    client = live.connect(headers=OFFER if compression else ())
    assert client.response is not None
    assert ("sec-websocket-extensions" in client.response.headers) == compression
    return client


def fails(live: Live, data: bytes, code: int, compression: bool = False) -> None:
    """Send data on a connection of its own, and expect that the server fails it and says why."""
    with connect(live, compression) as client:
        client.send(data)
        expect_failure(client, code)


def ends(live: Live, data: bytes, code: int | None, reason: str = "", compression: bool = False) -> None:
    """Send data that ends with a close frame, and expect the answer and the end; on_close saw it too."""
    with connect(live, compression) as client:
        client.send(data)
        assert client.recv_close().code == code
        expect_eof(client)
        ended = live.ended_of(client)
        assert (ended.code, ended.reason) == (1005 if code is None else code, reason)


@pytest.mark.parametrize("compression", [False, True], ids=["plain", "compression"])
@pytest.mark.parametrize("opcode", range(16))
def test_every_header_is_served_or_closed_with_1002(live: Live, opcode: int, compression: bool) -> None:
    """8 RSV x FIN x masked or not x inside a message or not."""
    for rsv, fin, masked, inside in product(range(8), (False, True), (False, True), (False, True)):
        header = Header(fin, rsv, opcode, masked, len(PAYLOAD), inside, compression)
        deflated = Deflated() if rsv == 4 and opcode in (TEXT, BINARY) else None
        data = frame(TEXT, "lead ", False) if inside else b""
        data += frame(opcode, deflated.part(PAYLOAD, fin) if deflated else PAYLOAD, fin, rsv, masked)
        if rfc.broken(header):
            fails(live, data, 1002, compression)
        elif opcode == CLOSE:
            ends(live, data, 3130, compression=compression)
        else:
            with connect(live, compression) as client:
                client.send(data)
                if opcode == PING:
                    assert client.recv_frame() == Frame(True, 0, PONG, PAYLOAD)
                if inside and opcode in rfc.CONTROL:
                    client.send_frame(CONT, "end")
                    assert client.recv_message() == "lead end"
                elif opcode in rfc.DATA:
                    whole = (b"lead " if inside else b"") + PAYLOAD
                    if not fin:
                        ping(client)
                        client.send_frame(CONT, deflated.part(b" end", True) if deflated else " end")
                        whole += b" end"
                    assert client.recv_frame() == Frame(True, 0, TEXT if inside else opcode, whole)
                ping(client)


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65_534, 65_535, 65_536, LIMIT - 1, LIMIT, LIMIT + 1])
def test_every_form_of_length_is_served_or_closed(live: Live, length: int) -> None:
    for bits, _, minimal in rfc.forms(length):
        data = frame(BINARY, bytes(length), length_form=bits)
        if not minimal:
            fails(live, data[:14], 1002)
        elif length > LIMIT:
            fails(live, data[:14], 1009)
        else:
            with live.connect() as client:
                client.send(data)
                assert client.recv_message() == bytes(length)


@pytest.mark.parametrize("length", [1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_length_nobody_can_send_is_closed(live: Live, length: int) -> None:
    fails(live, frame(BINARY, length=length), 1009 if length < 1 << 63 else 1002)


def test_every_close_code_around_an_edge_is_answered_or_closed_with_1002(live: Live) -> None:
    edges = {edge for first, last, *_ in rfc.CLOSE_CODES for edge in (first - 1, first, last, last + 1)}
    for code in sorted({*edges, *range(990, 1030)} & set(range(65536))):
        data = frame(CLOSE, struct.pack("!H", code) + b"why")
        if rfc.may_be_sent(code):
            ends(live, data, code, "why")
        else:
            fails(live, data, 1002)


def test_close_bodies_of_every_length_at_the_edges(live: Live) -> None:
    ends(live, frame(CLOSE), None)
    fails(live, frame(CLOSE, PAYLOAD[:1]), 1002)
    ends(live, frame(CLOSE, PAYLOAD), 3130)
    ends(live, frame(CLOSE, PAYLOAD + b"x" * 123), 3130, "x" * 123)
    fails(live, frame(CLOSE, PAYLOAD + b"x" * 124), 1002)


def neighbours() -> Iterator[bytes]:
    """Of the ill-formed sequences those whose last byte is next to one that would be in order."""
    for start, allowed in rfc.starts():
        for byte in range(256):
            if byte not in allowed and {byte - 1, byte + 1} & allowed:
                yield start + bytes([byte])


def test_ill_formed_text_is_closed_with_1007_before_its_frame_is_there(live: Live) -> None:
    """Also in the last byte of a fragment, and in a close frame's reason."""
    count = 0
    for bad in neighbours():
        count += 1
        fails(live, frame(TEXT, b"x" + bad, length=1000), 1007)
        fails(live, frames((TEXT, bad[:-1], False), (CONT, bad[-1:], False)), 1007)
        fails(live, frame(CLOSE, b"\x03\xe8" + bad), 1007)
    assert count > 150
