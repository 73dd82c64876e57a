"""Messages that are read while they arrive: `on_fragment`, the option `streaming`, and `wsutil.open_message`."""

from __future__ import annotations

import hashlib
import io
import queue
import random
import re
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live import (
    Live,
    ServerProcess,
    each_mode,
    expect_eof,
    expect_failure,
    frames,
    ping,
    send_pieces,
    serve,
    take,
    wait,
    wait_until,
)
from raw import BINARY, CLOSE, CONT, PING, TEXT, TIMEOUT, RawClient, frame

import unlimitedws
from unlimitedws import CloseCause, ConnectionClosed, Fragment, OpCode, wsutil
from unlimitedws.auth import FirstMessageAuth, Identity

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

KIB, MIB = 1 << 10, 1 << 20


class Pieces:
    """An `on_fragment` that puts messages together, and asserts what is true of every piece."""

    def __init__(self) -> None:
        self.messages: queue.Queue[tuple[OpCode, bytes, int]] = queue.Queue()
        self.fragments: queue.Queue[Fragment] = queue.Queue()
        self._open: dict[Any, list[Fragment]] = {}

    def __call__(self, conn: Any, fragment: Fragment) -> None:
        assert type(fragment) is Fragment
        assert type(fragment.data) is bytes
        assert isinstance(fragment.opcode, OpCode)
        assert (conn in self._open) is not fragment.first
        pieces = self._open.setdefault(conn, [])
        pieces.append(fragment)
        assert len({piece.opcode for piece in pieces}) == 1
        assert fragment.data or fragment.final
        self.fragments.put(fragment)
        if fragment.final:
            del self._open[conn]
            self.messages.put((fragment.opcode, b"".join(piece.data for piece in pieces), len(pieces)))

    def take(self) -> tuple[OpCode, bytes, int]:
        return take(self.messages, "a message")

    def take_fragment(self) -> Fragment:
        return take(self.fragments, "a fragment")


def reading(then: Callable[[Any, Any], object], **options: Any) -> Callable[[Any], None]:
    """An `on_read` that opens its message for `then(conn, reader)`."""

    def on_read(conn: Any) -> None:
        with wsutil.open_message(conn, **options) as reader:
            then(conn, reader)

    return on_read


# --- on_fragment ---


@each_mode
def test_pieces_of_a_message_come_as_they_are_received(pool: Any) -> None:
    pieces = Pieces()
    with serve(pool=pool, on_fragment=pieces) as live:
        client = live.connect()
        data = frame(TEXT, "hello, 世界")
        send_pieces(client, [data[:8], data[8:-2], data[-2:]])
        got = [pieces.take_fragment() for _ in range(3)]
        assert [(piece.opcode, piece.first, piece.final) for piece in got] == [
            (OpCode.TEXT, True, False),
            (OpCode.TEXT, False, False),
            (OpCode.TEXT, False, True),
        ]
        # The last two bytes are half of a character's last byte and more: pieces know nothing of text.
        assert b"".join(piece.data for piece in got).decode() == "hello, 世界"
        assert got[2].data == "界".encode()[1:]


@each_mode
def test_a_message_that_is_there_at_once_is_one_piece_however_it_was_cut(pool: Any) -> None:
    pieces = Pieces()
    with serve(pool=pool, on_fragment=pieces) as live:
        client = live.connect()
        client.send(frames((BINARY, b"one", False), (CONT, b"", False), (CONT, b"two"), (TEXT, ""), (BINARY, b"x")))
        assert pieces.take() == (OpCode.BINARY, b"onetwo", 1)
        assert pieces.take() == (OpCode.TEXT, b"", 1)
        assert pieces.take() == (OpCode.BINARY, b"x", 1)
        assert live.server.counters()["messages_in"] == 3


