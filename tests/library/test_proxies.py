from __future__ import annotations

import ipaddress
import random
import time

import pytest

from unlimitedws import Address
from unlimitedws.proxies import Proxies, Seen

PROXY = Address("10.0.0.1", 4711)
TRUSTED = ("10.0.0.0/8", "2001:db8:1::/48")
X = Proxies(TRUSTED)
RFC7239 = Proxies(TRUSTED, "forwarded")


def test_nobody_is_trusted_by_default() -> None:
    assert not Proxies()
    assert not Proxies().trusts(PROXY)
    assert not Proxies().trusts(Address("unix:", 0))
    assert Proxies(["unix"]) and Proxies(["10.0.0.1"])


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("10.255.0.1", True),
        ("11.0.0.1", False),
        ("::ffff:10.0.0.1", True),
        ("::ffff:11.0.0.1", False),
        ("2001:db8:1::7", True),
        ("2001:db8:2::7", False),
        ("unix:", False),
        ("", False),
        ("proxy", False),
        ("10.0.0.1%eth0", False),
    ],
)
def test_address_is_trusted_if_a_network_has_it(host: str, trusted: bool) -> None:
    assert X.trusts(Address(host, 1)) is trusted


def test_unix_is_whoever_connects_to_a_unix_socket() -> None:
    proxies = Proxies(["unix"])
    for host in ("unix:", "unix:/run/nginx", "unix:@name"):
        assert proxies.trusts(Address(host, 0))
    assert not proxies.trusts(Address("127.0.0.1", 0))
    assert not Proxies(["0.0.0.0/0", "::/0"]).trusts(Address("unix:", 0))


def test_mapped_network_is_an_ipv4_network() -> None:
    assert Proxies(["::ffff:10.0.0.0/104"]).trusts(Address("10.1.2.3", 0))
    assert Proxies(["::ffff:10.0.0.0/104"]).engine_networks() == [(4, 8, b"\x0a\0\0\0")]


def test_engine_gets_what_is_trusted() -> None:
    assert Proxies(["10.0.0.0/8", "unix", "2001:db8::/32", "192.0.2.1"]).engine_networks() == [
        (4, 8, b"\x0a\0\0\0"),
        (6, 32, b"\x20\x01\x0d\xb8" + bytes(12)),
        (4, 32, b"\xc0\0\x02\x01"),
        (1, 0, b""),
    ]


