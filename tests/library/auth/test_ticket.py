from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote

import pytest
from library.auth.heads import accepted, decide, rejected, request

from unlimitedws.auth import Identity, MemoryTickets, TicketAuth, redact


@pytest.fixture
def store() -> MemoryTickets:
    return MemoryTickets()


def test_ticket_opens_once(store: MemoryTickets) -> None:
    auth = TicketAuth(store)
    target = f"/chat?room=1&ticket={store.issue('alice', 's1', 4e9)}"
    accept = accepted(auth, request(target=target))
    assert (accept.user, accept.session, accept.expires) == ("alice", "s1", 4e9)
    assert rejected(auth, request(target=target)) == 403


def test_param_has_the_name_that_was_chosen(store: MemoryTickets) -> None:
    auth = TicketAuth(store, "t.k")
    ticket = store.issue("alice")
    assert rejected(auth, request(target=f"/?ticket={ticket}")) == 403
    assert rejected(auth, request(target=f"/?T.K={ticket}")) == 403
    assert accepted(auth, request(target=f"/?t.k={ticket}")).user == "alice"


def test_percent_encoding_makes_no_second_ticket_of_one(store: MemoryTickets) -> None:
    auth = TicketAuth(store)
    ticket = store.issue("alice")
    encoded = "".join(f"%{ord(char):02x}" for char in ticket)
    assert accepted(auth, request(target=f"/?%74icket={encoded}")).user == "alice"
    for spelling in (ticket, encoded, encoded.upper().replace("%", "%")):
        assert rejected(auth, request(target=f"/?ticket={spelling}")) == 403


def test_percent_encoding_is_undone_once(store: MemoryTickets) -> None:
    auth = TicketAuth(store)
    ticket = store.issue("alice")
    twice = quote("".join(f"%{ord(char):02x}" for char in ticket))
    assert rejected(auth, request(target=f"/?ticket={twice}")) == 403
    assert len(store) == 1


@pytest.mark.parametrize(
    "query",
    [
        "",
        "ticket",
        "ticket=",
        "ticket=+",
        "ticket=%00",
        "ticket=%ff%fe",
        "ticket=%",
        "ticket=%zz",
        "ticket=%ed%a0%80",
        "ticket=" + "a" * 8000,
        "ticket=None",
        "tickets=x",
        ";ticket=x",
    ],
)
def test_what_is_no_ticket_is_refused(store: MemoryTickets, query: str) -> None:
    store.issue("alice")
    assert rejected(TicketAuth(store), request(target=f"/?{query}")) == 403
    assert len(store) == 1


def test_white_space_beside_a_ticket_is_not_overlooked(store: MemoryTickets) -> None:
    ticket = store.issue("alice")
    for target in (
        f"/?ticket=+{ticket}",
        f"/?ticket={ticket}%20",
        f"/?ticket={ticket}%0d%0a",
        f"/?+ticket={ticket}",
    ):
        assert rejected(TicketAuth(store), request(target=target)) == 403


def test_two_tickets_are_refused(store: MemoryTickets) -> None:
    one, two = store.issue("alice"), store.issue("bob")
    for target in (
        f"/?ticket={one}&ticket={two}",
        f"/?ticket={one}&ticket=",
        f"/?ticket={one}&%74icket={one}",
    ):
        assert rejected(TicketAuth(store), request(target=target)) == 403


@pytest.mark.parametrize(
    "target",
    ["/?ticket={}&ticket={}", "/?ticket=&ticket={}&a=b&%74icket={}", "/?ticket={0}&ticket={1}&ticket={0}"],
)
def test_tickets_that_came_together_are_all_used_up(store: MemoryTickets, target: str) -> None:
    auth = TicketAuth(store)
    one, two = store.issue("alice"), store.issue("bob")
    assert rejected(auth, request(target=target.format(one, two))) == 403
    for ticket in (one, two):
        assert rejected(auth, request(target=f"/?ticket={ticket}")) == 403
    assert len(store) == 0


