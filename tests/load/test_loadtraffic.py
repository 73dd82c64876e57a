"""Messages out and replies in: each frame masked with a key of its own, each reply compared, each rule watched."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from fixtures import EchoServer
from raw_server import RawServer, Talk, echo, frame

from unlimitedws import loadgen

pytest.importorskip("hdrh", reason="the load generator needs hdrhistogram")

pytestmark = pytest.mark.usefixtures("no_fd_leaks")
QUICK: dict[str, Any] = {"connections": 2, "duration": 0.2, "warmup": 0.0, "reply_timeout": 5.0}


def load(talk: Callable[[Talk], None], **options: Any) -> loadgen.Result:
    with RawServer(talk) as server:
        return loadgen.run(server.url, **{**QUICK, **options})


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(
    ("size", "pipelining"), [(0, 1), (1, 3), (32, 1), (125, 16), (126, 100), (65536, 2), (1 << 20, 2)]
)
def test_an_honest_server_gets_no_errors(
    echo_server: EchoServer, size: int, pipelining: int, text: bool
) -> None:
    result = loadgen.run(
        f"ws://127.0.0.1:{echo_server.port}/", connections=5, duration=0.2, warmup=0.1, size=size,
        pipelining=pipelining, text=text,
    )  # fmt: skip
    assert result.errors == {}
    assert result.messages > 0 and result.opened == result.held == 5
    assert 0 < result.latency.percentile(50) <= result.latency.max


def test_every_frame_is_masked_with_another_key() -> None:
    with RawServer(echo) as server:
        result = loadgen.run(server.url, **QUICK, pipelining=8)
        keys = Counter(key for talk in server.talks for key in talk.keys)
    assert result.errors == {} and sum(keys.values()) > 100
    # Of n keys n * n / 2**33 are there twice by chance.
    assert sum(keys.values()) - len(keys) < 10


def test_what_a_connection_sends_differs_from_one_to_the_next() -> None:
    def check(talk: Talk) -> None:
        talk.open()
        before = None
        while True:
            opcode, payload = talk.message()
            assert opcode == 1 and payload != before
            payload.decode("ascii")
            before = payload
            talk.send(opcode, payload)

    result = load(check, text=True)
    assert result.errors == {} and result.messages > 2


def test_replies_may_come_in_fragments_with_pings_between_which_are_answered() -> None:
    def fragments(talk: Talk) -> None:
        talk.open()
        while True:
            opcode, payload = talk.message()
            half = len(payload) // 2
            talk.send(opcode, payload[:half], fin=False)
            talk.send(9, b"between")
            talk.send(0, b"", fin=False)
            # The rest byte by byte.
            for byte in frame(0, payload[half:]):
                talk.sock.sendall(bytes([byte]))
            assert talk.frame() == (0x8A, b"between")

    result = load(fragments)
    assert result.errors == {} and result.messages > 0
    assert result.pings >= result.messages


def test_a_ping_within_a_large_message_is_answered_behind_it_the_last_of_several() -> None:
    size = 4 << 20

    def slow_reader(talk: Talk) -> None:
        talk.open()
        # The rest of the message is on its way, and does not fit into what the kernels hold.
        talk.wait_for_some()
        for n in range(5):
            talk.send(9, b"%d" % n)
        opcode, payload = talk.message()
        assert len(payload) == size
        assert talk.frame() == (0x8A, b"4")
        talk.send(opcode, payload)
        _end(talk)

    with RawServer(slow_reader, receive_buffer=4096) as server:
        result = loadgen.run(
            server.url, connections=1, duration=0.01, warmup=0.0, size=size, reply_timeout=20.0
        )
    assert result.errors == {} and result.pings == 5


def _end(talk: Talk) -> None:
    while True:
        talk.send(*talk.message())


@pytest.mark.parametrize("how", ["bit", "short", "long", "opcode", "swapped", "doubled"])
def test_a_reply_that_is_not_the_message_is_counted(how: str) -> None:
    def wrong(talk: Talk) -> None:
        talk.open()
        held = talk.message()
        while True:
            opcode, payload = talk.message()
            if how == "swapped":
                talk.send(opcode, payload)
                talk.send(*held)
                held = talk.message()
                continue
            talk.send(*held)
            held = (opcode, payload)
            if how == "bit":
                held = (opcode, payload[:-1] + bytes([payload[-1] ^ 1]))
            elif how == "short":
                held = (opcode, payload[:-1])
            elif how == "long":
                held = (opcode, payload + b"x")
            elif how == "opcode":
                held = (3 - opcode, payload)
            elif how == "doubled":
                talk.send(opcode, payload)

    result = load(wrong, pipelining=2, reply_timeout=0.3)
    assert result.errors.get("wrong_reply", 0) > 0


def test_any_reply_is_one_where_nothing_is_compared() -> None:
    def answer(talk: Talk) -> None:
        talk.open()
        while True:
            talk.message()
            talk.send(1, b'{"answer": 42}')

    assert load(answer, any_reply=True).errors == {}
    assert load(answer).errors["wrong_reply"] > 0


def test_a_message_that_nobody_asked_for_is_counted() -> None:
    def talkative(talk: Talk) -> None:
        talk.open()
        talk.send(1, b"one more")
        while True:
            talk.send(*talk.message())

    result = load(talkative, rate=20.0)
    assert result.errors == {"unasked": 2}
    assert load(talkative, rate=20.0, greeting=1).errors == {}


@pytest.mark.parametrize(
    "wire",
    [
        b"\x82\x80\x01\x02\x03\x04",
        b"\xc2\x00",
        b"\x80\x00",
        b"\x83\x00",
        b"\x09\x00",
        b"\x82\x7e\x00\x05hello",
        b"\x88\x01x",
    ],
    ids=["masked", "rsv1", "continues nothing", "opcode 3", "cut ping", "long form", "close of one byte"],
)
def test_frames_that_break_the_rfc_are_counted_as_such(wire: bytes) -> None:
    def wrong(talk: Talk) -> None:
        talk.open()
        talk.message()
        talk.sock.sendall(wire)
        talk.read(1 << 30)

    result = load(wrong)
    assert result.errors == {"protocol": 2} and result.held == 0


@pytest.mark.parametrize(("payload", "code"), [(struct.pack("!H", 1013) + b"busy", "1013"), (b"", "1005")])
def test_an_early_close_is_counted_by_its_code_and_answered(payload: bytes, code: str) -> None:
    def close(talk: Talk) -> None:
        talk.open()
        talk.message()
        talk.send(8, payload)
        b0, answer = talk.frame()
        assert (b0, answer) == (0x88, payload[:2])

    result = load(close)
    assert (result.errors, result.details) == ({"closed": 2}, {"close_code": {code: 2}})


def test_an_end_without_a_close_frame_is_counted() -> None:
    def cut(talk: Talk) -> None:
        talk.open()
        talk.message()

    assert load(cut).errors == {"cut": 2}


def test_a_reply_that_does_not_come_ends_its_connection() -> None:
    def silent(talk: Talk) -> None:
        talk.open()
        while True:
            talk.message()

    result = load(silent, reply_timeout=0.1, duration=0.1)
    assert result.errors == {"reply_timeout": 2} and result.messages == 0
