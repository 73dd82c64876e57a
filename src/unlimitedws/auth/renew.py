"""Let a connection live on with a new credential, before the old one expires."""

from __future__ import annotations

from typing import Protocol

from _uws.conn import Conn

from ..durations import Duration, seconds
from .authenticator import accepted, has_expired, logger
from .identity import Identity

__all__ = ["renew"]


class _Server(Protocol):
    def identify(self, conn: Conn, *, user: object, session: object, expires: float | None) -> bool: ...


def renew(server: _Server, conn: Conn, identity: Identity | None, *, grace: Duration = 0.0) -> bool:
    """Give a connection the expiry of a new credential, if that is its user's. For a callback.

    How the client sends it is the application's protocol; ``renew(server, conn, verify(token))`` takes what
    the verifier says. A connection never changes hands: what is queued and subscribed on it is the old
    user's. Its session stays where the identity names none; its expiry is the new credential's, whatever it was before.

    Args:
        server: The connection's.
        conn: The connection.
        identity: What the verifier returned; None is refused.
        grace: As that of the authenticator.

    Returns:
        Whether it was renewed. If not, the connection, if it is open, goes on until its old credential expires.

    Thread: any.
    """
    if identity is None:
        why = "the verifier does not know the credential"
    elif identity.user != conn.user:
        why = f"the credential is of {identity.user!r}, the connection of {conn.user!r}"
    elif has_expired(identity):
        why = f"the credential of {identity.user!r} has expired"
    else:
        accept = accepted(identity, seconds(grace, "grace"))
        # What ended with the session is to end with it, whoever gave it its name.
        session = conn.session if accept.session is None else accept.session
        return server.identify(conn, user=accept.user, session=session, expires=accept.expires)
    logger.info("not renewed %s: %s", conn.remote_addr, why)
    return False
