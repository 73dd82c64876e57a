"""URLs, requests, addresses: what is taken, and what is said about what is not."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import pytest

from unlimitedws.loadgen import LoadError, LoadOptions, Run, Target
from unlimitedws.loadgen.target import addresses, request, spread

needs_histogram = pytest.mark.skipif(
    importlib.util.find_spec("hdrh") is None, reason="the load generator needs hdrhistogram"
)


@pytest.mark.parametrize(
    ("url", "host", "port", "resource", "authority"),
    [
        ("ws://127.0.0.1:8000/", "127.0.0.1", 8000, "/", "127.0.0.1:8000"),
        ("ws://example.org", "example.org", 80, "/", "example.org"),
        ("WS://example.org:80/a/b?c=d&e", "example.org", 80, "/a/b?c=d&e", "example.org"),
        ("ws://[::1]:9000/x", "::1", 9000, "/x", "[::1]:9000"),
        ("ws://h/%20 \u00fc", "h", 80, "/%20%20%C3%BC", "h"),
        ("ws://h?q", "h", 80, "/?q", "h"),
    ],
)
def test_urls(url: str, host: str, port: int, resource: str, authority: str) -> None:
    target = Target.parse(url)
    assert (target.host, target.port, target.resource, target.authority) == (host, port, resource, authority)
    assert target.unix is None


def test_unix_sockets() -> None:
    assert Target.parse("unix:/run/app.sock").unix == "/run/app.sock"
    assert Target.parse("unix:@name").unix == "@name"
    both = Target.parse("ws://example.org/chat", "/run/app.sock")
    assert (both.unix, both.authority, both.resource) == ("/run/app.sock", "example.org", "/chat")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("wss://h/", "TLS is not supported yet"),
        ("https://h/", "TLS is not supported yet"),
        ("http://h:80/x", "did you mean 'ws://h:80/x'?"),
        ("localhost:8000", "did you mean 'ws://localhost:8000'?"),
        ("h", "did you mean 'ws://h'?"),
        ("ws://", "did you mean"),
        ("ws://:8000/", "no host"),
        ("ws://h:99999/", "Port out of range"),
        ("ws://h:x/", "Port could not be cast"),
        ("ws://h:0/", "port 0"),
        ("ws://[::1/", "Invalid IPv6"),
        ("ws://u:p@h/", "--header"),
        ("ws://h/#top", "no fragment"),
        ("unix:relative", "absolute path"),
        ("unix:/" + "x" * 200, "107 bytes"),
    ],
)
def test_urls_that_are_none(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        Target.parse(url)


@pytest.mark.parametrize(
    "header",
    [("Bad name", "x"), ("", "x"), ("X", "a\r\nY: b"), ("X", "a\nb"), ("X", "\u20ac"), ("Upgrade", "x"),
     ("sec-websocket-KEY", "x"), ("Sec-WebSocket-Protocol", "x"), ("Connection", "close")],
)  # fmt: skip
def test_headers_that_cannot_be_sent(header: tuple[str, str]) -> None:
    with pytest.raises(ValueError):
        LoadOptions("ws://h/", headers=(header,))


def test_a_host_of_the_users_takes_the_place_of_the_urls() -> None:
    head, key_at = request(Target.parse("ws://h:1/"), [("host", "other"), ("X", " \u00e9 ")], [])
    assert head.count(b"ost: ") == 1 and b"\r\nHost: other\r\n" in head and b"\r\nX: \xe9\r\n" in head
    assert (
        head[key_at - 21 : key_at] == b"\r\nSec-WebSocket-Key: " and head[key_at:] == b"=" * 24 + b"\r\n\r\n"
    )


@pytest.mark.parametrize("names", [("a b",), ("",), ("a", "a"), ("a,b",)])
def test_subprotocols_that_cannot_be_sent(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        LoadOptions("ws://h/", subprotocols=names)


def test_address_lists() -> None:
    assert addresses("10.0.0.1") == ["10.0.0.1"]
    assert addresses("127.0.1.254-127.0.2.1, 10.0.0.9") == [
        "127.0.1.254", "127.0.1.255", "127.0.2.0", "127.0.2.1", "10.0.0.9",
    ]  # fmt: skip
    assert addresses("fd00::1-fd00::3")[-1] == "fd00::3"
    for wrong in ("", "x", "10.0.0.2-10.0.0.1", "10.0.0.1-::1", "10.0.0.0-10.255.0.0", "10.0.0.0/24"):
        with pytest.raises(ValueError):
            addresses(wrong)


def test_many_connections_to_loopback_come_from_many_addresses() -> None:
    assert spread("127.0.0.1", 1000) == [] == spread("192.0.2.1", 10**6) == spread("::1", 10**6)
    many = spread("127.0.0.1", 100_000)
    assert len(many) == len(set(many)) == 100 and many[0] == "127.0.1.1"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"connections": 0}, "connections"),
        ({"duration": 0}, "duration"),
        ({"duration": float("nan")}, "duration"),
        ({"size": -1}, "size"),
        ({"mode": "ping"}, "mode"),
        ({"rate": 10.0, "pipelining": 2}, "rate and pipelining"),
        ({"mode": "broadcast", "size": 23}, "at least 24 bytes"),
        ({"mode": "broadcast", "publishers": 101}, "publishers"),
        ({"mode": "broadcast", "any_reply": True}, "any_reply"),
        ({"unix": "/x", "sources": ("10.0.0.1",)}, "sources"),
        ({"threads": 0}, "threads"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LoadOptions("ws://h/", **options)


@needs_histogram
def test_what_cannot_be_done_from_here_is_said_before_it_begins() -> None:
    with pytest.raises(LoadError, match="--source"):
        Run(LoadOptions("ws://192.0.2.1/", connections=200_000))
    with pytest.raises(LoadError, match=r"nobody\.invalid"):
        Run(LoadOptions("ws://nobody.invalid/"))
