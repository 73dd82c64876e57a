"""The sans-IO connection: the same events whole, byte by byte and chopped; limits, errors, memory.

Beside it a reading of the RFC of our own. Every header there can be is in test_every_frame.py, and what peers make
of random streams in tests/differential.
"""

from __future__ import annotations

import codecs
import random
import struct
import zlib
from collections.abc import Iterable
from itertools import pairwise, product

import pytest
from raw import BINARY, CLOSE, CONT, PING, PONG, TEXT, close_frame, frame, xor_mask
from uws_shims import proto_shim as shim
from uws_shims.proto_shim import Event, Proto

OK, PROTOCOL, UTF8, DEFLATE = shim.OK, shim.E_PROTOCOL, shim.E_UTF8, shim.E_DEFLATE
TOO_BIG, FRAGMENTS = shim.E_TOO_BIG, shim.E_FRAGMENTS
KEY = bytes([0x12, 0xFF, 0x00, 0x7A])

# An event without the place of its payload, which chopping changes.
Seen = tuple[str, int, bytes, int, "int | None"]


def join(*parts: tuple[object, ...]) -> bytes:
    return b"".join(frame(*part, mask=KEY) for part in parts)  # type: ignore[arg-type]


def text(payload: str | bytes) -> Seen:
    return "message", TEXT, payload.encode() if isinstance(payload, str) else payload, 0, None


def binary(payload: bytes) -> Seen:
    return "message", BINARY, payload, 0, None


def ping(payload: bytes) -> Seen:
    return "ping", 0, payload, 0, None


def pong(payload: bytes) -> Seen:
    return "pong", 0, payload, 0, None


def closing(code: int, reason: bytes = b"") -> Seen:
    return "close", 0, reason, code, code


def feed(proto: Proto, pieces: Iterable[bytes]) -> tuple[int, list[Seen]]:
    """Feed piece by piece; the status is the first that is not OK.

    An event of length 0 is nowhere and owns nothing.
    """
    status, seen = OK, []
    for piece in pieces:
        done = proto.done
        got, events = proto.feed(piece)
        if done:
            assert (got, events) == (OK, []), "input behind the end is ignored"
        for event in events:
            assert (event.payload == b"") == (event.place == "nowhere"), event
            seen.append(event[:5])
        status = status or got
        if got != OK or any(event.kind == "close" for event in events):
            assert proto.done
    return status, seen


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def chopped(data: bytes, rng: random.Random, cuts: int) -> list[bytes]:
    at = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(cuts))})
    return [data[a:b] for a, b in pairwise(at)]


def every_way(data: bytes, **limits: int) -> tuple[int, list[Seen]]:
    """Feed data whole, byte by byte, cut at every place and in random pieces: it is all the same."""
    rng = random.Random(len(data))
    ways = [[data], bytewise(data), *(chopped(data, rng, cuts) for cuts in (2, 3, 5, 9))]
    ways += [[data[:at], data[at:]] for at in range(1, min(len(data), 400))]
    results = []
    for way in ways:
        proto = Proto(**limits)
        results.append(feed(proto, way))
        assert results[-1] == results[0], way
        proto.reset()
        assert (proto.live_blocks, proto.used_bytes, proto.is_new) == (0, 0, True)
    return results[0]


# ---- messages


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 128, 255, 256, 257, 1000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_message_arrives_however_it_is_cut(opcode: int, size: int) -> None:
    payload = bytes(32 + i % 90 for i in range(size))
    assert every_way(frame(opcode, payload, mask=KEY)) == (OK, [("message", opcode, payload, 0, None)])


@pytest.mark.parametrize("size", [65_534, 65_535, 65_536, 65_537, 300_000])
def test_long_message_arrives_however_it_is_cut(size: int) -> None:
    payload = random.Random(size).randbytes(size)
    data = frame(BINARY, payload, mask=KEY)
    rng = random.Random(1)
    for way in (
        [data],
        [data[:13], data[13:]],
        [data[:14], data[14:]],
        [data[:-1], data[-1:]],
        chopped(data, rng, 99),
    ):
        proto = Proto()
        assert feed(proto, way) == (OK, [binary(payload)])
        assert (proto.live_blocks, proto.used_bytes) == (0, 0)


def test_a_whole_message_points_into_the_input_and_a_cut_one_is_the_events_own() -> None:
    data = frame(BINARY, b"payload", mask=KEY)
    proto = Proto()
    assert proto.feed(data)[1][0].place == "input"
    assert proto.feed(data[:9])[1] == []
    assert proto.feed(data[9:]) == (OK, [Event("message", BINARY, b"payload", 0, None, "owned")])
    assert proto.live_blocks == 0


def test_many_messages_in_one_input_are_all_there_in_order() -> None:
    data = b"".join(frame(TEXT, str(i), mask=KEY) for i in range(100))
    assert every_way(data) == (OK, [text(str(i)) for i in range(100)])


