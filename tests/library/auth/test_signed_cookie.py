from __future__ import annotations

import builtins
import hashlib
import json
import logging
import random
import sys
import time
from datetime import timedelta
from typing import Any

import pytest

from unlimitedws.auth import SignedCookie

itsdangerous = pytest.importorskip("itsdangerous")

SECRET = "0123456789abcdef"
OTHER = "fedcba9876543210"
SALT = "unlimitedws.auth.cookie"


def signed(payload: Any, secret: str = SECRET, salt: str = SALT, at: int | None = None) -> str:
    """Sign anything as a `SignedCookie` would sign what it issues."""
    base: Any = itsdangerous.TimestampSigner

    class Signer(base):  # type: ignore[misc]
        def get_timestamp(self) -> Any:
            return super().get_timestamp() if at is None else at

    serializer = itsdangerous.URLSafeTimedSerializer(
        secret, salt, signer=Signer, signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
    )
    value: str = serializer.dumps(payload)
    return value


@pytest.mark.parametrize("user", ["alice", 7, "\u4e16\u754c", "a" * 2000])
def test_cookie_that_was_issued_says_whose_it_is(user: Any) -> None:
    cookie = SignedCookie(SECRET, 60)
    before = time.time()
    value = cookie.issue(user, "s1")
    assert all(char.isascii() and (char.isalnum() or char in "-_.") for char in value)
    identity = cookie(value)
    assert identity is not None
    assert (identity.user, identity.session) == (user, "s1")
    assert identity.expires is not None
    assert before - 1 <= identity.expires - 60 <= time.time()


def test_every_login_is_a_session_of_its_own() -> None:
    cookie = SignedCookie(SECRET, 60)
    identities = [cookie(cookie.issue("alice")) for _ in range(3)]
    sessions = {identity.session for identity in identities if identity is not None}
    assert len(sessions) == 3
    assert all(isinstance(session, str) and len(session) >= 16 for session in sessions)


def test_changed_cookie_is_nobodys() -> None:
    cookie = SignedCookie(SECRET, 60)
    value = cookie.issue("alice", "s1")
    for at in range(len(value)):
        for char in "A.\u00e9\x00":
            if value[at] == char:
                continue
            changed = value[:at] + char + value[at + 1 :]
            # The last character of unpadded base64 has spare bits: the same bytes, spelled differently.
            if at == len(value) - 1 and cookie(changed) is not None:
                continue
            assert cookie(changed) is None, changed
    for changed in (
        "",
        ".",
        "..",
        "...",
        value[:-1],
        value + ".",
        "." + value,
        value + value,
        value * 50,
        "\ud800",
    ):
        assert cookie(changed) is None


def test_cookie_has_one_spelling() -> None:
    cookie = SignedCookie(SECRET, 60)
    content, at, signature = cookie.issue("alice", "s1").split(".")
    for spelling in (
        "!!!!" + signature,
        signature + "=",
        signature + "====",
        signature[:4] + "\n   " + signature[4:],
    ):
        assert cookie(f"{content}.{at}.{spelling}") is None


def test_cookie_of_noise_is_nobodys() -> None:
    cookie = SignedCookie(SECRET, 60)
    value = cookie.issue("alice", "s1")
    noise = random.Random(6265)
    for _ in range(3000):
        text = list(value)
        for _ in range(noise.randint(1, 6)):
            text[noise.randrange(len(value) - 1)] = noise.choice("._-=+/ \x00\n\u00e9\u4e16Az09")
        changed = "".join(text)
        assert changed == value or cookie(changed) is None, changed


@pytest.mark.parametrize(
    ("secret", "salt"), [(OTHER, SALT), (SECRET, "other"), (SECRET + "x", SALT), (SECRET, SALT + "\x00")]
)
def test_cookie_of_another_secret_or_purpose_is_nobodys(secret: str, salt: str) -> None:
    assert SignedCookie(SECRET, 60)(signed(["alice", "s1"])) is not None
    assert SignedCookie(SECRET, 60)(signed(["alice", "s1"], secret, salt)) is None
    assert SignedCookie(SECRET, 60, "mine")(SignedCookie(SECRET, 60).issue("alice")) is None


def test_cookie_ends_with_its_age() -> None:
    now = int(time.time())
    cookie = SignedCookie(SECRET, timedelta(hours=1))
    fresh = cookie(signed(["alice", "s1"], at=now - 3500))
    assert fresh is not None
    assert fresh.expires == now - 3500 + 3600
    # Neither a second nor a part of one later: the pages have no other check than this.
    for at in (now - 3600, now - 3601, now - 7200, 0):
        assert cookie(signed(["alice", "s1"], at=at)) is None
    assert SignedCookie(SECRET, 0.001)(signed(["alice", "s1"], at=now)) is None


