"""The benchmarks' load client and floor.

A client that did not check its replies would make every figure worthless: here servers lie to it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import rig

pytestmark = pytest.mark.skipif(shutil.which(os.environ.get("CC", "gcc")) is None, reason="no C compiler")
websockets_server = pytest.importorskip("websockets.sync.server")


def run_load(port: int, **options: Any) -> tuple[int, dict[str, Any]]:
    """Run wsload for a short while. Returns its exit code and what it printed."""
    command = [str(rig.native_tool("wsload")), "--port", str(port), "--seconds", "0.1", "--warmup", "0"]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=60)
    return done.returncode, json.loads(done.stdout)


@contextmanager
def served_by(handler: Callable[[Any], None]) -> Iterator[int]:
    """Run a handler on a `websockets` server; yields its port."""
    with websockets_server.serve(handler, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def floor() -> Iterator[tuple[int, int]]:
    """Run the floor; yields its pid and port."""
    with subprocess.Popen([rig.native_tool("wsfloor")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.kill()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 200_000, 1_048_576])
@pytest.mark.parametrize("outstanding", [1, 5])
def test_floor_echoes_every_size(floor: tuple[int, int], size: int, outstanding: int) -> None:
    pid, port = floor
    code, result = run_load(port, server_pid=pid, connections=10, size=size, outstanding=outstanding)
    assert (code, result["error"], result["lost"], result["bad_replies"]) == (0, "", 0, 0)
    assert result["messages"] >= 10
    assert result["open"] == 10
    assert result["server_us_per_message"] > 0


def test_idle_mode_holds_what_it_was_asked_to_hold(floor: tuple[int, int]) -> None:
    pid, port = floor
    code, result = run_load(port, mode="idle", server_pid=pid, connections=500, hold=0.05)
    assert (code, result["error"], result["held"]) == (0, "", 500)


def test_handshakes_are_counted_and_their_answers_checked(floor: tuple[int, int]) -> None:
    pid, port = floor
    code, result = run_load(port, mode="handshakes", server_pid=pid, connections=8)
    assert (code, result["error"], result["lost"], result["open"]) == (0, "", 0, 0)
    assert result["handshakes"] > 8
    assert result["server_us_per_handshake"] > 0
    # Who answers with the hash of another key is found.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_everybody_alike, args=(listener,))
        thread.start()
        code, result = run_load(listener.getsockname()[1], mode="handshakes", connections=1)
        thread.join()
    assert (code, result["handshakes"]) == (1, 0)
    assert "Sec-WebSocket-Accept is wrong" in result["error"]


def answer_everybody_alike(listener: socket.socket) -> None:
    peer, _ = listener.accept()
    with peer:
        assert peer.recv(4096).endswith(b"\r\n\r\n")
        response = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        peer.sendall(response + b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
        with suppress(ConnectionResetError):
            peer.recv(4096)


def test_silent_connections_are_held_and_say_nothing() -> None:
    said = []

    def handler(connection: Any) -> None:
        for message in connection:
            said.append(connection.id)
            connection.send(message)

    with served_by(handler) as port:
        code, result = run_load(port, connections=2, silent=7)
    assert (code, result["error"], result["open"], result["silent"]) == (0, "", 9, 7)
    assert len(set(said)) == 2


def altered(message: bytes) -> bytes:
    return message[:-1] + bytes([message[-1] ^ 1])


def shortened(message: bytes) -> bytes:
    return message[:-1]


def lengthened(message: bytes) -> bytes:
    return message + b"x"


def as_text(message: bytes) -> str:
    return "x" * len(message)


@pytest.mark.parametrize("lie", [altered, shortened, lengthened, as_text])
def test_wrong_reply_is_found(lie: Callable[[bytes], bytes | str]) -> None:
    def handler(connection: Any) -> None:
        for message in connection:
            connection.send(lie(message))

    with served_by(handler) as port:
        code, result = run_load(port, connections=2)
    assert code == 1
    assert result["bad_replies"] > 0
    assert "a reply" in result["error"]


def test_replies_in_the_wrong_order_are_found() -> None:
    def handler(connection: Any) -> None:
        first, second = connection.recv(), connection.recv()
        connection.send(second)
        connection.send(first)

    with served_by(handler) as port:
        code, result = run_load(port, connections=1, outstanding=2)
    assert (code, result["bad_replies"], result["error"]) == (1, 2, "a reply is not the message")


def test_lost_connection_is_found() -> None:
    def handler(connection: Any) -> None:
        connection.recv()

    with served_by(handler) as port:
        code, result = run_load(port, connections=3)
    assert (code, result["lost"], result["open"]) == (1, 3, 0)


def test_fragmented_reply_and_ping_are_fine() -> None:
    def handler(connection: Any) -> None:
        for message in connection:
            connection.ping()
            connection.send([message[:5], b"", message[5:]])

    with served_by(handler) as port:
        code, result = run_load(port, connections=2)
    assert (code, result["error"]) == (0, "")
    assert result["messages"] > 0


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (b"HTTP/1.1 503 Full\r\n\r\n", "503 Full"),
        (b"HTTP/1.1 101 OK\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", "Accept is wrong"),
        (b"HTTP/1.1 101 OK\r\n\r\n", "Accept is wrong"),
    ],
)
def test_refused_handshake_is_found(response: bytes, error: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(response)
                # The client leaves with RST.
                with suppress(ConnectionResetError):
                    peer.recv(4096)

        thread = threading.Thread(target=answer)
        thread.start()
        code, result = run_load(listener.getsockname()[1], connections=1)
        thread.join()
    assert (code, result["lost"]) == (1, 1)
    assert error in result["error"]
