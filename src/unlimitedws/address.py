"""Addresses: how they are written, and the socket that listens on one.

Imports no engine: the engine takes `Address` from here.
"""

from __future__ import annotations

import errno
import re
import socket
from typing import Any, NamedTuple

from .errors import AddressError

__all__ = ["Address", "bound_address", "listen", "parse", "plain_host"]

_MAPPED = "::ffff:"
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
# What a kernel without IPv6, or with IPv6 switched off by sysctl, answers to socket() and bind().
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL, errno.ENOPROTOOPT)


class Address(NamedTuple):
    """One end of a TCP connection, or where a server listens. ``str()`` writes it as ``host:port``.

    Attributes:
        host: IP address without brackets; ``""`` (where `parse` met none) is every address of the machine.
        port: 0 to 65535; 0 lets the kernel choose.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str) -> Address:
    """Parse ``":8000"``, ``"host:8000"``, ``"127.0.0.1:8000"`` or ``"[::1]:8000"``.

    Port 0 lets the kernel choose; no host is every address of the machine.

    Raises:
        AddressError: text is not one of these; the message says what is missing.
        TypeError: text is no str.
    """
    if not isinstance(text, str):
        raise TypeError(f"an address is a str such as ':8000', not {type(text).__name__}")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise AddressError(f"address {text!r}: the bracket is not closed")
        if ":" not in host:
            raise AddressError(f"address {text!r}: brackets are for IPv6 addresses")
        if not rest.startswith(":"):
            raise AddressError(f"address {text!r}: no port; did you mean '[{host}]:8000'?")
        port = rest[1:]
    else:
        host, colon, port = text.rpartition(":")
        if not colon:
            hint = f":{text}" if _PORT.fullmatch(text) else f"{text}:8000"
            raise AddressError(f"address {text!r}: no port; did you mean {hint!r}?")
        if ":" in host:
            raise AddressError(f"address {text!r}: an IPv6 address goes into brackets, as in '[::1]:8000'")
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise AddressError(f"address {text!r}: port {port!r} is not a number from 0 to 65535")
    if any(c.isspace() or c in "[]/\0" for c in host):
        raise AddressError(f"address {text!r}: {host!r} is not a host name and not an IP address")
    return Address(host, int(port))


def plain_host(host: str) -> str:
    """Turn a v4-mapped IPv6 address (``::ffff:192.0.2.1``) into the IPv4 address it stands for.

    A dual-stack socket names its IPv4 peers that way; nobody who reads a log should have to know.
    """
    mapped = host.lower().startswith(_MAPPED) and "." in host
    return host[len(_MAPPED) :] if mapped else host


def bound_address(sock: socket.socket) -> Address:
    """Return where a socket is bound."""
    host, port = sock.getsockname()[:2]
    return Address(plain_host(host), port)


def listen(addr: Address, *, backlog: int = 4096, nodelay: bool = True) -> socket.socket:
    """Open a listening socket: non-blocking, not inherited by child programs, address reusable at once.

    Args:
        addr: Where. Without a host: on every address, IPv6 and IPv4 on one socket; on IPv4 alone where the
            machine has no IPv6. ``::`` is both too, as in Go; ``0.0.0.0`` is IPv4 alone. Of a name's
            addresses the first IPv4 one is taken, as in Go, or the first one where it has none.
        backlog: Connections that the kernel keeps for us until we accept them; it cuts this to
            net.core.somaxconn.
        nodelay: Set TCP_NODELAY, which accepted sockets inherit on Linux: one system call less per
            connection.

    Raises:
        OSError: The address cannot be had: in use, not ours, not permitted. The message names it.
        AddressError: The host's name is unknown.
    """
    try:
        return _open(addr, *_resolve(addr), backlog, nodelay)
    except OSError as exc:
        if not addr.host and exc.errno in _NO_IPV6:
            return _open(addr, socket.AF_INET, ("0.0.0.0", addr.port), backlog, nodelay)
        raise


def _resolve(addr: Address) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    if not addr.host:
        return socket.AF_INET6, ("::", addr.port)
    try:
        found = socket.getaddrinfo(addr.host, addr.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as exc:
        raise AddressError(f"address {str(addr)!r}: host {addr.host!r} is unknown: {exc}") from exc
    family, _, _, _, sockaddr = min(found, key=lambda info: info[0] != socket.AF_INET)
    return family, sockaddr


def _open(
    addr: Address, family: socket.AddressFamily, sockaddr: tuple[Any, ...], backlog: int, nodelay: bool
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if nodelay:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(sockaddr)
        sock.listen(backlog)
    except OSError as exc:
        sock.close()
        # The kernel's message does not say which address it was, and the reader of a log has to know.
        raise OSError(exc.errno, f"cannot listen on {addr}: {exc.strerror}") from exc
    return sock
