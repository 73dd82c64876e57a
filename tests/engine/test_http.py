"""The grammar of HTTP as far as bytes go, against naive readings of the RFCs."""

import random
import re
import string

import pytest
from uws_shims import http_shim as shim

CLASSES = shim.CLASSES
WORD = (string.ascii_letters + string.digits).encode()


@pytest.mark.parametrize(
    "name, members",
    [
        ("token", WORD + b"!#$%&'*+-.^_`|~"),
        ("target", bytes(b for b in range(0x21, 0x7F) if chr(b) not in '"#<>')),
        ("value", b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))),
        ("space", b" \t"),
        ("list", b" \t,"),
        ("host", WORD + b"-._~" + b"!$&'()*+,;="),
        ("ipv6", string.hexdigits.encode() + b":."),
        ("base64", WORD + b"+/"),
    ],
)
def test_class_holds_exactly_the_grammar_s_bytes(name, members):
    assert shim.members(CLASSES[name]) == set(members)


@pytest.mark.parametrize("name", CLASSES)
def test_skip_stops_at_the_first_byte_outside_the_class_and_at_the_end(name):
    inside = shim.members(CLASSES[name])
    some = bytes(sorted(inside))[:4]
    for byte in range(256):
        text = some + bytes([byte]) + some
        expected = len(text) if byte in inside else len(some)
        assert shim.skip(text, 0, len(text), CLASSES[name]) == expected
        assert shim.skip(text, 1, len(some), CLASSES[name]) == len(some)
        assert shim.is_all(text, CLASSES[name]) == (byte in inside)


def naive_skip_value(text, pos, end):
    while pos < end and (text[pos] == 9 or 0x20 <= text[pos] != 0x7F):
        pos += 1
    return pos


def test_skip_value_agrees_with_a_naive_reading_at_every_place_of_every_byte():
    for byte in range(256):
        for length in range(26):
            for at in range(length):
                text = b"\xff" * at + bytes([byte]) + b" " * (length - at - 1)
                assert shim.skip_value(text, 0, length) == naive_skip_value(text, 0, length)


def test_skip_value_agrees_with_a_naive_reading_on_random_text():
    rng = random.Random(1)
    for _ in range(20_000):
        text = bytes(rng.choice(b"a \t\x20\x21\x1f\x7e\x7f\x80\x9f\xa0\xff\x00\r") for _ in range(40))
        if rng.random() < 0.7:
            text = re.sub(rb"[\x1f\x7f\0\r]", b"\t", text, count=rng.randrange(1, 30))
        pos = rng.randrange(41)
        end = rng.randrange(pos, 41)
        assert shim.skip_value(text, pos, end) == naive_skip_value(text, pos, end)


REG_NAME = rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+"
AUTHORITY = re.compile(rb"(?:" + REG_NAME + rb"|\[[0-9A-Fa-f:.]+\])(?::([0-9]*))?\Z")


def naive_check_authority(text):
    match = AUTHORITY.match(text)
    return bool(match) and int(match[1] or b"0") <= 65535


def test_authority_agrees_with_a_naive_reading_whatever_follows_it():
    rng = random.Random(2)
    accepted = 0
    pieces = [
        b"a",
        b"%",
        b"2",
        b"F",
        b"g",
        b"[",
        b"]",
        b":",
        b".",
        b"-",
        b"@",
        b"/",
        b" ",
        b"\xe4",
        b"::1",
        b"65535",
    ]
    for _ in range(20_000):
        text = b"".join(rng.choice(pieces) for _ in range(rng.randrange(7)))
        expected = naive_check_authority(text)
        accepted += expected
        for behind in (b"", b"]", b"0", b"0:"):
            status = shim.check_authority(b"@" + text + behind, 1, 1 + len(text))
            assert (status == 0) == expected, text
    assert accepted > 500


QUOTED = re.compile(rb'"((?:[^"\\]|\\.)+)"', re.DOTALL)
TOKEN = re.compile(rb"[A-Za-z0-9!#$%&'*+\-.^_`|~]+\Z")


def naive_skip_quoted(text):
    match = QUOTED.match(text)
    if not match or not TOKEN.match(re.sub(rb"\\(.)", rb"\1", match[1], flags=re.DOTALL)):
        return 0
    return match.end()


def test_quoted_string_agrees_with_a_naive_reading_whatever_follows_it():
    rng = random.Random(3)
    accepted = 0
    for _ in range(20_000):
        text = b'"' + bytes(rng.choice(b'aab1\\"" ,;') for _ in range(rng.randrange(8)))
        expected = naive_skip_quoted(text)
        accepted += expected > 0
        for behind in (b"", b"a", b'"'):
            assert shim.skip_quoted(text + behind, 0, len(text)) == expected, text
    assert accepted > 500


@pytest.mark.parametrize(
    "target, length",
    [
        (b"ws://h", 5),
        (b"wss://h", 6),
        (b"http://h", 7),
        (b"https://h", 8),
        (b"HtTpS://h", 8),
        (b"ws://", 5),
        (b"ws:/", 0),
        (b"ws", 0),
        (b"", 0),
        (b"https:/", 0),
        (b"ftp://h", 0),
        (b"/ws://h", 0),
    ],
)
def test_only_schemes_that_we_serve_are_known(target, length):
    assert shim.scheme_len(target) == length


@pytest.mark.parametrize(
    "text, end", [(b"h", 1), (b"h/a?b", 1), (b"h?a/b", 1), (b"/", 0), (b"", 0), (b"h:80", 4)]
)
def test_authority_ends_at_the_first_slash_or_question_mark(text, end):
    assert shim.authority_end(text, 0, len(text)) == end


def test_names_are_compared_whatever_their_case():
    name = b"sec-websocket-key"
    assert shim.equals(name, name)
    assert shim.equals(name.upper(), name)
    for at in range(len(name)):
        for byte in range(0x20, 0x100):
            text = name[:at] + bytes([byte]) + name[at + 1 :]
            assert shim.equals(text, name) == (text.lower() == name)
