"""Requests and responses as `unlimitedws.aio` shows them: with the names of `websockets`. Knows no connection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from http import HTTPStatus
from typing import Any

from .. import request as plain

__all__ = ["Headers", "Request", "Response", "encodable", "extra_fields"]

# What the engine says itself about where the message ends, and what follows.
_ENGINES = frozenset({"connection", "content-length", "keep-alive", "trailer", "transfer-encoding", "upgrade"})
_ENGINES_PREFIX = "sec-websocket-"


class Headers(MutableMapping[str, str]):
    """Header fields: names in any case; setting one adds a line, deleting one takes all of its lines.

    Reading a field that came more than once gives its values joined with ``", "`` (RFC 9110, section 5.3);
    `get_all` has them apart.

    Args:
        fields: Names and values.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields = list(fields)

    def copy(self) -> Headers:
        """Return the same fields, to be changed by themselves."""
        return Headers(self._fields)

    def raw_items(self) -> Iterator[tuple[str, str]]:
        """Iterate over names and values, in order, line by line."""
        return iter(list(self._fields))

    def get_all(self, name: str) -> list[str]:
        """Return the values of every line of this name; none is an empty list."""
        low = name.lower()
        return [value for key, value in self._fields if key.lower() == low]

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def __setitem__(self, name: str, value: str) -> None:
        self._fields.append((name, value))

    def __delitem__(self, name: str) -> None:
        low = name.lower()
        kept = [field for field in self._fields if field[0].lower() != low]
        if len(kept) == len(self._fields):
            raise KeyError(name)
        self._fields = kept

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(key.lower() == name.lower() for key, _ in self._fields)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key.lower() for key, _ in self._fields))

    def __len__(self) -> int:
        return len({key.lower() for key, _ in self._fields})

    def __repr__(self) -> str:
        # Values may be credentials, and what has a repr ends up in a log.
        return f"<Headers {', '.join(self)}>"


class Request:
    """The upgrade request.

    Attributes:
        path: The target as it was sent, the query included: ``"/chat?room=1"``.
        full: The same as `unlimitedws.Request`, with cookies, parameters, and what trusted proxies say; None
            where it was not kept.
    """

    __slots__ = ("_headers", "full", "path")

    def __init__(self, path: str, full: plain.Request | None = None) -> None:
        self.path = path
        self.full = full
        self._headers: Headers | None = None

    @property
    def headers(self) -> Headers:
        """The header fields.

        Raises:
            RuntimeError: They were not kept.
        """
        if self._headers is None:
            if self.full is None:
                raise RuntimeError(
                    "the request's header fields were not kept: serve(..., keep_request=True) keeps them, and any "
                    "hook of the handshake does; then the handshake waits for Python"
                )
            self._headers = Headers(self.full.headers.raw)
        return self._headers

    def __repr__(self) -> str:
        return f"<Request {self.path.partition('?')[0]}>"


class Response:
    """A response of the handshake, to be changed at will before it is returned.

    Attributes:
        status_code: 101, or 200 to 599.
        reason_phrase: Kept for those who look at it; the engine sends the standard one.
        headers: Its fields. Those that say where the body ends are the engine's.
        body: As it is sent.
    """

    __slots__ = ("body", "headers", "reason_phrase", "status_code")

    def __init__(
        self, status_code: int, reason_phrase: str, headers: Headers | None = None, body: bytes = b""
    ) -> None:
        self.status_code = int(status_code)
        self.reason_phrase = reason_phrase
        self.headers = Headers() if headers is None else headers
        self.body = body

    @classmethod
    def of_text(cls, status: int, text: str) -> Response:
        """Make a response of plain text."""
        number = HTTPStatus(status)
        headers = Headers([("Content-Type", "text/plain; charset=utf-8")])
        return cls(number.value, number.phrase, headers, text.encode())

    def __repr__(self) -> str:
        return f"<Response {self.status_code} {self.reason_phrase}>"


def extra_fields(response: Any) -> list[tuple[str, str]]:
    """Return the fields of a response that are the application's to send."""
    return [
        (name, value)
        for name, value in response.headers.raw_items()
        if name.lower() not in _ENGINES and not name.lower().startswith(_ENGINES_PREFIX)
    ]


def encodable(response: Any, name: str) -> plain.Response:
    """Return what a hook returned as the library's own response.

    Args:
        response: A `Response`, one of `unlimitedws`, or anything with the attributes of `Response`, such as the
            one of `websockets`.
        name: The hook's, for the message.

    Raises:
        TypeError: It is no response.
        ValueError: It cannot be sent as it is.
    """
    if isinstance(response, plain.Response):
        return response
    try:
        status, body, fields = response.status_code, bytes(response.body or b""), extra_fields(response)
    except AttributeError:
        raise TypeError(f"{name} must return a Response or None, not {type(response).__name__}") from None
    return plain.Response(int(status), body, fields)
