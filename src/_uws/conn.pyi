"""F6. The types of a connection, as callbacks see it.

Every call that can fail says how, every call says from which thread it may be made.

The engine takes its exceptions, `OpCode` and `Address` from `unlimitedws.errors`, `.opcode` and `.address` at the
end of its own import, so that `import _uws.conn` works whichever package is imported first.
"""

from collections.abc import Hashable
from typing import Any, final

from typing_extensions import Buffer

from unlimitedws.address import Address
from unlimitedws.causes import CloseCause
from unlimitedws.sent import Sent

@final
class Conn(Hashable):
    """One WebSocket connection, as callbacks see it.

    Not constructible. The same object for as long as anybody holds it; equal to itself only. It holds the
    connection's table index and generation, never a pointer: after the close every call is safe, and every
    call that needs the peer raises `unlimitedws.ConnectionClosed`.
    """

    data: Any
    """Any object of the application's; None at first. Lives as long as the connection, or as its `Conn`."""

    @property
    def local_addr(self) -> Address:
        """Our end. A v4-mapped address shows as plain IPv4. Asked of the kernel on demand, still right in
        `on_close`.

        Thread: any.
        """

    @property
    def remote_addr(self) -> Address:
        """The peer's end. A v4-mapped address shows as plain IPv4. Asked of the kernel on demand, still right
        in `on_close`.

        Behind a trusted proxy (`Options.trusted_proxies`), the client that it speaks for; port 0 where it names
        none. Of a client on a Unix socket ``Address("unix:", 0)``: few of them have a name.

        Thread: any.
        """

    @property
    def path(self) -> str:
        """Path of the request's target, as it was sent (percent-encoded), without the query: ``"/chat"``."""

    @property
    def query(self) -> str:
        """Query of the request's target, as it was sent, without the question mark; often ``""``."""

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on (RFC 6455, section 1.9); None: none."""

    @property
    def user(self) -> Any:
        """Who it is: what `Accept` or `Server.identify` said. None: nobody said."""

    @property
    def session(self) -> Any:
        """The user's session, as `Server.disconnect` knows it; None without one."""

    @property
    def request(self) -> Any:
        """The upgrade request, a `Request`, where the option `keep_request` is on; None elsewhere."""

    @property
    def is_open(self) -> bool:
        """Whether a message may still be sent: False from the moment a close frame was sent or received.

        Thread: any. A True may be out of date by the time it is looked at.
        """

    @property
    def close_code(self) -> int | None:
        """Why it was closed (RFC 6455, section 7.1.5): the peer's code, 1005 where its close frame had none,
        1006 where there was no close frame of its, whatever ours said. Where we failed it (`CloseCause.PROTOCOL`,
        `LIMIT`, `CALLBACK`, `MEMORY`) our code: nobody waits for the peer's then. None while open.
        """

    @property
    def close_reason(self) -> str | None:
        """The text that came with `close_code`, often ``""``. None while open."""

    @property
    def close_cause(self) -> CloseCause | None:
        """What ended it, more exactly than a code can: the peer, the application, a limit, a deadline ... None
        while open.
        """

    @property
    def _sent(self) -> tuple[int, str] | None:
        """Code and reason of the close frame with which the application, a deadline or the server's end closed it.
        None where nobody of them did."""

    @property
    def buffered_amount(self) -> int:
        """Bytes that were sent by the application and not yet taken by the kernel; 0 after the close."""

    def send(self, message: str | Buffer, *, compress: bool | None = None) -> Sent:
        """Send one message: text for a `str`, binary for bytes and other contiguous buffers.

        Args:
            compress: Whether to compress it, where the client has agreed to that (RFC 7692): None does from
                `Compression.threshold` on, True however short it is, False never. What does not become
                smaller goes as it is, where no context is kept. Messages above 8 KiB are compressed without
                the GIL.

        In a callback, what is sent to one connection leaves in one write at the end of the turn. The message
        is copied where the kernel does not take it at once. Messages of several threads never interleave.

        While `max_buffered_bytes` or more wait to be sent to this connection it goes by the option `overflow`; "block",
        the default, waits up to the I/O timeout. Below that a message is taken whole, however long it is.

        Returns:
            Whether the message is on its way, and what that did to the queue. Only `Sent.DROPPED` is false.

        Raises:
            unlimitedws.ConnectionClosed: The connection is closed or closing; with the policy "close" also where
                this message found its queue full. Where it was lost just now, the message may have got there.
            TimeoutError: The send buffer stayed full for the I/O timeout. Nothing of the message was sent.
            TypeError: message is neither text nor a buffer, or compress is none of the three.
            BufferError: The buffer is not contiguous.
            UnicodeEncodeError: message holds lone surrogates, which a text message cannot.

        Thread: any.
        """

    def ping(self, payload: str | Buffer = b"") -> Sent:
        """Send a ping (RFC 6455, section 5.5.2). The answer is taken by the engine.

        Args:
            payload: At most 125 bytes; text is sent as UTF-8.

        Raises:
            ValueError: payload is longer than 125 bytes.
            unlimitedws.ConnectionClosed: The connection is closed or closing.

        Thread: any.
        """

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Start the close handshake (RFC 6455, section 7.1.2). What was sent before goes out first, to who reads it.

        Returns at once; `on_close` runs when the peer has answered, or after `close_timeout`. Closing a
        connection that is closing or closed does nothing.

        Args:
            code: 1000 to 1003, 1007 to 1014, or 3000 to 4999.
            reason: At most 123 bytes as UTF-8.

        Raises:
            ValueError: code is one that may not be sent (RFC 6455, section 7.4), or reason is too long.

        Thread: any.
        """

    def pause(self) -> None:
        """Read no more of this connection and deliver nothing that it sends, until `resume`; pausing twice needs one.

        What has been received waits, in order; the rest waits in the kernel, and in the end in the peer. In a
        callback of the connection it holds from the next message on; in another thread a callback may be just under
        way. `on_drain` comes all the same.

        Meanwhile its pings and its close frame are not seen either, so it is not taken for vanished. It ends with
        the connection: `close`, `abort`, `Server.disconnect`, `idle_timeout`, `max_lifetime`, an expiry,
        `send_timeout`, the server's end, and RST. Then `on_close` comes, where the peer has its rights behind the
        messages that wait. Where the peer has closed already, or one of these deadlines has, and messages of it still
        wait, it does nothing: they are delivered, and `on_close` comes.

        Raises:
            unlimitedws.ConnectionClosed: The connection is closed, or we are closing it.

        Thread: any.
        """

    def resume(self) -> None:
        """Read and deliver again. Nothing happens where it is not paused, or closed. Thread: any."""

    @property
    def is_paused(self) -> bool:
        """Whether `pause` was called, and neither `resume` nor the connection's end has come since. Thread: any."""

    def _suspend(self) -> bool:
        """Let the callback for a message that is being run go on elsewhere: nothing of the connection is delivered, its
        end neither, before `_recall`, which has to come. False: nothing but its end would be. Thread: the callback's.

        Raises:
            MemoryError: There is none to remember that.
        """

    def _recall(self) -> bool:
        """Have the hook "on_recall" called, on a thread that runs callbacks, and then what waits behind. False, and
        nothing, where it is not suspended. Thread: any."""

    def _is_awaited(self) -> bool:
        """Whether it matters to anybody who this is: its client is there, or has left messages behind, and the loop
        does not stop. Thread: any."""

    def _end(self, cause: int, code: int, reason: str) -> None:
        """Close as `close` does, for a cause other than the application's own call."""

    @property
    def _loop(self) -> object:
        """The `_uws.core.Loop` that it is one of."""

    @property
    def _about(self) -> Any:
        """What `Exchange.accept` or `_identify` was given; None without one."""

    def _identify(self, about: Any, expires_ms: int = 0, was_stranger: bool = False) -> bool:
        """Let `about` say who this is: `user`, `session` and `request` are its attributes, and its `closed(conn)` is
        called when the connection is over. The deadline for strangers ends; a new expiry begins (0: none).

        Returns:
            False: the connection is closed or closing, and nothing was changed. A stranger's still counts where its
            client has ended it, and `on_close` is to come.

        Thread: any.
        """

    def abort(self) -> None:
        """Drop the connection at once, what is buffered with it. `on_close` sees 1006. Idempotent.

        Thread: any.
        """

    def __hash__(self) -> int: ...
    def __repr__(self) -> str: ...

def check_close(code: int, reason: str) -> bytes:
    """Refuse what a close frame cannot say.

    Returns:
        The reason as UTF-8.

    Raises:
        TypeError: code is no int, reason no str.
        ValueError: code may not be sent (RFC 6455, section 7.4), or reason has more than 123 bytes.

    Thread: any.
    """
