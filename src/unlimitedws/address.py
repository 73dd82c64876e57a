"""Addresses: where a server listens and who is at the other end, and how both are written.

Imports no engine and opens no socket: the engine takes `Address` from here, `listening` opens what `parse` returns.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from .errors import AddressError

__all__ = ["Activated", "Address", "Descriptor", "Ends", "Where", "parse", "plain_host"]

_MAPPED = "::ffff:"
_UNIX = "unix:"
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://([^/?#]*)", re.ASCII | re.IGNORECASE)
# sun_path, with the zero byte that ends a path or begins an abstract name.
_MAX_UNIX_BYTES = 107


class Address(NamedTuple):
    """One end of a connection, or where a server listens. ``str()`` writes it as `parse` reads it, with escapes for
    what cannot be printed.

    Attributes:
        host: IP address without brackets; ``""`` (where `parse` met none) is every address of the machine.
            ``"unix:/path"`` for a Unix socket, ``"unix:@name"`` for an abstract one, ``"unix:"`` for the end
            of a Unix connection that has no name, as nearly all clients' ends have.
        port: 0 to 65535. Where a server listens 0 lets the kernel choose; of a client that a proxy spoke for
            without a port, and of a Unix socket, it is 0.
    """

    host: str
    port: int

    @property
    def is_unix(self) -> bool:
        """Whether it is that of a Unix socket."""
        return self.host.startswith(_UNIX)

    def __str__(self) -> str:
        if self.is_unix:
            return _one_line(self.host)
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Ends(NamedTuple):
    """Both ends of a connection, and what it shows of the client, beside the engine's `RawEnds`.

    Attributes:
        remote_addr: The client's.
        local_addr: Ours.
        is_secure: Whether the client speaks TLS.
    """

    remote_addr: Address
    local_addr: Address
    is_secure: bool


@dataclass(frozen=True)
class Descriptor:
    """A listening socket that this process has already: ``"fd:3"``."""

    fd: int

    def __str__(self) -> str:
        return f"fd:{self.fd}"


@dataclass(frozen=True)
class Activated:
    """The listening sockets that the service manager passed: all (``"systemd"``), or those of one name."""

    name: str | None

    def __str__(self) -> str:
        return "systemd" if self.name is None else f"systemd:{self.name}"


Where: TypeAlias = Address | Descriptor | Activated
"""What `parse` returns, and a server can listen on."""


def parse(text: str) -> Where:
    """Parse where to listen.

    ===========================================  ======================================================
    ``:8000``                                    every address of the machine
    ``host:8000``  ``192.0.2.1:0``  ``[::1]:80``  that address; port 0 lets the kernel choose
    ``unix:/run/app.sock``                       a Unix socket; the path is absolute
    ``unix:@name``                               an abstract one, of this network namespace
    ``fd:3``                                     a listening socket that was inherited
    ``systemd``  ``systemd:NAME``                those of a systemd socket unit
    ===========================================  ======================================================

    Raises:
        AddressError: text is not one of these; the message says what is missing.
        TypeError: text is no str.
    """
    if not isinstance(text, str):
        raise TypeError(f"an address is a str such as ':8000', not {type(text).__name__}")
    kind, _, rest = text.partition(":")
    if kind == "unix":
        return _parse_unix(text, rest)
    if kind == "fd":
        if not re.fullmatch(r"[0-9]{1,9}", rest, re.ASCII):
            raise AddressError(f"address {text!r}: {rest!r} is not the number of a descriptor, as in 'fd:3'")
        return Descriptor(int(rest))
    if kind == "systemd":
        if text == "systemd:":
            raise AddressError(f"address {text!r}: no name; 'systemd' alone is every socket that was passed")
        return Activated(rest or None)
    return _parse_tcp(text)


def _parse_unix(text: str, path: str) -> Address:
    if not path.startswith(("/", "@")) or path == "@":
        raise AddressError(f"address {text!r}: an absolute path is missing, or @ and a name")
    if "\0" in path:
        raise AddressError(f"address {text!r}: a path holds no zero byte")
    if path.endswith("/"):
        raise AddressError(f"address {text!r}: the path of a directory")
    length = len(os.fsencode(path))
    if length > _MAX_UNIX_BYTES:
        raise AddressError(f"address {text!r}: {length} bytes; a Unix socket's path has at most {_MAX_UNIX_BYTES}")
    return Address(_UNIX + path, 0)


def _parse_tcp(text: str) -> Address:
    if url := _URL.match(text):
        host = url[1]
        hint = host if re.search(r":[0-9]+$", host, re.ASCII) else f"{host.rstrip(':')}:8000"
        raise AddressError(f"address {text!r}: a URL is for clients; did you mean {hint!r}?")
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
            if "/" in text:
                hint = f"unix:{os.path.abspath(text)}"
            raise AddressError(f"address {text!r}: no port; did you mean {hint!r}?")
        if ":" in host:
            raise AddressError(f"address {text!r}: an IPv6 address goes into brackets, as in '[::1]:8000'")
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise AddressError(f"address {text!r}: port {port!r} is not a number from 0 to 65535")
    if any(c.isspace() or c in "[]/@\0" for c in host):
        raise AddressError(f"address {text!r}: {host!r} is not a host name and not an IP address")
    return Address(host, int(port))


def _one_line(text: str) -> str:
    """Escape what cannot be printed: a PROXY header may name any path, and logs are read line by line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def plain_host(host: str) -> str:
    """Turn a v4-mapped IPv6 address (``::ffff:192.0.2.1``) into the IPv4 address it stands for.

    A dual-stack socket names its IPv4 peers that way; nobody who reads a log should have to know.
    """
    mapped = host.lower().startswith(_MAPPED) and "." in host
    return host[len(_MAPPED) :] if mapped else host
