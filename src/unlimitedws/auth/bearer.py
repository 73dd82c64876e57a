"""A token in the `Authorization` header (RFC 6750, section 2.1): for clients that are programs.

Browsers cannot set a header on a WebSocket; for them there are cookies, tickets, subprotocols, first
messages.
"""

from __future__ import annotations

import re

from ..durations import Duration
from ..request import Request
from .authenticator import Authenticator, Refusal, Verify
from .origins import OriginRule

__all__ = ["BearerAuth"]

# RFC 6750, section 2.1: b64token.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*", re.ASCII)
# RFC 9110, section 5.6.4: quoted-string, without what would have to be escaped in one.
_QUOTABLE = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]+", re.ASCII)


class BearerAuth(Authenticator):
    """Authenticate by ``Authorization: Bearer <token>``.

    Answers 401 with a challenge (RFC 6750, section 3), and 400 where there are two `Authorization` fields.

    Args:
        verify: See `Authenticator`; gets the token.
        realm: Shown in the challenge: printable ASCII without quotes and backslashes.
        origins, grace: See `Authenticator`.

    Raises:
        TypeError, ValueError: As `Authenticator`; realm cannot be written in a header.
    """

    def __init__(
        self, verify: Verify, *, realm: str = "websocket", origins: OriginRule = None, grace: Duration = 0.0
    ) -> None:
        super().__init__(verify, origins=origins, grace=grace)
        if not _QUOTABLE.fullmatch(realm):
            raise ValueError(f"realm: must be printable ASCII without quotes and backslashes, not {realm!r}")
        self._realm = realm

    def find(self, request: Request) -> str | Refusal | None:
        """Return the token; None where the field is missing or of another scheme."""
        fields = request.headers.get_all("authorization")
        if not fields:
            return None
        if len(fields) > 1:
            return self._refusal("BearerAuth: several Authorization fields", 400, "invalid_request")
        # 1*SP between the two, and no other white space anywhere.
        scheme, _, token = fields[0].strip(" \t").partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = token.lstrip(" ")
        if not _TOKEN.fullmatch(token):
            return self.invalid("BearerAuth: not a token of RFC 6750")
        return token

    def missing(self) -> Refusal:
        """401 with a challenge that names no error: RFC 6750, section 3.1."""
        return self._refusal("BearerAuth: no credential", 401, None)

    def invalid(self, why: str) -> Refusal:
        """401, ``invalid_token``: malformed, expired, revoked or unknown, and we do not say which."""
        return self._refusal(why, 401, "invalid_token")

    def _refusal(self, why: str, status: int, error: str | None) -> Refusal:
        challenge = f'Bearer realm="{self._realm}"' + (f', error="{error}"' if error else "")
        return Refusal(why, status, (("WWW-Authenticate", challenge),))
