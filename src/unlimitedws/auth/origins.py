"""Which pages may connect: the `Origin` header against the server's own origin and a list.

WebSockets are not bound by the same-origin policy: any page may connect to any server, and the browser sends
the server's cookies along. The `Origin` header (RFC 6454; RFC 6455, section 10.2) is what tells such a
page from our own.
"""

from __future__ import annotations

import inspect
import ipaddress
import logging
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from ..request import Reject, Request

__all__ = ["Origin", "OriginRule", "Origins", "parse_origin"]

logger = logging.getLogger("unlimitedws.auth")

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)
# What browsers write: names in ASCII (punycode), without percent-encoding.
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
# The length of a name in the DNS, and some room for the rest.
_MAX_CHARS = 300


class Origin(NamedTuple):
    """An origin (RFC 6454, section 4), normalized: equal ones are the same origin.

    Attributes:
        scheme: In lower case.
        host: In lower case; an IPv6 address in its shortest form, in brackets.
        port: The scheme's default where none is written; 0 for schemes without one.
    """

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        port = "" if self.port == _DEFAULT_PORTS.get(self.scheme, 0) else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


def parse_origin(text: str) -> Origin | None:
    """Parse an origin as browsers serialize it (RFC 6454, section 6.2): scheme, host, perhaps a port.

    Returns None for everything else: ``null``, a path (be it ``/``), a user name, a list of several. No
    guessing: what two readers could read differently is nobody's origin.
    """
    if len(text) > _MAX_CHARS:
        return None
    scheme, separator, authority = text.partition("://")
    if not separator:
        return None
    return _origin(scheme.lower(), authority)


def _origin(scheme: str, authority: str) -> Origin | None:
    if not _SCHEME.fullmatch(scheme):
        return None
    if authority.startswith("["):
        address, bracket, rest = authority[1:].partition("]")
        # A zone ("fe80::1%eth0") means something to one machine only, and is not sent (RFC 6874, section 4).
        if not bracket or "%" in address:
            return None
        try:
            host = f"[{ipaddress.IPv6Address(address).compressed}]"
        except ValueError:
            return None
    else:
        name, colon, port = authority.partition(":")
        rest = colon + port
        host = name.lower()
        if not _NAME.fullmatch(host):
            return None
    if not rest:
        return Origin(scheme, host, _DEFAULT_PORTS.get(scheme, 0))
    if rest[0] != ":" or not _PORT.fullmatch(rest[1:]) or not 0 < int(rest[1:]) < 65536:
        return None
    return Origin(scheme, host, int(rest[1:]))


