from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from library.auth.heads import PEER

from unlimitedws.auth import Identity, renew


class Conn:
    def __init__(self, user: object, session: object = None) -> None:
        self.user = user
        self.session = session
        self.remote_addr = PEER


class Server:
    """Takes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.answer = True

    def identify(self, conn: Any, *, user: object, session: object, expires: float | None) -> bool:
        self.told.append((conn, user, session, expires))
        return self.answer


def renewed(server: Server, conn: Any, identity: Identity | None, **keywords: Any) -> bool:
    return renew(server, conn, identity, **keywords)


def test_new_credential_of_the_same_user_moves_the_expiry() -> None:
    server, conn = Server(), Conn("alice")
    until = time.time() + 100
    assert renewed(server, conn, Identity("alice", "s2", until), grace=5)
    assert server.told == [(conn, "alice", "s2", until + 5)]


def test_session_stays_where_the_new_credential_names_none() -> None:
    server, conn = Server(), Conn("alice", "s1")
    assert renewed(server, conn, Identity("alice"))
    assert server.told == [(conn, "alice", "s1", None)]


def test_connection_that_is_over_is_not_renewed() -> None:
    server = Server()
    server.answer = False
    assert not renewed(server, Conn("alice"), Identity("alice"))


@pytest.mark.parametrize(
    "identity", [None, Identity("bob"), Identity("Alice"), Identity(7), Identity("alice", expires=1.0)]
)
def test_no_or_another_or_an_expired_credential_changes_nothing(
    identity: Identity | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "unlimitedws.auth")
    server = Server()
    assert not renewed(server, Conn("alice"), identity, grace=1e4)
    assert server.told == []
    assert len(caplog.records) == 1


def test_connection_of_nobody_is_not_taken_by_renewing() -> None:
    server = Server()
    assert not renewed(server, Conn(None), Identity("alice"))
    assert server.told == []
