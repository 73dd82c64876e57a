"""Threads that send to connections of others: nothing lost, torn, doubled, out of order or given to somebody else.

The judge is wsprobe (bench/native), which is first shown servers that lie to it.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import rig
import senders
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

pytestmark = [
    pytest.mark.skipif(shutil.which(os.environ.get("CC", "gcc")) is None, reason="no C compiler"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core"),
]
EACH = 5


def test_eight_threads_send_to_everybody_and_nothing_is_wrong() -> None:
    result = senders.run(connections=100, senders=8, messages=100_000, patience=120.0)
    wanted = {"messages": 100_000, "wrong": 0, "lost_connections": 0, "error": ""}
    assert {key: result[key] for key in wanted} == wanted


def message(index: int, sender: int, seq: int) -> bytes:
    body = struct.pack("<III", index, sender, seq) + b"filling"
    return struct.pack("<I", zlib.crc32(body)) + body


def torn(messages: list[bytes]) -> list[bytes]:
    return [*messages[:-1], messages[-1][:-1] + b"G"]


def swapped(messages: list[bytes]) -> list[bytes]:
    return [*messages[:-2], messages[-1], messages[-2]]


def doubled(messages: list[bytes]) -> list[bytes]:
    return [*messages[:-1], messages[-2]]


def one_missing(messages: list[bytes]) -> list[bytes]:
    return [*messages[:2], *messages[3:], message(0, 0, EACH)]


def of_somebody_else(messages: list[bytes]) -> list[bytes]:
    return [*messages[:-1], message(1, 0, EACH - 1)]


def of_nobody(messages: list[bytes]) -> list[bytes]:
    return [*messages[:-1], message(0, 1, EACH - 1)]


@contextmanager
def sending(messages: list[bytes]) -> Iterator[int]:
    """Run a server of `websockets` that sends these to whoever comes, and closes; yields its port."""
    def handler(connection: Any) -> None:
        for each in messages:
            connection.send(each)
        # The client goes when it has counted as many as it was told.
        with suppress(ConnectionClosed):
            connection.recv()

    with serve(handler, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


def judged(messages: list[bytes]) -> dict[str, Any]:
    options = {"connections": 1, "senders": 1, "messages": EACH}
    with sending(messages) as port:
        done = subprocess.run(rig.probe_command(port, "stream", options), stdout=subprocess.PIPE, timeout=60)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"code": done.returncode, **result}


def test_what_is_right_is_not_called_wrong() -> None:
    result = judged([message(0, 0, seq) for seq in range(EACH)])
    assert (result["messages"], result["wrong"], result["error"]) == (EACH, 0, "")


@pytest.mark.parametrize(
    ("lie", "error"),
    [
        (torn, "CRC"),
        (swapped, "came where 3 was due"),
        (doubled, "came where 4 was due"),
        (one_missing, "came where 2 was due"),
        (of_somebody_else, "got a message for 1"),
        (of_nobody, "of sender 1"),
    ],
)
def test_a_lie_is_found(lie: Callable[[list[bytes]], list[bytes]], error: str) -> None:
    result = judged(lie([message(0, 0, seq) for seq in range(EACH)]))
    assert result["code"] == 1
    assert result["wrong"] > 0
    assert error in result["error"]
