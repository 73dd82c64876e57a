"""permessage-deflate: what is negotiated, what is compressed, what is inflated and at what cost.

Oracles: CPython's zlib, an inflate of our own that knows how far back a stream reaches, and the negotiation
of `websockets`.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from inflate_oracle import BrokenStreamError, inflate
from uws_shims import deflate_shim as shim
from uws_shims.deflate_shim import Deflater, Inflater, Own, Room
from websockets.exceptions import NegotiationError
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.headers import parse_extension

OK, BROKEN, TOO_BIG = shim.OK, shim.E_DEFLATE, shim.E_TOO_BIG
TAIL = b"\x00\x00\xff\xff"
MIB = 1 << 20


def head(*fields: str) -> bytes:
    """A valid request with these Sec-WebSocket-Extensions fields."""
    lines = ["GET / HTTP/1.1", "Host: x", "Upgrade: websocket", "X-Before: permessage-deflate"]
    lines += [f"Sec-WebSocket-Extensions: {field}" for field in fields]
    lines += ["X-After: permessage-deflate", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]
    return "\r\n".join(lines).encode()


def negotiate(*fields: str, **settings: Any) -> tuple[str, tuple[int, int, int, int]]:
    answer = shim.negotiate(head(*fields), **settings)
    assert answer is not None, "the request is not valid"
    return answer  # type: ignore[no-any-return]


def compress(message: bytes, bits: int = 15, level: int = 6, **kwargs: int) -> bytes:
    """As a peer whose zlib is CPython's."""
    context = zlib.compressobj(level, zlib.DEFLATED, -bits, **kwargs)
    data = context.compress(message) + context.flush(zlib.Z_SYNC_FLUSH)
    assert data.endswith(TAIL)
    return data[:-4]


def decompress(data: bytes, bits: int = 15) -> bytes:
    return zlib.decompressobj(-bits).decompress(data + TAIL)


def some_json(rng: random.Random, size: int) -> bytes:
    rows, length = [], 0
    while length < size:
        row = {"id": rng.randrange(10**8), "name": f"user{rng.randrange(99)}", "ok": rng.random() < 0.5}
        rows.append(json.dumps(row))
        length += len(rows[-1])
    return ",".join(rows)[:size].encode()


# ---- negotiation

PMD = "permessage-deflate"
RESETS = f"{PMD}; server_no_context_takeover; client_no_context_takeover"

