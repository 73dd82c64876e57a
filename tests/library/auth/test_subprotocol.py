from __future__ import annotations

from typing import Any

import pytest
from library.auth.heads import accepted, rejected, request

from unlimitedws.auth import Identity, SubprotocolAuth

TOKEN = "header.payload-_.signature"


def verify(token: str) -> Identity | None:
    return Identity("alice") if token == TOKEN else None


def offering(*offers: str) -> Any:
    return request(*(("Sec-WebSocket-Protocol", offer) for offer in offers))


@pytest.mark.parametrize(
    "offers", [["chat", f"bearer.{TOKEN}"], [f"bearer.{TOKEN}, chat"], [f"mqtt,bearer.{TOKEN} ,chat"]]
)
def test_good_token_is_accepted_and_the_real_subprotocol_selected(offers: list[str]) -> None:
    auth = SubprotocolAuth(verify, subprotocols=["chat"])
    accept = accepted(auth, offering(*offers))
    assert (accept.user, accept.subprotocol) == ("alice", "chat")


def test_ours_are_selected_in_our_order() -> None:
    auth = SubprotocolAuth(verify, subprotocols=["v2", "v1"])
    assert accepted(auth, offering("v1", f"bearer.{TOKEN}", "v2")).subprotocol == "v2"
    assert accepted(auth, offering("v1", f"bearer.{TOKEN}", "v3")).subprotocol == "v1"


@pytest.mark.parametrize(
    "offers", [[f"bearer.{TOKEN}"], ["mqtt", f"bearer.{TOKEN}"], [f"bearer.{TOKEN}", "CHAT"]]
)
def test_nothing_real_beside_the_token_is_a_bad_request(offers: list[str]) -> None:
    assert rejected(SubprotocolAuth(verify, subprotocols=["chat"]), offering(*offers)) == 400


@pytest.mark.parametrize(
    "auth",
    [
        SubprotocolAuth(verify, subprotocols=["chat"]),
        SubprotocolAuth(verify),
        SubprotocolAuth(verify, pair="token", subprotocols=["chat"]),
        SubprotocolAuth(verify, pair="token"),
    ],
)
def test_answer_never_has_the_token(auth: SubprotocolAuth) -> None:
    for offers in (["chat", f"bearer.{TOKEN}"], ["token", TOKEN, "chat"]):
        decision: Any = auth.check(offering(*offers))
        assert TOKEN not in repr(decision)
        assert TOKEN not in repr(vars(decision))


def test_without_subprotocols_the_server_selects() -> None:
    assert accepted(SubprotocolAuth(verify), offering("chat", f"bearer.{TOKEN}")).subprotocol is None


@pytest.mark.parametrize(
    "offers",
    [
        [],
        ["chat"],
        ["chat", "bearer."],
        ["chat", "bearer.bad"],
        ["chat", f"Bearer.{TOKEN}"],
        ["chat", TOKEN],
        ["chat", f"xbearer.{TOKEN}"],
        ["chat", f"bearer.{TOKEN}", "bearer.bad"],
        ["chat", "bearer.bad", f"bearer.{TOKEN}"],
    ],
)
def test_no_token_a_bad_one_and_two_are_refused(offers: list[str]) -> None:
    assert rejected(SubprotocolAuth(verify, subprotocols=["chat"]), offering(*offers)) == 403


def test_pair_has_the_token_behind_its_name() -> None:
    auth = SubprotocolAuth(verify, pair="token", subprotocols=["chat"])
    assert accepted(auth, offering("chat", "token", TOKEN)).subprotocol == "chat"
    assert accepted(auth, offering("token", TOKEN, "chat")).user == "alice"
    assert accepted(auth, offering("mqtt, token", f"{TOKEN}, chat")).subprotocol == "chat"
    for offers in (["chat", TOKEN, "token"], ["chat", "token"], ["token", "chat", TOKEN], ["chat", TOKEN]):
        assert rejected(auth, offering(*offers)) == 403
    assert rejected(auth, offering("token", TOKEN, "token", TOKEN, "chat")) == 403
    assert rejected(auth, offering("chat", f"bearer.{TOKEN}")) == 403


def test_token_of_a_pair_that_is_spelled_like_a_subprotocol_is_not_selected() -> None:
    auth = SubprotocolAuth(lambda token: Identity("alice"), pair="token", subprotocols=["chat", "mqtt"])
    assert accepted(auth, offering("token", "chat", "mqtt")).subprotocol == "mqtt"
    assert rejected(auth, offering("token", "chat")) == 400


def test_pair_named_by_its_own_token_is_refused() -> None:
    auth = SubprotocolAuth(lambda token: Identity("alice"), pair="token")
    assert rejected(auth, offering("token", "token")) == 403


@pytest.mark.parametrize(
    "arguments",
    [
        {"prefix": ""},
        {"prefix": "a b"},
        {"prefix": "a,b"},
        {"prefix": "a\r\nb"},
        {"pair": ""},
        {"pair": "\u00e9"},
        {"subprotocols": ["a b"]},
        {"subprotocols": [256 * "a"]},
        {"subprotocols": [""]},
        {"subprotocols": ["bearer.v1"]},
        {"pair": "chat", "subprotocols": ["chat"]},
    ],
)
def test_name_that_is_no_token_or_ambiguous_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"prefix|pair|subprotocols"):
        SubprotocolAuth(verify, **arguments)


def test_one_string_for_a_list_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a list"):
        SubprotocolAuth(verify, subprotocols="chat")
