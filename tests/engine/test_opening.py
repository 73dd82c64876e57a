"""The client's half of the opening handshake: what a server may answer, and what it may not (RFC 6455, section 4.1)."""

from __future__ import annotations

import base64
import hashlib
import os
import random

import pytest
from uws_shims.opening_shim import E_PROTOCOL, MORE, OK, Opening, key_of

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
GOOD = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
)


def head(*lines: bytes, status: bytes = b"HTTP/1.1 101 Switching Protocols") -> bytes:
    return b"\r\n".join([status, *lines, b"", b""])


UPGRADE, CONNECTION = b"Upgrade: websocket", b"Connection: Upgrade"
ACCEPTS = b"Sec-WebSocket-Accept: " + ACCEPT


def parse(response: bytes, protocols: bytes = b"") -> tuple[int, str | None]:
    return Opening(KEY, protocols).parse(response)  # type: ignore[no-any-return]


def test_a_key_is_the_base64_of_its_nonce() -> None:
    for nonce in [bytes(16), b"\xff" * 16, *(os.urandom(16) for _ in range(200))]:
        assert key_of(nonce) == base64.b64encode(nonce)


def test_the_rfcs_example_opens() -> None:
    opening = Opening(KEY)
    assert opening.parse(GOOD) == (OK, None)
    assert opening.head_len == len(GOOD) and opening.http_status == 101


def test_the_accept_of_every_key_is_checked() -> None:
    for _ in range(100):
        key = base64.b64encode(os.urandom(16))
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        response = GOOD.replace(ACCEPT, base64.b64encode(digest))
        assert Opening(key).parse(response) == (OK, None)
        assert Opening(KEY).parse(response) == (E_PROTOCOL, "accept")


def test_it_opens_however_the_head_is_cut() -> None:
    behind = b"\x81\x02hi"
    for cut in range(len(GOOD)):
        opening = Opening(KEY)
        assert opening.parse(GOOD[:cut]) == (MORE, None), cut
        assert opening.parse(GOOD + behind) == (OK, None)
        assert opening.head_len == len(GOOD)
    byte_by_byte = Opening(KEY)
    for end in range(1, len(GOOD)):
        assert byte_by_byte.parse(GOOD[:end]) == (MORE, None)
    assert byte_by_byte.parse(GOOD) == (OK, None)


@pytest.mark.parametrize(
    "lines",
    [
        (b"upgrade: WebSocket", b"CONNECTION: keep-alive, Upgrade", ACCEPTS),
        (b"Upgrade:websocket\t ", b"Connection:  ,upgrade ,", b"Sec-WebSocket-Accept:\t" + ACCEPT + b"  "),
        (
            b"Server: x",
            b"X-Empty:",
            UPGRADE,
            b"Connection: a",
            CONNECTION,
            ACCEPTS,
            b"Sec-WebSocket-Extensions:",
        ),
        (UPGRADE, CONNECTION, ACCEPTS, b"X-Latin: \xe9\xff"),
    ],
)
def test_what_the_grammar_allows_opens(lines: tuple[bytes, ...]) -> None:
    assert parse(head(*lines)) == (OK, None)


def test_a_reason_phrase_may_be_left_out() -> None:
    for status in (b"HTTP/1.1 101", b"HTTP/1.1 101 ", b"HTTP/1.1 101 Sure"):
        assert parse(head(UPGRADE, CONNECTION, ACCEPTS, status=status)) == (OK, None)


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ((CONNECTION, ACCEPTS), "upgrade"),
        ((b"Upgrade: websocket, h2c", CONNECTION, ACCEPTS), "upgrade"),
        ((b"Upgrade: websockets", CONNECTION, ACCEPTS), "upgrade"),
        ((UPGRADE, ACCEPTS), "upgrade"),
        ((UPGRADE, b"Connection: keep-alive", ACCEPTS), "upgrade"),
        ((UPGRADE, b"Connection: upgraded", ACCEPTS), "upgrade"),
        ((UPGRADE, CONNECTION), "accept"),
        ((UPGRADE, CONNECTION, b"Sec-WebSocket-Accept:"), "accept"),
        ((UPGRADE, CONNECTION, ACCEPTS.swapcase()), "accept"),
        ((UPGRADE, CONNECTION, ACCEPTS + b"="), "accept"),
        ((UPGRADE, CONNECTION, ACCEPTS, ACCEPTS), "accept"),
        ((UPGRADE, CONNECTION, ACCEPTS, b"Sec-WebSocket-Extensions: permessage-deflate"), "extension"),
        ((UPGRADE, CONNECTION, ACCEPTS, b"Sec-WebSocket-Protocol: chat"), "subprotocol"),
        ((UPGRADE, b" folded: x", CONNECTION, ACCEPTS), "http"),
        ((UPGRADE, b"No colon", CONNECTION, ACCEPTS), "http"),
        ((UPGRADE, b"Space : x", CONNECTION, ACCEPTS), "http"),
        ((UPGRADE, b": nameless", CONNECTION, ACCEPTS), "http"),
        ((UPGRADE, b"X: a\x00b", CONNECTION, ACCEPTS), "http"),
        ((UPGRADE, b"X: a\nY: b", CONNECTION, ACCEPTS), "http"),
        ((UPGRADE, b"X: a\rb", CONNECTION, ACCEPTS), "http"),
    ],
)
def test_a_101_that_breaks_a_rule_does_not_open(lines: tuple[bytes, ...], fault: str) -> None:
    assert parse(head(*lines)) == (E_PROTOCOL, fault)


