"""Where a load goes: the URL, the request that is sent, the sockets' addresses at both ends.

Opens no connection but to find out which of a name's addresses answers.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

__all__ = ["Target", "addresses", "local_ports", "pack", "request", "resolve", "spread"]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# What the handshake itself says: a user's own would contradict it.
_OURS = {
    "connection": "the load generator's",
    "sec-websocket-accept": "the server's",
    "sec-websocket-extensions": "for compression, which is not offered",
    "sec-websocket-key": "another one for each connection",
    "sec-websocket-protocol": "what subprotocols are for (--subprotocol)",
    "sec-websocket-version": "the load generator's",
    "upgrade": "the load generator's",
}
_PER_SOURCE = 1000
_FIRST_SOURCE = ipaddress.IPv4Address("127.0.1.1")
_MAX_ADDRESSES = 1 << 16
_KEY_CHARS = 24


@dataclass(frozen=True)
class Target:
    """A parsed URL.

    Attributes:
        url: As it was written.
        host: Name or address without brackets; ``""`` for a Unix socket.
        port: 1 to 65535; 0 for a Unix socket.
        unix: Path of the Unix socket, ``"@name"`` for an abstract one, or None.
        resource: Path and query, as the request has them.
    """

    url: str
    host: str
    port: int
    unix: str | None
    resource: str

    @classmethod
    def parse(cls, url: str, unix: str | None = None) -> Target:
        """Parse ``ws://host:port/path?query``, or ``unix:/path/of/the/socket``.

        Args:
            url: Its host and path are what the request names.
            unix: A Unix socket to connect to instead of the URL's host.

        Raises:
            ValueError: url is none that we can connect to; the message says what to write instead.
        """
        if url.startswith("unix:"):
            if unix is not None:
                raise ValueError(f"{url!r} and {unix!r}: two Unix sockets")
            return cls(url, "", 0, _unix(url[5:]), "/")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise ValueError(f"{url!r}: {exc}") from None
        if parts.scheme in ("wss", "https"):
            raise ValueError(
                f"{url!r}: TLS is not supported yet; measure the server behind its TLS proxy, or a port without TLS"
            )
        if parts.scheme != "ws" or not parts.netloc:
            rest = url.partition("://")[2] or url
            raise ValueError(f"{url!r} is no WebSocket URL; did you mean 'ws://{rest}'?")
        if not parts.hostname:
            raise ValueError(f"{url!r}: no host")
        if parts.username is not None:
            raise ValueError(f"{url!r}: a user's name belongs into a header: --header 'Authorization: ...'")
        if "#" in url:
            raise ValueError(f"{url!r}: a WebSocket URL has no fragment")
        if port == 0:
            raise ValueError(f"{url!r}: port 0 is no port to connect to")
        resource = parts.path or "/"
        if parts.query:
            resource += f"?{parts.query}"
        # As browsers do: what is encoded already stays, what must not be in a request line is encoded.
        resource = quote(resource, safe="%/?:@!$&'()*+,;=-._~[]|^{}`\\")
        return cls(url, parts.hostname, port or 80, None if unix is None else _unix(unix), resource)

    @property
    def authority(self) -> str:
        """The value of ``Host``."""
        if not self.host:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 80 else f"{host}:{self.port}"


def _unix(path: str) -> str:
    if not path.startswith(("/", "@")) or len(path) < 2:
        raise ValueError(f"{path!r} is no Unix socket: an absolute path is missing, or @ and a name")
    if len(os.fsencode(path)) > 107 or "\0" in path:
        raise ValueError(f"{path!r} is no Unix socket: longer than 107 bytes, or with a zero byte")
    return path


def request(
    target: Target, headers: Iterable[tuple[str, str]], subprotocols: Iterable[str]
) -> tuple[bytes, int]:
    """Write the opening request (RFC 6455, section 4.1). Returns it and where in it the key goes, 24 bytes.

    Args:
        headers: Further fields, in their order. ``Host`` takes the place of the URL's.

    Raises:
        ValueError: A field's name or value cannot stand in a request, or is the handshake's own.
    """
    authority = target.authority
    further = []
    for name, value in headers:
        value = value.strip(" \t")
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a header field")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"header field {name}: {value!r} has bytes that cannot stand in a line")
        if whose := _OURS.get(name.lower()):
            raise ValueError(f"header field {name} is {whose}")
        if name.lower() == "host":
            authority = value
        else:
            further.append(f"{name}: {value}")
    offered = list(subprotocols)
    for name in offered:
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a subprotocol")
    if len(set(offered)) < len(offered):
        raise ValueError("a subprotocol is offered twice")
    lines = [
        f"GET {target.resource} HTTP/1.1",
        f"Host: {authority}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        *([f"Sec-WebSocket-Protocol: {', '.join(offered)}"] if offered else []),
        *further,
        "Sec-WebSocket-Key: ",
    ]
    head = "\r\n".join(lines).encode("latin-1")
    return head + b"=" * _KEY_CHARS + b"\r\n\r\n", len(head)


def addresses(text: str) -> list[str]:
    """Read a list of IP addresses: ``"10.0.0.5"``, ``"127.0.1.1-127.0.1.20"``, and such with commas between them.

    Raises:
        ValueError: It is none, or one of more than 65,536 addresses.
    """
    found: list[str] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        try:
            begin = ipaddress.ip_address(first)
            end = ipaddress.ip_address(last) if dash else begin
        except ValueError as exc:
            raise ValueError(f"{part!r}: {exc}") from None
        if begin.version != end.version or int(end) < int(begin):
            raise ValueError(f"{part!r}: the range ends before it begins")
        if len(found) + int(end) - int(begin) >= _MAX_ADDRESSES:
            raise ValueError(f"{text!r}: more than {_MAX_ADDRESSES:,} addresses")
        found += [str(begin + offset) for offset in range(int(end) - int(begin) + 1)]
    return found


def spread(target: str, connections: int) -> list[str]:
    """Local addresses to come from, where all of 127.0.0.0/8 is ours: one for a thousand connections.

    From one address to one other the kernel's search for a free port slows down with every connection, and ends at
    some 28,000.
    """
    if connections <= _PER_SOURCE or not target.startswith("127."):
        return []
    return [str(_FIRST_SOURCE + i) for i in range(min(-(-connections // _PER_SOURCE), _MAX_ADDRESSES))]


def local_ports() -> int:
    """How many ports the kernel gives to clients, from one address to another."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        low, high = map(int, file.read().split())
    return high - low + 1


def resolve(target: Target, timeout: float) -> str:
    """The IP address that a URL's host stands for: of several the first that takes a connection.

    Raises:
        OSError: The name is not known.
    """
    try:
        return str(ipaddress.ip_address(target.host))
    except ValueError:
        pass
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    hosts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if len(hosts) > 1:
        for host in hosts:
            try:
                socket.create_connection((host, target.port), timeout).close()
            except OSError:
                continue
            return host
    return hosts[0]


def pack(host: str, port: int) -> bytes:
    """Write a ``struct sockaddr``. host: an IP address, or a Unix socket's path, or ``@`` and a name."""
    if host.startswith(("/", "@")):
        path = os.fsencode(host)
        name = b"\0" + path[1:] if host.startswith("@") else path + b"\0"
        return struct.pack("=H", socket.AF_UNIX) + name
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv4Address):
        return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + address.packed + bytes(8)
    scope = address.scope_id
    index = 0 if scope is None else int(scope) if scope.isdigit() else socket.if_nametoindex(scope)
    family = struct.pack("=H", socket.AF_INET6)
    return family + struct.pack("!HI", port, 0) + address.packed + struct.pack("=I", index)
