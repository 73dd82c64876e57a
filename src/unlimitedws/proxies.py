"""Proxies: which are believed, and what they say of the clients they speak for.

``X-Forwarded-For`` is what every proxy speaks, ``Forwarded`` (RFC 7239) is the standard. In both each proxy adds
whom it heard from on the right, and anybody may have written anything on the left. So they are read from the
right, and only as far as those who wrote are trusted.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .address import Address

if TYPE_CHECKING:
    import ipaddress

__all__ = ["FIELDS", "MAX_NETWORKS", "Proxies", "Seen"]

FIELDS = ("x-forwarded-for", "forwarded")
"""The fields that an option may name."""

MAX_NETWORKS = 64
"""Networks that may be trusted; the engine's UWS_MAX_NETS."""

_Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

_UNIX = "unix"
# The engine's UwsAddressKind.
_KIND_UNIX, _KIND_INET, _KIND_INET6 = 1, 4, 6

_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
# RFC 9110, section 7.2: uri-host [ ":" port ].
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]+)(?::[0-9]{1,5})?", re.ASCII)
# RFC 7239, section 4; RFC 9110, section 5.6.
_PAIR = re.compile(r'[ \t]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))[ \t]*', re.ASCII)


class Seen(NamedTuple):
    """What trusted proxies say of a request.

    Attributes:
        client: Who sent it.
        is_secure: Whether the client speaks TLS.
        host: The host that it asked for; None where nobody says so.
    """

    client: Address
    is_secure: bool
    host: str | None


class Proxies:
    """The proxies that are trusted, and the field in which they name their clients.

    Args:
        trusted: Networks such as ``"10.0.0.0/8"``, addresses, and ``"unix"`` for whoever connects to a Unix
            socket.
        field: One of `FIELDS`. The other is not looked at: a proxy that knows only one of them passes the
            other on as the client sent it.

    Raises:
        TypeError: trusted is no sequence of `str`.
        ValueError: An entry is no network; there are too many; the field is none of these.

    Thread: any; it does not change.
    """

    def __init__(self, trusted: Sequence[str] = (), field: str = FIELDS[0]) -> None:
        if not isinstance(trusted, list | tuple) or not all(isinstance(text, str) for text in trusted):
            raise TypeError(f"trusted_proxies: must be a list of networks, each a str, not {trusted!r}")
        if field not in FIELDS:
            raise ValueError(f"forwarded_header: must be one of {', '.join(map(repr, FIELDS))}, not {field!r}")
        if len(trusted) > MAX_NETWORKS:
            raise ValueError(f"trusted_proxies: at most {MAX_NETWORKS} networks, not {len(trusted)}")
        self.field = field
        self._unix = _UNIX in trusted
        self._networks = [_network(text) for text in trusted if text != _UNIX]

    def __bool__(self) -> bool:
        """Whether anybody is trusted."""
        return self._unix or bool(self._networks)

    def engine_networks(self) -> list[tuple[int, int, bytes]]:
        """Return the networks as `_uws.core.Loop.set_proxies` takes them."""
        networks = [
            (_KIND_INET if net.version == 4 else _KIND_INET6, net.prefixlen, net.network_address.packed)
            for net in self._networks
        ]
        return [*networks, (_KIND_UNIX, 0, b"")] if self._unix else networks

    def trusts(self, address: Address) -> bool:
        """Tell whether an address is that of a trusted proxy."""
        if address.is_unix:
            return self._unix
        if not self._networks:
            return False
        ip = _parse_ip(address.host)
        return ip is not None and any(ip in network for network in self._networks)

    def client(self, peer: Address, value: str) -> Address:
        """Return the client that a request came from.

        Args:
            peer: Who sent it to us.
            value: The field's lines, joined with ", ". Where it begins with a zero byte, a part was cut off.

        Returns:
            The rightmost address that is no trusted proxy's: whoever it is, a trusted proxy has heard from it.
            Where what a proxy says is malformed or hidden, that proxy; where all are trusted, the leftmost.
            Port 0 where none was written.
        """
        client, _ = self._walk(peer, value)
        return client

    def seen(self, peer: Address, headers: Mapping[str, str]) -> Seen:
        """Return what trusted proxies say of a request: ``X-Forwarded-Proto`` and ``X-Forwarded-Host``, or `Forwarded`.

        Args:
            peer: Who sent it to us.
            headers: Its fields; repeated ones joined with ", ". Names in any case.
        """
        if not self.trusts(peer):
            return Seen(peer, False, None)
        client, said = self._walk(peer, headers.get(self.field, ""))
        if self.field == FIELDS[1]:
            # By the proxy nearest to the client of those that are trusted.
            pairs = (said and _parse_pairs(said[-1])) or {}
            proto, host = pairs.get("proto", ""), pairs.get("host", "")
        else:
            proto = _aligned(headers.get("x-forwarded-proto", ""), len(said))
            host = _aligned(headers.get("x-forwarded-host", ""), len(said))
        return Seen(client, proto.lower() in ("https", "wss"), host if _HOST.fullmatch(host) else None)

    def _walk(self, peer: Address, value: str) -> tuple[Address, list[str]]:
        """Return the client, and the elements that trusted proxies have written, from the right."""
        elements = _quoted_from_right(value) if self.field == FIELDS[1] else _plain_from_right(value)
        address, said = peer, []
        for element in elements:
            if not self.trusts(address):
                break
            said.append(element)
            node = element
            if self.field == FIELDS[1]:
                pairs = _parse_pairs(element)
                node = "" if pairs is None else pairs.get("for", "")
            before = _parse_node(node)
            if before is None:
                break
            address = before
        return address, said

    def __repr__(self) -> str:
        names = [str(network) for network in self._networks] + [_UNIX] * self._unix
        return f"<Proxies {', '.join(names) or 'none'}>"


