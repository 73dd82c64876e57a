"""A cookie that the HTTP side has set: for pages of the site that the user has logged in to.

The browser sends it by itself, on behalf of any page. So the `Origin` header is what keeps other sites from
connecting in the user's name (cross-site WebSocket hijacking), and it must be there.
"""

from __future__ import annotations

import re

from ..durations import Duration
from ..request import Request
from .authenticator import Authenticator, Refusal, Verify
from .origins import OriginRule

__all__ = ["CookieAuth"]

# RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)


class CookieAuth(Authenticator):
    """Authenticate by a cookie. The request must also have an `Origin` that is allowed; otherwise 403.

    Two cookies of the name are refused. RFC 6265 says which is sent first, not which is true: a neighbour
    (another port, a sibling domain, plain HTTP) can set one beside ours, and decide that order. A name that
    begins with ``__Host-`` keeps him from it where the site is HTTPS.

    Args:
        name: Of the cookie.
        verify: See `Authenticator`; gets the cookie's value: `SignedCookie`, or a look at the sessions.
        origins, grace: See `Authenticator`.

    Raises:
        TypeError, ValueError: As `Authenticator`; name is no cookie name.
    """

    ambient = True

    def __init__(
        self, name: str, verify: Verify, *, origins: OriginRule = None, grace: Duration = 0.0
    ) -> None:
        super().__init__(verify, origins=origins, grace=grace)
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"name: {name!r} is not the name of a cookie")
        self._name = name

    def find(self, request: Request) -> str | Refusal | None:
        """Return the cookie's value."""
        values = request.cookies.get_all(self._name)
        if len(values) > 1:
            return Refusal(f"CookieAuth: {len(values)} cookies named {self._name!r}")
        return values[0] if values else None
