from __future__ import annotations

import ipaddress
import random
import socket
import struct

import pytest
from fuzz.judging import crc32c
from uws_shims import proxy_shim
from uws_shims.proxy_shim import E_ARG, INET, INET6, LINE_BYTES, MAX_BYTES, MORE, NONE, UNIX, collect, parse, trusts

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
CRC32C, SSL = 0x03, 0x20
REST = b"GET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n"


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def binary(family: int, block: bytes, command: int = PROXY, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block) if length is None else length) + block


def ipv4_block(source: str = "192.0.2.1", port: int = 56324) -> bytes:
    return socket.inet_aton(source) + socket.inet_aton("198.51.100.2") + struct.pack("!HH", port, 443)


def ipv6_block(source: str = "2001:db8::1", port: int = 56324) -> bytes:
    ends = [socket.inet_pton(socket.AF_INET6, text) for text in (source, "2001:db8::2")]
    return b"".join(ends) + struct.pack("!HH", port, 443)


def unix_block(source: bytes) -> bytes:
    return source.ljust(108, b"\0") + b"/run/haproxy".ljust(108, b"\0")


def with_crc(family: int, block: bytes, tail: bytes = b"") -> bytes:
    """A header with its checksum, and what may come behind that."""
    zeroes = binary(family, block + tlv(CRC32C, bytes(4)) + tail)
    at = len(zeroes) - len(tail) - 4
    return zeroes[:at] + struct.pack("!I", crc32c(zeroes)) + zeroes[at + 4 :]


IPV4 = bytes([192, 0, 2, 1])
IPV6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1")
LONG6 = b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"

# Each with what it says: kind, address, port, TLS.
VALID = {
    "v1 of the specification": (
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        (INET, bytes([192, 168, 0, 1]), 56324, False),
    ),
    "v1 longest IPv4": (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        (INET, b"\xff" * 4, 65535, False),
    ),
    "v1 longest IPv6": (
        b"PROXY TCP6 %b %b 65535 65535\r\n" % (LONG6, LONG6),
        (INET6, b"\xff" * 16, 65535, False),
    ),
    "v1 port 0": (b"PROXY TCP4 192.0.2.1 0.0.0.0 0 0\r\n", (INET, IPV4, 0, False)),
    "v1 IPv6, upper case": (b"PROXY TCP6 2001:DB8::1 :: 1 2\r\n", (INET6, IPV6, 1, False)),
    # How inet_ntop writes it, and so HAProxy.
    "v1 mapped": (
        b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n",
        (INET6, bytes(10) + b"\xff\xff" + IPV4, 1, False),
    ),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", (NONE, b"", 0, False)),
    "v1 unknown with more": (b"PROXY UNKNOWN what ever\0it is\r\n", (NONE, b"", 0, False)),
    "v1 unknown, longest": (
        b"PROXY UNKNOWN %b %b 65535 65535\r\n" % (LONG6, LONG6),
        (NONE, b"", 0, False),
    ),
    "v2 local": (binary(0, b"", LOCAL), (NONE, b"", 0, False)),
    "v2 local, block ignored": (binary(0x11, ipv4_block() + b"tlvs?", LOCAL), (NONE, b"", 0, False)),
    "v2 local, any family": (binary(0xFF, b"xyz", LOCAL), (NONE, b"", 0, False)),
    "v2 unspecified": (binary(0, b""), (NONE, b"", 0, False)),
    "v2 unspecified, block ignored": (binary(0, b"whatever"), (NONE, b"", 0, False)),
    "v2 unspecified protocol": (binary(0x10, ipv4_block()), (NONE, b"", 0, False)),
    "v2 unspecified family": (binary(0x01, b""), (NONE, b"", 0, False)),
    "v2 TCP4": (binary(0x11, ipv4_block()), (INET, IPV4, 56324, False)),
    "v2 UDP4": (binary(0x12, ipv4_block()), (INET, IPV4, 56324, False)),
    "v2 TCP6": (binary(0x21, ipv6_block()), (INET6, IPV6, 56324, False)),
    "v2 UDP6": (binary(0x22, ipv6_block()), (INET6, IPV6, 56324, False)),
    "v2 Unix": (binary(0x31, unix_block(b"/run/client")), (UNIX, b"/run/client", 0, False)),
    "v2 Unix datagram": (binary(0x32, unix_block(b"/run/client")), (UNIX, b"/run/client", 0, False)),
    "v2 Unix, no name": (binary(0x31, unix_block(b"")), (UNIX, b"", 0, False)),
    "v2 Unix, abstract": (binary(0x31, unix_block(b"\0name")), (UNIX, b"\0name", 0, False)),
    "v2 Unix, longest": (binary(0x31, unix_block(b"/" * 108)), (UNIX, b"/" * 108, 0, False)),
    "v2 TLVs": (
        binary(0x21, ipv6_block() + tlv(0x01, b"h2") + tlv(0x04, b"") + tlv(0xEA, b"x" * 300)),
        (INET6, IPV6, 56324, False),
    ),
    "v2 TLS": (
        binary(0x11, ipv4_block() + tlv(SSL, b"\x01" + bytes(4) + tlv(0x21, b"TLSv1.3"))),
        (INET, IPV4, 56324, True),
    ),
    "v2 no TLS": (binary(0x11, ipv4_block() + tlv(SSL, b"\x06" + bytes(4))), (INET, IPV4, 56324, False)),
    "v2 checksum": (with_crc(0x11, ipv4_block()), (INET, IPV4, 56324, False)),
    "v2 checksum among others": (
        with_crc(0x31, unix_block(b"/c") + tlv(0x05, b"id"), tlv(0x04, b"pad")),
        (UNIX, b"/c", 0, False),
    ),
    "v2 longest": (
        binary(0x11, ipv4_block() + tlv(0x04, bytes(MAX_BYTES - 16 - 12 - 3))),
        (INET, IPV4, 56324, False),
    ),
}

