"""The upgrade request as hooks see it, and what they may answer: `Accept`, `Reject`, `Response`.

Reads what the engine has found valid (docs/handshakes.md), and writes nothing that could be read as two
headers. Knows no server and no connection.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from .address import Address, Ends
from .proxies import Seen

if TYPE_CHECKING:
    from _uws.peer import RawEnds

    from .aio.connection import ServerConnection

__all__ = [
    "MAX_SUBPROTOCOL_BYTES",
    "Accept",
    "Authenticator",
    "Cookies",
    "Decision",
    "FirstMessage",
    "HeaderFields",
    "Headers",
    "Reject",
    "Request",
    "Response",
    "check_subprotocol",
    "check_token",
]

HeaderFields: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
"""Header fields that an application gives: a mapping, or pairs where a name comes more than once."""

# RFC 9110, section 5.6.2, and section 5.5 without white space at the ends. Latin-1, as the fields we read.
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
# One parameter of an extension (RFC 6455, section 9.1): the name, and a token or a quoted string. Commas before it are
# those of elements that are empty (RFC 9110, section 5.6.1).
_PARAMETER = re.compile(r'[ \t,]*([^\s;,="]+)[ \t]*(?:=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]+)))?[ \t]*')

# What decides where a message ends, or what protocol follows, is not the application's.
_OURS = frozenset({"connection", "content-length", "keep-alive", "trailer", "transfer-encoding", "upgrade"})
_OURS_PREFIX = "sec-websocket-"
# The engine's.
MAX_SUBPROTOCOL_BYTES = 255

_T = TypeVar("_T")


def check_token(text: object, name: str) -> str:
    """Return text if it is a token (RFC 9110, section 5.6.2).

    Args:
        text: What should be one.
        name: What it is, for the message.

    Raises:
        TypeError: text is no str.
        ValueError: text is no token.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name}: must be a str, not {text!r}")
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{name}: {text!r} is not a token (RFC 9110, section 5.6.2)")
    return text