@pytest.mark.parametrize(
    ("value", "client"),
    [
        # As the proxy heard it.
        ("192.0.2.1", ("192.0.2.1", 0)),
        ("192.0.2.1:8080", ("192.0.2.1", 8080)),
        ("2001:db8::1", ("2001:db8::1", 0)),
        ("2001:DB8:0:0::1", ("2001:db8::1", 0)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("[2001:db8::1]:8080", ("2001:db8::1", 8080)),
        ("::ffff:192.0.2.1", ("192.0.2.1", 0)),
        # What the client claims is to the left of what the proxy adds.
        ("198.51.100.1, 192.0.2.1", ("192.0.2.1", 0)),
        ("10.9.9.9, 192.0.2.1", ("192.0.2.1", 0)),
        ('<script>, ", 192.0.2.1', ("192.0.2.1", 0)),
        ("\0cut off, 192.0.2.1", ("192.0.2.1", 0)),
        # Through several proxies that are all trusted.
        ("198.51.100.1, 192.0.2.1, 10.0.0.2", ("192.0.2.1", 0)),
        ("192.0.2.1,10.0.0.3,\t2001:db8:1::2 , 10.0.0.2", ("192.0.2.1", 0)),
        ("192.0.2.1, ::ffff:10.0.0.2", ("192.0.2.1", 0)),
        # All are: whoever began it.
        ("10.0.0.3, 10.0.0.2", ("10.0.0.3", 0)),
        ("10.0.0.3:99", ("10.0.0.3", 99)),
        # Empty elements are none (RFC 9110, section 5.6.1).
        (", 192.0.2.1 , ,", ("192.0.2.1", 0)),
        ("", PROXY),
        (" , ,", PROXY),
        # Malformed or hidden: as far as it is known.
        ("unknown", PROXY),
        ("192.0.2.1, unknown", PROXY),
        ("192.0.2.1, nonsense, 10.0.0.2", ("10.0.0.2", 0)),
        ("\x0010.0.0.3, 10.0.0.2", ("10.0.0.2", 0)),
        ("\0" + "192.0.2.1", PROXY),
        ("192.0.2.01", PROXY),
        ("192.0.2", PROXY),
        ("3221225985", PROXY),
        ("192.0.2.1:", PROXY),
        ("192.0.2.1:65536", PROXY),
        ("192.0.2.1:8x", PROXY),
        ("192.0.2.1:\u0661", PROXY),
        ("fe80::1%eth0", PROXY),
        ("fe80::1%<b>", PROXY),
        ("[2001:db8::1", PROXY),
        ("[2001:db8::1]8080", PROXY),
        ("[2001:db8::1]:", PROXY),
        ("[192.0.2.1]", PROXY),
        ('"192.0.2.1"', PROXY),
        ("unix:", PROXY),
        ("192.0.2.1\0", PROXY),
        ("\u0661.2.3.4", PROXY),
    ],
)
def test_client_is_the_rightmost_that_is_no_trusted_proxy(value: str, client: tuple[str, int]) -> None:
    assert X.client(PROXY, value) == client


def test_who_is_not_trusted_speaks_for_nobody() -> None:
    stranger = Address("192.0.2.9", 5)
    assert X.client(stranger, "198.51.100.1") == stranger
    assert RFC7239.client(stranger, "for=198.51.100.1") == stranger


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=192.0.2.1", ("192.0.2.1", 0)),
        ("For=192.0.2.1;Proto=http;by=203.0.113.43", ("192.0.2.1", 0)),
        ('proto=http; for="192.0.2.1:4711"', ("192.0.2.1", 4711)),
        ('For="[2001:db8:cafe::17]:4711"', ("2001:db8:cafe::17", 4711)),
        ('for="[2001:db8:cafe::17]"', ("2001:db8:cafe::17", 0)),
        ('for="192.0.2.1:_hidden"', ("192.0.2.1", 0)),
        ('for="19\\2.0.2.1"', ("192.0.2.1", 0)),
        ("for=198.51.100.1, for=192.0.2.1", ("192.0.2.1", 0)),
        ("for=198.51.100.1, for=192.0.2.1, for=10.0.0.2", ("192.0.2.1", 0)),
        # Commas, semicolons and quotes within quotes.
        ('for=192.0.2.1;ext="a, for=198.51.100.1; b"', ("192.0.2.1", 0)),
        ('for=192.0.2.1;ext="\\", for=198.51.100.1"', ("192.0.2.1", 0)),
        ('for=198.51.100.1, for=192.0.2.1;ext="\\\\"', ("192.0.2.1", 0)),
        # A quote that the client left open hides nothing that is to the right of it.
        ('for="198.51.100.1, for=192.0.2.1', ("192.0.2.1", 0)),
        ('x="\\, for=192.0.2.1', ("192.0.2.1", 0)),
        ('for="198.51.100.1, for="[2001:db8::1]"', ("2001:db8::1", 0)),
        ("\0or=198.51.100.1, for=192.0.2.1", ("192.0.2.1", 0)),
        # Hidden, malformed.
        ("for=_SEVKISEK", PROXY),
        ("for=unknown", PROXY),
        ("proto=https", PROXY),
        ("for=192.0.2.1, for=_hidden, for=10.0.0.2", ("10.0.0.2", 0)),
        ("for=192.0.2.1;for=198.51.100.1", PROXY),
        ("for=192.0.2.1;", PROXY),
        ("for = 192.0.2.1", PROXY),
        ("for=192.0.2.1 proto=http", PROXY),
        ("for", PROXY),
        ("192.0.2.1", PROXY),
        ('for="192.0.2.1', PROXY),
        ('for=192.0.2.1"', PROXY),
        ("\0or=192.0.2.1", PROXY),
        ("", PROXY),
    ],
)
def test_forwarded_is_read_as_rfc_7239_has_it_and_from_the_right(value: str, client: tuple[str, int]) -> None:
    assert RFC7239.client(PROXY, value) == client


@pytest.mark.parametrize("proxies", [X, RFC7239], ids=["x-forwarded-for", "forwarded"])
def test_nothing_on_the_left_changes_who_the_client_is(proxies: Proxies) -> None:
    rng = random.Random(7239)
    alphabet = 'for=10.0.2;,"\\ \t[]:_x\0\xe9'
    right = "192.0.2.77" if proxies is X else 'for="192.0.2.77:5"'
    expected = ("192.0.2.77", 0 if proxies is X else 5)
    for _ in range(3000):
        left = "".join(rng.choice(alphabet) for _ in range(rng.randrange(40)))
        assert proxies.client(PROXY, f"{left}, {right}") == expected, left


