"""conn: connections as objects of Python: who holds them, for how long, and from which thread."""

from __future__ import annotations

import gc
import queue
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from live import ping, take, wait_until
from loops import HAS_GIL, echo, running
from raw import BINARY, TEXT

from _uws.conn import Conn
from _uws.messages import write_server_message
from unlimitedws import ConnectionClosed

pytestmark = pytest.mark.usefixtures("both_tables", "no_fd_leaks")

ROOT = Path(__file__).resolve().parents[2]
each_runners = pytest.mark.parametrize("runners", [1, 3])


def conns() -> int:
    """How many Conn objects there are."""
    gc.collect()
    return sum(isinstance(thing, Conn) for thing in gc.get_objects())


class Thing:
    """What a weak reference can be made to."""


# --- a connection's object ---


def test_conn_is_made_by_the_server_only() -> None:
    with pytest.raises(TypeError, match="made by the server"):
        Conn()


@each_runners
def test_conn_is_the_same_object_for_as_long_as_it_is_held(runners: int) -> None:
    seen: queue.Queue[Any] = queue.Queue()
    with running(runners=runners, on_message=lambda conn, message: seen.put(conn), on_close=seen.put) as engine:
        client, conn = engine.connect_conn()
        other, second = engine.connect_conn()
        for _ in range(20):
            client.send_frame(TEXT, "x")
            assert take(seen) is conn
        client.close()
        assert take(seen) is conn
        assert conn == conn and conn != second and hash(conn) != hash(second)
        assert {conn: 1, second: 2}[conn] == 1
        other.close()


def test_conn_that_nobody_holds_does_not_stay() -> None:
    with running(on_message=echo, on_connect=lambda conn: engine.opened.get()) as engine:
        before = conns()
        clients = [engine.connect() for _ in range(5)]
        for client in clients:
            client.send_frame(TEXT, "x")
            assert client.recv_message() == "x"
        # Five connections, and no object of Python's for any of them; without a GIL a connection keeps its own.
        kept = 0 if HAS_GIL else 5
        wait_until(lambda: conns() == before + kept, "the objects are gone")
        assert engine.loop.connections == 5
    assert conns() == before


@each_runners
def test_data_lives_as_long_as_the_connection_though_nobody_holds_it(runners: int) -> None:
    thing = Thing()
    gone = weakref.ref(thing)
    ids: queue.Queue[Any] = queue.Queue()

    def on_connect(conn: Any) -> None:
        nonlocal thing
        conn.data = thing
        del thing
        # on_connect recorded the conn: the recorder is not to hold it.
        engine.opened.get()

    with running(
        runners=runners,
        on_connect=on_connect,
        on_message=lambda conn, message: ids.put(id(conn.data)),
        on_close=lambda conn: ids.put(id(conn.data)),
    ) as engine:
        client = engine.connect()
        client.send_frame(TEXT, "x")
        first = take(ids)
        gc.collect()
        client.send_frame(TEXT, "x")
        assert take(ids) == first == id(gone())
        client.close()
        assert take(ids) == first
        engine.wait_empty()

        def is_dropped() -> bool:
            if not HAS_GIL:
                # An object is its thread's to free, which may be parked, or the collector's.
                gc.collect()
            return gone() is None

        wait_until(is_dropped, "the data is dropped after on_close")


def test_data_of_a_conn_that_is_held_stays_after_the_close() -> None:
    with running() as engine:
        client, conn = engine.connect_conn()
        conn.data = "kept"
        client.close()
        engine.wait_empty()
        assert conn.data == "kept"
        conn.data = "changed"
        assert conn.data == "changed"


def test_held_conn_knows_everything_after_the_close() -> None:
    with running() as engine:
        client, conn = engine.connect_conn(path="/a/b?c=d")
        local, remote = conn.local_addr, conn.remote_addr
        assert tuple(remote) == client.address
        client.send_close(4000, "bye")
        engine.wait_empty()
        assert (conn.local_addr, conn.remote_addr) == (local, remote)
        assert (conn.path, conn.query) == ("/a/b", "c=d")
        assert (conn.close_code, conn.close_reason, conn.is_open) == (4000, "bye", False)
        assert conn.buffered_amount == 0
        assert "closed" in repr(conn)


def test_conn_survives_its_loop() -> None:
    with running() as engine:
        _, conn = engine.connect_conn(path="/x")
    del engine
    gc.collect()
    assert conn.path == "/x" and not conn.is_open
    with pytest.raises(ConnectionClosed):
        conn.send("x")
    conn.close()
    conn.abort()