@pytest.mark.parametrize(
    ("offered", "chosen", "opens"),
    [
        (b"chat", b"chat", True),
        (b"a, chat", b"chat", True),
        (b"a, chat", b"a", True),
        (b"a, chat", b"Chat", False),
        (b"a, chat", b"cha", False),
        (b"a, chat", b"a, chat", False),
        (b"a", b"", False),
        (b"", b"a", False),
    ],
)
def test_a_subprotocol_is_one_that_was_offered(offered: bytes, chosen: bytes, opens: bool) -> None:
    response = head(UPGRADE, CONNECTION, ACCEPTS, b"Sec-WebSocket-Protocol: " + chosen)
    opening = Opening(KEY, offered)
    assert opening.parse(response) == ((OK, None) if opens else (E_PROTOCOL, "subprotocol"))
    if opens:
        assert opening.protocol(response) == chosen


def test_two_subprotocols_are_none() -> None:
    lines = [b"Sec-WebSocket-Protocol: a", b"Sec-WebSocket-Protocol: b"]
    assert parse(head(UPGRADE, CONNECTION, ACCEPTS, *lines), b"a, b") == (E_PROTOCOL, "subprotocol")


@pytest.mark.parametrize("status", [100, 200, 301, 400, 401, 403, 404, 426, 429, 500, 503, 599])
def test_another_status_is_told(status: int) -> None:
    opening = Opening(KEY)
    assert opening.parse(b"HTTP/1.1 %d Something\r\nContent-Length: 0\r\n\r\n" % status) == (
        E_PROTOCOL,
        "status",
    )
    assert opening.http_status == status


def test_a_status_is_known_before_its_head_has_ended() -> None:
    opening = Opening(KEY)
    assert opening.parse(b"HTTP/1.0 503 Busy\r\nX: ") == (MORE, None)
    assert opening.http_status == 503


@pytest.mark.parametrize(
    "line",
    [b"SSH-2.0-x", b"HTTP/2 101 ", b"http/1.1 101 ", b"HTTP/1.1  101 x", b"HTTP/1.1 1O1 x", b"HTTP/1.1 1010",
     b"HTTP/1.1 099 x", b"HTTP/1.1 600 x", b"HTTP/1.0 101 Switching Protocols", b"\r\nHTTP/1.1 101 x"],
)  # fmt: skip
def test_what_is_no_http_is_refused_as_soon_as_it_shows(line: bytes) -> None:
    assert parse(head(UPGRADE, CONNECTION, ACCEPTS, status=line)) == (E_PROTOCOL, "http")
    # Who waits for us as long as we wait for him would never end.
    assert parse(b"S") == (E_PROTOCOL, "http")


def test_a_head_has_a_limit() -> None:
    long = head(UPGRADE, CONNECTION, ACCEPTS, b"X: " + b"a" * 500)
    assert Opening(KEY, b"", len(long)).parse(long) == (OK, None)
    short = Opening(KEY, b"", len(long) - 1)
    assert short.parse(long[:300]) == (MORE, None)
    assert short.parse(long) == (E_PROTOCOL, "too_long")
    endless = Opening(KEY, b"", 400)
    assert endless.parse(long[:399]) == (MORE, None)
    assert endless.parse(long[:400]) == (E_PROTOCOL, "too_long")


def test_no_garbage_opens_or_is_read_beyond_its_end() -> None:
    rng = random.Random(20)
    for _ in range(20_000):
        broken = bytearray(GOOD)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(broken))
            kind = rng.randrange(3)
            if kind == 0:
                broken[at] = rng.randrange(256)
            elif kind == 1:
                del broken[at : at + rng.randrange(1, 30)]
            else:
                broken[at:at] = bytes(rng.randrange(256) for _ in range(3))
        opening = Opening(KEY)
        status, fault = opening.parse(bytes(broken))
        assert (status == E_PROTOCOL) == (fault is not None)
        if status == OK:
            assert ACCEPT in broken and broken[: opening.head_len].endswith(b"\r\n\r\n")
