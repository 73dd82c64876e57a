from __future__ import annotations

import logging
from typing import Any

import pytest
from library.auth.heads import request

from unlimitedws.auth import Origins
from unlimitedws.auth.origins import parse_origin
from unlimitedws.request import Reject


def allows(
    origins: Origins, origin: str | None, host: str = "ws.example.com", is_secure: bool = False
) -> bool:
    decision = origins.check(request(origin=origin, host=host, is_secure=is_secure))
    assert decision is None or (isinstance(decision, Reject) and decision.status == 403 and not decision.body)
    return decision is None


@pytest.mark.parametrize(
    ("origin", "host", "is_secure"),
    [
        ("http://example.com", "example.com", False),
        ("http://example.com:80", "example.com", False),
        ("http://example.com", "example.com:80", False),
        ("https://example.com", "example.com", True),
        ("https://example.com", "example.com:443", True),
        ("https://example.com:443", "example.com", True),
        ("http://example.com:8080", "example.com:8080", False),
        ("HTTP://EXAMPLE.com", "Example.COM", False),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", False),
        ("http://[::1]:8000", "[::1]:8000", False),
        ("http://[::1]", "[0:0:0:0:0:0:0:1]", False),
        ("http://[2001:DB8::A]:81", "[2001:db8:0::a]:81", False),
        ("http://xn--bcher-kva.example", "xn--bcher-kva.example", False),
        ("http://a_b.example.com.", "a_b.example.com.", False),
    ],
)
def test_same_origin_is_allowed(origin: str, host: str, is_secure: bool) -> None:
    assert allows(Origins(), origin, host, is_secure)


@pytest.mark.parametrize(
    ("origin", "host", "is_secure"),
    [
        ("https://example.com", "example.com", False),
        ("http://example.com", "example.com", True),
        ("http://example.com:443", "example.com", True),
        ("https://example.com:80", "example.com", True),
        ("http://example.com:8080", "example.com", False),
        ("http://example.com", "example.com:8080", False),
        ("http://evil.com", "example.com", False),
        ("http://sub.example.com", "example.com", False),
        ("http://example.com", "sub.example.com", False),
        ("http://example.com.", "example.com", False),
        ("http://example.com.evil.com", "example.com", False),
        ("http://notexample.com", "example.com", False),
        ("http://[::2]", "[::1]", False),
        ("http://[::ffff:127.0.0.1]", "127.0.0.1", False),
        ("ws://example.com", "example.com", False),
        ("ftp://example.com", "example.com", False),
    ],
)
def test_another_origin_is_refused(origin: str, host: str, is_secure: bool) -> None:
    assert not allows(Origins(), origin, host, is_secure)


MALFORMED = [
    "",
    "null ",
    "NULL",
    "example.com",
    "//example.com",
    "http:example.com",
    "http:/example.com",
    "http://",
    "http://:80",
    "://example.com",
    "http://example.com/",
    "http://example.com/path",
    "http://example.com?",
    "http://example.com#",
    "http://example.com\\@evil.com",
    "http://user@example.com",
    "http://user:pw@example.com",
    "http://evil.com@example.com",
    "http://example.com@evil.com",
    "http://example.com http://evil.com",
    "http://example.com, http://evil.com",
    "http://example.com:",
    "http://example.com:x",
    "http://example.com:+80",
    "http://example.com:-80",
    "http://example.com: 80",
    "http://example.com:8_0",
    "http://example.com:0",
    "http://example.com:65536",
    "http://example.com:000080",
    "http://example.com:80:80",
    "http://example.com:\u0668\u0660",
    "http://\u00e9xample.com",
    "http://ex%61mple.com",
    "http://*.example.com",
    "http://.example.com",
    "http://example..com",
    "http://[::1",
    "http://::1",
    "http://[::1]x",
    "http://[::1]80",
    "http://[::g]",
    "http://[127.0.0.1]",
    "http://[fe80::1%25eth0]",
    "http://[fe80::1%eth0]",
    "1http://example.com",
    "ht tp://example.com",
    " http://example.com",
    "http://example.com\x00",
    "http://example.com\n",
    "http://" + "a" * 300,
]


# As a field's value: white space around it is none of its.
SENDABLE = [one for one in MALFORMED if one.isascii() and one.isprintable() and one == one.strip()]


@pytest.mark.parametrize("text", MALFORMED)
def test_what_is_not_an_origin_is_nobodys(text: str) -> None:
    assert parse_origin(text) is None


@pytest.mark.parametrize("text", SENDABLE)
def test_malformed_origin_is_refused_by_the_widest_rule(text: str) -> None:
    assert not allows(Origins(lambda origin: True), text)


