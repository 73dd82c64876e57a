"""The helpers of the Go API (gobwas/ws, wsutil): read in a callback, write from anywhere.

All but `open_message` are the engine's own functions: a call more per message would be the dearest thing in the
library.

==========================================  ============================================================
`read_client_data(conn)`                    ``(bytes, OpCode)`` of the message `on_read` was called for;
                                            called again, of the next one
`read_client_text(conn)`                    the next text message as `str`; drops binary ones before it
`read_client_binary(conn)`                  the next binary message; drops text ones before it
`open_message(conn)`                        a file of the next message, to be read while it arrives
`write_server_message(conn, op, msg)`       send one message, or a control frame, of that opcode
`write_server_text(conn, msg)`              send text: `str`, or UTF-8 in bytes
`write_server_binary(conn, msg)`            send bytes
==========================================  ============================================================

Reading a further message waits for it up to `io_timeout`, then raises `TimeoutError`; so does writing while
the send buffer is full, unless the option `overflow` says otherwise. Writing returns a `Sent`, as `Conn.send`
does. Either raises `unlimitedws.ConnectionClosed` when the peer has gone.
"""

from __future__ import annotations

from _uws.messages import (
    read_client_binary,
    read_client_data,
    read_client_text,
    write_server_binary,
    write_server_message,
    write_server_text,
)

from .opcode import OpCode
from .reader import MessageReader, open_message

__all__ = [
    "MessageReader",
    "OpCode",
    "open_message",
    "read_client_binary",
    "read_client_data",
    "read_client_text",
    "write_server_binary",
    "write_server_message",
    "write_server_text",
]
