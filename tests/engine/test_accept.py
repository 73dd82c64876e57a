"""accept: who waits is taken in, who has no room is told so, and the rest may wait in the backlog."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
import raw
from live import ServerProcess, expect_eof, ping, wait, wait_until
from loops import echo, listener, running
from raw import RawClient

from _uws.core import Crowd

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

# More than accept takes of one listener in one turn.
MANY = 150


def waiting_clients(port: int, count: int) -> list[RawClient]:
    """Connect and send the request; the response is not awaited."""
    clients = [RawClient(port, handshake=False) for _ in range(count)]
    for client in clients:
        client.send(raw.request())
    return clients


def test_backlog_longer_than_a_batch_is_taken_in_whole() -> None:
    with running(start=False, on_message=echo) as engine:
        clients = waiting_clients(engine.port, MANY)
        engine.start()
        for client in clients:
            assert client.recv_response().status == 101
            ping(client)
        engine.wait_for(accepted=MANY, upgraded=MANY, connections=MANY, turned_away=0)
        for client in clients:
            client.close()
        engine.wait_empty()


def test_every_listener_is_served() -> None:
    with running(listeners=16, on_message=echo) as engine:
        for sock in engine.sockets:
            client = engine.connect(port=sock.getsockname()[1])
            ping(client)
        engine.wait_for(accepted=16, connections=16)


def test_who_is_above_max_connections_gets_503_until_there_is_room() -> None:
    with running(max_connections=3, on_message=echo) as engine:
        inside = [engine.connect() for _ in range(3)]
        with RawClient(engine.port, handshake=False) as refused:
            response = refused.recv_response()
            assert response.status == 503
            assert response.headers["connection"] == "close"
            refused.recv_body()
            expect_eof(refused)
        engine.wait_for(turned_away=1, accepted=3, descriptors=3)
        for client in inside:
            ping(client)
        inside.pop().close()
        engine.wait_for(descriptors=2)
        ping(engine.connect())
        engine.wait_for(turned_away=1, accepted=4)


def test_refusals_rest_between_two_batches() -> None:
    # The pause is the point: a crowd that is refused must not keep the loop from those who are in.
    with running(max_connections=1, on_message=echo, start=False) as engine:
        crowd = waiting_clients(engine.port, 200)
        engine.start()
        statuses = [client.recv_response().status for client in crowd]
        assert statuses.count(101) == 1 and statuses.count(503) == 199
        engine.wait_for(turned_away=199, accepted=1)
        ping(crowd[statuses.index(101)])
        for client in crowd:
            client.close()


def test_full_pool_leaves_newcomers_in_the_backlog_until_there_is_room() -> None:
    gate = threading.Event()
    entered = threading.Semaphore(0)

    def block(conn: object, message: object) -> None:
        entered.release()
        assert gate.wait(20)

    with running(runners=2, jobs=2, on_message=block, record=False) as engine:
        try:
            inside = [engine.connect() for _ in range(4)]
            for client in inside:
                client.send_frame(raw.TEXT, "x")
            assert entered.acquire(timeout=10) and entered.acquire(timeout=10)
            engine.wait_for(ready=2)
            wait_until(lambda: engine.counter("cooldowns") > 0, "accepting pauses")
            late = RawClient(engine.port, handshake=False)
            late.send(raw.request())
            paused = engine.counter("cooldowns")
            wait_until(lambda: engine.counter("cooldowns") > paused + 3, "it pauses again and again")
            assert engine.counter("accepted") == 4
            # Those who are in are none the worse.
            ping(inside[0])
        finally:
            gate.set()
        assert late.recv_response().status == 101
        late.close()
        engine.wait_for(accepted=5, messages_in=4)


def test_broken_listener_is_let_go_and_the_others_go_on() -> None:
    with running(listeners=2, on_message=echo) as engine:
        before = engine.connect()
        engine.sockets[0].shutdown(socket.SHUT_RD)
        other = engine.connect(port=engine.sockets[1].getsockname()[1])
        ping(before)
        ping(other)


def test_shut_accepts_nobody_any_more() -> None:
    # The client's close frame is awaited, so the loop is still there when the newcomer knocks.
    with running(on_message=echo) as engine:
        client = engine.connect()
        engine.shut(timeout_ms=20_000)
        assert client.recv_close().code == 1001
        late = RawClient(engine.port, handshake=False)
        late.send(raw.request())
        seen = engine.counter("bytes_in")
        client.send_frame(raw.PING, b"x")
        wait_until(lambda: engine.counter("bytes_in") > seen, "a turn")
        assert engine.counter("accepted") == 1
        client.send_close(1001)
        engine.join()
        assert engine.counter("accepted") == 1
        late.close()


@pytest.mark.parametrize("count", [3, MANY])
def test_loop_that_leaves_takes_in_who_waits_and_nobody_afterwards(count: int) -> None:
    # The kernel may have told this loop of those, and none of the others.
    with running(start=False, on_message=echo) as engine:
        waiting = waiting_clients(engine.port, count)
        engine.loop.accept_no_more()
        late = waiting_clients(engine.port, 1)[0]
        engine.start()
        for client in waiting:
            assert client.recv_response().status == 101
            ping(client)
        engine.loop.accept_no_more()
        ping(waiting[0])
        assert engine.counter("accepted") == count
        # What is left in the backlog is for another loop, that shares the socket.
        with running(on_message=echo) as other:
            other.loop.listen(engine.sockets[0].fileno(), in_turn=True)
            other.loop.look()
            assert late.recv_response().status == 101
            ping(late)
            late.close()
        for client in waiting:
            client.close()
        engine.wait_empty()


def test_loop_that_rests_or_has_stopped_looks_at_no_listener() -> None:
    with running(max_connections=1, on_message=echo) as engine:
        inside = engine.connect()
        with RawClient(engine.port, handshake=False) as refused:
            assert refused.recv_response().status == 503
        # It rests now. Looking is not to end that, and not to add a listener a second time.
        for _ in range(10):
            engine.loop.look()
        ping(inside)
        engine.wait_for(turned_away=1, accepted=1)
        inside.close()
        engine.wait_for(descriptors=0)
        ping(engine.connect())
        engine.shut()
        engine.loop.look()


def test_loop_that_drains_leaves_a_shared_listener_alone_though_epoll_has_reported_it() -> None:
    """The turn that was told of the newcomer ends before it comes to him, and a callback drains."""
    begun, go_on = threading.Event(), threading.Event()

    def drain_with_the_second(conn: Any, message: Any) -> None:
        if message == b"first":
            begun.set()
            wait(go_on)
        else:
            engine.loop.drain(20_000, 1012, False, 20_000)

    # Nobody takes the loop over meanwhile and lets him in, however long the callback is held up.
    options = {"runners": 1, "schedule_timeout_us": 60_000_000, "on_message": drain_with_the_second}
    with running(start=False, **options) as engine, listener() as shared:
        engine.loop.listen(shared.fileno(), shared=True)
        engine.start()
        client = engine.connect()
        try:
            client.send_frame(raw.BINARY, b"first")
            wait(begun)
            # More than a turn reads before it delivers; and epoll names first who was ready first.
            client.send(b"".join(raw.frame(raw.BINARY, bytes(4000)) for _ in range(20)))
            late = waiting_clients(shared.getsockname()[1], 1)[0]
        finally:
            go_on.set()
        ping(client)
        assert (engine.counter("accepted"), engine.loop.draining) == (1, True)
        with running(on_message=echo) as other:
            other.loop.listen(shared.fileno(), shared=True)
            assert late.recv_response().status == 101
            late.close()
        client.close()


def test_loops_of_one_crowd_have_one_limit() -> None:
    crowd = Crowd()
    with running(max_connections=2, crowd=crowd) as one, running(max_connections=2, crowd=crowd) as other:
        inside = [one.connect(), other.connect()]
        for engine in (one, other):
            with RawClient(engine.port, handshake=False) as refused:
                assert refused.recv_response().status == 503
        inside[0].close()
        one.wait_for(descriptors=0)
        # The seat that one has given back is the other's to take.
        inside[0] = other.connect()
        other.wait_for(descriptors=2)
        for client in inside:
            client.close()


EMFILE = """
import resource
server = unlimitedws.NewServer("127.0.0.1:0", raise_nofile_limit=False)
server.on_read = echo

def limit(free):
    used = len(os.listdir("/proc/self/fd")) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return used
"""


def test_without_descriptors_newcomers_get_503_and_nobody_else_notices() -> None:
    with ServerProcess(EMFILE) as server:
        inside = [server.connect() for _ in range(3)]
        server.ask("limit(2)")
        inside += [server.connect() for _ in range(2)]
        for _ in range(3):
            with RawClient(server.port, handshake=False) as refused:
                assert refused.recv_response().status == 503
                refused.recv_body()
                expect_eof(refused)
        for client in inside:
            client.send_frame(raw.TEXT, "still here")
            assert client.recv_message() == "still here"
        assert server.ask("server.counters()['turned_away']") == 3
        # The one whose descriptor is given back makes room for the next.
        inside.pop().close_cleanly()
        wait_until(lambda: server.ask("server.counters()['descriptors']") == 4, "a descriptor is free")
        with server.connect() as client:
            client.send_frame(raw.TEXT, "at last")
            assert client.recv_message() == "at last"
        for client in inside:
            client.close()
