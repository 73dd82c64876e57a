"""Connecting and upgrading: what a server may answer to the handshake, and how each failure is told apart."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from raw_server import RawServer, Talk, echo, frame

import unlimitedws
from unlimitedws import loadgen

pytest.importorskip("hdrh", reason="the load generator needs hdrhistogram")

pytestmark = pytest.mark.usefixtures("no_fd_leaks")
QUICK = {"connections": 3, "duration": 0.1, "warmup": 0.0, "reply_timeout": 5.0}


def errors(talk: Callable[[Talk], None], **options: object) -> loadgen.Result:
    with RawServer(talk) as server:
        return loadgen.run(server.url, **{**QUICK, **options})


def test_a_request_is_what_the_rfc_wants_and_its_key_is_another_each_time() -> None:
    with RawServer(echo) as server:
        loadgen.run(
            server.url + "chat?x=1 2",
            **QUICK,
            headers=(("X-A", "b"), ("Origin", "https://a.example")),
            subprotocols=("one", "two"),
        )
        requests = [talk.request.decode() for talk in server.talks]
    keys = set()
    for request in requests:
        line, *fields = request.split("\r\n")
        assert line == "GET /chat?x=1%202 HTTP/1.1"
        named = dict(field.split(": ", 1) for field in fields)
        assert len(named) == len(fields)
        keys.add(named.pop("Sec-WebSocket-Key"))
        assert named == {
            "Host": server.url[5:-1], "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Protocol": "one, two", "X-A": "b", "Origin": "https://a.example",
        }  # fmt: skip
    assert len(keys) == len(requests) == 3
    assert all(re.fullmatch(r"[A-Za-z0-9+/]{22}==", key) for key in keys)


def test_a_response_may_come_byte_by_byte_and_with_frames_right_behind_it() -> None:
    def slowly(talk: Talk) -> None:
        talk.hear_request()
        talk.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in talk.response():
            talk.sock.sendall(bytes([byte]))
        _served(talk)

    def at_once(talk: Talk) -> None:
        talk.hear_request()
        talk.sock.sendall(talk.response(b"X: " + b"x" * 8000) + frame(9, b"early") + frame(1, b"welcome"))
        assert talk.frame() == (0x8A, b"early")
        _served(talk)

    for talk, greeting in ((slowly, 0), (at_once, 1)):
        result = errors(talk, greeting=greeting)
        assert (result.opened, result.errors) == (3, {})
        assert result.messages > 0


def _served(talk: Talk) -> None:
    while True:
        talk.send(*talk.message())


@pytest.mark.parametrize("status", [200, 401, 403, 404, 426, 429, 503])
def test_a_refusal_is_counted_by_its_status(status: int) -> None:
    def refuse(talk: Talk) -> None:
        talk.hear_request()
        talk.sock.sendall(b"HTTP/1.1 %d Something\r\nContent-Length: 2\r\n\r\nno" % status)

    result = errors(refuse)
    assert (result.opened, result.errors, result.details) == (0, {"status": 3}, {"status": {str(status): 3}})
    assert any(str(status) in line for line in result.lines())


def test_a_refusal_without_the_end_of_its_head_has_its_status_too() -> None:
    def refuse(talk: Talk) -> None:
        talk.hear_request()
        talk.sock.sendall(b"HTTP/1.1 503 Busy\r\nRetry-After: 5")

    assert errors(refuse).details == {"status": {"503": 3}}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ((b"HTTP/1.1", b"SSH-2.0-"), "http"),
        ((b"Upgrade: websocket\r\n", b""), "upgrade"),
        ((b"Connection: Upgrade", b"Connection: close"), "upgrade"),
        ((b"Sec-WebSocket-Accept: ", b"Sec-WebSocket-Accept: A"), "accept"),
        ((b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"), "extension"),
        ((b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: chat\r\n\r\n"), "subprotocol"),
        ((b"\r\n\r\n", b"\r\nX: " + b"x" * 17000 + b"\r\n\r\n"), "too_long"),
    ],
)
def test_a_response_that_breaks_a_rule_is_counted_by_the_rule(
    change: tuple[bytes, bytes], fault: str
) -> None:
    def wrong(talk: Talk) -> None:
        talk.hear_request()
        talk.sock.sendall(talk.response().replace(*change))
        talk.read(1)

    result = errors(wrong)
    assert (result.opened, result.errors, result.details) == (0, {"handshake": 3}, {"fault": {fault: 3}})
    assert result.lines()[-1].startswith("errors        3 handshakes: ")


def test_an_end_during_the_handshake() -> None:
    def end(talk: Talk) -> None:
        talk.hear_request()

    assert errors(end).errors == {"handshake_cut": 3}


def test_a_server_that_says_nothing_is_not_waited_for_for_ever() -> None:
    def silent(talk: Talk) -> None:
        talk.hear_request()
        talk.read(1)

    assert errors(silent, handshake_timeout=0.1).errors == {"handshake_timeout": 3}


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    result = loadgen.run(f"ws://127.0.0.1:{port}/", **QUICK)
    assert (result.errors, result.details) == ({"connect": 3}, {"errno": {"ECONNREFUSED": 3}})
    assert "Connection refused (ECONNREFUSED)" in result.lines()[-1]


def test_a_full_backlog_is_a_timeout() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        result = loadgen.run(
            f"ws://127.0.0.1:{port}/", connections=8, duration=0.1, connect_timeout=0.2, handshake_timeout=0.4
        )
        assert result.opened == 0 and sum(result.errors.values()) == 8
        assert result.errors["connect_timeout"] > 0


def test_a_unix_socket_whose_backlog_is_short_takes_all_in_time(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)

        def serve() -> None:
            threads = []
            for _ in range(20):
                sock, _ = listener.accept()
                threads.append(threading.Thread(target=quietly, args=(Talk(sock),)))
                threads[-1].start()
            for thread in threads:
                thread.join()

        def quietly(talk: Talk) -> None:
            with talk.sock, suppress(EOFError, ConnectionError):
                echo(talk)

        thread = threading.Thread(target=serve)
        thread.start()
        result = loadgen.run(f"unix:{path}", connections=20, duration=0.1, warmup=0.0)
        thread.join()
    assert (result.opened, result.errors) == (20, {})


def test_connections_come_from_the_sources_in_turn() -> None:
    seen: list[str] = []

    def serve(talk: Talk) -> None:
        seen.append(talk.sock.getpeername()[0])
        echo(talk)

    with RawServer(serve) as server:
        result = loadgen.run(
            server.url, connections=6, duration=0.1, sources=("127.0.5.1-127.0.5.2", "127.0.6.1")
        )
    assert result.errors == {}
    assert sorted(seen) == ["127.0.5.1", "127.0.5.1", "127.0.5.2", "127.0.5.2", "127.0.6.1", "127.0.6.1"]


def test_connections_go_to_the_destinations_in_turn() -> None:
    seen: list[str] = []

    def serve(talk: Talk) -> None:
        seen.append(talk.sock.getsockname()[0])
        assert b"Host: localhost:" in talk.hear_request()
        talk.sock.sendall(talk.response())
        _served(talk)

    with RawServer(serve, host="") as server:
        result = loadgen.run(
            server.url.replace("127.0.0.1", "localhost"), connections=4, duration=0.1,
            destinations=("127.0.0.1", "127.0.7.7"),
        )  # fmt: skip
    assert result.errors == {}
    assert sorted(seen) == ["127.0.0.1", "127.0.0.1", "127.0.7.7", "127.0.7.7"]


def test_ipv6() -> None:
    server = unlimitedws.Server("[::1]:0", pool=None)
    server.on_message = lambda conn, message: conn.send(message)
    try:
        server.start()
    except OSError:
        pytest.skip("no IPv6 here")
    try:
        result = loadgen.run(f"ws://[::1]:{server.local_addr.port}/", **QUICK, sources=("::1",))
    finally:
        server.stop(5)
    assert result.errors == {} and result.messages > 0
