from __future__ import annotations

from typing import Any

import pytest

from unlimitedws import Address, AddressError
from unlimitedws.address import Activated, Descriptor, parse, plain_host


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (":8000", "", 8000),
        (":0", "", 0),
        ("127.0.0.1:8000", "127.0.0.1", 8000),
        ("localhost:65535", "localhost", 65535),
        ("[::1]:8000", "::1", 8000),
        ("[::]:0", "::", 0),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
    ],
)
def test_address_is_parsed(text: str, host: str, port: int) -> None:
    assert parse(text) == Address(host, port) == (host, port)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no port"),
        ("8000", "no port; did you mean ':8000'"),
        ("localhost", "no port; did you mean 'localhost:8000'"),
        ("[::1]", r"no port; did you mean '\[::1\]:8000'"),
        ("[::1]8000", "no port"),
        ("[::1:8000", "bracket is not closed"),
        ("[localhost]:8000", "brackets are for IPv6"),
        ("::1:8000", "goes into brackets"),
        ("::", "goes into brackets"),
        (":", "port '' is not a number"),
        (":http", "port 'http' is not a number"),
        (":65536", "port '65536' is not a number from 0 to 65535"),
        (":-1", "port '-1'"),
        (":+1", r"port '\+1'"),
        (": 80", "port ' 80'"),
        (":8_0", "port '8_0'"),
        (":٨٠", "is not a number"),
        (":80\n", "is not a number"),
        ("http://localhost:80", "a URL is for clients; did you mean 'localhost:80'"),
        ("ws://localhost:8000/chat?a=b:c", "a URL is for clients; did you mean 'localhost:8000'"),
        ("WSS://example.org", "a URL is for clients; did you mean 'example.org:8000'"),
        ("ws://example.org:/", "a URL is for clients; did you mean 'example.org:8000'"),
        ("ws://[::1]", r"a URL is for clients; did you mean '\[::1\]:8000'"),
        ("ws://", "a URL is for clients; did you mean ':8000'"),
        ("a b:80", "not a host name"),
        ("localhost/:80", "not a host name"),
        ("a\0b:80", "not a host name"),
    ],
)
def test_what_is_no_address_is_refused_with_a_reason(text: str, message: str) -> None:
    with pytest.raises(AddressError, match=message):
        parse(text)


LONGEST = "/" + 106 * "p"


@pytest.mark.parametrize("path", ["/run/app.sock", "/s", "/run/a:b c.sock", "@name", LONGEST, "/\u00e9" + 104 * "p"])
def test_unix_socket_is_parsed(path: str) -> None:
    assert parse("unix:" + path) == Address("unix:" + path, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unix:", "an absolute path is missing"),
        ("unix:app.sock", "an absolute path is missing"),
        ("unix:8000", "an absolute path is missing"),
        ("unix:@", "an absolute path is missing"),
        ("unix:/", "path of a directory"),
        ("unix:/run/", "path of a directory"),
        ("unix:/a\0b", "no zero byte"),
        ("unix:" + LONGEST + "p", "108 bytes; .* at most 107"),
        ("unix:/\u00e9" + 105 * "p", "108 bytes"),
        ("unix:@" + 107 * "n", "108 bytes"),
        ("/run/app.sock", "did you mean 'unix:/run/app.sock'"),
        ("fd:", "not the number of a descriptor"),
        ("fd:-1", "not the number of a descriptor"),
        ("fd:3x", "not the number of a descriptor"),
        ("fd:\u0663", "not the number of a descriptor"),
        ("fd:1234567890", "not the number of a descriptor"),
        ("systemd:", "no name"),
        ("name@host:80", "not a host name"),
    ],
)
def test_what_is_no_socket_is_refused_with_a_reason(text: str, message: str) -> None:
    with pytest.raises(AddressError, match=message):
        parse(text)


def test_inherited_sockets_are_parsed() -> None:
    assert parse("fd:0") == Descriptor(0)
    assert parse("fd:17") == Descriptor(17)
    assert parse("systemd") == Activated(None)
    assert parse("systemd:web") == Activated("web")


def test_address_tells_whether_it_is_a_unix_socket() -> None:
    assert Address("unix:/s", 0).is_unix and Address("unix:", 0).is_unix
    assert not Address("", 0).is_unix and not Address("::1", 0).is_unix


def test_address_error_is_a_value_error() -> None:
    assert issubclass(AddressError, ValueError)


@pytest.mark.parametrize("value", [8000, None, b":8000"])
def test_address_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="an address is a str"):
        parse(value)


@pytest.mark.parametrize(
    "text",
    [
        ":8000",
        "127.0.0.1:8000",
        "[::1]:8000",
        "localhost:0",
        "unix:/run/app.sock",
        "unix:@name",
        "fd:3",
        "systemd",
        "systemd:web",
    ],
)
def test_address_is_written_as_it_is_read(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::FFFF:192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("::ffff:1:2", "::ffff:1:2"),
    ],
)
def test_mapped_address_is_plain_ipv4(host: str, plain: str) -> None:
    assert plain_host(host) == plain


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("/run/app.sock", "/run/app.sock"),
        ("/run/\u00fc b\\c", "/run/\u00fc b\\c"),
        ("/x\nERROR: forged\x1b[31m\r", "/x\\nERROR: forged\\x1b[31m\\r"),
        ("@\udcff\u2028", "@\\udcff\\u2028"),
    ],
)
def test_address_is_written_on_one_line_whatever_it_is(name: str, written: str) -> None:
    address = Address(f"unix:{name}", 0)
    assert f"{address}" == str(address) == f"unix:{written}"
    assert address.host == f"unix:{name}"
