from __future__ import annotations

import re

import pytest
from library.auth.heads import accepted, decide, rejected, request

from unlimitedws.auth import BearerAuth, Identity, Origins
from unlimitedws.request import Reject

TOKEN = "mF_9.B5f-4.1JqM~+/=="


def verify(token: str) -> Identity | None:
    return Identity("alice", "s1") if token == TOKEN else None


def challenge(auth: BearerAuth, *values: str) -> tuple[int, str]:
    decision = decide(auth, request(*(("Authorization", value) for value in values)))
    assert isinstance(decision, Reject)
    ((name, value),) = dict(decision.headers).items()
    assert name == "WWW-Authenticate"
    return decision.status, value


@pytest.mark.parametrize("value", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN}"])
def test_good_token_is_accepted(value: str) -> None:
    accept = accepted(BearerAuth(verify), request(("Authorization", value)))
    assert (accept.user, accept.session, accept.expires, accept.authenticated) == ("alice", "s1", None, True)


@pytest.mark.parametrize("values", [[], ["Basic YTpi"], ["Bearer2 x"], ["Digest username=x"], [""]])
def test_without_a_bearer_token_there_is_a_challenge_without_an_error(values: list[str]) -> None:
    assert challenge(BearerAuth(verify), *values) == (401, 'Bearer realm="websocket"')


@pytest.mark.parametrize(
    "value",
    [
        "Bearer",
        "Bearer wrong",
        f"Bearer {TOKEN} {TOKEN}",
        f"Bearer {TOKEN},{TOKEN}",
        f"Bearer\t{TOKEN}",
        f"Bearer \t{TOKEN}",
        f'Bearer "{TOKEN}"',
        f"Bearer {TOKEN}x",
        f"Bearer ={TOKEN}",
        "Bearer a=b",
        "Bearer t\u00f6ken",
        "Bearer \u00b5\u00aa\u00ba",
        "Bearer a%20b",
        f"Bearer token={TOKEN}",
        "Bearer " + "a" * 8193,
    ],
)
def test_bad_token_is_refused_as_invalid(value: str) -> None:
    status, text = challenge(BearerAuth(verify), value)
    if value.startswith("Bearer\t"):
        # Not even the scheme is there: RFC 9110 has a space behind it.
        assert (status, text) == (401, 'Bearer realm="websocket"')
    else:
        assert (status, text) == (401, 'Bearer realm="websocket", error="invalid_token"')


def test_malformed_and_overlong_tokens_never_reach_the_verifier() -> None:
    seen: list[str] = []

    def record(token: str) -> None:
        seen.append(token)

    for value in ("Bearer", "Bearer a b", "Bearer t\u00f6ken", "Bearer " + "a" * 8193, "Bearer a=b"):
        rejected(BearerAuth(record), request(("Authorization", value)))
    assert seen == []
    rejected(BearerAuth(record), request(("Authorization", "Bearer " + "a" * 8192)))
    assert seen == ["a" * 8192]


@pytest.mark.parametrize(
    "values",
    [
        [f"Bearer {TOKEN}", f"Bearer {TOKEN}"],
        ["Basic YTpi", f"Bearer {TOKEN}"],
        [f"Bearer {TOKEN}", "Basic YTpi"],
        ["", f"Bearer {TOKEN}"],
    ],
)
def test_two_authorization_fields_are_refused_even_with_a_good_token(values: list[str]) -> None:
    assert challenge(BearerAuth(verify), *values) == (
        400,
        'Bearer realm="websocket", error="invalid_request"',
    )


@pytest.mark.parametrize("realm", ["", 'a"b', "a\\b", "a\r\nSet-Cookie: x=y", "a\x00", "\u00e9", "a\n"])
def test_realm_that_would_end_its_quotes_or_its_line_is_refused(realm: str) -> None:
    with pytest.raises(ValueError, match=re.escape("realm: must be printable ASCII")):
        BearerAuth(verify, realm=realm)


def test_realm_is_shown() -> None:
    assert challenge(BearerAuth(verify, realm="the chat"))[1] == 'Bearer realm="the chat"'


def test_token_in_a_query_or_cookie_is_not_looked_at() -> None:
    asked = request(("Cookie", f"Authorization=Bearer {TOKEN}"), target=f"/?access_token={TOKEN}")
    assert rejected(BearerAuth(verify), asked) == 401


def test_page_of_another_origin_is_refused_even_with_a_good_token() -> None:
    field = ("Authorization", f"Bearer {TOKEN}")
    assert rejected(BearerAuth(verify), request(field, origin="https://evil.com")) == 403
    widened = BearerAuth(verify, origins=["https://evil.com"])
    assert accepted(widened, request(field, origin="https://evil.com")).user == "alice"
    assert accepted(
        BearerAuth(verify, origins=Origins(lambda origin: True)), request(field, origin="http://x.y")
    )
