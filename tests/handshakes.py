"""Opening handshakes: each row of docs/handshakes.md as a client sends it, and the answer that is due.

The same rows are put to the parser (tests/engine) and to a server over a socket (tests/wire).
"""

from __future__ import annotations

import base64
import enum
from collections.abc import Iterable

from raw import TEXT, frame


class Answer(enum.Enum):
    """A response's status, the fields that it must have beside Connection, and whether it has content."""

    UPGRADED = 101, {}, False
    BAD_REQUEST = 400, {}, True
    BAD_METHOD = 405, {"allow": "GET"}, True
    HEAD = 405, {"allow": "GET"}, False
    LONG_TARGET = 414, {}, True
    NO_UPGRADE = 426, {"upgrade": "websocket"}, True
    OTHER_VERSION = 426, {"upgrade": "websocket", "sec-websocket-version": "13"}, True
    LARGE_FIELDS = 431, {}, True
    OTHER_HTTP = 505, {}, True

    def __init__(self, status: int, fields: dict[str, str], has_content: bool) -> None:
        self.status = status
        self.fields = fields
        self.has_content = has_content


KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
Field = tuple[bytes, bytes]
HOST = (b"Host", b"server.example.com")
UPGRADE = (b"Upgrade", b"websocket")
CONNECTION = (b"Connection", b"Upgrade")
KEY_FIELD = (b"Sec-WebSocket-Key", KEY)
VERSION = (b"Sec-WebSocket-Version", b"13")
BASELINE: tuple[Field, ...] = (HOST, UPGRADE, CONNECTION, KEY_FIELD, VERSION)
LINE = b"GET /chat HTTP/1.1"


def head(line: bytes = LINE, fields: Iterable[Field] = BASELINE, end: bytes = b"\r\n") -> bytes:
    return end.join([line, *(name + b": " + value for name, value in fields), b"", b""])


def but(*changed: tuple[bytes, bytes | None]) -> bytes:
    """The baseline with these fields instead of those of the same name; None as value takes it out."""
    names = {name.lower() for name, _ in changed}
    kept = [field for field in BASELINE if field[0].lower() not in names]
    return head(fields=kept + [field for field in changed if field[1] is not None])


def plus(*lines: bytes) -> bytes:
    """The baseline and raw lines."""
    return head()[:-2] + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


EXTENSIONS = b"Sec-WebSocket-Extensions: "
PROTOCOL = b"Sec-WebSocket-Protocol: "
TEXT_FRAME = frame(TEXT, "hello", mask=b"\x01\x02\x03\x04")
CLIENT_HELLO = bytes.fromhex("16030100f5010000f10303") + bytes(range(64))

