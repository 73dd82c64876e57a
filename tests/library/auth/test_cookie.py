from __future__ import annotations

import pytest
from library.auth.heads import accepted, rejected, request

from unlimitedws.auth import CookieAuth, Identity

ORIGIN = "http://ws.example.com"


def verify(value: str) -> Identity | None:
    return Identity("alice", "s1") if value == "good" else None


@pytest.mark.parametrize(
    "fields",
    [
        ["sid=good"],
        ["a=b; sid=good; c=d"],
        ["a=b;sid=good"],
        ["sid = good "],
        ['sid="good"'],
        ["a=b", "sid=good"],
        ["SID=bad; sid=good"],
        ["xsid=bad; sid2=bad; sid=good"],
        ["sid; sid=good"],
    ],
)
def test_good_cookie_is_accepted(fields: list[str]) -> None:
    asked = request(*(("Cookie", field) for field in fields), origin=ORIGIN)
    assert accepted(CookieAuth("sid", verify), asked).user == "alice"


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [""],
        ["sid"],
        ["sid="],
        ['sid=""'],
        ["SID=good"],
        ["sid=bad"],
        ["sid=good x"],
        ["sid=go%6fd"],
        ["other=sid=good"],
        ['other="; sid2=good"'],
        ["sid=good, sid=good"],
        ["sid=go\u00f6d"],
        ["sid=" + "a" * 8193],
    ],
)
def test_anything_else_is_refused(fields: list[str]) -> None:
    asked = request(*(("Cookie", field) for field in fields), origin=ORIGIN)
    assert rejected(CookieAuth("sid", verify), asked) == 403


@pytest.mark.parametrize(
    "fields",
    [
        ["sid=good; sid=bad"],
        ["sid=bad; sid=good"],
        ["sid=good; sid=good"],
        ["sid=good", "sid=bad"],
        ["sid=bad", "sid=good"],
        ["sid=good; sid="],
        ["sid=; sid=good"],
        ['sid=good; sid="good"'],
    ],
)
def test_two_cookies_of_the_name_are_refused(fields: list[str]) -> None:
    seen: list[str] = []

    def record(value: str) -> Identity | None:
        seen.append(value)
        return verify(value)

    asked = request(*(("Cookie", field) for field in fields), origin=ORIGIN)
    assert rejected(CookieAuth("sid", record), asked) == 403
    assert seen == []


@pytest.mark.parametrize(
    "origin", [None, "null", "https://evil.com", "http://evil.ws.example.com", "garbage"]
)
def test_cookie_without_a_known_origin_is_refused_before_it_is_verified(origin: str | None) -> None:
    seen: list[str] = []

    def record(value: str) -> Identity | None:
        seen.append(value)
        return verify(value)

    auth = CookieAuth("sid", record, origins=["https://app.example.com"])
    assert rejected(auth, request(("Cookie", "sid=good"), origin=origin)) == 403
    assert seen == []
    assert accepted(auth, request(("Cookie", "sid=good"), origin="https://app.example.com")).user == "alice"


def test_origin_is_required_also_where_every_origin_is_allowed() -> None:
    auth = CookieAuth("sid", verify, origins=lambda origin: True)
    assert rejected(auth, request(("Cookie", "sid=good"))) == 403
    assert accepted(auth, request(("Cookie", "sid=good"), origin="https://anywhere.example")).user == "alice"


@pytest.mark.parametrize("name", ["", "a b", "a;b", "a=b", "a\r\nb", '"a"', "\u00e9", "a\n"])
def test_name_that_no_cookie_has_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a cookie"):
        CookieAuth(name, verify)
