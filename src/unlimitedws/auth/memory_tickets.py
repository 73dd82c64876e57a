"""One-time tickets in the memory of one process. Knows neither requests nor connections."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..durations import Duration, seconds
from ..errors import UnlimitedWSError
from .identity import Identity

__all__ = ["MemoryTickets", "TooManyTickets"]

# 256 bits: nobody guesses one.
_TICKET_BYTES = 32


class TooManyTickets(UnlimitedWSError):
    """As many tickets are unused as the store may hold. Answer with 503: the oldest is gone soon."""


class MemoryTickets:
    """Issue tickets, and take them back once.

    Args:
        lifetime: Seconds, or a `timedelta`, from `issue` to `take`; 30 by default, more than 0. A page uses
            its ticket at once; all the rest is for slow networks.
        max_tickets: Most unused tickets; 100,000 by default, some 40 MB. Above it `issue` raises, rather than
            void the tickets of others.
        clock: Seconds, never going back; for tests.

    Raises:
        TypeError, ValueError: lifetime or max_tickets is not possible.
    """

    def __init__(
        self,
        lifetime: Duration = 30.0,
        max_tickets: int = 100_000,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lifetime = seconds(lifetime, "lifetime")
        if self._lifetime == 0:
            raise ValueError("lifetime: must be more than 0 seconds")
        if isinstance(max_tickets, bool) or not isinstance(max_tickets, int):
            raise TypeError(f"max_tickets: must be an int, not {max_tickets!r}")
        if max_tickets < 1:
            raise ValueError(f"max_tickets: must be at least 1, not {max_tickets}")
        self._max_tickets = max_tickets
        self._clock = clock
        self._lock = threading.Lock()
        # By digest: the time of a lookup tells something about the digest at most, and nobody gets from there
        # to the ticket. All live equally long, so the oldest are in front.
        self._tickets: dict[bytes, tuple[float, Identity]] = {}

    def issue(
        self,
        user: object,
        session: object = None,
        expires: float | None = None,
        claims: Mapping[str, Any] | None = None,
    ) -> str:
        """Return a new ticket: 43 characters that need no encoding in a URL.

        Args:
            user, session, expires, claims: See `Identity`. expires is that of the login behind the ticket,
                and so of the connection; the ticket itself lives for `lifetime`.

        Raises:
            TooManyTickets: max_tickets are unused.
            TypeError, ValueError: As `Identity`.

        Thread: any.
        """
        identity = Identity(user, session, expires, claims)
        ticket = secrets.token_urlsafe(_TICKET_BYTES)
        with self._lock:
            now = self._clock()
            self._forget(now)
            if len(self._tickets) >= self._max_tickets:
                raise TooManyTickets(f"{len(self._tickets)} tickets are unused")
            self._tickets[_digest(ticket)] = (now + self._lifetime, identity)
        return ticket

    def take(self, ticket: str) -> Identity | None:
        """Return whose ticket it is, once; None where it is unknown, used, or too old. Thread: any."""
        with self._lock:
            until, identity = self._tickets.pop(_digest(ticket), (0.0, None))
            return identity if self._clock() < until else None

    def __len__(self) -> int:
        """Return how many tickets are unused and not too old. Thread: any."""
        with self._lock:
            self._forget(self._clock())
            return len(self._tickets)

    def __repr__(self) -> str:
        return f"<MemoryTickets {len(self)} unused>"

    def _forget(self, now: float) -> None:
        """Forget what is too old: as many steps as were added. The lock is held."""
        while self._tickets:
            oldest = next(iter(self._tickets))
            if now < self._tickets[oldest][0]:
                return
            del self._tickets[oldest]


def _digest(ticket: str) -> bytes:
    # Whatever the peer's text is, it has a digest: lone surrogates too.
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()
