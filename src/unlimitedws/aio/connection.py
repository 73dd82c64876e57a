"""One connection as a task sees it. The engine's callbacks come in here, on the event loop's own thread.

Made by `server`. What the engine delivers waits in a queue of the connection until somebody receives it; above
`max_queue` the connection is paused, and what follows waits in the engine, then in the kernel, then at the client.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from _uws.conn import Conn

from ..errors import ConnectionClosed as _Closed
from ..opcode import OpCode
from ..sent import Sent
from ..wsutil import write_server_message, write_server_text
from .closed import Close, ConcurrencyError, ConnectionClosed, ConnectionClosedOK, State, closed_by
from .http import Request, Response

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer, Self

    from .server import Server

__all__ = ["Data", "ServerConnection", "broadcast"]

Data: TypeAlias = "str | bytes"
DataLike: TypeAlias = "str | Buffer"

_INVALID_DATA = 1007
_INTERNAL_ERROR = 1011
_PING_BYTES = 4


class ServerConnection:
    """A connection of a `Server`. Any attribute may be set on it.

    ``async for message in connection`` receives until the connection is closed; it ends quietly after 1000, 1001
    or no code, and raises `ConnectionClosedError` after anything else.

    Attributes:
        server: Whose it is.
        loop: On which it lives. Everything here is for its thread only, except where `conn` is used directly.
        request: The upgrade request; its header fields only where they were kept (`Request.headers`).
        response: As `process_response` left it; None where there is none.
        id: A random UUID, for logs.
        latency: Seconds that the pong took which came last, of those that `ping` asked for; 0.0 before.

    Thread: the event loop's.
    """

    request: Request
    response: Response | None = None
    latency: float = 0.0
    username: str

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.loop = loop
        self._conn: Conn | None = None
        self._id: uuid.UUID | None = None
        # Receiving. Whoever waits has a future here; it is taken out by whoever completes it.
        self._messages: deque[Data] = deque()
        self._getter: asyncio.Future[None] | None = None
        self._receiving = False
        self._paused = False
        # Sending: while the queue is above the high mark, what those wait for who want to send.
        self._is_high = False
        self._drained: asyncio.Future[None] | None = None
        self._said: Close | None = None
        # Payloads on their way, the oldest first.
        self._pings: dict[bytes, tuple[asyncio.Future[float], float]] | None = None
        self._end: ConnectionClosed | None = None
        self._over: asyncio.Future[None] | None = None

    # What it is

    @property
    def conn(self) -> Conn:
        """The engine's own connection: for sending from other threads, and for what is only there.

        Raises:
            RuntimeError: The handshake is not over.
        """
        if self._conn is None:
            raise RuntimeError("the connection is not open yet")
        return self._conn

    @property
    def id(self) -> uuid.UUID:
        """A random UUID, the same for as long as the connection lives."""
        if self._id is None:
            self._id = uuid.uuid4()
        return self._id

    @property
    def logger(self) -> logging.LoggerAdapter[Any] | logging.Logger:
        """The server's logger; its records have this connection as ``websocket``."""
        return logging.LoggerAdapter(self.server.logger, {"websocket": self})

    @property
    def path(self) -> str:
        """The target of the request as it was sent, the query included."""
        return self.request.path

    @property
    def remote_address(self) -> Any:
        """The client: an `Address`, which is the tuple (host, port). Behind trusted proxies, whom they name."""
        if self._conn is None:
            return self.request.full and self.request.full.remote_addr
        return self._conn.remote_addr

    @property
    def local_address(self) -> Any:
        """Our end, likewise."""
        if self._conn is None:
            return self.request.full and self.request.full.local_addr
        return self._conn.local_addr

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on; None: none."""
        return None if self._conn is None else self._conn.subprotocol

    # Any attribute may be set, so these, too: a hook of the handshake that was written for `websockets` may say who it
    # is in the connection's `user`.

    @property
    def user(self) -> Any:
        """Who it is: `Conn.user`, which is what `auth`, `Accept` or `Server.identify` said; None: nobody said.

        A program may set it; then it is that. What `Server.disconnect` goes by is `Conn.user` all the same.
        """
        return self._known("user")

    @user.setter
    def user(self, user: Any) -> None:
        vars(self)["user"] = user

    @property
    def session(self) -> Any:
        """The user's session: `Conn.session`, likewise."""
        return self._known("session")

    @session.setter
    def session(self, session: Any) -> None:
        vars(self)["session"] = session

    @property
    def state(self) -> State:
        """Where it is in its life."""
        if self._conn is None:
            return State.CONNECTING
        if self._end is not None:
            return State.CLOSED
        return State.OPEN if self._said is None and self._conn.is_open else State.CLOSING

    @property
    def close_code(self) -> int | None:
        """Why it was closed: the peer's code, 1005 where its close frame had none; 1006 where there was no close
        frame; where we failed it, ours. None while it is open."""
        return None if self._end is None else self._end.code

    @property
    def close_reason(self) -> str | None:
        """The text that came with `close_code`. None while it is open."""
        return None if self._end is None else self._end.reason

    def __repr__(self) -> str:
        return f"<unlimitedws.aio.ServerConnection {self.remote_address} {self.state.name}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close: with 1000, or with 1011 where an exception is on its way."""
        await self.close(1000 if kind is None else _INTERNAL_ERROR)

    # Receiving

    @overload
    async def recv(self, decode: Literal[True]) -> str: ...
    @overload
    async def recv(self, decode: Literal[False]) -> bytes: ...
    @overload
    async def recv(self, decode: bool | None = None) -> Data: ...
    async def recv(self, decode: bool | None = None) -> Data:
        """Receive the next message: `str` for text, `bytes` for binary.

        Cancelled while it waits, it takes no message along: the next call has it.

        Args:
            decode: True: `str` in any case; a binary message that is not UTF-8 closes the connection with 1007.
                False: `bytes` in any case.

        Raises:
            ConnectionClosedOK, ConnectionClosedError: It is closed, and all that came before has been received.
            ConcurrencyError: Another task waits for the next message already.
        """
        messages = self._messages
        if not messages:
            await self._arrival()
        elif self._receiving:
            # What has come is for the one who has been waiting for it.
            raise ConcurrencyError("another task is receiving from this connection already")
        message = messages.popleft()
        if self._paused and len(messages) <= self.server.low_queue:
            self._paused = False
            self.conn.resume()
        if decode is None:
            return message
        if decode:
            return message if isinstance(message, str) else self._decoded(message)
        return message.encode() if isinstance(message, str) else message

    async def recv_streaming(self, decode: bool | None = None) -> Any:
        """Receive the next message as an asynchronous iterator of its pieces: there is one, the message.

        For programs that are written for `websockets`. The engine puts messages together; for those that are longer
        than memory should hold there is `Server.on_fragment` of `unlimitedws`.
        """
        yield await self.recv(decode)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Data:
        messages = self._messages
        if not messages or self._paused or self._receiving:
            try:
                return await self.recv()
            except ConnectionClosedOK:
                raise StopAsyncIteration from None
        return messages.popleft()

    async def _arrival(self) -> None:
        """Wait until there is a message."""
        if self._receiving:
            raise ConcurrencyError("another task is receiving from this connection already")
        messages = self._messages
        self._receiving = True
        try:
            while not messages:
                if self._end is not None:
                    raise self._gone()
                self._getter = getter = self.loop.create_future()
                await getter
        finally:
            self._receiving = False
            self._getter = None

    def _decoded(self, message: bytes) -> str:
        try:
            return message.decode()
        except UnicodeDecodeError:
            self._close(_INVALID_DATA, "not UTF-8")
            raise

    # Sending

    async def send(
        self,
        message: DataLike | Iterable[DataLike] | AsyncIterable[DataLike],
        text: bool | None = None,
    ) -> Sent:
        """Send a message: `str` as text, anything like `bytes` as binary.

        Waits only while what was sent before is above the high mark and the client does not take it. So when it
        returns the message is on its way, and when it is cancelled it is not. Several tasks may send at once.

        Args:
            message: Or an iterable, plain or asynchronous, of pieces of one message, all of one kind. They are sent
                together, when the last one is there; none at all send nothing.
            text: True: send bytes as text; they have to be UTF-8. False: send a `str` as binary.

        Returns:
            As `Conn.send`: with the option `overflow` messages may be dropped, and this says so.

        Raises:
            ConnectionClosedOK, ConnectionClosedError: It is closed.
            TypeError: message, or a piece of it, is neither text nor bytes, or the pieces are of both kinds.
            ValueError: Bytes that are to be text are not UTF-8.
        """
        if not isinstance(message, str | bytes | bytearray | memoryview):
            whole = await _joined(message)
            if whole is None:
                return Sent.OK
            message = whole
        while self._is_high and self._end is None:
            await self._drain()
        try:
            sent = self._write(message, text)
            if sent is Sent.HIGH:
                self._is_high = True
            return sent
        except _Closed:
            # The close handshake is under way. How it ended is known when it has.
            await self.wait_closed()
            raise self._gone() from None

    def _write(self, message: DataLike, text: bool | None) -> Sent:
        conn = self.conn
        if text is None or text is isinstance(message, str):
            return conn.send(message)
        if isinstance(message, str):
            return conn.send(message.encode())
        return write_server_text(conn, message)

    async def _drain(self) -> None:
        """Wait for the low mark, or the end."""
        waiter = self._drained
        if waiter is None:
            self._drained = waiter = self.loop.create_future()
        # Several may wait, and one that is cancelled must not take it from the others.
        await asyncio.shield(waiter)

    async def ping(self, data: DataLike | None = None) -> Awaitable[float]:
        """Send a ping, and return what is to be awaited for its pong: it gives the seconds that took.

        ``latency = await (await connection.ping())``. The server's own pings (`ping_interval`) go on by themselves.

        Args:
            data: At most 125 bytes, or as much text; None: some of our own.

        Raises:
            ConnectionClosedOK, ConnectionClosedError: It is closed.
            ConcurrencyError: A pong with this data is being waited for already.
        """
        pings = self._pings
        if pings is None:
            pings = self._pings = {}
            self.server.hear_pongs()
        if data is None:
            payload = os.urandom(_PING_BYTES)
            while payload in pings:
                payload = os.urandom(_PING_BYTES)
        else:
            payload = data.encode() if isinstance(data, str) else bytes(data)
            if payload in pings:
                raise ConcurrencyError("a pong with the same data is being waited for already")
        try:
            self.conn.ping(payload)
        except _Closed:
            await self.wait_closed()
            raise self._gone() from None
        waiter = self.loop.create_future()
        pings[payload] = (waiter, time.monotonic())
        return waiter

    async def pong(self, data: DataLike = b"") -> None:
        """Send a pong that nobody asked for. Pings are answered without this.

        Raises:
            ConnectionClosedOK, ConnectionClosedError: It is closed.
        """
        try:
            write_server_message(self.conn, OpCode.PONG, data)
        except _Closed:
            await self.wait_closed()
            raise self._gone() from None

    # The end

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close: say so to the client, and wait until the connection has ended. Closed already: nothing.

        What came and has not been received yet stays to be received. Cancelled, it closes all the same.

        Args:
            code: 1000 to 1003, 1007 to 1014, 3000 to 4999.
            reason: At most 123 bytes as UTF-8.

        Raises:
            ValueError: code may not be sent, or reason is too long.
        """
        self._close(code, reason)
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended."""
        if self._end is None and self._conn is not None:
            if self._over is None:
                self._over = self.loop.create_future()
            await asyncio.shield(self._over)

    def respond(self, status: int, text: str) -> Response:
        """Make a response of plain text, for `process_request` and `process_response` to return."""
        return Response.of_text(status, text)

    # Inside, for the server

    def _close(self, code: int, reason: str) -> None:
        """Begin to close, if that has not begun."""
        conn = self._conn
        if conn is None or self._end is not None or self._said is not None:
            return
        is_open = conn.is_open
        conn.close(code, reason)
        if is_open:
            self._said = Close(code, reason)

    def _known(self, name: str) -> Any:
        """What the program has set as an attribute of this name; else what the engine's connection has."""
        own = vars(self)
        if name in own:
            return own[name]
        # An authenticator has said so before there is a connection, when `process_response` is asked.
        return getattr(self.request.full if self._conn is None else self._conn, name, None)

    def _gone(self) -> ConnectionClosed:
        """A fresh exception for a use after the end: raising one and the same would lengthen its traceback."""
        end = self._end
        assert end is not None, "only asked for behind the end"
        return type(end)(*end.args)

    def _opened(self, conn: Conn) -> None:
        self._conn = conn
        conn.data = self

    def _received(self, message: Data) -> None:
        messages = self._messages
        messages.append(message)
        getter = self._getter
        if getter is not None:
            self._getter = None
            if not getter.done():
                getter.set_result(None)
        elif len(messages) > self.server.high_queue and not self._paused:
            self._paused = True
            try:
                self.conn.pause()
            except _Closed:
                # It is over, and what it sent before is all that there is.
                self._paused = False

    def _ponged(self, payload: bytes) -> None:
        """A pong: it stands for every ping up to its own (RFC 6455, section 5.5.3)."""
        pings = self._pings
        if pings is None or payload not in pings:
            return
        now = time.monotonic()
        for data in list(pings):
            waiter, since = pings.pop(data)
            if not waiter.done():
                waiter.set_result(now - since)
            if data == payload:
                self.latency = now - since
                return

    def _room(self) -> None:
        """Below the low mark again, or over: those who want to send may try."""
        self._is_high = False
        waiter, self._drained = self._drained, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _closed(self, conn: Conn) -> None:
        self._end = closed_by(conn, self._said)
        self._paused = False
        getter, self._getter = self._getter, None
        if getter is not None and not getter.done():
            getter.set_result(None)
        self._room()
        pings, self._pings = self._pings, None
        for waiter, _ in (pings or {}).values():
            if not waiter.done():
                waiter.set_exception(self._gone())
                # Nobody has to look at it.
                waiter.exception()
        if self._over is not None and not self._over.done():
            self._over.set_result(None)


