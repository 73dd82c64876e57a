"""F6. The types of `_uws.messages`: the messages of a connection, read in its callbacks and written, as in Go."""

from typing_extensions import Buffer

from _uws.conn import Conn
from unlimitedws.fragment import Fragment
from unlimitedws.opcode import OpCode
from unlimitedws.sent import Sent

def read_client_data(conn: Conn) -> tuple[bytes, OpCode]:
    """Read the message `on_read` was called for; called again, wait for the next one.

    Args:
        conn: The connection whose callback is running.

    Where messages are streamed it waits for each piece of it, up to the I/O timeout. One that is longer than
    `max_message_bytes` closes the connection with 1009, and one that a timeout cut is dropped.

    Returns:
        The message's bytes, and `OpCode.TEXT` (then they are valid UTF-8) or `OpCode.BINARY`.

    Raises:
        TimeoutError: A further message was waited for and did not come within the I/O timeout. The connection
            is none the worse: `on_read` gets the message when it comes.
        unlimitedws.ConnectionClosed: The peer has gone, and every message that it sent has been read.
        RuntimeError: Not called in a callback of conn.

    Thread: the one that runs the callback.
    """

def read_client_text(conn: Conn) -> str:
    """Read the next text message, as `read_client_data` does; drop binary messages before it, as Go does.

    Raises:
        TimeoutError, unlimitedws.ConnectionClosed, RuntimeError: As `read_client_data`. The I/O timeout is
            for the whole call, however many messages it drops.
    """

def read_client_binary(conn: Conn) -> bytes:
    """Read the next binary message, as `read_client_data` does; drop text messages before it, as Go does.

    Raises:
        TimeoutError, unlimitedws.ConnectionClosed, RuntimeError: As `read_client_data`. The I/O timeout is
            for the whole call, however many messages it drops.
    """

def begin_message(conn: Conn) -> tuple[int, Fragment]:
    """Begin to read the message that `on_read` was called for; called again, wait for the next one.

    Where messages are streamed it comes piece by piece, elsewhere as one; the rest of a message that was begun
    before is dropped. `unlimitedws.wsutil.open_message` is made of this.

    Returns:
        A number for `next_fragment`, and the first piece.

    Raises:
        TimeoutError, unlimitedws.ConnectionClosed, RuntimeError: As `read_client_data`.
    """

def next_fragment(conn: Conn, reading: int) -> Fragment:
    """Wait for the next piece of the message of that number. The one before was not the last.

    Raises:
        TimeoutError: None came within the I/O timeout. It may be asked for again.
        unlimitedws.ConnectionClosed: The peer has gone in the middle of the message.
        RuntimeError: Not called in a callback of conn, or another message has been begun since.
    """

def write_server_message(conn: Conn, op: int, msg: str | Buffer) -> Sent:
    """Send one message with the opcode given.

    Args:
        conn: Any connection.
        op: `OpCode.TEXT` or `OpCode.BINARY`: a message. `OpCode.PING` or `OpCode.PONG`: a control frame of at
            most 125 bytes. `OpCode.CLOSE`: msg is the close frame's body (two bytes of code, then the reason;
            or nothing), and the close handshake starts.
        msg: Text is sent as UTF-8. Bytes sent as TEXT have to be UTF-8 (RFC 6455, section 5.6).

    Returns:
        As `Conn.send`; `Sent.OK` for CLOSE.

    Raises:
        ValueError: op is none of these, a control frame's payload is longer than 125 bytes, a close frame's
            body is malformed, or bytes sent as TEXT are not UTF-8.
        unlimitedws.ConnectionClosed, TimeoutError, TypeError: As `Conn.send`.

    Thread: any.
    """

def write_server_text(conn: Conn, msg: str | Buffer) -> Sent:
    """`write_server_message` with `OpCode.TEXT`."""

def write_server_binary(conn: Conn, msg: str | Buffer) -> Sent:
    """`write_server_message` with `OpCode.BINARY`."""