# What is offered, what our default settings (no context is kept, windows of 15 bits) answer.
OFFERS = [
    (PMD, RESETS),
    (f"{PMD}; client_max_window_bits", RESETS),
    (f"{PMD}; client_max_window_bits=15", RESETS),
    (f"{PMD}; client_max_window_bits=14", f"{RESETS}; client_max_window_bits=14"),
    (f"{PMD}; client_max_window_bits=8", f"{RESETS}; client_max_window_bits=8"),
    (f"{PMD}; server_max_window_bits=15", f"{RESETS}; server_max_window_bits=15"),
    (f"{PMD}; server_max_window_bits=9", f"{RESETS}; server_max_window_bits=9"),
    (f"{PMD}; server_max_window_bits=8", f"{RESETS}; server_max_window_bits=8"),
    (f'{PMD}; server_max_window_bits="10"', f"{RESETS}; server_max_window_bits=10"),
    (f'{PMD}; server_max_window_bits="1\\0"', f"{RESETS}; server_max_window_bits=10"),
    (f'{PMD}; server_max_window_bits="\\8"', f"{RESETS}; server_max_window_bits=8"),
    (f"{PMD}; server_no_context_takeover", RESETS),
    (f"{PMD}; client_no_context_takeover", RESETS),
    (f"{PMD};server_max_window_bits=10;client_max_window_bits=11", f"{RESETS}; server_max_window_bits=10; "
     "client_max_window_bits=11"),
    (f"{PMD} ;\t server_no_context_takeover\t; client_max_window_bits = 12 ", f"{RESETS}; client_max_window_bits=12"),
    (f",, {PMD},", RESETS),
    # Declined, for itself ...
    ("", ""),
    ("permessage-bzip2", ""),
    ("x-permessage-deflate", ""),
    ("permessage-deflat", ""),
    ("permessage-deflate2", ""),
    ("Permessage-Deflate", ""),
    ("permessage-deflate-frame", ""),
    (f"{PMD}; unknown", ""),
    (f"{PMD}; unknown=1", ""),
    (f"{PMD}; server_no_context_takeover; unknown", ""),
    (f"{PMD}; Server_No_Context_Takeover", ""),
    (f"{PMD}; server_no_context_takeover=1", ""),
    (f"{PMD}; server_no_context_takeover=true", ""),
    (f'{PMD}; client_no_context_takeover="x"', ""),
    (f"{PMD}; server_max_window_bits", ""),
    *[(f"{PMD}; {side}_max_window_bits={value}", "") for side, value in product(
        ("server", "client"),
        ("0", "7", "16", "99", "08", "010", "1", "-8", "+9", "8.0", "0x9", "a", "150", "1e1", '"16"'),
    )],
    (f"{PMD}; server_no_context_takeover; server_no_context_takeover", ""),
    (f"{PMD}; client_no_context_takeover; client_no_context_takeover", ""),
    (f"{PMD}; server_max_window_bits=10; server_max_window_bits=10", ""),
    (f"{PMD}; server_max_window_bits=10; server_max_window_bits=11", ""),
    (f"{PMD}; client_max_window_bits; client_max_window_bits", ""),
    (f"{PMD}; client_max_window_bits; client_max_window_bits=10", ""),
    # ... or for another that comes behind it: the first that can be accepted is.
    (f"{PMD}; unknown, {PMD}; server_max_window_bits=11", f"{RESETS}; server_max_window_bits=11"),
    (f"{PMD}; server_max_window_bits=10, {PMD}; server_max_window_bits=11", f"{RESETS}; server_max_window_bits=10"),
    (f'foo; bar="x"; permessage-deflate, {PMD}; server_max_window_bits=12', f"{RESETS}; server_max_window_bits=12"),
    (f"{PMD}; server_max_window_bits=16, {PMD}; client_max_window_bits=7,{PMD}", RESETS),
]  # fmt: skip


@pytest.mark.parametrize(("offer", "answer"), OFFERS)
def test_each_offer_is_answered_or_declined(offer: str, answer: str) -> None:
    if offer:
        assert negotiate(offer)[0] == answer
    assert negotiate()[0] == ""
    # In another field, behind one with something else.
    assert negotiate("foo; a=1", f"{offer}, bar")[0] == answer
    assert negotiate(f"{PMD}; unknown", "foo", offer or "bar")[0] == answer
    assert negotiate(offer or "bar", enabled=False)[0] == ""


def test_the_first_acceptable_offer_of_all_fields_wins() -> None:
    fields = [f"{PMD}; nonsense", f"{PMD}; server_max_window_bits=12", f"{PMD}; server_max_window_bits=9"]
    assert negotiate(*fields)[1][0] == 12
    assert negotiate(fields[0], *reversed(fields))[1][0] == 9