@pytest.mark.parametrize("is_async", [False, True])
def test_no_more_than_16_tickets_of_a_request_are_asked_for(is_async: bool) -> None:
    asked: list[str] = []

    class Store:
        def take(self, ticket: str) -> Any:
            asked.append(ticket)
            return self.later() if is_async else None

        async def later(self) -> None: ...

    query = "&".join(f"ticket={i // 2}" for i in range(100))
    assert rejected(TicketAuth(Store()), request(target=f"/?ticket=&{query}&ticket={'x' * 8193}")) == 403
    assert asked == [str(i) for i in range(16)]


def test_ticket_of_a_refused_request_is_used_up(store: MemoryTickets) -> None:
    ticket = store.issue("alice")
    auth = TicketAuth(store)
    assert rejected(auth, request(target=f"/?ticket={ticket}", origin="https://evil.com")) == 403
    assert rejected(auth, request(target=f"/?ticket={ticket}")) == 403
    assert len(store) == 0


def test_ticket_of_an_expired_login_opens_nothing(store: MemoryTickets) -> None:
    assert rejected(TicketAuth(store), request(target=f"/?ticket={store.issue('alice', expires=1.0)}")) == 403


def test_store_may_be_async_and_ones_own() -> None:
    class Store:
        def __init__(self) -> None:
            self.left = {"t1": "alice"}

        async def take(self, ticket: str) -> Identity | None:
            user = self.left.pop(ticket, None)
            return None if user is None else Identity(user)

    auth = TicketAuth(Store())
    assert accepted(auth, request(target="/?ticket=t1")).user == "alice"
    assert rejected(auth, request(target="/?ticket=t1")) == 403


@pytest.mark.parametrize("store", [None, {}, lambda ticket: None])
def test_store_without_take_is_refused(store: Any) -> None:
    with pytest.raises(TypeError, match="take"):
        TicketAuth(store)


@pytest.mark.parametrize("param", ["", "a b", "a=b", "a&b", "t%69cket", "\u00e9", "a\n"])
def test_param_that_could_be_written_in_two_ways_is_refused(store: MemoryTickets, param: str) -> None:
    with pytest.raises(ValueError, match="param: "):
        TicketAuth(store, param)


def test_ticket_is_in_no_log_and_no_repr(store: MemoryTickets, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ticket = store.issue("alice")
    asked = request(target=f"/chat?ticket={ticket}", origin="https://evil.com")
    auth = TicketAuth(store)
    shown = [repr(decide(auth, asked)), repr(asked), repr(auth), repr(store), repr(asked.headers)]
    asked = request(target=f"/chat?ticket={store.issue('alice')}")
    shown.append(repr(decide(auth, asked)))
    shown.append(repr(decide(auth, asked)))
    text = caplog.text + "".join(shown)
    assert ticket not in text
    assert asked.params["ticket"][0] not in text
    assert "192.0.2.7" in text


@pytest.mark.parametrize(
    ("target", "names", "shown"),
    [
        ("/chat", (), "/chat"),
        ("/?ticket=abc", (), "/?ticket=***"),
        ("/?a=b&ticket=abc&c=d", (), "/?a=b&ticket=***&c=d"),
        ("/?ticket=abc&ticket=def", (), "/?ticket=***&ticket=***"),
        ("/?%74icket=abc", (), "/?%74icket=***"),
        ("/?TICKET=abc", (), "/?TICKET=***"),
        ("/?ticket=a=b?c", (), "/?ticket=***"),
        ("/?ticket", (), "/?ticket"),
        ("/?ticket=abc", ("token",), "/?ticket=abc"),
        ("/?ticket=abc&token=x", ("token", "ticket"), "/?ticket=***&token=***"),
        ("http://h/?ticket=abc", (), "http://h/?ticket=***"),
    ],
)
def test_redact_hides_values_and_nothing_else(target: str, names: tuple[str, ...], shown: str) -> None:
    assert redact(target, *names) == shown
