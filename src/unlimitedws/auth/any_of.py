"""Several kinds of credentials, any of which will do: a cookie for the page, a token for programs."""

from __future__ import annotations

from ..request import Accept, Request
from .authenticator import Authenticator, Refusal, Steps
from .first_message import FirstMessageAuth

__all__ = ["AnyOf"]


class AnyOf(Authenticator):
    """Authenticate by the first of several authenticators that knows the caller.

    They are asked in order. One that finds no credential of its kind, or a bad one, lets the next one look:
    whoever sends a good one could have left the bad one out. If nobody lets the request in, the answer is
    that of the first that found something; where there was nothing, that of the first with a challenge (401).

    Args:
        *authenticators: At least one. A `FirstMessageAuth`, which never refuses at once, comes last. A
            `TicketAuth` is best put first: a ticket is used up only if it is looked at.

    Raises:
        TypeError: One is not an `Authenticator`.
        ValueError: There is none, or a `FirstMessageAuth` stands before another.
    """

    def __init__(self, *authenticators: Authenticator) -> None:
        # The base's verifier, origins and grace are those of each.
        if not authenticators:
            raise ValueError("AnyOf: of nothing is nobody")
        for one in authenticators:
            if not isinstance(one, Authenticator):
                raise TypeError(f"AnyOf: must be authenticators, not {type(one).__name__}")
        if any(one.first_message is not None for one in authenticators[:-1]):
            raise ValueError("AnyOf: a FirstMessageAuth lets everybody pass for now: it has to be last")
        self._all = authenticators

    @property
    def first_message(self) -> FirstMessageAuth | None:
        """The last one, if it is a `FirstMessageAuth`."""
        return self._all[-1].first_message

    def attempt(self, request: Request) -> Steps[Accept | Refusal | None]:
        """Ask one after the other."""
        refusal: Refusal | None = None
        for one in self._all:
            outcome = yield from one.attempt(request)
            if isinstance(outcome, Accept):
                return outcome
            refusal = refusal or outcome
        return refusal

    def find(self, request: Request) -> str | Refusal | None:
        """Return the first credential that is found; `attempt` does not use it."""
        return next((found for one in self._all if (found := one.find(request)) is not None), None)

    def missing(self) -> Refusal:
        """Return the first challenge, else the first one's answer."""
        answers = [one.missing() for one in self._all]
        return next((answer for answer in answers if answer.status == 401), answers[0])

    def __repr__(self) -> str:
        return f"<AnyOf {', '.join(type(one).__name__ for one in self._all)}>"