@pytest.mark.parametrize(
    ("settings", "offer", "answer", "terms"),
    [
        # Contexts are kept where both sides want it.
        ({"server_takeover": 1}, PMD, f"{PMD}; client_no_context_takeover", (15, 15, 1, 0)),
        ({"client_takeover": 1}, PMD, f"{PMD}; server_no_context_takeover", (15, 15, 0, 1)),
        ({"server_takeover": 1, "client_takeover": 1}, PMD, PMD, (15, 15, 1, 1)),
        (
            {"server_takeover": 1, "client_takeover": 1},
            f"{PMD}; server_no_context_takeover",
            f"{PMD}; server_no_context_takeover",
            (15, 15, 0, 1),
        ),
        (
            {"server_takeover": 1, "client_takeover": 1},
            f"{PMD}; client_no_context_takeover",
            f"{PMD}; client_no_context_takeover",
            (15, 15, 1, 0),
        ),
        # Our windows are upper bounds.
        ({"server_bits": 12}, PMD, f"{RESETS}; server_max_window_bits=12", (12, 15, 0, 0)),
        (
            {"server_bits": 12},
            f"{PMD}; server_max_window_bits=15",
            f"{RESETS}; server_max_window_bits=12",
            (12, 15, 0, 0),
        ),
        (
            {"server_bits": 12},
            f"{PMD}; server_max_window_bits=10",
            f"{RESETS}; server_max_window_bits=10",
            (10, 15, 0, 0),
        ),
        (
            {"client_bits": 11, "client_takeover": 1},
            f"{PMD}; client_max_window_bits",
            f"{PMD}; server_no_context_takeover; client_max_window_bits=11",
            (15, 11, 0, 1),
        ),
        (
            {"client_bits": 11, "client_takeover": 1},
            f"{PMD}; client_max_window_bits=9",
            f"{PMD}; server_no_context_takeover; client_max_window_bits=9",
            (15, 9, 0, 1),
        ),
        # Not to be told its window: what its context would cost is saved by not keeping it.
        ({"client_bits": 11, "client_takeover": 1}, PMD, RESETS, (15, 15, 0, 0)),
        ({"client_bits": 11}, PMD, RESETS, (15, 15, 0, 0)),
    ],
)  # fmt: skip
def test_our_settings_are_upper_bounds(
    settings: dict[str, int], offer: str, answer: str, terms: tuple[int, int, int, int]
) -> None:
    assert negotiate(offer, **settings) == (answer, terms)


def test_the_longest_answer_fits_the_room_and_no_answer_goes_into_less() -> None:
    offer = f"{PMD}; server_max_window_bits=15; client_max_window_bits=14; server_no_context_takeover"
    answer = negotiate(offer, server_bits=14)[0]
    assert len(answer) == shim.ANSWER_BYTES
    assert negotiate(offer, cap=shim.ANSWER_BYTES - 1) == ("", (0, 0, 0, 0))


def test_malformed_extensions_never_get_here() -> None:
    for bad in ("a;;b", f"{PMD};", f"{PMD}; x=", f'{PMD}; x="', f'{PMD}; x=""', f'{PMD}; x="a b"', f"{PMD} {PMD}"):
        assert shim.negotiate(head(bad)) is None, bad


def test_a_client_understands_every_answer() -> None:
    """`websockets` as the client, over all that it can offer and all that we can be set to."""
    seen = set()
    for resets, server, client in product(
        product((False, True), repeat=2), (None, 9, 12, 15), (None, True, 9, 12, 15)
    ):
        factory = ClientPerMessageDeflateFactory(*resets, server, client)
        params = "".join(f"; {name}" + (f"={value}" if value else "") for name, value in factory.get_request_params())
        for takeover, ours, theirs in product(product((0, 1), repeat=2), (9, 12, 15), (9, 12, 15)):
            answer, terms = negotiate(
                PMD + params,
                server_takeover=takeover[0], client_takeover=takeover[1], server_bits=ours, client_bits=theirs,
            )  # fmt: skip
            ((name, pairs),) = parse_extension(answer)
            peer = factory.process_response_params(pairs, [])
            assert name == PMD
            assert (not peer.remote_no_context_takeover, not peer.local_no_context_takeover) == terms[2:]
            # What it reads with is at least what we write with, and the other way round.
            assert peer.remote_max_window_bits == terms[0]
            assert peer.local_max_window_bits <= terms[1]
            seen.add(terms)
    assert len(seen) > 20


