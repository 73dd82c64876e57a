"""The opening handshake: each row of docs/handshakes.md, limits, chopping, linearity, and peers' parsers."""

import base64
import random

import h11
import pytest
from uws_shims import upgrade_shim as shim
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request
from websockets.server import ServerProtocol

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
HOST = (b"Host", b"server.example.com")
UPGRADE = (b"Upgrade", b"websocket")
CONNECTION = (b"Connection", b"Upgrade")
KEY_FIELD = (b"Sec-WebSocket-Key", KEY)
VERSION = (b"Sec-WebSocket-Version", b"13")
BASELINE = (HOST, UPGRADE, CONNECTION, KEY_FIELD, VERSION)
LINE = b"GET /chat HTTP/1.1"


def head(line=LINE, fields=BASELINE, end=b"\r\n"):
    return end.join([line, *(name + b": " + value for name, value in fields), b"", b""])


def but(*changed):
    """The baseline with these fields instead of those of the same name; None as value takes it out."""
    names = {name.lower() for name, _ in changed}
    kept = [field for field in BASELINE if field[0].lower() not in names]
    return head(fields=kept + [field for field in changed if field[1] is not None])


def plus(*lines):
    """The baseline and raw lines."""
    return head()[:-2] + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


EXTENSIONS = b"Sec-WebSocket-Extensions: "
PROTOCOL = b"Sec-WebSocket-Protocol: "
TEXT_FRAME = b"\x81\x85\x01\x02\x03\x04iglhn"
CLIENT_HELLO = bytes.fromhex("16030100f5010000f10303") + bytes(range(64))

ROWS = [
    ("01-valid-baseline", head(), shim.OK),
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
        shim.OK,
    ),
    ("03-one-leading-crlf", b"\r\n" + head(), shim.OK),
    ("04-bare-lf-line-ends", head(end=b"\n"), shim.E_400),
    ("05-post", head(b"POST /chat HTTP/1.1"), shim.E_405),
    ("06-unknown-method", head(b"FOO /chat HTTP/1.1"), shim.E_405),
    ("07-lower-case-method", head(b"get /chat HTTP/1.1"), shim.E_405),
    ("08-http-1.0", head(b"GET /chat HTTP/1.0"), shim.E_505),
    ("09-http-2.0", head(b"GET /chat HTTP/2.0"), shim.E_505),
    ("10-no-version", head(b"GET /chat"), shim.E_400),
    ("11-garbage-version", head(b"GET /chat HTTP/1.1x"), shim.E_400),
    ("12-two-spaces", head(b"GET  /chat HTTP/1.1"), shim.E_400),
    ("13-space-in-target", head(b"GET /chat room HTTP/1.1"), shim.E_400),
    ("14-target-without-slash", head(b"GET chat HTTP/1.1"), shim.E_400),
    ("15-absolute-form", head(b"GET http://server.example.com/chat HTTP/1.1"), shim.OK),
    ("16-fragment-in-target", head(b"GET /chat#top HTTP/1.1"), shim.E_400),
    ("17-8-bit-byte-in-target", head(b"GET /ch\xe4t HTTP/1.1"), shim.E_400),
    ("18-no-host", but((b"Host", None)), shim.E_400),
    ("19-two-hosts", but(HOST, (b"Host", b"other.example.com")), shim.E_400),
    ("20-bad-host", but((b"Host", b"a b")), shim.E_400),
    ("21-no-upgrade", but((b"Upgrade", None)), shim.E_426),
    ("22-upgrade-h2c", but((b"Upgrade", b"h2c")), shim.E_426),
    ("23-upgrade-websocketx", but((b"Upgrade", b"websocketx")), shim.E_426),
    ("24-no-connection", but((b"Connection", None)), shim.E_400),
    ("25-connection-keep-alive", but((b"Connection", b"keep-alive")), shim.E_400),
    ("26-no-key", but((b"Sec-WebSocket-Key", None)), shim.E_400),
    ("27-empty-key", but((b"Sec-WebSocket-Key", b"")), shim.E_400),
    ("28-key-of-15-bytes", but((b"Sec-WebSocket-Key", base64.b64encode(b"a" * 15))), shim.E_400),
    ("29-key-not-base64", but((b"Sec-WebSocket-Key", b"!" * 24)), shim.E_400),
    ("30-key-twice-same", but(KEY_FIELD, KEY_FIELD), shim.E_400),
    (
        "31-key-twice-different",
        but(KEY_FIELD, (b"Sec-WebSocket-Key", base64.b64encode(b"b" * 16))),
        shim.E_400,
    ),
    ("32-no-version-field", but((b"Sec-WebSocket-Version", None)), shim.E_VERSION),
    ("33-version-12", but((b"Sec-WebSocket-Version", b"12")), shim.E_VERSION),
    ("34-version-8", but((b"Sec-WebSocket-Version", b"8")), shim.E_VERSION),
    ("35-version-013", but((b"Sec-WebSocket-Version", b"013")), shim.E_400),
    ("36-version-twice", but(VERSION, VERSION), shim.E_400),
    ("37-space-before-colon", plus(b"Upgrade : websocket"), shim.E_400),
    ("38-obs-fold", plus(b"X-Folded: one", b" two"), shim.E_400),
    (
        "39-obs-fold-hides-upgrade",
        head().replace(b"Connection: Upgrade", b"Connection:\r\n Upgrade"),
        shim.E_400,
    ),
    ("40-space-before-first-field", head().replace(b"\r\nHost", b"\r\n Host"), shim.E_400),
    ("41-bare-cr-in-value", plus(b"X-Odd: a\rb"), shim.E_400),
    ("42-nul-in-value", plus(b"X-Odd: a\0b"), shim.E_400),
    ("43-line-without-colon", plus(b"X-Odd"), shim.E_400),
    ("44-empty-name", plus(b": odd"), shim.E_400),
    ("45-non-token-in-name", plus(b"X(Odd): a"), shim.E_400),
    ("46-8-bit-value", plus(b"X-Odd: \x80caf\xe9\xff"), shim.OK),
    ("47-content-length-5", plus(b"Content-Length: 5") + b"hello", shim.E_400),
    ("48-content-length-abc", plus(b"Content-Length: abc"), shim.E_400),
    ("49-content-length-0-and-5", plus(b"Content-Length: 0", b"Content-Length: 5"), shim.E_400),
    (
        "50-chunked-and-content-length",
        plus(b"Transfer-Encoding: chunked", b"Content-Length: 0") + b"0\r\n\r\n",
        shim.E_400,
    ),
    ("51-chunked-empty-body", plus(b"Transfer-Encoding: chunked") + b"0\r\n\r\n", shim.E_400),
    ("52-one-20-kb-field", plus(b"X-Large: " + b"a" * 20_000), shim.E_431),
    ("53-one-1-mb-field", plus(b"X-Large: " + b"a" * 1_000_000), shim.E_431),
    ("54-500-small-fields", plus(*(b"X-%d: a" % i for i in range(500))), shim.E_431),
    ("55-70-kb-target", head(b"GET /" + b"a" * 70_000 + b" HTTP/1.1"), shim.E_414),
    ("56-malformed-extensions", plus(EXTENSIONS + b"a;;b"), shim.E_400),
    ("57-deflate-unknown-parameter", plus(EXTENSIONS + b"permessage-deflate; unknown=1"), shim.OK),
    (
        "58-deflate-window-bits-99",
        plus(EXTENSIONS + b"permessage-deflate; server_max_window_bits=99"),
        shim.OK,
    ),
    ("59-malformed-protocol", plus(PROTOCOL + b"a b"), shim.E_400),
    ("60-duplicate-protocol", plus(PROTOCOL + b"a, a"), shim.E_400),
    ("61-frame-behind-the-head", head() + TEXT_FRAME, shim.OK),
    ("62-tls-client-hello", CLIENT_HELLO, shim.E_400),
    ("63-http2-preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", shim.E_505),
]

