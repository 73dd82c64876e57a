"""Every row of docs/handshakes.md, put to a live server over a socket: whole, and byte by byte.

What the parser decides is tests/engine/test_upgrade.py's; here it is what a client gets to see of it, and
that the connection is over afterwards. One server serves them all: what it refused must not trouble the next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from handshakes import ACCEPT, KEY, MORE_ROWS, ROWS, TEXT_FRAME, Answer, head
from live import Live, echo, expect_date, expect_eof, frames, ping, send_bytewise, serve, take
from raw import PING, PONG, TEXT, Frame, RawClient

Send = Callable[[RawClient, bytes], None]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "compression"])
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    # No row offers compression in a way that it may be accepted.
    with serve(on_read=echo, compression=request.param) as running:
        yield running


@pytest.fixture
def client(live: Live) -> Iterator[RawClient]:
    with live.connect(handshake=False) as connected:
        yield connected


def send_whole(client: RawClient, request: bytes) -> None:
    # A server that refuses early may close while the rest is on its way; what it said is there all the same.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.send(request)


def send_in_bytes(client: RawClient, request: bytes) -> None:
    # Refused on the way, it says no more; accepted, it goes on to what is behind the head.
    send_bytewise(client, request, stop_when_answered=not accepted(request))


def accepted(request: bytes) -> bool:
    return any(request == sent and answer == Answer.UPGRADED for _, sent, answer in ROWS)


# Longer ones are the same lines again and again, and a byte costs two turns of the loop.
SHORT = 600
CASES = [
    *(pytest.param(send_whole, *row[1:], id=f"{row[0]}-whole") for row in ROWS + MORE_ROWS),
    *(pytest.param(send_in_bytes, *row[1:], id=f"{row[0]}-bytewise") for row in ROWS if len(row[1]) <= SHORT),
]
UPGRADED = [case for case in CASES if case.values[2] == Answer.UPGRADED]
REFUSED = [case for case in CASES if case.values[2] != Answer.UPGRADED]


@pytest.mark.parametrize("send, request_bytes, answer", REFUSED)
def test_refused_request_gets_a_complete_response_and_the_connection_is_over(
    live: Live, client: RawClient, send: Send, request_bytes: bytes, answer: Answer
) -> None:
    send(client, request_bytes)
    response = client.recv_response()
    assert response.status == answer.status
    assert response.reason
    assert "close" in [token.strip().lower() for token in response.headers["connection"].split(",")]
    assert answer.fields.items() <= response.headers.items()
    assert "sec-websocket-accept" not in response.headers
    assert response.headers["content-type"] == "text/plain"
    assert int(response.headers["content-length"]) > 0
    expect_date(response.headers.get("date"))
    if answer.has_content:
        body = client.recv_body().decode("ascii")
        assert body.endswith("\n") and body.strip()
    # FIN, and not a byte more: no second response to what was behind, and no frame.
    expect_eof(client)
    assert live.opened.empty()


@pytest.mark.parametrize("send, request_bytes, answer", UPGRADED)
def test_accepted_request_opens_a_connection(
    live: Live, client: RawClient, send: Send, request_bytes: bytes, answer: Answer
) -> None:
    send(client, request_bytes)
    response = client.recv_response()
    assert response.status == 101
    assert response.headers["upgrade"].lower() == "websocket"
    assert response.headers["connection"].lower() == "upgrade"
    if b": " + KEY + b"\r" in request_bytes:
        assert response.headers["sec-websocket-accept"] == ACCEPT.decode()
    assert "date" not in response.headers
    # Nothing was negotiated that the server does not have.
    assert "sec-websocket-extensions" not in response.headers
    assert "sec-websocket-protocol" not in response.headers
    if request_bytes.endswith(TEXT_FRAME):
        assert client.recv_message() == "hello"
    ping(client)
    take(live.opened, "on_connect")
    assert client.close_cleanly().code == 1000


def test_a_refused_upgrade_never_becomes_one_by_what_follows(live: Live, client: RawClient) -> None:
    """RFC 9112, section 9.6: behind `Connection: close` nothing is answered, however right it is."""
    send_whole(client, head(b"POST /chat HTTP/1.1") + head() + frames((TEXT, "hello")))
    assert client.recv_response().status == 405
    client.recv_body()
    expect_eof(client)
    assert live.opened.empty()


def test_a_second_request_behind_an_upgrade_is_frames_and_wrong_ones(live: Live, client: RawClient) -> None:
    """Behind a proxy that did not understand the upgrade, nobody gets a second HTTP response."""
    client.send(head() + head())
    assert client.recv_response().status == 101
    assert client.recv_close().code == 1002
    expect_eof(client)
    take(live.opened, "on_connect")


def test_frames_in_the_same_segment_as_the_head_are_answered_in_order(live: Live, client: RawClient) -> None:
    client.send(head() + frames((PING, "p"), (TEXT, "one"), (TEXT, "two")))
    assert client.recv_response().status == 101
    assert client.recv_frame() == Frame(True, 0, PONG, b"p")
    assert [client.recv_message() for _ in range(2)] == ["one", "two"]
    client.close_cleanly()
    take(live.opened, "on_connect")
