"""F6. The types of a request that Python is asked about. Only `unlimitedws` uses it."""

from typing import Any, final

from _uws.peer import RawEnds

@final
class Exchange:
    """A request head, valid (docs/handshakes.md), and the connection that waits for its answer.

    Answered once, from any thread, with `accept` or `answer`; who is late, because the deadline has passed (the
    engine answered 503), the client has gone or somebody else has answered, gets False. Not constructible.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        """
        Raises:
            TypeError: Always: it is the loop that makes them.
        """

    @property
    def is_upgrade(self) -> bool:
        """True: a request for a WebSocket, which may be accepted. False: an ordinary GET."""

    @property
    def head(self) -> bytes:
        """The request head, from its first byte to the empty line's LF."""

    @property
    def target(self) -> str:
        """The request target as it was sent, decoded as latin-1."""

    @property
    def ends(self) -> RawEnds:
        """The addresses, which outlive the exchange and its connection."""

    @property
    def pending(self) -> bool:
        """Whether it still waits for its answer. A True may be out of date by the time it is looked at."""

    def accept(
        self,
        subprotocol: bytes = b"",
        headers: bytes = b"",
        about: Any = None,
        auth_timeout_ms: int = 0,
        expires_ms: int = 0,
    ) -> bool:
        """Answer 101 and open the connection.

        Args:
            subprotocol: One that the client offered; b"" for none. At most 255 bytes.
            headers: Whole field lines, each with its CRLF, checked by the caller.
            about: Kept by the connection's `Conn`, which reads `user`, `session`, `request` of it, and calls its
                `closed(conn)` when the connection is over. Its attribute `conn` is set to that `Conn` before the
                connection is open, and also where it was too late. None: nothing is kept.
            auth_timeout_ms: Above 0: close with 3000 after so long unless `Conn._identify` comes first.
            expires_ms: Above 0: close with 3000 after so long.

        Returns:
            False if it was too late.

        Raises:
            ValueError: It is no upgrade, or an argument is out of its range.
        """

    def answer(self, status: int, response: bytes, is_dated: bool = False) -> bool:
        """Answer with a whole HTTP response, ``Connection: close`` in it, and end the connection.

        Args:
            status: The one in the response, 200 to 599, for the counters.
            response: Head and body. A Date is added behind the status line.
            is_dated: It has one already.

        Returns:
            False if it was too late.
        """
