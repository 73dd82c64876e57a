"""F6. The types of the engine's top floor: Loop, Conn, and the helpers of the Go API.

Only `unlimitedws` uses Loop; Conn and the helpers are what callbacks see. Every call that can fail says how,
every call says from which thread it may be made.

The engine takes its exceptions, `OpCode` and `Address` from `unlimitedws.errors`, `.opcode` and `.address` at the
end of its own import, so that `import _uws.core` works whichever package is imported first.
"""

from collections.abc import Callable, Hashable
from typing import Any, final

from typing_extensions import Buffer, Self

from unlimitedws.address import Address
from unlimitedws.opcode import OpCode

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

        Thread: any.
        """

    @property
    def path(self) -> str:
        """Path of the request's target, as it was sent (percent-encoded), without the query: ``"/chat"``."""

    @property
    def query(self) -> str:
        """Query of the request's target, as it was sent, without the question mark; often ``""``."""

    @property
    def is_open(self) -> bool:
        """Whether a message may still be sent: False from the moment a close frame was sent or received.

        Thread: any. A True may be out of date by the time it is looked at.
        """

    @property
    def close_code(self) -> int | None:
        """Why it was closed (RFC 6455, section 7.1.5): the peer's code, 1005 where its close frame had none,
        1006 where there was no close frame. None while open.
        """

    @property
    def close_reason(self) -> str | None:
        """The text that came with `close_code`, often ``""``. None while open."""

    @property
    def buffered_amount(self) -> int:
        """Bytes that were sent by the application and not yet taken by the kernel; 0 after the close."""

    def send(self, message: str | Buffer) -> None:
        """Send one message: text for a `str`, binary for bytes and other contiguous buffers.

        In a callback, what is sent to one connection leaves in one write at the end of the turn. The message
        is copied where the kernel does not take it at once. Messages of several threads never interleave.

        Waits, up to the I/O timeout, while `max_buffered_bytes` or more wait to be sent to this connection;
        below that a message is taken whole, however long it is.

        Raises:
            unlimitedws.ConnectionClosed: The connection is closed or closing.
            TimeoutError: The send buffer stayed full for the I/O timeout. Nothing of the message was sent.
            TypeError: message is neither text nor a buffer.
            BufferError: The buffer is not contiguous.
            UnicodeEncodeError: message holds lone surrogates, which a text message cannot.

        Thread: any.
        """

    def ping(self, payload: str | Buffer = b"") -> None:
        """Send a ping (RFC 6455, section 5.5.2). The answer is taken by the engine.

        Args:
            payload: At most 125 bytes; text is sent as UTF-8.

        Raises:
            ValueError: payload is longer than 125 bytes.
            unlimitedws.ConnectionClosed: The connection is closed or closing.

        Thread: any.
        """

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Start the close handshake (RFC 6455, section 7.1.2). What was sent before goes out first.

        Returns at once; `on_close` runs when the peer has answered, or after `close_timeout`. Closing a
        connection that is closing or closed does nothing.

        Args:
            code: 1000 to 1003, 1007 to 1014, or 3000 to 4999.
            reason: At most 123 bytes as UTF-8.

        Raises:
            ValueError: code is one that may not be sent (RFC 6455, section 7.4), or reason is too long.

        Thread: any.
        """

    def abort(self) -> None:
        """Drop the connection at once, what is buffered with it. `on_close` sees 1006. Idempotent.

        Thread: any.
        """

    def __hash__(self) -> int: ...
    def __repr__(self) -> str: ...

def read_client_data(conn: Conn) -> tuple[bytes, OpCode]:
    """Read the message `on_read` was called for; called again, wait for the next one.

    Args:
        conn: The connection whose callback is running.

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

def write_server_message(conn: Conn, op: int, msg: str | Buffer) -> None:
    """Send one message with the opcode given.

    Args:
        conn: Any connection.
        op: `OpCode.TEXT` or `OpCode.BINARY`: a message. `OpCode.PING` or `OpCode.PONG`: a control frame of at
            most 125 bytes. `OpCode.CLOSE`: msg is the close frame's body (two bytes of code, then the reason;
            or nothing), and the close handshake starts.
        msg: Text is sent as UTF-8. Bytes sent as TEXT have to be UTF-8 (RFC 6455, section 5.6).

    Raises:
        ValueError: op is none of these, a control frame's payload is longer than 125 bytes, a close frame's
            body is malformed, or bytes sent as TEXT are not UTF-8.
        unlimitedws.ConnectionClosed, TimeoutError, TypeError: As `Conn.send`.

    Thread: any.
    """

def write_server_text(conn: Conn, msg: str | Buffer) -> None:
    """`write_server_message` with `OpCode.TEXT`."""