def check_subprotocol(text: object, name: str) -> str:
    """Return text if it can be agreed on as a subprotocol: a token of at most 255 bytes.

    As `check_token`, but text is not in the messages: a client may have offered it, with a credential for a part.

    Raises:
        TypeError, ValueError: It cannot.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name}: must be a str, not {type(text).__name__}")
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{name}: must be a token (RFC 9110, section 5.6.2)")
    if len(text) > MAX_SUBPROTOCOL_BYTES:
        raise ValueError(f"{name}: must have at most {MAX_SUBPROTOCOL_BYTES} bytes, not {len(text)}")
    return text


class Headers(Mapping[str, str]):
    """The header fields of a request: names in any case, every line kept.

    ``headers["x"]`` is the value, of a field that came more than once all of them, joined with ``", "``
    (RFC 9110, section 5.3); `get_all` has them apart. Values are decoded as Latin-1, one character a byte:
    ``value.encode("latin-1")`` are the bytes that were sent.

    Args:
        fields: Names and values in the order they came.
    """

    __slots__ = ("_fields", "_values")

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields = tuple(fields)
        self._values: dict[str, list[str]] = {}
        for name, value in self._fields:
            self._values.setdefault(name.lower(), []).append(value)

    @property
    def raw(self) -> list[tuple[str, str]]:
        """Names and values as they were written, in the order they came."""
        return list(self._fields)

    def get_all(self, name: str) -> list[str]:
        """Return the values of every field of this name, in order; none is an empty list."""
        return list(self._values.get(name.lower(), ()))

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._values[name.lower()])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        # Values may be credentials, and what has a repr ends up in a log.
        return f"<Headers {', '.join(self._values)}>"


class Cookies(Mapping[str, str]):
    """The cookies of a request (RFC 6265, section 4.2), as browsers send them, not as its grammar has them.

    Of a name that came more than once ``cookies[name]`` is the first, which user agents send for the longest
    path; the order of the others means nothing. A sibling domain can put one before ours, so whoever
    authenticates by a cookie looks at `get_all` and refuses two.

    A pair without ``=`` or without a name is not there. Double quotes around a whole value are taken off;
    nothing is unescaped, and a quote does not hide a semicolon: one cookie never swallows the next.

    Args:
        fields: Values of the request's Cookie fields.
    """

    __slots__ = ("_values",)

    def __init__(self, fields: Iterable[str] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        for text in fields:
            for pair in text.split(";"):
                name, equals, value = pair.partition("=")
                name, value = name.strip(" \t"), value.strip(" \t")
                if len(value) >= 2 and value[0] == value[-1] == '"':
                    value = value[1:-1]
                if equals and name:
                    self._values.setdefault(name, []).append(value)

    def get_all(self, name: str) -> list[str]:
        """Return every value of this name, in order; none is an empty list."""
        return list(self._values.get(name, ()))

    def __getitem__(self, name: str) -> str:
        return self._values[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Cookies {', '.join(self._values)}>"


class Request:
    """An upgrade request, or an ordinary GET on its way to a route. Parts are read when they are asked for.

    ``repr()`` shows the path, and never what may be a secret: query, cookies, fields.

    Args:
        head: The request's head, the empty line included; the engine has found it valid.
        remote_addr: The client; behind a trusted proxy, whom that has named.
        local_addr: The end of the connection that is ours.
        is_secure: Whether the client speaks TLS, as far as the connection itself shows.
        believe: Returns what trusted proxies say in header fields; None: none is to be believed.

    Attributes:
        data: Any object of the application's; None at first. With the option `keep_request` what `on_request` leaves
            here `on_connect` finds in ``conn.request.data``, and a handler of `unlimitedws.aio` in
            ``connection.request.full.data``.
        user, session: What the server's authenticator has found, for `on_request` to read; None without.

    Thread: one at a time.
    """

    __slots__ = (
        "_believe",
        "_cookies",
        "_ends",
        "_head",
        "_headers",
        "_newcomer",
        "_offers",
        "_params",
        "_parts",
        "_seen",
        "data",
        "session",
        "user",
    )

    def __init__(
        self,
        head: bytes,
        remote_addr: Address,
        local_addr: Address,
        *,
        is_secure: bool = False,
        believe: Callable[[Headers], Seen] | None = None,
    ) -> None:
        self._set(head, Ends(remote_addr, local_addr, is_secure), believe)

    @classmethod
    def _on(cls, head: bytes, ends: RawEnds, believe: Callable[[Headers], Seen] | None) -> Request:
        """Make one of what the engine has of it: hardly anybody asks for the addresses."""
        request = cls.__new__(cls)
        request._set(head, ends, believe)
        return request

    def _set(self, head: bytes, ends: Ends | RawEnds, believe: Callable[[Headers], Seen] | None) -> None:
        self._head = head
        self._ends = ends
        self._believe = believe
        self._seen: Seen | None = None
        # What `aio` has made of it for its hooks, on the way to the connection.
        self._newcomer: ServerConnection | None = None
        self._offers: list[str] | None = None
        self.data: Any = None
        self.user: object = None
        self.session: object = None
        self._parts: tuple[str, str, str, str, str] | None = None
        self._headers: Headers | None = None
        self._cookies: Cookies | None = None
        self._params: dict[str, list[str]] | None = None

    @property
    def remote_addr(self) -> Address:
        """The client; behind a trusted proxy, whom that has named."""
        return self._ends.remote_addr

    @property
    def local_addr(self) -> Address:
        """The end of the connection that is ours."""
        return self._ends.local_addr

    @property
    def method(self) -> str:
        """``"GET"``: no other gets this far."""
        return self._line()[0]

    @property
    def target(self) -> str:
        """The request target as it was sent; may be in absolute form (RFC 9112, section 3.2.2)."""
        return self._line()[1]

    @property
    def path(self) -> str:
        """The target's path, not decoded, such as ``"/chat"``; as `Conn.path`."""
        return self._line()[2]

    @property
    def query(self) -> str:
        """What follows the target's ``?``, not decoded; ``""`` where there is none; as `Conn.query`."""
        return self._line()[3]

    @property
    def params(self) -> dict[str, list[str]]:
        """The query, decoded as that of a form: every value of every name, in order. Do not change it."""
        if self._params is None:
            # Half a megabyte that whoever does not ask has no need of.
            from urllib.parse import parse_qs

            self._params = parse_qs(self.query, keep_blank_values=True)
        return self._params

    @property
    def headers(self) -> Headers:
        """The header fields."""
        if self._headers is None:
            text = self._head.decode("latin-1").lstrip("\r\n")
            lines = (line.partition(":") for line in text.split("\r\n")[1:] if line)
            self._headers = Headers((name, value.strip(" \t")) for name, _, value in lines)
        return self._headers

    @property
    def cookies(self) -> Cookies:
        """The cookies."""
        if self._cookies is None:
            self._cookies = Cookies(self.headers.get_all("cookie"))
        return self._cookies

    @property
    def host(self) -> str:
        """The host, and the port where one is written: of the Host field, or of a target in absolute form.

        The latter counts where there is one (RFC 9112, section 3.2.2). As written; compare without case. Behind
        a trusted proxy that says so, the one that the client asked it for.
        """
        seen = self._proxied()
        return (seen is not None and seen.host) or self._line()[4] or self.headers["host"]

    @property
    def is_secure(self) -> bool:
        """Whether the client speaks TLS, as a trusted proxy said. False where nobody did."""
        seen = self._proxied()
        return self._ends.is_secure or (seen is not None and seen.is_secure)

    @property
    def origin(self) -> str | None:
        """The Origin field (RFC 6454); None where there is none, which no browser leaves out."""
        return self.headers.get("origin")

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols that the client offers, the one it likes best first.

        Without a credential that an authenticator has found among them: whoever selects it would send it back.
        """
        return self._offered() if self._offers is None else list(self._offers)

    def _offered(self) -> list[str]:
        parts = self.headers.get("sec-websocket-protocol", "").split(",")
        return [token for part in parts if (token := part.strip(" \t"))]

    @property
    def extensions(self) -> list[tuple[str, list[tuple[str, str | None]]]]:
        """The extensions that the client offers: names, and parameters with values, None without one."""
        offers: list[tuple[str, list[tuple[str, str | None]]]] = []
        text = self.headers.get("sec-websocket-extensions", "")
        at, first = 0, True
        while found := _PARAMETER.match(text, at):
            name, quoted, plain = found.groups()
            if first:
                offers.append((name, []))
            else:
                value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                offers[-1][1].append((name, value))
            at = found.end()
            first = text[at : at + 1] == ","
            at += 1
        return offers

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path} from {self.remote_addr}>"

    def _proxied(self) -> Seen | None:
        if self._seen is None and self._believe is not None:
            self._seen = self._believe(self.headers)
        return self._seen

    def _line(self) -> tuple[str, str, str, str, str]:
        """Method, target, path, query, and the authority of a target in absolute form or ``""``."""
        if self._parts is None:
            line, _, _ = self._head.lstrip(b"\r\n").partition(b"\r\n")
            method, target, _ = line.decode("latin-1").split(" ")
            rest, authority = target, ""
            if not target.startswith("/"):
                _, _, rest = target.partition("://")
                end = next((i for i, char in enumerate(rest) if char in "/?"), len(rest))
                authority, rest = rest[:end], rest[end:]
            path, _, query = rest.partition("?")
            self._parts = (method, target, path or "/", query, authority)
        return self._parts


@dataclass(frozen=True)
class Accept:
    """Upgrade the connection.

    Attributes:
        subprotocol: One that the client offers, of at most 255 bytes; None: no subprotocol, unless
            `Server.subprotocols` has one.
        headers: Further fields of the 101 response; kept as a tuple of pairs.
        user: What `conn.user` is to be, and `Server.disconnect` finds the connection by; hashable, an id.
        session: The same for `conn.session`: one of several logins of a user.
        expires: Unix time at which the connection is closed with 3000 if the credential was not renewed;
            None: never.
        authenticated: False gives the connection the option `auth_timeout` to be told who it is
            (`Server.identify`); then it is closed with 3000.

    Raises:
        TypeError: A value is of the wrong type; user or session cannot be hashed.
        ValueError: subprotocol is not a token, or too long; expires is not finite; a field is not one (RFC 9110,
            section 5), holds CR, LF or NUL, or is one that the server itself writes.
    """

    subprotocol: str | None = None
    headers: HeaderFields = field(default=(), repr=False)
    user: object = None
    session: object = field(default=None, repr=False)
    expires: float | None = None
    authenticated: bool = True

    def __post_init__(self) -> None:
        if self.subprotocol is not None:
            check_subprotocol(self.subprotocol, "subprotocol")
        object.__setattr__(self, "headers", _checked_fields(self.headers))
        check_key(self.user, "user")
        check_key(self.session, "session")
        check_expires(self.expires)
        if not isinstance(self.authenticated, bool):
            raise TypeError(f"authenticated: must be True or False, not {self.authenticated!r}")

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The further fields, as names and values."""
        return _pairs(self.headers)

    def field_lines(self) -> bytes:
        """Return the further fields as they go over the wire, each line with its CR LF."""
        return _field_lines(self.fields) if self.headers else b""

    def joined(self, later: Accept) -> Accept:
        """Return what two have said together, later's word where both have one. Neither can lengthen what the other
        allows.
        """
        ends = [one.expires for one in (self, later) if one.expires is not None]
        return Accept(
            subprotocol=self.subprotocol if later.subprotocol is None else later.subprotocol,
            headers=(*self.fields, *later.fields),
            user=self.user if later.user is None else later.user,
            session=self.session if later.session is None else later.session,
            expires=min(ends, default=None),
            authenticated=self.authenticated and later.authenticated,
        )


