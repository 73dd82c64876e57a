"""Second readings of what comes before there are frames, written from docs/handshakes.md and the RFCs, with regular
expressions and CPython's parsers. Slow and short; they share nothing with the engine.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import NamedTuple

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# What browsers send in a target without encoding it passes; see docs/handshakes.md, rows 16 and 17.
TARGET = rb"[!$-;=?-~]+"
PARAMETER = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|\"(?:\\?%b)+\"))?" % (TOKEN, TOKEN, TOKEN[:-1])
EXTENSION = re.compile(TOKEN + rb"(?:%b)*" % PARAMETER)
PROTOCOL = re.compile(TOKEN + rb"(?:/" + TOKEN + rb")?")
NAME = re.compile(TOKEN)
AUTHORITY = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[0-9A-Za-z\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::([0-9]*))?"
)
ABSOLUTE = re.compile(rb"(?:wss?|https?)://([^/?]*)", re.IGNORECASE)
KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
VERSION = re.compile(rb"0|[1-9][0-9]{0,2}")
VALUE = re.compile(rb"[\t -~\x80-\xff]*")
FIELDS = 100
PROTOCOLS = 64


class Verdict(NamedTuple):
    """status: of HTTP, negative ones as the engine's errors are called; 0: upgraded; 1: more is needed."""

    status: int
    is_plain_get: bool = False
    head_len: int = 0


OK, MORE = 0, 1
BAD, METHOD, HEAD, PLAIN, OTHER_VERSION, TOO_MANY, OTHER_HTTP = -400, -405, -1405, -426, -427, -431, -505


def is_authority(text: bytes) -> bool:
    found = AUTHORITY.fullmatch(text)
    return found is not None and int(found[1] or 0) <= 65535


def elements(value: bytes) -> list[bytes]:
    """Return the elements of a list (RFC 9110, 5.6.1). No comma can be quoted where what is quoted are tokens."""
    return [part for part in (part.strip(b" \t") for part in value.split(b",")) if part]


class Fields:
    """The fields of a head, judged one by one as their lines end."""

    def __init__(self) -> None:
        self.seen: dict[bytes, list[bytes]] = {}

    def add(self, name: bytes, value: bytes) -> bool:
        """False: the request is refused for it."""
        before = self.seen.setdefault(name, [])
        before.append(value)
        again = len(before) > 1
        if name == b"host":
            return not again and is_authority(value)
        if name == b"origin":
            return not again
        if name == b"content-length":
            return not again and value == b"0"
        if name == b"transfer-encoding":
            return False
        if name == b"sec-websocket-key":
            return not again and KEY.fullmatch(value) is not None
        if name == b"sec-websocket-version":
            return not again and VERSION.fullmatch(value) is not None and int(value) <= 255
        grammar = {
            b"upgrade": PROTOCOL,
            b"connection": NAME,
            b"sec-websocket-protocol": NAME,
            b"sec-websocket-extensions": EXTENSION,
        }.get(name)
        return grammar is None or all(grammar.fullmatch(element) for element in elements(value))

    def listed(self, name: bytes) -> list[bytes]:
        return [element for value in self.seen.get(name, []) for element in elements(value)]

    def judged(self, head_len: int) -> Verdict:
        """What is said when the head is complete."""
        asked = not WEBSOCKET.isdisjoint(self.seen)
        if b"host" not in self.seen:
            return Verdict(BAD, False, head_len)
        if b"websocket" not in (element.lower() for element in self.listed(b"upgrade")):
            return Verdict(PLAIN, not asked, head_len)
        if b"upgrade" not in (element.lower() for element in self.listed(b"connection")):
            return Verdict(BAD, False, head_len)
        if self.seen.get(b"sec-websocket-version") != [b"13"]:
            return Verdict(OTHER_VERSION, False, head_len)
        if b"sec-websocket-key" not in self.seen:
            return Verdict(BAD, False, head_len)
        for name in (b"sec-websocket-extensions", b"sec-websocket-protocol"):
            if name in self.seen and not self.listed(name):
                return Verdict(BAD, False, head_len)
        offered: list[bytes] = []
        for protocol in self.listed(b"sec-websocket-protocol"):
            if protocol in offered:
                return Verdict(BAD, False, head_len)
            if len(offered) == PROTOCOLS:
                return Verdict(TOO_MANY, False, head_len)
            offered.append(protocol)
        return Verdict(OK, False, head_len)


WEBSOCKET = frozenset(b"sec-websocket-" + name for name in (b"key", b"version", b"protocol", b"extensions"))


def begins(text: bytes, pattern: bytes) -> int | None:
    """How many bytes of text fit the pattern, in which n is a digit; None: one does not, before either ends."""
    for at, want in enumerate(pattern):
        if at == len(text):
            return at
        if not (text[at : at + 1].isdigit() if want == ord("n") else text[at] == want):
            return None
    return len(pattern)


