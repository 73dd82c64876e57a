"""settle: a slot and its descriptor go when nothing points at them any more, and not before; then nothing is left."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from live import expect_end, ping, wait
from loops import running
from raw import TEXT, RawClient
from uws_shims.deliver_shim import Bare

pytestmark = pytest.mark.usefixtures("both_tables", "no_fd_leaks")

Make = Callable[..., tuple[Bare, list[int]]]

each_runners = pytest.mark.parametrize("runners", [1, 3])


def test_slot_of_a_dead_connection_is_kept_until_its_callback_returns(make: Make) -> None:
    loop, (a,) = make()
    loop.post(a, b"1")
    taken = loop.begin()
    loop.abort(a)
    assert loop.is_there(a)
    loop.done(taken)
    assert loop.is_there(a)
    taken = loop.begin()
    assert loop.next(taken) == "close"
    assert loop.is_there(a)
    loop.done(taken)
    assert not loop.is_there(a)
    assert loop.figures()["blocks"] == loop.figures()["conns"] == 0


@each_runners
def test_descriptor_is_not_given_to_another_while_on_close_runs(runners: int) -> None:
    gate, entered = threading.Event(), threading.Event()

    def slow(conn: Any) -> None:
        entered.set()
        assert gate.wait(20)

    with running(runners=runners, on_close=slow) as engine:
        engine.connect().reset()
        wait(entered)
        engine.wait_for(descriptors=1, connections=0, timers=0)
        others = [engine.connect() for _ in range(3)]
        engine.wait_for(descriptors=4)
        gate.set()
        engine.wait_for(descriptors=3)
        for other in others:
            ping(other)


def test_loop_that_stops_drops_whoever_is_left_in_whatever_state() -> None:
    gate, entered = threading.Event(), threading.Event()

    def slow(conn: Any, message: Any) -> None:
        entered.set()
        assert gate.wait(20)

    with running(runners=2, on_message=slow) as engine:
        opened, _ = engine.connect_conn()
        closing, conn = engine.connect_conn()
        conn.close(4000)
        assert closing.recv_close().code == 4000
        lingering = engine.connect()
        lingering.send_frame(TEXT, "x", rsv=7)
        assert lingering.recv_close().code == 1002
        upgrading = RawClient(engine.port, handshake=False)
        busy = engine.connect()
        busy.send_frame(TEXT, "x")
        wait(entered)
        busy.send_close(4000)
        engine.wait_for(descriptors=5, connections=2)
        engine.shut(timeout_ms=0)
        for client in (opened, closing, lingering, upgrading):
            expect_end(client)
        gate.set()
        engine.join()
        codes = sorted(engine.end()[0] for _ in range(4))
        assert codes == [1002, 1006, 1006, 4000] and engine.ended.empty()
        upgrading.close()


@each_runners
def test_storm_of_every_kind_of_end_leaves_nothing(runners: int) -> None:
    def on_message(conn: Any, message: str) -> None:
        if message == "close":
            conn.close(4000)
        elif message == "abort":
            conn.abort()
        else:
            conn.send(message)

    ways = ("close", "abort", "echo", "fin", "rst", "wrong", "polite", "half")
    with running(runners=runners, on_message=on_message) as engine:
        for turn in range(5):
            clients = {}
            for way in ways * 4:
                client = engine.connect(path=f"/{way}/{turn}")
                clients[client] = way
            for client, way in clients.items():
                if way in ("close", "abort", "echo"):
                    client.send_frame(TEXT, way)
                elif way == "fin":
                    client.close()
                elif way == "rst":
                    client.reset()
                elif way == "wrong":
                    client.send(b"\xff\xff" * 100)
                elif way == "polite":
                    client.send_close(1000)
                else:
                    client.send_frame(TEXT, "half", fin=False)
                    client.sock.shutdown(socket.SHUT_WR)
            for client in clients:
                client.close()
        for _ in range(5 * 4 * len(ways)):
            engine.end()
        engine.wait_empty()
        assert engine.ended.empty()
        assert engine.counter("closed") == engine.counter("upgraded") == 5 * 4 * len(ways)