INVALID = {
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "POST": b"POST / HTTP/1.1\r\n\r\n",
    "empty line": b"\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "v1 lower case": b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "v1 two spaces": b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "v1 two spaces within": b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",
    "v1 space at the end": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
    "v1 a word too many": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
    "v1 a word too few": b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
    "v1 no ports": b"PROXY TCP4 192.0.2.1 192.0.2.2\r\n",
    "v1 no addresses": b"PROXY TCP4 \r\n",
    "v1 no words": b"PROXY \r\n",
    "v1 TAB": b"PROXY TCP4\t192.0.2.1 192.0.2.2 1 2\r\n",
    "v1 TCP5": b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
    "v1 UDP4": b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "v1 UNKNOWNS": b"PROXY UNKNOWNS\r\n",
    "v1 IPv6 as TCP4": b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
    "v1 IPv4 as TCP6": b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
    "v1 IPv4 zeroes": b"PROXY TCP4 192.0.02.1 192.0.2.2 1 2\r\n",
    "v1 IPv4 too large": b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
    "v1 IPv4 short": b"PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
    "v1 IPv4 hexadecimal": b"PROXY TCP4 0xc0.0.2.1 192.0.2.2 1 2\r\n",
    "v1 IPv4, NUL": b"PROXY TCP4 192.0.2.1\0 192.0.2.2 1 2\r\n",
    "v1 IPv6 zone": b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n",
    "v1 IPv6 brackets": b"PROXY TCP6 [::1] ::1 1 2\r\n",
    "v1 IPv6 two gaps": b"PROXY TCP6 1::2::3 ::1 1 2\r\n",
    "v1 IPv6 too long": b"PROXY TCP6 %b:ffff:ff ::1 1 2\r\n" % LONG6,
    "v1 destination": b"PROXY TCP4 192.0.2.1 nowhere 1 2\r\n",
    "v1 port too large": b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
    "v1 port zeroes": b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
    "v1 port sign": b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
    "v1 port long": b"PROXY TCP4 192.0.2.1 192.0.2.2 000001 2\r\n",
    "v1 second port": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
    "v1 LF": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
    "v1 CR": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rGET",
    "v1 LF within": b"PROXY UNKNOWN\n x\r\n",
    "v1 too long": b"PROXY UNKNOWN" + b"x" * 94,
    "v1 CRLF one byte late": b"PROXY UNKNOWN ".ljust(106, b"x") + b"\r\n",
    "v2 version 1": binary(0x11, ipv4_block(), 0x11),
    "v2 version 3": binary(0x11, ipv4_block(), 0x31),
    "v2 command 2": binary(0x11, ipv4_block(), 0x22),
    "v2 family 4": binary(0x41, ipv4_block()),
    "v2 protocol 3": binary(0x13, ipv4_block()),
    "v2 IPv4 short": binary(0x11, ipv4_block()[:-1]),
    "v2 IPv6 short": binary(0x21, ipv4_block()),
    "v2 Unix short": binary(0x31, unix_block(b"/s")[:-1]),
    "v2 without addresses": binary(0x11, b""),
    "v2 too long": binary(0x11, b"", length=MAX_BYTES - 16 + 1),
    "v2 longest length": binary(0x11, b"", length=0xFFFF),
    "v2 local, too long": binary(0, b"", LOCAL, length=0xFFFF),
    "v2 TLV of one byte": binary(0x11, ipv4_block() + b"\x04"),
    "v2 TLV of two bytes": binary(0x11, ipv4_block() + b"\x04\0"),
    "v2 TLV beyond the end": binary(0x11, ipv4_block() + b"\x04\0\x05abcd"),
    "v2 TLS short": binary(0x11, ipv4_block() + tlv(SSL, b"\x01abc")),
    "v2 checksum short": binary(0x11, ipv4_block() + tlv(CRC32C, b"abc")),
    "v2 checksum wrong": with_crc(0x11, ipv4_block())[:-1] + b"\0",
    "v2 two checksums": with_crc(0x11, ipv4_block() + tlv(CRC32C, bytes(4))),
}

