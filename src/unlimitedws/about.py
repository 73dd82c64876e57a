"""Who is connected: what each connection knows of its user, and the way from a user to the connections.

Connections are found by what the application calls a user and a session. Nothing is kept of those that have
neither. Called by the door, by `Server`, and by the engine when a connection is over; any thread.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from _uws.conn import Conn

from .causes import CloseCause

if TYPE_CHECKING:
    from .request import Accept, FirstMessage

__all__ = ["About", "Roll", "Stranger", "milliseconds_until"]

# As the engine takes it, which adds it to the time of its clock.
_MAX_MS = 2**62


class Stranger:
    """What is to become of a connection that has been let in, and has not said who it is.

    Attributes:
        auth: Who is to check its first message.
        accept: What the handshake's hooks have allowed, which the first message cannot widen.
        until: When it has to be known, by the monotonic clock.
        tried: Whether its first message has been looked at: there is no second one.
    """

    __slots__ = ("accept", "auth", "tried", "until")

    def __init__(self, auth: FirstMessage, accept: Accept) -> None:
        self.auth = auth
        self.accept = accept
        self.until = time.monotonic() + auth.timeout
        self.tried = False


class About:
    """What a connection is kept together with. Its `Conn` reads the first three.

    Attributes:
        user, session: Who it is; None: nobody said.
        request: The upgrade request where the option `keep_request` is on; else None.
        conn: The connection; None before it is open and after it is over. The engine sets it.
        stranger: What its first message is looked at with, while the connection has not said who it is; else None.
        revoked: Close code and reason, once `disconnect` has met it.
    """

    __slots__ = ("_roll", "_settled", "conn", "request", "revoked", "session", "stranger", "user")

    def __init__(self, roll: Roll, user: object = None, session: object = None) -> None:
        self._roll = roll
        self._settled = False
        self.user = user
        self.session = session
        self.request: Any = None
        self.conn: Conn | None = None
        self.stranger: Stranger | None = None
        self.revoked: tuple[int, str] | None = None

    def closed(self, conn: Conn) -> None:
        """The connection is over: forget it. The engine calls this once, after `on_close`."""
        self._roll.drop(self)
        if self.request is not None:
            # A stranger's, with whom it would go round in a circle.
            self.request._newcomer = None


# With what the interpreter adds to an object that its collector watches.
_ABOUT_BYTES = About.__basicsize__ + 16


class Roll:
    """The connections of each user and of each session.

    Args:
        window: Seconds that a decision may take, on a request or on a first message. A user who is disconnected
            while it is made does not get in: who decides may have looked before he was struck off. Nor does
            anybody whose decision took longer: nobody remembers who was disconnected meanwhile.
    """

    def __init__(self, window: float) -> None:
        self.window = window
        # Reentrant: an application's object may go away, and call us, wherever we let go of a reference.
        self._lock = threading.RLock()
        # One is the usual number, and a set for it would be five times the size of the rest.
        self._users: dict[object, About | set[About]] = {}
        self._sessions: dict[object, About | set[About]] = {}
        # When `disconnect` was called for a user and a session, one of them perhaps None; the oldest first.
        self._recent: dict[tuple[object, object], float] = {}

    def __len__(self) -> int:
        """Return how many users and sessions are known, for tests."""
        return len(self._users) + len(self._sessions)

    def memory_bytes(self) -> int:
        """Return about what the tables take, and who is in them: without what the application calls its users."""
        with self._lock:
            # Who has a session mostly has a user.
            count = max(len(self._users), len(self._sessions))
            return sys.getsizeof(self._users) + sys.getsizeof(self._sessions) + count * _ABOUT_BYTES

    def forked(self) -> None:
        """See `Server`; in the child process nobody is connected."""
        self._lock = threading.RLock()

    def widen(self, window: float) -> None:
        """Let decisions that begin from now on take so long, unless they may take longer already."""
        with self._lock:
            self.window = max(self.window, window)

    def admit(self, about: About, since: float) -> bool:
        """Enter somebody who is about to be let in; `drop` follows, at the latest when the connection is over.

        Args:
            about: Who it is.
            since: When the decision on it began, by the monotonic clock.

        Returns:
            False: it was disconnected since, or that is too long ago to know; nothing is entered.
        """
        with self._lock:
            if self._was_revoked(about.user, about.session, since):
                return False
            self._enter(about)
            return True

    def settle(self, about: About) -> None:
        """The connection is open: end it, if it was disconnected on the way from `admit` to here."""
        with self._lock:
            about._settled = True
            revoked, conn = about.revoked, about.conn
        if revoked is not None and conn is not None:
            conn._end(CloseCause.REVOKED, *revoked)

    def drop(self, about: About) -> None:
        """Forget somebody, for good."""
        with self._lock:
            about.conn = None
            self._strike(about)

    def identify(
        self, conn: Conn, user: object, session: object, expires_ms: int, since: float | None = None
    ) -> bool:
        """Let a connection be of somebody from now on.

        Args:
            conn: The connection.
            user, session: Who it is.
            expires_ms: Milliseconds until it is closed; 0: never.
            since: As `admit`; None: whoever was disconnected before this call is let in.

        Returns:
            False: the connection is over, or `admit` would say so. A stranger's is over when nothing of it is to be
            told any more: what its client sent before it left is somebody's.

        Raises:
            ValueError: The connection is entered with another roll, that of another server.
        """
        with self._lock:
            about = conn._about
            if about is not None and about._roll is not self:
                raise ValueError("identify: the connection is another server's")
            if since is not None and self._was_revoked(user, session, since):
                return False
            if about is None:
                about = About(self, user, session)
                about.conn = conn
                about._settled = True
            was_stranger = about.stranger is not None
            if was_stranger and about.conn is None:
                # Its `drop` has been here.
                return False
            if not conn._identify(about, expires_ms, was_stranger):
                return False
            # If it is over by now: its `drop` waits for our lock.
            self._strike(about)
            about.user, about.session, about.stranger = user, session, None
            self._enter(about)
            return True

    def disconnect(self, user: object, session: object, code: int, reason: str) -> int:
        """Close the connections of a user, of a session, or of a user's session. See `Server.disconnect`."""
        now = time.monotonic()
        count = 0
        conns: list[Conn] = []
        with self._lock:
            known = self._sessions.get(session) if user is None else self._users.get(user)
            for about in _each(known):
                if session is not None and about.session != session:
                    continue
                conn = about.conn
                if conn is not None:
                    # Also one that is closing: what is still queued for it is dropped.
                    conns.append(conn)
                if conn is not None and conn.is_open:
                    count += 1
                elif not about._settled and about.revoked is None:
                    # Not open yet: it ends as soon as it is.
                    count += 1
                about.revoked = (code, reason)
            self._remember((user, session), now)
        for conn in conns:
            conn._end(CloseCause.REVOKED, code, reason)
        return count

    def _was_revoked(self, user: object, session: object, since: float) -> bool:
        if since < time.monotonic() - self.window:
            return True
        if not self._recent:
            return False
        whoever = ((user, None), (None, session), (user, session))
        return any(self._recent.get(who, -math.inf) >= since for who in whoever)

    def _remember(self, who: tuple[object, object], now: float) -> None:
        """Keep in mind who was disconnected, for as long as a decision that had begun may take."""
        while self._recent:
            oldest = next(iter(self._recent))
            if self._recent[oldest] >= now - self.window:
                break
            del self._recent[oldest]
        # A new entry goes to the end, an old one would stay in its place.
        self._recent.pop(who, None)
        self._recent[who] = now

    def _enter(self, about: About) -> None:
        for table, key in ((self._users, about.user), (self._sessions, about.session)):
            if key is None:
                continue
            known = table.get(key)
            if known is None:
                table[key] = about
            elif isinstance(known, set):
                known.add(about)
            else:
                table[key] = {known, about}

    def _strike(self, about: About) -> None:
        for table, key in ((self._users, about.user), (self._sessions, about.session)):
            known = None if key is None else table.get(key)
            if isinstance(known, set):
                known.discard(about)
                if len(known) == 1:
                    table[key] = known.pop()
            elif known is about:
                del table[key]


def _each(known: About | set[About] | None) -> Iterator[About]:
    found: Iterable[About] = () if known is None else known if isinstance(known, set) else (known,)
    return iter(found)


def milliseconds_until(expires: float | None, grace: float = 0.0) -> int:
    """Return how long it is until a Unix time plus grace, as the engine takes it; 0 for None.

    What is over ends in a millisecond.
    """
    if expires is None:
        return 0
    return round(min(max((expires + grace - time.time()) * 1e3, 1), _MAX_MS))