def judge(data: bytes) -> Verdict:
    """Judge a request head, or the beginning of one. For data that passes no limit but that of fields."""
    start = 0
    if data[:1] == b"\r":
        if data[1:2] != b"\n":
            return Verdict(BAD if len(data) > 1 else MORE)
        start = 2
    at = start
    for grammar in (TOKEN, TARGET):
        found = re.compile(grammar).match(data, at)
        end = found.end() if found else at
        if end == len(data):
            return Verdict(MORE)
        if not found or data[end] != ord(" "):
            return Verdict(BAD)
        at = end + 1
    method, target, _ = data[start:].split(b" ", 2)
    if method == b"GET" and not target.startswith(b"/"):
        absolute = ABSOLUTE.match(target)
        if not absolute or not is_authority(absolute[1]):
            return Verdict(BAD)
    fits = begins(data[at:], b"HTTP/n.n\r\n")
    if fits is None:
        return Verdict(BAD)
    if fits < 10:
        return Verdict(MORE)
    if data[at + 5 : at + 6] != b"1" or data[at + 7 : at + 8] == b"0":
        return Verdict(OTHER_HTTP)
    if method != b"GET":
        return Verdict(HEAD if method == b"HEAD" else METHOD)
    return judge_fields(data, at + 10)


def judge_fields(data: bytes, at: int) -> Verdict:
    fields, count = Fields(), 0
    while at < len(data):
        if data[at] == ord("\r"):
            if at + 1 == len(data):
                return Verdict(MORE)
            return fields.judged(at + 2) if data[at + 1] == ord("\n") else Verdict(BAD)
        name = NAME.match(data, at)
        if not name:
            return Verdict(BAD)
        if count == FIELDS:
            return Verdict(TOO_MANY)
        count += 1
        if name.end() == len(data):
            return Verdict(MORE)
        if data[name.end()] != ord(":"):
            return Verdict(BAD)
        value = VALUE.match(data, name.end() + 1)
        assert value is not None
        fits = begins(data[value.end() :], b"\r\n")
        if fits is None:
            return Verdict(BAD)
        if fits < 2:
            return Verdict(MORE)
        if not fields.add(name[0].lower(), value[0].strip(b" \t")):
            return Verdict(BAD)
        at = value.end() + 2
    return Verdict(MORE)


# ---- extensions (RFC 6455, 9.1; RFC 7692, 7.1)

Extension = tuple[bytes, list[tuple[bytes, bytes | None]]]
ONE_PARAMETER = re.compile(rb"[ \t]*;[ \t]*(%b)(?:[ \t]*=[ \t]*(%b|\"[^\"]+\"))?" % (TOKEN, TOKEN))
BITS = re.compile(rb"[89]|1[0-5]")


def extensions(values: list[bytes]) -> list[Extension]:
    """Return what is offered, names and parameters, of values whose grammar is right."""
    found: list[Extension] = []
    for element in (element for value in values for element in elements(value)):
        name = NAME.match(element)
        assert name is not None
        parameters = [
            (key, plain.strip(b'"').replace(b"\\", b"") if plain else None)
            for key, plain in ONE_PARAMETER.findall(element, name.end())
        ]
        found.append((name[0], parameters))
    return found


class Terms(NamedTuple):
    server_bits: int
    client_bits: int
    server_takeover: bool
    client_takeover: bool


def negotiated(offers: list[Extension], ours: Terms) -> tuple[bytes, Terms] | None:
    """Return what is to be answered to the first offer that can be met; None: there is none."""
    flags = (b"server_no_context_takeover", b"client_no_context_takeover")
    for name, parameters in offers:
        said = dict(parameters)
        if name != b"permessage-deflate" or len(said) != len(parameters):
            continue
        server, client = said.get(b"server_max_window_bits", b"15"), said.get(b"client_max_window_bits", b"15")
        if any(said.get(flag) is not None for flag in flags) or not said.keys() <= {
            *flags,
            b"server_max_window_bits",
            b"client_max_window_bits",
        }:
            continue
        if server is None or not BITS.fullmatch(server) or (client is not None and not BITS.fullmatch(client)):
            continue
        can_be_told = b"client_max_window_bits" in said
        terms = Terms(
            min(ours.server_bits, int(server)),
            min(ours.client_bits, int(client or b"15")) if can_be_told else 15,
            ours.server_takeover and flags[0] not in said,
            # Where a client cannot be told to keep to our window, nothing of it is kept.
            ours.client_takeover and flags[1] not in said and (can_be_told or ours.client_bits == 15),
        )
        answer = [name]
        answer += [flags[0]] * (not terms.server_takeover) + [flags[1]] * (not terms.client_takeover)
        if b"server_max_window_bits" in said or terms.server_bits < 15:
            answer.append(b"server_max_window_bits=%d" % terms.server_bits)
        if terms.client_bits < 15:
            answer.append(b"client_max_window_bits=%d" % terms.client_bits)
        return b"; ".join(answer), terms
    return None


