"""Fixtures that every test may use: an echo server, and a check that no file descriptor is left behind."""

from __future__ import annotations

import gc
import queue
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from fixtures import STOP_TIMEOUT, Closed, EchoServer, heed_sigint, open_fds

heed_sigint()


@pytest.fixture(params=[False, True], ids=["shared", "private"])
def both_tables(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test twice, the second time with loops that have descriptor tables of their own (private_fds).

    What is true of one kind is true of the other: with the latter it is another thread that touches the sockets.
    """
    import live
    import loops

    monkeypatch.setitem(loops.SETTINGS, "private_fds", int(request.param))
    monkeypatch.setattr(live, "PRIVATE_FDS", request.param)


@pytest.fixture(autouse=True)
def no_object_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """In a debug build (UWS_DEBUG=1), fail a test that an object of the engine's outlives which it has made.

    What a loop itself has left, slots, blocks, timers, strings, is looked at when it goes: loop_destroy().
    """
    from uws_shims.slab_shim import DEBUG

    if not DEBUG:
        yield
        return
    from _uws.conn import Conn
    from _uws.core import Loop
    from _uws.exchange import Exchange

    caplog = request.getfixturevalue("caplog")
    # What is there now is another's, a module's fixture, say. Set aside, it costs none of the tests a look.
    gc.collect()
    gc.freeze()
    yield
    # What was logged of a connection, with the stack of an exception, pytest keeps until later, and what fixtures gave.
    request.node.funcargs.clear()
    for when in ("setup", "call", "teardown"):
        caplog.get_records(when).clear()
    gc.collect()
    left = Counter(type(it).__name__ for it in gc.get_objects() if type(it) in (Loop, Conn, Exchange))
    # A Conn and an Exchange keep their Loop. Those of an older one are for whoever has that to keep.
    assert Loop.__name__ not in left, f"still there: {dict(left)}"


@pytest.fixture
def no_fd_leaks() -> Iterator[None]:
    """Fail the test if a descriptor that it opened is open at its end.

    Ask for it before whatever opens descriptors: pytest tears down in the opposite order.
    """
    before = open_fds()
    yield
    # Number and target together: a closed fd's number may be taken by another leak.
    leaked = {fd: target for fd, target in open_fds().items() if before.get(fd) != target}
    if leaked:
        # A test's hooks often make a cycle with its server. That is no leak of the library's.
        gc.collect()
        leaked = {fd: target for fd, target in open_fds().items() if before.get(fd) != target}
    assert not leaked, f"left open: {leaked}"


@pytest.fixture
def echo_server(no_fd_leaks: None) -> Iterator[EchoServer]:
    """Run the issue's example on a port of its own: DefaultServer, on_read, wsutil."""
    import unlimitedws
    from unlimitedws import wsutil

    server = unlimitedws.DefaultServer("127.0.0.1:0")
    closed: queue.Queue[Closed] = queue.Queue()

    @server.on_read
    def echo(conn: Any) -> None:
        msg, op = wsutil.read_client_data(conn)
        wsutil.write_server_message(conn, op, msg)

    @server.on_close
    def goodbye(conn: Any) -> None:
        closed.put(Closed(tuple(conn.remote_addr), conn.close_code, conn.close_reason))

    server.start()
    try:
        yield EchoServer(server, "127.0.0.1", server.local_addr.port, closed)
    finally:
        server.stop(STOP_TIMEOUT)