def _network(text: str) -> _Network:
    # Only where somebody is trusted.
    import ipaddress

    try:
        network = ipaddress.ip_network(text)
    except ValueError as exc:
        raise ValueError(f"trusted_proxies: {exc}; networks are written as '10.0.0.0/8', or 'unix'") from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        # Addresses of this kind are compared as the IPv4 addresses they are.
        return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def _parse_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    # A zone would be text of the client's choice, and means nothing on this machine.
    if "%" in text:
        return None
    try:
        # Before ipaddress, which is slow to say no.
        socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        return None
    import ipaddress

    ip = ipaddress.ip_address(text)
    return getattr(ip, "ipv4_mapped", None) or ip


def _parse_node(text: str) -> Address | None:
    """Parse ``192.0.2.1``, ``192.0.2.1:80``, ``2001:db8::1`` or ``[2001:db8::1]:80``; None for anything else."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            return None
        if rest:
            port = rest[1:]
            if not port:
                return None
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        if not port:
            return None
    ip = _parse_ip(host)
    if ip is None:
        return None
    if port and port.startswith("_"):
        # RFC 7239, section 6.3: a port may be obfuscated.
        port = "0"
    if port and (not _PORT.fullmatch(port) or int(port) > 65535):
        return None
    return Address(str(ip), int(port or 0))


def _plain_from_right(value: str) -> Iterator[str]:
    for element in reversed(value.split(",")):
        if stripped := element.strip(" \t"):
            yield stripped


def _quoted_from_right(value: str) -> Iterator[str]:
    """Split at the commas that are in no quoted string, from the right.

    The right end was written by whom we trust, so quotes are in order there; on the left there may be one that
    is never closed, and that must not hide what follows it.
    """
    end = at = len(value)
    while at > 0:
        at -= 1
        if value[at] == '"':
            at = _opening_quote(value, at)
        elif value[at] == ",":
            if stripped := value[at + 1 : end].strip(" \t"):
                yield stripped
            end = at
    if stripped := value[:end].strip(" \t"):
        yield stripped


def _opening_quote(value: str, closing: int) -> int:
    """Return where the quoted string begins that ends at closing; 0 where it begins nowhere."""
    at = closing
    while at > 0:
        at = value.rfind('"', 0, at)
        if at < 0:
            break
        begin = at
        while begin > 0 and value[begin - 1] == "\\":
            begin -= 1
        if (at - begin) % 2 == 0:
            return at
    return 0


def _parse_pairs(element: str) -> dict[str, str] | None:
    """Parse one element of ``Forwarded``: parameters by name, in lower case; None where it is malformed."""
    pairs: dict[str, str] = {}
    at = 0
    while found := _PAIR.match(element, at):
        name, quoted, token = found.groups()
        name = name.lower()
        if name in pairs:
            return None
        pairs[name] = token if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        at = found.end()
        if at == len(element):
            return pairs
        if element[at] != ";":
            return None
        at += 1
    return None


def _aligned(value: str, hops: int) -> str:
    """Return the element of a list that belongs to the last of so many hops, counted from the right.

    Proxies that add to ``X-Forwarded-For`` often only set these fields: then there are fewer, and the leftmost
    is that of the first proxy.
    """
    elements = list(_plain_from_right(value))
    return elements[min(max(hops, 1), len(elements)) - 1] if elements else ""
