"""A token in the connection's first message: for pages that hold a token and may send it nowhere else."""

from __future__ import annotations

import json
from collections.abc import Awaitable

from _uws.conn import Conn

from ..durations import Duration, seconds
from ..request import Accept, Request
from .authenticator import (
    Authenticator,
    Refusal,
    Steps,
    Verify,
    accepted,
    checked,
    drive,
    has_expired,
    logger,
)
from .origins import OriginRule

__all__ = ["FirstMessageAuth"]


# The engine takes no more than 64 KiB from anybody who is not known, and a character has up to four bytes.
_MAX_CHARS = 16384


class FirstMessageAuth(Authenticator):
    """Accept without identity; take the first message for the credential.

    Until then nothing reaches the application: the message is delivered to no callback. A bad one, and none
    in time, close the connection with 3000. What a client sends behind a good one, without waiting for
    anything, is delivered as usual, but for a message of more than 64 KiB: nobody is taken one from before it is
    known whose it is (1009).

    The engine keeps the time, so a verifier that takes longer admits nobody. A plain one runs where callbacks run,
    and a slow one holds them up; one that waits for something is better async. Then the connection waits for it,
    and no thread does.

    Args:
        verify: See `Authenticator`; gets the message's text. A binary message is bad.
        timeout: Seconds or a `timedelta`, from the handshake to the good message; 10 by default, more than 0.
        field: Where the message is a JSON object, the member that holds the credential, such as ``"token"``;
            None: the message is the credential.
        max_chars: A longer message is bad; 8192 by default, at most 16384. The verifier does not get to see it. One
            of more than four times as many bytes closes with 1009.
        origins, grace: See `Authenticator`.

    Raises:
        TypeError, ValueError: As `Authenticator`; timeout or max_chars is not possible.
    """

    def __init__(
        self,
        verify: Verify,
        timeout: Duration = 10.0,
        *,
        field: str | None = None,
        max_chars: int = 8192,
        origins: OriginRule = None,
        grace: Duration = 0.0,
    ) -> None:
        super().__init__(verify, origins=origins, grace=grace)
        self.timeout = seconds(timeout, "timeout")
        if self.timeout == 0:
            raise ValueError("timeout: must be more than 0 seconds")
        if not 1 <= max_chars <= _MAX_CHARS:
            raise ValueError(f"max_chars: must be from 1 to {_MAX_CHARS}, not {max_chars!r}")
        # Of UTF-8, in which a character has up to four.
        self.max_bytes = 4 * max_chars
        self._field = field
        self._max_chars = max_chars

    @property
    def first_message(self) -> FirstMessageAuth:
        """Itself."""
        return self

    def attempt(self, request: Request) -> Steps[Accept | Refusal | None]:
        """Let everybody in whose origin is allowed, without identity."""
        foreign = self._origins.refusal(request)
        if foreign is not None:
            return Refusal(f"FirstMessageAuth: {foreign}")
        return Accept(authenticated=False)
        yield  # a computation of no steps: nothing here has to be awaited

    def find(self, request: Request) -> str | Refusal | None:
        """Return None: a request never has it."""
        return None

    def check_message(self, conn: Conn, message: str | bytes) -> Accept | Awaitable[Accept | None] | None:
        """Decide about a connection by its first message. The server calls this, in place of the callback.

        Returns:
            An `Accept` that says who it is, or None: then the server closes with 3000. An awaitable where the
            verifier is async.

        Thread: any; once for a connection.
        """
        return drive(self._decide_message(conn, message))

    def _decide_message(self, conn: Conn, message: str | bytes) -> Steps[Accept | None]:
        credential = self._credential(message)
        if credential is None:
            why = "the first message is no credential"
        else:
            identity = checked((yield self._verify(credential)), self._verify)
            if identity is None:
                why = "the verifier does not know the credential"
            elif has_expired(identity):
                why = f"the credential of {identity.user!r} has expired"
            else:
                return accepted(identity, self._grace)
        logger.info("closing %s with 3000: FirstMessageAuth: %s", conn.remote_addr, why)
        return None

    def _credential(self, message: str | bytes) -> str | None:
        if not isinstance(message, str) or not 0 < len(message) <= self._max_chars:
            return None
        if self._field is None:
            return message
        try:
            members = json.loads(message)
        # Brackets in brackets: the parser's own limit.
        except (ValueError, RecursionError):
            return None
        value = members.get(self._field) if isinstance(members, dict) else None
        return value if isinstance(value, str) and value else None
