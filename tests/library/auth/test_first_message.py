from __future__ import annotations

import asyncio
import inspect
import json
import logging
import time
from typing import Any

import pytest
from library.auth.heads import PEER, accepted, rejected, request

from unlimitedws.auth import FirstMessageAuth, Identity, StaticTokens
from unlimitedws.request import Accept

TOKEN = "first-message-token"


class Peer:
    """What of a connection is looked at."""

    remote_addr = PEER


def admit(auth: FirstMessageAuth, message: str | bytes) -> Accept | None:
    conn: Any = Peer()
    decision: Any = auth.check_message(conn, message)
    if inspect.isawaitable(decision):

        async def wait() -> Any:
            return await decision

        decision = asyncio.run(wait())
    assert decision is None or isinstance(decision, Accept)
    return decision


# However long the tests run, and whenever.
UNTIL = 4_000_000_000.0
VERIFY = StaticTokens({TOKEN: Identity("alice", "s1", UNTIL)})


def test_everybody_is_let_in_without_identity() -> None:
    accept = accepted(FirstMessageAuth(VERIFY), request(target=f"/?token={TOKEN}"))
    assert (accept.authenticated, accept.user, accept.session, accept.expires) == (False, None, None, None)


@pytest.mark.parametrize("origin", ["https://evil.com", "null"])
def test_page_of_another_origin_is_not_even_let_in(origin: str) -> None:
    assert rejected(FirstMessageAuth(VERIFY), request(origin=origin)) == 403


@pytest.mark.parametrize("end", ["closed", "cancelled"])
def test_verifier_that_is_never_awaited_is_closed(end: str) -> None:
    made: list[Any] = []

    async def slow(token: str) -> Identity | None:
        raise AssertionError("it does not begin")

    def verify(token: str) -> Any:
        made.append(slow(token))
        return made[0]

    conn: Any = Peer()
    work: Any = FirstMessageAuth(verify).check_message(conn, TOKEN)
    if end == "closed":
        work.close()
    else:
        with pytest.raises(asyncio.CancelledError):
            work.throw(asyncio.CancelledError())
    # Of one that is dropped as it is Python would say that nobody awaited it.
    assert inspect.getcoroutinestate(made[0]) == inspect.CORO_CLOSED


def test_good_message_says_who_it_is() -> None:
    accept = admit(FirstMessageAuth(VERIFY, grace=5), TOKEN)
    assert accept is not None
    assert (accept.user, accept.session, accept.authenticated) == ("alice", "s1", True)
    assert accept.expires == UNTIL + 5


def test_async_verifier_is_awaited() -> None:
    async def verify(token: str) -> Identity | None:
        await asyncio.sleep(0)
        return VERIFY(token)

    auth = FirstMessageAuth(verify)
    assert admit(auth, TOKEN) is not None
    assert admit(auth, "no" + TOKEN) is None


@pytest.mark.parametrize(
    "message",
    ["", TOKEN.encode(), b"", "bad", TOKEN + "\n", " " + TOKEN, TOKEN + "\x00", TOKEN * 1000, "\U0001f30d"],
)
def test_bad_message_is_nobodys(message: str | bytes) -> None:
    assert admit(FirstMessageAuth(VERIFY), message) is None


def test_expired_credential_is_nobodys_grace_or_not() -> None:
    auth = FirstMessageAuth(lambda token: Identity("alice", expires=time.time() - 0.001), grace=60)
    assert admit(auth, TOKEN) is None


def test_overlong_and_binary_messages_never_reach_the_verifier() -> None:
    seen: list[str] = []

    def record(token: str) -> None:
        seen.append(token)

    auth = FirstMessageAuth(record, max_chars=5)
    for message in ("", "123456", b"123"):
        assert admit(auth, message) is None
    assert seen == []
    assert admit(auth, "12345") is None
    assert seen == ["12345"]


@pytest.mark.parametrize(
    "message",
    [
        {"token": TOKEN},
        {"type": "auth", "token": TOKEN, "more": [1, 2]},
    ],
)
def test_credential_may_be_a_member_of_a_json_object(message: Any) -> None:
    assert admit(FirstMessageAuth(VERIFY, field="token"), json.dumps(message)) is not None


@pytest.mark.parametrize(
    "message",
    [
        TOKEN,
        json.dumps(TOKEN),
        json.dumps([TOKEN]),
        json.dumps({"Token": TOKEN}),
        json.dumps({"token": [TOKEN]}),
        json.dumps({"token": {"token": TOKEN}}),
        '{"token": ""}',
        '{"token": null}',
        '{"token": true}',
        '{"token": NaN}',
        '{"token": "' + TOKEN + '"',
        '{"token": "' + TOKEN + '"} x',
        '{"token": "\\ud800"}',
        "null",
        "[" * 8000,
        '{"a":' * 1500,
        "9" * 8000,
        "",
    ],
)
def test_other_json_is_nobodys(message: str) -> None:
    assert admit(FirstMessageAuth(VERIFY, field="token"), message) is None


def test_log_tells_why_and_nothing_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for auth in (
        FirstMessageAuth(lambda token: None),
        FirstMessageAuth(lambda token: Identity("alice", TOKEN, 1.0)),
        FirstMessageAuth(VERIFY, max_chars=2),
        FirstMessageAuth(VERIFY, field="x"),
    ):
        assert admit(auth, TOKEN) is None
    assert len(caplog.records) == 4
    assert all("192.0.2.7" in record.getMessage() for record in caplog.records)
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "10", True])
def test_time_that_is_none_is_refused(timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="timeout: "):
        FirstMessageAuth(VERIFY, timeout)


@pytest.mark.parametrize("most", [0, -1])
def test_length_that_is_none_is_refused(most: int) -> None:
    with pytest.raises(ValueError, match="max_chars: "):
        FirstMessageAuth(VERIFY, max_chars=most)


def test_it_is_its_own_first_message() -> None:
    auth = FirstMessageAuth(VERIFY, 3)
    assert auth.first_message is auth
    assert auth.timeout == 3
