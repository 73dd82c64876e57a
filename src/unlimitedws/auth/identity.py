"""Who a credential belongs to: what every verifier returns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..request import check_key

__all__ = ["Identity", "unix_time"]


@dataclass(frozen=True)
class Identity:
    """The owner of a credential that has been verified.

    Attributes:
        user: Whatever the application knows its users by, hashable, an id: becomes `conn.user`, and
            `server.disconnect(user=...)` finds the connections by it. Neither None nor ``""``: both are what
            a broken lookup returns.
        session: The same for one login of the user, and all connections of that: becomes `conn.session`. Not
            shown by ``repr``, since some applications use the credential itself.
        expires: Unix time, in seconds, from which on the credential is void; None: never. A connection does
            not outlive it, but for the authenticator's `grace`.
        claims: What else the credential says, for a verifier that is built on another. Not shown by ``repr``.

    Raises:
        TypeError: user or session cannot be hashed, or expires is no number.
        ValueError: user is None or empty, or expires is not finite.
    """

    user: object
    session: object = field(default=None, repr=False)
    expires: float | None = None
    claims: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.user is None or self.user == "":
            raise ValueError("user: an identity needs a user; for a bad credential return None instead")
        check_key(self.user, "user")
        check_key(self.session, "session")
        if self.expires is not None:
            # Frozen is for those who come after us.
            object.__setattr__(self, "expires", unix_time(self.expires, "expires"))


def unix_time(value: object, name: str) -> float:
    """Return a point in time, in seconds since 1970.

    True is an int and NaN a float in Python. As an expiry the one has passed long ago, and the other is later
    than nothing: no comparison with it ever says that the time has come.

    Raises:
        TypeError: value is not a number.
        ValueError: value is not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: must be unix time in seconds, not {type(value).__name__}")
    try:
        time = float(value)
    except OverflowError:
        time = math.inf
    if not math.isfinite(time):
        raise ValueError(f"{name}: must be a finite time")
    return time
