"""The opening handshake: each row of docs/handshakes.md, limits, chopping, linearity, and peers' parsers."""

import base64
import random

import h11
import pytest
from handshakes import (
    BASELINE,
    CONNECTION,
    EXTENSIONS,
    HOST,
    KEY,
    KEY_FIELD,
    LINE,
    MORE_ROWS,
    PROTOCOL,
    ROWS,
    TEXT_FRAME,
    UPGRADE,
    VERSION,
    Answer,
    but,
    head,
    plus,
)
from uws_shims import upgrade_shim as shim
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request
from websockets.server import ServerProtocol

STATUS = {
    Answer.UPGRADED: shim.OK,
    Answer.BAD_REQUEST: shim.E_400,
    Answer.BAD_METHOD: shim.E_405,
    Answer.HEAD: shim.E_HEAD,
    Answer.LONG_TARGET: shim.E_414,
    Answer.NO_UPGRADE: shim.E_426,
    Answer.OTHER_VERSION: shim.E_VERSION,
    Answer.LARGE_FIELDS: shim.E_431,
    Answer.OTHER_HTTP: shim.E_505,
}
CASES = [pytest.param(request, STATUS[answer], id=name) for name, request, answer in ROWS + MORE_ROWS]


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
        ([HOST, (b"Sec-WebSocket-Accept", b"x"), (b"Sec-WebSocket-Extension", b"x")], True),
        ([HOST, CONNECTION, VERSION], False),
        ([HOST, (b"Sec-WebSocket-Protocol", b"chat")], False),
        ([HOST, (b"Sec-WebSocket-Extensions", b"x")], False),
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