def test_the_shortest_frames_fill_the_room_for_events_exactly() -> None:
    """The shim gives no more room than the contract asks for; one that began before takes the one more."""
    proto = Proto()
    assert proto.feed(frame(PING, b"", mask=KEY)[:5]) == (OK, [])
    data = frame(PING, b"", mask=KEY)[5:] + frame(TEXT, b"", mask=KEY) * 50
    status, events = proto.feed(data)
    assert (status, len(events)) == (OK, 51)


@pytest.mark.parametrize(
    "sizes", [(1, 1), (5, 0), (0, 5), (3, 0, 4), (0, 0, 1), (100, 200, 300), (256, 1), (257, 1)]
)
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_fragments_are_one_message(opcode: int, sizes: tuple[int, ...]) -> None:
    parts = [bytes(65 + (i + k) % 26 for i in range(size)) for k, size in enumerate(sizes)]
    last = len(parts) - 1
    data = join(*((CONT if k else opcode, part, k == last) for k, part in enumerate(parts)))
    assert every_way(data) == (OK, [("message", opcode, b"".join(parts), 0, None)])


@pytest.mark.parametrize("fragments", [2, 3, 10])
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_empty_message_of_empty_fragments_is_one_message_without_a_payload_anywhere(
    opcode: int, fragments: int
) -> None:
    """Its data may be NULL: who takes what is not the event's own for a place in the input, is wrong."""
    empty = join((opcode, b"", False), *[(CONT, b"", False)] * (fragments - 2), (CONT, b""))
    after = frame(TEXT, b"behind", mask=KEY)
    assert every_way(empty + after) == (OK, [("message", opcode, b"", 0, None), text("behind")])
    proto = Proto()
    _, events = proto.feed(empty + after)
    assert [event.place for event in events] == ["nowhere", "input"]
    assert (proto.live_blocks, proto.used_bytes) == (0, 0)


def test_a_character_may_be_cut_by_a_fragment_and_by_the_input() -> None:
    payload = "aé世😀".encode()
    for at in range(len(payload) + 1):
        data = join((TEXT, payload[:at], False), (CONT, payload[at:]))
        assert every_way(data) == (OK, [text(payload)])


# ---- control frames


@pytest.mark.parametrize("size", [0, 1, 4, 124, 125])
@pytest.mark.parametrize(("opcode", "kind"), [(PING, "ping"), (PONG, "pong")])
def test_control_frame_arrives_however_it_is_cut(opcode: int, kind: str, size: int) -> None:
    payload = bytes(range(size))
    assert every_way(frame(opcode, payload, mask=KEY)) == (OK, [(kind, 0, payload, 0, None)])


def test_control_frames_between_fragments_come_before_the_message() -> None:
    data = join(
        (TEXT, "one ", False),
        (PING, b"p1"),
        (PONG, b""),
        (CONT, "two ", False),
        (PING, b""),
        (CONT, "three"),
        (PING, b"p3"),
    )
    expected = [ping(b"p1"), pong(b""), ping(b""), text("one two three"), ping(b"p3")]
    assert every_way(data) == (OK, expected)


def test_each_of_two_cut_pings_keeps_its_own_payload() -> None:
    """The first is read only after the second has begun to fill the place that it was collected in."""
    first, second = frame(PING, b"A" * 125, mask=KEY), frame(PING, b"B" * 125, mask=KEY)
    for inside in (False, True):
        proto = Proto()
        if inside:
            assert proto.feed(frame(TEXT, b"half", fin=False, mask=KEY)) == (OK, [])
        assert proto.feed(first[:60]) == (OK, [])
        status, events = proto.feed(first[60:] + second[:100])
        assert (status, [event[:5] for event in events]) == (OK, [ping(b"A" * 125)])
        assert events[0].place == "scratch"
        status, events = proto.feed(second[100:])
        assert (status, [event[:5] for event in events]) == (OK, [ping(b"B" * 125)])


def test_a_cut_ping_between_fragments_leaves_the_message_alone() -> None:
    data = join((BINARY, b"x" * 300, False), (PING, b"y" * 125), (CONT, b"z" * 300))
    assert every_way(data) == (OK, [ping(b"y" * 125), binary(b"x" * 300 + b"z" * 300)])


@pytest.mark.parametrize(
    ("body", "event"),
    [
        (b"", closing(1005)),
        (struct.pack("!H", 1000), closing(1000)),
        (struct.pack("!H", 1001) + "größe".encode(), closing(1001, "größe".encode())),
        (struct.pack("!H", 4999) + b"x" * 123, closing(4999, b"x" * 123)),
    ],
)
def test_close_frame_is_the_last_event_and_its_code_is_echoed(body: bytes, event: Seen) -> None:
    before = join((TEXT, "first"), (PING, b"p"))
    after = join((TEXT, "behind"), (PING, b"behind"))
    assert every_way(before + frame(CLOSE, body, mask=KEY) + after) == (
        OK,
        [text("first"), ping(b"p"), event],
    )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"\x03", PROTOCOL),
        (struct.pack("!H", 999), PROTOCOL),
        (struct.pack("!H", 1005), PROTOCOL),
        (struct.pack("!H", 1006), PROTOCOL),
        (struct.pack("!H", 1015), PROTOCOL),
        (struct.pack("!H", 5000), PROTOCOL),
        (struct.pack("!H", 1000) + b"\xff", UTF8),
        (struct.pack("!H", 1000) + "世".encode()[:2], UTF8),
    ],
)
def test_bad_close_frame_fails_the_connection(body: bytes, status: int) -> None:
    assert every_way(join((TEXT, "first"), (CLOSE, body), (TEXT, "behind"))) == (status, [text("first")])


