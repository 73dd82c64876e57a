"""The entrance of a server: what `Server` has for deciding who comes in, and for those who are inside.

The part of the API that is not Go's. The decisions themselves are made in `door`, behind every request.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

from _uws.conn import Conn, check_close

from .about import Roll, milliseconds_until
from .door import Rules
from .durations import Duration, seconds
from .gate import Gate
from .hooks import Hook
from .options import Options
from .request import (
    MAX_SUBPROTOCOL_BYTES,
    Authenticator,
    Decision,
    Reject,
    Request,
    check_expires,
    check_key,
    check_token,
)
from .routes import Handler, check_path

if TYPE_CHECKING:
    from .serving import Serving

__all__ = ["Entrance", "HeaderHook", "HostHook", "RequestHook", "check_auth", "check_subprotocols"]

RequestHook: TypeAlias = Callable[[Request], Decision | Awaitable[Decision]]
HostHook: TypeAlias = Callable[[str], Reject | Awaitable[Reject | None] | None]
HeaderHook: TypeAlias = Callable[[str, str], Reject | Awaitable[Reject | None] | None]

H = TypeVar("H", bound=Handler)

_DOOR_HOOKS = ("on_request", "on_host", "on_header")
_CONN_HOOKS = ("on_connect", "on_read", "on_message", "on_fragment", "on_drain", "on_pong", "on_close")
# The engine's: it compares each of them with each that a client offers.
_MAX_SUBPROTOCOLS = 32


def check_auth(authenticator: Authenticator | None) -> Authenticator | None:
    """Return authenticator if it can be that of a server. Raises as `Entrance.auth`."""
    if isinstance(authenticator, type):
        raise TypeError(f"auth: must be an authenticator, not the class {authenticator.__name__}")
    if authenticator is not None and not callable(getattr(authenticator, "check", None)):
        raise TypeError(f"auth: must have a method check(request), which {authenticator!r} has not")
    return authenticator


def check_subprotocols(names: Iterable[str]) -> tuple[str, ...]:
    """Return names if they can be the subprotocols of a server. Raises as `Entrance.subprotocols`."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"subprotocols: must be a list of str, not {names!r}")
    checked = tuple(check_token(name, "subprotocols") for name in names)
    if len(checked) > _MAX_SUBPROTOCOLS:
        raise ValueError(f"subprotocols: at most {_MAX_SUBPROTOCOLS}, not {len(checked)}")
    if len(set(checked)) < len(checked):
        raise ValueError(f"subprotocols: one of {', '.join(checked)} is there twice")
    if any(len(name) > MAX_SUBPROTOCOL_BYTES for name in checked):
        raise ValueError(f"subprotocols: one is longer than {MAX_SUBPROTOCOL_BYTES} bytes")
    return checked


