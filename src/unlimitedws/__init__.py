"""A WebSocket server library for Linux: Go's unlimitedws API on an engine that runs without the GIL.

`Server`, `NewServer` and `DefaultServer` make a server; `Options` has every limit and every time; `wsutil`
has the helpers that callbacks read and write with; `ws` is the frame level, for those who speak it themselves.
The README begins with an example.
"""

from __future__ import annotations

# These six import nothing else of ours and come first: the engine takes them from here.
from .address import Address
from .causes import CloseCause
from .errors import AddressError, ConnectionClosed, ProtocolError, ScheduleTimeoutError, UnlimitedWSError
from .fragment import Fragment
from .opcode import OpCode
from .sent import Sent

# isort: split
from . import ws, wsutil
from .compression import Compression
from .conn import Conn
from .health import health
from .memory import Memory
from .options import Options
from .pool import Pool
from .request import Accept, Authenticator, Cookies, Headers, Reject, Request, Response
from .server import DefaultServer, NewServer, Server

__all__ = [
    "Accept",
    "Address",
    "AddressError",
    "Authenticator",
    "CloseCause",
    "Compression",
    "Conn",
    "ConnectionClosed",
    "Cookies",
    "DefaultServer",
    "Fragment",
    "Headers",
    "Memory",
    "NewServer",
    "OpCode",
    "Options",
    "Pool",
    "ProtocolError",
    "Reject",
    "Request",
    "Response",
    "ScheduleTimeoutError",
    "Sent",
    "Server",
    "UnlimitedWSError",
    "__version__",
    "health",
    "ws",
    "wsutil",
]

__version__ = "0.1.0"