def test_no_rule_allows_null(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unlimitedws.auth")
    asked = []

    def anybody(origin: str) -> bool:
        asked.append(origin)
        return True

    assert not allows(Origins(anybody), "null")
    assert not asked
    assert "origin 'null'" in caplog.text and "malformed" not in caplog.text
    assert not allows(Origins(), "null", host="null")
    with pytest.raises(ValueError, match="everybody"):
        Origins(["null"])


def test_missing_origin_is_no_browser_and_allowed_unless_required() -> None:
    assert allows(Origins(), None)
    assert allows(Origins(["https://example.com"]), None)
    assert not allows(Origins(required=True), None)
    assert Origins().refusal(request(), required=True) is not None


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("https://APP.example.com:443", "https://app.example.com"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[0::1]:3000"),
        ("https://*.example.com", "https://a.example.com"),
        ("https://*.example.com", "https://a.b.c.example.com"),
        ("https://*.example.com:8443", "https://a.example.com:8443"),
        ("http://*.localhost:3000", "http://app.localhost:3000"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_list_widens(allowed: str, origin: str) -> None:
    assert not allows(Origins(), origin)
    assert allows(Origins([allowed]), origin)
    assert allows(Origins([allowed]), "http://ws.example.com")


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ("https://app.example.com", "http://app.example.com"),
        ("https://app.example.com", "https://app.example.com:8443"),
        ("https://app.example.com", "https://sub.app.example.com"),
        ("https://*.example.com", "https://example.com"),
        ("https://*.example.com", "http://a.example.com"),
        ("https://*.example.com", "https://a.example.com:8443"),
        ("https://*.example.com", "https://aexample.com"),
        ("https://*.example.com", "https://a.example.com.evil.com"),
        ("https://*.example.com", "https://evil.com"),
        ("https://*.example.com", "https://.example.com"),
        ("https://*.example.com", "https://*.example.com"),
        ("https://*.example.com", "null"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://other"),
    ],
)
def test_list_widens_no_further(allowed: str, origin: str) -> None:
    assert not allows(Origins([allowed]), origin)


@pytest.mark.parametrize(
    "text",
    [
        *(one for one in MALFORMED if one != "http://*.example.com"),
        "*",
        "https://*",
        "*.example.com",
        "https://*.",
        "https://*.com",
        "https://*.com.",
        "https://a.*.com",
        "https://a*.example.com",
        "https://*.*.example.com",
        "https://*.[::1]",
        "https://*.127.0.0.1",
        "https://b\u00fccher.example",
        "wss://example.com",
        "ws://*.example.com",
    ],
)
def test_list_of_what_is_no_origin_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="origins: "):
        Origins([text])


@pytest.mark.parametrize("rule", ["https://example.com", [7], [None], 7])
def test_list_that_is_no_list_of_strings_is_refused(rule: Any) -> None:
    with pytest.raises(TypeError):
        Origins(rule)


def test_predicate_gets_the_normalized_origin() -> None:
    seen = []

    def ask(origin: str) -> bool:
        seen.append(origin)
        return origin.endswith(".example.org")

    assert allows(Origins(ask), "HTTPS://App.Example.ORG:443")
    assert not allows(Origins(ask), "https://evil.com:8443")
    assert allows(Origins(ask), "http://ws.example.com")
    assert seen == ["https://app.example.org", "https://evil.com:8443"]


@pytest.mark.parametrize("answer", [1, "yes", "no", object(), [False], None, 0])
def test_predicate_allows_with_true_and_nothing_else(answer: Any) -> None:
    assert not allows(Origins(lambda origin: answer), "https://evil.com")


def test_async_predicate_is_refused() -> None:
    async def ask(origin: str) -> bool:
        return False

    class Asker:
        async def __call__(self, origin: str) -> bool:
            return False

    for predicate in (ask, Asker()):
        with pytest.raises(TypeError, match="async"):
            Origins(predicate)  # type: ignore[arg-type]


def test_without_same_origin_only_the_list_counts() -> None:
    # DNS rebinding: the attacker's name points at this server, so his page has the same origin.
    assert allows(Origins(), "http://evil.com", host="evil.com")
    closed = Origins(["http://localhost:8000"], same_origin=False)
    assert not allows(closed, "http://evil.com", host="evil.com")
    assert allows(closed, "http://localhost:8000", host="localhost:8000")


@pytest.mark.parametrize("host", ["ws.example.com:", "ws.example.com:99999", "a..b", "[::1"])
def test_host_that_cannot_be_compared_is_nobodys_own(host: str) -> None:
    assert not allows(Origins(), f"http://{host}", host=host)
    assert not allows(Origins(), "http://ws.example.com", host=host)
    assert allows(Origins(["http://app.example.com"]), "http://app.example.com", host=host)


def test_log_tells_what_was_compared_and_hints_at_a_proxy(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unlimitedws.auth")
    assert not allows(Origins(), "https://example.com", host="example.com")
    assert "'https://example.com'" in caplog.text
    assert "trusted proxies" in caplog.text
    assert "192.0.2.7" in caplog.text


def test_log_escapes_what_the_peer_wrote(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unlimitedws.auth")
    assert not allows(Origins(), "http://x\x1b[2J\u0085forged " + "y" * 5000)
    (record,) = caplog.records
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 600


def test_repr_names_the_rule() -> None:
    rule = Origins(["https://*.example.com", "http://localhost:3000"])
    assert repr(rule) == "<Origins same origin, http://localhost:3000, https://*.example.com>"