@each_mode
def test_many_messages_of_many_connections_keep_their_order_and_their_bytes(pool: Any) -> None:
    pieces = Pieces()
    by_conn: dict[Any, list[bytes]] = {}

    def on_fragment(conn: Any, fragment: Fragment) -> None:
        pieces(conn, fragment)
        by_conn.setdefault(conn, []).append(fragment.data)

    rng = random.Random(5)
    with serve(pool=pool, on_fragment=on_fragment) as live:
        sent = []
        for _ in range(6):
            client, conn = live.connect_conn()
            out, said = [], []
            for _ in range(30):
                message = rng.randbytes(rng.choice([0, 1, 100, 70_000]))
                cut = rng.randrange(len(message) + 1)
                out.append(frames((BINARY, message[:cut], False), (PING, b""), (CONT, message[cut:])))
                said.append(message)
            sent.append((client, conn, b"".join(out), b"".join(said)))

        def send(client: RawClient, data: bytes) -> None:
            client.send(data)

        threads = [threading.Thread(target=send, args=(one[0], one[2])) for one in sent]
        for thread in threads:
            thread.start()
        for _ in range(6 * 30):
            pieces.take()
        for thread in threads:
            thread.join(TIMEOUT)
        for _, conn, _, said in sent:
            assert b"".join(by_conn[conn]) == said
        wait_until(lambda: live.server.counters()["inbox_bytes"] == 0, "all is delivered")


@each_mode
def test_pings_within_a_message_are_answered_while_its_callback_runs(pool: Any) -> None:
    pieces = Pieces()
    entered, go_on = threading.Event(), threading.Event()

    def on_fragment(conn: Any, fragment: Fragment) -> None:
        pieces(conn, fragment)
        if fragment.first:
            entered.set()
            wait(go_on)

    with serve(pool=pool, on_fragment=on_fragment) as live:
        client = live.connect()
        client.send_frame(BINARY, b"a", fin=False)
        wait(entered, "the callback")
        ping(client, b"one")
        client.send_frame(CONT, b"b", fin=False)
        ping(client, b"two")
        go_on.set()
        client.send_frame(CONT, b"c")
        assert pieces.take()[:2] == (OpCode.BINARY, b"abc")


@each_mode
def test_what_waits_for_a_callback_is_bounded_whatever_is_sent(pool: Any) -> None:
    pieces = Pieces()
    entered, go_on = threading.Event(), threading.Event()

    def on_fragment(conn: Any, fragment: Fragment) -> None:
        pieces(conn, fragment)
        if fragment.first:
            entered.set()
            wait(go_on)

    message = random.Random(3).randbytes(24 * MIB)
    with serve(pool=pool, on_fragment=on_fragment, max_inbox_bytes=MIB) as live:
        client = live.connect()
        thread = threading.Thread(target=client.send_frame, args=(BINARY, message))
        thread.start()
        wait(entered, "the callback")
        wait_until(lambda: live.server.counters()["pauses"] == 1, "reading pauses")
        counters = live.server.counters()
        assert MIB <= counters["inbox_bytes"] <= MIB + 64 * KIB
        assert counters["slab_used_bytes"] < 3 * MIB
        assert counters["incomplete_bytes"] == 0
        go_on.set()
        opcode, data, _ = pieces.take()
        thread.join(TIMEOUT)
        assert (opcode, data == message) == (OpCode.BINARY, True)


@each_mode
def test_bad_text_is_refused_at_its_first_bad_byte(pool: Any) -> None:
    pieces = Pieces()
    with serve(pool=pool, on_fragment=pieces) as live:
        client = live.connect()
        client.send_frame(TEXT, "世".encode()[:2], fin=False)
        assert pieces.take_fragment().data == "世".encode()[:2]
        # 1,000 bytes more are declared, and never come.
        client.send(frame(CONT, b"\xff" + bytes(1000))[:-1000])
        expect_failure(client, 1007)
        assert live.ended_of(client).conn.close_cause == CloseCause.PROTOCOL
        assert pieces.fragments.empty()


@each_mode
def test_a_message_above_the_limit_on_streams_is_1009(pool: Any) -> None:
    pieces = Pieces()
    with serve(pool=pool, on_fragment=pieces, max_stream_bytes=100, max_message_bytes=10) as live:
        client = live.connect()
        client.send(frames((BINARY, b"x" * 50, False), (CONT, b"y" * 50)))
        assert pieces.take()[1] == b"x" * 50 + b"y" * 50
        client.send_frame(BINARY, b"x" * 60, fin=False)
        assert pieces.take_fragment().final
        assert pieces.take_fragment().data == b"x" * 60
        client.send_frame(CONT, b"y" * 41)
        expect_failure(client, 1009)
        ended = live.ended_of(client)
        assert (ended.code, ended.conn.close_cause) == (1009, CloseCause.LIMIT)
        assert pieces.messages.empty()