def test_close_inside_a_message_ends_the_connection_and_drops_the_half() -> None:
    data = join((TEXT, "half", False)) + close_frame(1000, mask=KEY)
    assert every_way(data) == (OK, [closing(1000)])


# ---- limits


@pytest.mark.parametrize("limit", [1, 125, 126, 1000])
def test_a_message_of_one_frame_may_have_the_limits_size_and_no_byte_more(limit: int) -> None:
    for size in (limit - 1, limit):
        payload = b"x" * size
        assert every_way(frame(BINARY, payload, mask=KEY), max_message_bytes=limit) == (OK, [binary(payload)])
    assert every_way(frame(BINARY, b"x" * (limit + 1), mask=KEY), max_message_bytes=limit) == (TOO_BIG, [])


@pytest.mark.parametrize("first", [0, 1, 499, 500])
def test_a_message_of_fragments_may_have_the_limits_size_and_no_byte_more(first: int) -> None:
    limit = 500
    for size, expected in ((limit - 1, OK), (limit, OK), (limit + 1, TOO_BIG)):
        if size < first:
            continue
        data = join((BINARY, b"a" * first, False), (PING, b"p"), (CONT, b"b" * (size - first)))
        status, events = every_way(data, max_message_bytes=limit)
        assert status == expected
        whole = [binary(b"a" * first + b"b" * (size - first))] if expected == OK else []
        assert events == [ping(b"p"), *whole]


def test_the_limit_is_a_messages_not_the_connections() -> None:
    data = join((TEXT, "x" * 10), (TEXT, "y" * 6, False), (CONT, "z" * 4), (TEXT, "w" * 10))
    status, events = every_way(data, max_message_bytes=10)
    assert (status, len(events)) == (OK, 3)


def test_a_control_frame_is_bounded_by_the_rfc_not_by_the_limit_on_messages() -> None:
    assert every_way(frame(PING, b"x" * 125, mask=KEY), max_message_bytes=1) == (OK, [ping(b"x" * 125)])


@pytest.mark.parametrize("length", [2**20 + 1, 2**32, 2**32 + 10, 2**62, 2**63 - 1])
def test_a_declared_length_beyond_the_limit_is_refused_before_a_byte_of_it(length: int) -> None:
    head = b"\x82\xff" + struct.pack("!Q", length)
    assert every_way(head) == (TOO_BIG, [])
    start = join((BINARY, b"abc", False))
    assert every_way(start + b"\x80" + head[1:]) == (TOO_BIG, [])


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_a_message_may_have_the_limits_number_of_fragments_and_no_more(limit: int) -> None:
    for count, expected in ((limit, OK), (limit + 1, FRAGMENTS)):
        for payload in (b"x", b""):
            parts = [(CONT if k else BINARY, payload, k == count - 1) for k in range(count)]
            # Control frames are no fragments.
            data = join(*[part for one in parts for part in ((PING, b""), one)])
            status, events = every_way(data, max_fragments=limit)
            assert status == expected
            assert events[-1] == (binary(payload * count) if expected == OK else ping(b""))


def test_fragments_are_counted_anew_for_every_message() -> None:
    three = join((TEXT, "a", False), (CONT, "b", False), (CONT, "c"))
    assert every_way((three + join((TEXT, "d"))) * 3, max_fragments=3) == (OK, [text("abc"), text("d")] * 3)


# ---- UTF-8


BAD_UTF8 = [
    b"\xff",
    b"\xc0",
    b"\xf5",
    b"\xed\xa0",
    b"\xe0\x80",
    b"\xf0\x80",
    b"\xf4\x90",
    b"\xc3\x28",
    b"\xe4\xb8a",
]


@pytest.mark.parametrize("bad", BAD_UTF8)
def test_bad_text_is_refused_at_its_first_bad_byte_not_at_its_end(bad: bytes) -> None:
    for lead in (b"", b"ok ", "世界".encode(), b"x" * 300):
        # 1,000 bytes more are declared, and never come.
        good = frame(TEXT, lead + bad + b"x" * 1000, mask=KEY)[:-1001]
        proto = Proto()
        assert feed(proto, bytewise(good)) == (OK, [])
        last = frame(TEXT, lead + bad + b"x" * 1000, mask=KEY)[len(good) : len(good) + 1]
        assert proto.feed(last) == (UTF8, [])
        # In a fragment, too.
        data = join((TEXT, lead, False)) + frame(CONT, bad + b"x" * 50, fin=False, mask=KEY)[:-50]
        assert every_way(data) == (UTF8, [])


