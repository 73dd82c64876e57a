"""The send queue: what is put in leaves in its order, whatever the transport takes, and no block stays."""

from __future__ import annotations

import random

import pytest
from uws_shims.outq_shim import AGAIN, E_NOMEM, E_SYS, LOST, MORE, OK, Outq
from websockets.frames import Frame, Opcode

LENGTHS = [0, 1, 124, 125, 126, 127, 446, 448, 449, 4096, 16_000, 65_534, 65_535, 65_536, 65_537, 300_000]
MAX_PARTS = 64


def blob(size: int, seed: int = 0) -> bytes:
    return random.Random(size * 31 + seed).randbytes(size)


def assert_clean(queue: Outq) -> None:
    assert queue.empty
    assert (queue.live_blocks, queue.used_bytes) == (0, 0)


def test_an_empty_queue_asks_nothing_of_the_transport() -> None:
    queue = Outq()
    assert queue.flush() == OK
    assert queue.calls == (0, 0, 0)
    assert_clean(queue)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_frame_is_the_one_that_a_peer_writes(length: int) -> None:
    for opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG):
        if opcode >= 8 and length > 125:
            continue
        queue = Outq()
        payload = blob(length)
        expected = Frame(opcode, payload).serialize(mask=False)
        assert queue.put_frame(opcode, payload) == OK
        assert queue.queued == len(expected)
        assert queue.flush() == OK
        assert queue.sent() == expected
        assert_clean(queue)


def test_what_is_queued_in_a_turn_leaves_with_one_send() -> None:
    """The cork: 30 times the throughput from 1 to 32 replies a send."""
    queue = Outq()
    for i in range(32):
        assert queue.put_frame(1, b"%08d" % i) == OK
    assert queue.flush() == OK
    assert queue.calls == (1, 0, 0)
    queue.put_frame(2, blob(10_000))
    queue.put_frame(2, blob(200_000))
    queue.put_frame(2, blob(10))
    assert queue.flush() == OK
    assert queue.calls[:2] == (1, 1)


@pytest.mark.parametrize("size", [1, 100, 448, 5000, 16_000, 100_000])
def test_the_three_ways_in_are_one_queue(size: int) -> None:
    queue = Outq()
    first, second, third = (blob(size, seed) for seed in range(3))
    assert queue.put(first) == OK
    assert queue.put_in_place(second) == OK
    assert queue.put_frame(2, third) == OK
    expected = first + second + Frame(Opcode.BINARY, third).serialize(mask=False)
    assert queue.queued == len(expected)
    assert queue.flush() == OK
    assert queue.sent() == expected
    assert_clean(queue)


def test_nothing_queued_is_nothing_sent_and_leaves_no_block() -> None:
    queue = Outq()
    assert queue.put(b"") == OK
    assert queue.queued == 0
    assert queue.flush() == OK
    assert queue.sent() == b""
    assert_clean(queue)
    assert queue.put(b"") == OK
    queue.drop()
    assert_clean(queue)


def test_a_full_socket_is_asked_once_and_loses_nothing() -> None:
    queue = Outq()
    data = blob(1000)
    queue.put(data)
    assert queue.flush([AGAIN]) == MORE
    assert (queue.queued, queue.sent(), queue.calls) == (1000, b"", (1, 0, 0))
    assert queue.flush() == OK
    assert queue.sent() == data
    assert_clean(queue)


def test_a_short_write_ends_the_flush_without_another_call() -> None:
    """A socket that took less than it was offered is full: asking again would only cost a system call."""
    for taken in (0, 1, 999):
        queue = Outq()
        data = blob(1000)
        queue.put(data)
        assert queue.flush([taken, AGAIN]) == MORE
        assert queue.steps_left == 1
        assert (queue.queued, queue.sent()) == (1000 - taken, data[:taken])
        assert queue.flush() == OK
        assert queue.sent() == data[taken:]
        assert_clean(queue)