@each_mode
def test_closing_in_the_middle_ends_the_pieces(pool: Any) -> None:
    seen: queue.Queue[bytes] = queue.Queue()

    def on_fragment(conn: Any, fragment: Fragment) -> None:
        seen.put(fragment.data)
        conn.close(4000, "enough")

    with serve(pool=pool, on_fragment=on_fragment) as live:
        client = live.connect()
        client.send_frame(BINARY, b"one", fin=False)
        assert client.recv_close().code == 4000
        client.send(frames((CONT, b"two", False), (CONT, b"three"), (CLOSE, struct.pack("!H", 4000))))
        expect_eof(client)
        assert live.ended_of(client)[1:] == (4000, "")
        assert [*seen.queue] == [b"one"]


@each_mode
def test_raising_in_the_middle_closes_with_1011_and_ends_the_pieces(pool: Any) -> None:
    seen: queue.Queue[bytes] = queue.Queue()

    def on_fragment(conn: Any, fragment: Fragment) -> None:
        seen.put(fragment.data)
        raise ValueError("no more")

    with serve(pool=pool, on_fragment=on_fragment) as live:
        client = live.connect()
        client.send(frames((BINARY, b"one", False), (PING, b""), (CONT, b"two")))
        take(live.errors)
        assert live.ended_of(client).code == 1011
        assert [*seen.queue] == [b"one"]


@each_mode
@pytest.mark.parametrize("how", ["fin", "reset", "close"])
def test_on_close_comes_after_the_pieces_of_a_message_that_has_no_end(pool: Any, how: str) -> None:
    order: queue.Queue[Any] = queue.Queue()
    with serve(
        pool=pool,
        on_fragment=lambda conn, fragment: order.put(fragment),
        on_close=lambda conn: order.put((conn.close_code, conn.close_cause)),
    ) as live:
        client = live.connect()
        client.send_frame(BINARY, b"half", fin=False)
        assert take(order) == (OpCode.BINARY, b"half", True, False)
        if how == "fin":
            client.shutdown()
        elif how == "reset":
            client.reset()
        else:
            client.send_close(1001)
        code, cause = take(order)
        assert (code, cause) == ((1001, CloseCause.PEER) if how == "close" else (1006, CloseCause.LOST))
        assert order.empty()


@each_mode
def test_the_hook_may_be_set_and_taken_away_while_messages_come(pool: Any) -> None:
    pieces, whole = Pieces(), queue.Queue[Any]()
    with serve(pool=pool, on_message=lambda conn, message: whole.put(message)) as live:
        client = live.connect()
        client.send_frame(TEXT, "one ", fin=False)
        ping(client)
        live.server.on_fragment = pieces
        client.send_frame(CONT, "and one")
        # It was begun to be kept, and comes as it was begun: whole.
        assert pieces.take() == (OpCode.TEXT, b"one and one", 1)
        client.send_frame(TEXT, "two ", fin=False)
        assert pieces.take_fragment().final
        assert pieces.take_fragment().data == b"two "
        live.server.on_fragment = None
        # Its beginning has gone elsewhere.
        client.send_frame(CONT, "and two")
        client.send_frame(TEXT, "three")
        assert take(whole) == "three"
        assert whole.empty()
        assert pieces.messages.empty()


def test_on_fragment_is_used_instead_of_on_message_and_of_on_read() -> None:
    pieces, others = Pieces(), queue.Queue[Any]()
    with serve(on_read=others.put, on_message=lambda *both: others.put(both), on_fragment=pieces) as live:
        live.connect().send_frame(TEXT, "x")
        assert pieces.take()[1] == b"x"
        assert others.empty()


# --- open_message ---


@each_mode
def test_a_message_is_read_while_it_arrives(pool: Any) -> None:
    read: queue.Queue[Any] = queue.Queue()

    def take_it(conn: Any, reader: Any) -> None:
        read.put(reader.opcode)
        for piece in reader:
            read.put(piece)
        read.put("end")

    with serve(pool=pool, io_timeout=TIMEOUT, on_read=reading(take_it), streaming=True) as live:
        client = live.connect()
        client.send_frame(TEXT, "one", fin=False)
        assert take(read) is OpCode.TEXT
        assert take(read) == b"one"
        client.send_frame(CONT, "", fin=False)
        client.send_frame(CONT, "two", fin=False)
        assert take(read) == b"two"
        ping(client)
        client.send_frame(CONT, "")
        assert take(read) == "end"