@pytest.mark.parametrize("ahead", [60, 2**31, 2**40, 2**62, 2**63])
def test_cookie_of_the_future_is_nobodys(ahead: int) -> None:
    at = int(time.time()) + ahead
    # A clock that was wrong once would make cookies for ever.
    assert SignedCookie(SECRET, 60)(signed(["alice", "s1"], at=at)) is None


@pytest.mark.parametrize(
    "payload",
    [
        None,
        "alice",
        7,
        [],
        ["alice"],
        ["alice", "s1", "x"],
        {"user": "alice"},
        ["", "s1"],
        ["alice", ""],
        ["alice", None],
        [None, "s1"],
        [True, "s1"],
        [["alice"], "s1"],
        [1.5, "s1"],
        ["alice", 7],
    ],
)
def test_content_that_was_not_issued_here_is_nobodys(payload: Any) -> None:
    assert SignedCookie(SECRET, 60)(signed(payload)) is None


def test_secrets_can_be_changed_while_cookies_are_around() -> None:
    old = SignedCookie(SECRET, 60)
    both = SignedCookie([SECRET, OTHER], 60)
    new = SignedCookie([OTHER], 60)
    assert both(old.issue("alice")) is not None
    assert new(both.issue("alice")) is not None
    assert old(both.issue("alice")) is None
    assert new(old.issue("alice")) is None


@pytest.mark.parametrize(
    "secret", ["", b"", [], ["", SECRET], [SECRET, ""], "short", b"a" * 15, "\u00e9" * 7]
)
def test_missing_or_short_secret_is_refused_without_being_shown(secret: Any) -> None:
    with pytest.raises(ValueError, match="secret: ") as raised:
        SignedCookie(secret, 60)
    assert "short" not in str(raised.value).replace("shorter", "")


@pytest.mark.parametrize("secret", [None, 7, [None], [SECRET, 7]])
def test_secret_that_is_no_text_is_refused(secret: Any) -> None:
    with pytest.raises(TypeError):
        SignedCookie(secret, 60)


@pytest.mark.parametrize(
    "age",
    [0, -1, float("nan"), float("inf"), pytest.param(10**400, id="10**400"), True, "60", None, timedelta(0)],
)
def test_age_that_is_none_is_refused(age: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_age: "):
        SignedCookie(SECRET, age)


def test_age_may_be_longer_than_other_times() -> None:
    cookie = SignedCookie(SECRET, timedelta(days=30))
    identity = cookie(cookie.issue("alice"))
    assert identity is not None
    assert identity.expires is not None
    assert identity.expires > time.time() + 29 * 86400


@pytest.mark.parametrize("salt", ["", None, b"x"])
def test_missing_salt_is_refused(salt: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="salt: "):
        SignedCookie(SECRET, 60, salt)


@pytest.mark.parametrize(
    ("user", "session"), [("", "s"), (None, "s"), (True, "s"), (1.5, "s"), ("a", ""), ("a", 7)]
)
def test_cookie_that_would_not_be_read_again_is_not_issued(user: Any, session: Any) -> None:
    with pytest.raises(TypeError, match="issue: "):
        SignedCookie(SECRET, 60).issue(user, session)


def test_neither_log_nor_repr_has_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    cookie = SignedCookie(SECRET, 60)
    value = cookie.issue("alice", "s3cr3t")
    assert cookie(value[:-5]) is None
    assert cookie(signed(["alice", "s3cr3t", "x"])) is None
    assert len(caplog.records) == 2
    text = caplog.text + repr(cookie)
    assert "s3cr3t" not in text
    assert SECRET not in text
    assert value[:-5] not in text


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "itsdangerous", None)
    with pytest.raises(ImportError, match=r"pip install 'unlimitedws\[itsdangerous\]'"):
        SignedCookie(SECRET, 60)


def test_package_that_is_broken_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *args: Any, **keywords: Any) -> Any:
        if name == "hmac":
            raise ModuleNotFoundError("No module named 'hmac'", name="hmac")
        return real(name, *args, **keywords)

    for name in [name for name in sys.modules if name.partition(".")[0] == "itsdangerous"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(ModuleNotFoundError, match="hmac"):
        SignedCookie(SECRET, 60)


def test_content_is_compact_json() -> None:
    content, _, _ = SignedCookie(SECRET, 60).issue("alice", "s1").split(".")
    assert json.loads(itsdangerous.encoding.base64_decode(content)) == ["alice", "s1"]
