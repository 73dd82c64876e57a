"""The request as hooks see it, and that nothing an application answers becomes two headers."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from unlimitedws import Accept, Address, Headers, Reject, Request, Response
from unlimitedws.request import Cookies, check_token

PEER, OURS = Address("192.0.2.7", 4321), Address("192.0.2.1", 80)


def make(*lines: str, target: str = "/", before: str = "") -> Request:
    head = before + "\r\n".join([f"GET {target} HTTP/1.1", "Host: example.org", *lines]) + "\r\n\r\n"
    return Request(head.encode("latin-1"), PEER, OURS)


# What was asked for


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/a%2Fb/c", "/a%2Fb/c", ""),
        ("/a?x=1&y=%20", "/a", "x=1&y=%20"),
        ("/a??b", "/a", "?b"),
        ("//x", "//x", ""),
        ("http://example.org", "/", ""),
        ("http://example.org/a/b?c=d", "/a/b", "c=d"),
        ("http://example.org?c=/d", "/", "c=/d"),
    ],
)
def test_path_and_query_are_those_of_the_target_as_it_was_sent(target: str, path: str, query: str) -> None:
    request = make(target=target)
    assert (request.method, request.target, request.path, request.query) == ("GET", target, path, query)


def test_empty_line_before_the_request_is_no_part_of_it() -> None:
    request = make("X-A: 1", target="/a", before="\r\n")
    assert (request.path, request.headers["x-a"], request.host) == ("/a", "1", "example.org")


def test_query_is_decoded_with_every_value_of_every_name() -> None:
    request = make(target="/?a=1&b=x%20y+z&a=2&empty=&flag")
    assert request.params == {"a": ["1", "2"], "b": ["x y z"], "empty": [""], "flag": [""]}
    assert make().params == {}


def test_host_is_that_of_an_absolute_target_whatever_the_field_says() -> None:
    # RFC 9112, section 3.2.2: the field must be ignored then, or a proxy and we would mean two hosts.
    assert make().host == "example.org"
    assert make(target="http://other.example:8080/x").host == "other.example:8080"
    assert make(target="http://other.example?x=1").host == "other.example"


def test_addresses_and_transport_are_what_the_engine_said() -> None:
    request = make()
    assert (request.remote_addr, request.local_addr, request.is_secure) == (PEER, OURS, False)
    assert Request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", PEER, OURS, is_secure=True).is_secure


def test_copies_and_pickles_of_a_request_are_as_it_was() -> None:
    request = make("Cookie: a=1", target="/a?b=c")
    request.user, request.data = "ann", ["kept"]
    for other in (copy.copy(request), pickle.loads(pickle.dumps(request))):
        assert (other.remote_addr, other.local_addr, other.is_secure) == (PEER, OURS, False)
        assert (other.path, other.cookies["a"], other.user, other.data) == ("/a", "1", "ann", ["kept"])
        assert repr(other) == repr(request)


def test_origin_is_none_where_there_is_none() -> None:
    assert make().origin is None
    assert make("Origin: https://example.org").origin == "https://example.org"
    assert make("Origin: null").origin == "null"
    # Two are no origin that any list could have.
    assert make("Origin: https://a.example", "Origin: https://b.example").origin == (
        "https://a.example, https://b.example"
    )


def test_subprotocols_of_several_fields_are_one_list_in_order() -> None:
    assert make().subprotocols == []
    request = make("Sec-WebSocket-Protocol: chat ,\tsuperchat", "X-A: 1", "sec-websocket-protocol: v2.x")
    assert request.subprotocols == ["chat", "superchat", "v2.x"]


def test_extensions_are_names_with_their_parameters_in_order() -> None:
    assert make().extensions == []
    request = make(
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits; server_max_window_bits=10",
        'Sec-WebSocket-Extensions: a ; b = "10" ;c="x\\"y" , permessage-deflate;b=1;b=2',
    )
    assert request.extensions == [
        ("permessage-deflate", [("client_max_window_bits", None), ("server_max_window_bits", "10")]),
        ("a", [("b", "10"), ("c", 'x"y')]),
        ("permessage-deflate", [("b", "1"), ("b", "2")]),
    ]


def test_extensions_behind_an_empty_element_are_there() -> None:
    """The engine reads them, so a hook that decides by them has to see them too."""
    for value in (", a;b=1,, c", "a;b=1 ,\t, c,", ",a; b=1 ,c ,,"):
        assert make(f"Sec-WebSocket-Extensions: {value}").extensions == [("a", [("b", "1")]), ("c", [])]
    request = make("Sec-WebSocket-Extensions:", "Sec-WebSocket-Extensions: a", "Sec-WebSocket-Extensions: ,")
    assert request.extensions == [("a", [])]


def test_repr_shows_nothing_that_may_be_a_secret() -> None:
    request = make(
        "Cookie: session=SECRET",
        "Authorization: Bearer SECRET",
        "Sec-WebSocket-Protocol: bearer, SECRET",
        "X-Token: SECRET",
        target="/chat?ticket=SECRET",
    )
    request.user = "SECRET"
    assert repr(request) == "<Request GET /chat from 192.0.2.7:4321>"
    for part in (request, request.headers, request.cookies):
        assert "SECRET" not in f"{part!r} {part}"
    assert "SECRET" not in repr(Accept(session="SECRET", headers={"Set-Cookie": "a=SECRET"}))
    assert "SECRET" not in repr(Reject(401, "SECRET", {"Set-Cookie": "a=SECRET"}))


# Header fields


def test_headers_are_found_in_any_case_and_repeated_ones_are_kept() -> None:
    headers = make("X-Forwarded-For: a, b", "Via: 1.1 x", "x-forwarded-for:c", "Empty:").headers
    assert headers["X-FORWARDED-FOR"] == headers["x-forwarded-for"] == "a, b, c"
    assert headers.get_all("X-forwarded-For") == ["a, b", "c"]
    assert headers["empty"] == ""
    assert headers.get("x-nothing") is None
    assert headers.get_all("x-nothing") == []
    assert "VIA" in headers
    assert "x-nothing" not in headers
    assert 7 not in headers
    with pytest.raises(KeyError):
        headers["x-nothing"]
    assert list(headers) == ["host", "x-forwarded-for", "via", "empty"]
    assert len(headers) == 4
    assert headers.raw == [
        ("Host", "example.org"),
        ("X-Forwarded-For", "a, b"),
        ("Via", "1.1 x"),
        ("x-forwarded-for", "c"),
        ("Empty", ""),
    ]


def test_header_values_lose_white_space_at_the_ends_and_nothing_else() -> None:
    headers = make("A: \t b  c \t", "B: x:y: z").headers
    assert (headers["a"], headers["b"]) == ("b  c", "x:y: z")


def test_header_value_of_any_bytes_can_be_had_back() -> None:
    sent = bytes(range(0xA0, 0x100))
    request = Request(b"GET / HTTP/1.1\r\nHost: a\r\nX-B: " + sent + b"\r\n\r\n", PEER, OURS)
    assert request.headers["x-b"].encode("latin-1") == sent


def test_lists_that_are_handed_out_may_be_changed_by_whoever_gets_them() -> None:
    headers = Headers([("A", "1")])
    headers.get_all("a").append("2")
    headers.raw.clear()
    assert headers.get_all("a") == ["1"]
    assert headers.raw == [("A", "1")]


# Cookies


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], {}),
        (["a=1"], {"a": ["1"]}),
        (["a=1; b=2;c=3 ;  d=4"], {"a": ["1"], "b": ["2"], "c": ["3"], "d": ["4"]}),
        (["a=1; b=2", "c=3; a=4"], {"a": ["1", "4"], "b": ["2"], "c": ["3"]}),
        (["a=1; a=2; a=1"], {"a": ["1", "2", "1"]}),
        (['a="quoted value"; b=""'], {"a": ["quoted value"], "b": [""]}),
        # A quote hides no semicolon: otherwise one cookie could swallow the next.
        (['a="x; session=stolen; b=y"'], {"a": ['"x'], "session": ["stolen"], "b": ['y"']}),
        (['a="; b="'], {"a": ['"'], "b": ['"']}),
        (['a="\\"\\073\\012"'], {"a": ['\\"\\073\\012']}),
        (["a=b=c=="], {"a": ["b=c=="]}),
        (["a="], {"a": [""]}),
        (["=x; y; ; a=1; =; ="], {"a": ["1"]}),
        (["A=1; a=2"], {"A": ["1"], "a": ["2"]}),
        (["a=\xff"], {"a": ["\xff"]}),
        (["a=1,b=2"], {"a": ["1,b=2"]}),
    ],
)
def test_cookies_are_read_as_browsers_send_them(fields: list[str], expected: dict[str, list[str]]) -> None:
    request = make(*(f"Cookie: {field}" for field in fields))
    assert {name: request.cookies.get_all(name) for name in request.cookies} == expected
    assert dict(request.cookies) == {name: values[0] for name, values in expected.items()}
    assert len(request.cookies) == len(expected)


def test_cookies_have_what_a_mapping_has() -> None:
    cookies = Cookies(["a=1; a=2"])
    assert cookies["a"] == "1"
    assert cookies.get("b") is None
    assert cookies.get_all("b") == []
    assert "a" in cookies and "b" not in cookies
    cookies.get_all("a").append("3")
    assert cookies.get_all("a") == ["1", "2"]
    with pytest.raises(KeyError):
        cookies["b"]


# What is answered

MAKERS: list[Any] = [
    lambda headers: Accept(headers=headers),
    lambda headers: Reject(headers=headers),
    lambda headers: Response(headers=headers),
]
each_answer = pytest.mark.parametrize("make_answer", MAKERS, ids=["Accept", "Reject", "Response"])

INJECTIONS = [
    {"X-A": "1\r\nSet-Cookie: a=b"},
    {"X-A": "1\nSet-Cookie: a=b"},
    {"X-A": "1\r"},
    {"X-A": "1\n"},
    {"X-A": "\r\n\r\n<script>"},
    {"X-A": "a\0b"},
    {"X-A": "a\x01b"},
    {"X-A": "a\x7fb"},
    {"X-A": "line\u2028separator"},
    # Latin-1 of it would be CR and LF, if somebody cut the high byte off.
    {"X-A": "a\u010d\u010ab"},
    {"X-A": " a"},
    {"X-A": "a\t"},
    {"X-A: 1\r\nX-B": "2"},
    {"X-A\n": "1"},
    {"X A": "1"},
    {"X-A:": "1"},
    {"": "1"},
    {"X-\xe9": "1"},
]


@each_answer
@pytest.mark.parametrize("headers", INJECTIONS, ids=repr)
def test_header_that_is_not_one_line_is_refused(make_answer: Any, headers: dict[str, str]) -> None:
    for given in (headers, list(headers.items()), [("X-Fine", "1"), *headers.items()]):
        with pytest.raises(ValueError, match="headers:"):
            make_answer(given)


@each_answer
@pytest.mark.parametrize(
    "name",
    [
        "Connection",
        "Content-Length",
        "Keep-Alive",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Anything",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Protocol",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
    ],
)
def test_header_that_is_the_servers_own_is_refused_in_any_case(make_answer: Any, name: str) -> None:
    for spelt in (name, name.lower(), name.upper()):
        with pytest.raises(ValueError, match=f"headers: {spelt} is for the server"):
            make_answer({spelt: "x"})


@each_answer
@pytest.mark.parametrize(
    "headers", ["X-A: 1", b"X-A: 1", [("X-A",)], ["X-A: 1"], [["X-A", "1"]], {"X-A": 1}, {1: "x"}]
)
def test_headers_of_the_wrong_type_are_refused(make_answer: Any, headers: Any) -> None:
    with pytest.raises(TypeError, match="headers:"):
        make_answer(headers)


def test_refusal_of_a_header_does_not_repeat_its_value() -> None:
    with pytest.raises(ValueError) as caught:
        Accept(headers={"Set-Cookie": "session=SECRET\n"})
    assert "SECRET" not in str(caught.value)


def test_headers_may_be_a_mapping_pairs_or_those_of_a_request() -> None:
    lines = b"Set-Cookie: a=1\r\nSet-Cookie: b=2; Path=/\r\n"
    pairs = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2; Path=/")]
    assert Accept(headers=pairs).field_lines() == lines
    assert Accept(headers=iter(pairs)).field_lines() == lines
    assert Accept(headers=Headers(pairs)).field_lines() == lines
    assert Accept(headers={"X-A": "\xe9\tz", "X-B": ""}).field_lines() == b"X-A: \xe9\tz\r\nX-B: \r\n"
    assert Accept().field_lines() == b""


def test_headers_cannot_be_changed_once_they_are_checked() -> None:
    pairs = [("X-A", "1")]
    accept = Accept(headers=pairs)
    pairs.append(("X-B", "2\r\n"))
    assert accept.fields == (("X-A", "1"),)


def parse(response: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = response.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines), body


def test_response_is_complete() -> None:
    first, fields, body = parse(Response(body="grüße\n").encode())
    assert first == "HTTP/1.1 200 OK"
    assert body == "grüße\n".encode()
    assert fields == {
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": "8",
        "Cache-Control": "no-store",
        "Connection": "close",
    }


def test_response_of_bytes_is_not_called_text() -> None:
    assert parse(Response(body=b"\0").encode())[1]["Content-Type"] == "application/octet-stream"


def test_fields_that_are_given_are_not_written_a_second_time() -> None:
    given = {"content-type": "application/json", "cache-control": "max-age=60", "X-A": "1"}
    _, fields, _ = parse(Response(body="{}", headers=given).encode())
    assert fields == {**given, "Content-Length": "2", "Connection": "close"}


@pytest.mark.parametrize("make", [Response, Reject])
def test_date_is_left_to_the_engine_unless_it_is_given(make: type[Response]) -> None:
    dated = make(403, headers=[("X-A", "1"), ("dAtE", "Sun, 06 Nov 1994 08:49:37 GMT")])
    assert dated.is_dated
    assert parse(dated.encode())[1]["dAtE"] == "Sun, 06 Nov 1994 08:49:37 GMT"
    other = make(403, headers={"X-Date": "1"})
    assert not other.is_dated
    assert "Date" not in parse(other.encode())[1]


@pytest.mark.parametrize("status", [204, 304])
def test_response_that_has_no_body_says_nothing_of_its_length(status: int) -> None:
    _, fields, body = parse(Response(status, "ignored").encode())
    assert body == b""
    assert "Content-Length" not in fields and "Content-Type" not in fields


def test_reset_content_has_a_body_of_no_bytes() -> None:
    _, fields, body = parse(Response(205, "ignored").encode())
    assert (body, fields["Content-Length"]) == (b"", "0")


def test_reject_says_its_status_in_words_where_there_is_no_body() -> None:
    first, fields, body = parse(Reject().encode())
    assert (first, body, fields["Content-Length"]) == ("HTTP/1.1 403 Forbidden", b"Forbidden\n", "10")
    first, fields, body = parse(Reject(401, headers={"WWW-Authenticate": "Bearer"}).encode())
    assert (first, body, fields["WWW-Authenticate"]) == (
        "HTTP/1.1 401 Unauthorized",
        b"Unauthorized\n",
        "Bearer",
    )
    assert parse(Reject(403, "no entry").encode())[2] == b"no entry"
    # One that nobody has registered.
    assert parse(Reject(499).encode())[::2] == ("HTTP/1.1 499 ", b"499\n")


@pytest.mark.parametrize(
    ("make_answer", "bad"),
    [
        (Response, 101),
        (Response, 199),
        (Response, 600),
        (Reject, 200),
        (Reject, 299),
        (Reject, 600),
        (Reject, -1),
    ],
)
def test_status_out_of_range_is_refused(make_answer: Any, bad: int) -> None:
    with pytest.raises(ValueError, match=f"status: must be from .* not {bad}"):
        make_answer(bad)


@pytest.mark.parametrize("make_answer", [Response, Reject])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("403",), "status: must be an int"),
        ((True,), "status: must be an int"),
        ((403, 7), "body: must be str or bytes"),
    ],
)
def test_answer_of_the_wrong_type_is_refused(
    make_answer: Any, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        make_answer(*arguments)


@pytest.mark.parametrize("bad", ["", "a b", "a,b", "a\r\n", "é"])
def test_subprotocol_that_is_no_token_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=r"^subprotocol: must be a token \(RFC 9110, section 5\.6\.2\)$"):
        Accept(subprotocol=bad)
    with pytest.raises(ValueError, match="it: "):
        check_token(bad, "it")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"subprotocol": b"chat"}, TypeError, "subprotocol: must be a str"),
        ({"user": []}, TypeError, "user: must be hashable"),
        ({"user": ({},)}, TypeError, "user: must be hashable"),
        ({"session": {}}, TypeError, "session: must be hashable"),
        ({"expires": "soon"}, TypeError, "expires: must be Unix time"),
        ({"expires": True}, TypeError, "expires: must be Unix time"),
        ({"expires": float("nan")}, ValueError, "expires: must be finite"),
        ({"expires": float("inf")}, ValueError, "expires: must be finite"),
        ({"expires": 10**400}, ValueError, "expires: must be finite"),
        ({"expires": -(10**5000)}, ValueError, "expires: must be finite"),
        ({"authenticated": 1}, TypeError, "authenticated: must be True or False"),
        # Without the value, which a client may have offered.
        ({"subprotocol": 256 * "a"}, ValueError, "^subprotocol: must have at most 255 bytes, not 256$"),
    ],
)
def test_impossible_accept_is_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Accept(**arguments)