@each_mode
@pytest.mark.parametrize("streaming", [True, False])
def test_read_gives_at_most_what_it_is_asked_for(pool: Any, streaming: bool) -> None:
    """On a server that does not stream it is the same, but that the message is there already."""
    read: queue.Queue[Any] = queue.Queue()

    def take_it(conn: Any, reader: Any) -> None:
        read.put([reader.read(0), reader.read(2), reader.read(1), reader.read(100), reader.read()])
        read.put([reader.read(), reader.read(1), next(reader, None)])

    with serve(pool=pool, on_read=reading(take_it), streaming=streaming) as live:
        client = live.connect()
        client.send_frame(BINARY, b"0123456789")
        assert take(read) == [b"", b"01", b"2", b"3456789", b""]
        assert take(read) == [b"", b"", None]
        client.send_frame(BINARY, b"")
        assert take(read) == [b"", b"", b"", b"", b""]


@each_mode
def test_copyfileobj_copies_a_message(pool: Any) -> None:
    files: queue.Queue[io.BytesIO] = queue.Queue()

    def copy(conn: Any, reader: Any) -> None:
        file = io.BytesIO()
        shutil.copyfileobj(reader, file)
        files.put(file)

    message = random.Random(1).randbytes(3 * MIB + 1)
    with serve(pool=pool, io_timeout=TIMEOUT, on_read=reading(copy), streaming=True) as live:
        client = live.connect()
        for cut in (0, 1, MIB, len(message)):
            client.send(frames((BINARY, message[:cut], False), (PING, b"")))
            client.recv_frame()
            client.send_frame(CONT, message[cut:])
            assert take(files).getvalue() == message


@each_mode
def test_a_reader_that_is_left_early_leaves_the_rest_behind(pool: Any) -> None:
    heads: queue.Queue[Any] = queue.Queue()
    with serve(
        pool=pool, on_read=reading(lambda conn, reader: heads.put(reader.read(3))), streaming=True
    ) as live:
        client = live.connect()
        client.send_frame(TEXT, "abcdef", fin=False)
        assert take(heads) == b"abc"
        for _ in range(3):
            client.send_frame(CONT, "x" * 100_000, fin=False)
        client.send(frames((CONT, "end"), (TEXT, "ghi"), (TEXT, "jkl", False), (CONT, "mno"), (BINARY, b"pqr")))
        assert [take(heads) for _ in range(3)] == [b"ghi", b"jkl", b"pqr"]
        wait_until(lambda: live.server.counters()["slab_blocks"] == 0, "nothing is left of what was not read")
        assert heads.empty()


@each_mode
def test_on_read_that_reads_nothing_drops_the_message(pool: Any) -> None:
    calls: queue.Queue[Any] = queue.Queue()
    with serve(pool=pool, on_read=lambda conn: calls.put(1), streaming=True) as live:
        client = live.connect()
        client.send_frame(TEXT, "a", fin=False)
        take(calls)
        client.send(frames((CONT, "b", False), (PING, b""), (CONT, "c"), (TEXT, "d")))
        take(calls)
        ping_answer = client.recv_frame()
        assert ping_answer.payload == b""
        ping(client)
        assert calls.empty()


@each_mode
def test_the_next_message_is_opened_in_the_same_callback(pool: Any) -> None:
    read: queue.Queue[Any] = queue.Queue()

    def two(conn: Any) -> None:
        with wsutil.open_message(conn) as first:
            read.put(first.read(1))
        # The rest of the first is dropped on the way.
        with wsutil.open_message(conn) as second:
            read.put(second.read())
        read.put(wsutil.read_client_data(conn))

    with serve(pool=pool, io_timeout=TIMEOUT, on_read=two, streaming=True) as live:
        client = live.connect()
        client.send_frame(TEXT, "first", fin=False)
        assert take(read) == b"f"
        client.send(frames((CONT, "rest", False), (PING, b""), (CONT, "of it"), (TEXT, "second", False)))
        client.send(frames((CONT, ", whole"), (BINARY, b"third")))
        assert take(read) == b"second, whole"
        assert take(read) == (b"third", OpCode.BINARY)


