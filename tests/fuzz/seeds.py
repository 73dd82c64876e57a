"""Inputs to begin with, made of the tables that the tests have: one function a target.

What the fuzzer has found beside them, and is worth keeping, is in corpus/.
"""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Iterator

import handshakes
import rfc
from differential.streams import Terms, stream
from raw import BINARY, CLOSE, CONT, PING, PONG, TEXT, close_frame, xor_mask
from raw import frame as coded

from . import judging

Seeds = Iterator[bytes]

# Of differential's streams: enough for each of its ways to spoil one to come up.
STREAMS = 120


def packed(body: bytes, one: int = 0, two: int = 0, seed: int = 1) -> bytes:
    return struct.pack("<BBH", one, two, seed) + body


def utf8() -> Seeds:
    for text in ("", "hello", "größe", "κόσμε", "世界", "😀", "\0\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U0010ffff"):
        yield packed(text.encode())
        yield packed(b"x" * 70 + text.encode() + b"y" * 70)
    # Of each kind of ill-formed sequence, by what precedes the byte that is wrong: one.
    kinds = {bad[:-1]: bad for bad in rfc.ill_formed()}
    for bad in list(kinds.values())[::5]:
        yield packed(b"ab" + bad + b"cd")


def frame() -> Seeds:
    for length in (0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        for _, form, _ in rfc.forms(length):
            for key in (b"", b"\x01\x02\x03\x04"):
                yield packed(b"\x82" + bytes([form[0] | 0x80 * bool(key)]) + form[1:] + key, one=length % 4)
    for code, reason in ((1000, b""), (1001, "größe".encode()), (1004, b""), (1014, b"x" * 123), (4999, b"\xff")):
        yield packed(struct.pack("!H", code) + reason)
    yield packed("ä".encode() * 61)


def terms_option(terms: Terms | None) -> int:
    return 0 if terms is None else 16 | {15: 0, 12: 8, 9: 12}[terms.bits] | 32 * terms.takeover


def proto() -> Seeds:
    for number in range(STREAMS):
        one = stream(7, number)
        limit = {1 << 20: 0, 1000: 2, 125: 3}[one.limit]
        yield packed(one.data, terms_option(one.terms) | limit, 64, number)
        if number % 4 == 0:
            yield packed(one.data, terms_option(one.terms) | 128 | 16 * number % 128, 7 + number, number)
    for opcode in range(16):
        yield packed(coded(opcode, b"hello") + coded(CONT, b"!"))
    # RFC 6455, 5.7.
    yield packed(bytes.fromhex("818537fa213d7f9f4d5158"))
    yield packed(coded(TEXT, b"Hel", False) + coded(PING, b"Hello") + coded(CONT, b"lo") + close_frame(1000, "bye"))
    # RFC 7692, 7.2.3.
    for text in (
        "f248cdc9c90700", "f248cdc9c9070000000000ffff f248cdc9c90700", "000500faff48656c6c6f00",
        "f348cdc9c9070000", "f24805000000ffffcac9c907 00", "00",
    ):  # fmt: skip
        data = bytes.fromhex(text)
        for terms in (Terms(15, False), Terms(9, True)):
            yield packed(coded(TEXT, data, True, 4) * 2, terms_option(terms))
            yield packed(coded(TEXT, data[:3], False, 4) + coded(PONG) + coded(CONT, data[3:]), terms_option(terms))


def client() -> Seeds:
    """As a client's, but not masked."""
    for number in range(STREAMS):
        yield packed(unmasked(stream(7, number).data), seed=number)
    for opcode in range(16):
        yield packed(coded(opcode, b"hello", mask=False) + coded(CONT, b"!", mask=False))
    yield packed(bytes.fromhex("810548656c6c6f"))
    yield packed(bytes.fromhex("010348656c80026c6f"))
    yield packed(coded(BINARY, b"x" * 300, mask=False) + close_frame(1001, "größe", mask=False))
    yield packed(coded(CLOSE, b"", mask=False))


def unmasked(data: bytes) -> bytes:
    out, pos = bytearray(), 0
    while len(data) - pos >= 2:
        first, second = data[pos : pos + 2]
        size = 2 + {126: 2, 127: 8}.get(second & 127, 0)
        length = int.from_bytes(data[pos + 2 : pos + size], "big") if size > 2 else second & 127
        if not second & 0x80:
            break
        payload = data[pos + size + 4 : pos + size + 4 + length]
        out += bytes([first, second & 127]) + data[pos + 2 : pos + size]
        out += xor_mask(payload, data[pos + size : pos + size + 4])
        pos += size + 4 + length
    return bytes(out) + data[pos:]


def compressed(text: bytes, bits: int, level: int, strategy: int) -> bytes:
    context = zlib.compressobj(level, zlib.DEFLATED, -bits, 8, strategy)
    return (context.compress(text) + context.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflate() -> Seeds:
    texts = (b"Hello", b"Hello, hello, hello! " * 9, b"\0" * 3000, bytes(range(256)) + b"abc" * 40)
    for text in texts:
        for level in (0, 1, 9):
            for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE):
                data = compressed(text, 15, level, strategy)
                yield packed(data)
                yield packed(data * 2, one=4 * (level % 4), seed=len(data))
    # RFC 7692, 7.2.3.4 to 7.2.3.6: a last block, two blocks, none.
    for text in ("f348cdc9c9070000", "f24805000000ffffcac9c90700", "00", ""):
        yield packed(bytes.fromhex(text))
        yield packed(bytes.fromhex(text), one=3, two=0)


def deflate() -> Seeds:
    for number, text in enumerate((b"", b"x", b"Hello", b"Hello, hello, hello! " * 40, bytes(range(256)) * 3)):
        for two in (0, 1, 2, 12, 98):
            yield packed(text, number, two)
            yield packed(text, 7, two)


PMD = b"permessage-deflate"


def negotiate() -> Seeds:
    server, client = b"server_max_window_bits", b"client_max_window_bits"
    flags = b"; server_no_context_takeover; client_no_context_takeover"
    offers = [
        PMD,
        PMD + flags,
        PMD + b"; " + client,
        PMD + b"; " + client + b"=9;" + server + b"=10",
        PMD + b"; " + server + b'="1\\2"' + flags,
        PMD + b"; " + server + b"=8 , " + PMD + b'; foo="bar", x',
        b"foo; a=1\r\nX: " + PMD + b"\r\nsec-websocket-extensions:" + PMD + b" ;\t" + client + b" = 12",
        b",, " + PMD + b"; " + server + b"=16, " + PMD + b"; " + client + b'="8",',
        b"permessage-bzip2, Permessage-Deflate; " + server,
        PMD + b"; " + server + b"=10; " + server + b"=10, " + PMD + flags + flags + b", " + PMD + b"; " + client,
        b'a; b ; c=d;e = "f" , ,g;h="\\i"',
    ]
    for number, offer in enumerate(offers):
        for one in (0x3F, 0x00, 0xFF, 0xC0 | number, 0x40 | 9 * number % 64):
            yield packed(offer, one)


def upgrade() -> Seeds:
    rows = [request for _, request, _ in (*handshakes.ROWS, *handshakes.MORE_ROWS) if len(request) <= 1000]
    for number, request in enumerate(rows):
        yield packed(request, seed=number)
    for one in (1, 2, 4, 7):
        for two in (5, 9, 40):
            yield packed(handshakes.head(), one, two)
    lines = [
        b"X-Forwarded-For: 192.0.2.1, 10.0.0.1", b"x-forwarded-for:", b"X-FORWARDED-FOR:\t 10.0.0.2 ",
        b'Forwarded: for="[2001:db8::1]:80";proto=https', b"Cookie: a=1; b=\"2\"", b"Origin: https://a.example",
        handshakes.PROTOCOL + b"chat, superchat", handshakes.EXTENSIONS + PMD + b"; client_max_window_bits",
    ]  # fmt: skip
    yield packed(handshakes.plus(*lines), two=20)
    # One below the limit, on it, above it.
    for most in (63, 64, 65):
        names = b",".join(b"%02d" % number for number in range(most))
        yield packed(handshakes.plus(handshakes.PROTOCOL + names))
    yield packed(handshakes.plus(*lines).replace(b"/chat", b"/chat?a=%20b&c=+&&=d;e"), two=90)
    yield packed(b"GET wss://server.example.com:443?q HTTP/1.1\r\nHost: [::1]:80\r\nAccept: */*\r\n\r\n")


def opening() -> Seeds:
    lines = [
        b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + handshakes.ACCEPT,
    ]  # fmt: skip
    more = [
        b"Sec-WebSocket-Protocol: chat", b"Sec-WebSocket-Extensions: permessage-deflate",
        b"Sec-WebSocket-Extensions:", b"Server: x\xff", b"connection: keep-alive, UPGRADE", b"X : y", b" folded",
    ]  # fmt: skip
    for one in range(3):
        yield packed(b"\r\n".join([*lines, b"", b"\x81\x02hi"]), one)
        for line in more:
            yield packed(b"\r\n".join([*lines, line, b"", b""]), one)
    for line in lines:
        yield packed(b"\r\n".join([other for other in lines if other != line] + [b"", b""]))
    for status in (b"HTTP/1.0 101 x", b"HTTP/1.1 101", b"HTTP/1.1 404 Not Found", b"HTTP/2 200", b"SSH-2.0-x"):
        yield packed(b"\r\n".join([status, *lines[1:], b"", b""]))
    yield packed(b"\r\n".join([*lines, b"", b""]), 64, 30)


def proxy() -> Seeds:
    for line in (
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443", b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 65535 0",
        b"PROXY UNKNOWN ffff::1 what ever", b"PROXY TCP4 256.0.0.1 1.2.3.4 1 2", b"PROXY TCP6 ::1 ::1 01 2",
    ):  # fmt: skip
        yield packed(line + b"\r\nGET / HTTP/1.1\r\n\r\n")
    block4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + struct.pack("!HH", 56324, 443)
    block6 = bytes(range(36))
    unix = b"/run/client".ljust(108, b"\0") + b"\0abstract".ljust(108, b"\0")
    tls = struct.pack("!BHBI", judging.SSL, 5, 1, 0)
    for command, family, block in (
        (0x21, 0x11, block4), (0x21, 0x22, block6 + tls), (0x21, 0x31, unix), (0x20, 0xFF, b"xyz"),
        (0x21, 0x00, b"ignored"), (0x21, 0x10, block4), (0x21, 0x31, unix[108:] + unix[:108] + b"\x04\0\x01\0"),
        (0x22, 0x11, block4), (0x21, 0x41, block4), (0x21, 0x11, block4[:-1]), (0x21, 0x11, block4 + b"\x04\0\x05ab"),
    ):  # fmt: skip
        yield packed(judging.SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block + b"GET /")
    for tail in (b"", tls):
        length = len(block4) + 7 + len(tail)
        head = judging.SIGNATURE + struct.pack("!BBH", 0x21, 0x11, length) + block4 + b"\x03\0\x04"
        check = judging.crc32c(head + bytes(4) + tail)
        yield packed(head + struct.pack("!I", check) + tail)


def http() -> Seeds:
    for text in (
        b"token", b'"quoted"', b'"esc\\aped"', b'"open', b'""', b"server.example.com:8000", b"[2001:db8::1]:443",
        b"[::", b"a%20b:65536", b"wss://host/", b"HTTPS://", b"/path?query", b"value with \xff and\ttab\x7f",
        b" \t,, a", b"dGhlIHNhbXBsZSBub25jZQ==", b"0123456789abcdef\x1f", b":80", b"a:0000080",
    ):  # fmt: skip
        yield packed(text)
        yield packed(text, one=1, two=1)


def forwarded() -> Seeds:
    for one, texts in enumerate((
        ("192.0.2.1", "198.51.100.1, 192.0.2.1:80, 10.0.0.2", "[2001:db8::1]:8080", "2001:db8:1::2 ,::ffff:10.0.0.1,",
         "unknown, 10.0.0.3", "\0cut, 10.0.0.9", "192.0.2.1:_hidden", "10.0.0.3\nhttps, http\nexample.com:80, x"),
        ("for=192.0.2.1", 'For="[2001:db8:cafe::17]:4711";proto=https;host="a.example"', "for=_x, for=10.0.0.2",
         'for=192.0.2.1;ext="a, for=198.51.100.1; b"', 'for="10.0.0.3";ext="\\", for=198.51.100.1"',
         'for="198.51.100.1, for="[2001:db8::1]"', "for=10.0.0.1;for=10.0.0.2", 'x="\\\\", for=10.0.0.2:1;by=a'),
    )):  # fmt: skip
        for text in texts:
            yield packed(text.encode("latin-1"), one)


def cookies() -> Seeds:
    for text in (
        "", "a=1", "a=1; b=2", 'a="x"; b="y;z"', ";;=;a=;=b; c", "a = 1 ;\tb\t=\t2", "a==b;a=c\na=d", 'a="', "a=\xff",
    ):  # fmt: skip
        yield packed(text.encode("latin-1"))