@dataclass(frozen=True)
class Response:
    """Answer with an ordinary HTTP response. The connection is closed behind it.

    Where the fields given do not say otherwise it has a Content-Type, for a `str` that of plain text in
    UTF-8, and ``Cache-Control: no-store``: what a socket server answers is about this moment. A Date that they do
    not have is added when it is sent.

    Attributes:
        status: 200 to 599.
        body: `str` is sent as UTF-8.
        headers: Further fields; kept as a tuple of pairs.

    Raises:
        TypeError: A value is of the wrong type.
        ValueError: status is out of range; a field is not one (RFC 9110, section 5), holds CR, LF or NUL, or
            is one that the server itself writes.
    """

    status: int = 200
    body: str | bytes = field(default="", repr=False)
    headers: HeaderFields = field(default=(), repr=False)

    def __post_init__(self) -> None:
        self._check(200)

    def _check(self, lowest: int) -> None:
        if isinstance(self.status, bool) or not isinstance(self.status, int):
            raise TypeError(f"status: must be an int, not {self.status!r}")
        if not lowest <= self.status <= 599:
            raise ValueError(f"status: must be from {lowest} to 599, not {self.status}")
        if not isinstance(self.body, str | bytes):
            raise TypeError(f"body: must be str or bytes, not {type(self.body).__name__}")
        object.__setattr__(self, "headers", _checked_fields(self.headers))

    @property
    def is_dated(self) -> bool:
        """Whether the fields given have a Date; where not, the engine writes one (RFC 9110, section 6.6.1)."""
        return any(name.lower() == "date" for name, _ in _pairs(self.headers))

    def encode(self) -> bytes:
        """Return the whole response, head and body, as it goes over the wire, but for the engine's Date."""
        body = self.body.encode() if isinstance(self.body, str) else self.body
        kind = "text/plain; charset=utf-8" if isinstance(self.body, str) else "application/octet-stream"
        fields = list(_pairs(self.headers))
        given = {name.lower() for name, _ in fields}
        # RFC 9110, sections 15.3.5 and 15.4.5: these have no body, and 204 must not say how long it is.
        bodiless = self.status in (HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED)
        if not bodiless:
            if "content-type" not in given:
                fields.append(("Content-Type", kind))
            fields.append(("Content-Length", str(len(body))))
        elif self.status == HTTPStatus.RESET_CONTENT:
            fields.append(("Content-Length", "0"))
        if "cache-control" not in given:
            fields.append(("Cache-Control", "no-store"))
        fields.append(("Connection", "close"))
        head = f"HTTP/1.1 {int(self.status)} {_phrase(self.status)}\r\n".encode()
        return head + _field_lines(fields) + b"\r\n" + (b"" if bodiless else body)


