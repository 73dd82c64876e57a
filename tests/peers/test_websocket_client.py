"""`websocket-client` as the client: a blocking one, which shows every frame it gets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fixtures import EchoServer
from raw import TIMEOUT

from .exchange import BLOB, CLOSE_CODE, CLOSE_REASON, FRAGMENTS, TEXT

websocket = pytest.importorskip("websocket")


@pytest.fixture
def connection(echo_server: EchoServer) -> Iterator[Any]:
    connection = websocket.create_connection(echo_server.url, timeout=TIMEOUT)
    yield connection
    connection.shutdown()


def test_text_comes_back(connection: Any) -> None:
    connection.send(TEXT)
    assert connection.recv() == TEXT


def test_200_kb_binary_comes_back(connection: Any) -> None:
    connection.send_binary(BLOB)
    assert connection.recv() == BLOB


def test_fragmented_message_comes_back_whole(connection: Any) -> None:
    for number, fragment in enumerate(FRAGMENTS):
        opcode = websocket.ABNF.OPCODE_TEXT if number == 0 else websocket.ABNF.OPCODE_CONT
        last = number == len(FRAGMENTS) - 1
        connection.send_frame(websocket.ABNF(int(last), 0, 0, 0, opcode, 1, fragment.encode()))
    assert connection.recv() == "".join(FRAGMENTS)


def test_ping_is_answered(connection: Any) -> None:
    connection.ping("are you there")
    opcode, frame = connection.recv_data_frame(control_frame=True)
    assert (opcode, frame.data) == (websocket.ABNF.OPCODE_PONG, b"are you there")


def test_close_code_is_seen_on_both_sides(connection: Any, echo_server: EchoServer) -> None:
    address = connection.sock.getsockname()[:2]
    connection.send_close(CLOSE_CODE, CLOSE_REASON.encode())
    opcode, frame = connection.recv_data_frame()
    assert opcode == websocket.ABNF.OPCODE_CLOSE
    assert int.from_bytes(frame.data[:2], "big") == CLOSE_CODE
    # The server is the one to end the TCP connection (section 7.1.1).
    assert connection.sock.recv(1) == b""
    connection.shutdown()
    assert echo_server.wait_closed() == (address, CLOSE_CODE, CLOSE_REASON)