def test_handle_of_a_closed_connection_never_touches_the_next_one_with_its_descriptor() -> None:
    with running(on_message=echo) as engine:
        client, old = engine.connect_conn()
        client.close()
        engine.wait_empty()
        # One connection in, one out: the kernel gives the lowest number, the same one.
        fresh, new = engine.connect_conn()
        assert old is not new and old != new
        for act in (lambda: old.send("x"), lambda: old.ping(), lambda: write_server_message(old, 1, "x")):
            with pytest.raises(ConnectionClosed):
                act()
        old.close()
        old.abort()
        old.data = Thing()
        assert not old.is_open and old.remote_addr != new.remote_addr and old.buffered_amount == 0
        assert new.is_open and new.data is None
        ping(fresh)
        fresh.send_frame(TEXT, "mine")
        assert fresh.recv_message() == "mine"


# --- garbage ---


@pytest.mark.parametrize("shape", ["dict", "list", "attribute", "closure"])
def test_cycle_through_data_is_collected_after_the_close(shape: str) -> None:
    gone: list[weakref.ref[Any]] = []

    def on_connect(conn: Any) -> None:
        engine.opened.get()
        thing = Thing()
        gone.append(weakref.ref(thing))
        if shape == "dict":
            conn.data = {"thing": thing, "conn": conn}
        elif shape == "list":
            conn.data = [thing, conn]
        elif shape == "attribute":
            thing.conn = conn  # type: ignore[attr-defined]
            conn.data = thing
        else:
            conn.data = lambda: (thing, conn)

    with running(on_connect=on_connect, on_message=echo) as engine:
        for _ in range(10):
            client = engine.connect()
            client.send_frame(TEXT, "x")
            assert client.recv_message() == "x"
            gc.collect()
            assert gone[-1]() is not None, "collected while the connection was open"
            client.close()
        engine.wait_empty()
        gc.collect()
        assert [ref for ref in gone if ref() is not None] == []


@pytest.mark.parametrize("shape", ["itself", "tuple"])
def test_cycle_of_what_cannot_be_cleared_is_collected_after_the_close(shape: str) -> None:
    def on_connect(conn: Any) -> None:
        engine.opened.get()
        conn.data = conn if shape == "itself" else (conn,)

    before = conns()
    with running(on_connect=on_connect) as engine:
        for _ in range(10):
            engine.connect().close()
        for _ in range(10):
            engine.end()
        engine.wait_empty()
        left = conns() - before
        assert left <= 0, left


def test_last_reference_may_go_while_other_threads_send() -> None:
    # Conn.__dealloc__ takes the loop's lock with the GIL held: nobody may wait for the GIL with the lock.
    stop = threading.Event()

    def pour(conn: Any) -> None:
        while not stop.is_set():
            conn.send(b"x" * 3000)

    def drain(client: Any) -> None:
        while client.sock.recv(1 << 20):
            pass

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with running(runners=3, on_read=lambda conn: None, record=False, on_connect=None) as engine:
            kept: queue.Queue[Any] = queue.Queue()
            engine.loop.set_hook("on_connect", kept.put)
            readers = [engine.connect() for _ in range(2)]
            senders = [threading.Thread(target=pour, args=(take(kept),)) for _ in readers]
            drains = [threading.Thread(target=drain, args=(client,)) for client in readers]
            engine.loop.set_hook("on_connect", None)
            writers = [engine.connect() for _ in range(4)]
            for thread in senders + drains:
                thread.start()
            # Each makes a Conn that nobody keeps.
            for _ in range(500):
                for client in writers:
                    client.send_frame(BINARY, b"")
            engine.wait_for(messages_in=2000, ready=0)
            stop.set()
            for thread in senders:
                thread.join()
            for client in readers:
                client.shutdown()
            for thread in drains:
                thread.join()
    finally:
        sys.setswitchinterval(interval)


# --- reading ---


def test_address_is_right_while_another_thread_aborts() -> None:
    wrong: list[Any] = []

    def on_close(conn: Any) -> None:
        if conn.remote_addr.port == 0:
            wrong.append("on_close")

    with running(on_message=lambda conn, message: None, on_close=on_close) as engine:
        for _ in range(300):
            client, conn = engine.connect_conn()
            aborting = threading.Thread(target=conn.abort)
            aborting.start()
            wrong += ["meanwhile" for _ in range(20) if conn.remote_addr.port == 0]
            aborting.join()
            client.close()
    assert wrong == []
