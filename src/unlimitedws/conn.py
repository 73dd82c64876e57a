"""The connection as callbacks see it: `Conn` is the engine's; its documentation is in `_uws/core.pyi`."""

from __future__ import annotations

from _uws.core import Conn

__all__ = ["Conn"]
