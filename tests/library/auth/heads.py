"""Requests for the tests of authentication: real ones, made of the text that a client sends."""

from __future__ import annotations

import asyncio
import inspect
import json
from base64 import urlsafe_b64encode
from typing import Any

from unlimitedws import Address
from unlimitedws.auth import Authenticator
from unlimitedws.request import Accept, Reject, Request

PEER = Address("192.0.2.7", 50123)
LOCAL = Address("192.0.2.1", 8000)


def request(
    *fields: tuple[str, str],
    target: str = "/chat",
    host: str = "ws.example.com",
    origin: str | None = None,
    is_secure: bool = False,
) -> Request:
    """Return a request with these fields beside those that every upgrade has."""
    lines = [f"GET {target} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13"]
    if origin is not None:
        lines.append(f"Origin: {origin}")
    lines += [f"{name}: {value}" for name, value in fields]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return Request(head, PEER, LOCAL, is_secure=is_secure)


def decide(authenticator: Authenticator, asked: Request) -> Accept | Reject:
    """Return the decision, wherever it is made."""
    decision: Any = authenticator.check(asked)
    if inspect.isawaitable(decision):

        async def wait() -> Any:
            return await decision

        decision = asyncio.run(wait())
    assert isinstance(decision, Accept | Reject)
    return decision


def rejected(authenticator: Authenticator, asked: Request) -> int:
    """Assert that a request is refused, and that the body is nothing but the status in words; return it."""
    decision = decide(authenticator, asked)
    assert isinstance(decision, Reject), decision
    assert decision.body == ""
    return decision.status


def accepted(authenticator: Authenticator, asked: Request) -> Accept:
    """Assert that a request is accepted, and return the answer."""
    decision = decide(authenticator, asked)
    assert isinstance(decision, Accept), decision
    return decision


def segment(value: Any) -> str:
    """Encode one part of a JSON Web Token; bytes and `str` as they are."""
    if isinstance(value, str):
        value = value.encode()
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
