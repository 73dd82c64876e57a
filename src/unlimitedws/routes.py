"""Plain GET beside the sockets: exact paths, and the functions that answer them. Knows no server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from .request import Request, Response

__all__ = ["Answer", "Handler", "Routes", "answer_of"]

Answer: TypeAlias = Response | str | bytes
"""What a handler returns: a `str` is sent as plain text, `bytes` as they are."""

Handler: TypeAlias = Callable[[Request], Answer | Awaitable[Answer]]


class Routes:
    """Paths and their handlers. Thread: any."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def __bool__(self) -> bool:
        return bool(self._handlers)

    def get(self, path: str) -> Handler | None:
        """Return the handler of a path; None: there is none."""
        return self._handlers.get(path)

    def add(self, path: str, handler: Handler) -> None:
        """Let a handler answer a path.

        Raises:
            TypeError: path is no str, or handler cannot be called.
            ValueError: path is not one that a request can have, or has a handler.
        """
        check_path(path)
        if not callable(handler):
            raise TypeError(f"route {path}: must be a function of the request, not {handler!r}")
        if self._handlers.setdefault(path, handler) is not handler:
            raise ValueError(f"route {path}: there is one already")


def check_path(path: object) -> None:
    """Refuse what no request can have for a path.

    Raises:
        TypeError: path is no str.
        ValueError: It does not begin with a slash, has a query or a fragment, or is not as it goes over the wire.
    """
    if not isinstance(path, str):
        raise TypeError(f"route: a path is a str, not {type(path).__name__}")
    if not path.startswith("/") or any(not "!" <= char <= "~" or char in "?#" for char in path):
        raise ValueError(
            f"route: {path!r} is no path: it begins with a slash and is written as it is sent, percent-encoded, "
            "without a query"
        )


def answer_of(result: Any, name: str) -> Response:
    """Return what a handler returned as a response.

    Raises:
        TypeError: It is none, no str and no bytes.
    """
    if isinstance(result, Response):
        return result
    if isinstance(result, str | bytes):
        return Response(body=result)
    raise TypeError(f"{name} must return Response, str or bytes, not {type(result).__name__}")