@each_mode
def test_a_timeout_loses_nothing(pool: Any) -> None:
    waiting, read = threading.Semaphore(0), queue.Queue[Any]()

    def patient(conn: Any, reader: Any) -> None:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                reader.read()
        waiting.release()
        while True:
            try:
                read.put(reader.read())
                return
            except TimeoutError:
                continue

    with serve(pool=pool, io_timeout=0.05, on_read=reading(patient), streaming=True) as live:
        client = live.connect()
        client.send_frame(TEXT, "one, ", fin=False)
        assert waiting.acquire(timeout=TIMEOUT)
        client.send_frame(CONT, "two")
        assert take(read) == b"one, two"
        ping(client)


@each_mode
@pytest.mark.parametrize("how", ["fin", "reset", "close", "ours"])
def test_a_message_without_an_end_raises_and_on_close_comes_after_it(pool: Any, how: str) -> None:
    order: queue.Queue[Any] = queue.Queue()

    def take_it(conn: Any, reader: Any) -> None:
        order.put(reader.read(100))
        try:
            reader.read()
        except ConnectionClosed as exc:
            order.put(exc)
            raise

    with serve(
        pool=pool,
        io_timeout=TIMEOUT,
        on_read=reading(take_it),
        on_close=lambda conn: order.put(conn.close_code),
        streaming=True,
    ) as live:
        client, conn = live.connect_conn()
        client.send_frame(BINARY, b"half", fin=False)
        assert take(order) == b"half"
        if how == "fin":
            client.shutdown()
        elif how == "reset":
            client.reset()
        elif how == "close":
            client.send_close(1001)
        else:
            conn.close(4001)
            assert client.recv_close().code == 4001
            client.send_close(4001)
        assert isinstance(take(order), ConnectionClosed)
        assert take(order) == {"close": 1001, "ours": 4001}.get(how, 1006)
        assert order.empty()


@each_mode
def test_what_came_before_the_end_is_read_first(pool: Any) -> None:
    entered, go_on, read = threading.Event(), threading.Event(), queue.Queue[Any]()

    def late(conn: Any, reader: Any) -> None:
        entered.set()
        wait(go_on)
        for piece in reader:
            read.put(piece)

    with serve(pool=pool, on_read=reading(late), streaming=True) as live:
        client = live.connect()
        client.send_frame(BINARY, b"one", fin=False)
        wait(entered, "the callback")
        client.send_frame(CONT, b"two", fin=False)
        ping(client)
        client.shutdown()
        expect = live.server.counters
        wait_until(lambda: expect()["inbox_bytes"] == 3, "what came is there")
        go_on.set()
        assert (take(read), take(read)) == (b"one", b"two")
        assert isinstance(take(live.errors)[1], ConnectionClosed)
        assert take(live.ended).code == 1006


@each_mode
def test_a_message_above_max_bytes_is_1009(pool: Any) -> None:
    read: queue.Queue[Any] = queue.Queue()
    on_read = reading(lambda conn, reader: read.put(reader.read()), max_bytes=10)
    with serve(pool=pool, io_timeout=TIMEOUT, on_read=on_read, streaming=True) as live:
        client = live.connect()
        client.send_frame(BINARY, b"0123456789")
        assert take(read) == b"0123456789"
        client.send_frame(BINARY, b"0123456789", fin=False)
        client.send_frame(CONT, b"!")
        expect_close_by_us(live, client, 1009)
        assert read.empty()
        # In one piece.
        client = live.connect()
        client.send_frame(BINARY, b"0123456789!")
        expect_close_by_us(live, client, 1009)


def expect_close_by_us(live: Live, client: RawClient, code: int) -> None:
    assert client.recv_close().code == code
    client.send_close(code)
    ended = live.ended_of(client)
    assert (ended.code, ended.conn.close_cause) == (code, CloseCause.LIMIT)
    exc = take(live.errors)[1]
    assert isinstance(exc, ConnectionClosed)
    assert exc.code == code


@each_mode
def test_whole_messages_may_be_read_where_messages_are_streamed(pool: Any) -> None:
    read: queue.Queue[Any] = queue.Queue()

    def on_read(conn: Any) -> None:
        read.put(wsutil.read_client_data(conn))
        read.put(wsutil.read_client_text(conn))
        read.put(wsutil.read_client_binary(conn))

    with serve(pool=pool, io_timeout=TIMEOUT, on_read=on_read, streaming=True, max_message_bytes=100) as live:
        client = live.connect()
        for cut in (0, 1, 7):
            for opcode, text in ((BINARY, b"message"), (TEXT, "größe".encode()), (BINARY, b"another")):
                data = frame(opcode, text)
                client.send_frame(opcode, text[:cut], fin=False)
                ping(client)
                client.send_frame(CONT, text[cut:])
                assert len(data) < 100
            assert take(read) == (b"message", OpCode.BINARY)
            assert take(read) == "größe"
            assert take(read) == b"another"
        client.send_frame(TEXT, b"x" * 50, fin=False)
        client.send_frame(CONT, b"y" * 51)
        expect_close_by_us(live, client, 1009)
        assert read.empty()
        client = live.connect()
        client.send_frame(TEXT, b"x" * 101)
        expect_close_by_us(live, client, 1009)


