"""Stands before the callbacks while a connection has not said who it is: its first message has to.

Only where the server's authenticator wants that; elsewhere the engine calls the application's hooks themselves.
Called by the engine in their place.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable, iscoroutine
from queue import SimpleQueue
from typing import Any, TypeAlias

from _uws.conn import Conn
from _uws.messages import read_client_data

from .about import About, Roll, milliseconds_until
from .causes import CloseCause
from .fragment import Fragment
from .helpers import Helpers
from .opcode import OpCode
from .request import Accept

__all__ = ["Gate"]

logger = logging.getLogger("unlimitedws")

_TOO_BIG = 1009
_UNAUTHENTICATED = 3000
_MESSAGE_HOOKS = ("on_fragment", "on_message", "on_read")

_Outcome: TypeAlias = tuple[Any, "BaseException | None"]


class Gate:
    """The callbacks of a server whose connections begin as strangers.

    A stranger has no callback at all: `on_connect` runs when it is somebody, and `on_close` only then. So the
    application never sees a connection whose user it cannot ask for.

    Args:
        hooks: The application's, by name; looked at anew for each call.
        roll: Where those who are recognized are entered.
        helpers: For verifiers that are coroutine functions.
    """

    def __init__(self, hooks: Mapping[str, Callable[..., object]], roll: Roll, helpers: Helpers) -> None:
        self._hooks = hooks
        self._roll = roll
        self._helpers = helpers
        self._shut = False
        # Those whose verifier is awaited. A SimpleQueue may be put to in a signal handler, an Event not.
        self._waiting: set[SimpleQueue[_Outcome]] = set()

    def shut(self) -> None:
        """The server stops: nobody is awaited any more. Takes no lock, as signal handlers call it. Thread: any."""
        self._shut = True
        for outcome in tuple(self._waiting):
            outcome.put((None, None))

    def callback(self, name: str) -> Callable[..., object] | None:
        """Return what the engine is to call for a hook; None: nothing.

        Without a hook for messages there still is one, which they are waited for with.
        """
        if name == "on_message" and not any(n in self._hooks for n in _MESSAGE_HOOKS):
            return self.on_message
        callback: Callable[..., object] = getattr(self, name)
        return callback if name in self._hooks else None

    def on_connect(self, conn: Conn) -> None:
        """A connection is open."""
        if _stranger(conn) is None:
            self._run("on_connect", conn)

    def on_message(self, conn: Conn, message: str | bytes) -> None:
        """A message has come, where the application has `on_message`, or nothing for messages."""
        about = _stranger(conn)
        if about is None:
            self._run("on_message", conn, message)
        else:
            self._recognize(conn, about, message)

    def on_read(self, conn: Conn) -> None:
        """A message has come, where the application has `on_read`."""
        about = _stranger(conn)
        if about is None:
            self._run("on_read", conn)
        else:
            message, opcode = read_client_data(conn)
            self._recognize(conn, about, message.decode() if opcode == OpCode.TEXT else message)

    def on_fragment(self, conn: Conn, fragment: Fragment) -> None:
        """A piece of a message has come, where the application has `on_fragment`."""
        about = _stranger(conn)
        if about is None:
            self._run("on_fragment", conn, fragment)
        else:
            # The engine does not stream what a stranger sends: this is the whole message.
            data = fragment.data
            self._recognize(conn, about, data.decode() if fragment.opcode == OpCode.TEXT else data)

    def on_pong(self, conn: Conn, payload: bytes) -> None:
        """A pong has come; the engine tells of none before its sender is known."""
        self._run("on_pong", conn, payload)

    def on_drain(self, conn: Conn) -> None:
        """What was sent to a connection has left."""
        if _stranger(conn) is None:
            self._run("on_drain", conn)

    def on_close(self, conn: Conn) -> None:
        """A connection is over."""
        if _stranger(conn) is None:
            self._run("on_close", conn)

    def _run(self, name: str, *args: object) -> None:
        hook = self._hooks.get(name)
        if hook is not None:
            hook(*args)

    def _recognize(self, conn: Conn, about: About, message: str | bytes) -> None:
        # Not whether it is open: a peer may close right behind what it says, and is answered all the same.
        if about.tried:
            # It has been refused, and sends on.
            return
        about.tried = True
        since = time.monotonic()
        most = getattr(about.stranger, "max_bytes", None)
        if most is not None and len(message) > most:
            conn._end(CloseCause.LIMIT, _TOO_BIG, "")
            return
        accept = about.stranger.check_message(conn, message)
        if isawaitable(accept):
            accept = self._wait(accept, about.stranger.timeout)
        if accept is None:
            if self._shut:
                # Not refused, but interrupted: it gets the close frame of all the others.
                return
            conn._end(CloseCause.UNAUTHENTICATED, _UNAUTHENTICATED, "")
            return
        if not isinstance(accept, Accept):
            raise TypeError(f"check_message must return Accept or None, not {type(accept).__name__}")
        ends_ms = milliseconds_until(accept.expires)
        if self._roll.identify(conn, accept.user, accept.session, ends_ms, since):
            self._run("on_connect", conn)
        else:
            # Disconnected by the application meanwhile; where it is closed already, this changes nothing.
            conn._end(CloseCause.REVOKED, _UNAUTHENTICATED, "")

    def _wait(self, work: Awaitable[Any], limit: float) -> Any:
        """Return what is awaited; None where it takes too long, or the server stops.

        Its next messages have to wait for it, and they do behind this thread.
        """
        outcome: SimpleQueue[_Outcome] = SimpleQueue()
        begun = False

        def begin() -> Awaitable[Any]:
            nonlocal begun
            begun = True
            return work

        def finish(result: object, error: BaseException | None) -> None:
            # It may have been cancelled before its first step; asyncio complains of a coroutine that nobody awaits.
            if not begun and iscoroutine(work):
                work.close()
            outcome.put((result, error))

        self._waiting.add(outcome)
        try:
            if self._shut or not self._helpers.submit_async(begin, limit, finish, lambda: not self._shut):
                finish(None, None)
            result, error = outcome.get()
        finally:
            self._waiting.discard(outcome)
        from .coroutines import Late

        if isinstance(error, Late):
            logger.info("a first message was not verified within %g s", limit)
            return None
        try:
            if error is not None:
                raise error
        finally:
            del error
        return result


def _stranger(conn: Conn) -> About | None:
    about: About | None = conn._about
    return None if about is None or about.stranger is None else about
