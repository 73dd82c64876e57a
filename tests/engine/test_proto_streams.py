"""Messages that are streamed: what leaves the sans-IO connection, piece by piece, is what would leave it whole."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from raw import BINARY, CLOSE, CONT, PING, PONG, TEXT, close_frame, frame
from uws_shims import proto_shim as shim
from uws_shims.proto_shim import Env, Event, Proto

OK, UTF8, TOO_BIG = shim.OK, shim.E_UTF8, shim.E_TOO_BIG
KEY = bytes([0x12, 0xFF, 0x00, 0x7A])
PIECES = ("first", "more", "final", "only")


def join(*parts: tuple[Any, ...]) -> bytes:
    return b"".join(frame(*part, mask=KEY) for part in parts)


def streaming(**options: Any) -> Proto:
    return Proto(**{"stream": True, **options})


def chopped(data: bytes, rng: random.Random, cuts: int) -> list[bytes]:
    at = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(cuts))})
    return [data[a:b] for a, b in pairwise(at)]


def every_chopping(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, cut in two everywhere, and at random."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for cut in range(1, len(data)):
        yield [data[:cut], data[cut:]]
    rng = random.Random(len(data))
    for cuts in (2, 3, 5, 8):
        yield chopped(data, rng, cuts)


def feed(proto: Proto, pieces: Iterable[bytes]) -> tuple[int, list[Event]]:
    """The first status that is not OK, and all events. What no piece may ever be is looked for here."""
    status, seen = OK, []
    for piece in pieces:
        got, events = proto.feed(piece)
        for before, after in pairwise(events):
            joined = before.kind in ("first", "more") and after.kind in ("more", "final")
            assert not joined, f"two pieces that could be one: {before} {after}"
        for event in events:
            if event.kind in PIECES:
                assert event.place == ("input" if event.payload else "nowhere")
                assert event.payload or event.kind in ("final", "only")
        seen += events
        status = status or got
    return status, seen


def assembled(events: list[Event]) -> list[tuple[Any, ...]]:
    """The events as they would be without streaming; a message that does not end is left out."""
    out: list[tuple[Any, ...]] = []
    payload, opcode = b"", 0
    for event in events:
        if event.kind not in PIECES:
            out.append(event[:5])
            continue
        if event.kind in ("first", "only"):
            assert opcode == 0, "a message begins within another one"
            payload, opcode = b"", event.opcode
        assert event.opcode == opcode != 0
        payload += event.payload
        if event.kind in ("final", "only"):
            out.append(("message", opcode, payload, 0, None))
            opcode = 0
    return out


def kinds(events: list[Event]) -> list[tuple[str, bytes]]:
    return [(event.kind, event.payload) for event in events]


# ---- the same messages as without streaming


MANY = join(
    (PING, b"p1"),
    (TEXT, "one"),
    (BINARY, b"", False),
    (CONT, b""),
    (TEXT, "grü", False),
    (PING, b"between"),
    (CONT, "ße, 世", False),
    (CONT, b"", False),
    (PONG, b""),
    (CONT, "界"),
    (BINARY, b"x" * 130, False),
    (CONT, b"y" * 7, False),
    (CONT, b"z" * 3),
    (TEXT, ""),
    (BINARY, bytes(300)),
    (CLOSE, struct.pack("!H", 1001) + b"bye"),
)


def test_pieces_put_together_are_the_messages() -> None:
    whole = feed(Proto(), [MANY])
    for pieces in every_chopping(MANY):
        proto = streaming()
        status, events = feed(proto, pieces)
        assert (status, assembled(events)) == (whole[0], [event[:5] for event in whole[1]])
        proto.reset()
        assert (proto.live_blocks, proto.room.partial_bytes) == (0, 0)


def random_stream(rng: random.Random) -> bytes:
    """Mostly right, sometimes wrong, always of the kind that hides mistakes: many short frames."""
    out = []
    inside = False
    for _ in range(rng.randrange(1, 30)):
        kind = rng.random()
        if kind < 0.2:
            out.append(frame(rng.choice([PING, PONG]), rng.randbytes(rng.choice([0, 1, 5, 125])), mask=True))
            continue
        payload = rng.choice([b"", b"x", "世".encode(), b"0123456789", b"y" * 126, b"z" * 400])
        fin = rng.random() < 0.4
        opcode = CONT if inside else rng.choice([TEXT, BINARY])
        if kind > 0.995:
            opcode, payload = rng.choice([(CONT, b""), (TEXT, b"\xff"), (3, b""), (TEXT, "世".encode()[:2])])
        out.append(frame(opcode, payload, fin=fin, mask=True))
        inside = not fin
    if rng.random() < 0.2:
        out.append(close_frame(1000))
    return b"".join(out)


def test_random_streams_are_read_as_without_streaming() -> None:
    rng = random.Random(20)
    failed = 0
    for _ in range(1500):
        data = random_stream(rng)
        status, events = feed(Proto(), [data])
        pieces = chopped(data, rng, rng.randrange(12))
        proto = streaming()
        got, seen = feed(proto, pieces)
        assert got == status
        assert assembled(seen) == [event[:5] for event in events]
        failed += status != OK
        proto.reset()
        assert (proto.live_blocks, proto.room.partial_bytes) == (0, 0)
    assert 20 < failed < 750


# ---- what a piece is


def test_a_message_that_is_there_as_a_whole_is_one_piece() -> None:
    status, events = feed(streaming(), [join((TEXT, "hello"), (BINARY, b""), (BINARY, b"a", False), (CONT, b"b"))])
    assert (status, kinds(events)) == (OK, [("only", b"hello"), ("only", b""), ("only", b"ab")])


def test_pieces_are_what_was_received_not_frames_as_they_were_cut() -> None:
    data = join((BINARY, b"abc", False), (CONT, b"", False), (CONT, b"def", False), (CONT, b"ghi"))
    # In the middle of "def".
    cut = len(join((BINARY, b"abc", False), (CONT, b"", False))) + 6 + 1
    assert kinds(feed(streaming(), [data[:cut], data[cut:]])[1]) == [("first", b"abcd"), ("final", b"efghi")]


def test_a_frame_of_many_reads_comes_as_it_is_received() -> None:
    data = frame(BINARY, b"0123456789", mask=KEY)
    proto = streaming()
    assert feed(proto, [data[:6]]) == (OK, [])
    assert kinds(feed(proto, [data[6:9]])[1]) == [("first", b"012")]
    assert kinds(feed(proto, [data[9:15]])[1]) == [("more", b"345678")]
    assert kinds(feed(proto, [data[15:]])[1]) == [("final", b"9")]
    assert proto.is_new
    assert proto.live_blocks == 0


def test_an_end_that_comes_by_itself_is_an_empty_piece() -> None:
    proto = streaming()
    assert kinds(feed(proto, [join((TEXT, "x", False))])[1]) == [("first", b"x")]
    assert kinds(feed(proto, [join((CONT, b"", False)), join((CONT, b""))])[1]) == [("final", b"")]
    assert kinds(feed(proto, [join((TEXT, b"", False)), join((CONT, b""))])[1]) == [("only", b"")]


@pytest.mark.parametrize("control", [PING, PONG])
def test_a_control_frame_between_fragments_keeps_its_payload_and_its_place(control: int) -> None:
    """Pieces are moved together over the headers between them, never over a payload that is read later."""
    data = join(
        (BINARY, b"a" * 50, False),
        (CONT, b"b" * 50, False),
        (control, b"c" * 125),
        (CONT, b"d" * 200, False),
        (CONT, b"e" * 200, False),
        (control, b"f" * 10),
        (CONT, b"g"),
    )
    _, events = feed(streaming(), [data])
    name = "ping" if control == PING else "pong"
    assert kinds(events) == [
        ("first", b"a" * 50 + b"b" * 50),
        (name, b"c" * 125),
        ("more", b"d" * 200 + b"e" * 200),
        (name, b"f" * 10),
        ("final", b"g"),
    ]


def test_a_close_frame_in_the_middle_leaves_the_message_without_an_end() -> None:
    status, events = feed(streaming(), [join((TEXT, "half", False)) + close_frame(1000, mask=KEY)])
    assert status == OK
    assert [event.kind for event in events] == ["first", "close"]


# ---- text


def test_text_is_refused_at_its_first_bad_byte() -> None:
    for bad in (b"\xff", b"\xc3\x28", b"\xed\xa0", b"\xf4\x90"):
        good = frame(TEXT, b"good " + bad + b"x" * 100, mask=KEY)
        cut = len(good) - 101
        proto = streaming()
        assert feed(proto, [good[i : i + 1] for i in range(cut)])[0] == OK
        assert proto.feed(good[cut : cut + 1]) == (UTF8, [])
        assert proto.done


def test_a_piece_with_a_bad_byte_is_not_delivered_those_before_it_are() -> None:
    proto = streaming()
    data = join((TEXT, b"good", False), (PING, b""), (CONT, b"b\xffd"))
    status, events = feed(proto, [data])
    assert (status, kinds(events)) == (UTF8, [("first", b"good"), ("ping", b"")])


def test_a_text_that_ends_within_a_character_is_1007_at_its_end() -> None:
    for last in (b"", b"x\xe4\xb8"):
        proto = streaming()
        assert feed(proto, [join((TEXT, b"\xe4\xb8", False))])[0] == OK
        status, events = feed(proto, [join((CONT, last))])
        assert status == UTF8
        assert "final" not in [event.kind for event in events]


def test_a_piece_may_end_within_a_character() -> None:
    data = frame(TEXT, "世界", mask=KEY)
    for cut in range(7, len(data)):
        _, events = feed(streaming(), [data[:cut], data[cut:]])
        assert b"".join(event.payload for event in events).decode() == "世界"


# ---- limits and memory


def test_a_streamed_message_has_its_own_limit_and_no_byte_more() -> None:
    options = {"max_message_bytes": 10, "max_stream_bytes": 1000}
    for parts in ([1000], [500, 500], [0, 1, 999, 0]):
        for more in (0, 1):
            sizes = [*parts[:-1], parts[-1] + more]
            data = join(
                *[(CONT if k else BINARY, b"x" * n, k == len(sizes) - 1) for k, n in enumerate(sizes)]
            )
            for pieces in ([data], chopped(data, random.Random(more), 9)):
                status, events = feed(streaming(**options), pieces)
                assert status == (TOO_BIG if more else OK)
                total = sum(len(event.payload) for event in events)
                assert total == (1000 if not more else sum(sizes[:-1]))


def test_a_declared_length_beyond_the_limit_is_refused_before_a_byte_of_it() -> None:
    head = b"\x82\xfe" + struct.pack("!H", 1001)
    assert streaming(max_stream_bytes=1000).feed(head) == (TOO_BIG, [])
    begun = streaming(max_stream_bytes=1000)
    begun.feed(join((BINARY, b"x", False)))
    assert begun.feed(b"\x80\xff" + struct.pack("!Q", 2**63 - 1)) == (TOO_BIG, [])


def test_the_limit_is_one_of_63_bits() -> None:
    proto = streaming(max_stream_bytes=2**63 - 1)
    assert proto.feed(b"\x82\xff" + struct.pack("!Q", 2**63 - 1) + KEY) == (OK, [])
    assert len(proto.feed(bytes(100_000))[1][0].payload) == 100_000


def test_a_streamed_message_may_have_any_number_of_fragments() -> None:
    parts = [(CONT if k else BINARY, b"x", k == 4999) for k in range(5000)]
    status, events = feed(streaming(max_fragments=1), [join(*parts)])
    assert (status, kinds(events)) == (OK, [("only", b"x" * 5000)])


def test_a_message_of_any_length_costs_one_block_that_nobody_counts() -> None:
    proto = streaming(max_stream_bytes=1 << 40)
    proto.feed(b"\x82\xff" + struct.pack("!Q", 1 << 32) + KEY)
    for _ in range(64):
        assert proto.feed(bytes(65536))[0] == OK
        assert proto.live_blocks == 1
        assert proto.used_bytes <= shim.PARTIAL_BYTES
        assert proto.room.partial_bytes == 0
    proto.reset()
    assert (proto.live_blocks, proto.room.partial_bytes) == (0, 0)


def test_who_streams_is_not_ended_for_what_others_keep() -> None:
    env = Env(stream=True)
    streams, keeps, cut = Proto(env), Proto(env), Proto(env)
    streams.feed(frame(BINARY, bytes(1000), mask=KEY)[:500])
    assert env.partial_bytes == 0
    assert not streams.is_stalest
    env.stream = False
    keeps.feed(frame(BINARY, bytes(1000), mask=KEY)[:500])
    cut.feed(b"\x81")
    assert keeps.is_stalest
    # Its next message is of the other kind, begins with a header that is cut, and counts.
    held = env.partial_bytes
    streams.feed(frame(BINARY, bytes(1000), mask=KEY)[500:] + b"\x82")
    assert env.partial_bytes == held + shim.PARTIAL_BYTES
    keeps.reset()
    cut.reset()
    assert streams.is_stalest
    streams.reset()
    assert (env.partial_bytes, env.live_blocks) == (0, 0)


def test_streaming_is_decided_when_a_message_begins() -> None:
    env = Env(stream=True)
    proto = Proto(env)
    assert kinds(feed(proto, [join((BINARY, b"a", False))])[1]) == [("first", b"a")]
    env.stream = False
    data = join((CONT, b"b"), (BINARY, b"c", False))
    assert kinds(feed(proto, [data])[1]) == [("final", b"b")]
    env.stream = True
    data = join((CONT, b"d"), (BINARY, b"e"))
    assert kinds(feed(proto, [data])[1]) == [("message", b"cd"), ("only", b"e")]


def test_a_compressed_message_is_kept_until_it_is_whole() -> None:
    """Only the whole of it is inflated, and it comes as one message, within the limit of those that are kept."""
    options = {"window_bits": 15, "max_message_bytes": 100, "max_stream_bytes": 1000}
    deflater = zlib.compressobj(wbits=-15)
    squeezed = (deflater.compress(b"squeezed more") + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
    proto = streaming(**options)
    data = frame(BINARY, squeezed[:5], fin=False, rsv=4, mask=KEY) + join((CONT, squeezed[5:]), (BINARY, b"plain"))
    for pieces in every_chopping(data):
        proto.reset()
        status, events = feed(proto, pieces)
        assert status == OK
        assert (events[0].kind, events[0].payload) == ("message", b"squeezed more")
        assert assembled(events)[1][2] == b"plain"
    assert streaming(**options).feed(frame(BINARY, bytes(101), mask=KEY))[0] == OK
    bomb = zlib.compressobj(wbits=-15)
    bomb_bytes = (bomb.compress(bytes(101)) + bomb.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert streaming(**options).feed(frame(BINARY, bomb_bytes, rsv=4, mask=KEY)) == (TOO_BIG, [])
