from __future__ import annotations

import contextlib
import errno
import functools
import gc
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from library.programs import PATIENCE, ROOT, Program
from websockets.exceptions import ConnectionClosed as PeerClosed
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

import unlimitedws
from unlimitedws import Address, Conn, DefaultServer, NewServer, OpCode, Options, Server, wsutil
from unlimitedws.listening import Listener

Dial = Callable[..., ClientConnection]
Script = Callable[[str], Program]


@pytest.fixture(params=["inline", "pool"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that was not started, of both kinds."""
    make = NewServer if request.param == "inline" else DefaultServer
    server = make("127.0.0.1:0", close_timeout=PATIENCE)
    yield server
    server.stop(0)


class Seen:
    """Events of callbacks, to be waited for."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, item: Any) -> None:
        with self._changed:
            self.items.append(item)
            self._changed.notify_all()

    def wait(self, count: int) -> list[Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.items) >= count, PATIENCE), self.items
            return list(self.items)


def close_code(ws: ClientConnection) -> int:
    """Read until the server closes; return its close code."""
    try:
        while True:
            ws.recv(PATIENCE)
    except PeerClosed as exc:
        assert exc.rcvd is not None
        return exc.rcvd.code


# The names of the Go interface and their defaults


def test_new_server_runs_callbacks_inline() -> None:
    server = NewServer("127.0.0.1:0")
    assert isinstance(server, Server)
    assert server.options == Options()
    assert server.options.pool is None
    server.stop()


def test_default_server_has_the_defaults_of_go() -> None:
    server = DefaultServer("127.0.0.1:0")
    assert server.options.pool == (128, 128)
    assert server.options.schedule_timeout == 0.001
    assert server.options.cooldown_time == 0.005
    assert server.options.io_timeout == 0.1
    for hook in (server.on_connect, server.on_read, server.on_message, server.on_close, server.on_error):
        assert not hook
    server.stop()


def test_options_win_over_the_defaults_of_go() -> None:
    server = DefaultServer("127.0.0.1:0", pool=(2, 3), io_timeout=5)
    assert server.options.pool == (2, 3)
    assert server.options.io_timeout == 5
    server.stop()


def test_setters_take_seconds_and_timedeltas(server: Server) -> None:
    server.set_pool(4, 5)
    server.set_poller()
    server.set_schedule_timeout(timedelta(milliseconds=2))
    server.set_cooldown_time(1)
    server.set_io_timeout(0)
    assert server.options.pool == (4, 5)
    assert server.options.schedule_timeout == 0.002
    assert server.options.cooldown_time == 1
    assert server.options.io_timeout == 0


@pytest.mark.parametrize(
    ("workers", "jobs", "message"),
    [(0, 3, "^no worker$"), (3, 0, "^no job in queue$"), (-1, 3, "workers must"), (3, -1, "jobs must")],
)
def test_set_pool_refuses_impossible_sizes(server: Server, workers: int, jobs: int, message: str) -> None:
    before = server.options
    with pytest.raises(ValueError, match=message):
        server.set_pool(workers, jobs)
    assert server.options == before


@pytest.mark.parametrize("setter", ["set_schedule_timeout", "set_cooldown_time", "set_io_timeout"])
def test_setters_refuse_impossible_times(server: Server, setter: str) -> None:
    before = server.options
    with pytest.raises(ValueError, match="must be from 0 to"):
        getattr(server, setter)(-0.001)
    with pytest.raises(TypeError, match="must be seconds or a timedelta"):
        getattr(server, setter)("1")
    assert server.options == before


def test_times_may_be_set_while_it_runs_but_not_the_pool(server: Server) -> None:
    with server:
        server.set_schedule_timeout(0.5)
        server.set_cooldown_time(0.5)
        server.set_io_timeout(0.5)
        with pytest.raises(RuntimeError, match="while the server runs"):
            server.set_pool(1, 1)
    server.set_pool(1, 1)


def test_io_timeout_that_is_set_while_it_runs_is_the_one_that_counts(client: Dial) -> None:
    server = NewServer("127.0.0.1:0", io_timeout=0)
    raised = Seen()

    @server.on_read
    def read_twice(conn: Conn) -> None:
        wsutil.read_client_data(conn)
        try:
            wsutil.read_client_data(conn)
        except TimeoutError as exc:
            raised(exc)

    with server:
        server.set_io_timeout(0.001)
        client(server).send("only one")
        raised.wait(1)


# Hooks


def test_hook_is_a_decorator_that_leaves_the_function_alone(server: Server) -> None:
    def echo(conn: Conn) -> None: ...

    assert server.on_read(echo) is echo
    assert server.on_read.func is echo
    assert server.on_read


def test_hook_is_set_by_assignment_and_cleared_by_none(server: Server) -> None:
    def echo(conn: Conn) -> None: ...

    server.on_read = echo
    assert server.on_read.func is echo
    server.on_read = None
    assert server.on_read.func is None
    assert not server.on_read


def test_hook_of_another_server_may_be_assigned(server: Server) -> None:
    def echo(conn: Conn) -> None: ...

    other = NewServer("127.0.0.1:0")
    other.on_read = echo
    server.on_read = other.on_read
    other.on_read = None
    other.stop()
    assert server.on_read.func is echo


class Awaited:
    """An object that is called as a coroutine function is."""

    async def __call__(self, *args: object) -> unlimitedws.Reject:
        return unlimitedws.Reject(418)


class Iterated:
    async def __call__(self, *args: object) -> AsyncIterator[None]:
        yield


async def awaited(*args: object) -> None: ...


NEVER_AWAITED = {
    "function": awaited,
    "object": Awaited(),
    "method": Awaited().__call__,
    "part of a function": functools.partial(awaited, 1),
    "part of an object": functools.partial(functools.partial(Awaited(), 1), 2),
    "generator": Iterated(),
}


@pytest.mark.parametrize("kind", NEVER_AWAITED)
@pytest.mark.parametrize("name", ["on_connect", "on_read", "on_message", "on_close", "on_error"])
def test_hook_that_cannot_work_is_refused_by_name(server: Server, name: str, kind: str) -> None:
    with pytest.raises(TypeError, match=f"{name}: .* is async"):
        setattr(server, name, NEVER_AWAITED[kind])
    with pytest.raises(TypeError, match=f"{name}: must be a function or None, not 7"):
        setattr(server, name, 7)
    with pytest.raises(TypeError, match=f"{name}: must be a function"):
        getattr(server, name)("7")
    assert not getattr(server, name)


@pytest.mark.parametrize("name", ["on_request", "on_host", "on_header"])
def test_hook_of_the_handshake_may_be_an_object_that_is_awaited(server: Server, client: Dial, name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}: .* is async"):
        setattr(server, name, Iterated())
    for hook in (Awaited(), functools.partial(Awaited(), 1)):
        setattr(server, name, hook)
        with server, pytest.raises(InvalidStatus) as caught:
            client(server)
        assert caught.value.response.status_code == 418


def test_method_of_a_subclass_that_is_named_as_a_hook_is_one(client: Dial) -> None:
    class Echo(Server):
        def on_message(self, conn: Conn, message: Any) -> None:
            conn.send(f"{type(self).__name__} {message}")

    class Louder(Echo):
        pass

    for kind in (Echo, Louder):
        server = kind("127.0.0.1:0")
        with server:
            connection = client(server)
            connection.send("hello")
            assert connection.recv(10) == f"{kind.__name__} hello"
        # It is a hook as others are: assignment wins.
        server.on_message = None
        assert not server.on_message


def test_misspelt_hook_is_refused_with_the_name_that_was_meant(server: Server) -> None:
    with pytest.raises(AttributeError, match="on_message"):
        server.on_mesage = lambda conn, message: None  # type: ignore[attr-defined]
    # Attributes of the application's are its own business.
    server.name = "front"  # type: ignore[attr-defined]


def test_every_hook_fires_with_the_same_conn(server: Server, client: Dial) -> None:
    seen = Seen()
    server.on_connect = lambda conn: seen(("connect", conn))
    server.on_close = lambda conn: seen(("close", conn))

    @server.on_read
    def echo(conn: Conn) -> None:
        msg, op = wsutil.read_client_data(conn)
        wsutil.write_server_message(conn, op, msg)
        seen(("read", conn, msg, op))

    with server:
        ws = client(server)
        ws.send("text")
        assert ws.recv(PATIENCE) == "text"
        ws.send(b"\x00\xff")
        assert ws.recv(PATIENCE) == b"\x00\xff"
        ws.close()
        items = seen.wait(4)
    conn = items[0][1]
    assert items == [
        ("connect", conn),
        ("read", conn, b"text", OpCode.TEXT),
        ("read", conn, b"\x00\xff", OpCode.BINARY),
        ("close", conn),
    ]
    assert all(item[1] is conn for item in items)
    assert len(seen.items) == 4


def test_no_op_hooks_hold_a_connection(server: Server, client: Dial) -> None:
    with server:
        ws = client(server)
        ws.send("dropped")
        assert ws.ping().wait(PATIENCE)
        ws.close()
    assert ws.close_code == 1000


def test_on_message_is_used_instead_of_on_read(server: Server, client: Dial) -> None:
    seen = Seen()
    server.on_read = lambda conn: seen("read")
    server.on_message = lambda conn, message: seen(message)
    with server:
        ws = client(server)
        ws.send("text")
        ws.send(b"binary")
        assert seen.wait(2) == ["text", b"binary"]
        server.on_message = None
        ws.send("text")
        assert seen.wait(3)[2] == "read"


def test_hook_that_is_set_while_it_runs_gets_the_next_message(server: Server, client: Dial) -> None:
    seen = Seen()
    with server:
        ws = client(server)
        server.on_message = lambda conn, message: seen(("first", message))
        ws.send("a")
        seen.wait(1)

        @server.on_message
        def second(conn: Conn, message: str) -> None:
            seen(("second", message))

        ws.send("b")
        assert seen.wait(2) == [("first", "a"), ("second", "b")]


def test_hook_may_change_hooks(server: Server, client: Dial) -> None:
    seen = Seen()

    @server.on_message
    def first(conn: Conn, message: str) -> None:
        server.on_message = lambda conn, message: seen(message)
        conn.send("changed")

    with server:
        ws = client(server)
        ws.send("a")
        assert ws.recv(PATIENCE) == "changed"
        ws.send("b")
        assert seen.wait(1) == ["b"]


def test_on_close_tells_code_and_reason(server: Server, client: Dial) -> None:
    seen = Seen()
    server.on_close = lambda conn: seen((conn.close_code, conn.close_reason, conn.is_open))
    with server:
        client(server).close(4000, "enough")
        assert seen.wait(1) == [(4000, "enough", False)]


# What a callback raises


@pytest.mark.parametrize("hook", ["on_connect", "on_read", "on_message"])
def test_callback_that_raises_is_logged_reported_and_closed_with_1011(
    server: Server, client: Dial, caplog: pytest.LogCaptureFixture, hook: str
) -> None:
    seen = Seen()
    error = ValueError("of the test")

    def bad(*args: object) -> None:
        raise error

    setattr(server, hook, bad)
    server.on_error = lambda conn, exc: seen((conn.is_open, exc))
    with server:
        ws = client(server)
        if hook != "on_connect":
            ws.send("message")
        assert close_code(ws) == 1011
        assert seen.wait(1) == [(True, error)]
        assert server.running
    [record] = [r for r in caplog.records if r.name == "unlimitedws" and r.levelno >= logging.WARNING]
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(f"{hook} of <")
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_on_close_that_raises_is_logged_and_reported(
    server: Server, client: Dial, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    error = ValueError("of the test")

    @server.on_close
    def bad(conn: Conn) -> None:
        raise error

    server.on_error = lambda conn, exc: seen(exc)
    with server:
        client(server).close()
        assert seen.wait(1) == [error]
    assert "on_close of <" in caplog.text


def test_on_error_that_raises_is_logged_and_the_server_lives(
    server: Server, client: Dial, caplog: pytest.LogCaptureFixture
) -> None:
    @server.on_message
    def bad(conn: Conn, message: str) -> None:
        if message == "bad":
            raise ValueError("the first")
        conn.send(message)

    @server.on_error
    def worse(conn: Conn, exc: BaseException) -> None:
        raise ValueError("the second")

    with server:
        ws = client(server)
        ws.send("bad")
        assert close_code(ws) == 1011
        ws = client(server)
        ws.send("good")
        assert ws.recv(PATIENCE) == "good"
    assert "the first" in caplog.text
    assert "on_error of <" in caplog.text
    assert "the second" in caplog.text


@pytest.mark.parametrize("exc", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("hook", ["on_message", "on_close", "on_error"])
def test_exit_that_a_callback_raises_comes_out_of_run(
    server: Server, client: Dial, exc: type[BaseException], hook: str
) -> None:
    def leave(*args: object) -> None:
        raise exc("of the test")

    if hook == "on_error":
        server.on_message = lambda conn, message: conn.close(1)
    setattr(server, hook, leave)
    raised = Seen()

    def run() -> None:
        try:
            server.run()
        except BaseException as caught:
            raised(caught)

    thread = threading.Thread(target=run)
    thread.start()
    ws = client(server)
    if hook == "on_close":
        ws.close()
    else:
        ws.send("message")
    [caught] = raised.wait(1)
    thread.join(PATIENCE)
    assert type(caught) is exc
    assert str(caught) == "of the test"
    assert not server.running


# Addresses


def test_port_0_is_known_before_the_start() -> None:
    server = NewServer("127.0.0.1:0")
    assert server.local_addr.host == "127.0.0.1"
    assert server.local_addr.port > 0
    assert str(server.local_addr) in repr(server)
    server.stop()


def test_clients_that_come_before_the_start_are_served(server: Server, client: Dial) -> None:
    seen = Seen()
    server.on_message = lambda conn, message: seen(message)
    thread = threading.Thread(target=lambda: client(server).send("early"))
    thread.start()
    with server:
        assert seen.wait(1) == ["early"]
        thread.join(PATIENCE)


def test_no_host_serves_ipv4_peers_under_their_plain_addresses(client: Dial) -> None:
    server = NewServer(":0")
    seen = Seen()
    server.on_connect = lambda conn: seen((conn.local_addr, conn.remote_addr))
    with server:
        ws = client(server)
        [(local, remote)] = seen.wait(1)
        assert local == Address("127.0.0.1", server.local_addr.port)
        assert remote == ws.local_address[:2]
        assert isinstance(remote, Address)


def test_port_in_use_is_an_error_at_once() -> None:
    server = NewServer("127.0.0.1:0")
    with pytest.raises(OSError, match=f"cannot listen on {server.local_addr}") as caught:
        NewServer(str(server.local_addr))
    assert caught.value.errno == errno.EADDRINUSE
    server.stop()


# Beginning and end


def refused(addr: Address) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(addr) == errno.ECONNREFUSED


def test_start_twice_is_an_error_and_harmless(server: Server, client: Dial) -> None:
    server.on_message = lambda conn, message: conn.send(message)
    with server:
        with pytest.raises(RuntimeError, match="running already"):
            server.start()
        with pytest.raises(RuntimeError, match="running already"):
            server.run()
        ws = client(server)
        ws.send("still here")
        assert ws.recv(PATIENCE) == "still here"


def test_stop_twice_is_harmless(server: Server) -> None:
    server.start()
    assert server.running
    server.stop()
    assert not server.running
    server.stop()


def test_stop_before_the_start_closes_the_socket(server: Server) -> None:
    server.stop()
    assert refused(server.local_addr)


def test_stop_closes_connections_with_1001_and_the_socket(server: Server, client: Dial) -> None:
    seen = Seen()
    server.on_close = lambda conn: seen(conn.close_code)
    server.start()
    clients = [client(server) for _ in range(3)]
    server.stop()
    assert [close_code(ws) for ws in clients] == [1001] * 3
    assert len(seen.items) == 3
    assert refused(server.local_addr)
    assert server.connections == 0


def test_stop_flushes_what_was_sent(server: Server, client: Dial) -> None:
    seen = Seen()

    @server.on_message
    def answer(conn: Conn, message: str) -> None:
        conn.send("x" * 100_000)
        seen(message)

    server.start()
    ws = client(server)
    ws.send("a")
    seen.wait(1)
    server.stop()
    assert ws.recv(PATIENCE) == "x" * 100_000
    assert close_code(ws) == 1001


def handshaken(addr: Address) -> socket.socket:
    """Return a connection whose peer, us, never answers a close frame."""
    sock = socket.create_connection(addr, PATIENCE)
    sock.sendall(
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(4096)
    assert head.startswith(b"HTTP/1.1 101 ")
    return sock


def turned_away(addr: Address) -> bool:
    """Whether an upgrade is answered with 503."""
    with socket.create_connection(addr, PATIENCE) as sock:
        sock.sendall(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        return sock.recv(12) == b"HTTP/1.1 503"


def test_stop_drops_who_does_not_answer_after_its_timeout(server: Server) -> None:
    seen = Seen()
    server.on_close = lambda conn: seen(conn.close_code)
    server.start()
    with handshaken(server.local_addr):
        server.stop(0.05)
        assert not server.running
    assert len(seen.items) == 1


def test_stop_refuses_impossible_timeouts(server: Server) -> None:
    with server:
        with pytest.raises(ValueError, match="timeout: must be from 0"):
            server.stop(-1)
        assert server.running


def test_stopped_server_starts_again_on_the_same_port(server: Server, client: Dial) -> None:
    server.on_message = lambda conn, message: conn.send(message)
    port = server.local_addr.port
    for _ in range(3):
        with server:
            assert server.local_addr.port == port
            ws = client(server)
            ws.send("again")
            assert ws.recv(PATIENCE) == "again"


def test_start_on_an_address_that_was_lost_meanwhile_is_an_error(server: Server) -> None:
    server.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(server.local_addr)
        other.listen()
        with pytest.raises(OSError, match="cannot listen on"):
            server.start()
        assert not server.running
    server.start()
    assert server.running


@pytest.mark.parametrize("hook", ["on_connect", "on_message", "on_close"])
def test_stop_in_a_callback_does_not_wait_for_itself(server: Server, client: Dial, hook: str) -> None:
    seen = Seen()

    def stop(*args: object) -> None:
        server.stop()
        seen("returned")

    setattr(server, hook, stop)
    thread = threading.Thread(target=server.run)
    thread.start()
    ws = client(server)
    if hook == "on_message":
        ws.send("stop")
    elif hook == "on_close":
        ws.close()
    seen.wait(1)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not server.running


def test_stop_says_so_when_a_callback_does_not_return(server: Server, client: Dial) -> None:
    entered, leave = threading.Event(), threading.Event()

    @server.on_message
    def stuck(conn: Conn, message: str) -> None:
        entered.set()
        leave.wait(PATIENCE)

    server.start()
    client(server).send("stick")
    assert entered.wait(PATIENCE)
    with pytest.raises(TimeoutError, match=r"callbacks still run .*: unlimitedws-\d+ in stuck \([^,]*\)$"):
        server.stop(0)
    with pytest.raises(RuntimeError, match="running already"):
        server.start()
    leave.set()
    server.stop()
    assert not server.running


def test_stop_says_so_when_it_is_no_callback_that_takes_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()
    real = Listener.close

    def close(listener: Listener) -> None:
        entered.set()
        assert leave.wait(PATIENCE)
        real(listener)

    monkeypatch.setattr(Listener, "close", close)
    monkeypatch.setattr("unlimitedws.server.GRACE", 0.05)
    server = NewServer(f"unix:{tmp_path}/s")
    server.start()
    run = server._run
    assert run is not None
    server.drain(0, wait=False)
    assert entered.wait(PATIENCE)
    said = f"^unix:{tmp_path}/s not closed 0.05 s after stop; no callback runs any more$"
    with pytest.raises(TimeoutError, match=said):
        server._await_end(run, 0)
    leave.set()
    server.stop()
    assert not server.running


def test_run_in_another_thread_ends_when_the_server_is_stopped(server: Server) -> None:
    ready = threading.Event()
    thread = threading.Thread(target=server.run, kwargs={"ready": ready.set})
    thread.start()
    assert ready.wait(PATIENCE)
    server.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_what_ready_raises_stops_the_server(server: Server) -> None:
    def ready() -> None:
        assert server.running
        raise LookupError("of the test")

    with pytest.raises(LookupError, match="of the test"):
        server.run(ready=ready)
    assert not server.running


def test_with_statement_stops_although_its_body_raises(server: Server) -> None:
    with pytest.raises(LookupError), server:
        raise LookupError
    assert not server.running


def test_connections_are_counted(server: Server, client: Dial) -> None:
    seen = Seen()
    server.on_close = seen
    assert server.connections == 0
    with server:
        clients = [client(server) for _ in range(5)]
        for ws in clients:
            assert ws.ping().wait(PATIENCE)
        assert server.connections == 5
        for ws in clients[:2]:
            ws.close()
        seen.wait(2)
        assert server.connections == 3
    assert server.connections == 0


def test_threads_have_names_and_end(server: Server, client: Dial) -> None:
    seen = Seen()
    server.on_message = lambda conn, message: seen(threading.current_thread())
    with server:
        client(server).send("a")
        [thread] = seen.wait(1)
        assert thread.name.startswith("unlimitedws-")
        assert thread.daemon
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_stopped_server_is_garbage_when_it_is_dropped() -> None:
    def dropped() -> weakref.ref[Server]:
        server = DefaultServer("127.0.0.1:0")
        server.on_connect = lambda conn: server
        with server:
            return weakref.ref(server)

    ref = dropped()
    gc.collect()
    assert ref() is None


def test_start_and_end_are_logged(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unlimitedws")
    with server:
        pass
    addr = server.local_addr
    assert [r.getMessage() for r in caplog.records if r.name == "unlimitedws"] == [
        f"listening on {addr}",
        f"stopped listening on {addr}",
    ]


# Whole processes

SERVE = """
import signal, unlimitedws
server = unlimitedws.DefaultServer("127.0.0.1:0", close_timeout=60, drain_time={drain_time})
before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
server.run(ready=lambda: print(server.local_addr.port))
assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
print("in good order")
"""


@pytest.mark.parametrize(
    ("number", "drain_time", "code"),
    [("SIGINT", 60, 1001), ("SIGTERM", 0, 1001), ("SIGTERM", 0.05, 1012)],
)
def test_signal_stops_run_in_good_order(
    script: Script, client: Dial, number: str, drain_time: float, code: int
) -> None:
    program = script(SERVE.format(drain_time=drain_time))
    ws = client(int(program.line()))
    program.signal(signal.Signals[number])
    assert close_code(ws) == code
    assert program.end() == (0, "in good order\n", "")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_one_more_signal_drops_who_does_not_answer(script: Script, number: str) -> None:
    program = script(SERVE.format(drain_time=0))
    with handshaken(Address("127.0.0.1", int(program.line()))) as sock:
        program.signal(signal.Signals[number])
        assert sock.recv(4) == b"\x88\x02\x03\xe9"  # close, 1001; it is not answered
        program.signal(signal.Signals[number])
        assert program.end() == (0, "in good order\n", "")


def test_run_says_what_it_waits_for_and_with_the_last_signal_does_not_wait(script: Script, client: Dial) -> None:
    program = script("""
import logging, threading, unlimitedws
logging.basicConfig(format="%(message)s")
server = unlimitedws.DefaultServer("127.0.0.1:0", close_timeout=0.1)
@server.on_message
def forever(conn, message):
    conn.send("begun")
    threading.Event().wait()
server.run(ready=lambda: print(server.local_addr.port))
""")
    ws = client(int(program.line()))
    ws.send("go")
    assert ws.recv(PATIENCE) == "begun"
    program.signal(signal.SIGINT)
    assert program.process.stderr is not None
    said = program.process.stderr.readline()
    # The only one that is in a callback, of several.
    words = r"the server cannot end, as callbacks still run: unlimitedws-\d+ in forever \(\S+:\d+\)\n"
    assert re.fullmatch(words, said)
    program.signal(signal.SIGINT)
    status, out, err = program.end()
    assert (status, out) == (1, "")
    assert "TimeoutError: callbacks still run after the last signal: unlimitedws-" in err


def test_what_a_callback_raised_comes_out_of_run_whatever_others_do(script: Script, client: Dial) -> None:
    program = script("""
import threading, unlimitedws
server = unlimitedws.DefaultServer("127.0.0.1:0", close_timeout=0.1, pool=(2, 2))
@server.on_message
def callback(conn, message):
    conn.send("begun")
    if message == "leave":
        raise SystemExit(7)
    threading.Event().wait()
server.run(ready=lambda: print(server.local_addr.port))
""")
    port = int(program.line())
    stays, leaves = client(port), client(port)
    stays.send("stay")
    assert stays.recv(PATIENCE) == "begun"
    leaves.send("leave")
    assert leaves.recv(PATIENCE) == "begun"
    # It has been raised when the server stops for it.
    with pytest.raises(PeerClosed):
        leaves.recv(PATIENCE)
    program.signal(signal.SIGINT)
    assert program.process.stderr is not None
    assert "the server cannot end" in program.process.stderr.readline()
    program.signal(signal.SIGINT)
    assert program.end() == (7, "", "")


def test_first_sigterm_drains_the_second_stops_the_third_drops(script: Script) -> None:
    program = script(SERVE.format(drain_time=60))
    addr = Address("127.0.0.1", int(program.line()))
    # It stays until it is stopped: of sixteen one will have its turn late enough for what is done here.
    with contextlib.ExitStack() as opened:
        socks = [opened.enter_context(handshaken(addr)) for _ in range(16)]
        program.signal(signal.SIGTERM)
        while not turned_away(addr):
            pass
        program.signal(signal.SIGTERM)
        codes = [sock.recv(4) for sock in socks]
        assert set(codes) <= {b"\x88\x02\x03\xe9", b"\x88\x02\x03\xf4"}
        assert b"\x88\x02\x03\xe9" in codes
        program.signal(signal.SIGTERM)
        assert program.end() == (0, "in good order\n", "")


def test_ignored_signal_stays_ignored(script: Script, client: Dial) -> None:
    program = script("signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + SERVE.format(drain_time=0.05))
    ws = client(int(program.line()))
    program.signal(signal.SIGINT)
    assert ws.ping().wait(PATIENCE)
    program.signal(signal.SIGTERM)
    assert program.end() == (0, "in good order\n", "")


def test_exit_in_a_callback_is_the_exit_of_the_program(script: Script, client: Dial) -> None:
    program = script("""
import sys, unlimitedws
server = unlimitedws.DefaultServer("127.0.0.1:0")
server.on_message = lambda conn, message: sys.exit(7)
server.run(ready=lambda: print(server.local_addr.port))
""")
    ws = client(int(program.line()))
    ws.send("leave")
    assert program.end() == (7, "", "")


def test_interpreter_ends_although_a_server_runs(script: Script, client: Dial) -> None:
    program = script("""
import threading, unlimitedws
server = unlimitedws.DefaultServer("127.0.0.1:0")
leave = threading.Event()
server.on_message = lambda conn, message: leave.set()
server.start()
print(server.local_addr.port)
leave.wait()
""")
    ws = client(int(program.line()))
    ws.send("go")
    assert close_code(ws) == 1001
    assert program.end() == (0, "", "")


def test_interpreter_ends_although_a_callback_is_stuck(script: Script, client: Dial) -> None:
    program = script("""
import threading, unlimitedws
server = unlimitedws.DefaultServer("127.0.0.1:0")
entered = threading.Event()
def stuck(conn, message):
    entered.set()
    threading.Event().wait()
server.on_message = stuck
server.start()
print(server.local_addr.port)
entered.wait()
""")
    client(int(program.line())).send("stick")
    assert program.end() == (0, "", "")


def test_child_process_leaves_the_parents_server_alone(script: Script, client: Dial) -> None:
    program = script("""
import os, sys, threading, unlimitedws
server = unlimitedws.DefaultServer("127.0.0.1:0")
asked = threading.Semaphore(0)
@server.on_message
def echo(conn, message):
    conn.send(message)
    if message == "next":
        asked.release()
server.start()
print(server.local_addr.port)
asked.acquire()
pid = os.fork()
if pid == 0:
    server.stop()
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
asked.acquire()
""")
    ws = client(int(program.line()))
    ws.send("next")
    assert ws.recv(PATIENCE) == "next"
    assert program.line() == "0"
    ws.send("alive")
    assert ws.recv(PATIENCE) == "alive"
    ws.send("next")
    assert program.end() == (0, "", "")


def test_child_process_may_lose_a_conn_with_the_threads_that_it_has_not(script: Script, client: Dial) -> None:
    program = script("""
import os, threading, unlimitedws
server = unlimitedws.DefaultServer("127.0.0.1:0")
mine = threading.local()
conns = []
asked, kept, done = threading.Event(), threading.Event(), threading.Event()
@server.on_message
def keep(conn, message):
    conn.send(message)
    conns.append(conn)
    asked.set()
def hold():
    asked.wait()
    mine.conn = conns.pop()
    kept.set()
    done.wait()
server.start()
holder = threading.Thread(target=hold)
holder.start()
print(server.local_addr.port)
kept.wait()
pid = os.fork()
if pid == 0:
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
done.set()
holder.join()
""")
    ws = client(int(program.line()))
    ws.send("x")
    assert ws.recv(PATIENCE) == "x"
    assert program.line() == "0"
    assert program.end() == (0, "", "")


NOFILE = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
import unlimitedws
soft = lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0]
assert soft() == 256
server = unlimitedws.NewServer("127.0.0.1:0"{})
assert soft() == 256
with server:
    assert soft() == {}, soft()
"""


def test_nofile_limit_is_raised_at_the_start_and_not_at_import(script: Script) -> None:
    assert script(NOFILE.format("", "hard")).end() == (0, "", "")


def test_nofile_limit_stays_where_the_option_says_so(script: Script) -> None:
    assert script(NOFILE.format(", raise_nofile_limit=False", "256")).end() == (0, "", "")


def test_import_installs_nothing(script: Script) -> None:
    program = script("""
import logging, signal, threading
handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
import unlimitedws
assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
assert logging.getLogger("unlimitedws").handlers == []
assert threading.active_count() == 1
""")
    assert program.end() == (0, "", "")


@pytest.mark.parametrize(
    "first", ["_uws.core", "unlimitedws.wsutil", "unlimitedws.errors", "unlimitedws.cli"]
)
def test_any_module_may_be_imported_first(script: Script, first: str) -> None:
    text = f"import {first}, unlimitedws\nwith unlimitedws.DefaultServer('127.0.0.1:0'): pass\n"
    assert script(text).end() == (0, "", "")


def test_public_names_are_there() -> None:
    for name in unlimitedws.__all__:
        assert hasattr(unlimitedws, name)
    for name in wsutil.__all__:
        assert hasattr(wsutil, name)


# The example

EXAMPLE = ROOT / "examples" / "echo" / "echo.py"

# The example listens on port 8000, which may be somebody's: only the port is changed, the file is not.
ON_ANY_PORT = f"""
import runpy, unlimitedws
from unlimitedws import Server
def on_any_port(addr, make=unlimitedws.DefaultServer):
    assert addr == ":8000"
    server = make(":0")
    print(server.local_addr.port)
    return server
unlimitedws.DefaultServer = on_any_port
runpy.run_path({str(EXAMPLE)!r})
"""


def test_example_of_the_readme_works_as_written(script: Script, client: Dial) -> None:
    assert f"```python\n{EXAMPLE.read_text()}```" in (ROOT / "README.md").read_text()
    program = script(ON_ANY_PORT)
    port = int(program.line())
    ws = client(port)
    peer = f"127.0.0.1:{ws.local_address[1]}"
    assert program.line() == f"welcome 127.0.0.1:{port} > {peer}"
    ws.send("héllo")
    assert ws.recv(PATIENCE) == "héllo"
    ws.send(bytes(range(256)))
    assert ws.recv(PATIENCE) == bytes(range(256))
    ws.close()
    assert ws.close_code == 1000
    assert program.line() == f"goodbye {peer}"
    program.signal(signal.SIGINT)
    assert program.end() == (0, "", "")


def test_types_of_the_example_are_checked(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    typed = tmp_path / "typed.py"
    typed.write_text("""
import unlimitedws
from unlimitedws import Conn, aio, wsutil

server = unlimitedws.DefaultServer(":8000", max_message_bytes=1)

@server.on_read
def echo(conn: Conn) -> None:
    msg, op = wsutil.read_client_data(conn)
    wsutil.write_server_message(conn, op, msg)

@server.on_message
def message(conn: Conn, message: str | bytes) -> None:
    conn.send(message)

server.on_close = lambda conn: print(conn.close_code)
server.on_close = None
server.on_read = "x"  # type: ignore[assignment]
server.on_conect = echo  # type: ignore[attr-defined]
server.subprotocols = ["chat"]
unlimitedws.Server(":8000", max_mesage_bytes=1)  # type: ignore[call-arg]

async def handler(connection: aio.ServerConnection) -> None:
    connection.user = connection.session
    async for message in connection:
        await connection.send(message)

aio.serve(handler, ":8000", max_message_bytes=1, ping_timeout=None, compression="deflate")
aio.serve(handler, "", 8000, max_size=None, write_limit=(2, 1))
aio.serve(handler, "", 8000, max_sise=1)  # type: ignore[call-arg]
aio.serve(handler, "", 8000, pool=(1, 1))  # type: ignore[call-arg]
aio.serve(handler, "", 8000, max_size="1")  # type: ignore[arg-type]
aio.unix_serve(handler, "/run/it", open_timeout=1, start_serving=False)
aio.unix_serve(handler, "/run/it", nonsense=3)  # type: ignore[call-arg]
""")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(typed)]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={"MYPYPATH": str(ROOT / "src")}
    )
    assert result.returncode == 0, result.stdout


def test_child_process_that_is_forked_while_a_thread_holds_the_servers_lock_can_use_it(script: Script) -> None:
    program = script("""
import os, threading, unlimitedws
server = unlimitedws.NewServer("127.0.0.1:0")
server.start()
held, leave = threading.Event(), threading.Event()
def hold():
    # As a thread does that starts another one for callbacks.
    with server._lock, server._roll._lock:
        held.set()
        leave.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
pid = os.fork()
if pid == 0:
    assert server.disconnect(user="nobody") == 0
    server.on_message = None
    server.stop()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
leave.set()
""")
    assert program.end() == (0, "0\n", "")


def test_signals_without_end_while_a_callback_holds_the_server_up(script: Script, client: Dial) -> None:
    # Handlers that interrupt one another would use the stack up.
    program = script("""
import operator, signal, time, unlimitedws
server = unlimitedws.NewServer("127.0.0.1:0")
@server.on_message
def slow(conn, message):
    conn.send("begun")
    time.sleep(0.3)
signal.signal(signal.SIGTERM, operator.is_)
server.run(ready=lambda: print(server.local_addr.port))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("in good order")
""")
    ws = client(int(program.line()))
    ws.send("go")
    assert ws.recv(PATIENCE) == "begun"
    with contextlib.suppress(ProcessLookupError):
        while program.process.poll() is None:
            program.signal(signal.SIGTERM)
    status, out, err = program.end()
    assert (out, err) == ("in good order\n", "")
    assert status in (0, -signal.SIGTERM)
