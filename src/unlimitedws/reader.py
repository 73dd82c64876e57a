"""Reading a message while it arrives: `wsutil.open_message`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from _uws.conn import Conn
from _uws.messages import begin_message, next_fragment

from .causes import CloseCause
from .errors import ConnectionClosed
from .opcode import OpCode

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["MessageReader", "open_message"]

_TOO_BIG = 1009


class MessageReader:
    """One message, as a file that is read once: with `read`, or as an iterator over its pieces.

    Made by `open_message`, in a callback; used by the thread that runs it. Whatever of the message is not read
    when the reader is closed, or the callback returns, is dropped as it comes, and nobody waits for it.
    """

    def __init__(self, conn: Conn, max_bytes: int | None) -> None:
        self._conn = conn
        self._room = max_bytes
        self._number, fragment = begin_message(conn)
        self._opcode = fragment.opcode
        self._final = False
        self._closed = False
        self._rest = b""
        self._take(fragment.data, fragment.final)

    @property
    def opcode(self) -> OpCode:
        """`OpCode.TEXT` or `OpCode.BINARY`. All of a text is valid UTF-8; a piece may end within a character."""
        return self._opcode

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._closed

    def read(self, size: int | None = -1, /) -> bytes:
        """Return what there is of the message, at most size bytes; wait only if there is nothing.

        Args:
            size: -1 or None waits for all of the rest, however long it is.

        Returns:
            The bytes; ``b""`` at the end of the message.

        Raises:
            TimeoutError: Nothing came within the I/O timeout. Nothing is lost: `read` may be called again.
            unlimitedws.ConnectionClosed: The peer has gone in the middle of the message, or the message
                exceeds max_bytes.
            RuntimeError: Not in a callback of the connection, or another message has been begun since.
            ValueError: The reader is closed.
        """
        if size is None or size < 0:
            pieces = [self._rest]
            self._rest = b""
            try:
                for piece in self:
                    pieces.append(piece)
            except BaseException:
                # What came before a timeout is there for the next call.
                self._rest = b"".join(pieces)
                raise
            return b"".join(pieces)
        if not size:
            return b""
        piece = self._rest or next(self, b"")
        self._rest = piece[size:]
        return piece[:size]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """Return the next piece as it was received, never an empty one; raises as `read`."""
        if self._closed:
            raise ValueError("the reader is closed")
        while not self._rest:
            if self._final:
                raise StopIteration
            fragment = next_fragment(self._conn, self._number)
            self._take(fragment.data, fragment.final)
        piece, self._rest = self._rest, b""
        return piece

    def _take(self, data: bytes, final: bool) -> None:
        if self._room is not None:
            self._room -= len(data)
            if self._room < 0:
                # As the engine does for limits of its own.
                self._conn._end(CloseCause.LIMIT, _TOO_BIG, "")
                raise ConnectionClosed(_TOO_BIG)
        self._rest = data
        self._final = final

    def close(self) -> None:
        """Let go of the rest of the message. Idempotent."""
        self._closed = True
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_message(conn: Conn, *, max_bytes: int | None = None) -> MessageReader:
    """Open the message that `on_read` was called for; called again, wait for the next one.

    On a server with the option `streaming`, `on_read` is called as soon as a message begins, and this reads it while
    it arrives::

        @server.on_read
        def upload(conn):
            with wsutil.open_message(conn) as message, open(path, "wb") as file:
                shutil.copyfileobj(message, file)

    Elsewhere the message is there already, and comes as one piece. A message that was opened before and not read to
    its end is dropped.

    Args:
        conn: The connection whose callback is running.
        max_bytes: A longer message closes the connection with 1009; None: `max_stream_bytes` is limit enough.

    Raises:
        TimeoutError: A further message was waited for and did not begin within the I/O timeout.
        unlimitedws.ConnectionClosed: The peer has gone and every message has been read, or its first piece is
            longer than max_bytes.
        RuntimeError: Not called in a callback of conn.

    Thread: the one that runs the callback.
    """
    return MessageReader(conn, max_bytes)
