"""A verifier for JSON Web Tokens (RFC 7519, RFC 8725), through PyJWT. Knows no requests."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..durations import Duration, seconds
from .extras import need
from .identity import Identity

__all__ = ["JWT"]

logger = logging.getLogger("unlimitedws.auth")

# RFC 7515, section 7.1, with a signature. The decoder below would skip what is not base64.
_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
# RFC 7518, section 3.2: a key of the size of the hash output or larger must be used.
_MIN_HMAC_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
_TIMES = ("exp", "nbf", "iat")


class JWT:
    """Verify JSON Web Tokens. Needs ``pip install unlimitedws[jwt]``.

    The algorithms are the application's to choose, never the token's, and of one family: where HMAC and
    public keys are both allowed, a public key is an HMAC secret that everybody knows. What a header says
    about keys (``jwk``, ``jku``, ``x5u``) is not looked at; ``kid`` chooses among the keys given here, and
    ``crit`` is refused, as RFC 7515 has it for what is not understood.

    Args:
        key: The secret or public key, as PyJWT takes it: for HMAC `str` or bytes of at least the hash's
            length, else PEM or a key object. A mapping: keys by ``kid``, and a token without a known one is
            refused.
        algorithms: Such as ``["ES256"]``; not a `str`, not empty, and never ``none``.
        audience: The token's ``aud`` must name it, or one of several; None: a token with an ``aud`` is
            refused, since it is meant for somebody else.
        issuer: The token's ``iss`` must be it, or one of several; None: whoever has the key.
        leeway: Seconds, or a `timedelta`, that clocks may differ by; 0 by default. Added to the identity's
            `expires`.
        require: Claims that must be there: ``exp`` and ``sub`` by default.
        user_claim, session_claim: Which claims become `Identity.user` and `Identity.session`: ``sub``, and
            ``sid`` or else ``jti``. They must be non-empty strings.

    Raises:
        ImportError: PyJWT, or what it needs for the algorithm, is not installed; the message says how to.
        TypeError, ValueError: An argument is not possible; never with the key in the message.
    """

    def __init__(
        self,
        key: Any,
        algorithms: Iterable[str],
        audience: str | Iterable[str] | None = None,
        issuer: str | Iterable[str] | None = None,
        leeway: Duration = 0.0,
        *,
        require: Iterable[str] = ("exp", "sub"),
        user_claim: str = "sub",
        session_claim: str | None = None,
    ) -> None:
        self._jwt = need("jwt", "jwt", "JWT")
        self._algorithms = self._checked_algorithms(algorithms)
        self._keys: dict[str, Any] | None = None
        if isinstance(key, Mapping):
            if not key:
                raise ValueError("key: there is none")
            self._keys = {kid: self._checked_key(one) for kid, one in key.items()}
        else:
            self._key = self._checked_key(key)
        self._audience = _names(audience, "audience")
        self._issuer = _names(issuer, "issuer")
        self._leeway = seconds(leeway, "leeway")
        self._require = _names(require, "require") or []
        self._user_claim = user_claim
        self._session_claims = ("sid", "jti") if session_claim is None else (session_claim,)

    def __call__(self, token: str) -> Identity | None:
        """Return whose token it is; None where it does not verify. The log says why. Thread: any."""
        try:
            claims = self._claims(token)
            return self._identity(claims)
        # PyJWT lets some of what its parsers raise through: numbers beyond a float, brackets in brackets.
        except (self._jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as exc:
            # The type only: the text may quote the token.
            logger.info("JWT: %s", type(exc).__name__)
            return None

    def __repr__(self) -> str:
        return f"<JWT {', '.join(self._algorithms)}>"

    def _claims(self, token: str) -> dict[str, Any]:
        if not _FORM.fullmatch(token):
            raise ValueError("form")
        header = self._jwt.get_unverified_header(token)
        if "crit" in header:
            raise ValueError("crit")
        if self._keys is None:
            key = self._key
        else:
            kid = header.get("kid")
            key = self._keys.get(kid) if isinstance(kid, str) else None
            if key is None:
                raise ValueError("kid")
        claims: dict[str, Any] = self._jwt.decode(
            token,
            key,
            algorithms=self._algorithms,
            audience=self._audience,
            issuer=self._issuer,
            leeway=self._leeway,
            options={"require": self._require},
        )
        return claims

    def _identity(self, claims: dict[str, Any]) -> Identity:
        for name in _TIMES:
            # RFC 7519, section 2: a NumericDate is a number. PyJWT takes "123" and true as well.
            if name in claims and not _is_number(claims[name]):
                raise ValueError(name)
        user = claims.get(self._user_claim)
        if not (isinstance(user, str) and user):
            raise ValueError(self._user_claim)
        session = next((claims[name] for name in self._session_claims if name in claims), None)
        if not (session is None or (isinstance(session, str) and session)):
            raise ValueError("session")
        expires = claims["exp"] + self._leeway if "exp" in claims else None
        return Identity(user, session, expires, claims)

    def _checked_algorithms(self, algorithms: Iterable[str]) -> list[str]:
        # A str is iterable as well, and "in" finds parts of it.
        if isinstance(algorithms, str):
            raise TypeError(f"algorithms: must be a list, not one string: [{algorithms!r}]?")
        names = list(algorithms)
        if not names:
            raise ValueError("algorithms: at least one; a token does not choose its own")
        supported = self._jwt.algorithms.get_default_algorithms()
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"algorithms: must be strings, not {name!r}")
            if name.lower() == "none":
                raise ValueError("algorithms: 'none' is no signature")
            if name not in supported:
                if name in self._jwt.algorithms.requires_cryptography:
                    raise ImportError(f"{name} needs the package cryptography: pip install 'pyjwt[crypto]'")
                raise ValueError(f"algorithms: {name!r} is unknown; there are {', '.join(sorted(supported))}")
        if len({name.startswith("HS") for name in names}) > 1:
            raise ValueError(
                f"algorithms: {', '.join(names)}: of shared secrets and public keys only one kind"
            )
        return names

    def _checked_key(self, key: Any) -> Any:
        if isinstance(key, str | bytes) and not key:
            raise ValueError("key: must not be empty")
        for name in self._algorithms:
            least = _MIN_HMAC_BYTES.get(name)
            if least is not None:
                if not isinstance(key, str | bytes):
                    raise TypeError(f"key: must be str or bytes for {name}, not {type(key).__name__}")
                length = len(key.encode() if isinstance(key, str) else key)
                if length < least:
                    raise ValueError(
                        f"key: must have at least {least} bytes for {name}, not {length} (RFC 7518, 3.2)"
                    )
            try:
                self._jwt.get_algorithm_by_name(name).prepare_key(key)
            # Nothing of it in the message, nor as its cause: it may quote the key.
            except (self._jwt.PyJWTError, ValueError, TypeError) as exc:
                kind = type(exc).__name__
            else:
                continue
            raise ValueError(f"key: is no key for {name} ({kind})")
        return key


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _names(value: str | Iterable[str] | None, name: str) -> list[str] | None:
    """Return one name or several as a list; None stays None, and empty is a mistake."""
    if value is None:
        return None
    names = [value] if isinstance(value, str) else list(value)
    if not names and name != "require":
        raise ValueError(f"{name}: there is none; None is for not asking")
    for one in names:
        if not isinstance(one, str):
            raise TypeError(f"{name}: must be strings, not {type(one).__name__}")
        if not one:
            raise ValueError(f"{name}: must not be empty")
    return names
