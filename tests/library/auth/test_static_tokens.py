from __future__ import annotations

from typing import Any

import pytest

from unlimitedws.auth import Identity, StaticTokens

ONE = "one-token-of-16-chars"
TWO = "t\u00f6ken-\u4e16-of-16-chars"


def test_token_has_its_user() -> None:
    verify = StaticTokens({ONE: "alice", TWO: Identity("bob", "s2", 4e9)})
    assert verify(ONE) == Identity("alice")
    assert verify(TWO) == Identity("bob", "s2", 4e9)


@pytest.mark.parametrize(
    "token",
    [
        "",
        " ",
        ONE[:-1],
        ONE + " ",
        " " + ONE,
        ONE.upper(),
        ONE + "\x00",
        ONE * 1000,
        "to\u0308ken-\u4e16-of-16-chars",
        "\ud800",
    ],
)
def test_anything_else_is_nobodys(token: str) -> None:
    assert StaticTokens({ONE: "alice", TWO: "bob"})(token) is None


def test_no_tokens_let_nobody_in() -> None:
    assert StaticTokens({})("") is None


@pytest.mark.parametrize("token", ["", "short", "a" * 15])
def test_short_token_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ValueError, match="that of 'alice' has") as raised:
        StaticTokens({token: "alice"})
    assert not token or f"'{token}'" not in str(raised.value)


def test_shortest_length_can_be_chosen_but_is_never_nothing() -> None:
    assert StaticTokens({"abc": "alice"}, min_chars=3)("abc") == Identity("alice")
    with pytest.raises(ValueError, match="min_chars"):
        StaticTokens({}, min_chars=0)


@pytest.mark.parametrize("token", [None, b"bytes-of-16-chars", 1234567890123456])
def test_token_that_is_no_text_is_refused(token: Any) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        StaticTokens({token: "alice"})


@pytest.mark.parametrize("user", [None, ""])
def test_token_of_nobody_is_refused(user: Any) -> None:
    with pytest.raises(ValueError, match="needs a user"):
        StaticTokens({ONE: user})


def test_tokens_are_not_kept_in_the_clear_and_digests_differ_between_processes() -> None:
    one, two = StaticTokens({ONE: "alice"}), StaticTokens({ONE: "alice"})
    assert ONE not in repr(vars(one))
    assert ONE not in repr(one)
    # What is compared cannot be chosen by who does not know the key.
    assert set(one._identities) != set(two._identities)