class Entrance:
    """Hooks, authentication, subprotocols and routes. `Server` is one."""

    on_request: Hook[RequestHook] = Hook(may_be_async=True)
    """``on_request(request)``: may this client have a WebSocket? None: yes. `Accept(...)`: yes, and with what.
    `Reject(...)`: no. A plain function or an ``async`` one. It holds up nobody who is inside; after `request_timeout`
    the client gets 503. Raising, and returning anything else, is 500."""

    on_host: Hook[HostHook] = Hook(may_be_async=True)
    """``on_host(host)``: None or `Reject(...)`, for the request's host. Behind `on_request`, as in gobwas."""

    on_header: Hook[HeaderHook] = Hook(may_be_async=True)
    """``on_header(name, value)``: None or `Reject(...)`, for each field in order, but for Host and those of the
    handshake itself. The last one asked, as in gobwas."""

    _lock: threading.RLock
    _hooks: dict[str, Callable[..., Any]]
    _options: Options
    _run: Serving | None

    def __init__(self) -> None:
        self._rules = Rules(self._hooks)
        self._roll = Roll(seconds(self._options.request_timeout, "request_timeout"))

    @property
    def auth(self) -> Authenticator | None:
        """Who is asked first who a client is: see `unlimitedws.auth`; None: nobody.

        Anything with a method ``check(request)``, plain or ``async``, that returns as `on_request` does. None
        leaves the decision to `on_request`; without that hook, the client is let in. What it says of the user
        `on_request` finds in `Request.user`, and may refuse, or add to.

        With a `FirstMessageAuth` a connection has no callback before it has said who it is: neither `on_connect`
        nor, if it never does, `on_close`.

        Raises:
            TypeError: Set to what has no such method.

        Thread: any, at any time; set it before the server starts, or some come in without.
        """
        return self._rules.auth

    @auth.setter
    def auth(self, authenticator: Authenticator | None) -> None:
        checked = check_auth(authenticator)
        with self._lock:
            self._rules.auth = checked
            if self._run is not None:
                self._furnish(self._run)

    @property
    def subprotocols(self) -> list[str]:
        """Subprotocols that the server speaks, the one it likes best first (RFC 6455, section 1.9); none at first.

        The first of them that a client offers is agreed on; where there is none, the client is let in without.
        What `Accept(subprotocol=...)` says wins.

        Raises:
            TypeError: Set to what is no list of `str`.
            ValueError: One of them is no token, longer than 255 bytes, or there twice; or they are more than 32.

        Thread: any, at any time.
        """
        return list(self._rules.subprotocols)

    @subprotocols.setter
    def subprotocols(self, names: Iterable[str]) -> None:
        checked = check_subprotocols(names)
        with self._lock:
            self._rules.subprotocols = checked
            if self._run is not None:
                self._furnish(self._run)

    @overload
    def route(self, path: str, handler: H) -> H: ...
    @overload
    def route(self, path: str, handler: None = None) -> Callable[[H], H]: ...
    def route(self, path: str, handler: H | None = None) -> H | Callable[[H], H]:
        """Answer an ordinary ``GET`` of a path: ``server.route("/healthz", lambda request: "ok")``.

        Also a decorator: ``@server.route("/healthz")``. For what a socket server has to say beside its sockets;
        paths are compared whole, other methods get 405, and the connection is closed behind the answer.

        Args:
            path: Such as ``"/healthz"``, as it is sent: percent-encoded, without a query.
            handler: Called with the `Request`; returns a `Response`, a `str` (plain text) or `bytes`. A plain
                function or an ``async`` one; its time and its errors are as those of `on_request`.

        Raises:
            TypeError: path or handler is of the wrong type.
            ValueError: path is not one that a request can have, or has a handler already, or it is that of the option
                `page`.

        Thread: any, at any time.
        """
        check_path(path)
        if handler is None:
            return lambda func: self.route(path, func)
        with self._lock:
            if path == "/" and self._options.page is not None:
                raise ValueError("route /: the option page answers it")
            self._rules.routes.add(path, handler)
            if self._run is not None:
                self._furnish(self._run)
        return handler

    def identify(
        self,
        conn: Conn,
        *,
        user: Any,
        session: Any = None,
        expires: float | None = None,
        grace: Duration = 0.0,
    ) -> bool:
        """Say who a connection belongs to: at first, or anew, with a credential that has been renewed.

        Sets `conn.user` and `conn.session`, ends the deadline of ``Accept(authenticated=False)``, and puts the
        new expiry in the place of the old one.

        Args:
            conn: One of this server's.
            user: Hashable, an id; what `disconnect` finds it by.
            session: One of several logins of a user; hashable.
            expires: Unix time, in seconds, at which it is closed with 3000; None: never.
            grace: Seconds or a `timedelta` beyond that, for the client to come up with a new credential.

        Returns:
            False: the connection is closed already, or about to be.

        Raises:
            TypeError, ValueError: user is None or cannot be hashed; expires or grace is no time; conn is another
                server's.

        Thread: any.
        """
        if user is None:
            raise ValueError("identify: user is None, and that is nobody")
        check_key(user, "user")
        check_key(session, "session")
        ends_ms = milliseconds_until(check_expires(expires), seconds(grace, "grace"))
        run = self._run
        if conn.is_open and (run is None or not run.has(conn)):
            raise ValueError("identify: the connection is another server's")
        return self._roll.identify(conn, user, session, ends_ms)

    def disconnect(self, *, user: Any = None, session: Any = None, code: int = 3000, reason: str = "") -> int:
        """Close every connection of a user, of a session, or, where both are given, of that session of the user.

        First take the credential out of force, then call this: whoever is being decided on meanwhile does not get
        in either, though the decision may have looked at what was in force before.

        What was sent before leaves as far as the kernel takes it at once, and a message that has begun to leave is
        finished. What else waits for a peer that does not read is dropped, as is what it sent and no callback has seen;
        then comes the close frame, and all of it takes `close_timeout` at most. Connections that are closing already
        lose their queue as well, until their `on_close`.

        Args:
            user, session: As `Accept` or `identify` said; equality counts. At least one.
            code: Close code, 3000 ("unauthorized") by default.
            reason: At most 123 bytes as UTF-8.

        Returns:
            How many connections it was that were open, or about to be.

        Raises:
            TypeError: Neither user nor session is given, or one cannot be hashed.
            ValueError: code may not be sent, or reason is too long.

        Thread: any.
        """
        if user is None and session is None:
            raise TypeError("disconnect: whom? Neither user nor session is given")
        check_key(user, "user")
        check_key(session, "session")
        check_close(code, reason)
        return self._roll.disconnect(user, session, code, reason)

    # Inside

    def _furnish(self, run: Serving) -> None:
        """Tell the loops what to ask, and whom to call. Called when that changes; the lock is held."""
        rules, door = self._rules, run.door
        asked = (
            rules.auth is not None or self._options.keep_request or any(n in self._hooks for n in _DOOR_HOOKS)
        )
        if getattr(rules.auth, "first_message", None) is not None and door.gate is None:
            # It stays for the rest of the run: some may be strangers for as long as that.
            door.gate = Gate(self._hooks, self._roll, door.helpers)
        for loop in run.loops:
            for name in _CONN_HOOKS:
                loop.set_hook(name, self._hooks.get(name) if door.gate is None else door.gate.callback(name))
            loop.set_hook("on_recall", None if door.gate is None else door.gate.on_recall)
            loop.set_subprotocols([name.encode() for name in rules.subprotocols])
            loop.set_hook("on_request", door.on_request if asked else None)
            loop.set_hook("on_route", door.on_route if rules.routes else None)
