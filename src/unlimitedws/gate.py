"""Stands before the callbacks while a connection has not said who it is: its first message has to.

Only where the server's authenticator wants that; elsewhere the engine calls the application's hooks themselves.
Called by the engine in their place.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any

from _uws.conn import Conn
from _uws.messages import read_client_data

from .about import About, Roll, Stranger, milliseconds_until
from .causes import CloseCause
from .fragment import Fragment
from .helpers import Helpers
from .opcode import OpCode
from .request import Accept

__all__ = ["Gate"]

logger = logging.getLogger("unlimitedws")

_TOO_BIG = 1009
_TRY_AGAIN_LATER = 1013
_UNAUTHENTICATED = 3000
_MESSAGE_HOOKS = ("on_fragment", "on_message", "on_read")


class _Attempt:
    """A stranger's first message, while its verifier is awaited.

    Attributes:
        stranger: Whose it is.
        since: When it came, by the monotonic clock.
        result, error: What came of it; neither, where the server stopped first.
    """

    __slots__ = ("conn", "error", "result", "since", "stranger")

    def __init__(self, conn: Conn, stranger: Stranger, since: float) -> None:
        self.conn = conn
        self.stranger = stranger
        self.since = since
        self.result: Any = None
        self.error: BaseException | None = None


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
        # Each is recalled once, by whoever comes first.
        self._attempts: dict[About, _Attempt] = {}

    def shut(self) -> None:
        """The server stops: nobody is awaited any more. Takes no lock, as signal handlers call it. Thread: any."""
        self._shut = True
        # A list of them is made in one step, also without a GIL.
        for attempt in list(self._attempts.values()):
            attempt.conn._recall()

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
        stranger = about.stranger
        if stranger is None or stranger.tried:
            # It has been refused, and sends on.
            return
        stranger.tried = True
        since = time.monotonic()
        most = getattr(stranger.auth, "max_bytes", None)
        if most is not None and _len_bytes(message) > most:
            conn._end(CloseCause.LIMIT, _TOO_BIG, "")
            return
        said = stranger.auth.check_message(conn, message)
        if isawaitable(said):
            self._await(conn, about, stranger, said, since)
        else:
            self._decide(conn, stranger, said, since)

    def _await(
        self, conn: Conn, about: About, stranger: Stranger, work: Awaitable[Any], since: float
    ) -> None:
        """Go on in `on_recall`, when it is known what comes of work, or nobody wants to know.

        Its next messages wait for that, and so does its end. No thread does.
        """
        from .coroutines import Given

        attempt = _Attempt(conn, stranger, since)
        given = Given(work)

        def wanted() -> bool:
            return not self._shut and conn._is_awaited()

        def finish(result: object, error: BaseException | None) -> None:
            given.drop()
            attempt.result, attempt.error = result, error
            conn._recall()

        try:
            if not conn._suspend():
                # It has been ended meanwhile, and nothing that it sent counts any more.
                finish(None, None)
                return
        except MemoryError:
            finish(None, None)
            raise
        self._attempts[about] = attempt
        try:
            if self._shut:
                finish(None, None)
            elif not self._helpers.submit_async(given, max(stranger.until - since, 0.0), finish, wanted):
                # Too many are awaited.
                conn._end(CloseCause.LIMIT, _TRY_AGAIN_LATER, "")
                finish(None, None)
        except BaseException as exc:
            finish(None, exc)

    def on_recall(self, conn: Conn) -> None:
        """A verifier has been awaited: go on where its message had come."""
        from .coroutines import Late

        about = conn._about
        attempt = self._attempts.pop(about, None)
        if attempt is None or about.stranger is None:
            return
        stranger = attempt.stranger
        error, attempt.error = attempt.error, None
        try:
            if error is not None:
                if not isinstance(error, Late):
                    raise error
                if time.monotonic() < stranger.until:
                    # Nobody wants to know any more: the server stops, or the connection is over. That is no verdict,
                    # and whatever it was has a close code of its own.
                    return
                logger.info("a first message was not verified within %g s", stranger.auth.timeout)
        finally:
            # The traceback holds this frame, and the frame would hold the exception.
            del error
        self._decide(conn, stranger, attempt.result, attempt.since)

    def _decide(self, conn: Conn, stranger: Stranger, said: object, since: float) -> None:
        """It is known what the verifier says."""
        if said is None:
            if self._shut:
                # Not refused, but interrupted: it gets the close frame of all the others.
                return
            conn._end(CloseCause.UNAUTHENTICATED, _UNAUTHENTICATED, "")
            return
        if not isinstance(said, Accept):
            raise TypeError(f"check_message must return Accept or None, not {type(said).__name__}")
        accept = stranger.accept.joined(said)
        if accept.expires is not None and accept.expires <= time.time():
            logger.info("closing %s with 3000: what on_request allowed has expired", conn.remote_addr)
            conn._end(CloseCause.UNAUTHENTICATED, _UNAUTHENTICATED, "")
            return
        ends_ms = milliseconds_until(accept.expires)
        if self._roll.identify(conn, accept.user, accept.session, ends_ms, since):
            self._run("on_connect", conn)
        else:
            # Disconnected by the application meanwhile; where it is closed already, this changes nothing.
            conn._end(CloseCause.REVOKED, _UNAUTHENTICATED, "")


def _len_bytes(message: str | bytes) -> int:
    return len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())


def _stranger(conn: Conn) -> About | None:
    about: About | None = conn._about
    return None if about is None or about.stranger is None else about