# ---- a server's response, for a client (RFC 6455, 4.1)


def opens(data: bytes, accept: bytes, offered: bytes) -> int:
    """OK, MORE, or BAD for a response that does not open a connection."""
    if data[:7] != b"HTTP/1."[: len(data)]:
        return BAD
    if len(data) <= 12:
        return MORE
    line = re.match(rb"HTTP/1\.([0-9]) ([1-5][0-9][0-9])[ \r]", data)
    if not line or (line[2] == b"101" and line[1] == b"0"):
        return BAD
    head, end, _ = data.partition(b"\r\n\r\n")
    if not end:
        return MORE
    status, *lines = head.split(b"\r\n")
    fields: dict[bytes, list[bytes]] = {}
    for text in lines:
        name, colon, value = text.partition(b":")
        if not colon or not NAME.fullmatch(name) or not VALUE.fullmatch(value):
            return BAD
        fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
    upgrades, protocols = fields.get(b"upgrade", []), fields.get(b"sec-websocket-protocol", [])
    good = (
        line[2] == b"101"
        and VALUE.fullmatch(status) is not None
        and {value.lower() for value in upgrades} == {b"websocket"}
        and any(b"upgrade" in NAME.findall(value.lower()) for value in fields.get(b"connection", []))
        and fields.get(b"sec-websocket-accept") == [accept]
        and not any(fields.get(b"sec-websocket-extensions", []))
        and (not protocols or (len(protocols) == 1 and protocols[0] in NAME.findall(offered)))
    )
    return OK if good else BAD


# ---- the PROXY protocol (HAProxy's doc/proxy-protocol.txt)

LINE_BYTES, MAX_BYTES = 107, 4096
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
NUMBER = re.compile(rb"0|[1-9][0-9]{0,4}")
INET, INET6, UNIX, NONE = 4, 6, 1, 0
CRC32C, SSL = 0x03, 0x20

Header = tuple[int, int, bytes, int, bool]


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def proxy_line(data: bytes) -> Header | None:
    """Read a complete header of version 1; None: it is none."""
    line, crlf, _ = data.partition(b"\r\n")
    if not crlf or len(line) + 2 > LINE_BYTES or b"\n" in line or b"\r" in line:
        return None
    words = line.split(b" ")
    if words[0] != b"PROXY":
        return None
    if words[1:2] == [b"UNKNOWN"]:
        return len(line) + 2, NONE, b"", 0, False
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        return None
    kind = ipaddress.IPv4Address if words[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        source, _ = (kind(word.decode("ascii")) for word in words[2:4])
    except ValueError:
        return None
    ports = words[4:]
    if b"%" in line or not all(NUMBER.fullmatch(port) and int(port) <= 0xFFFF for port in ports):
        return None
    return len(line) + 2, INET if source.version == 4 else INET6, source.packed, int(ports[0]), False


def proxy_binary(data: bytes) -> Header | None:
    """Read a complete header of version 2; None: it is none."""
    if len(data) < 16 or data[:12] != SIGNATURE:
        return None
    command, family, length = struct.unpack_from("!BBH", data, 12)
    total = 16 + length
    if command not in (0x20, 0x21) or total > MAX_BYTES or len(data) < total:
        return None
    if command == 0x20:
        return total, NONE, b"", 0, False
    if family >> 4 > 3 or family & 15 > 2:
        return None
    size = {0: 0, 1: 12, 2: 36, 3: 216}[family >> 4] if family & 15 else 0
    if length < size:
        return None
    if not size:
        return total, NONE, b"", 0, False
    is_secure, checksums, rest = False, [], data[16 + size : total]
    while rest:
        if len(rest) < 3 or len(rest) < 3 + int.from_bytes(rest[1:3], "big"):
            return None
        kind, end = rest[0], 3 + int.from_bytes(rest[1:3], "big")
        if kind == CRC32C:
            checksums.append((total - len(rest) + 3, rest[3:end]))
        elif kind == SSL:
            if end < 8:
                return None
            is_secure = bool(rest[3] & 1)
        rest = rest[end:]
    if checksums:
        (at, said), *others = checksums
        zeroed = data[:at] + bytes(4) + data[at + 4 : total]
        if others or len(said) != 4 or crc32c(zeroed) != int.from_bytes(said, "big"):
            return None
    block = data[16 : 16 + size]
    if family >> 4 == 3:
        # An abstract name begins with a zero byte, and ends like the others.
        path = block[:1] + block[1:108].partition(b"\0")[0]
        return total, UNIX, b"" if path == b"\0" else path, 0, is_secure
    width = 4 if family >> 4 == 1 else 16
    port = int.from_bytes(block[2 * width : 2 * width + 2], "big")
    return total, INET if width == 4 else INET6, block[:width], port, is_secure
