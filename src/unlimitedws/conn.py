"""The connection as callbacks see it: `Conn` is the engine's; its documentation is in `_uws/conn.pyi`."""

from __future__ import annotations

from _uws.conn import Conn

__all__ = ["Conn"]