def test_on_message_gets_whole_messages_also_where_on_read_would_not() -> None:
    messages: queue.Queue[Any] = queue.Queue()
    with serve(on_message=lambda conn, message: messages.put(message), streaming=True) as live:
        client = live.connect()
        client.send_frame(TEXT, "one ", fin=False)
        ping(client)
        client.send_frame(CONT, "message")
        assert take(messages) == "one message"


def test_a_piece_that_waits_for_on_read_is_no_message_for_on_message() -> None:
    entered, go_on, messages = threading.Event(), threading.Event(), queue.Queue[Any]()

    def on_read(conn: Any) -> None:
        entered.set()
        wait(go_on)

    with serve(on_read=on_read, streaming=True) as live:
        blocks, waits = live.connect(), live.connect()
        blocks.send_frame(TEXT, "x")
        wait(entered, "the callback")
        waits.send_frame(TEXT, "beginning, ", fin=False)
        wait_until(lambda: live.server.counters()["inbox_bytes"] == 11, "the piece waits")
        live.server.on_message = lambda conn, message: messages.put(message)
        go_on.set()
        waits.send_frame(CONT, "end")
        waits.send_frame(TEXT, "whole")
        assert take(messages) == "whole"
        assert messages.empty()


# --- who has not said who it is ---


@each_mode
@pytest.mark.parametrize("hook", ["on_fragment", "on_read"])
def test_what_a_stranger_sends_is_not_streamed(pool: Any, hook: str) -> None:
    """Its first message is the credential, whole; the limit is that on messages that are kept."""
    said: queue.Queue[Any] = queue.Queue()
    auth = FirstMessageAuth(lambda text: Identity(text.partition("-")[2]))

    def on_read(conn: Any) -> None:
        with wsutil.open_message(conn) as reader:
            for piece in reader:
                said.put((conn.user, piece))

    def on_fragment(conn: Any, fragment: Fragment) -> None:
        said.put((conn.user, fragment.data))

    hooks: dict[str, Any] = {"on_read": on_read} if hook == "on_read" else {"on_fragment": on_fragment}
    with serve(pool=pool, io_timeout=TIMEOUT, streaming=True, max_message_bytes=50, **hooks) as live:
        live.server.auth = auth
        client = live.connect()
        client.send_frame(TEXT, "ticket", fin=False)
        ping(client)
        client.send_frame(CONT, "-ada")
        ping(client)
        take(live.opened)
        client.send_frame(TEXT, "hello", fin=False)
        assert take(said) == ("ada", b"hello")
        client.send_frame(CONT, "x" * 100)
        assert take(said) == ("ada", b"x" * 100)
        other = live.connect()
        other.send_frame(TEXT, "x" * 40, fin=False)
        other.send_frame(CONT, "x" * 11)
        expect_failure(other, 1009)
        assert said.empty()


# --- mistakes ---


def test_messages_are_opened_in_callbacks_of_their_connection_only() -> None:
    readers: queue.Queue[Any] = queue.Queue()

    def keep(conn: Any) -> None:
        reader = wsutil.open_message(conn)
        readers.put(reader)

    with serve(pool=(2, 2), on_read=keep, streaming=True) as live:
        client, conn = live.connect_conn()
        with pytest.raises(RuntimeError, match="in a callback"):
            wsutil.open_message(conn)
        client.send_frame(TEXT, "x", fin=False)
        reader = take(readers)
        ping(client)
        assert reader.read(1) == b"x"
        with pytest.raises(RuntimeError, match="in a callback"):
            reader.read(1)
        reader.close()
        reader.close()
        assert reader.closed
        with pytest.raises(ValueError, match="closed"):
            reader.read(1)
        with pytest.raises(ValueError, match="closed"):
            next(reader)