ROWS: list[tuple[str, bytes, Answer]] = [
    ("01-valid-baseline", head(), Answer.UPGRADED),
    (
        "02-odd-case-and-token-lists",
        head(
            fields=[
                (b"HOST", b"server.example.com"),
                (b"UPGRADE", b"h2c, WebSocket"),
                (b"connection", b"keep-alive, upgrade"),
                (b"sec-websocket-KEY", KEY),
                (b"SEC-WEBSOCKET-VERSION", b"13"),
            ]
        ),
        Answer.UPGRADED,
    ),
    ("03-one-leading-crlf", b"\r\n" + head(), Answer.UPGRADED),
    ("04-bare-lf-line-ends", head(end=b"\n"), Answer.BAD_REQUEST),
    ("05-post", head(b"POST /chat HTTP/1.1"), Answer.BAD_METHOD),
    ("06-unknown-method", head(b"FOO /chat HTTP/1.1"), Answer.BAD_METHOD),
    ("07-lower-case-method", head(b"get /chat HTTP/1.1"), Answer.BAD_METHOD),
    ("08-http-1.0", head(b"GET /chat HTTP/1.0"), Answer.OTHER_HTTP),
    ("09-http-2.0", head(b"GET /chat HTTP/2.0"), Answer.OTHER_HTTP),
    ("10-no-version", head(b"GET /chat"), Answer.BAD_REQUEST),
    ("11-garbage-version", head(b"GET /chat HTTP/1.1x"), Answer.BAD_REQUEST),
    ("12-two-spaces", head(b"GET  /chat HTTP/1.1"), Answer.BAD_REQUEST),
    ("13-space-in-target", head(b"GET /chat room HTTP/1.1"), Answer.BAD_REQUEST),
    ("14-target-without-slash", head(b"GET chat HTTP/1.1"), Answer.BAD_REQUEST),
    ("15-absolute-form", head(b"GET http://server.example.com/chat HTTP/1.1"), Answer.UPGRADED),
    ("16-fragment-in-target", head(b"GET /chat#top HTTP/1.1"), Answer.BAD_REQUEST),
    ("17-8-bit-byte-in-target", head(b"GET /ch\xe4t HTTP/1.1"), Answer.BAD_REQUEST),
    ("18-no-host", but((b"Host", None)), Answer.BAD_REQUEST),
    ("19-two-hosts", but(HOST, (b"Host", b"other.example.com")), Answer.BAD_REQUEST),
    ("20-bad-host", but((b"Host", b"a b")), Answer.BAD_REQUEST),
    ("21-no-upgrade", but((b"Upgrade", None)), Answer.NO_UPGRADE),
    ("22-upgrade-h2c", but((b"Upgrade", b"h2c")), Answer.NO_UPGRADE),
    ("23-upgrade-websocketx", but((b"Upgrade", b"websocketx")), Answer.NO_UPGRADE),
    ("24-no-connection", but((b"Connection", None)), Answer.BAD_REQUEST),
    ("25-connection-keep-alive", but((b"Connection", b"keep-alive")), Answer.BAD_REQUEST),
    ("26-no-key", but((b"Sec-WebSocket-Key", None)), Answer.BAD_REQUEST),
    ("27-empty-key", but((b"Sec-WebSocket-Key", b"")), Answer.BAD_REQUEST),
    ("28-key-of-15-bytes", but((b"Sec-WebSocket-Key", base64.b64encode(b"a" * 15))), Answer.BAD_REQUEST),
    ("29-key-not-base64", but((b"Sec-WebSocket-Key", b"!" * 24)), Answer.BAD_REQUEST),
    ("30-key-twice-same", but(KEY_FIELD, KEY_FIELD), Answer.BAD_REQUEST),
    (
        "31-key-twice-different",
        but(KEY_FIELD, (b"Sec-WebSocket-Key", base64.b64encode(b"b" * 16))),
        Answer.BAD_REQUEST,
    ),
    ("32-no-version-field", but((b"Sec-WebSocket-Version", None)), Answer.OTHER_VERSION),
    ("33-version-12", but((b"Sec-WebSocket-Version", b"12")), Answer.OTHER_VERSION),
    ("34-version-8", but((b"Sec-WebSocket-Version", b"8")), Answer.OTHER_VERSION),
    ("35-version-013", but((b"Sec-WebSocket-Version", b"013")), Answer.BAD_REQUEST),
    ("36-version-twice", but(VERSION, VERSION), Answer.BAD_REQUEST),
    ("37-space-before-colon", plus(b"Upgrade : websocket"), Answer.BAD_REQUEST),
    ("38-obs-fold", plus(b"X-Folded: one", b" two"), Answer.BAD_REQUEST),
    (
        "39-obs-fold-hides-upgrade",
        head().replace(b"Connection: Upgrade", b"Connection:\r\n Upgrade"),
        Answer.BAD_REQUEST,
    ),
    ("40-space-before-first-field", head().replace(b"\r\nHost", b"\r\n Host"), Answer.BAD_REQUEST),
    ("41-bare-cr-in-value", plus(b"X-Odd: a\rb"), Answer.BAD_REQUEST),
    ("42-nul-in-value", plus(b"X-Odd: a\0b"), Answer.BAD_REQUEST),
    ("43-line-without-colon", plus(b"X-Odd"), Answer.BAD_REQUEST),
    ("44-empty-name", plus(b": odd"), Answer.BAD_REQUEST),
    ("45-non-token-in-name", plus(b"X(Odd): a"), Answer.BAD_REQUEST),
    ("46-8-bit-value", plus(b"X-Odd: \x80caf\xe9\xff"), Answer.UPGRADED),
    ("47-content-length-5", plus(b"Content-Length: 5") + b"hello", Answer.BAD_REQUEST),
    ("48-content-length-abc", plus(b"Content-Length: abc"), Answer.BAD_REQUEST),
    ("49-content-length-0-and-5", plus(b"Content-Length: 0", b"Content-Length: 5"), Answer.BAD_REQUEST),
    (
        "50-chunked-and-content-length",
        plus(b"Transfer-Encoding: chunked", b"Content-Length: 0") + b"0\r\n\r\n",
        Answer.BAD_REQUEST,
    ),
    ("51-chunked-empty-body", plus(b"Transfer-Encoding: chunked") + b"0\r\n\r\n", Answer.BAD_REQUEST),
    ("52-one-20-kb-field", plus(b"X-Large: " + b"a" * 20_000), Answer.LARGE_FIELDS),
    ("53-one-1-mb-field", plus(b"X-Large: " + b"a" * 1_000_000), Answer.LARGE_FIELDS),
    ("54-500-small-fields", plus(*(b"X-%d: a" % i for i in range(500))), Answer.LARGE_FIELDS),
    ("55-70-kb-target", head(b"GET /" + b"a" * 70_000 + b" HTTP/1.1"), Answer.LONG_TARGET),
    ("56-malformed-extensions", plus(EXTENSIONS + b"a;;b"), Answer.BAD_REQUEST),
    ("57-deflate-unknown-parameter", plus(EXTENSIONS + b"permessage-deflate; unknown=1"), Answer.UPGRADED),
    (
        "58-deflate-window-bits-99",
        plus(EXTENSIONS + b"permessage-deflate; server_max_window_bits=99"),
        Answer.UPGRADED,
    ),
    ("59-malformed-protocol", plus(PROTOCOL + b"a b"), Answer.BAD_REQUEST),
    ("60-duplicate-protocol", plus(PROTOCOL + b"a, a"), Answer.BAD_REQUEST),
    ("61-frame-behind-the-head", head() + TEXT_FRAME, Answer.UPGRADED),
    ("62-tls-client-hello", CLIENT_HELLO, Answer.BAD_REQUEST),
    ("63-http2-preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Answer.OTHER_HTTP),
]

# The same rules in places where the table has no row.
MORE_ROWS: list[tuple[str, bytes, Answer]] = [
    ("62b-garbage", b"\0\x01\x02\x03", Answer.BAD_REQUEST),
    ("62c-lf-first", b"\n" + head(), Answer.BAD_REQUEST),
    ("two-leading-crlf", b"\r\n\r\n" + head(), Answer.BAD_REQUEST),
    ("leading-cr-without-lf", b"\r" + head(), Answer.BAD_REQUEST),
    ("head-method", head(b"HEAD / HTTP/1.1"), Answer.HEAD),
    ("connect-method", head(b"CONNECT server.example.com:80 HTTP/1.1"), Answer.BAD_METHOD),
    ("options-asterisk", head(b"OPTIONS * HTTP/1.1"), Answer.BAD_METHOD),
    ("method-begins-like-get", head(b"GETS / HTTP/1.1"), Answer.BAD_METHOD),
    ("method-with-non-token", head(b"G(T / HTTP/1.1"), Answer.BAD_REQUEST),
    ("get-asterisk", head(b"GET * HTTP/1.1"), Answer.BAD_REQUEST),
    ("no-target", head(b"GET HTTP/1.1"), Answer.BAD_REQUEST),
    ("http-1.2-is-1.1", head(b"GET / HTTP/1.2"), Answer.UPGRADED),
    ("http-0.9", head(b"GET / HTTP/0.9"), Answer.OTHER_HTTP),
    ("http-lower-case", head(b"GET / http/1.1"), Answer.BAD_REQUEST),
    ("http-two-digits", head(b"GET / HTTP/1.10"), Answer.BAD_REQUEST),
    ("space-behind-version", head(b"GET / HTTP/1.1 "), Answer.BAD_REQUEST),
    ("post-http-1.0", head(b"POST / HTTP/1.0"), Answer.OTHER_HTTP),
    ("bare-lf-behind-field", head().replace(b"13\r\n", b"13\n"), Answer.BAD_REQUEST),
    ("bare-lf-at-the-end", head()[:-2] + b"\n", Answer.BAD_REQUEST),
    ("cr-without-lf-at-the-end", head()[:-2] + b"\rX", Answer.BAD_REQUEST),
    ("absolute-form-ws", head(b"GET wss://h:443?a=b HTTP/1.1"), Answer.UPGRADED),
    ("absolute-form-other-scheme", head(b"GET ftp://server.example.com/ HTTP/1.1"), Answer.BAD_REQUEST),
    ("absolute-form-no-authority", head(b"GET http:///chat HTTP/1.1"), Answer.BAD_REQUEST),
    ("absolute-form-user-information", head(b"GET http://me@h/chat HTTP/1.1"), Answer.BAD_REQUEST),
    ("absolute-form-no-host", but((b"Host", None)).replace(b"/chat", b"http://h/"), Answer.BAD_REQUEST),
    ("browsers-raw-query", head(b"GET /?q={%22a%22:[1|2]}^`\\ HTTP/1.1"), Answer.UPGRADED),
    ("quote-in-target", head(b'GET /?q="a" HTTP/1.1'), Answer.BAD_REQUEST),
    ("del-in-target", head(b"GET /\x7f HTTP/1.1"), Answer.BAD_REQUEST),
    ("host-empty", but((b"Host", b"")), Answer.BAD_REQUEST),
    ("host-port", but((b"Host", b"localhost:8000")), Answer.UPGRADED),
    ("host-port-empty", but((b"Host", b"localhost:")), Answer.UPGRADED),
    ("host-port-65535", but((b"Host", b"localhost:65535")), Answer.UPGRADED),
    ("host-port-65536", but((b"Host", b"localhost:65536")), Answer.BAD_REQUEST),
    ("host-port-huge", but((b"Host", b"localhost:99999999999999999999")), Answer.BAD_REQUEST),
    ("host-port-letters", but((b"Host", b"localhost:8a")), Answer.BAD_REQUEST),
    ("host-only-port", but((b"Host", b":8000")), Answer.BAD_REQUEST),
    ("host-ipv6", but((b"Host", b"[::1]:8000")), Answer.UPGRADED),
    ("host-ipv6-open", but((b"Host", b"[::1")), Answer.BAD_REQUEST),
    ("host-ipv6-empty", but((b"Host", b"[]")), Answer.BAD_REQUEST),
    ("host-ipv6-tail", but((b"Host", b"[::1]a")), Answer.BAD_REQUEST),
    ("host-percent", but((b"Host", b"a%2Fb")), Answer.UPGRADED),
    ("host-percent-cut", but((b"Host", b"a%2")), Answer.BAD_REQUEST),
    ("host-percent-bad", but((b"Host", b"a%2g")), Answer.BAD_REQUEST),
    ("host-user-information", but((b"Host", b"me@localhost")), Answer.BAD_REQUEST),
    ("host-path", but((b"Host", b"localhost/a")), Answer.BAD_REQUEST),
    ("host-list", but((b"Host", b"a, b")), Answer.BAD_REQUEST),
    ("host-8-bit", but((b"Host", b"h\xf6st")), Answer.BAD_REQUEST),
    ("lists-in-several-fields", but((b"Upgrade", b"h2c"), (b"upgrade", b"WEBSOCKET")), Answer.UPGRADED),
    (
        "connection-in-several-fields",
        but((b"Connection", b"keep-alive"), (b"Connection", b",, uPGRADE ,")),
        Answer.UPGRADED,
    ),
    ("connection-in-quotes", but((b"Connection", b'"a, upgrade, b"')), Answer.BAD_REQUEST),
    ("connection-two-words", but((b"Connection", b"keep upgrade")), Answer.BAD_REQUEST),
    ("upgrade-with-version", but((b"Upgrade", b"websocket/13")), Answer.NO_UPGRADE),
    ("upgrade-version-is-no-protocol", but((b"Upgrade", b"h2c/websocket")), Answer.NO_UPGRADE),
    ("upgrade-empty-version", but((b"Upgrade", b"h2c/, websocket")), Answer.BAD_REQUEST),
    ("upgrade-no-token", but((b"Upgrade", b"@")), Answer.BAD_REQUEST),
    ("upgrade-is-a-prefix", but((b"Upgrade", b"websocke")), Answer.NO_UPGRADE),
    ("connection-is-a-prefix", but((b"Connection", b"upgrade1")), Answer.BAD_REQUEST),
    ("origin-twice", plus(b"Origin: http://a", b"Origin: http://b"), Answer.BAD_REQUEST),
    ("key-spare-bits-not-zero", but((b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZR==")), Answer.UPGRADED),
    ("key-one-equals-sign", but((b"Sec-WebSocket-Key", KEY[:22] + b"A=")), Answer.BAD_REQUEST),
    ("key-no-equals-sign", but((b"Sec-WebSocket-Key", KEY[:22] + b"AA")), Answer.BAD_REQUEST),
    ("key-url-safe-alphabet", but((b"Sec-WebSocket-Key", b"-_" + KEY[2:])), Answer.BAD_REQUEST),
    ("key-other-alphabet-bytes", but((b"Sec-WebSocket-Key", b"+/" + KEY[2:])), Answer.UPGRADED),
    ("key-25-characters", but((b"Sec-WebSocket-Key", b"A" + KEY)), Answer.BAD_REQUEST),
    ("key-17-bytes", but((b"Sec-WebSocket-Key", base64.b64encode(b"a" * 17))), Answer.BAD_REQUEST),
    ("key-between-spaces", but((b"Sec-WebSocket-Key", b" \t" + KEY + b"\t ")), Answer.UPGRADED),
    ("key-in-the-middle-broken", but((b"Sec-WebSocket-Key", KEY[:10] + b" " + KEY[11:])), Answer.BAD_REQUEST),
    ("version-0", but((b"Sec-WebSocket-Version", b"0")), Answer.OTHER_VERSION),
    ("version-255", but((b"Sec-WebSocket-Version", b"255")), Answer.OTHER_VERSION),
    ("version-256", but((b"Sec-WebSocket-Version", b"256")), Answer.BAD_REQUEST),
    ("version-269-is-13-mod-256", but((b"Sec-WebSocket-Version", b"269")), Answer.BAD_REQUEST),
    ("version-empty", but((b"Sec-WebSocket-Version", b"")), Answer.BAD_REQUEST),
    ("version-list", but((b"Sec-WebSocket-Version", b"13, 8")), Answer.BAD_REQUEST),
    ("version-letters", but((b"Sec-WebSocket-Version", b"1a")), Answer.BAD_REQUEST),
    ("draft-without-version-and-key", head(fields=(HOST, UPGRADE, CONNECTION)), Answer.OTHER_VERSION),
    ("content-length-0", plus(b"Content-Length: 0"), Answer.UPGRADED),
    ("content-length-0-twice", plus(b"Content-Length: 0", b"Content-Length: 0"), Answer.BAD_REQUEST),
    ("content-length-list", plus(b"Content-Length: 0, 0"), Answer.BAD_REQUEST),
    ("content-length-empty", plus(b"Content-Length:"), Answer.BAD_REQUEST),
    ("content-length-plus", plus(b"Content-Length: +0"), Answer.BAD_REQUEST),
    ("transfer-encoding-identity", plus(b"Transfer-Encoding: identity"), Answer.BAD_REQUEST),
    ("del-in-value", plus(b"X-Odd: a\x7fb"), Answer.BAD_REQUEST),
    ("tab-in-value", plus(b"X-Odd: \ta\tb\t"), Answer.UPGRADED),
    ("escape-in-value", plus(b"X-Odd: 1234567890\x1b"), Answer.BAD_REQUEST),
    ("empty-value", plus(b"X-Odd:"), Answer.UPGRADED),
    ("cr-in-name", plus(b"X-O\rdd: a"), Answer.BAD_REQUEST),
    ("8-bit-name", plus(b"X-\xd6dd: a"), Answer.BAD_REQUEST),
    ("extensions-empty", plus(EXTENSIONS), Answer.BAD_REQUEST),
    ("extensions-only-commas", plus(EXTENSIONS + b", ,"), Answer.BAD_REQUEST),
    ("extensions-empty-beside-one", plus(EXTENSIONS + b"a", EXTENSIONS), Answer.UPGRADED),
    ("extensions-list", plus(EXTENSIONS + b'a; b ; c=d;e = "f" , ,g;h="\\i"'), Answer.UPGRADED),
    ("extensions-cut-parameter", plus(EXTENSIONS + b"a;"), Answer.BAD_REQUEST),
    ("extensions-cut-value", plus(EXTENSIONS + b"a; b="), Answer.BAD_REQUEST),
    ("extensions-no-name", plus(EXTENSIONS + b"; a"), Answer.BAD_REQUEST),
    ("extensions-two-words", plus(EXTENSIONS + b"a b"), Answer.BAD_REQUEST),
    ("extensions-quoted-open", plus(EXTENSIONS + b'a; b="c'), Answer.BAD_REQUEST),
    ("extensions-quoted-open-escape", plus(EXTENSIONS + b'a; b="c\\'), Answer.BAD_REQUEST),
    ("extensions-quoted-empty", plus(EXTENSIONS + b'a; b=""'), Answer.BAD_REQUEST),
    ("extensions-quoted-no-token", plus(EXTENSIONS + b'a; b="c d"'), Answer.BAD_REQUEST),
    ("extensions-quoted-escaped-quote", plus(EXTENSIONS + b'a; b="\\""'), Answer.BAD_REQUEST),
    ("extensions-quoted-tail", plus(EXTENSIONS + b'a; b="c"d'), Answer.BAD_REQUEST),
    ("extensions-second-field-malformed", plus(EXTENSIONS + b"a", EXTENSIONS + b"a;;b"), Answer.BAD_REQUEST),
    ("protocol-empty", plus(PROTOCOL), Answer.BAD_REQUEST),
    ("protocol-in-several-fields", plus(PROTOCOL + b"a, b", b"X: a", PROTOCOL + b"c,A"), Answer.UPGRADED),
    (
        "protocol-again-in-second-field",
        plus(PROTOCOL + b"a, b", b"X: a", PROTOCOL + b"c ,b "),
        Answer.BAD_REQUEST,
    ),
    (
        "protocol-again-in-third-field",
        plus(PROTOCOL + b"a", b"sec-websocket-PROTOCOL:b", PROTOCOL + b"b"),
        Answer.BAD_REQUEST,
    ),
    ("protocol-prefix-of-another", plus(PROTOCOL + b"chat, chat2, ch"), Answer.UPGRADED),
    ("protocol-quoted", plus(PROTOCOL + b'"a"'), Answer.BAD_REQUEST),
]
