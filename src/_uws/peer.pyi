"""F6. Both ends of a connection, as the kernel writes them. Only `unlimitedws` uses it."""

from typing import final

from unlimitedws.address import Address

@final
class RawEnds:
    """The ends of the connection that a request came on. Each address is made when it is asked for, also when the
    connection is over. Not constructible; a copy or a pickle of it is an `unlimitedws.address.Ends`.

    Thread: any.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        """
        Raises:
            TypeError: Always: it is the loop that makes them.
        """

    @property
    def remote_addr(self) -> Address:
        """The peer's end, as `Conn.remote_addr`: behind a trusted proxy, the client it speaks for."""

    @property
    def peer_addr(self) -> Address:
        """Who sent the request to us: the other end of the socket, or whom a PROXY header named."""

    @property
    def local_addr(self) -> Address:
        """Our end, as `Conn.local_addr`."""

    @property
    def is_secure(self) -> bool:
        """Whether the client speaks TLS, as a PROXY header said."""
