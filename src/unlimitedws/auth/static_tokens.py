"""A verifier for fixed tokens: machines, and services that know each other. Knows no requests."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping

from .identity import Identity

__all__ = ["StaticTokens"]

# A handshake is cheap, so guessing is: 16 random characters are beyond it, most passwords are not.
_MIN_CHARS = 16


class StaticTokens:
    """Verify tokens that do not change.

    They are kept as keyed digests, and looked up as such. So the time that takes says nothing about a token:
    who does not know the key, new in every process, cannot choose what is compared. It does not depend on how
    many tokens there are either.

    Args:
        tokens: Token to user, or to an `Identity` where there is more to say. ``secrets.token_urlsafe()``
            makes good ones; each has at least min_chars characters.
        min_chars: Shortest token that is accepted here, 16 by default, at least 1: a safeguard against test
            tokens and passwords.

    Raises:
        TypeError: A token is no `str`.
        ValueError: A token is too short, or a user is None or empty.
    """

    def __init__(self, tokens: Mapping[str, object], *, min_chars: int = _MIN_CHARS) -> None:
        if min_chars < 1:
            raise ValueError(f"min_chars: must be at least 1, not {min_chars!r}")
        self._key = secrets.token_bytes(32)
        self._identities: dict[bytes, Identity] = {}
        for token, user in tokens.items():
            # The messages name the user: the token is a secret, however bad.
            identity = user if isinstance(user, Identity) else Identity(user)
            if not isinstance(token, str):
                raise TypeError(f"tokens: that of {identity.user!r} must be a str")
            if len(token) < min_chars:
                raise ValueError(
                    f"tokens: that of {identity.user!r} has {len(token)} characters, fewer than {min_chars}; "
                    "secrets.token_urlsafe() makes one"
                )
            self._identities[self._digest(token)] = identity

    def __call__(self, token: str) -> Identity | None:
        """Return whose token it is. Thread: any."""
        return self._identities.get(self._digest(token))

    def __repr__(self) -> str:
        return f"<StaticTokens {len(self._identities)}>"

    def _digest(self, token: str) -> bytes:
        return hashlib.blake2b(token.encode("utf-8", "surrogatepass"), key=self._key, digest_size=32).digest()
