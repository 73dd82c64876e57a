"""Responses of the opening handshake: each refusal a complete HTTP response, the 101, and the key's digest."""

import base64
import hashlib
import random
import re

import h11
import pytest
from handshakes import ACCEPT, ROWS, Answer, head
from test_upgrade import parse
from uws_shims import upgrade_shim as shim


def response(data):
    """Parsed by h11: (status, header fields, body)."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    event = client.next_event()
    assert isinstance(event, h11.Response)
    body = client.next_event()
    assert isinstance(body, h11.Data)
    assert isinstance(client.next_event(), h11.EndOfMessage)
    assert isinstance(client.next_event(), h11.ConnectionClosed)
    return event.status_code, event.reason, dict(event.headers), bytes(body.data)


REFUSALS = [
    (shim.E_400, 400, b"Bad Request", {}),
    (shim.E_404, 404, b"Not Found", {}),
    (shim.E_405, 405, b"Method Not Allowed", {b"allow": b"GET"}),
    (shim.E_408, 408, b"Request Timeout", {}),
    (shim.E_414, 414, b"URI Too Long", {}),
    (shim.E_426, 426, b"Upgrade Required", {b"upgrade": b"websocket"}),
    (
        shim.E_VERSION,
        426,
        b"Upgrade Required",
        {b"upgrade": b"websocket", b"sec-websocket-version": b"13"},
    ),
    (shim.E_431, 431, b"Request Header Fields Too Large", {}),
    (shim.E_503, 503, b"Service Unavailable", {b"retry-after": b"1"}),
    (shim.E_505, 505, b"HTTP Version Not Supported", {}),
    (-1, 500, b"Internal Server Error", {}),
]


@pytest.mark.parametrize("status, code, reason, extra", REFUSALS)
def test_refusal_is_a_complete_response_that_closes(status, code, reason, extra):
    got_code, got_reason, fields, body = response(shim.refuse(status, shim.MAX_REFUSAL_BYTES))
    assert (got_code, got_reason) == (code, reason)
    assert code == shim.http_status(status)
    connection = b"close, Upgrade" if b"upgrade" in extra else b"close"
    assert fields == extra | {
        b"connection": connection,
        b"content-type": b"text/plain",
        b"content-length": b"%d" % len(body),
    }
    assert body.endswith(b"\n") and body.isascii()


def test_refusal_of_head_has_no_content():
    data = shim.refuse(shim.E_HEAD, shim.MAX_REFUSAL_BYTES)
    full = shim.refuse(shim.E_405, shim.MAX_REFUSAL_BYTES)
    assert data == full[: full.index(b"\r\n\r\n") + 4]
    assert shim.http_status(shim.E_HEAD) == 405


@pytest.mark.parametrize("status", [refusal[0] for refusal in REFUSALS])
def test_refusal_that_does_not_fit_is_not_written(status):
    data = shim.refuse(status, shim.MAX_REFUSAL_BYTES)
    assert shim.refuse(status, len(data)) == data
    for cap in range(len(data)):
        assert shim.refuse(status, cap) is None


@pytest.mark.parametrize(
    "name, request_bytes", [(name, sent) for name, sent, answer in ROWS if answer != Answer.UPGRADED]
)
def test_refused_row_gets_the_table_s_response(name, request_bytes):
    data = shim.refuse(parse(request_bytes)[0], shim.MAX_REFUSAL_BYTES)
    lines = data.split(b"\r\n")
    row = int(name[:2])
    assert (b"Allow: GET" in lines) == (row in (5, 6, 7))
    assert (b"Upgrade: websocket" in lines) == (row in (21, 22, 23, 32, 33, 34))
    assert (b"Sec-WebSocket-Version: 13" in lines) == (row in (32, 33, 34))
    assert re.match(rb"HTTP/1\.1 \d{3} ", data)


def test_accept_answers_with_the_rfc_s_example():
    _, upgrade = parse(head())
    assert upgrade.accept() == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n"
        b"\r\n"
    )


def test_accept_names_what_was_negotiated():
    _, upgrade = parse(head())
    assert upgrade.accept(b"chat", b'x; y="z"').endswith(
        b"\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n"
        b"Sec-WebSocket-Protocol: chat\r\n"
        b'Sec-WebSocket-Extensions: x; y="z"\r\n'
        b"\r\n"
    )


def test_accept_that_does_not_fit_is_not_written():
    _, upgrade = parse(head())
    data = upgrade.accept(b"chat", b"x")
    assert upgrade.accept(b"chat", b"x", len(data)) == data
    for cap in range(len(data)):
        assert upgrade.accept(b"chat", b"x", cap) is None


@pytest.mark.parametrize("byte", b"\r\n\0\x7f\x1f")
def test_accept_writes_no_value_that_would_end_its_line(byte):
    _, upgrade = parse(head())
    value = b"a" + bytes([byte]) + b"b"
    assert upgrade.accept(subprotocol=value) is None
    assert upgrade.accept(extensions=value) is None


# SHA-1 and base64


def test_sha1_agrees_with_hashlib_at_every_length():
    rng = random.Random(3)
    for length in range(300):
        data = rng.randbytes(length)
        assert shim.sha1(data) == hashlib.sha1(data).digest()


def test_base64_agrees_with_the_standard_library():
    rng = random.Random(4)
    for digest in [bytes(20), b"\xff" * 20, *(rng.randbytes(20) for _ in range(1000))]:
        assert shim.base64_20(digest) == base64.b64encode(digest)


def test_accept_key_agrees_with_the_standard_library():
    rng = random.Random(5)
    for _ in range(1000):
        key = base64.b64encode(rng.randbytes(16))
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        assert shim.accept_key(key) == base64.b64encode(digest)