each_valid = pytest.mark.parametrize("name", VALID)
each_invalid = pytest.mark.parametrize("name", INVALID)


def test_the_oracle_knows_the_check_value() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@each_valid
def test_valid_header_is_read(name: str) -> None:
    header, says = VALID[name]
    assert parse(header) == (len(header), *says)


@each_valid
def test_what_follows_a_header_is_left_alone(name: str) -> None:
    header, says = VALID[name]
    for rest in (REST, b"P", b"\r", b"\0", header, b"x" * 10000):
        assert parse(header + rest) == (len(header), *says)


@each_valid
def test_every_part_of_a_header_waits_for_the_rest(name: str) -> None:
    header, _ = VALID[name]
    for end in range(len(header)):
        assert parse(header[:end]) == MORE, end


@each_invalid
def test_what_is_no_header_is_refused_and_never_taken_for_one(name: str) -> None:
    data = INVALID[name]
    assert parse(data) == E_ARG
    said = [parse(data[:end]) for end in range(len(data) + 1)]
    # Once refused it stays refused: no byte that comes later makes it valid.
    assert set(said) == {MORE, E_ARG}
    assert said == sorted(said, reverse=True)


@pytest.mark.parametrize(
    ("data", "at"),
    [
        (INVALID["HTTP"], 1),
        (INVALID["POST"], 2),
        (INVALID["HTTP/2"], 3),
        (INVALID["empty line"], 5),
        (INVALID["v1 two spaces"], len("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n") + 1),
        (INVALID["v1 LF"], len(INVALID["v1 LF"])),
        (INVALID["v1 too long"], LINE_BYTES),
        (INVALID["v2 version 3"], 13),
        (INVALID["v2 family 4"], 14),
        (INVALID["v2 IPv4 short"], 16),
        (INVALID["v2 too long"], 16),
    ],
)
def test_refusal_comes_with_the_byte_that_decides(data: bytes, at: int) -> None:
    assert parse(data[: at - 1]) == MORE
    assert parse(data[:at]) == E_ARG


