"""What all authenticators do alike, seen through one of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Generator
from typing import Any

import pytest
from library.auth.heads import accepted, decide, rejected, request

from unlimitedws.auth import Authenticator, BearerAuth, Identity, Refusal
from unlimitedws.auth.authenticator import drive
from unlimitedws.request import Request

ASKED = request(("Authorization", "Bearer s3cr3t"))


def test_what_a_verifier_says_becomes_the_connections() -> None:
    until = time.time() + 100
    accept = accepted(BearerAuth(lambda token: Identity("alice", "s1", until)), ASKED)
    assert (accept.user, accept.session, accept.expires) == ("alice", "s1", until)
    assert accept.subprotocol is None
    assert accept.authenticated


def test_grace_lets_a_connection_outlive_its_credential() -> None:
    until = time.time() + 100
    auth = BearerAuth(lambda token: Identity("alice", expires=until), grace=30)
    assert accepted(auth, ASKED).expires == until + 30


def test_expired_credential_opens_nothing_grace_or_not() -> None:
    auth = BearerAuth(lambda token: Identity("alice", expires=time.time() - 0.001), grace=30)
    assert rejected(auth, ASKED) == 401


@pytest.mark.parametrize("answer", [True, 1, "alice", {"user": "alice"}, object(), False, 0, "", ()])
def test_verifier_that_returns_anything_but_an_identity_is_an_error(answer: Any) -> None:
    def verify(token: str) -> Any:
        return answer

    async def averify(token: str) -> Any:
        return answer

    for one in (verify, averify):
        with pytest.raises(TypeError, match=r"verify must return an Identity or None, not "):
            decide(BearerAuth(one), ASKED)


def test_async_verifier_that_returns_a_coroutine_opens_nothing() -> None:
    async def inner() -> Identity:
        return Identity("alice")

    coroutine = inner()

    async def verify(token: str) -> Any:
        return coroutine

    with pytest.raises(TypeError, match="not coroutine"):
        decide(BearerAuth(verify), ASKED)
    coroutine.close()


def test_what_a_verifier_raises_comes_out() -> None:
    def verify(token: str) -> Identity | None:
        raise LookupError("no database")

    async def averify(token: str) -> Identity | None:
        raise LookupError("no database")

    for one in (verify, averify):
        with pytest.raises(LookupError, match="no database"):
            decide(BearerAuth(one), ASKED)


def test_plain_verifier_needs_no_event_loop_and_async_one_is_awaited() -> None:
    assert not isinstance(BearerAuth(lambda token: None).check(ASKED), Awaitable)

    async def verify(token: str) -> Identity | None:
        await asyncio.sleep(0)
        return Identity("alice") if token == "s3cr3t" else None

    assert accepted(BearerAuth(verify), ASKED).user == "alice"
    assert rejected(BearerAuth(verify), request(("Authorization", "Bearer other"))) == 401


def test_drive_awaits_only_what_can_be_awaited() -> None:
    async def double(value: int) -> int:
        return 2 * value

    def steps(*values: Any) -> Generator[Any, Any, list[Any]]:
        got = []
        for value in values:
            got.append((yield value))
        return got

    assert drive(steps(1, None, 2)) == [1, None, 2]
    assert drive(steps()) == []
    assert asyncio.run(_awaited(drive(steps(1, double(2), 3, double(4))))) == [1, 4, 3, 8]


async def _awaited(value: Any) -> Any:
    return await value


@pytest.mark.parametrize("verify", [None, "token", 7])
def test_verifier_that_cannot_be_called_is_refused(verify: Any) -> None:
    with pytest.raises(TypeError, match="verify: must be a function"):
        BearerAuth(verify)


@pytest.mark.parametrize("grace", [-1, float("nan"), "1"])
def test_grace_that_is_no_duration_is_refused(grace: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="grace: must be"):
        BearerAuth(lambda token: None, grace=grace)


def test_log_tells_why_and_whom_and_nothing_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    rejected(BearerAuth(lambda token: None), ASKED)
    rejected(BearerAuth(lambda token: Identity("alice", "s3cr3t", 1.0)), ASKED)
    rejected(BearerAuth(lambda token: None), request(("Authorization", "Bearer s3cr3t s3cr3t")))
    rejected(BearerAuth(lambda token: None), request(("Authorization", "Bearer " + 2000 * "s3cr3t")))
    rejected(
        BearerAuth(lambda token: None), request(("Authorization", "Bearer s3cr3t"), origin="http://evil")
    )
    assert len(caplog.records) == 5
    assert all(record.levelno == logging.INFO for record in caplog.records)
    assert all("192.0.2.7" in record.getMessage() for record in caplog.records)
    assert "s3cr3t" not in caplog.text


def test_log_is_silent_about_those_who_get_in(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    accepted(BearerAuth(lambda token: Identity("alice")), ASKED)
    assert not caplog.records


def test_repr_shows_no_part_of_an_authenticator() -> None:
    assert repr(BearerAuth(lambda token: None, realm="s3cr3t")) == "<BearerAuth>"


def test_a_credential_of_ones_own_needs_a_find_only() -> None:
    class DeviceAuth(Authenticator):
        def find(self, request: Request) -> str | Refusal | None:
            return request.headers.get("x-device")

    seen = []

    def verify(device: str) -> Identity | None:
        seen.append(device)
        return Identity(device) if device == "d1" else None

    auth = DeviceAuth(verify)
    assert accepted(auth, request(("X-Device", "d1"))).user == "d1"
    assert rejected(auth, request(("X-Device", "d2"))) == 403
    assert rejected(auth, request(("X-Device", ""))) == 403
    assert rejected(auth, request()) == 403
    # What is empty is no credential, however much a verifier would like it.
    assert seen == ["d1", "d2"]
