"""Take tickets out of an address before it is logged."""

from __future__ import annotations

from urllib.parse import unquote_plus

__all__ = ["redact"]


def redact(target: str, *params: str) -> str:
    """Return a request target with the values of some parameters replaced, for the application's own log.

    Args:
        target: As `request.target`, or any URL.
        *params: Their names, in any case; ``ticket`` where none is given. A name in the target is found
            however it is percent-encoded.
    """
    names = {name.casefold() for name in params or ("ticket",)}
    path, mark, query = target.partition("?")
    pairs = []
    for pair in query.split("&"):
        name, equals, _ = pair.partition("=")
        hide = equals and unquote_plus(name).casefold() in names
        pairs.append(f"{name}=***" if hide else pair)
    return path + mark + "&".join(pairs)