@dataclass(frozen=True)
class Reject(Response):
    """Refuse the upgrade with an HTTP response. As `Response`, but:

    Attributes:
        status: 300 to 599; browsers do not follow a redirection here, other clients may.
        body: Where it is empty, the status in words is sent.
    """

    status: int = 403

    def __post_init__(self) -> None:
        self._check(300)

    def encode(self) -> bytes:
        """Return the whole response, head and body, as it goes over the wire, but for the engine's Date."""
        if self.body:
            return super().encode()
        return Response(self.status, f"{_phrase(self.status) or self.status}\n", self.headers).encode()


Decision: TypeAlias = Accept | Reject | None
"""What a hook or an authenticator decides; None is no objection."""


class Authenticator(Protocol):
    """What `Server.auth` takes: see `unlimitedws.auth` for those there are."""

    def check(self, request: Request) -> Decision | Awaitable[Decision]:
        """Decide about a request; None: it has no opinion. May be a coroutine function."""


class FirstMessage(Protocol):
    """An authenticator's part that decides by a connection's first message: `unlimitedws.auth` has one."""

    @property
    def timeout(self) -> float:
        """Seconds from the handshake to the message."""

    def check_message(self, conn: Any, message: str | bytes) -> Any:
        """Return an `Accept`, None where nobody was recognized, or an awaitable of either."""


