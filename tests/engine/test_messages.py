"""messages: reading them in callbacks, and waiting for the next one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import raw
from live import echo as echo_read
from live import ping, take, wait
from loops import running
from raw import BINARY, TEXT
from uws_shims.deliver_shim import Bare

from _uws.messages import read_client_binary, read_client_data, read_client_text, write_server_message
from unlimitedws import ConnectionClosed, OpCode

pytestmark = pytest.mark.usefixtures("both_tables", "no_fd_leaks")
Make = Callable[..., tuple[Bare, list[int]]]
each_runners = pytest.mark.parametrize("runners", [1, 4])

ROOT = Path(__file__).resolve().parents[2]


def test_reading_is_for_the_callbacks_own_thread() -> None:
    result: queue.Queue[Any] = queue.Queue()
    gate = threading.Event()

    def read(conn: Any) -> None:
        try:
            result.put(read_client_data(conn))
        except RuntimeError as exc:
            result.put(exc)

    def on_read(conn: Any) -> None:
        thread = threading.Thread(target=read, args=(conn,))
        thread.start()
        thread.join()
        wait(gate)
        read(conn)

    with running(on_read=on_read) as engine:
        client, conn = engine.connect_conn()
        with pytest.raises(RuntimeError, match="callback"):
            read_client_data(conn)
        client.send_frame(TEXT, "x")
        assert isinstance(take(result), RuntimeError)
        with pytest.raises(RuntimeError, match="callback"):
            read_client_text(conn)
        gate.set()
        # And the message is not lost to those who tried.
        assert take(result) == (b"x", OpCode.TEXT)
        ping(client)
        with pytest.raises(RuntimeError, match="callback"):
            read_client_data(conn)


def test_callback_cannot_read_another_connection() -> None:
    result: queue.Queue[Any] = queue.Queue()

    def on_read(conn: Any) -> None:
        try:
            read_client_data(second)
        except RuntimeError as exc:
            result.put(exc)

    with running(on_read=on_read) as engine:
        client, _ = engine.connect_conn()
        _, second = engine.connect_conn()
        client.send_frame(TEXT, "x")
        assert isinstance(take(result), RuntimeError)


def test_reading_in_on_connect_gets_the_first_message_and_in_on_close_none() -> None:
    result: queue.Queue[Any] = queue.Queue()

    def on_close(conn: Any) -> None:
        try:
            read_client_data(conn)
        except ConnectionClosed as exc:
            result.put(exc.code)

    with running(
        on_connect=lambda conn: result.put(read_client_data(conn)), on_read=echo_read, on_close=on_close
    ) as engine:
        client = engine.connect()
        client.send_frame(BINARY, b"first")
        assert take(result) == (b"first", OpCode.BINARY)
        client.send_frame(BINARY, b"second")
        assert client.recv_message() == b"second"
        client.send_close(4000)
        assert take(result) == 4000


def test_what_is_not_a_conn_is_a_type_error() -> None:
    for call in (read_client_data, read_client_text):
        for wrong in (None, object(), 1):
            with pytest.raises(TypeError):
                call(wrong)


@each_runners
def test_callback_reads_the_messages_behind_its_own(runners: int) -> None:
    got: queue.Queue[Any] = queue.Queue()

    def on_read(conn: Any) -> None:
        got.put([read_client_data(conn)[0] for _ in range(3)])

    with running(runners=runners, on_read=on_read) as engine:
        client = engine.connect()
        client.send(raw.frame(BINARY, b"1") + raw.frame(BINARY, b"2"))
        # The third is not there yet: it is waited for, and the loop reads on meanwhile.
        other = engine.connect()
        other.send_frame(raw.PING, b"?")
        assert other.recv_frame().payload == b"?"
        client.send(raw.frame(BINARY, b"3") + raw.frame(BINARY, b"4") + raw.frame(BINARY, b"5"))
        assert take(got) == [b"1", b"2", b"3"]
        client.send(raw.frame(BINARY, b"6"))
        assert take(got) == [b"4", b"5", b"6"]
        engine.wait_for(slab_blocks=0, inbox_bytes=0)


@each_runners
def test_read_of_one_kind_drops_the_other(runners: int) -> None:
    got: queue.Queue[Any] = queue.Queue()

    def on_read(conn: Any) -> None:
        got.put((read_client_text(conn), read_client_binary(conn)))

    with running(runners=runners, on_read=on_read) as engine:
        client = engine.connect()
        client.send_frame(BINARY, b"dropped")
        client.send_frame(TEXT, "text")
        client.send_frame(TEXT, "dropped")
        client.send_frame(BINARY, b"binary")
        assert take(got) == ("text", b"binary")


@each_runners
def test_waiting_for_a_message_ends_with_the_timeout_and_the_connection_lives(runners: int) -> None:
    got: queue.Queue[Any] = queue.Queue()

    def on_read(conn: Any) -> None:
        message, _ = read_client_data(conn)
        try:
            read_client_data(conn)
        except TimeoutError as exc:
            got.put((message, exc))

    with running(runners=runners, on_read=on_read, io_timeout_us=20_000) as engine:
        client = engine.connect()
        for payload in (b"1", b"2"):
            client.send_frame(BINARY, payload)
            message, exc = take(got)
            assert message == payload and isinstance(exc, TimeoutError)
        assert client.close_cleanly().code == 1000


@each_runners
@pytest.mark.parametrize("how", ["close", "fin", "rst"])
def test_waiting_for_a_message_ends_with_the_connection(runners: int, how: str) -> None:
    got: queue.Queue[Any] = queue.Queue()

    def on_read(conn: Any) -> None:
        read_client_data(conn)
        got.put("waits")
        try:
            read_client_data(conn)
        except ConnectionClosed as exc:
            got.put(exc)

    with running(runners=runners, on_read=on_read) as engine:
        client = engine.connect()
        client.send_frame(BINARY, b"1")
        assert take(got) == "waits"
        assert engine.ended.empty()
        if how == "close":
            client.send_close(4001)
        elif how == "fin":
            client.shutdown()
        else:
            client.reset()
        assert isinstance(take(got), ConnectionClosed)
        assert engine.end()[0] == (4001 if how == "close" else 1006)
        client.close()
        engine.wait_empty()


@pytest.mark.parametrize("wrong", [3, None, 1.5, ["x"]])
def test_what_is_no_message_is_refused_by_name(wrong: Any) -> None:
    told: queue.Queue[str] = queue.Queue()

    def send(conn: Any, message: str) -> None:
        for how in (conn.send, lambda what: write_server_message(conn, OpCode.TEXT, what)):
            with pytest.raises(TypeError) as refused:
                how(wrong)
            told.put(str(refused.value))
        conn.send(message)

    with running(on_message=send) as engine:
        client = engine.connect()
        client.send_frame(TEXT, "x")
        assert client.recv_message() == "x"
    for _ in range(2):
        assert told.get_nowait() == f"a message is a str or a bytes-like object, not {type(wrong).__name__}"