@pytest.mark.parametrize("name", [name for name in VALID if "checksum" in name])
def test_every_bit_of_a_header_with_a_checksum_counts(name: str) -> None:
    header, _ = VALID[name]
    for bit in range(8 * len(header)):
        wrong = bytearray(header)
        wrong[bit // 8] ^= 1 << bit % 8
        got = parse(bytes(wrong))
        # Where family or command have become those whose block is to be ignored, so is the checksum; and where a TLV's
        # type is not a checksum's any more there is none.
        if isinstance(got, tuple):
            assert got[1] == NONE or wrong.find(tlv(CRC32C, b"")[:1] + b"\0\x04", 16) < 0, bit


def test_a_header_with_a_byte_changed_is_read_as_it_stands_or_refused() -> None:
    rng = random.Random(2)
    for header, _ in VALID.values():
        for _ in range(300):
            changed = bytearray(header + REST)
            for _ in range(rng.randint(1, 3)):
                changed[rng.randrange(len(header))] = rng.choice((0, 9, 10, 13, 32, 48, 58, 255, rng.randrange(256)))
            data = bytes(changed)
            got = parse(data)
            assert got in (MORE, E_ARG) or expected(data) == got, data
            if got == E_ARG:
                assert expected(data) is None, data


def expected(data: bytes) -> tuple[int, int, bytes, int, bool] | None:
    """The naive reading of a whole header: None where it is not valid."""
    if data.startswith(b"PROXY "):
        line, crlf, _ = data[:LINE_BYTES].partition(b"\r\n")
        if not crlf or b"\r" in line or b"\n" in line:
            return None
        words = line.split(b" ")
        if words[1] == b"UNKNOWN":
            return len(line) + 2, NONE, b"", 0, False
        kind, family = {b"TCP4": (INET, socket.AF_INET), b"TCP6": (INET6, socket.AF_INET6)}.get(words[1], (0, 0))
        try:
            source, _ = (socket.inet_pton(family, word.decode("ascii")) for word in words[2:4])
            ports = [int(word) for word in words[4:]]
            digits = all(str(port).encode() == word for port, word in zip(ports, words[4:], strict=True))
        except (ValueError, OSError):
            return None
        if len(ports) != 2 or not digits or max(ports) > 65535 or kind == 0:
            return None
        return len(line) + 2, kind, source, ports[0], False
    if data[:12] != SIGNATURE or data[12] not in (LOCAL, PROXY):
        return None
    total = 16 + int.from_bytes(data[14:16], "big")
    family, protocol = divmod(data[13], 16)
    if total > MAX_BYTES or (data[12] == PROXY and (family > 3 or protocol > 2)):
        return None
    if data[12] == LOCAL or family == 0 or protocol == 0:
        return total, NONE, b"", 0, False
    block, at = data[16:total], (12, 36, 216)[family - 1]
    if len(block) < at:
        return None
    secure, crcs = False, []
    while at < len(block):
        if len(block) - at < 3:
            return None
        kind, size = struct.unpack_from("!BH", block, at)
        value = block[at + 3 : at + 3 + size]
        if len(value) < size:
            return None
        if kind == CRC32C:
            crcs.append(at + 3)
            zeroed = data[: 16 + at + 3] + bytes(4) + data[16 + at + 7 : total]
            if size != 4 or len(crcs) > 1 or crc32c(zeroed) != int.from_bytes(value, "big"):
                return None
        if kind == SSL:
            if size < 5:
                return None
            secure = bool(value[0] & 1)
        at += 3 + size
    if family == 3:
        path = block[:108]
        name = path[:1] + path[1:].partition(b"\0")[0]
        return total, UNIX, b"" if name == b"\0" else name, 0, secure
    size = 4 if family == 1 else 16
    (port,) = struct.unpack_from("!H", block, 2 * size)
    return total, INET if family == 1 else INET6, block[:size], port, secure


# --- whom to believe ---


def net(text: str) -> tuple[int, int, bytes]:
    network = ipaddress.ip_network(text)
    return (INET if network.version == 4 else INET6), network.prefixlen, network.network_address.packed


def ip(text: str) -> tuple[int, bytes]:
    address = ipaddress.ip_address(text)
    return (INET if address.version == 4 else INET6), address.packed


@pytest.mark.parametrize("bits", range(33))
def test_ipv4_network_is_matched_by_its_bits(bits: int) -> None:
    rng = random.Random(bits)
    for _ in range(50):
        network = ipaddress.ip_network((rng.randbytes(4), bits), strict=False)
        near = ipaddress.IPv4Address(int(network.network_address) ^ (1 << rng.randrange(32)))
        assert trusts([net(str(network))], *ip(str(near))) is (near in network)


@pytest.mark.parametrize("bits", range(129))
def test_ipv6_network_is_matched_by_its_bits(bits: int) -> None:
    rng = random.Random(bits)
    for _ in range(20):
        network = ipaddress.ip_network((rng.randbytes(16), bits), strict=False)
        near = ipaddress.IPv6Address(int(network.network_address) ^ (1 << rng.randrange(128)))
        assert trusts([net(str(network))], *ip(str(near))) is (near in network)


def test_mapped_address_is_an_ipv4_address() -> None:
    assert trusts([net("192.0.2.0/24")], *ip("::ffff:192.0.2.7"))
    assert not trusts([net("192.0.2.0/24")], *ip("::ffff:192.0.3.7"))
    assert not trusts([net("::/0")], *ip("::ffff:192.0.2.7"))


def test_kinds_are_not_mixed() -> None:
    everybody = [net("0.0.0.0/0"), net("::/0")]
    assert not trusts(everybody, UNIX, b"")
    assert trusts([*everybody, (UNIX, 0, b"")], UNIX, b"")
    assert not trusts([(UNIX, 0, b"")], *ip("192.0.2.1"))
    assert not trusts([net("::/0")], *ip("192.0.2.1"))
    assert not trusts([net("0.0.0.0/0")], *ip("2001:db8::1"))
    assert not trusts([], *ip("192.0.2.1"))


def test_any_of_many_networks_will_do() -> None:
    networks = [net(f"10.{i}.0.0/16") for i in range(proxy_shim.MAX_NETS)]
    for i in range(proxy_shim.MAX_NETS):
        assert trusts(networks, *ip(f"10.{i}.1.2"))
    assert not trusts(networks, *ip(f"10.{proxy_shim.MAX_NETS}.1.2"))


# --- a field's lines ---

NAME = b"x-forwarded-for"


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([b"GET / HTTP/1.1", b"Host: h", *lines, b"", b""])


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ([], b""),
        ([b"X-Forwarded-For: a"], b"a"),
        ([b"x-forwarded-FOR:a"], b"a"),
        ([b"X-Forwarded-For:  \t a, b\t "], b"a, b"),
        ([b"X-Forwarded-For: a", b"Other: x", b"X-Forwarded-For: b,c", b"x-forwarded-for: d"], b"a, b,c, d"),
        ([b"X-Forwarded-For:", b"X-Forwarded-For: a", b"X-Forwarded-For: "], b"a"),
        ([b"X-Forwarded-For: "], b""),
        ([b"X-Forwarded-Fo: a", b"X-Forwarded-For-: b", b"AX-Forwarded-For: c"], b""),
        ([b"X-Forwarded-For: caf\xe9"], b"caf\xe9"),
    ],
)
def test_lines_of_a_field_are_joined(lines: list[bytes], value: bytes) -> None:
    assert collect(head(*lines), NAME, 1024) == value
    # In a request that begins with the one empty line that is forgiven.
    assert collect(b"\r\n" + head(*lines), NAME, 1024) == value


def test_of_more_than_there_is_room_for_the_right_end_is_kept() -> None:
    values = [b"one", b"two, three", b"four"]
    whole = b", ".join(values)
    text = head(*(b"X-Forwarded-For: " + value for value in values))
    for cap in range(2, len(whole) + 3):
        got = collect(text, NAME, cap)
        if cap >= len(whole):
            assert got == whole
        else:
            assert len(got) <= cap and got[:1] == b"\0"
            assert whole.endswith(got[1:])
            # At most the separator is lost with the rest.
            assert len(got) == cap


def test_nothing_at_all_has_no_fields() -> None:
    assert collect(b"", NAME, 16) == b""
    assert collect(b"\r\n", NAME, 16) == b""