def test_random_offers_are_declined_where_a_peers_server_declines_them() -> None:
    rng = random.Random(3)
    names = ["server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits",
             "client_max_window_bits", "foo"]  # fmt: skip
    counts = [0, 0]
    for _ in range(4000):
        params = [
            (rng.choice(names[: 4 + (rng.random() < 0.1)]), rng.choice([None, None, "8", "9", "10", "15", "16", "x"]))
            for _ in range(rng.randrange(4))
        ]
        offer = PMD + "".join(f"; {name}" + (f"={value}" if value else "") for name, value in params)
        try:
            _, peer = ServerPerMessageDeflateFactory(True, True).process_request_params(params, [])
            expected = True
        except NegotiationError:
            # It has no window of 8 bits to offer; we have.
            expected = False
        answer = negotiate(offer)[0]
        if not any(param == ("server_max_window_bits", "8") for param in params):
            assert bool(answer) == expected, offer
        if answer and expected:
            assert peer.local_max_window_bits == negotiate(offer)[1][0]
        counts[bool(answer)] += 1
    assert min(counts) > 500


# ---- compressing


@pytest.mark.parametrize("bits", range(8, 16))
@pytest.mark.parametrize("level", [0, 1, 6, 9, -1])
def test_what_is_compressed_is_what_a_peer_inflates(level: int, bits: int) -> None:
    rng = random.Random(bits)
    deflater = Deflater(level=level)
    smaller = 0
    for size in [1, 2, 3, 10, 100, 1000, 1024, 5000, 70_000, 300_000]:
        for message in (some_json(rng, size), bytes(size), rng.randbytes(size), b"abcd" * size):
            data = deflater.run(message, bits)
            if data is not None:
                smaller += 1
                assert len(data) < len(message)
                # Inflated in small steps, so that only the window holds what was before.
                peer = zlib.decompressobj(-bits)
                out = bytearray()
                for at in range(0, len(data), 50):
                    left = data[at : at + 50]
                    while left:
                        out += peer.decompress(left, 100)
                        left = peer.unconsumed_tail
                out += peer.decompress(TAIL)
                assert out == message
                assert Inflater().run(data, len(message)) == (OK, message)
    assert smaller >= (0 if level == 0 else 20)


@pytest.mark.parametrize("bits", range(8, 16))
def test_no_match_reaches_farther_back_than_the_window(bits: int) -> None:
    rng = random.Random(1)
    # Repeats at each distance there is, so that a match is there to be found beyond every window.
    blocks = [rng.randbytes(6) for _ in range(40)]
    message = b"".join(rng.choice(blocks) + rng.randbytes(rng.randrange(12)) for _ in range(2500))
    message += b"".join(part * 2 for part in (rng.randbytes(n) for n in (200, 250, 256, 257, 300, 512, 600, 5000)))
    message += b"x" * 600
    for level in (1, 2, 3, 6, 9):
        data = Deflater(level=level).run(message, bits)
        said = inflate(data)
        assert said.message == message
        assert 0 < said.farthest <= 1 << bits
        own = Own(level=level, server_bits=bits)
        window = b""
        for part in (message[:900], message[300:1500], message[:3000], message):
            said = inflate(own.deflate(part), window)
            assert said.message == part and said.farthest <= 1 << bits
            window = (window + part)[-32768:]


def test_messages_do_not_know_of_each_other_where_no_context_is_kept() -> None:
    deflater = Deflater()
    message = some_json(random.Random(0), 2000)
    first = deflater.run(message)
    for bits in (9, 15, 12, 15):
        deflater.run(random.Random(bits).randbytes(5000), bits)
        deflater.run(b"x" * 5000, bits)
    assert deflater.run(message) == first
    assert deflater.contexts == [9, 12, 15]


