"""How connections end: with a closing handshake, or not."""

from __future__ import annotations

import struct

import pytest
from raw_server import RawServer, Talk

from unlimitedws import loadgen

pytest.importorskip("hdrh", reason="the load generator needs hdrhistogram")

pytestmark = pytest.mark.usefixtures("no_fd_leaks")


def test_a_connection_ends_with_1000_and_the_server_ends_the_stream_first() -> None:
    ends: list[object] = []

    def serve(talk: Talk) -> None:
        talk.open()
        b0, payload = talk.frame()
        ends.append((b0, payload))
        # Still under way when they asked to close: of no interest to anybody, and no error.
        talk.send(1, b"late")
        talk.send(8, payload)
        # Nothing more comes, nor does the end, before ours.
        talk.sock.settimeout(0.2)
        try:
            ends.append(talk.sock.recv(1))
        except TimeoutError:
            ends.append("waits")

    with RawServer(serve) as server:
        result = loadgen.run(server.url, mode="idle", connections=2, duration=0.05)
    assert result.errors == {}
    assert sorted(map(repr, ends)) == sorted(map(repr, [(0x88, struct.pack("!H", 1000)), "waits"] * 2))


def test_a_closing_handshake_that_is_not_answered_ends_anyway() -> None:
    def serve(talk: Talk) -> None:
        talk.open()
        talk.frame()
        talk.read(1)

    with RawServer(serve) as server:
        result = loadgen.run(server.url, mode="idle", connections=2, duration=0.05, close_timeout=0.1)
    assert result.errors == {"close_timeout": 2}


def test_an_end_of_the_stream_instead_of_a_close_frame_is_told() -> None:
    def serve(talk: Talk) -> None:
        talk.open()
        talk.frame()

    with RawServer(serve) as server:
        result = loadgen.run(server.url, mode="idle", connections=2, duration=0.05)
    assert result.errors == {"cut": 2}


def test_an_abort_is_a_reset() -> None:
    resets: list[bool] = []

    def serve(talk: Talk) -> None:
        talk.open()
        try:
            talk.read(1)
        except ConnectionResetError:
            resets.append(True)

    with RawServer(serve) as server:
        result = loadgen.run(server.url, mode="idle", connections=2, duration=0.05, abort=True)
    assert result.errors == {} and resets == [True, True]


def test_who_leaves_while_it_is_held_is_missed() -> None:
    def serve(talk: Talk) -> None:
        talk.open()
        talk.send(8, struct.pack("!H", 1001))
        talk.frame()

    with RawServer(serve) as server:
        result = loadgen.run(server.url, mode="idle", connections=3, duration=10.0)
    # It does not go on when nobody is left.
    assert (result.opened, result.held, result.errors) == (3, 0, {"closed": 3})
    assert result.seconds < 10