class Origins:
    """Which pages may connect. Without arguments: those of the server's own origin, and what is no browser.

    The server's own origin is made of `request.host` and `request.is_secure`, so behind a proxy that ends
    TLS or changes `Host` the server has to know it as one of its trusted proxies.

    Beside the authenticators, which have one each, it can be the server's only guard:
    ``server.auth = Origins()`` refuses the pages of others and asks nobody who he is.

    Args:
        allow: More origins: exact ones (``"https://app.example.com"``, ``"http://localhost:3000"``), all
            names below a domain, of any depth, the domain itself excepted (``"https://*.example.com"``), or a
            function of the normalized origin (a `str`) that returns True. Nothing here ever allows ``null``,
            the origin of sandboxed frames and local files: anybody can be it.
        same_origin: False: the server's own origin is allowed only if the list has it. A server on a private
            network or on localhost wants that: the name in `Host` is whatever name led there, an attacker's
            name too that he points at this address (DNS rebinding).
        required: True: refuse requests without the header, which no browser sends.

    Raises:
        TypeError: allow is neither strings nor a plain function.
        ValueError: One of the strings is not an origin; the message says which.
    """

    def __init__(
        self,
        allow: Iterable[str] | Callable[[str], bool] = (),
        *,
        same_origin: bool = True,
        required: bool = False,
    ) -> None:
        self._exact: set[Origin] = set()
        self._below: set[Origin] = set()
        self._predicate: Callable[[str], bool] | None = None
        self._same_origin = same_origin
        self._required = required
        if isinstance(allow, str):
            raise TypeError(f"origins: must be a list of origins, not one string: [{allow!r}]?")
        if callable(allow):
            if inspect.iscoroutinefunction(allow) or inspect.iscoroutinefunction(type(allow).__call__):
                raise TypeError(f"origins: {allow!r} is async; a predicate is a plain function")
            self._predicate = allow
            return
        for text in allow:
            self._add(text)

    @classmethod
    def of(cls, rule: OriginRule) -> Origins:
        """Return a rule as `Origins`: one already, what one is made of, or None for the default."""
        if isinstance(rule, Origins):
            return rule
        return cls(() if rule is None else rule)

    def _add(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"origins: must be strings, not {text!r}")
        if text in ("*", "null"):
            raise ValueError(f"origins: {text!r} is everybody; give a function that returns True instead")
        scheme, separator, rest = text.partition("://*.")
        origin = parse_origin(f"{scheme}://{rest}" if separator else text)
        if origin is None:
            raise ValueError(
                f"origins: {text!r} is not an origin, such as 'https://example.com', 'http://localhost:80' or "
                "'https://*.example.com': no path, no slash at the end, and names in ASCII (punycode)"
            )
        if origin.scheme in ("ws", "wss"):
            raise ValueError(f"origins: {text!r} is where a socket leads; a page's origin begins with http")
        if not separator:
            self._exact.add(origin)
            return
        if "." not in origin.host.strip(".") and origin.host != "localhost":
            raise ValueError(f"origins: {text!r} would allow a whole top-level domain")
        if origin.host[0] == "[" or origin.host.replace(".", "").isdigit():
            raise ValueError(f"origins: {text!r}: there are no names below an address")
        self._below.add(origin)

    def check(self, request: Request) -> Reject | None:
        """Decide about a request: None, or 403. As an authenticator's `check`, with no opinion on the user.

        Thread: any.
        """
        why = self.refusal(request)
        if why is None:
            return None
        logger.info("refused %s with 403: %s", request.remote_addr, why)
        return Reject(403)

    def refusal(self, request: Request, *, required: bool = False) -> str | None:
        """Return why the request's origin is refused, for the log; None where it is allowed.

        Args:
            request: The request.
            required: Refuse a request without the header, whatever this one's own `required` says.
        """
        text = request.origin
        if text is None:
            return "no Origin header" if required or self._required else None
        # %r of it everywhere: this is the peer's text.
        if text == "null":
            return "origin 'null'"
        origin = parse_origin(text)
        if origin is None:
            return f"origin {text[:_MAX_CHARS]!r} is malformed"
        own = _origin("https" if request.is_secure else "http", request.host)
        if self._same_origin and origin == own:
            return None
        if origin in self._exact or self._is_below(origin):
            return None
        # Is True: a coroutine, or whatever a slip returns, is as true as anything.
        if self._predicate is not None and self._predicate(str(origin)) is True:
            return None
        hint = ""
        if own is not None and (origin.scheme, own.scheme) == ("https", "http") and origin.host == own.host:
            hint = "; behind a proxy that ends TLS, make it one of the trusted proxies"
        return f"origin {str(origin)!r} is neither the server's, {str(own)!r}, nor allowed{hint}"

    def _is_below(self, origin: Origin) -> bool:
        name = origin.host
        while self._below:
            _, dot, name = name.partition(".")
            if not dot:
                break
            if origin._replace(host=name) in self._below:
                return True
        return False

    def __repr__(self) -> str:
        parts = sorted([*map(str, self._exact), *(str(o._replace(host=f"*.{o.host}")) for o in self._below)])
        if self._predicate is not None:
            parts.append(getattr(self._predicate, "__qualname__", repr(self._predicate)))
        if self._same_origin:
            parts.insert(0, "same origin")
        return f"<Origins {', '.join(parts) or 'none'}>"


OriginRule: TypeAlias = Origins | Iterable[str] | Callable[[str], bool] | None
"""What an authenticator takes for its `origins`: `Origins`, what `Origins` takes, or None for the default."""