def test_what_does_not_become_smaller_is_said_to_gain_nothing() -> None:
    deflater = Deflater()
    assert deflater.run(b"") is None
    assert deflater.run(b"a") is None
    assert deflater.run(random.Random(0).randbytes(100_000)) is None
    # And what was given up in the middle leaves nothing behind.
    assert decompress(deflater.run(b"a" * 1000)) == b"a" * 1000


def test_the_buffer_of_one_huge_message_is_not_kept() -> None:
    deflater = Deflater()
    deflater.run(bytes(5_000_000))
    assert deflater.buffer_bytes >= 5_000_000
    deflater.run(bytes(1000))
    assert deflater.buffer_bytes < 300_000


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("mem_level", [1, 5, 8, 9])
def test_a_kept_context_is_followed_by_a_peer_whatever_is_sent(mem_level: int, level: int) -> None:
    rng = random.Random(level)
    for bits in (8, 9, 12, 15):
        own = Own(level=level, mem_level=mem_level, server_bits=bits)
        peer = zlib.decompressobj(-bits)
        for size in [1, 5, 1000, 0, 1000, 20_000, 1, 100_000, 700]:
            for message in (some_json(rng, size), rng.randbytes(size), b"z" * size):
                data = own.deflate(message)
                if size == 0:
                    assert data is None
                else:
                    assert peer.decompress(data + TAIL) == message
        assert own.room.live_blocks > 1
        own.give()
        assert (own.room.live_blocks, own.room.used_bytes) == (0, 0)


def test_a_kept_context_pays() -> None:
    rng = random.Random(4)
    own, deflater = Own(), Deflater()
    messages = [some_json(rng, 300) for _ in range(20)]
    kept = sum(len(own.deflate(message)) for message in messages)
    assert kept < 0.8 * sum(len(deflater.run(message)) for message in messages)


def test_a_kept_context_costs_nothing_before_it_is_used() -> None:
    room = Room()
    own = Own(room)
    assert room.used_bytes <= 64
    own.inflate(compress(b"x"))
    assert room.used_bytes < 100_000
    own.deflate(b"x")
    assert room.used_bytes > 200_000
    small = Room()
    narrow = Own(small, server_bits=9, client_bits=9, mem_level=1)
    narrow.deflate(b"x")
    narrow.inflate(compress(b"x", 9))
    if shim.library().startswith("zlib 1"):
        # The buffer of the window grows with its bits, and the hash table with the memory level.
        assert small.used_bytes < 32_768


# ---- inflating


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_what_a_peer_compresses_is_inflated(level: int, bits: int) -> None:
    rng = random.Random(level)
    room = Room()
    inflater = Inflater(room)
    for size in [0, 1, 2, 100, 125, 1024, 5000, 65_536, 65_537, 400_000]:
        for message in (some_json(rng, size), bytes(size), rng.randbytes(size)):
            assert inflater.run(compress(message, bits, level)) == (OK, message)
            assert inflater.run(compress(message, bits, level), size) == (OK, message)
            if size:
                assert inflater.run(compress(message, bits, level), size - 1) == (TOO_BIG, b"")
    assert (room.live_blocks, room.used_bytes) == (0, 0)


def test_the_examples_of_the_rfc() -> None:
    """Section 7.2.3: all of them say Hello."""
    inflater = Inflater()
    for data in (
        "f2 48 cd c9 c9 07 00",
        "00 05 00 fa ff 48 65 6c 6c 6f 00",
        "f3 48 cd c9 c9 07 00 00",
        "f2 48 05 00 00 00 ff ff ca c9 c9 07 00",
    ):
        assert inflater.run(bytes.fromhex(data)) == (OK, b"Hello"), data
    assert inflater.run(b"\x00") == (OK, b"")
    own = Own()
    assert own.inflate(bytes.fromhex("f2 48 cd c9 c9 07 00")) == (OK, b"Hello")
    assert own.inflate(bytes.fromhex("f2 00 11 00 00")) == (OK, b"Hello")
    # Without the first message there is nothing to refer to.
    assert inflater.run(bytes.fromhex("f2 00 11 00 00")) == (BROKEN, b"")