# The same rules in places where the table has no row.
MORE_ROWS = [
    ("62b-garbage", b"\0\x01\x02\x03", shim.E_400),
    ("62c-lf-first", b"\n" + head(), shim.E_400),
    ("two-leading-crlf", b"\r\n\r\n" + head(), shim.E_400),
    ("leading-cr-without-lf", b"\r" + head(), shim.E_400),
    ("head-method", head(b"HEAD / HTTP/1.1"), shim.E_HEAD),
    ("connect-method", head(b"CONNECT server.example.com:80 HTTP/1.1"), shim.E_405),
    ("options-asterisk", head(b"OPTIONS * HTTP/1.1"), shim.E_405),
    ("method-begins-like-get", head(b"GETS / HTTP/1.1"), shim.E_405),
    ("method-with-non-token", head(b"G(T / HTTP/1.1"), shim.E_400),
    ("get-asterisk", head(b"GET * HTTP/1.1"), shim.E_400),
    ("no-target", head(b"GET HTTP/1.1"), shim.E_400),
    ("http-1.2-is-1.1", head(b"GET / HTTP/1.2"), shim.OK),
    ("http-0.9", head(b"GET / HTTP/0.9"), shim.E_505),
    ("http-lower-case", head(b"GET / http/1.1"), shim.E_400),
    ("http-two-digits", head(b"GET / HTTP/1.10"), shim.E_400),
    ("space-behind-version", head(b"GET / HTTP/1.1 "), shim.E_400),
    ("post-http-1.0", head(b"POST / HTTP/1.0"), shim.E_505),
    ("bare-lf-behind-field", head().replace(b"13\r\n", b"13\n"), shim.E_400),
    ("bare-lf-at-the-end", head()[:-2] + b"\n", shim.E_400),
    ("cr-without-lf-at-the-end", head()[:-2] + b"\rX", shim.E_400),
    ("absolute-form-ws", head(b"GET wss://h:443?a=b HTTP/1.1"), shim.OK),
    ("absolute-form-other-scheme", head(b"GET ftp://server.example.com/ HTTP/1.1"), shim.E_400),
    ("absolute-form-no-authority", head(b"GET http:///chat HTTP/1.1"), shim.E_400),
    ("absolute-form-user-information", head(b"GET http://me@h/chat HTTP/1.1"), shim.E_400),
    ("absolute-form-no-host", but((b"Host", None)).replace(b"/chat", b"http://h/"), shim.E_400),
    ("browsers-raw-query", head(b"GET /?q={%22a%22:[1|2]}^`\\ HTTP/1.1"), shim.OK),
    ("quote-in-target", head(b'GET /?q="a" HTTP/1.1'), shim.E_400),
    ("del-in-target", head(b"GET /\x7f HTTP/1.1"), shim.E_400),
    ("host-empty", but((b"Host", b"")), shim.E_400),
    ("host-port", but((b"Host", b"localhost:8000")), shim.OK),
    ("host-port-empty", but((b"Host", b"localhost:")), shim.OK),
    ("host-port-65535", but((b"Host", b"localhost:65535")), shim.OK),
    ("host-port-65536", but((b"Host", b"localhost:65536")), shim.E_400),
    ("host-port-huge", but((b"Host", b"localhost:99999999999999999999")), shim.E_400),
    ("host-port-letters", but((b"Host", b"localhost:8a")), shim.E_400),
    ("host-only-port", but((b"Host", b":8000")), shim.E_400),
    ("host-ipv6", but((b"Host", b"[::1]:8000")), shim.OK),
    ("host-ipv6-open", but((b"Host", b"[::1")), shim.E_400),
    ("host-ipv6-empty", but((b"Host", b"[]")), shim.E_400),
    ("host-ipv6-tail", but((b"Host", b"[::1]a")), shim.E_400),
    ("host-percent", but((b"Host", b"a%2Fb")), shim.OK),
    ("host-percent-cut", but((b"Host", b"a%2")), shim.E_400),
    ("host-percent-bad", but((b"Host", b"a%2g")), shim.E_400),
    ("host-user-information", but((b"Host", b"me@localhost")), shim.E_400),
    ("host-path", but((b"Host", b"localhost/a")), shim.E_400),
    ("host-list", but((b"Host", b"a, b")), shim.E_400),
    ("host-8-bit", but((b"Host", b"h\xf6st")), shim.E_400),
    ("lists-in-several-fields", but((b"Upgrade", b"h2c"), (b"upgrade", b"WEBSOCKET")), shim.OK),
    (
        "connection-in-several-fields",
        but((b"Connection", b"keep-alive"), (b"Connection", b",, uPGRADE ,")),
        shim.OK,
    ),
    ("connection-in-quotes", but((b"Connection", b'"a, upgrade, b"')), shim.E_400),
    ("connection-two-words", but((b"Connection", b"keep upgrade")), shim.E_400),
    ("upgrade-with-version", but((b"Upgrade", b"websocket/13")), shim.E_426),
    ("upgrade-version-is-no-protocol", but((b"Upgrade", b"h2c/websocket")), shim.E_426),
    ("upgrade-empty-version", but((b"Upgrade", b"h2c/, websocket")), shim.E_400),
    ("upgrade-no-token", but((b"Upgrade", b"@")), shim.E_400),
    ("upgrade-is-a-prefix", but((b"Upgrade", b"websocke")), shim.E_426),
    ("connection-is-a-prefix", but((b"Connection", b"upgrade1")), shim.E_400),
    ("origin-twice", plus(b"Origin: http://a", b"Origin: http://b"), shim.E_400),
    ("key-spare-bits-not-zero", but((b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZR==")), shim.OK),
    ("key-one-equals-sign", but((b"Sec-WebSocket-Key", KEY[:22] + b"A=")), shim.E_400),
    ("key-no-equals-sign", but((b"Sec-WebSocket-Key", KEY[:22] + b"AA")), shim.E_400),
    ("key-url-safe-alphabet", but((b"Sec-WebSocket-Key", b"-_" + KEY[2:])), shim.E_400),
    ("key-other-alphabet-bytes", but((b"Sec-WebSocket-Key", b"+/" + KEY[2:])), shim.OK),
    ("key-25-characters", but((b"Sec-WebSocket-Key", b"A" + KEY)), shim.E_400),
    ("key-17-bytes", but((b"Sec-WebSocket-Key", base64.b64encode(b"a" * 17))), shim.E_400),
    ("key-between-spaces", but((b"Sec-WebSocket-Key", b" \t" + KEY + b"\t ")), shim.OK),
    ("key-in-the-middle-broken", but((b"Sec-WebSocket-Key", KEY[:10] + b" " + KEY[11:])), shim.E_400),
    ("version-0", but((b"Sec-WebSocket-Version", b"0")), shim.E_VERSION),
    ("version-255", but((b"Sec-WebSocket-Version", b"255")), shim.E_VERSION),
    ("version-256", but((b"Sec-WebSocket-Version", b"256")), shim.E_400),
    ("version-269-is-13-mod-256", but((b"Sec-WebSocket-Version", b"269")), shim.E_400),
    ("version-empty", but((b"Sec-WebSocket-Version", b"")), shim.E_400),
    ("version-list", but((b"Sec-WebSocket-Version", b"13, 8")), shim.E_400),
    ("version-letters", but((b"Sec-WebSocket-Version", b"1a")), shim.E_400),
    ("draft-without-version-and-key", head(fields=(HOST, UPGRADE, CONNECTION)), shim.E_VERSION),
    ("content-length-0", plus(b"Content-Length: 0"), shim.OK),
    ("content-length-0-twice", plus(b"Content-Length: 0", b"Content-Length: 0"), shim.E_400),
    ("content-length-list", plus(b"Content-Length: 0, 0"), shim.E_400),
    ("content-length-empty", plus(b"Content-Length:"), shim.E_400),
    ("content-length-plus", plus(b"Content-Length: +0"), shim.E_400),
    ("transfer-encoding-identity", plus(b"Transfer-Encoding: identity"), shim.E_400),
    ("del-in-value", plus(b"X-Odd: a\x7fb"), shim.E_400),
    ("tab-in-value", plus(b"X-Odd: \ta\tb\t"), shim.OK),
    ("escape-in-value", plus(b"X-Odd: 1234567890\x1b"), shim.E_400),
    ("empty-value", plus(b"X-Odd:"), shim.OK),
    ("cr-in-name", plus(b"X-O\rdd: a"), shim.E_400),
    ("8-bit-name", plus(b"X-\xd6dd: a"), shim.E_400),
    ("extensions-empty", plus(EXTENSIONS), shim.E_400),
    ("extensions-only-commas", plus(EXTENSIONS + b", ,"), shim.E_400),
    ("extensions-empty-beside-one", plus(EXTENSIONS + b"a", EXTENSIONS), shim.OK),
    ("extensions-list", plus(EXTENSIONS + b'a; b ; c=d;e = "f" , ,g;h="\\i"'), shim.OK),
    ("extensions-cut-parameter", plus(EXTENSIONS + b"a;"), shim.E_400),
    ("extensions-cut-value", plus(EXTENSIONS + b"a; b="), shim.E_400),
    ("extensions-no-name", plus(EXTENSIONS + b"; a"), shim.E_400),
    ("extensions-two-words", plus(EXTENSIONS + b"a b"), shim.E_400),
    ("extensions-quoted-open", plus(EXTENSIONS + b'a; b="c'), shim.E_400),
    ("extensions-quoted-open-escape", plus(EXTENSIONS + b'a; b="c\\'), shim.E_400),
    ("extensions-quoted-empty", plus(EXTENSIONS + b'a; b=""'), shim.E_400),
    ("extensions-quoted-no-token", plus(EXTENSIONS + b'a; b="c d"'), shim.E_400),
    ("extensions-quoted-escaped-quote", plus(EXTENSIONS + b'a; b="\\""'), shim.E_400),
    ("extensions-quoted-tail", plus(EXTENSIONS + b'a; b="c"d'), shim.E_400),
    ("extensions-second-field-malformed", plus(EXTENSIONS + b"a", EXTENSIONS + b"a;;b"), shim.E_400),
    ("protocol-empty", plus(PROTOCOL), shim.E_400),
    ("protocol-in-several-fields", plus(PROTOCOL + b"a, b", b"X: a", PROTOCOL + b"c,A"), shim.OK),
    ("protocol-again-in-second-field", plus(PROTOCOL + b"a, b", b"X: a", PROTOCOL + b"c ,b "), shim.E_400),
    (
        "protocol-again-in-third-field",
        plus(PROTOCOL + b"a", b"sec-websocket-PROTOCOL:b", PROTOCOL + b"b"),
        shim.E_400,
    ),
    ("protocol-prefix-of-another", plus(PROTOCOL + b"chat, chat2, ch"), shim.OK),
    ("protocol-quoted", plus(PROTOCOL + b'"a"'), shim.E_400),
]

CASES = [pytest.param(request, status, id=name) for name, request, status in ROWS + MORE_ROWS]


def parse(request, cuts=(), **limits):
    """Hand down growing parts of the request; the answer of the last, which no later part may change."""
    upgrade = shim.Upgrade(**limits)
    status = shim.MORE
    for cut in (*cuts, len(request)):
        status = upgrade.parse(request[:cut])
        if status != shim.MORE:
            break
    assert upgrade.parse(request) == status
    return status, upgrade


def facts(upgrade, request):
    spans = [upgrade.span(name, request) for name in ("method", "target", "host", "origin", "protocol")]
    return upgrade.head_len, upgrade.pos, upgrade.fields, upgrade.is_plain_get, upgrade.looked, spans


def test_each_row_of_the_table_is_here_once():
    assert [name[:2] for name, _, _ in ROWS] == [f"{row:02}" for row in range(1, 64)]


@pytest.mark.parametrize("request_bytes, expected", CASES)
def test_request_gets_its_answer_in_one_piece(request_bytes, expected):
    status, upgrade = parse(request_bytes)
    assert status == expected
    if status == shim.OK:
        assert upgrade.accept().startswith(b"HTTP/1.1 101 ")
    else:
        assert upgrade.accept() is None


@pytest.mark.parametrize("request_bytes, expected", CASES)
def test_request_gets_the_same_answer_byte_by_byte(request_bytes, expected):
    request_bytes = request_bytes[:20_000]
    whole, upgrade = parse(request_bytes)
    status, chopped = parse(request_bytes, range(len(request_bytes)))
    assert status == whole == expected
    assert facts(chopped, request_bytes) == facts(upgrade, request_bytes)


@pytest.mark.parametrize("request_bytes, expected", CASES)
def test_request_gets_the_same_answer_randomly_chopped(request_bytes, expected):
    rng = random.Random(request_bytes[:100])
    request_bytes = request_bytes[:20_000]
    _, upgrade = parse(request_bytes)
    for _ in range(25):
        cuts = sorted(rng.randrange(len(request_bytes)) for _ in range(rng.randrange(1, 12)))
        status, chopped = parse(request_bytes, cuts)
        assert status == expected
        assert facts(chopped, request_bytes) == facts(upgrade, request_bytes)


def refused_at(request):
    """How many bytes it took."""
    for n in range(len(request) + 1):
        status, _ = parse(request[:n])
        if status != shim.MORE:
            return n, status
    raise AssertionError("not refused")


@pytest.mark.parametrize(
    "prefix, last, status",
    [
        (b"", b"\x16", shim.E_400),
        (b"", b"\n", shim.E_400),
        (b"GET ", b" ", shim.E_400),
        (b"GET /", b"#", shim.E_400),
        (b"GET chat", b" ", shim.E_400),
        (b"GET / H", b"X", shim.E_400),
        (b"GET / HTTP/1.1", b"\n", shim.E_400),
        (b"GET / HTTP/1.0\r", b"\n", shim.E_505),
        (b"POST / HTTP/1.1\r", b"\n", shim.E_405),
        (b"GET / HTTP/1.1\r\n", b" ", shim.E_400),
        (b"GET / HTTP/1.1\r\nHost", b" ", shim.E_400),
        (b"GET / HTTP/1.1\r\nHost: a", b"\0", shim.E_400),
        (b"GET / HTTP/1.1\r\nHost: a\r", b"b", shim.E_400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r", b"\n", shim.E_400),
        (b"GET / HTTP/1.1\r\nSec-WebSocket-Key: short\r", b"\n", shim.E_400),
    ],
)
def test_request_is_refused_at_the_byte_that_makes_it_wrong(prefix, last, status):
    assert refused_at(prefix + last + b"a" * 100) == (len(prefix) + 1, status)


def test_what_a_later_field_could_put_right_waits_for_the_end_of_the_head():
    for missing in (HOST, UPGRADE, CONNECTION, KEY_FIELD, VERSION):
        request = but((missing[0], None))
        assert refused_at(request)[0] == len(request)


def test_answer_does_not_depend_on_the_order_of_the_fields():
    fields = [UPGRADE, (b"Connection", b"close"), (b"Sec-WebSocket-Version", b"8"), HOST]
    rng = random.Random(1)
    for _ in range(20):
        rng.shuffle(fields)
        assert parse(head(fields=fields))[0] == shim.E_400
    fields[fields.index((b"Connection", b"close"))] = CONNECTION
    for _ in range(20):
        rng.shuffle(fields)
        assert parse(head(fields=fields))[0] == shim.E_VERSION


def test_bytes_behind_the_head_belong_to_the_frames():
    for behind in (b"", TEXT_FRAME, b"\0" * 50_000):
        status, upgrade = parse(head() + behind)
        assert (status, upgrade.head_len, upgrade.pos) == (shim.OK, len(head()), len(head()))


def test_fewer_bytes_than_were_already_read_are_refused():
    upgrade = shim.Upgrade()
    assert upgrade.parse(head()[:30]) == shim.MORE
    assert upgrade.parse(head()[:29]) == shim.E_ARG
    assert upgrade.parse(head()) == shim.OK


def test_no_bytes_need_more():
    assert shim.Upgrade().parse(b"") == shim.MORE


def test_state_is_small():
    assert shim.STATE_BYTES <= 192


# Limits


def test_head_as_large_as_the_limit_passes_and_a_byte_more_gets_431():
    request = plus(b"X-Odd: a")
    for limit in range(len(request) - 3, len(request) + 2):
        status, upgrade = parse(request, max_head_bytes=limit)
        assert parse(request, range(len(request)), max_head_bytes=limit)[0] == status
        assert status == (shim.OK if limit >= len(request) else shim.E_431)
        if status != shim.OK:
            assert upgrade.pos == limit


def test_incomplete_head_is_refused_as_soon_as_it_fills_the_limit():
    request = head()
    limit = len(request) - 1
    assert parse(request[: limit - 1], max_head_bytes=limit)[0] == shim.MORE
    assert parse(request[:limit], max_head_bytes=limit)[0] == shim.E_431


def test_head_limit_within_the_request_line_gets_414():
    for limit in range(len(LINE) + 2):
        assert parse(head(), max_head_bytes=limit)[0] == shim.E_414
    assert parse(head(), max_head_bytes=len(LINE) + 2)[0] == shim.E_431


def test_frames_behind_the_head_do_not_count():
    assert parse(head() + bytes(100), max_head_bytes=len(head()))[0] == shim.OK


@pytest.mark.parametrize("chop", [False, True])
def test_as_many_fields_as_the_limit_pass_and_one_more_gets_431(chop):
    for extra in range(3):
        request = plus(*[b"X: a"] * extra)
        count = len(BASELINE) + extra
        for limit in (count - 1, count, count + 1):
            status, upgrade = parse(request, range(len(request)) if chop else (), max_fields=limit)
            assert status == (shim.OK if count <= limit else shim.E_431)
            assert upgrade.fields == min(count, limit)


@pytest.mark.parametrize("chop", [False, True])
@pytest.mark.parametrize("part", ["method", "target", "name", "value"])
def test_line_as_long_as_the_limit_passes_and_a_byte_more_gets_414_or_431(part, chop):
    limit = 80
    for length in (limit - 1, limit, limit + 1, limit + 2, limit + 30):
        over = length > limit
        request, expected = {
            "method": (head(b"A" * (length - 11) + b" / HTTP/1.1"), shim.E_414 if over else shim.E_405),
            "target": (head(b"GET /" + b"a" * (length - 14) + b" HTTP/1.1"), shim.E_414 if over else shim.OK),
            "name": (plus(b"X" * (length - 2) + b": "), shim.E_431 if over else shim.OK),
            "value": (plus(b"X: " + b"a" * (length - 3)), shim.E_431 if over else shim.OK),
        }[part]
        assert max(map(len, request.split(b"\r\n"))) == length
        cuts = range(len(request)) if chop else ()
        assert parse(request, cuts, max_line_bytes=limit)[0] == expected


@pytest.mark.parametrize("prefix", [b"X: a", b"X: ", b"X:", b"X", b""])
def test_field_line_that_never_ends_is_refused_at_the_limit(prefix):
    start = LINE + b"\r\n"
    at = len(start) + len(LINE) + 1
    assert refused_at_limit(start + prefix + b"a" * 100, len(LINE)) == (at, shim.E_431)


@pytest.mark.parametrize("prefix", [b"", b"GET ", b"GET /", b"\r\nGET /"])
def test_request_line_that_never_ends_is_refused_at_the_limit(prefix):
    lead = 2 if prefix.startswith(b"\r\n") else 0
    assert refused_at_limit(prefix + b"a" * 100, 40) == (lead + 41, shim.E_414)


def refused_at_limit(request, limit):
    for n in range(len(request) + 1):
        status, _ = parse(request[:n], max_line_bytes=limit)
        if status != shim.MORE:
            return n, status
    raise AssertionError("not refused")


def test_limits_that_were_lowered_meanwhile_still_hold():
    """The contract says they do not change; if they do, nothing may be read beyond the request for it."""
    for n in range(1, len(head())):
        for limits, expected in [
            ((n - 1, 100, 8192), {shim.E_414, shim.E_431}),
            ((16384, 100, 0), {shim.E_414, shim.E_431, shim.OK}),
        ]:
            upgrade = shim.Upgrade()
            assert upgrade.parse(head()[:n]) == shim.MORE
            upgrade.set_limits(*limits)
            assert upgrade.parse(head()) in expected
            assert upgrade.pos <= len(head())


def test_more_subprotocols_than_can_be_compared_get_431():
    names = [b"p%d" % i for i in range(shim.MAX_PROTOCOLS + 1)]
    assert parse(plus(PROTOCOL + b", ".join(names[:-1])))[0] == shim.OK
    assert parse(plus(PROTOCOL + b", ".join(names)))[0] == shim.E_431
    assert parse(plus(*(PROTOCOL + name for name in names[:-1])))[0] == shim.OK
    assert parse(plus(*(PROTOCOL + name for name in names)))[0] == shim.E_431


# Linearity


def large_heads():
    yield plus(b"X: " + b"a" * 8000, b"Y: " + b"b" * 7900)
    yield plus(*[b"X: " + b"a, " * 50] * 90)
    yield plus(EXTENSIONS + b"a; b=c, " * 990 + b"d")
    yield plus(b"Connection: " + b"," * 8000, b"Upgrade: " + b"," * 7900)
    yield plus(*[PROTOCOL + b"," * 150] * 90, PROTOCOL + b"a, b")
    yield head(b"GET ws://" + b"a" * 8100 + b"/ HTTP/1.1")


@pytest.mark.parametrize(
    "request_bytes", [*large_heads()], ids=["values", "lists", "extensions", "commas", "protocols", "target"]
)
def test_work_is_linear_however_the_head_is_chopped(request_bytes):
    """Read once, interpreted once, and once more where subprotocols are compared across their fields."""
    status, upgrade = parse(request_bytes)
    assert status == shim.OK
    assert len(request_bytes) > 8000
    assert 0.9 * len(request_bytes) < upgrade.looked <= 3 * len(request_bytes)
    rng = random.Random(2)
    steps = [range(len(request_bytes)), sorted(rng.sample(range(len(request_bytes)), 100))]
    for cuts in steps:
        chopped = shim.Upgrade()
        for cut in cuts:
            assert chopped.parse(request_bytes[:cut]) == shim.MORE
        assert chopped.parse(request_bytes) == shim.OK
        assert chopped.looked == upgrade.looked


def test_bytes_already_read_are_not_looked_at_until_their_part_ends():
    """Does not trust the counter: what was read is overwritten with NUL except where a part may be judged."""
    request = plus(b"X-Agent: " + b"abc123" * 30, PROTOCOL + b"chat.v1.example.com", EXTENSIONS + b"a;b=c")
    upgrade = shim.Upgrade()
    hidden = 0
    for n in range(1, len(request) + 1):
        part_may_end = request[n - 1 : n] in b"\n: "
        hidden += not part_may_end
        shown = request[:n] if part_may_end else b"\0" * upgrade.pos + request[upgrade.pos : n]
        assert upgrade.parse(shown) == (shim.OK if n == len(request) else shim.MORE)
    assert hidden > 0.8 * len(request)


# Spans, plain GET


@pytest.mark.parametrize(
    "target, path, query",
    [
        (b"/", b"/", b""),
        (b"/chat", b"/chat", b""),
        (b"/chat?", b"/chat", b""),
        (b"/chat?a=b&c", b"/chat", b"a=b&c"),
        (b"/?a?b", b"/", b"a?b"),
        (b"//h/x", b"//h/x", b""),
        (b"/%2e%2E?%3F", b"/%2e%2E", b"%3F"),
        (b"http://h/chat?a", b"/chat", b"a"),
        (b"ws://h:80/", b"/", b""),
        (b"WSS://h", b"/", b""),
        (b"https://h?a=b/c", b"/", b"a=b/c"),
    ],
)
def test_target_is_split_into_path_and_query(target, path, query):
    request = head(b"GET " + target + b" HTTP/1.1")
    _, upgrade = parse(request)
    (path_off, path_len), (query_off, query_len) = upgrade.target(request)
    assert request[path_off : path_off + path_len] == path
    assert request[query_off : query_off + query_len] == query
    assert upgrade.span("target", request) == target


def test_target_of_an_unread_request_is_an_error():
    request = b"GET /ch"
    _, upgrade = parse(request)
    assert upgrade.target(request) == shim.E_ARG


def test_spans_name_the_trimmed_values():
    request = plus(b"Origin: \thttp://a.example ", PROTOCOL + b" a, b ", PROTOCOL + b"c", EXTENSIONS + b"x;y")
    _, upgrade = parse(request)
    assert upgrade.span("method", request) == b"GET"
    assert upgrade.span("host", request) == b"server.example.com"
    assert upgrade.span("origin", request) == b"http://a.example"
    assert upgrade.span("protocol", request) == b"a, b"
    assert upgrade.span("extensions", request) == b"x;y"
    assert upgrade.key == KEY


def test_host_of_an_absolute_target_replaces_the_field():
    request = head(b"GET http://other.example:81/ HTTP/1.1")
    assert parse(request)[1].span("host", request) == b"other.example:81"


@pytest.mark.parametrize(
    "fields, is_plain",
    [
        ([HOST], True),
        ([HOST, (b"Connection", b"keep-alive"), (b"Accept", b"*/*")], True),
        ([HOST, (b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"h2c")], True),
        ([HOST, CONNECTION, VERSION], False),
        ([HOST, CONNECTION, KEY_FIELD, VERSION], False),
        ([HOST, CONNECTION, (b"Upgrade", b"h2c"), KEY_FIELD, VERSION], False),
    ],
)
def test_plain_get_is_told_from_an_upgrade_that_lost_its_field(fields, is_plain):
    request = head(b"GET /healthz?x HTTP/1.1", fields)
    assert refused_at(request) == (len(request), shim.E_426)
    _, upgrade = parse(request)
    assert upgrade.is_plain_get is is_plain
    assert upgrade.head_len == len(request)
    assert upgrade.span("target", request) == b"/healthz?x"
    assert upgrade.target(request) == ((4, 8), (13, 1))


def test_plain_get_that_is_no_valid_http_is_not_plain():
    for fields in ([], [HOST, HOST], [HOST, (b"Content-Length", b"5")]):
        status, upgrade = parse(head(fields=fields))
        assert (status, upgrade.is_plain_get) == (shim.E_400, False)


# Peers


def random_case(rng, text):
    return bytes(rng.choice((byte, byte ^ 0x20)) if chr(byte).isalpha() else byte for byte in text)


def random_token(rng):
    alphabet = b"abcXYZ019!#$%&'*+-.^_`|~"
    return bytes(rng.choice(alphabet) for _ in range(rng.randrange(1, 9)))


def random_spaces(rng):
    return bytes(rng.choice(b" \t") for _ in range(rng.randrange(3)))


def random_extension(rng):
    parts = [random_token(rng)]
    for _ in range(rng.randrange(3)):
        value = random_token(rng)
        parts.append(random_token(rng) + rng.choice([b"", b"=" + value, b'="' + value + b'"']))
    return (random_spaces(rng) + b";" + random_spaces(rng)).join(parts)


def random_request(rng):
    """A valid upgrade, or one with a single thing missing or malformed that the peers check too."""
    comma = random_spaces(rng) + b"," + random_spaces(rng)
    fields = [
        (b"Host", rng.choice([b"localhost", b"127.0.0.1:80", b"[::1]:8000", b"a-b.example:443"])),
        (b"Upgrade", random_case(rng, b"websocket")),
        (b"Connection", comma.join(rng.sample([b"keep-alive", random_case(rng, b"upgrade"), b"x"], 3))),
        (b"Sec-WebSocket-Key", base64.b64encode(rng.randbytes(rng.choice([16] * 9 + [15, 17])))),
        (b"Sec-WebSocket-Version", rng.choice([b"13"] * 9 + [b"8", b"x"])),
    ]
    if rng.random() < 0.2:
        del fields[rng.randrange(1, len(fields))]
    for _ in range(rng.randrange(3)):
        value = comma.join(random_extension(rng) for _ in range(rng.randrange(1, 4)))
        fields.append((b"Sec-WebSocket-Extensions", value))
    if rng.random() < 0.1:
        fields.append((b"Sec-WebSocket-Extensions", rng.choice([b"a;;b", b"a b", b"a;b=", b'a;b="c'])))
    if rng.random() < 0.5:
        names = sorted({random_token(rng) for _ in range(3)})
        fields.append((b"Sec-WebSocket-Protocol", comma.join(names)))
    for _ in range(rng.randrange(5)):
        value = bytes(rng.choice(b'abc ,;=\t"\\\x80\xff') for _ in range(rng.randrange(30)))
        fields.append((b"X-" + random_token(rng), value))
    rng.shuffle(fields)
    target = rng.choice([b"/", b"/chat?a=b", b"/a/b%20c"])
    lines = [random_case(rng, name) + b":" + random_spaces(rng) + value for name, value in fields]
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", *lines, b"", b""])


def test_peers_parsers_agree_on_random_requests():
    """h11 reads the HTTP, websockets judges the handshake."""
    # Without an extension of its own websockets would not look at the client's.
    peer = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()])
    rng = random.Random(6)
    accepted = 0
    for _ in range(2000):
        request = random_request(rng)
        cuts = sorted(rng.randrange(len(request)) for _ in range(5))
        status, upgrade = parse(request, cuts)

        server = h11.Connection(h11.SERVER)
        server.receive_data(request)
        event = server.next_event()
        assert isinstance(event, h11.Request)
        headers = Headers()
        for name, value in event.headers:
            headers[name.decode()] = value.decode("latin-1")
        try:
            accept, _, _ = peer.process_request(
                Request(path=event.target.decode(), headers=headers, method="GET", protocol="HTTP/1.1")
            )
        except InvalidHandshake:
            accept = None
        assert (status == shim.OK) == (accept is not None), request
        assert upgrade.span("target", request) == event.target
        if accept is not None:
            accepted += 1
            assert b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n" in upgrade.accept()
            assert upgrade.fields == len(event.headers)
    assert 400 < accepted < 1800


def test_random_bytes_never_read_beyond_their_end_and_chopping_never_matters():
    rng = random.Random(7)
    seeds = [request for _, request, _ in ROWS if len(request) < 1000]
    statuses = set()
    for _ in range(3000):
        request = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(request))
            if rng.random() < 0.5:
                request[at] = rng.choice(b'\r\n\0 \t:,;="\\/aA0\x7f\x80\xff')
            else:
                del request[at : at + rng.randrange(1, 10)]
            if not request:
                request += b"\r"
        request = bytes(request)
        whole, upgrade = parse(request)
        cuts = sorted(rng.randrange(len(request)) for _ in range(rng.randrange(10)))
        status, chopped = parse(request, cuts)
        assert status == whole
        assert facts(chopped, request) == facts(upgrade, request)
        assert upgrade.pos <= len(request)
        statuses.add(status)
    assert {shim.OK, shim.MORE, shim.E_400, shim.E_426, shim.E_VERSION, shim.E_405, shim.E_505} <= statuses