@pytest.mark.parametrize("proxies", [X, RFC7239], ids=["x-forwarded-for", "forwarded"])
def test_whatever_is_said_the_result_is_an_address(proxies: Proxies) -> None:
    rng = random.Random(7)
    alphabet = 'for=10.2;,"\\ [:]_x'
    for _ in range(3000):
        value = "".join(rng.choice(alphabet) for _ in range(rng.randrange(40)))
        client = proxies.client(PROXY, value)
        ipaddress.ip_address(client.host)
        assert 0 <= client.port <= 65535


@pytest.mark.parametrize("part", ['"', "\\", ',"', '"\\', '\\"', "for=", "for=10.0.0.2,", ";", " ", "\t,"])
def test_time_is_linear_in_what_is_said(part: str) -> None:
    # At most 1 KiB comes from the engine, but as header fields a whole head may.
    value = part * (400_000 // len(part)) + '"'
    began = time.process_time()
    RFC7239.client(PROXY, value)
    X.client(PROXY, value)
    # Each byte looked at ten times over would still be quick; each as often as there are bytes takes minutes.
    assert time.process_time() - began < 5


# --- TLS, and the host ---


@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        ({}, Seen(PROXY, False, None)),
        ({"x-forwarded-for": "192.0.2.1"}, Seen(Address("192.0.2.1", 0), False, None)),
        (
            {"x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "HTTPS", "x-forwarded-host": "Example.com:8443"},
            Seen(Address("192.0.2.1", 0), True, "Example.com:8443"),
        ),
        ({"x-forwarded-proto": "wss"}, Seen(PROXY, True, None)),
        ({"x-forwarded-proto": "http"}, Seen(PROXY, False, None)),
        # Each proxy added to all of them: what the client had written counts for nothing.
        (
            {
                "x-forwarded-for": "198.51.100.1, 192.0.2.1",
                "x-forwarded-proto": "https, http",
                "x-forwarded-host": "evil.example, good.example",
            },
            Seen(Address("192.0.2.1", 0), False, "good.example"),
        ),
        # Two proxies that both add: the first one's are the client's.
        (
            {"x-forwarded-for": "192.0.2.1, 10.0.0.2", "x-forwarded-proto": "https, http"},
            Seen(Address("192.0.2.1", 0), True, None),
        ),
        # The second one only set it.
        (
            {"x-forwarded-for": "192.0.2.1, 10.0.0.2", "x-forwarded-proto": "https"},
            Seen(Address("192.0.2.1", 0), True, None),
        ),
        # No host at all.
        ({"x-forwarded-host": "a b"}, Seen(PROXY, False, None)),
        ({"x-forwarded-host": "http://a"}, Seen(PROXY, False, None)),
        ({"x-forwarded-host": "a/b"}, Seen(PROXY, False, None)),
        ({"x-forwarded-host": "user@a"}, Seen(PROXY, False, None)),
        ({"x-forwarded-host": "[::1]:80"}, Seen(PROXY, False, "[::1]:80")),
        # The other field is not looked at.
        ({"forwarded": "for=192.0.2.1;proto=https;host=a"}, Seen(PROXY, False, None)),
    ],
)
def test_what_a_trusted_proxy_says_of_the_request(headers: dict[str, str], seen: Seen) -> None:
    assert X.seen(PROXY, headers) == seen


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("for=192.0.2.1;proto=https;host=a.example", Seen(Address("192.0.2.1", 0), True, "a.example")),
        ('for=192.0.2.1;host="a.example:8443"', Seen(Address("192.0.2.1", 0), False, "a.example:8443")),
        ("for=_hidden;proto=https", Seen(PROXY, True, None)),
        (
            "for=198.51.100.1;proto=https;host=evil.example, for=192.0.2.1;proto=http",
            Seen(Address("192.0.2.1", 0), False, None),
        ),
        (
            "for=192.0.2.1;proto=https, for=10.0.0.2;proto=http",
            Seen(Address("192.0.2.1", 0), True, None),
        ),
        ("nonsense", Seen(PROXY, False, None)),
        ("", Seen(PROXY, False, None)),
    ],
)
def test_what_a_trusted_proxy_says_in_forwarded(value: str, seen: Seen) -> None:
    headers = {"forwarded": value, "x-forwarded-proto": "https", "x-forwarded-for": "198.51.100.7"}
    assert RFC7239.seen(PROXY, headers) == seen


@pytest.mark.parametrize("proxies", [X, RFC7239], ids=["x-forwarded-for", "forwarded"])
def test_of_a_stranger_s_request_nothing_is_believed(proxies: Proxies) -> None:
    stranger = Address("192.0.2.9", 5)
    headers = {
        "x-forwarded-for": "198.51.100.1",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "a",
        "forwarded": "for=198.51.100.1;proto=https;host=a",
    }
    assert proxies.seen(stranger, headers) == Seen(stranger, False, None)