def final(message: bytes, pad: bytes = b"\x00", window: bytes = b"") -> bytes:
    """With BFINAL set in its last block, and the byte that section 7.2.3.4 wants behind it."""
    context = zlib.compressobj(6, zlib.DEFLATED, -15, zdict=window) if window else zlib.compressobj(6, wbits=-15)
    return context.compress(message) + context.flush(zlib.Z_FINISH) + pad


def test_a_message_may_have_final_blocks_and_go_on_behind_them() -> None:
    inflater = Inflater()
    one, two, three = b"one " * 50, b"two " * 50, b"three " * 50
    assert inflater.run(final(one)) == (OK, one)
    # Without the byte that is wanted behind it, it is as clear what is meant.
    assert inflater.run(final(one, b"")) == (OK, one)
    assert inflater.run(final(one, b"") + final(two, b"") + compress(three)) == (OK, one + two + three)
    # Behind a final block matches reach as far back as ever: the window goes on.
    whole = final(one, b"") + final(one, b"", window=one)
    assert inflater.run(whole) == (OK, one + one)
    own = Own()
    assert own.inflate(final(one)) == (OK, one)
    peer = zlib.compressobj(6, zlib.DEFLATED, -15, zdict=one)
    assert own.inflate((peer.compress(one) + peer.flush(zlib.Z_SYNC_FLUSH))[:-4]) == (OK, one)


def test_a_final_block_is_whole_also_where_its_message_fills_the_buffer_for_it() -> None:
    """zlib has then taken the last byte, and not yet seen that the block ends in it."""
    inflater, own = Inflater(), Own()
    for length in range(1, 2000):
        message = b"\n" + b"p" * length
        for pad in (b"\x00", b""):
            data = final(message, pad)
            assert inflater.run(data) == (OK, message), length
            assert own.inflate(data) == (OK, message), length
            assert inflater.run(data, length + 1) == (OK, message), length
            assert inflater.run(data, length) == (TOO_BIG, b""), length


def test_garbage_behind_a_final_block_is_refused() -> None:
    inflater = Inflater()
    for garbage in (b"\xff", b"\x07", b"\x00\x01\x02\x03\x04\x05", b"garbage"):
        assert inflater.run(final(b"message", garbage)) == (BROKEN, b""), garbage


def test_many_blocks_and_many_flushes_are_one_message() -> None:
    rng = random.Random(9)
    inflater = Inflater()
    for level in (0, 1, 9):
        parts = [some_json(rng, rng.randrange(300)) for _ in range(200)]
        context = zlib.compressobj(level, zlib.DEFLATED, -15)
        flushes = (zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_PARTIAL_FLUSH, zlib.Z_BLOCK)
        data = b"".join(context.compress(part) + context.flush(rng.choice(flushes)) for part in parts)
        data += context.flush(zlib.Z_SYNC_FLUSH)
        if not data.endswith(TAIL):
            data += b"\x00" + TAIL
        assert inflater.run(data[:-4]) == (OK, b"".join(parts))


def test_a_message_of_no_bytes_is_an_empty_one() -> None:
    """It should have one (section 7.2.3.6). A peer whose zlib had nothing to flush sends none."""
    assert Inflater().run(b"") == (OK, b"")
    assert Own().inflate(b"") == (OK, b"")


def test_a_message_that_is_cut_short_is_refused() -> None:
    """Or is one of its own: where it is cut behind a block, or where its last bytes may pass for a stored
    block."""
    inflater = Inflater()
    message = some_json(random.Random(0), 400)
    refused = 0
    for level in (0, 1, 6):
        data = compress(message, level=level)
        for at in range(1, len(data)):
            try:
                expected: tuple[int, bytes] = OK, inflate(data[:at]).message
            except BrokenStreamError:
                expected = BROKEN, b""
                refused += 1
            assert inflater.run(data[:at]) == expected, (level, at)
    assert refused > 500


