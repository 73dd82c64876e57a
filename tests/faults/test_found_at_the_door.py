"""What an attacker has found at the door: each was a bug once, seen from outside."""

from __future__ import annotations

import logging
import struct
import threading
import time
from typing import Any

import pytest
import raw
from live import serve, take, wait_until
from raw import RawClient

from unlimitedws import Accept
from unlimitedws.auth import FirstMessageAuth, Origins, StaticTokens

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

V2 = b"\r\n\r\n\0\r\nQUIT\n"


@pytest.mark.parametrize("target", ["http://h?/admin", "http://h?x=/admin", "http://h?a=://x/admin", "http://h/a?b=/c"])
def test_request_and_connection_read_the_target_alike(target: str) -> None:
    seen: list[tuple[str, str]] = []
    with serve() as live:
        live.server.on_request = lambda request: seen.append((request.path, request.query))
        with RawClient(live.port, handshake=False) as client:
            client.send(raw.request(target))
            assert client.recv_response().status == 101
            conn = take(live.opened)
            assert [(conn.path, conn.query)] == seen


def test_connection_that_ends_before_on_connect_ran_has_both_callbacks() -> None:
    log: list[tuple[str, str]] = []
    blocked, gate, decide = threading.Event(), threading.Event(), threading.Event()
    asked = threading.Semaphore(0)

    def on_request(request: Any) -> Accept:
        if request.path != "/block":
            asked.release()
            decide.wait(10)
        return Accept(user=request.path, expires=time.time() + 0.2 if request.path == "/expires" else None)

    def on_message(conn: Any, message: Any) -> None:
        blocked.set()
        gate.wait(10)

    with serve(
        on_connect=lambda conn: log.append(("open", conn.path)),
        on_close=lambda conn: log.append(("close", conn.path)),
        on_message=on_message,
    ) as live:
        live.server.on_request = on_request
        blocker = live.connect(path="/block")
        others = [RawClient(live.port, handshake=False) for _ in range(2)]
        for client, path in zip(others, ("/expires", "/revoked"), strict=True):
            client.send(raw.request(path))
            assert asked.acquire(timeout=10)
        blocker.send_frame(raw.TEXT, "block")
        assert blocked.wait(10)
        decide.set()
        for client in others:
            assert client.recv_response().status == 101
        live.server.disconnect(user="/revoked")
        for client in others:
            assert client.recv_close().code == 3000
            client.send_close(3000)
        gate.set()
        wait_until(lambda: sum(what == "close" for what, _ in log) == 2, "on_close of both")
        for path in ("/expires", "/revoked"):
            assert [what for what, where in log if where == path] == ["open", "close"]
        for client in others:
            client.close()


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", V2 + b"\x20\0\0\0", V2 + b"\x21\0\0\0"])
def test_proxy_that_names_no_client_vouches_for_no_field(header: bytes) -> None:
    seen: list[tuple[str, str, bool]] = []
    fields = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "bank")]
    with serve(trusted_proxies=["127.0.0.1"], proxy_protocol=True) as live:
        live.server.on_request = lambda request: seen.append(
            (request.remote_addr.host, request.host, request.is_secure)
        )
        with RawClient(live.port, handshake=False) as client:
            client.send(header + raw.request(host="x", headers=fields))
            assert client.recv_response().status == 101
            assert take(live.opened).remote_addr.host == "127.0.0.1"
        assert seen == [("127.0.0.1", "x", False)]


def test_address_that_a_proxy_made_up_is_one_line_of_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = b"/x\nERROR:root:forged\x1b[31m"
    with serve(trusted_proxies=["127.0.0.1"], proxy_protocol=True) as live:
        live.server.auth = Origins()
        with RawClient(live.port, handshake=False) as client:
            header = V2 + b"\x21\x31" + struct.pack("!H", 216) + path.ljust(216, b"\0")
            client.send(header + raw.request(headers=[("Origin", "http://evil")]))
            assert client.recv_response().status == 403
    assert caplog.records
    assert all(record.getMessage().isprintable() for record in caplog.records)


def test_subprotocol_of_accept_survives_that_on_request_is_removed() -> None:
    asked, decide = threading.Event(), threading.Event()

    def on_request(request: Any) -> Accept:
        asked.set()
        decide.wait(10)
        return Accept(subprotocol="chat")

    with serve() as live:
        live.server.on_request = on_request
        with RawClient(live.port, handshake=False) as client:
            client.send(raw.request(headers=[("Sec-WebSocket-Protocol", "chat")]))
            assert asked.wait(10)
            live.server.on_request = None
            decide.set()
            assert client.recv_response().headers["sec-websocket-protocol"] == "chat"


def test_stranger_cannot_hold_more_than_a_credential_has() -> None:
    with serve(max_message_bytes=32 << 20) as live:
        live.server.auth = FirstMessageAuth(StaticTokens({"a" * 16: "alice"}))
        with RawClient(live.port) as greedy:
            greedy.send(raw.frame(raw.TEXT, b"x" * 70_000, fin=False))
            assert greedy.recv_close().code == 1009
        with RawClient(live.port) as known:
            known.send_frame(raw.TEXT, "a" * 16)
            assert take(live.opened).user == "alice"
            # Who is known may send as much as anybody.
            known.send_frame(raw.BINARY, bytes(1 << 20))
            known.send_frame(raw.PING, b"here")
            assert known.recv_frame().payload == b"here"