def test_a_short_write_may_end_at_and_around_every_chunks_end() -> None:
    sizes = [448, 3, 16_000, 1, 70_000, 20]
    data = [blob(size, i) for i, size in enumerate(sizes)]
    whole = b"".join(data)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    for cut in sorted({end + d for end in ends for d in (-1, 0, 1)} - {len(whole) + 1}):
        queue = Outq()
        for part in data:
            assert queue.put(part) == OK
        status = queue.flush([cut])
        assert status == (OK if cut == len(whole) else MORE)
        assert queue.sent() == whole[:cut]
        assert queue.queued == len(whole) - cut
        assert queue.flush() == OK
        assert queue.sent() == whole[cut:]
        assert_clean(queue)


def test_chunks_are_given_back_as_they_leave_not_at_the_end() -> None:
    queue = Outq()
    for i in range(20):
        queue.put(blob(60_000, i))
    held = queue.used_bytes
    assert queue.flush([60_000 * 10]) == MORE
    assert queue.used_bytes <= held // 2
    assert queue.live_blocks == 10
    assert queue.flush() == OK
    assert_clean(queue)


@pytest.mark.parametrize(
    "chunks", [2, MAX_PARTS - 1, MAX_PARTS, MAX_PARTS + 1, 2 * MAX_PARTS, 3 * MAX_PARTS + 1]
)
def test_more_chunks_than_one_call_takes_leave_in_several(chunks: int) -> None:
    queue = Outq()
    data = [blob(17_000, i) for i in range(chunks)]
    for part in data:
        assert queue.put(part) == OK
    assert queue.live_blocks == chunks
    assert queue.flush() == OK
    assert queue.sent() == b"".join(data)
    assert 2 <= queue.calls[2] <= MAX_PARTS
    assert sum(queue.calls[:2]) == -(-chunks // MAX_PARTS)
    assert_clean(queue)


def test_a_lost_connection_is_said_and_the_rest_can_be_dropped() -> None:
    for steps in ([LOST], [100, LOST]):
        queue = Outq()
        for i in range(3):
            queue.put(blob(20_000, i))
        if len(steps) == 2:
            assert queue.flush(steps[:1]) == MORE
        assert queue.flush(steps[-1:]) == E_SYS
        queue.drop()
        assert_clean(queue)
        # Dropped means ended, not broken.
        assert queue.put(b"again") == OK
        queue.sent()
        assert queue.flush() == OK
        assert queue.sent() == b"again"
        assert_clean(queue)


def test_a_first_reply_takes_half_a_kilobyte_not_a_page() -> None:
    queue = Outq()
    queue.put_frame(1, b"x" * 400)
    assert (queue.live_blocks, queue.used_bytes) == (1, 512)


@pytest.mark.parametrize("framed", [False, True], ids=["room", "frame"])
@pytest.mark.parametrize("size", [2**64 - 1, 2**64 - 2, 2**64 - 11, 2**64 - 40, 2**63, 2**61])
def test_a_size_that_no_machine_has_is_refused_and_changes_nothing(size: int, framed: bool) -> None:
    queue = Outq()
    assert queue.put_absurd(size, framed) == E_NOMEM
    assert_clean(queue)
    queue.put(b"abc")
    assert queue.put_absurd(size, framed) == E_NOMEM
    assert (queue.queued, queue.live_blocks) == (3, 1)
    queue.put(b"def")
    assert queue.flush() == OK
    assert queue.sent() == b"abcdef"
    assert_clean(queue)


@pytest.mark.parametrize("seed", range(6))
def test_order_and_content_survive_random_puts_and_short_writes(seed: int) -> None:
    rng = random.Random(seed)
    queue = Outq()
    put, sent = bytearray(), bytearray()
    seen = set()
    for step in range(1500):
        if rng.random() < 0.6 and queue.queued < 4_000_000:
            data = blob(rng.choice([0, 1, 5, 100, 440, 449, 2000, 15_990, 16_001, 66_000]), step)
            if rng.random() < 0.5:
                assert queue.put_frame(2, data) == OK
                put += Frame(Opcode.BINARY, data).serialize(mask=False)
            else:
                assert rng.choice([queue.put, queue.put_in_place])(data) == OK
                put += data
        else:
            steps = [rng.choice([AGAIN, 0, 1, 7, 448, 16_000, rng.randrange(1_000_000)]) for _ in range(3)]
            status = queue.flush(steps)
            seen.add(status)
            sent += queue.sent()
            assert (status == OK) == queue.empty
        assert queue.queued == len(put) - len(sent)
    assert seen == {OK, MORE}
    while queue.flush([rng.randrange(200_000)]) == MORE:
        sent += queue.sent()
    sent += queue.sent()
    assert sent == put
    assert_clean(queue)


# --- making room ---


def wire(opcode: int, payload: bytes, rsv: int = 0) -> bytes:
    frame = Frame(Opcode(opcode), payload).serialize(mask=False)
    return bytes([frame[0] | rsv << 4]) + frame[1:]


def test_oldest_messages_make_room_and_no_more_of_them_than_it_takes() -> None:
    queue = Outq()
    sent = [wire(2, blob(100, i)) for i in range(10)]
    for i in range(10):
        queue.put_frame(2, blob(100, i))
    whole = queue.queued
    assert queue.make_room(whole + 1) == 0
    assert queue.make_room(whole) == 1
    assert queue.make_room(whole - 102) == 1
    assert queue.make_room(whole - 4 * 102 + 1) == 2
    assert queue.queued == whole - 4 * 102
    assert queue.flush() == OK
    assert queue.sent() == b"".join(sent[4:])
    assert_clean(queue)


@pytest.mark.parametrize("left", [1, 2, 50, 101, 102, 103, 204, 205])
def test_message_that_has_begun_to_leave_stays_whole(left: int) -> None:
    queue = Outq()
    sent = [wire(1, blob(100, i)) for i in range(5)]
    for i in range(5):
        queue.put_frame(1, blob(100, i))
    assert queue.flush([left]) == MORE
    begun = -(-left // 102)
    assert queue.make_room(queue.queued) == 1
    assert queue.flush() == OK
    assert queue.sent() == b"".join(sent[:begun] + sent[begun + 1 :])
    assert_clean(queue)


def test_control_frames_and_what_is_not_a_frame_stay() -> None:
    queue = Outq()
    queue.put(b"HTTP/1.1 101 Switching Protocols\r\n")
    queue.put(b"\r\n")
    for opcode, payload in ((9, b"ping"), (2, b"first"), (10, b"pong"), (1, b"second"), (9, b"last")):
        queue.put_frame(opcode, payload)
    size = len(wire(2, b"first") + wire(1, b"second"))
    assert queue.make_room(queue.queued - size) == 0
    assert queue.make_room(queue.queued - size + 1) == 2
    queue.flush()
    assert queue.sent() == b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + wire(9, b"ping") + wire(
        10, b"pong"
    ) + wire(9, b"last")
    assert_clean(queue)


def test_compressed_message_of_a_context_that_is_kept_stays() -> None:
    for keep in (True, False):
        queue = Outq()
        queue.put_frame(2, b"deflated", 4)
        queue.put_frame(2, b"as it is")
        assert queue.make_room(queue.queued, keep) == 1
        queue.flush()
        assert queue.sent() == (wire(2, b"deflated", 4) if keep else wire(2, b"as it is"))
        assert_clean(queue)


def test_where_no_room_can_be_made_nothing_is_dropped() -> None:
    queue = Outq()
    queue.put_frame(2, blob(50_000))
    queue.flush([10])
    queue.put_frame(2, b"small")
    assert queue.make_room(10_000) == 0
    assert queue.flush() == OK
    assert queue.sent() == wire(2, blob(50_000)) + wire(2, b"small")
    assert_clean(queue)


def test_queue_may_make_room_until_nothing_is_left_and_goes_on() -> None:
    queue = Outq()
    for i in range(300):
        queue.put_frame(2, blob(200, i))
    assert queue.make_room(1) == 300
    assert_clean(queue)
    queue.put_frame(2, b"next")
    queue.flush()
    assert queue.sent() == wire(2, b"next")
    assert_clean(queue)


@pytest.mark.parametrize("seed", range(8))
def test_random_sends_drops_and_short_writes_leave_the_frames_of_a_plain_list(seed: int) -> None:
    rng = random.Random(seed)
    queue = Outq()
    keep = bool(seed & 1)
    head = b"HTTP/1.1 101 x\r\n\r\n"
    queue.put(head)
    # (bytes, may go): what is queued, the first of which may have left in part.
    model: list[tuple[bytes, bool]] = [(head, False)]
    gone = drops = 0
    for step in range(1200):
        what = rng.random()
        if what < 0.55:
            opcode, rsv = rng.choice([(1, 0), (2, 0), (2, 4), (9, 0), (10, 0)])
            size = rng.randrange(126) if opcode > 8 else rng.choice([0, 1, 125, 126, 500, 9000, 16_000, 66_000])
            payload = blob(size, step)
            queue.put_frame(opcode, payload, rsv)
            model.append((wire(opcode, payload, rsv), opcode < 8 and not (keep and rsv)))
        elif what < 0.75:
            queue.flush([rng.choice([AGAIN, 0, 1, 3, 130, 5000, 40_000])])
            left = queue.sent()
            while left:
                data = model[0][0][gone:]
                assert left.startswith(data[: len(left)])
                if len(left) < len(data):
                    gone += len(left)
                    break
                left = left[len(data) :]
                model.pop(0)
                gone = 0
        else:
            below = queue.queued + 1 - rng.choice([0, 1, 100, 20_000, 10**9])
            below = max(below, 1)
            size, victims = queue.queued, []
            for i, (data, may_go) in enumerate(model):
                if size < below:
                    break
                if may_go and not (i == 0 and gone):
                    victims.append(i)
                    size -= len(data)
            if size >= below:
                victims = []
            assert queue.make_room(below, keep) == len(victims)
            model = [item for i, item in enumerate(model) if i not in victims]
            drops += len(victims)
        assert queue.queued == sum(len(data) for data, _ in model) - gone
    assert drops > 50
    assert queue.flush() == OK
    assert queue.sent() == b"".join(data for data, _ in model)[gone:]
    assert_clean(queue)


# --- cutting ---


def test_of_a_queue_that_is_cut_the_frame_that_has_begun_and_the_close_frame_are_left() -> None:
    frames = [wire(2, blob(100, 1)), wire(9, b"ping"), wire(1, blob(300, 2)), wire(2, blob(20_000, 3))]
    close = wire(8, b"\x03\xe8bye")
    for left in (*range(420), 5_000, sum(map(len, frames)) - 1):
        queue = Outq()
        for opcode, payload in ((2, blob(100, 1)), (9, b"ping"), (1, blob(300, 2)), (2, blob(20_000, 3))):
            queue.put_frame(opcode, payload)
        queue.put_frame(8, b"\x03\xe8bye")
        if left:
            assert queue.flush([left]) == MORE
        queue.cut()
        begun = end = 0
        while end < left:
            end += len(frames[begun])
            begun += 1
        assert queue.queued == end - left + len(close)
        assert queue.flush() == OK
        assert queue.sent() == b"".join(frames[:begun]) + close
        assert_clean(queue)


@pytest.mark.parametrize("rest", [10, 40_000])
def test_cutting_leaves_what_is_no_frame(rest: int) -> None:
    queue = Outq()
    # A response, or the end of a frame whose beginning left from where it was.
    queue.put(blob(7))
    queue.put(blob(rest, 1))
    for i in range(50):
        queue.put_frame(2, blob(500, i))
    queue.cut()
    assert queue.flush() == OK
    assert queue.sent() == blob(7) + blob(rest, 1)
    assert_clean(queue)
    queue.cut()
    assert_clean(queue)
