"""What all authenticators have in common: find the credential, look at the origin, verify, answer.

Uses `Request`, `Accept` and `Reject` of the library and nothing of the engine. The server calls `check`.
"""

from __future__ import annotations

import abc
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from ..durations import Duration, seconds
from ..request import Accept, Reject, Request
from .identity import Identity
from .origins import OriginRule, Origins

if TYPE_CHECKING:
    from .first_message import FirstMessageAuth

__all__ = ["MAX_CREDENTIAL_CHARS", "Authenticator", "Refusal", "Steps", "Verify", "drive"]

logger = logging.getLogger("unlimitedws.auth")

MAX_CREDENTIAL_CHARS = 8192
"""Longest credential that a verifier gets to see; as long as the longest line of a request by default."""

T = TypeVar("T")

Verify: TypeAlias = Callable[[str], "Identity | Awaitable[Identity | None] | None"]
"""A verifier: takes the credential, returns whose it is, or None; a plain function or an async one."""

Steps: TypeAlias = Generator[Any, Any, T]
"""A computation that yields what may have to be awaited, is sent what came of it, and returns a T."""


def drive(steps: Steps[T]) -> T | Awaitable[T]:
    """Run steps to their end; where one has to be awaited, return what remains as an awaitable.

    So there is one text for plain and for async verifiers, and plain ones never need an event loop.
    """
    try:
        value = next(steps)
        while not isawaitable(value):
            value = steps.send(value)
    except StopIteration as stop:
        done: T = stop.value
        return done
    return _Rest(steps, value)


class _Rest(Coroutine[Any, Any, T]):
    """What remains of steps, of which the first value has to be awaited.

    As a coroutine function's result would be. But where it is closed before it has begun, so is what it was to await:
    a coroutine of the application's, for which Python would warn that nobody awaited it.
    """

    __slots__ = ("_begun", "_steps", "_value")

    def __init__(self, steps: Steps[T], value: Any) -> None:
        self._steps = steps
        self._value = value
        self._begun: Coroutine[Any, Any, T] | None = None

    def _begin(self) -> Coroutine[Any, Any, T]:
        if self._begun is None:
            self._begun = _drive_on(self._steps, self._value)
        return self._begun

    def __await__(self) -> Generator[Any, Any, T]:
        return self._begin().__await__()

    def send(self, value: Any) -> Any:
        """See `coroutine.send`."""
        return self._begin().send(value)

    def throw(self, *what: Any) -> Any:
        """See `coroutine.throw`."""
        if self._begun is None:
            self.close()
        return self._begin().throw(*what)

    def close(self) -> None:
        """See `coroutine.close`."""
        if self._begun is not None:
            self._begun.close()
            return
        self._steps.close()
        if isinstance(self._value, Coroutine):
            self._value.close()


