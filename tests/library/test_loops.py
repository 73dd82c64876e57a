"""Several loops in one process: who comes is spread over them, and to the application they are one server."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from typing import Any

import pytest
import raw
from live import Live, each_mode, echo, expect_eof, ping, serve, take, wait_until
from raw import TEXT, RawClient

import unlimitedws
from unlimitedws import Accept, Options
from unlimitedws.serving import Serving

LOOPS = 3
MANY = 60


def loop_of(conn: Any) -> Any:
    return conn._loop


def two_of_different_loops(live: Live) -> list[tuple[RawClient, Any]]:
    """Connect until two connections are of two loops; the first, and one of another loop."""
    first = live.connect_conn()
    while loop_of((other := live.connect_conn())[1]) is loop_of(first[1]):
        pass
    return [first, other]


@each_mode
def test_connections_are_spread_over_the_loops_though_they_come_one_by_one(pool: tuple[int, int] | None) -> None:
    # The kernel alone would always wake the same of several idle loops.
    with serve(pool=pool, loops=LOOPS, on_read=echo) as live:
        conns: list[Any] = []

        def all_serve() -> bool:
            conns.append(live.connect_conn()[1])
            return len({id(loop_of(conn)) for conn in conns}) == LOOPS

        # A thread that has just been started takes its time until it stands in the line.
        wait_until(all_serve, "a connection of each loop")
        begun = len(conns)
        conns += [live.connect_conn()[1] for _ in range(MANY)]
        per_loop = Counter(id(loop_of(conn)) for conn in conns[begun:])
        assert min(per_loop.values()) >= MANY // LOOPS // 4 and len(per_loop) == LOOPS
        assert live.server.connections == len(conns)
        counters = live.server.counters()
        assert counters["connections"] == counters["accepted"] == counters["upgraded"] == len(conns)
        assert counters["answered_101"] == len(conns)


def test_every_connection_of_a_burst_is_served() -> None:
    with serve(loops=LOOPS, on_read=echo) as live:
        clients = [RawClient(live.port, handshake=False) for _ in range(300)]
        for client in clients:
            client.send(raw.request())
        for client in clients:
            assert client.recv_response().status == 101
            ping(client)
        for client in clients:
            client.close()
        wait_until(lambda: live.server.counters()["descriptors"] == 0, "all are gone")


@each_mode
def test_one_loop_sends_on_and_closes_connections_of_another(pool: tuple[int, int] | None) -> None:
    peers: dict[str, Any] = {}

    def on_message(conn: Any, message: str | bytes) -> None:
        other = peers["there" if conn is peers["here"] else "here"]
        if message == "close":
            other.close(4000, "from afar")
        else:
            other.send(message)

    with serve(pool=pool, loops=2, on_message=on_message) as live:
        (here, peers["here"]), (there, peers["there"]) = two_of_different_loops(live)
        for i in range(100):
            here.send_frame(TEXT, f"to {i}")
            there.send_frame(TEXT, f"fro {i}")
        assert [there.recv_message() for _ in range(100)] == [f"to {i}" for i in range(100)]
        assert [here.recv_message() for _ in range(100)] == [f"fro {i}" for i in range(100)]
        here.send_frame(TEXT, "close")
        assert there.recv_close() == (4000, "from afar")
        there.send_close(4000)
        assert live.ended_of(there).code == 4000
        ping(here)


def test_user_is_disconnected_on_every_loop() -> None:
    server = unlimitedws.NewServer("127.0.0.1:0", loops=LOOPS)
    server.on_request = lambda request: Accept(user="u")
    server.on_message = lambda conn, message: None
    with server:
        clients = [RawClient(server.local_addr.port) for _ in range(20)]
        wait_until(lambda: server.connections == 20, "all are open")
        assert server.disconnect(user="u", code=4001) == 20
        for client in clients:
            assert client.recv_close().code == 4001
            client.send_close(4001)
            expect_eof(client)
            client.close()


@pytest.mark.parametrize("loops", [1, 2])
def test_connection_of_another_server_is_not_identified(loops: int) -> None:
    with serve(loops=loops) as live, serve(loops=loops) as other:
        client, conn = live.connect_conn()
        # It is anonymous: nothing that it knows says whose it is.
        with pytest.raises(ValueError, match="another server"):
            other.server.identify(conn, user="u")
        assert conn.user is None
        assert other.server.disconnect(user="u") == 0
        assert live.server.identify(conn, user="u")
        with pytest.raises(ValueError, match="another server"):
            other.server.identify(conn, user="v")
        assert conn.user == "u"
        client.close_cleanly()
        take(live.ended)
        assert not live.server.identify(conn, user="v")


def test_hooks_times_and_subprotocols_that_change_reach_every_loop() -> None:
    with serve(loops=LOOPS) as live:
        live.server.subprotocols = ["b", "a"]
        live.server.set_io_timeout(3)
        live.server.on_message = lambda conn, message: conn.send("first")
        clients = [live.connect(headers=[("Sec-WebSocket-Protocol", "a, b")]) for _ in range(LOOPS * 4)]
        for client in clients:
            assert client.response.headers["sec-websocket-protocol"] == "b"
            client.send_frame(TEXT, "x")
            assert client.recv_message() == "first"
        live.server.on_message = lambda conn, message: conn.send("second")
        for client in clients:
            client.send_frame(TEXT, "x")
            assert client.recv_message() == "second"
        assert live.server.options.io_timeout == 3


@each_mode
def test_callback_that_blocks_holds_up_no_other_loop(pool: tuple[int, int] | None) -> None:
    gate, entered = threading.Event(), threading.Event()

    def on_message(conn: Any, message: str | bytes) -> None:
        if message == "block":
            entered.set()
            assert gate.wait(20)
        conn.send(message)

    with serve(pool=pool, loops=2, on_message=on_message) as live:
        try:
            (here, _), (there, _) = two_of_different_loops(live)
            here.send_frame(TEXT, "block")
            assert entered.wait(10)
            for i in range(10):
                there.send_frame(TEXT, str(i))
                assert there.recv_message() == str(i)
            ping(here)
        finally:
            gate.set()
        assert here.recv_message() == "block"


def test_loop_whose_pool_is_full_leaves_newcomers_to_the_others() -> None:
    gate, entered = threading.Event(), threading.Semaphore(0)

    def on_message(conn: Any, message: str | bytes) -> None:
        if message == "block":
            entered.release()
            assert gate.wait(20)
        conn.send(message)

    # One thread and one job for each.
    with serve(pool=(2, 2), loops=2, on_message=on_message) as live:
        try:
            first, conn = live.connect_conn()
            full = loop_of(conn)
            client, conn = live.connect_conn()
            while loop_of(conn) is not full:
                client, conn = live.connect_conn()
            first.send_frame(TEXT, "block")
            assert entered.acquire(timeout=10)
            client.send_frame(TEXT, "waits")
            wait_until(lambda: full.counters()["cooldowns"] > 3, "it rests, again and again")
            # One by one: each would be the first that the kernel tells the resting loop of.
            for _ in range(20):
                newcomer, conn = live.connect_conn()
                assert loop_of(conn) is not full
                newcomer.send_frame(TEXT, "x")
                assert newcomer.recv_message() == "x"
        finally:
            gate.set()
        assert (first.recv_message(), client.recv_message()) == ("block", "waits")


def test_max_connections_is_a_limit_on_all_loops_together() -> None:
    with serve(loops=LOOPS, max_connections=10) as live:
        inside = [live.connect() for _ in range(10)]
        for _ in range(5):
            with RawClient(live.port, handshake=False) as refused:
                assert refused.recv_response().status == 503
        wait_until(lambda: live.server.counters()["turned_away"] == 5, "all were refused")
        for client in inside[:4]:
            client.close_cleanly()
        wait_until(lambda: live.server.counters()["descriptors"] == 6, "there is room")
        inside += [live.connect() for _ in range(4)]
        with RawClient(live.port, handshake=False) as refused:
            assert refused.recv_response().status == 503
        assert live.server.counters()["descriptors"] == 10


def test_what_all_have_together_is_divided_and_nothing_is_lost() -> None:
    options = Options(loops=3, pool=(8, 7), max_inbox_total_bytes=100, max_incomplete_total_bytes=2)
    settings = options.settings_of_loops()
    assert [one["runners"] for one in settings] == [3, 3, 2]
    assert [one["jobs"] for one in settings] == [3, 2, 2]
    assert [one["max_inbox_total_bytes"] for one in settings] == [34, 33, 33]
    assert [one["max_incomplete_total_bytes"] for one in settings] == [1, 1, 1]
    assert {one["max_connections"] for one in settings} == {0}
    inline = Options(loops=2).settings_of_loops()
    assert [(one["runners"], one["jobs"]) for one in inline] == [(1, 0), (1, 0)]
    assert Options().settings_of_loops() == [Options().settings()]


def test_threads_are_named_after_their_loop() -> None:
    names: set[str] = set()

    def who(conn: Any, message: object) -> None:
        conn.send(threading.current_thread().name)

    with serve(pool=(4, 4), loops=2, on_message=who) as live:
        for client, _ in two_of_different_loops(live):
            client.send_frame(TEXT, "who")
            name = client.recv_message()
            assert isinstance(name, str)
            names.add(name.rpartition(".")[0])
    assert names == {"unlimitedws-1", "unlimitedws-2"}


@each_mode
@pytest.mark.parametrize("timeout", [0, 10])
def test_stop_ends_all_loops_and_gives_everything_back(
    pool: tuple[int, int] | None, timeout: float, no_fd_leaks: None
) -> None:
    server = unlimitedws.NewServer("127.0.0.1:0", loops=LOOPS)
    if pool is not None:
        server.set_pool(*pool)
    ended: list[Any] = []
    server.on_close = ended.append
    before = threading.active_count()
    for _ in range(3):
        server.start()
        clients = [RawClient(server.local_addr.port) for _ in range(12)]
        wait_until(lambda: server.connections == 12, "all are open")
        stopper = threading.Thread(target=server.stop, args=(timeout,))
        stopper.start()
        for client in clients:
            if timeout:
                assert client.recv_close().code == 1001
                client.send_close(1001)
            client.recv_until_eof()
            client.close()
        stopper.join()
        assert not server.running
        assert server.counters() == {}
        wait_until(lambda: threading.active_count() == before, "the threads are gone")
    assert len(ended) == 36
    with pytest.raises(ConnectionRefusedError):
        RawClient(server.local_addr.port, handshake=False)


def test_stop_in_a_callback_of_one_loop_stops_them_all() -> None:
    with serve(loops=LOOPS, on_message=lambda conn, message: live.server.stop()) as live:
        clients = [live.connect() for _ in range(9)]
        clients[0].send_frame(TEXT, "stop")
        for client in clients:
            assert client.recv_close().code == 1001
            client.send_close(1001)
        for _ in clients:
            take(live.ended)
        wait_until(lambda: not live.server.running, "it has stopped")


def test_server_that_gets_no_descriptors_for_its_last_loop_keeps_none(no_fd_leaks: None) -> None:
    import resource

    server = unlimitedws.NewServer("127.0.0.1:0", loops=LOOPS, raise_nofile_limit=False)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 4, limits[1]))
    try:
        with pytest.raises(OSError):
            server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not server.running
    assert len(os.listdir("/proc/self/fd")) == before
    with server, RawClient(server.local_addr.port) as client:
        ping(client)


def test_thread_that_cannot_be_started_stops_the_loops_that_were(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, no_fd_leaks: None
) -> None:
    caplog.set_level(logging.INFO, "unlimitedws")
    server = unlimitedws.NewServer("127.0.0.1:0", loops=LOOPS)
    start = threading.Thread.start
    names: list[str] = []

    def limited(thread: threading.Thread) -> None:
        names.append(thread.name)
        if len(names) == LOOPS:
            raise RuntimeError("can't start new thread")
        start(thread)

    def thorough(serving: Serving, timeout: Any) -> None:
        shut(serving, timeout)
        wait_until(lambda: not serving._threads, "those that were started have left")

    shut = Serving.shut
    monkeypatch.setattr(Serving, "shut", thorough)
    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        server.start()
    assert not server.running
    assert names == [f"unlimitedws-{i + 1}.1" for i in range(LOOPS)]
    # However soon those that were have ended: what is done at the end is done once.
    assert caplog.text.count("stopped listening") == 1
    monkeypatch.undo()
    with server, RawClient(server.local_addr.port) as client:
        ping(client)
