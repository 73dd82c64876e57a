"""Peers that vanish without a word: packets are lost, nobody is told. Whatever they left behind is found and ended.

Each rule is tried twice (bench/vanishing.py): with a filter on the client's socket, which anybody may have, and with a
network that loses packets between two hosts, in namespaces of its own.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import raw
import vanishing
from live import Live, serve, take, wait_until
from raw import TEXT, RawClient

from unlimitedws import CloseCause

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

class Place:
    """Where a server and its clients are, and how clients vanish from there."""

    def __init__(self, network: vanishing.Network | None) -> None:
        self._network = network
        self._clients: list[socket.socket] = []

    @contextmanager
    def serve(self, **options: Any) -> Iterator[Live]:
        with contextlib.ExitStack() as stack:
            address = "127.0.0.1:0"
            if self._network is not None:
                listener = stack.enter_context(self._network.listener())
                address = f"fd:{listener.fileno()}"
            with serve(address, **options) as live:
                try:
                    yield live
                finally:
                    # What they had to say is for nobody; and a server that stops would wait for them.
                    for client in self._clients:
                        client.close()
                    self._clients.clear()

    def connect(self, live: Live, handshake: bool = True) -> RawClient:
        """Return a client that is going to vanish."""
        network = self._network
        client = self._made(live, handshake, None if network is None else network.client)
        self._clients.append(client.sock)
        return client

    def neighbour(self, live: Live) -> RawClient:
        """Return a client that is not, of the server's own host."""
        return self._made(live, True, None if self._network is None else self._network.server)

    def _made(self, live: Live, handshake: bool, where: vanishing.Namespace | None) -> RawClient:
        def make() -> RawClient:
            return RawClient(live.port, live.server.local_addr.host, handshake=handshake)

        return make() if where is None else where.inside(make)

    def vanish(self) -> None:
        """From now on nothing reaches the clients, and nothing of theirs is to reach the server."""
        if self._network is not None:
            self._network.cut()
            return
        for client in self._clients:
            vanishing.fall_silent(client)


@pytest.fixture(scope="module")
def network() -> Iterator[vanishing.Network | str]:
    """A network, or why there is none. Made before any test counts its descriptors."""
    try:
        made = vanishing.Network()
    except vanishing.NotToBeHad as why:
        yield str(why)
        return
    with made:
        yield made


@pytest.fixture(params=["filter", "network"])
def place(request: pytest.FixtureRequest, network: vanishing.Network | str, no_fd_leaks: None) -> Place:
    if request.param == "filter":
        return Place(None)
    if isinstance(network, str):
        pytest.skip(network)
    network.restore()
    return Place(network)


def wait_gone(live: Live) -> None:
    wait_until(lambda: live.server.counters()["descriptors"] == 0, "that nobody is left")


def test_silent_peer_is_pinged_and_dropped_and_one_who_answers_is_not(place: Place) -> None:
    interval, patience = 0.2, 0.3
    with place.serve(ping_interval=interval, ping_timeout=patience, on_message=echo_message) as live:
        clients = [place.connect(live) for _ in range(5)]
        heard = time.monotonic()
        with place.neighbour(live) as honest:
            place.vanish()
            while live.server.connections > 1:
                converse(honest)
            ended = [take(live.ended, "on_close") for _ in clients]
            # Neither before a ping was due, nor before there was time to answer it.
            assert time.monotonic() - heard >= 0.8 * interval + patience
            assert {(one.code, one.conn.close_cause) for one in ended} == {(1006, CloseCause.PING_TIMEOUT)}
            converse(honest)
        wait_gone(live)
        assert live.server.counters()["closed_by_ping_timeout"] == len(clients)


def echo_message(conn: Any, message: str) -> None:
    conn.send(message)


def converse(client: RawClient) -> None:
    """Say something, and read until it comes back. Whatever the server asks meanwhile is answered by the next word."""
    client.send_frame(TEXT, "here")
    while client.recv_frame().opcode != TEXT:
        pass


def test_peer_that_vanished_with_data_on_its_way_is_dropped_when_its_queue_does_not_move(place: Place) -> None:
    with place.serve(ping_interval=None, send_timeout=0.3) as live:
        for _ in range(5):
            place.connect(live)
        conns = [take(live.opened, "on_connect") for _ in range(5)]
        place.vanish()
        for conn in conns:
            conn.send(bytes(8 << 20))
            assert conn.buffered_amount > 0
        ended = [take(live.ended, "on_close") for _ in conns]
        assert {(one.code, one.conn.close_cause) for one in ended} == {(1006, CloseCause.SLOW_READER)}
        wait_gone(live)
        assert live.server.counters()["buffered_bytes"] == 0


def test_ping_that_lines_up_behind_data_is_not_needed(place: Place) -> None:
    """A little data, which the kernel takes and nobody acknowledges, is no sign of life."""
    with place.serve(ping_interval=0.2, ping_timeout=0.3, send_timeout=None) as live:
        place.connect(live)
        conn = take(live.opened, "on_connect")
        place.vanish()
        conn.send(b"a word")
        assert take(live.ended, "on_close").conn.close_cause is CloseCause.PING_TIMEOUT
        wait_gone(live)


@pytest.mark.parametrize("sent", [0, 1, 40], ids=["nothing", "a byte", "half"])
def test_peer_that_vanished_in_its_handshake_gives_back_its_descriptor(place: Place, sent: int) -> None:
    with place.serve(handshake_timeout=0.2, close_timeout=0.3) as live:
        client = place.connect(live, handshake=False)
        if sent:
            client.send(raw.request()[:sent])
        wait_until(lambda: live.server.counters()["bytes_in"] == sent, "what was sent")
        wait_until(lambda: live.server.counters()["accepted"] == 1, "that it is accepted")
        place.vanish()
        wait_gone(live)
        assert live.server.counters()["timeouts"] >= 1
        assert live.opened.empty() and live.ended.empty()


def test_peer_that_vanished_before_our_close_frame_is_dropped_at_the_deadline(place: Place) -> None:
    with place.serve(close_timeout=0.3) as live:
        place.connect(live)
        conn = take(live.opened, "on_connect")
        place.vanish()
        conn.close(1001, "nobody is there")
        assert take(live.ended, "on_close").conn.close_cause is CloseCause.CLOSE_TIMEOUT
        wait_gone(live)


def test_kernel_gives_up_on_what_nobody_acknowledges(place: Place) -> None:
    """Where all our own deadlines are switched off there is tcp_user_timeout."""
    with place.serve(ping_interval=None, send_timeout=None, tcp_user_timeout=0.5) as live:
        place.connect(live)
        conn = take(live.opened, "on_connect")
        place.vanish()
        conn.send(b"a word")
        ended = take(live.ended, "on_close")
        assert (ended.code, ended.conn.close_cause) == (1006, CloseCause.LOST)
        wait_gone(live)


def test_server_stops_though_everybody_has_vanished(place: Place) -> None:
    with place.serve() as live:
        for _ in range(20):
            place.connect(live)
        conns = [take(live.opened, "on_connect") for _ in range(20)]
        place.vanish()
        for conn in conns[:10]:
            conn.send(bytes(4 << 20))
        live.server.stop(0.3)
        ended = [take(live.ended, "on_close") for _ in conns]
        assert {one.conn for one in ended} == set(conns)
        assert {one.conn.close_cause for one in ended} <= {CloseCause.SHUTDOWN, CloseCause.SLOW_READER}
