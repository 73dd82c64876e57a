"""handshake: the request however it is cut, the page, and what the engine decides without Python."""

from __future__ import annotations

import os
import queue
from typing import Any

import pytest
import raw
from live import expect_date, expect_eof, frames, send_bytewise, send_pieces, take
from loops import Running, running
from raw import CONT, PING, PONG, TEXT, Frame, RawClient

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

PAGE = b"<!doctype html><title>here</title>"


def recorder(seen: queue.Queue[Any]) -> Any:
    return lambda conn, message: seen.put(message)




def answer(engine: Running, request: bytes) -> tuple[raw.Response, bytes]:
    """Send a request that is no upgrade; return the response and its body."""
    with RawClient(engine.port, handshake=False) as client:
        client.send(request)
        response = client.recv_response()
        body = client.recv_body() if not request.startswith(b"HEAD") else b""
        expect_eof(client)
        return response, body


def test_request_cut_anywhere_is_upgraded() -> None:
    key = raw.new_key()
    head = raw.request("/chat?room=1", key)
    with running(on_message=lambda conn, message: conn.send(message)) as engine:
        for cut in range(1, len(head)):
            with RawClient(engine.port, handshake=False) as client:
                send_pieces(client, [head[:cut], head[cut:]])
                response = client.recv_response()
                assert response.status == 101, cut
                assert response.headers["sec-websocket-accept"] == raw.accept_of(key), cut
                assert engine.opened.get(timeout=10).query == "room=1"
        engine.wait_for(upgraded=len(head) - 1, refused=0)
        engine.wait_empty()


def test_request_byte_by_byte_is_upgraded() -> None:
    with running() as engine, RawClient(engine.port, handshake=False) as client:
        send_bytewise(client, raw.request("/a/b"))
        assert client.recv_response().status == 101
        assert take(engine.opened).path == "/a/b"


def test_first_frames_may_come_with_the_request_cut_anywhere() -> None:
    seen: queue.Queue[Any] = queue.Queue()
    head = raw.request()
    behind = frames((TEXT, "first"), (PING, b"p"), (TEXT, "sec", False), (CONT, "ond"))
    whole = head + behind
    with running(on_message=recorder(seen), record=False) as engine:
        # Before, at and behind the border of the two.
        for cut in (0, 1, len(head) - 1, *range(len(head), len(whole))):
            with RawClient(engine.port, handshake=False) as client:
                send_pieces(client, [piece for piece in (whole[:cut], whole[cut:]) if piece])
                assert client.recv_response().status == 101, cut
                assert client.recv_frame() == Frame(True, 0, PONG, b"p"), cut
                assert [take(seen), take(seen)] == ["first", "second"], cut
        engine.wait_empty()


def test_message_that_came_with_the_request_is_delivered_after_on_connect() -> None:
    order: queue.Queue[Any] = queue.Queue()
    with (
        running(on_connect=lambda conn: order.put("connect"), on_message=recorder(order)) as engine,
        RawClient(engine.port, handshake=False) as client,
    ):
        client.send(raw.request() + raw.frame(TEXT, "hello"))
        assert [take(order), take(order)] == ["connect", "hello"]


