"""A one-time ticket in the query: for pages whose HTTP side can ask who the user is, and the socket cannot.

The page fetches a ticket from the HTTP side, which knows the user, and opens ``wss://.../?ticket=...`` with
it. Addresses end up in logs: of proxies, of browsers, of monitoring. So a ticket is good once, and for
seconds.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Protocol

from ..durations import Duration
from ..request import Accept, Request
from .authenticator import MAX_CREDENTIAL_CHARS, Authenticator, Refusal, Steps
from .identity import Identity
from .origins import OriginRule

__all__ = ["TicketAuth", "TicketStore"]

# RFC 3986, section 2.3: what is never percent-encoded, so that there is one way to write the name.
_NAME = re.compile(r"[A-Za-z0-9._~-]+", re.ASCII)
# Tickets of one request that are used up, where it brings more than the one it may. A page's mistake doubles one; a
# line that is full of them is an attack, and each may be a question to a database.
_MAX_TAKEN = 16


class TicketStore(Protocol):
    """Where tickets are kept: `MemoryTickets`, or anything that has an atomic "get and delete"."""

    def take(self, ticket: str) -> Identity | Awaitable[Identity | None] | None:
        """Return whose ticket it is, and forget it in the same step; None where it is unknown or too old.

        May be async. Of two that come at the same time one gets the identity and the other None.

        Thread: any.
        """


class TicketAuth(Authenticator):
    """Authenticate by a one-time ticket in the query.

    A ticket that was presented is used up, also where the request is refused for another reason: its address
    may be in a log by now. What the engine refuses itself (400, 426 ...) is never seen here: such a ticket stays good
    until it is too old. Nothing of ours prints a query: neither logs, nor ``repr`` of a request or a connection.
    `request.query` and `conn.query` are what the client sent, ticket and all; by the time anybody sees them the ticket
    is worth nothing. `redact` is for the application's own access log.

    Args:
        store: Gives the identities; `MemoryTickets` or one's own.
        param: Name of the ticket among the query's parameters. Given twice in a query, it is refused, and the
            first 16 tickets that are there are used up.
        origins, grace: See `Authenticator`.

    Raises:
        TypeError, ValueError: As `Authenticator`; param would have to be percent-encoded.
    """

    one_time = True

    def __init__(
        self, store: TicketStore, param: str = "ticket", *, origins: OriginRule = None, grace: Duration = 0.0
    ) -> None:
        take = getattr(store, "take", None)
        if not callable(take):
            raise TypeError(f"store: must have a method take, which {type(store).__name__} has not")
        super().__init__(take, origins=origins, grace=grace)
        if not _NAME.fullmatch(param):
            raise ValueError(f"param: must be of letters, digits and '-._~', not {param!r}")
        self._param = param

    def attempt(self, request: Request) -> Steps[Accept | Refusal | None]:
        """See `Authenticator`; of several tickets none opens anything, now or later."""
        values = request.params.get(self._param, [])
        if len(values) > 1:
            tickets = [value for value in dict.fromkeys(values) if 0 < len(value) <= MAX_CREDENTIAL_CHARS]
            for ticket in tickets[:_MAX_TAKEN]:
                yield self._verify(ticket)
        return (yield from super().attempt(request))

    def find(self, request: Request) -> str | Refusal | None:
        """Return the ticket, percent-decoded."""
        values = request.params.get(self._param, [])
        if len(values) > 1:
            return Refusal(f"TicketAuth: {len(values)} parameters named {self._param!r}")
        return values[0] if values else None