@pytest.mark.parametrize("cut", ["é", "世", "😀"])
def test_text_that_ends_within_a_character_is_1007(cut: str) -> None:
    for size in range(1, len(cut.encode())):
        half = cut.encode()[:size]
        assert every_way(join((TEXT, "good"), (TEXT, b"ok" + half))) == (UTF8, [text("good")])
        assert every_way(join((TEXT, b"ok" + half, False), (CONT, b""))) == (UTF8, [])
        # What follows is another message: it cannot complete the character.
        rest = cut.encode()[size:]
        assert every_way(join((TEXT, half), (TEXT, rest))) == (UTF8, [])


def test_binary_is_not_looked_at() -> None:
    data = join((BINARY, b"\xff\xc0"), (BINARY, b"\xed", False), (CONT, b"\xa0"))
    assert every_way(data) == (OK, [binary(b"\xff\xc0"), binary(b"\xed\xa0")])


def test_a_character_that_a_binary_message_left_open_is_not_the_next_texts() -> None:
    data = join((BINARY, b"\xe4\xb8", False), (CONT, b""), (TEXT, "世"), (TEXT, "x", False), (CONT, "y"))
    assert every_way(data) == (OK, [binary(b"\xe4\xb8"), text("世"), text("xy")])


# ---- errors


def test_what_came_before_an_error_is_valid_and_what_comes_behind_it_is_ignored() -> None:
    before = join((TEXT, "one"), (PING, b"p"), (BINARY, b"two", False), (CONT, b"!"))
    for wrong, status in (
        (frame(3, b"", mask=KEY), PROTOCOL),
        (frame(TEXT, b"x", mask=False), PROTOCOL),
        (frame(TEXT, b"\xff", mask=KEY), UTF8),
        (frame(CONT, b"", mask=KEY), PROTOCOL),
    ):
        behind = join((TEXT, "behind"), (CLOSE, b"\x03\xe8"))
        expected = [text("one"), ping(b"p"), binary(b"two!")]
        assert every_way(before + wrong + behind) == (status, expected)
        proto = Proto()
        assert feed(proto, [before, wrong, behind, behind]) == (status, expected)


def test_every_status_has_its_close_code() -> None:
    assert [shim.close_code(status) for status in (PROTOCOL, UTF8, TOO_BIG, FRAGMENTS)] == [
        1002,
        1007,
        1009,
        1008,
    ]


def test_nothing_fed_is_nothing_done() -> None:
    proto = Proto()
    assert proto.feed(b"") == (OK, [])
    assert proto.is_new
    proto.feed(b"\x81")
    assert proto.feed(b"") == (OK, [])
    assert proto.feed(frame(TEXT, b"x", mask=KEY)[1:]) == (OK, [Event(*text("x"), "input")])
    assert proto.is_new


# ---- memory


def test_it_costs_a_slot_sixteen_bytes() -> None:
    assert shim.PROTO_BYTES == 16


def test_an_idle_connection_owns_nothing() -> None:
    proto = Proto()
    for data in (join((TEXT, "x" * 5000)), join((TEXT, "a", False), (CONT, "b")), join((PING, b"p"))):
        for way in ([data], bytewise(data)):
            feed(proto, way)
            assert (proto.live_blocks, proto.used_bytes, proto.is_new) == (0, 0, True)


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING])
def test_reset_gives_back_whatever_was_cut(opcode: int) -> None:
    data = join((BINARY if opcode == BINARY else TEXT, "half", False), (PING, b"x" * 125), (CONT, "rest"))
    for at in range(len(data)):
        proto = Proto()
        proto.feed(data[:at])
        proto.reset()
        assert (proto.live_blocks, proto.used_bytes, proto.is_new) == (0, 0, True), at
        proto.reset()
        # As new: what was cut does not reach into the next connection.
        assert feed(proto, [join((TEXT, "fresh"))]) == (OK, [text("fresh")])