@pytest.mark.parametrize("cut", [None, 1, 100, 200])
def test_refused_request_is_answered_and_ended_with_fin(cut: int | None) -> None:
    head = raw.request().replace(b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 12")
    with running() as engine, RawClient(engine.port, handshake=False) as client:
        send_pieces(client, [head] if cut is None else [p for p in (head[:cut], head[cut:]) if p])
        response = client.recv_response()
        assert (response.status, response.headers["sec-websocket-version"]) == (426, "13")
        client.recv_body()
        expect_eof(client)
        client.close()
        engine.wait_empty()
        assert (engine.counter("refused"), engine.counter("upgraded")) == (1, 0)
        assert engine.opened.empty() and engine.ended.empty()


def test_endless_head_is_431_at_its_limit() -> None:
    with running(max_header_bytes=1000) as engine, RawClient(engine.port, handshake=False) as client:
        send_pieces(client, [b"GET / HTTP/1.1\r\n", *[b"X: " + b"y" * 95 + b"\r\n"] * 20], True)
        assert client.recv_response().status == 431
        client.close()
        engine.wait_empty()


def test_end_within_the_head_is_the_end_without_a_word() -> None:
    with running() as engine:
        for cut in (0, 1, 40):
            client = RawClient(engine.port, handshake=False)
            if cut:
                send_pieces(client, [raw.request()[:cut]])
            client.shutdown()
            expect_eof(client)
            client.close()
        client = RawClient(engine.port, handshake=False)
        send_pieces(client, [raw.request()[:40]])
        client.reset()
        engine.wait_empty()
        assert engine.counter("accepted") == 4
        assert engine.opened.empty() and engine.ended.empty()


# --- the page ---


@pytest.mark.parametrize("target", ["/", "/?q=1", "http://127.0.0.1/", "http://127.0.0.1"])
def test_page_is_served_at_the_root(target: str) -> None:
    with running(page=PAGE) as engine:
        response, body = answer(engine, f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert (response.status, body) == (200, PAGE)
        assert response.headers["content-type"].startswith("text/html")
        expect_date(response.headers.get("date"))
        assert engine.counter("refused") == 0
        engine.wait_empty()


@pytest.mark.parametrize(
    ("request_line", "page", "status"),
    [
        ("GET /other HTTP/1.1", PAGE, 426),
        ("GET //  HTTP/1.1", PAGE, 400),
        ("GET / HTTP/1.1", None, 426),
        ("POST / HTTP/1.1", PAGE, 405),
        ("HEAD / HTTP/1.1", PAGE, 405),
        ("GET / HTTP/2.0", PAGE, 505),
    ],
)
def test_page_is_nowhere_else(request_line: str, page: bytes | None, status: int) -> None:
    with running(page=page) as engine:
        response, body = answer(engine, f"{request_line}\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert response.status == status
        assert PAGE not in body
        assert engine.counter("refused") == 1


def test_page_larger_than_the_kernel_takes_at_once_arrives_whole() -> None:
    page = os.urandom(3_000_000)
    with running(page=page) as engine:
        with RawClient(engine.port, handshake=False, rcvbuf=8192) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv_response().status == 200
            assert client.recv_body() == page
            expect_eof(client)
        engine.wait_empty()


# --- subprotocols ---


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["chat"], "chat"),
        (["x", "superchat", "chat"], "chat"),
        (["superchat"], "superchat"),
        (["Chat"], None),
        (["cha", "chatt"], None),
        ([], None),
    ],
)
@pytest.mark.parametrize("apart", [False, True], ids=["one field", "a field each"])
def test_first_subprotocol_of_ours_that_is_offered_is_agreed_on(
    offered: list[str], chosen: str | None, apart: bool
) -> None:
    name = "Sec-WebSocket-Protocol"
    fields = [(name, one) for one in offered] if apart else [(name, ", ".join(offered))] if offered else []
    with running() as engine:
        engine.loop.set_subprotocols([b"chat", b"superchat"])
        client, conn = engine.connect_conn(headers=fields)
        assert client.response is not None
        assert client.response.headers.get(name.lower()) == chosen
        assert conn.subprotocol == chosen
        client.close()
        engine.end()
        assert conn.subprotocol == chosen
        engine.loop.set_subprotocols([])
        engine.wait_empty()


def test_subprotocols_change_while_the_loop_runs() -> None:
    offer = [("Sec-WebSocket-Protocol", "a, b")]
    with running() as engine:
        for names, chosen in (([b"b"], "b"), ([b"a", b"b"], "a"), ([], None)):
            engine.loop.set_subprotocols(names)
            assert engine.connect_conn(headers=offer)[1].subprotocol == chosen
        with pytest.raises(ValueError, match="32"):
            engine.loop.set_subprotocols([b"p%d" % i for i in range(33)])


def test_answers_are_counted_by_status() -> None:
    with running(page=PAGE) as engine:
        engine.connect()
        for request in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01"):
            answer(engine, request)
        counters = engine.loop.counters()
        assert {name: n for name, n in counters.items() if name.startswith("answered_")} == {
            "answered_101": 1,
            "answered_200": 1,
            "answered_400": 1,
            "answered_405": 1,
        }
