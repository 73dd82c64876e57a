"""A verifier for cookies that are signed and not stored, through itsdangerous. Knows no requests.

Whoever has the secret, such as the HTTP side, makes them with `issue`; the server needs no look at a
database.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import secrets
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from .extras import need
from .identity import Identity

if TYPE_CHECKING:
    from itsdangerous import URLSafeTimedSerializer

__all__ = ["SignedCookie"]

logger = logging.getLogger("unlimitedws.auth")

# As issued: content, perhaps compressed, time, signature. The decoders below would skip what is not base64.
_FORM = re.compile(r"\.?[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
# RFC 2104, section 3, wants as long a key as the hash; half of it is what nobody has ever guessed.
_MIN_SECRET_BYTES = 16


class SignedCookie:
    """Make and verify signed cookie values. Needs ``pip install unlimitedws[itsdangerous]``.

    Signed with HMAC-SHA256, compared in constant time; signed is not encrypted: the user can read his user
    name and session id. A cookie cannot be called back, it expires. To end what it opened, see
    `server.disconnect(session=...)`; to have it open nothing any more, look the session up in a verifier of
    one's own that begins with this one.

    Args:
        secret: At least 16 bytes, from ``secrets.token_bytes()`` or so. Several, the oldest first: the last
            one signs and all verify, so that secrets can be changed while cookies are around.
        max_age: Seconds, or a `timedelta`, from `issue` on; becomes the identity's `expires`.
        salt: What the signature is for: cookies of other purposes, signed with the same secret, are no good
            here.

    Raises:
        ImportError: itsdangerous is not installed; the message says how to.
        TypeError, ValueError: A secret is too short, max_age is no positive time, or salt is empty.
    """

    def __init__(
        self,
        secret: str | bytes | Sequence[str | bytes],
        max_age: float | timedelta,
        salt: str = "unlimitedws.auth.cookie",
    ) -> None:
        self._itsdangerous = need("itsdangerous", "itsdangerous", "SignedCookie")
        if not isinstance(salt, str):
            raise TypeError(f"salt: must be a str, not {type(salt).__name__}")
        if not salt:
            raise ValueError("salt: must not be empty")
        self._max_age = _positive(max_age)
        self._serializer: URLSafeTimedSerializer = self._itsdangerous.URLSafeTimedSerializer(
            _secrets(secret), salt, signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
        )

    def issue(self, user: str | int, session: str | None = None) -> str:
        """Return a cookie value for a user who has logged in; letters, digits and ``-_.``.

        Args:
            user: Becomes `Identity.user`.
            session: Becomes `Identity.session`; None makes one up. The cookie read again, ``cookie(value)``,
                tells it.

        Raises:
            TypeError, ValueError: user is neither a `str` nor an int, or empty; so is session.

        Thread: any.
        """
        if session is None:
            session = secrets.token_urlsafe(16)
        if not (_is_user(user) and isinstance(session, str) and session):
            raise TypeError("issue: user must be a non-empty str or an int, session a non-empty str")
        value = self._serializer.dumps([user, session])
        return value.decode("ascii") if isinstance(value, bytes) else value

    def __call__(self, value: str) -> Identity | None:
        """Return whose cookie it is; None where it is not ours, changed, or too old. Thread: any."""
        if not _FORM.fullmatch(value):
            logger.info("SignedCookie: the value is not one of issue")
            return None
        try:
            payload, signed = self._serializer.loads(value, max_age=math.ceil(self._max_age), return_timestamp=True)
        # The latter three: what itsdangerous lets through, for times beyond the calendar above all.
        except (self._itsdangerous.BadData, ValueError, OverflowError, OSError) as exc:
            logger.info("SignedCookie: %s", type(exc).__name__)
            return None
        # Signed with our secret and salt, but by something else.
        if not (isinstance(payload, list) and len(payload) == 2):
            logger.info("SignedCookie: the content is not one of issue")
            return None
        user, session = payload
        if not (_is_user(user) and isinstance(session, str) and session):
            logger.info("SignedCookie: the content is not one of issue")
            return None
        expires = signed.timestamp() + self._max_age
        # itsdangerous counts whole seconds, and lets the last one pass.
        if expires <= time.time():
            logger.info("SignedCookie: SignatureExpired")
            return None
        return Identity(user, session, expires)

    def __repr__(self) -> str:
        return f"<SignedCookie max_age={self._max_age:g}>"


def _is_user(user: object) -> bool:
    return (isinstance(user, str) and user != "") or (isinstance(user, int) and not isinstance(user, bool))


def _positive(value: float | timedelta) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"max_age: must be seconds or a timedelta, not {type(value).__name__}")
    if not 0 < value <= sys.float_info.max:
        raise ValueError(f"max_age: must be more than 0 seconds, and finite, not {value!r}")
    return float(value)


def _secrets(secret: str | bytes | Sequence[str | bytes]) -> list[bytes]:
    given = [secret] if isinstance(secret, str | bytes) else list(secret)
    if not given:
        raise ValueError("secret: there is none")
    out = []
    for one in given:
        if not isinstance(one, str | bytes):
            raise TypeError(f"secret: must be str or bytes, not {type(one).__name__}")
        raw = one.encode() if isinstance(one, str) else one
        if len(raw) < _MIN_SECRET_BYTES:
            raise ValueError(
                f"secret: must have at least {_MIN_SECRET_BYTES} bytes, not {len(raw)}; "
                "secrets.token_hex() makes one"
            )
        out.append(raw)
    return out