@each_mode
def test_a_reader_does_not_read_another_message(pool: Any) -> None:
    results: queue.Queue[Any] = queue.Queue()
    kept: list[Any] = []

    def on_read(conn: Any) -> None:
        for old in kept:
            # Before anything of this callback's own message is read ...
            with pytest.raises(RuntimeError, match="another message"):
                old.read()
        kept.append(wsutil.open_message(conn))
        results.put(kept[-1].read(1))
        for old in kept[:-1]:
            # ... and after it was begun.
            with pytest.raises(RuntimeError, match="another message"):
                old.read()
        results.put("done")

    with serve(pool=pool, io_timeout=TIMEOUT, on_read=on_read, streaming=True) as live:
        client = live.connect()
        for text in (b"a", b"b"):
            client.send_frame(TEXT, text, fin=False)
            assert take(results) == text
            assert take(results) == "done"
            client.send_frame(CONT, "rest")
        ping(client)
        assert live.errors.empty()


# --- messages larger than memory should hold ---

_HASHING = """
import hashlib, resource, shutil
digest, done, held = hashlib.sha256(), [], []

def piece_came(data, n=[0]):
    digest.update(data)
    n[0] += 1
    if n[0] % 50 == 0:
        time.sleep(0.002)    # slower than the sender: the engine has to hold him back
        held.append(server.counters()["slab_held_bytes"])

def on_fragment(conn, fragment):
    piece_came(fragment.data)
    if fragment.final:
        finish(conn)

def on_read(conn):
    with wsutil.open_message(conn) as reader:
        for piece in reader:
            piece_came(piece)
    finish(conn)

def finish(conn):
    global digest
    conn.send(digest.hexdigest())
    digest = hashlib.sha256()
"""


@pytest.mark.parametrize("hook", ["on_fragment", "on_read"])
@pytest.mark.parametrize("make", ["NewServer", "DefaultServer"])
def test_100_mib_pass_through_8_mib(hook: str, make: str) -> None:
    body = _HASHING + (
        f"server = unlimitedws.{make}('127.0.0.1:0', streaming=True)\n"
        f"server.set_io_timeout(10)\nserver.{hook} = {hook}\n"
    )
    block = random.Random(8).randbytes(MIB)

    def send(client: RawClient, size: int) -> str:
        """One message: half of it in one frame, half in many."""
        digest = hashlib.sha256()
        client.send(struct.pack("!BBQ", BINARY, 0xFF, size // 2) + bytes(4))
        for begin in range(0, size // 2, MIB):
            part = block[: min(MIB, size // 2 - begin)]
            digest.update(part)
            client.send(part)
        for begin in range(0, size // 2, 40_000):
            part = block[: min(40_000, size // 2 - begin)]
            digest.update(part)
            client.send(frame(CONT, part, fin=False, mask=bytes(4)))
        client.send_frame(CONT, b"")
        return digest.hexdigest()

    with ServerProcess(body) as server, server.connect(timeout=60) as client:
        # Once round, so that what is made once is there.
        assert send(client, 8 * MIB) == client.recv_message()
        before = peak_bytes(server)
        assert send(client, 100 * MIB) == client.recv_message()
        assert peak_bytes(server) - before < 8 * MIB
        assert 0 < server.ask("max(held)") < 8 * MIB
        assert server.ask("server.counters()['pauses']") > 0
        client.close_cleanly()


def peak_bytes(server: ServerProcess) -> int:
    """The most that the process has had resident."""
    with open(f"/proc/{server.process.pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def test_fragment_is_a_value() -> None:
    fragment = Fragment(OpCode.TEXT, b"x", True, False)
    assert fragment == (OpCode.TEXT, b"x", True, False)
    assert unlimitedws.Fragment is Fragment


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_the_document_receive_an_upload(number: int, tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "streaming.md").read_text()
    program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[number].replace('":8000"', '"127.0.0.1:0"')
    names: dict[str, Any] = {"open_upload": lambda conn: (tmp_path / "upload").open("wb")}
    exec(compile(program, "docs/streaming.md", "exec"), names)
    message = random.Random(2).randbytes(2 * MIB)
    with names["server"] as server, RawClient(server.local_addr.port) as client:
        client.send(frames((BINARY, message[:MIB], False), (CONT, message[MIB:])))
        assert client.recv_message() == "thank you"
        client.close_cleanly()
    assert (tmp_path / "upload").read_bytes() == message
