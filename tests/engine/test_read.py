"""read: what comes in, cut wherever the network cuts it, and what the engine answers by itself."""

from __future__ import annotations

import os
import queue
import random
from typing import Any

import pytest
import raw
from live import expect_eof, frames, ping, send_bytewise, send_pieces, take
from loops import Running, running
from raw import BINARY, CONT, PING, PONG, TEXT, Frame, RawClient

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


# --- the request ---


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


# --- frames ---


def test_messages_larger_than_the_arena_cut_at_random_arrive_in_order() -> None:
    rng = random.Random(3)
    seen: queue.Queue[Any] = queue.Queue()
    messages: list[Any] = [b"", "", b"x", rng.randbytes(125), rng.randbytes(126), rng.randbytes(700_000)]
    messages += ["é" * 40_000, rng.randbytes(65_536), b"last"]
    stream = frames(*[(TEXT if isinstance(m, str) else BINARY, m) for m in messages])
    with running(on_message=recorder(seen)) as engine:
        client = engine.connect()
        at = 0
        while at < len(stream):
            step = rng.choice([1, 2, 3, 1000, 50_000, 200_000])
            client.send(stream[at : at + step])
            at += step
        assert [take(seen) for _ in messages] == messages
        assert engine.counter("messages_in") == len(messages)
        client.close()
        engine.wait_empty()


def test_more_than_a_turn_can_hold_is_read_in_the_next() -> None:
    # Twenty times 64 KiB are more than the arena: who has no room in this turn is reported again.
    seen: queue.Queue[Any] = queue.Queue()
    with running(on_message=recorder(seen)) as engine:
        clients = [engine.connect() for _ in range(20)]
        payloads = [bytes([i]) * 65_000 for i in range(20)]
        for client, payload in zip(clients, payloads, strict=True):
            client.send_frame(BINARY, payload)
        assert sorted(take(seen) for _ in clients) == payloads


def test_many_small_messages_in_one_segment_all_arrive() -> None:
    # More events than one reading may bring into a batch that is half full.
    seen: list[int] = []
    count = 30_000
    with running(on_message=lambda conn, message: seen.append(len(message))) as engine:
        clients = [engine.connect() for _ in range(2)]
        block = raw.frame(BINARY, b"") * count
        for client in clients:
            client.send(block)
        for client in clients:
            ping(client)
        engine.wait_for(messages_in=2 * count)
        for client in clients:
            client.close()
        engine.wait_empty()
    assert seen == [0] * (2 * count)


def test_empty_message_of_empty_fragments_arrives() -> None:
    seen: queue.Queue[Any] = queue.Queue()
    with running(on_message=recorder(seen)) as engine:
        client = engine.connect()
        client.send(frames((TEXT, "", False), (CONT, "", False), (CONT, ""), (TEXT, "next")))
        assert [take(seen), take(seen)] == ["", "next"]


def test_messages_that_nobody_wants_are_dropped_and_pings_answered() -> None:
    with running(record=False) as engine:
        client = engine.connect()
        for payload in (b"small", bytes(300_000)):
            client.send_frame(BINARY, payload)
            client.send_frame(BINARY, payload, fin=False)
            client.send_frame(CONT, payload)
        ping(client)
        engine.wait_for(messages_in=4, inbox_bytes=0, slab_blocks=0)
        assert client.close_cleanly() == (1000, "")
        engine.wait_empty()


def test_frames_behind_a_close_frame_are_not_looked_at() -> None:
    seen: queue.Queue[Any] = queue.Queue()
    with running(on_message=recorder(seen)) as engine:
        client = engine.connect()
        client.send(
            raw.frame(TEXT, "a") + raw.close_frame(1000) + frames((TEXT, "b"), (PING, b"c")) + b"\xff" * 50
        )
        assert client.recv_close().code == 1000
        expect_eof(client)
        assert engine.end() == (1000, "")
        assert list(seen.queue) == ["a"]


# --- pings ---


def clog(engine: Running, conn: Any, client: RawClient) -> int:
    """Send until more than a pong waits for is queued; return how many bytes the messages have."""
    sent = 0
    while conn.buffered_amount < 200_000:
        conn.send(bytes(100_000))
        sent += 100_000
    return sent


def read_binary(client: RawClient, size: int) -> None:
    while size > 0:
        got = client.recv_frame()
        assert got.opcode == BINARY, got
        size -= len(got.payload)


def test_pings_of_a_peer_that_does_not_read_get_one_pong_for_the_last() -> None:
    with running(max_buffered_bytes=1 << 30) as engine:
        client, conn = engine.connect_conn(rcvbuf=4096)
        sent = clog(engine, conn, client)
        for i in range(5):
            client.send_frame(PING, b"%d" % i)
        engine.wait_for(pings=5, pongs_put_off=5)
        read_binary(client, sent)
        assert client.recv_frame() == Frame(True, 0, PONG, b"4")
        # And then each is answered again.
        ping(client, b"")
        ping(client, b"p" * 125)
        assert client.close_cleanly().code == 1000
        engine.wait_empty()


def test_nothing_follows_our_close_frame_not_even_a_pong_that_was_put_off() -> None:
    with running(max_buffered_bytes=1 << 30) as engine:
        client, conn = engine.connect_conn(rcvbuf=4096)
        sent = clog(engine, conn, client)
        client.send_frame(PING, b"late")
        engine.wait_for(pongs_put_off=1)
        conn.close(1000)
        read_binary(client, sent)
        assert client.recv_close().code == 1000
        client.send_close(1000)
        expect_eof(client)


def test_ping_within_a_fragmented_message_is_answered_at_once() -> None:
    seen: queue.Queue[Any] = queue.Queue()
    with running(on_message=recorder(seen)) as engine:
        client = engine.connect()
        client.send_frame(TEXT, "fir", fin=False)
        ping(client, b"in between")
        client.send_frame(CONT, "st")
        assert take(seen) == "first"