def write_server_binary(conn: Conn, msg: str | Buffer) -> None:
    """`write_server_message` with `OpCode.BINARY`."""

@final
class Loop:
    """One epoll instance, its connections, and the threads that serve them.

    A loop runs once. Its life: made, `listen`, `run` in one thread (more are asked for through spawn),
    `shut`, every `run` returns, the caller closes the listening sockets.
    """

    def __new__(
        cls,
        settings: dict[str, int],
        spawn: Callable[[], object],
        failed: Callable[[Conn, BaseException, str], object],
        page: bytes | None,
    ) -> Self:
        """Make a loop that listens nowhere yet.

        Args:
            settings: Every one of these names, none other (KeyError). Times fit a signed 64-bit integer, the
                rest 31 bits; `Options` has checked them.

                ========================  ====================================================================
                max_message_bytes         a longer message closes its connection with 1009
                max_fragments             a message of more fragments closes its connection with 1008
                max_header_bytes          request head; more is refused with 431
                max_header_fields         header fields of the request; more are refused with 431
                max_line_bytes            one line of the request head; more is 414, or 431 in a field
                handshake_timeout_ms      from accept to the end of the request head; then 408
                close_timeout_ms          from our close frame to the peer's; then the connection is dropped
                max_buffered_bytes        send buffer of one connection
                max_inbox_bytes           undelivered messages of one connection, then reading it pauses
                max_inbox_messages        the same, counted
                max_inbox_total_bytes     undelivered messages of all; then those that have some pause
                max_connections           0: as many as there are descriptors; more are refused with 503
                schedule_timeout_us       how long the poller may be away running callbacks before the watchdog
                                          polls in its place, and wakes another runner where there is one
                cooldown_us               how long accepting rests when there is no descriptor, or no room in
                                          the queue of jobs
                io_timeout_us             how long a call of a callback waits; 0: without limit
                runners                   1: callbacks run inline; n: on up to n runner threads
                jobs                      connections that may wait for a runner; 0 with one runner
                ========================  ====================================================================

            spawn: Called by a runner that holds the GIL and none of the loop's locks, when one more runner
                should be started. It starts a thread that calls `run`, and returns; or it raises, and the
                loop goes on with the runners it has and may ask again later.
            failed: A callback of the connection raised. Called with the connection, the exception (any
                BaseException) and the hook's name, before the loop closes the connection with 1011: so
                `is_open` tells whether the peer had gone already. Never called with a lock held. Must not
                raise.
            page: Body of the HTML page that is served for an ordinary `GET /`; None: 426, as for other paths.
        """

    @property
    def connections(self) -> int:
        """Open WebSocket connections: upgraded, close handshake not ended. Thread: any."""

    def listen(self, fd: int) -> None:
        """Accept from a bound, listening, non-blocking socket. The caller closes it when `run` has returned.

        Raises:
            OSError: epoll does not take it.

        Thread: any, before `run`.
        """

    def set_hook(self, name: str, func: Callable[..., object] | None) -> None:
        """Set or clear (None) a hook; the next callback is the new one.

        Args:
            name: "on_connect", "on_read", "on_close" (called with the connection), or "on_message"
                (connection, message), which is used instead of "on_read" where it is set. A hook that is None
                costs nothing.
            func: The function; None clears the hook.

        Raises:
            ValueError: There is no hook of that name.

        Thread: any, at any time.
        """

    def set_time(self, name: str, value: int) -> None:
        """Change one of the times in microseconds: schedule_timeout_us, cooldown_us, io_timeout_us.

        Raises:
            ValueError: There is no such time, or it is negative.

        Thread: any, at any time; a wait that is under way keeps its old limit.
        """

    def run(self) -> None:
        """Be a runner: poll and run callbacks until the loop has stopped.

        Exceptions of callbacks go to failed and do not come out here. Once the loop has stopped it returns at
        once.

        Raises:
            OSError: The kernel refused what the loop cannot do without.
            MemoryError: So did the allocator.

        Thread: any number of threads at a time; the first one without being asked for, the others by spawn.
        """

    def shut(self, code: int, reason: str, timeout_ms: int) -> None:
        """Stop: accept no more, flush what is queued, close every connection, then let `run` return.

        Returns at once. `on_close` runs for every connection. May be called before `run`, and again: the
        earliest deadline counts. Once the loop has stopped it does nothing.

        Args:
            code: Close code that the peers get, such as 1001 (RFC 6455, section 7.4.1).
            reason: At most 123 bytes as UTF-8.
            timeout_ms: After that the connections which are left are dropped; 0: at once.

        Thread: any, callbacks and signal handlers included.
        """

    def counters(self) -> dict[str, int]:
        """Figures of the engine, by name, for tests and for people who look for a leak. Thread: any."""