def check_key(value: _T, name: str) -> _T:
    """Return value if it can be a key: a user or a session is what connections are found by.

    Raises:
        TypeError: It cannot be hashed.
    """
    try:
        hash(value)
    except TypeError:
        raise TypeError(f"{name}: must be hashable, as an id is: connections are found by it") from None
    return value


def check_expires(value: float | None) -> float | None:
    """Return value if it can be the time at which a credential expires: Unix time in seconds, or None.

    Raises:
        TypeError: It is no number.
        ValueError: It is not finite, or an int beyond every float.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expires: must be Unix time in seconds or None, not {value!r}")
    # Not math.isfinite(), which raises OverflowError for an int that is too long to be a float.
    if not abs(value) <= sys.float_info.max:
        raise ValueError("expires: must be finite")
    return value


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _pairs(fields: HeaderFields) -> tuple[tuple[str, str], ...]:
    return tuple(fields.items() if isinstance(fields, Mapping) else fields)


def _field_lines(fields: Iterable[tuple[str, str]]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields).encode("latin-1")


def _checked_fields(fields: HeaderFields) -> tuple[tuple[str, str], ...]:
    """Return the fields as pairs, each of them one line and no more, and none of them ours."""
    if fields == ():
        return ()
    if isinstance(fields, str | bytes):
        raise TypeError(f"headers: must be a mapping or (name, value) pairs, not {type(fields).__name__}")
    pairs = fields.raw if isinstance(fields, Headers) else _pairs(fields)
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(
                f"headers: must be a mapping or pairs of name and value, not {type(pair).__name__}s"
            )
        name, value = pair
        check_token(name, "headers: a name")
        if not isinstance(value, str):
            raise TypeError(f"headers: the value of {name} must be a str, not {type(value).__name__}")
        # The value is not in the message: it may be a secret, such as a cookie's.
        if not _VALUE.fullmatch(value):
            raise ValueError(
                f"headers: the value of {name} is not one: no CR, LF, NUL or other control character, "
                "no white space at its ends, nothing beyond Latin-1 (RFC 9110, section 5.5)"
            )
        if name.lower() in _OURS or name.lower().startswith(_OURS_PREFIX):
            raise ValueError(f"headers: {name} is for the server to write")
    return tuple(pairs)
