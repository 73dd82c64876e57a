"""`websockets` as the client, with its defaults: it offers compression, which may be declined."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fixtures import EchoServer
from raw import TIMEOUT

from .exchange import BLOB, CLOSE_CODE, CLOSE_REASON, FRAGMENTS, TEXT

client = pytest.importorskip("websockets.sync.client")


@pytest.fixture
def connection(echo_server: EchoServer) -> Iterator[Any]:
    with client.connect(echo_server.url, open_timeout=TIMEOUT, max_size=None) as connection:
        yield connection


def test_text_comes_back(connection: Any) -> None:
    connection.send(TEXT)
    assert connection.recv(timeout=TIMEOUT) == TEXT


def test_200_kb_binary_comes_back(connection: Any) -> None:
    connection.send(BLOB)
    assert connection.recv(timeout=TIMEOUT) == BLOB


def test_empty_messages_come_back(connection: Any) -> None:
    for message in ("", b""):
        connection.send(message)
        assert connection.recv(timeout=TIMEOUT) == message


def test_fragmented_message_comes_back_whole(connection: Any) -> None:
    connection.send(FRAGMENTS)
    assert connection.recv(timeout=TIMEOUT) == "".join(FRAGMENTS)


def test_ping_is_answered(connection: Any) -> None:
    assert connection.ping(b"are you there").wait(TIMEOUT)


def test_close_code_is_seen_on_both_sides(connection: Any, echo_server: EchoServer) -> None:
    address = connection.local_address[:2]
    connection.close(CLOSE_CODE, CLOSE_REASON)
    assert connection.close_code == CLOSE_CODE
    assert echo_server.wait_closed() == (address, CLOSE_CODE, CLOSE_REASON)
