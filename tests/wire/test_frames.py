"""What a live server does on the wire with right and wrong frames (RFC 6455), sent whole and byte by byte.

Byte by byte means that the server has read each byte before the next is sent. One server serves them all:
a connection that was failed must not trouble the ones after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import raw
from live import Live, echo, expect_eof, expect_failure, frames, ping, send_bytewise, send_pieces, serve
from raw import BINARY, CLOSE, CONT, PING, PONG, TEXT, Close, Frame, RawClient

Send = Callable[..., None]

# Small enough that a message of the limit can be sent byte by byte.
LIMIT = 1000


def on_message(conn: Any, message: str | bytes) -> None:
    conn.send(message)


@pytest.fixture(scope="module", params=["on_read", "on_message"])
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    """An echo server; the two ways to get a message validate and copy it differently."""
    hook = {"on_read": echo} if request.param == "on_read" else {"on_message": on_message}
    with serve(**hook, close_timeout=0.5) as running:
        yield running


@pytest.fixture(scope="module")
def limited() -> Iterator[Live]:
    """An echo server with a small limit on messages."""
    with serve(on_read=echo, max_message_bytes=LIMIT) as running:
        yield running


@pytest.fixture
def client(live: Live) -> Iterator[RawClient]:
    with live.connect() as connected:
        yield connected


def send_whole(client: RawClient, data: bytes, stop_when_answered: bool = False) -> None:
    client.send(data)


@pytest.fixture(params=[send_whole, send_bytewise], ids=["whole", "bytewise"])
def send(request: pytest.FixtureRequest) -> Send:
    chosen: Send = request.param
    return chosen


# --- messages ---


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 7, 8, 125, 126, 127, 256])
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_message_is_echoed(client: RawClient, send: Send, opcode: int, size: int) -> None:
    payload = bytes(32 + i % 90 for i in range(size))
    send(client, raw.frame(opcode, payload))
    assert client.recv_frame() == Frame(True, 0, opcode, payload)


@pytest.mark.parametrize("size", [65535, 65536, 65537, 200_000, 1024 * 1024])
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_long_message_is_echoed(client: RawClient, opcode: int, size: int) -> None:
    payload = (bytes(range(32, 122)) * (size // 90 + 1))[:size]
    client.send_frame(opcode, payload)
    assert client.recv_frame() == Frame(True, 0, opcode, payload)


def test_long_message_whose_head_comes_byte_by_byte_is_echoed(client: RawClient) -> None:
    payload = bytes(range(256)) * 300
    whole = raw.frame(BINARY, payload)
    send_bytewise(client, whole[:20])
    send_pieces(client, [whole[20:1111], whole[1111:-1], whole[-1:]])
    assert client.recv_message() == payload


@pytest.mark.parametrize("key", [bytes(4), b"\xff" * 4, b"\x00\x00\x00\x01", b"\x80\x00\x00\x00", b"abcd"])
def test_any_mask_is_undone(client: RawClient, send: Send, key: bytes) -> None:
    payload = bytes(range(97))
    send(client, raw.frame(BINARY, payload, mask=key))
    assert client.recv_message() == payload


def test_messages_of_every_kind_in_one_stream(client: RawClient, send: Send) -> None:
    send(client, frames((TEXT, "a"), (BINARY, b"b"), (TEXT, ""), (BINARY, b""), (TEXT, "é")))
    assert [client.recv_message() for _ in range(5)] == ["a", b"b", "", b"", "é"]


# --- fragments ---


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize(
    "parts",
    [["ab", "cd"], ["", ""], ["", "x"], ["x", ""], ["", "", "", "x", "", ""], list("abcdefgh")],
    ids=str,
)
def test_fragments_are_joined(client: RawClient, send: Send, opcode: int, parts: list[str]) -> None:
    last = len(parts) - 1
    send(client, frames(*((opcode if i == 0 else CONT, part, i == last) for i, part in enumerate(parts))))
    assert client.recv_frame() == Frame(True, 0, opcode, "".join(parts).encode())


def test_pings_between_fragments_are_answered_before_the_message(client: RawClient, send: Send) -> None:
    send(
        client,
        frames(
            (TEXT, "one ", False),
            (PING, "first"),
            (CONT, "two ", False),
            (PONG, "unasked"),
            (PING, "second"),
            (PING, ""),
            (CONT, "three", True),
        ),
    )
    assert [client.recv_frame() for _ in range(3)] == [
        Frame(True, 0, PONG, b"first"),
        Frame(True, 0, PONG, b"second"),
        Frame(True, 0, PONG, b""),
    ]
    assert client.recv_message() == "one two three"


def test_ping_between_fragments_is_answered_while_the_message_is_open(client: RawClient) -> None:
    client.send_frame(TEXT, "begun", fin=False)
    ping(client)
    client.send_frame(CONT, " and done")
    assert client.recv_message() == "begun and done"


def test_close_between_fragments_ends_the_connection_and_drops_the_message(
    client: RawClient, send: Send
) -> None:
    send(client, raw.frame(TEXT, "half", fin=False) + raw.close_frame(1000))
    assert client.recv_close().code == 1000
    expect_eof(client)


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
def test_message_up_to_the_limit_is_echoed(limited: Live, send: Send, size: int) -> None:
    payload = b"x" * size
    with limited.connect() as client:
        send(client, raw.frame(BINARY, payload))
        assert client.recv_message() == payload
        send(
            client,
            frames((TEXT, payload[:1], False), (CONT, payload[1:-1], False), (CONT, payload[-1:], True)),
        )
        assert client.recv_message() == payload.decode()


def test_message_above_the_limit_is_closed_with_1009(limited: Live, send: Send) -> None:
    with limited.connect() as client:
        send(client, raw.frame(BINARY, b"x" * (LIMIT + 1)), stop_when_answered=True)
        expect_failure(client, 1009)


def test_client_that_is_still_sending_too_long_a_message_is_told_so(client: RawClient) -> None:
    # More than the kernel buffers: unless the server goes on reading, a reset may overtake its close frame.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.send_frame(BINARY, bytes(16 * 1024 * 1024))
    assert client.recv_close().code == 1009


def test_head_that_declares_more_than_the_limit_is_closed_with_1009(limited: Live, send: Send) -> None:
    with limited.connect() as client:
        send(client, raw.frame(BINARY, length=LIMIT + 1)[:4], stop_when_answered=True)
        expect_failure(client, 1009)


def test_fragment_that_declares_more_than_is_left_is_closed_with_1009(limited: Live, send: Send) -> None:
    with limited.connect() as client:
        send(client, raw.frame(TEXT, b"x" * (LIMIT - 5), fin=False))
        ping(client)
        send(client, raw.frame(CONT, length=6), stop_when_answered=True)
        expect_failure(client, 1009)


def test_limit_is_of_one_message_not_of_the_connection(limited: Live) -> None:
    with limited.connect() as client:
        for n in range(20):
            client.send(frames((BINARY, b"x" * LIMIT), (TEXT, str(n))))
            assert client.recv_message() == b"x" * LIMIT
            assert client.recv_message() == str(n)


def fragments(count: int) -> bytes:
    """A message in so many fragments, with a ping in the middle that must not count."""
    parts = [raw.frame(CONT if i else TEXT, "x", fin=i == count - 1) for i in range(count)]
    parts.insert(count // 2, raw.frame(PING, "not a fragment"))
    return b"".join(parts)


def test_1024_fragments_are_a_message(client: RawClient, send: Send) -> None:
    send(client, fragments(1024))
    assert client.recv_frame() == Frame(True, 0, PONG, b"not a fragment")
    assert client.recv_message() == "x" * 1024


def test_1025_fragments_are_closed_with_1008(client: RawClient) -> None:
    client.send(fragments(1025))
    assert client.recv_frame() == Frame(True, 0, PONG, b"not a fragment")
    expect_failure(client, 1008)


def test_fragment_limit_is_of_one_message_not_of_the_connection(client: RawClient) -> None:
    for _ in range(3):
        client.send(fragments(1000))
        assert client.recv_frame().opcode == PONG
        assert client.recv_message() == "x" * 1000


# --- ping and pong ---


@pytest.mark.parametrize("payload", [b"", b"x", b"\x00\xff\xfe\xfd", bytes(range(125))], ids=len)
def test_pong_carries_the_pings_payload(client: RawClient, send: Send, payload: bytes) -> None:
    send(client, raw.frame(PING, payload))
    assert client.recv_frame() == Frame(True, 0, PONG, payload)


def test_every_ping_is_answered_in_order(client: RawClient, send: Send) -> None:
    send(client, frames(*((PING, str(n)) for n in range(10))))
    assert [client.recv_frame() for _ in range(10)] == [
        Frame(True, 0, PONG, str(n).encode()) for n in range(10)
    ]


def test_unasked_pong_is_ignored(client: RawClient, send: Send) -> None:
    send(client, frames((PONG, ""), (PONG, b"x" * 125), (PING, "and this")))
    assert client.recv_frame() == Frame(True, 0, PONG, b"and this")


# --- the close handshake ---

VALID_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
INVALID_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 32768, 65535]


@pytest.mark.parametrize("code", VALID_CODES)
def test_close_is_answered_with_its_code(live: Live, client: RawClient, send: Send, code: int) -> None:
    send(client, raw.close_frame(code, "auf Wiedersehen, tschüß"))
    assert client.recv_close().code == code
    expect_eof(client)
    ended = live.ended_of(client)
    assert (ended.code, ended.reason) == (code, "auf Wiedersehen, tschüß")


def test_close_without_code_is_answered_without_code(live: Live, client: RawClient, send: Send) -> None:
    send(client, raw.close_frame(None))
    assert client.recv_close() == Close(None, "")
    expect_eof(client)
    # 1005 is what section 7.1.5 calls it; it is never on the wire.
    assert live.ended_of(client).code == 1005


@pytest.mark.parametrize("reason", ["", "x" * 123, "€" * 41], ids=len)
def test_close_reason_may_be_as_long_as_a_control_frame_lets_it(
    live: Live, client: RawClient, send: Send, reason: str
) -> None:
    send(client, raw.close_frame(1000, reason))
    assert client.recv_close().code == 1000
    expect_eof(client)
    assert live.ended_of(client).reason == reason


@pytest.mark.parametrize("code", INVALID_CODES)
def test_invalid_close_code_is_closed_with_1002(client: RawClient, send: Send, code: int) -> None:
    send(client, raw.close_frame(code, "why"), stop_when_answered=True)
    expect_failure(client, 1002)


def test_close_with_half_a_code_is_closed_with_1002(client: RawClient, send: Send) -> None:
    send(client, raw.frame(CLOSE, b"\x03"), stop_when_answered=True)
    expect_failure(client, 1002)


@pytest.mark.parametrize("reason", [b"\xff", b"ok \xc3", b"\xed\xa0\x80", b"\xc0\xaf"], ids=repr)
def test_close_reason_that_is_not_utf8_is_closed_with_1007(
    client: RawClient, send: Send, reason: bytes
) -> None:
    send(client, raw.close_frame(1000, reason), stop_when_answered=True)
    expect_failure(client, 1007)


def test_nothing_behind_a_close_is_processed(client: RawClient) -> None:
    client.send(raw.close_frame(1000) + frames((TEXT, "late"), (PING, "late"), (3, "wrong and late")))
    assert client.recv_close().code == 1000
    expect_eof(client)


@pytest.mark.parametrize(
    "code, reason", [(1000, ""), (1001, "away"), (3000, "x" * 123), (4999, "schöne Grüße")]
)
def test_close_of_the_server_ends_when_the_client_answers(
    live: Live, send: Send, code: int, reason: str
) -> None:
    client, conn = live.connect_conn()
    with client:
        conn.close(code, reason)
        assert client.recv_close() == (code, reason)
        send(client, raw.close_frame(code))
        expect_eof(client)
        ended = live.ended_of(client)
        assert (ended.conn, ended.code) == (conn, code)


def test_close_of_the_server_ends_when_the_client_never_answers(live: Live) -> None:
    client, conn = live.connect_conn()
    with client:
        conn.close(1000, "bye")
        assert client.recv_close() == (1000, "bye")
        expect_eof(client)
        assert live.ended_of(client).conn is conn


def test_messages_that_cross_the_servers_close_do_no_harm(live: Live) -> None:
    client, conn = live.connect_conn()
    with client:
        conn.close(1000, "bye")
        # Sent before the client has seen the close: it is in its right to.
        client.send(frames((TEXT, "crossing"), (BINARY, b"x" * 500, False), (PING, ""), (CONT, b"x")))
        client.send_close(1000)
        assert client.recv_close() == (1000, "bye")
        expect_eof(client)


# --- frames that fail the connection (sections 5.1 to 5.5) ---

VIOLATIONS: dict[str, bytes] = {
    **{
        f"unmasked {name}": raw.frame(opcode, payload, mask=False)
        for name, opcode, payload in [
            ("text", TEXT, b"x"),
            ("empty text", TEXT, b""),
            ("binary", BINARY, b"x"),
            ("continuation", CONT, b"x"),
            ("ping", PING, b""),
            ("pong", PONG, b""),
            ("close", CLOSE, b"\x03\xe8"),
        ]
    },
    **{
        f"rsv {rsv} on opcode {opcode}": raw.frame(opcode, b"\x03\xe8" if opcode == CLOSE else b"x", rsv=rsv)
        for rsv in range(1, 8)
        for opcode in (TEXT, BINARY, PING, PONG, CLOSE)
    },
    **{f"opcode {opcode}": raw.frame(opcode, b"x") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    **{f"opcode {opcode} without payload": raw.frame(opcode) for opcode in (3, 7, 11, 15)},
    **{f"fragmented control {opcode}": raw.frame(opcode, b"", fin=False) for opcode in (CLOSE, PING, PONG)},
    **{
        f"control {opcode} of {length}": raw.frame(opcode, b"\x03\xe8" + b"x" * 124, length=length)[:14]
        for opcode in (CLOSE, PING, PONG)
        for length in (126, 127, 65535, 65536, 1 << 40)
    },
    **{f"16-bit form for {n}": raw.frame(BINARY, b"x" * n, length_form=16) for n in (0, 1, 125)},
    **{f"64-bit form for {n}": raw.frame(BINARY, b"x" * n, length_form=64) for n in (0, 125, 126)},
    "64-bit form for 65535": raw.frame(BINARY, length=65535, length_form=64),
    **{f"16-bit form for a ping of {n}": raw.frame(PING, b"x" * n, length_form=16) for n in (0, 125)},
    "64-bit length with its top bit": raw.frame(BINARY, length=1 << 63),
    "64-bit length of all ones": raw.frame(BINARY, length=(1 << 64) - 1),
    "continuation of nothing": raw.frame(CONT, b"x"),
    "unfinished continuation of nothing": raw.frame(CONT, b"x", fin=False),
    "continuation behind a control frame": frames((PONG, ""), (CONT, b"x")),
    "text within a message": frames((TEXT, "a", False), (TEXT, "b")),
    "binary within a message": frames((BINARY, b"a", False), (CONT, b"a", False), (BINARY, b"b", False)),
}


@pytest.mark.parametrize("wrong", VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_violation_is_closed_with_1002(client: RawClient, send: Send, wrong: bytes) -> None:
    send(client, wrong, stop_when_answered=True)
    expect_failure(client, 1002)


def test_continuation_of_a_finished_message_is_closed_with_1002(client: RawClient, send: Send) -> None:
    send(client, frames((TEXT, "a", False), (CONT, "b", True)))
    assert client.recv_message() == "ab"
    send(client, raw.frame(CONT, "c"))
    expect_failure(client, 1002)


@pytest.mark.parametrize(
    "name", ["unmasked text", "opcode 3", "rsv 4 on opcode 1", "continuation of nothing"]
)
def test_messages_before_a_violation_are_answered_and_those_behind_are_not(
    client: RawClient, name: str
) -> None:
    client.send(
        frames((TEXT, "before"), (BINARY, b"too")) + VIOLATIONS[name] + frames((TEXT, "behind"), (PING, ""))
    )
    assert client.recv_message() == "before"
    assert client.recv_message() == b"too"
    expect_failure(client, 1002)


# --- UTF-8 (section 8.1) ---

TEXTS = ["é", "€", "🗺", "aé€🗺z", "\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_utf8_may_be_split_anywhere_over_fragments(client: RawClient, send: Send, text: str) -> None:
    data = text.encode()
    for cut in range(len(data) + 1):
        send(client, frames((TEXT, data[:cut], False), (CONT, data[cut:], True)))
        assert client.recv_message() == text
    send(
        client,
        frames(*((CONT if i else TEXT, data[i : i + 1], i == len(data) - 1) for i in range(len(data)))),
    )
    assert client.recv_message() == text


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_utf8_may_be_split_anywhere_over_segments(client: RawClient, text: str) -> None:
    whole = raw.frame(TEXT, text)
    for cut in range(1, len(whole)):
        send_pieces(client, [whole[:cut], whole[cut:]])
        assert client.recv_message() == text


@pytest.mark.parametrize("start", [b"\xc3", b"\xe2\x82", b"\xf0\x9f", b"\xf0\x9f\x97", b"\xed\x9f"], ids=repr)
def test_unfinished_character_may_still_be_finished(client: RawClient, start: bytes) -> None:
    end = {2: b"\xa9", 3: b"\xac", 4: b"\x97\xba"[-(4 - len(start)) :]}
    rest = end[2 if start[0] < 0xE0 else 3 if start[0] < 0xF0 else 4]
    client.send_frame(TEXT, start, fin=False)
    ping(client)
    client.send_frame(CONT, b"", fin=False)
    ping(client)
    client.send_frame(CONT, rest)
    assert client.recv_message() == (start + rest).decode()


# Each ends with the first byte that cannot be right.
FIRST_BAD_BYTE = [
    b"\x80",
    b"abc\xbf",
    b"\xc0",
    b"\xc1",
    b"\xc3\x28",
    b"\xc3\xc3",
    b"\xe0\x80",
    b"\xe0\x9f",
    b"\xe2\x82\x28",
    b"\xe2\x28",
    b"\xed\xa0",
    b"\xed\xbf",
    b"\xf0\x80",
    b"\xf0\x8f",
    b"\xf0\x9f\x97\x28",
    b"\xf4\x90",
    b"\xf5",
    b"\xf8",
    b"\xfe",
    b"abc\xff",
    "κόσμε".encode() + b"\xed\xa0",
    b"x" * 200 + b"\xff",
]


@pytest.mark.parametrize("bad", FIRST_BAD_BYTE, ids=lambda bad: repr(bad[-12:]))
def test_invalid_utf8_is_closed_with_1007_at_the_first_bad_byte(
    client: RawClient, send: Send, bad: bytes
) -> None:
    # 1,000 bytes are declared and never come.
    send(client, raw.frame(TEXT, bad, length=1000))
    expect_failure(client, 1007)


@pytest.mark.parametrize("bad", FIRST_BAD_BYTE, ids=lambda bad: repr(bad[-12:]))
def test_invalid_utf8_is_closed_with_1007_before_the_last_fragment(
    client: RawClient, send: Send, bad: bytes
) -> None:
    send(client, frames((TEXT, bad[:-1], False)))
    ping(client)
    send(client, frames((CONT, bad[-1:], False)))
    expect_failure(client, 1007)


@pytest.mark.parametrize("bad", FIRST_BAD_BYTE, ids=lambda bad: repr(bad[-12:]))
def test_invalid_utf8_in_a_whole_message_is_closed_with_1007(client: RawClient, bad: bytes) -> None:
    client.send_frame(TEXT, bad)
    expect_failure(client, 1007)


@pytest.mark.parametrize("cut", [b"\xc3", b"abc\xe2\x82", b"\xf0\x9f\x97", b"x" * 100 + b"\xe2"], ids=repr)
def test_message_that_ends_within_a_character_is_closed_with_1007(
    client: RawClient, send: Send, cut: bytes
) -> None:
    send(client, raw.frame(TEXT, cut))
    expect_failure(client, 1007)


@pytest.mark.parametrize("cut", [b"\xc3", b"abc\xe2\x82", b"\xf0\x9f\x97"], ids=repr)
def test_fragments_that_end_within_a_character_are_closed_with_1007(
    client: RawClient, send: Send, cut: bytes
) -> None:
    send(client, frames((TEXT, cut, False), (CONT, b"", True)))
    expect_failure(client, 1007)


@pytest.mark.parametrize("bad", FIRST_BAD_BYTE, ids=lambda bad: repr(bad[-12:]))
def test_binary_need_not_be_utf8(client: RawClient, send: Send, bad: bytes) -> None:
    send(client, frames((BINARY, bad, False), (CONT, b"\xff", True)))
    assert client.recv_message() == bad + b"\xff"
    # And leaves nothing behind for the text after it.
    send(client, raw.frame(TEXT, "é"))
    assert client.recv_message() == "é"