def broadcast(
    connections: Iterable[ServerConnection],
    message: DataLike,
    raise_exceptions: bool = False,
    *,
    text: bool | None = None,
) -> None:
    """Send a message to many connections, without waiting for any.

    Those that are not open are left out. What happens to a client that does not keep up the option `overflow` says.

    Args:
        connections: Such as `Server.connections`.
        message: As `ServerConnection.send` takes it, in one piece.
        raise_exceptions: Raise what sending to single ones raised, when all have had it, instead of logging it.
        text: As `ServerConnection.send`.

    Raises:
        TypeError: message is neither text nor bytes.
        RuntimeError: Sending failed, with raise_exceptions; one connection's exception is its cause.

    Thread: the event loop's.
    """
    if not isinstance(message, str | bytes | bytearray | memoryview):
        raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
    failed: list[Exception] = []
    for connection in connections:
        if connection._conn is None or connection._end is not None:
            continue
        try:
            if connection._write(message, text) is Sent.HIGH:
                connection._is_high = True
        except _Closed:
            continue
        except Exception as exc:
            failed.append(exc)
            if not raise_exceptions:
                connection.logger.warning("left out of a broadcast", exc_info=exc)
    if raise_exceptions and failed:
        raise RuntimeError(f"a broadcast failed on {len(failed)} connections") from failed[0]


async def _joined(pieces: Any) -> str | bytes | None:
    """Put the pieces of a message together; None: there are none.

    Raises:
        TypeError: They are no pieces of a message.
    """
    if isinstance(pieces, Mapping):
        raise TypeError("a message is str, bytes, or pieces of one; this is a mapping")
    found: list[Any] = []
    if isinstance(pieces, AsyncIterable):
        found = [piece async for piece in pieces]
    elif isinstance(pieces, Iterable):
        found = list(pieces)
    else:
        try:
            return bytes(memoryview(pieces))
        except TypeError:
            raise TypeError(f"a message is a str or a bytes-like object, not {type(pieces).__name__}") from None
    if not found:
        return None
    if all(isinstance(piece, str) for piece in found):
        return "".join(found)
    if all(isinstance(piece, bytes | bytearray | memoryview) for piece in found):
        return b"".join(found)
    raise TypeError("the pieces of a message are all str or all bytes")