def test_damaged_messages_are_read_or_refused_as_the_oracle_does_it() -> None:
    rng = random.Random(12)
    room = Room()
    inflater = Inflater(room)
    counts = {OK: 0, BROKEN: 0}
    for _ in range(3000):
        size = rng.randrange(1, 200)
        message = rng.choice([some_json(rng, size), rng.randbytes(size), bytes(size)])
        data = bytearray(compress(message, level=rng.choice([0, 1, 6, 9])))
        if rng.random() < 0.8:
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            data += rng.randbytes(rng.randrange(1, 5))
        try:
            expected: tuple[int, bytes] = OK, inflate(bytes(data)).message
        except BrokenStreamError:
            expected = BROKEN, b""
        assert inflater.run(bytes(data)) == expected, bytes(data).hex()
        counts[expected[0]] += 1
    assert min(counts.values()) > 300
    assert (room.live_blocks, room.used_bytes) == (0, 0)


# ---- bombs


def bomb(size: int, levels: int = 9) -> bytes:
    context = zlib.compressobj(levels, zlib.DEFLATED, -15)
    chunk = bytes(MIB)
    data = b"".join(context.compress(chunk) for _ in range(size // MIB)) + context.compress(bytes(size % MIB))
    return (data + context.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize("limit", [1, 100, 5000, 40_000, 65_535, 65_536, 65_537, 98_304, 100_000, MIB, 3 * MIB])
def test_a_bomb_is_refused_and_costs_no_more_than_the_limit(limit: int) -> None:
    data = bomb(20 * MIB)
    room = Room()
    inflater = Inflater(room)
    assert inflater.run(data, limit) == (TOO_BIG, b"")
    assert (room.live_blocks, room.used_bytes) == (0, 0)
    # Just at the limit, the block is no more than the limit and what a size class or a page adds.
    assert inflater.run(compress(bytes(limit)), limit) == (OK, bytes(limit))
    assert inflater.block_bytes <= limit + shim.SLACK_BYTES
    # All that was ever mapped for it: its mapping, and an arena for each smaller size that it grew through.
    assert room.held_bytes <= limit + shim.SLACK_BYTES + 12 * 262_144


def peak_bytes(work: Callable[[], object]) -> int:
    """How much more memory the process had, at most, while working."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def field(name: str) -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) << 10

    clear.write_text("5")
    before = field("VmRSS")
    work()
    return field("VmHWM") - before


@pytest.mark.parametrize("limit", [4 * MIB, 32 * MIB])
def test_the_kernel_agrees_on_what_a_bomb_costs(limit: int) -> None:
    data = bomb(256 * MIB)
    inflater = Inflater()
    assert inflater.run(compress(b"warm")) == (OK, b"warm")
    statuses = []
    peak = peak_bytes(lambda: statuses.append(inflater.run(data, limit)[0]))
    assert statuses == [TOO_BIG]
    # Beside the output: the shim's copy of the input, and the first touch of this and that.
    assert limit // 2 < peak <= limit + shim.SLACK_BYTES + len(data) + 512 * 1024


def test_the_wire_limit_lets_every_message_through_that_the_limit_lets_through() -> None:
    rng = random.Random(2)
    for size in (0, 1, 10, 125, 1000, 65_536, 500_000):
        for level, mem_level in product((0, 1, 9), (1, 8, 9)):
            for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY):
                data = compress(rng.randbytes(size), level=level, memLevel=mem_level, strategy=strategy)
                assert len(data) <= shim.wire_limit(size)
    assert shim.wire_limit(2**31 - 1) < 2**32


def test_broken_data_is_closed_with_1007_and_a_bomb_with_1009() -> None:
    assert (shim.close_code(BROKEN), shim.close_code(TOO_BIG)) == (1007, 1009)
