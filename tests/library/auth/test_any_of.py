from __future__ import annotations

from typing import Any

import pytest
from library.auth.heads import accepted, decide, rejected, request

from unlimitedws.auth import (
    AnyOf,
    BearerAuth,
    CookieAuth,
    FirstMessageAuth,
    Identity,
    MemoryTickets,
    Origins,
    TicketAuth,
)
from unlimitedws.request import Reject

COOKIE = ("Cookie", "sid=good")
BEARER = ("Authorization", "Bearer good")
ORIGIN = "http://ws.example.com"


def cookie(value: str) -> Identity | None:
    return Identity("cookie") if value == "good" else None


async def bearer(value: str) -> Identity | None:
    return Identity("bearer") if value == "good" else None


@pytest.fixture
def auth() -> AnyOf:
    return AnyOf(CookieAuth("sid", cookie), BearerAuth(bearer))


def test_any_good_credential_will_do(auth: AnyOf) -> None:
    assert accepted(auth, request(COOKIE, origin=ORIGIN)).user == "cookie"
    assert accepted(auth, request(BEARER)).user == "bearer"


def test_of_two_good_ones_the_first_decides(auth: AnyOf) -> None:
    assert accepted(auth, request(COOKIE, BEARER, origin=ORIGIN)).user == "cookie"
    turned = AnyOf(BearerAuth(bearer), CookieAuth("sid", cookie))
    assert accepted(turned, request(COOKIE, BEARER, origin=ORIGIN)).user == "bearer"


def test_bad_one_does_not_spoil_a_good_one(auth: AnyOf) -> None:
    assert accepted(auth, request(("Cookie", "sid=stale"), BEARER, origin=ORIGIN)).user == "bearer"
    assert accepted(auth, request(COOKIE, ("Authorization", "Bearer bad"), origin=ORIGIN)).user == "cookie"


def test_answer_is_that_of_the_first_that_found_something(auth: AnyOf) -> None:
    assert rejected(auth, request(("Cookie", "sid=bad"), origin=ORIGIN)) == 403
    assert rejected(auth, request(("Authorization", "Bearer bad"))) == 401
    assert (
        rejected(auth, request(("Cookie", "sid=bad"), ("Authorization", "Bearer bad"), origin=ORIGIN)) == 403
    )
    assert rejected(auth, request(COOKIE, origin="https://evil.com")) == 403


def test_answer_to_nothing_is_a_challenge_where_there_is_one(auth: AnyOf) -> None:
    decision = decide(auth, request())
    assert isinstance(decision, Reject)
    assert (decision.status, decision.headers) == (401, (("WWW-Authenticate", 'Bearer realm="websocket"'),))
    assert rejected(AnyOf(CookieAuth("sid", cookie)), request()) == 403


def test_cookie_keeps_its_origin_rule_beside_laxer_ones() -> None:
    auth = AnyOf(BearerAuth(bearer, origins=Origins(lambda origin: True)), CookieAuth("sid", cookie))
    assert accepted(auth, request(BEARER, origin="https://evil.com")).user == "bearer"
    assert rejected(auth, request(COOKIE, origin="https://evil.com")) == 403
    assert rejected(auth, request(COOKIE)) == 403


def test_ticket_behind_a_good_cookie_is_not_looked_at() -> None:
    store = MemoryTickets()
    ticket = store.issue("ticket")
    auth = AnyOf(CookieAuth("sid", cookie), TicketAuth(store))
    assert accepted(auth, request(COOKIE, origin=ORIGIN, target=f"/?ticket={ticket}")).user == "cookie"
    assert accepted(auth, request(target=f"/?ticket={ticket}")).user == "ticket"
    assert rejected(auth, request(target=f"/?ticket={ticket}")) == 403


def test_first_message_comes_last_and_is_found() -> None:
    last = FirstMessageAuth(cookie, timeout=3)
    auth = AnyOf(CookieAuth("sid", cookie), last)
    assert auth.first_message is last
    assert AnyOf(AnyOf(auth)).first_message is last
    assert AnyOf(CookieAuth("sid", cookie)).first_message is None
    assert accepted(auth, request(COOKIE, origin=ORIGIN)).authenticated
    assert not accepted(auth, request()).authenticated
    for wrong in ((last, CookieAuth("sid", cookie)), (auth, CookieAuth("sid", cookie)), (last, last)):
        with pytest.raises(ValueError, match="has to be last"):
            AnyOf(*wrong)


def test_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="of nothing"):
        AnyOf()


@pytest.mark.parametrize("one", [None, Origins(), cookie, BearerAuth])
def test_what_is_no_authenticator_is_refused(one: Any) -> None:
    with pytest.raises(TypeError, match="must be authenticators"):
        AnyOf(CookieAuth("sid", cookie), one)


def test_repr_names_the_kinds(auth: AnyOf) -> None:
    assert repr(auth) == "<AnyOf CookieAuth, BearerAuth>"