def test_memory_grows_with_what_is_received_not_with_what_is_declared() -> None:
    head = b"\x82\xff" + struct.pack("!Q", 1 << 20) + KEY
    for received in (0, 1, 10, 256, 257, 1000, 10_000, 100_000, 500_000):
        proto = Proto()
        for way in ([bytes(received)], [bytes(7)] * (received // 7)):
            proto.reset()
            assert feed(proto, [head, *way]) == (OK, [])
            # The partial state, and for the payload no more than twice what came, rounded up by the
            # allocator: half as much again, or a page and its head.
            assert proto.used_bytes <= 512 + 3 * received + 8192 * (received > 65_536), (
                received,
                proto.used_bytes,
            )
            assert proto.live_blocks <= 2
    # Declared small, it takes its own size and is never moved.
    proto = Proto()
    feed(proto, bytewise(frame(BINARY, bytes(200), mask=KEY)[:-1]))
    assert proto.used_bytes <= 512 + 256


def test_a_thousand_declared_mebibytes_cost_a_thousand_small_blocks() -> None:
    head = b"\x82\xff" + struct.pack("!Q", 1 << 20) + KEY + bytes(10)
    protos = [Proto() for _ in range(100)]
    for proto in protos:
        assert proto.feed(head) == (OK, [])
    assert sum(proto.used_bytes for proto in protos) < 100 * 1024


def test_a_partial_state_fits_a_size_class_of_the_allocator() -> None:
    assert shim.PARTIAL_BYTES == 192


def test_what_is_incomplete_is_counted_as_the_allocator_counts_it() -> None:
    rng = random.Random(5)
    data = join((TEXT, "x" * 700, False), (PING, b"p" * 90), (CONT, "y" * 3000), (BINARY, bytes(100)))
    for _ in range(200):
        room = shim.Env()
        protos = [Proto(room) for _ in range(3)]
        for proto in protos:
            for piece in chopped(data[: rng.randrange(len(data))], rng, 5):
                proto.feed(piece)
                assert room.partial_bytes == room.used_bytes
        for proto in protos:
            proto.reset()
        assert (room.partial_bytes, room.live_blocks) == (0, 0)


def test_the_stalest_is_whose_message_has_not_grown_for_longest() -> None:
    room = shim.Env()
    protos = [Proto(room) for _ in range(4)]

    def stalest() -> list[int]:
        return [i for i, proto in enumerate(protos) if proto.is_stalest]

    assert stalest() == []
    start, more = frame(TEXT, "x" * 100, mask=KEY)[:20], frame(TEXT, "x" * 100, mask=KEY)[20:30]
    for proto in protos:
        proto.feed(start)
    assert stalest() == [0]
    protos[0].feed(more)
    assert stalest() == [1]
    # A whole message of somebody else, and nothing at all, change nothing.
    protos[1].feed(b"")
    assert stalest() == [1]
    protos[1].reset()
    assert stalest() == [2]
    protos[3].feed(more)
    protos[2].feed(frame(TEXT, "x" * 100, mask=KEY)[20:])
    assert stalest() == [0]
    protos[0].reset()
    assert stalest() == [3]
    protos[3].reset()
    assert stalest() == []


def test_order_of_staleness_against_a_list() -> None:
    rng = random.Random(8)
    room = shim.Env()
    protos = [Proto(room) for _ in range(12)]
    order: list[int] = []
    for _ in range(3000):
        i = rng.randrange(12)
        if rng.random() < 0.3:
            protos[i].reset()
            order = [k for k in order if k != i]
        else:
            head = b"" if i in order else frame(BINARY, bytes(500), mask=KEY)[:8]
            if protos[i].feed(head + b"z")[0] == OK and protos[i].feed(b"")[0] == OK:
                order = [k for k in order if k != i] + [i]
            if protos[i].room.partial_bytes and rng.random() < 0.1:
                protos[i].feed(bytes(600))
                protos[i].reset()
                order = [k for k in order if k != i]
        assert [k for k, proto in enumerate(protos) if proto.is_stalest] == order[:1]


# ---- RSV1, where compression is negotiated


def test_rsv1_is_for_the_first_frame_of_a_message_where_compression_is_negotiated() -> None:
    for bits in (0, 9, 15):
        for opcode, inside in product(range(16), (False, True)):
            data = frame(TEXT, b"x", fin=False, mask=KEY) if inside else b""
            data += frame(opcode, b"", rsv=4, mask=KEY)[:5]
            allowed = bits and not inside and opcode in (TEXT, BINARY)
            assert every_way(data, window_bits=bits)[0] == (OK if allowed else PROTOCOL), (bits, opcode, inside)
            for rsv in (1, 2, 3, 5, 6, 7):
                data = frame(opcode, b"", rsv=rsv, mask=KEY)[:5]
                assert every_way(data, window_bits=bits)[0] == PROTOCOL


def test_terms_outlive_messages_and_the_reset() -> None:
    proto = Proto(window_bits=12)
    for _ in range(2):
        assert proto.feed(frame(TEXT, b"", rsv=4, mask=KEY)[:4])[0] == OK
        proto.reset()
        assert proto.is_new


# ---- compressed messages


def squeeze(payload: str | bytes, level: int = 6) -> bytes:
    """One message as RFC 7692, section 7.2.1, has it sent."""
    context = zlib.compressobj(level, zlib.DEFLATED, -15)
    data = payload.encode() if isinstance(payload, str) else payload
    return (context.compress(data) + context.flush(zlib.Z_SYNC_FLUSH))[:-4]


def squeezed(opcode: int, payload: str | bytes, *cuts: int, level: int = 6) -> bytes:
    """A compressed message in frames that end at these bytes of its compressed form."""
    data = squeeze(payload, level)
    at = [0, *cuts, len(data)]
    parts = [data[a:b] for a, b in pairwise(at)]
    last = len(parts) - 1
    return b"".join(
        frame(CONT if k else opcode, part, fin=k == last, rsv=0 if k else 4, mask=KEY)
        for k, part in enumerate(parts)
    )


@pytest.mark.parametrize("size", [0, 1, 5, 125, 126, 1000, 70_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_compressed_message_arrives_however_it_is_cut(opcode: int, size: int) -> None:
    payload = bytes(32 + i % 90 for i in range(size))
    event = ("message", opcode, payload, 0, None)
    assert every_way(squeezed(opcode, payload), window_bits=15) == (OK, [event])
    assert every_way(squeezed(opcode, payload, 1, 1, 2), window_bits=9) == (OK, [event])


def test_compressed_and_plain_messages_take_turns() -> None:
    data = squeezed(TEXT, "one" * 50) + frame(TEXT, "two", mask=KEY) + squeezed(BINARY, b"\xff" * 300, 3)
    data += join((TEXT, "f", False), (PING, b"p"), (CONT, "our")) + squeezed(TEXT, "")
    expected = [text("one" * 50), text("two"), binary(b"\xff" * 300), ping(b"p"), text("four"), text("")]
    assert every_way(data, window_bits=15) == (OK, expected)


def test_pings_come_between_the_frames_of_a_compressed_message() -> None:
    data = squeezed(TEXT, "x" * 500, 2, 4)
    first = len(frame(TEXT, b"xx", rsv=4, mask=KEY))
    data = data[:first] + frame(PING, b"p", mask=KEY) + data[first:]
    assert every_way(data, window_bits=15) == (OK, [ping(b"p"), text("x" * 500)])


def test_what_a_compressed_message_says_is_an_owned_block() -> None:
    proto = Proto(window_bits=15)
    assert proto.feed(squeezed(TEXT, "hello")) == (OK, [Event(*text("hello"), "owned")])
    assert proto.feed(squeezed(TEXT, "")) == (OK, [Event(*text(""), "nowhere")])
    assert (proto.live_blocks, proto.is_new) == (0, True)
    assert proto.room.inflated == (2, len(squeeze("hello")) + len(squeeze("")), 5)


def test_what_inflating_costs_is_counted_whatever_comes_of_it() -> None:
    """So that a turn ends after a bomb that comes to nothing, and after one that is refused."""
    limit = 10_000
    proto = Proto(window_bits=15, max_message_bytes=limit)
    # Stored blocks of no bytes, as many flushes leave them.
    nothing = b"\x00\x00\x00\xff\xff" * 1000 + b"\x00"
    assert proto.feed(frame(BINARY, nothing, rsv=4, mask=KEY)) == (OK, [Event(*binary(b""), "nowhere")])
    assert proto.room.work_bytes == len(nothing)
    bomb = squeeze("x" * (limit + 1))
    assert proto.feed(frame(TEXT, bomb, rsv=4, mask=KEY)) == (TOO_BIG, [])
    assert proto.room.work_bytes == len(nothing) + len(bomb) + limit


@pytest.mark.parametrize("bad", [*BAD_UTF8, "世".encode()[:2], b"\xf0\x9f"])
def test_compressed_text_that_is_no_utf8_is_1007(bad: bytes) -> None:
    for lead in (b"", b"fine " * 100):
        data = squeezed(TEXT, "good") + squeezed(TEXT, lead + bad, 2) + squeezed(TEXT, "behind")
        assert every_way(data, window_bits=15) == (UTF8, [text("good")])
        # What is compressed is not looked at as text, whatever its bytes are.
        assert every_way(squeezed(BINARY, lead + bad), window_bits=15) == (OK, [binary(lead + bad)])


def test_a_broken_stream_is_refused_and_what_came_before_it_is_not() -> None:
    for broken in (b"\x07", b"\xff\xff", squeeze("x" * 100)[:-3], squeeze("Hello") + b"\xff"):
        for parts in ([broken], [broken[:1], broken[1:]]):
            wrong = b"".join(
                frame(CONT if k else BINARY, part, fin=k == len(parts) - 1, rsv=0 if k else 4, mask=KEY)
                for k, part in enumerate(parts)
            )
            data = squeezed(TEXT, "good") + wrong + squeezed(TEXT, "behind")
            assert every_way(data, window_bits=15) == (DEFLATE, [text("good")])
    assert shim.close_code(DEFLATE) == 1007


@pytest.mark.parametrize("limit", [1, 125, 126, 1000, 70_000])
def test_the_limit_is_on_what_a_compressed_message_says(limit: int) -> None:
    for payload in (bytes(limit), random.Random(0).randbytes(limit)):
        for level in (0, 6):
            good = squeezed(BINARY, payload, level=level)
            assert every_way(good, window_bits=15, max_message_bytes=limit) == (OK, [binary(payload)])
            bad = squeezed(BINARY, payload + b"x", level=level)
            assert every_way(bad, window_bits=15, max_message_bytes=limit) == (TOO_BIG, [])


def test_a_compressed_message_longer_than_any_encoder_makes_one_is_refused_by_its_header() -> None:
    most = 1000 + 1000 // 8 + 1024
    for declared, status in ((most, OK), (most + 1, TOO_BIG)):
        head = frame(BINARY, b"", rsv=4, mask=KEY, length=declared)
        assert Proto(window_bits=15, max_message_bytes=1000).feed(head) == (status, [])
        more = frame(BINARY, b"x" * 1000, fin=False, rsv=4, mask=KEY)
        more += frame(CONT, b"", mask=KEY, length=declared - 1000)
        assert Proto(window_bits=15, max_message_bytes=1000).feed(more) == (status, [])
    # A plain message on the same connection has the plain limit.
    for rsv, status in ((0, TOO_BIG), (4, OK)):
        head = frame(BINARY, b"", rsv=rsv, mask=KEY, length=1001)
        assert Proto(window_bits=15, max_message_bytes=1000).feed(head) == (status, [])


def test_a_bomb_in_small_pieces_is_refused_and_leaves_nothing() -> None:
    data = squeezed(BINARY, bytes(20 << 20), *range(0, 20_000, 500))
    proto = Proto(window_bits=15)
    assert feed(proto, chopped(data, random.Random(1), 50)) == (TOO_BIG, [])
    # What was received, at most doubled, until the connection ends.
    assert proto.used_bytes <= 3 * len(data)
    proto.reset()
    assert (proto.live_blocks, proto.used_bytes, proto.room.partial_bytes) == (0, 0, 0)


def test_where_the_client_keeps_its_context_messages_refer_to_those_before() -> None:
    context = zlib.compressobj(9, zlib.DEFLATED, -15)
    messages = [b"the same thing again" * 3] * 6
    parts = [(context.compress(one) + context.flush(zlib.Z_SYNC_FLUSH))[:-4] for one in messages]
    assert len(parts[1]) < 10 < len(parts[0])
    # What is not compressed is no part of the window.
    plain = frame(BINARY, random.Random(0).randbytes(500), mask=KEY)
    data = b"".join(frame(BINARY, part, rsv=4, mask=KEY) + plain for part in parts)
    status, seen = every_way(data, window_bits=15, kept=True)
    assert (status, seen[::2]) == (OK, [binary(one) for one in messages])
    # Of each connection its own: two of them side by side, in one loop.
    room = shim.Env()
    both = [Proto(room, window_bits=15, kept=True) for _ in range(2)]
    for part, message in zip(parts, messages, strict=True):
        for proto in both:
            assert feed(proto, bytewise(frame(BINARY, part, rsv=4, mask=KEY))) == (OK, [binary(message)])
    # And where it was agreed that it keeps none, there is nothing to refer to.
    assert every_way(data, window_bits=15)[0] == DEFLATE


def test_the_budget_counts_compressed_messages_as_they_came() -> None:
    room = shim.Env()
    proto = Proto(room, window_bits=15)
    data = squeezed(BINARY, bytes(1 << 20))
    proto.feed(data[:-1])
    assert room.partial_bytes <= 192 + 3 * len(data)
    assert feed(proto, [data[-1:]]) == (OK, [binary(bytes(1 << 20))])
    assert (room.partial_bytes, room.live_blocks) == (0, 0)


# ---- an oracle of our own


class Oracle:
    """RFC 6455, sections 5 to 7, read by somebody who cares about nothing else: one frame after the other."""

    def __init__(self, max_message_bytes: int = 1 << 20, max_fragments: int = 1024) -> None:
        self.max_message_bytes = max_message_bytes
        self.max_fragments = max_fragments

    def run(self, data: bytes) -> tuple[int, list[Seen]]:
        events: list[Seen] = []
        message: int | None = None
        parts = b""
        fragments = 0
        decoder = codecs.getincrementaldecoder("utf-8")()
        while len(data) >= 2:
            fin, rsv, opcode = bool(data[0] & 0x80), data[0] & 0x70, data[0] & 0x0F
            masked, length = bool(data[1] & 0x80), data[1] & 0x7F
            control = opcode in (CLOSE, PING, PONG)
            known = control or opcode in (CONT, TEXT, BINARY)
            if rsv or not known or not masked or (control and (not fin or length > 125)):
                return PROTOCOL, events
            if not control and (opcode == CONT) != (message is not None):
                return PROTOCOL, events
            data = data[2:]
            extra = {126: 2, 127: 8}.get(length, 0)
            if length == 127 and data and data[0] & 0x80:
                return PROTOCOL, events
            if len(data) < extra:
                break
            if extra:
                length = int.from_bytes(data[:extra], "big")
                if length < (126 if extra == 2 else 65_536):
                    return PROTOCOL, events
                data = data[extra:]
            if not control and length > self.max_message_bytes:
                return TOO_BIG, events
            if len(data) < 4:
                break
            key, data = data[:4], data[4:]
            if not control:
                if opcode != CONT:
                    message, parts, fragments = opcode, b"", 0
                    decoder.reset()
                if len(parts) + length > self.max_message_bytes:
                    return TOO_BIG, events
                fragments += 1
                if fragments > self.max_fragments:
                    return FRAGMENTS, events
            payload, data = xor_mask(data[:length], key), data[length:]
            whole = len(payload) == length
            if not control and message == TEXT:
                try:
                    decoder.decode(payload, whole and fin)
                except UnicodeDecodeError:
                    return UTF8, events
            if not whole:
                break
            if opcode == PING:
                events.append(ping(payload))
            elif opcode == PONG:
                events.append(pong(payload))
            elif opcode == CLOSE:
                status = self.close(payload, events)
                return status, events
            else:
                parts += payload
                if fin:
                    assert message is not None
                    events.append(("message", message, parts, 0, None))
                    message = None
        return OK, events

    def close(self, body: bytes, events: list[Seen]) -> int:
        if not body:
            events.append(closing(1005))
            return OK
        code = int.from_bytes(body[:2], "big")
        defined = 1000 <= code <= 1014 and code not in (1004, 1005, 1006)
        if len(body) < 2 or not (defined or 3000 <= code <= 4999):
            return PROTOCOL
        try:
            body[2:].decode()
        except UnicodeDecodeError:
            return UTF8
        events.append(closing(code, body[2:]))
        return OK


# ---- random streams


WORDS = ["", "a", "hello", "größe", "世界", "😀", "x" * 125, "x" * 126, "y" * 300]


def random_stream(rng: random.Random, wrong: float) -> list[bytes]:
    """Frames of a client that mostly keeps to the rules and ends with a close frame; each breaks one with
    probability `wrong`. No length is in a longer form than it needs."""
    frames = []
    inside = False
    for _ in range(rng.randrange(1, 12)):
        what = rng.random()
        payload = rng.choice(WORDS).encode()
        fin, rsv, mask = True, 0, True
        if what < 0.25:
            opcode = rng.choice([PING, PONG])
            payload = payload[:125]
        else:
            opcode = CONT if inside else rng.choice([TEXT, TEXT, BINARY])
            fin = rng.random() < 0.5
            if rng.random() < 0.2:
                # Cut within a character, maybe: then the next fragment does not fit, or there is none.
                payload = payload[: rng.randrange(len(payload) + 1)]
            inside = not fin
        if rng.random() < wrong:
            which = rng.randrange(6)
            if which == 0:
                opcode = rng.randrange(16)
            elif which == 1:
                rsv = rng.randrange(1, 8)
            elif which == 2:
                mask = False
            elif which == 3:
                payload += rng.choice(BAD_UTF8)
            elif which == 4:
                # A bad code or a bad reason, never both: RFC 6455 does not say which of them is worse.
                some = [rng.randbytes(2) + b"bye", b"\x03\xe8" + rng.randbytes(3)]
                opcode, payload = CLOSE, rng.choice([*some, b"", rng.randbytes(1), rng.randbytes(2)])
            else:
                fin = not fin
        frames.append(frame(opcode, payload, fin, rsv, rng.randbytes(4) if mask else False))
    reason = rng.choice(["", "bye", "größe"])
    frames.append(close_frame(rng.choice([1000, 1001, 3000, 4999]), reason, rng.randbytes(4)))
    return frames


@pytest.mark.parametrize("wrong", [0.0, 0.1])
def test_random_streams_are_read_as_the_oracle_reads_them_whole_and_chopped(wrong: float) -> None:
    rng = random.Random(int(wrong * 10))
    statuses = set()
    for _ in range(2500):
        limits = {
            "max_message_bytes": rng.choice([1 << 20, 400, 125]),
            "max_fragments": rng.choice([1024, 4]),
        }
        data = b"".join(random_stream(rng, wrong))
        if rng.random() < 0.3:
            data = data[: rng.randrange(len(data))]
        if wrong and rng.random() < 0.3:
            mutated = bytearray(data)
            for _ in range(rng.randrange(1, 4)):
                if mutated:
                    mutated[rng.randrange(len(mutated))] ^= 1 << rng.randrange(8)
            data = bytes(mutated)
        expected = Oracle(**limits).run(data)
        for way in ([data], bytewise(data), chopped(data, rng, rng.randrange(1, 12))):
            proto = Proto(**limits)
            assert feed(proto, way) == expected, (data.hex(), limits)
            proto.reset()
            assert proto.live_blocks == 0
        statuses.add(expected[0])
    assert (
        statuses == {OK, PROTOCOL, UTF8, TOO_BIG, FRAGMENTS}
        if wrong
        else statuses >= {OK, TOO_BIG, FRAGMENTS}
    )