async def _drive_on(steps: Steps[T], value: Any) -> T:
    while True:
        if isawaitable(value):
            value = await value
        try:
            value = steps.send(value)
        except StopIteration as stop:
            done: T = stop.value
            return done


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused.

    Attributes:
        why: For the log only, and so without anything secret in it. The peer is not told.
        status: HTTP status of the answer.
        headers: Of the answer.
    """

    why: str
    status: int = 403
    headers: tuple[tuple[str, str], ...] = ()

    def reject(self) -> Reject:
        """Return the answer. Its body, the status in words, is the same whatever the reason was."""
        return Reject(self.status, headers=self.headers)


class Authenticator(abc.ABC):
    """Base of the authenticators. For one more kind of credential, write a subclass with a `find`.

    Args:
        verify: Called with the credential, a `str` of 1 to 8192 characters; returns an `Identity`, or None
            where it is no good. May be async. What it raises is an error of the server's, not of the peer's:
            500.
        origins: Which pages may connect, beside those of the same origin: see `Origins`.
        grace: Seconds, or a `timedelta`, that a connection may outlive its credential, so that the client has
            time to come up with a new one (`renew`); 0 by default. A credential that has expired never opens
            a connection.

    Raises:
        TypeError, ValueError: As `Origins`; verify cannot be called; grace is not a duration.
    """

    ambient: ClassVar[bool] = False
    """Whether browsers send the credential by themselves, on behalf of any page. Then the `Origin` header
    must be there."""

    one_time: ClassVar[bool] = False
    """Whether verifying uses the credential up. Then that happens also where the request is refused."""

    def __init__(self, verify: Verify, *, origins: OriginRule = None, grace: Duration = 0.0) -> None:
        if not callable(verify):
            raise TypeError(f"verify: must be a function of the credential, not {type(verify).__name__}")
        self._verify = verify
        self._origins = Origins.of(origins)
        self._grace = seconds(grace, "grace")

    @property
    def first_message(self) -> FirstMessageAuth | None:
        """The `FirstMessageAuth` that decides about connections without identity, or None."""
        return None

    def check(self, request: Request) -> Accept | Reject | Awaitable[Accept | Reject]:
        """Decide about a request. The server calls this before `on_request`.

        Never None: who presents no credential is refused. An awaitable where a verifier is async.

        Thread: any; several at a time.
        """
        return drive(self._decide(request))

    def _decide(self, request: Request) -> Steps[Accept | Reject]:
        outcome = yield from self.attempt(request)
        if outcome is None:
            outcome = self.missing()
        if isinstance(outcome, Accept):
            return outcome
        logger.info("refused %s with %d: %s", request.remote_addr, outcome.status, outcome.why)
        return outcome.reject()

    def attempt(self, request: Request) -> Steps[Accept | Refusal | None]:
        """Decide about a request; None where it has no credential of this kind: another may look."""
        found = self.find(request)
        if found is None or isinstance(found, Refusal):
            return found
        kind = type(self).__name__
        if not 0 < len(found) <= MAX_CREDENTIAL_CHARS:
            return self.invalid(f"{kind}: a credential of {len(found)} characters")
        foreign = self._origins.refusal(request, required=self.ambient)
        if foreign is not None and not self.one_time:
            return Refusal(f"{kind}: {foreign}")
        identity = checked((yield self._verify(found)), self._verify)
        if foreign is not None:
            return Refusal(f"{kind}: {foreign}")
        if identity is None:
            return self.invalid(f"{kind}: the verifier does not know the credential")
        if has_expired(identity):
            return self.invalid(f"{kind}: the credential of {identity.user!r} has expired")
        return self.accept(request, identity)

    @abc.abstractmethod
    def find(self, request: Request) -> str | Refusal | None:
        """Return the request's credential; None if it has none, or why it is not acceptable."""

    def accept(self, request: Request, identity: Identity) -> Accept | Refusal:
        """Return the answer to a request whose credential is good."""
        return accepted(identity, self._grace)

    def missing(self) -> Refusal:
        """Return the answer to a request without a credential."""
        return Refusal(f"{type(self).__name__}: no credential")

    def invalid(self, why: str) -> Refusal:
        """Return the answer to a credential that is no good."""
        return Refusal(why)

    def __repr__(self) -> str:
        # Whatever a subclass keeps, a secret among it.
        return f"<{type(self).__name__}>"


def checked(identity: object, verify: object) -> Identity | None:
    """Return what a verifier returned. True, say, is not somebody: nothing but an `Identity` opens the door.

    Raises:
        TypeError: It is neither an `Identity` nor None.
    """
    if identity is None or isinstance(identity, Identity):
        return identity
    name = getattr(verify, "__qualname__", type(verify).__name__)
    raise TypeError(f"{name} must return an Identity or None, not {type(identity).__name__}")


def has_expired(identity: Identity) -> bool:
    """Tell whether the credential is void already."""
    return identity.expires is not None and identity.expires <= time.time()


def accepted(identity: Identity, grace: float) -> Accept:
    """Return the answer that lets an identity in."""
    expires = None if identity.expires is None else identity.expires + grace
    return Accept(user=identity.user, session=identity.session, expires=expires)
