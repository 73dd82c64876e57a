"""Running servers for tests of the public API: in this process, or in one of their own that can be counted.

Owns the waiting: for an event, a condition, or the server to have read what was sent. Any test may use it.
"""

from __future__ import annotations

import ast
import contextlib
import os
import queue
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
import raw
from raw import PING, PONG, TIMEOUT, Frame, RawClient

import unlimitedws
from unlimitedws import wsutil

T = TypeVar("T")

STOP_TIMEOUT = 5.0

# The two ways a callback runs; a rule that holds for one has to hold for the other.
each_mode = pytest.mark.parametrize("pool", [None, (8, 8)], ids=["inline", "pool"])


# Of every server here whose test does not say: see the fixture `both_tables`.
PRIVATE_FDS = False


# --- waiting ---


def wait(event: threading.Event, what: str = "the event") -> None:
    """Wait for an event; fails the test if it does not come."""
    assert event.wait(TIMEOUT), f"{what} did not come within {TIMEOUT} s"


def take(source: queue.Queue[T], what: str = "the call") -> T:
    """Take the next item of a queue; fails the test if there is none."""
    try:
        return source.get(timeout=TIMEOUT)
    except queue.Empty:
        pytest.fail(f"{what} did not come within {TIMEOUT} s")


def wait_until(condition: Callable[[], bool], what: str, timeout: float = TIMEOUT) -> None:
    """Wait for what has no event to wait for: a count of the kernel's or of another process's."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.002)


# --- a client's view ---


def ping(client: RawClient, payload: bytes = b"are you there") -> None:
    """Ping, and assert that the very next frame is the pong."""
    client.send_frame(PING, payload)
    assert client.recv_frame() == Frame(True, 0, PONG, payload)


def is_listening(place: Path) -> bool:
    """Whether somebody listens on a Unix socket's path; its file is there a moment before. Connects to nobody."""
    accepts_connections = 0x10000
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if fields[7:] == [str(place)] and int(fields[3], 16) & accepts_connections:
            return True
    return False


def expect_end(client: RawClient) -> bytes:
    """Read until the connection is over, with FIN or with RST; return what came before."""
    got = b""
    try:
        while chunk := client.sock.recv(65536):
            got += chunk
        # FIN may have gone out before RST: only writing shows that there is nobody.
        while True:
            client.sock.sendall(b"x")
            client.sock.recv(1)
    except OSError:
        return got


def expect_date(date: str | None) -> None:
    """Assert that a response's Date is that of now (RFC 9110, section 6.6.1), in the one form that may be written."""
    assert date is not None
    moment = parsedate_to_datetime(date).timestamp()
    assert date == formatdate(moment, usegmt=True)
    assert abs(moment - time.time()) < TIMEOUT, date


def expect_eof(client: RawClient) -> None:
    """Assert that the server says nothing more and ends its side with FIN, not with RST."""
    rest = client.recv_until_eof()
    assert rest == b"", f"bytes where the end was due: {rest!r:.200}"


def expect_failure(client: RawClient, code: int) -> None:
    """Assert that the server fails the connection: a close frame with this code, then FIN, unasked."""
    got = client.recv_close()
    assert got.code == code, got
    expect_eof(client)


def expect_goodbye(client: RawClient, code: int) -> None:
    """Assert that the server ends the connection in good order: a close frame with this code, and FIN when it is
    answered."""
    got = client.recv_close()
    assert got.code == code, got
    client.send_close(code)
    expect_eof(client)


def readable(sock: socket.socket, timeout: float = 0.0) -> bool:
    """Tell whether a read would return at once."""
    return bool(select.select([sock], [], [], timeout)[0])


def data_segments_in(sock: socket.socket) -> int:
    """Return how many segments with data the kernel has received on a socket (tcpi_data_segs_in)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    segments: int = struct.unpack_from("=I", info, 152)[0]
    return segments


NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
INET_DIAG_INFO = 2


class _PeerQueue:
    """What the kernel holds for the other end of a client's connection (sock_diag(7)).

    A test that sends a frame in pieces has to know that the server has taken one before it sends the next;
    otherwise the kernel joins them, and the test tests something else.
    """

    def __init__(self, client: RawClient) -> None:
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
        family, ours, theirs = client.sock.family, client.sock.getsockname(), client.sock.getpeername()
        ident = struct.pack("!HH", theirs[1], ours[1])
        for host in (theirs[0], ours[0]):
            ident += socket.inet_pton(family, host).ljust(16, b"\0")
        # Any interface; no cookie: INET_DIAG_NOCOOKIE.
        ident += struct.pack("=I", 0) + b"\xff" * 8
        body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0, 0xFFFFFFFF)
        self._query = (
            struct.pack("=IHHII", 16 + len(body + ident), SOCK_DIAG_BY_FAMILY, 1, 1, 0) + body + ident
        )

    def __enter__(self) -> _PeerQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def look(self) -> tuple[int, int] | None:
        """Return (bytes received so far, of these not yet read); None if the socket is gone."""
        self._netlink.send(self._query)
        answer = self._netlink.recv(65536)
        (kind,) = struct.unpack_from("=H", answer, 4)
        if kind != SOCK_DIAG_BY_FAMILY:
            (error,) = struct.unpack_from("=i", answer, 16)
            assert -error == 2, f"sock_diag: {os.strerror(-error)}"
            return None
        (unread,) = struct.unpack_from("=I", answer, 16 + 56)
        at, end = 16 + 72, struct.unpack_from("=I", answer, 0)[0]
        while at < end:
            size, attribute = struct.unpack_from("=HH", answer, at)
            if attribute == INET_DIAG_INFO:
                (received,) = struct.unpack_from("=Q", answer, at + 4 + 128)
                return received, unread
            at += (size + 3) & ~3
        raise AssertionError("sock_diag gave no tcp_info")


def send_pieces(client: RawClient, pieces: list[bytes], stop_when_answered: bool = False) -> None:
    """Send pieces, each only when the server has read the one before.

    Args:
        client: who sends.
        pieces: one or more bytes each.
        stop_when_answered: end early when there is something to read, as a client does that is refused.
    """
    with _PeerQueue(client) as peer:
        for piece in pieces:
            before = peer.look()
            if before is None or (stop_when_answered and readable(client.sock)):
                return
            client.send(piece)
            expected = before[0] + len(piece)

            def taken(expected: int = expected) -> bool:
                now = peer.look()
                return now is None or (now[0] >= expected and now[1] == 0)

            wait_until(taken, f"the server reads a piece of {len(piece)} bytes")


def send_bytewise(client: RawClient, data: bytes, stop_when_answered: bool = False) -> None:
    """Send byte by byte, each only when the server has read the one before."""
    send_pieces(client, [data[i : i + 1] for i in range(len(data))], stop_when_answered)


# --- a server in this process ---


class Ended(NamedTuple):
    """What on_close saw."""

    conn: Any
    code: int | None
    reason: str | None


class Live:
    """A running server, its clients, and what its hooks were called with."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.opened: queue.Queue[Any] = queue.Queue()
        self.ended: queue.Queue[Ended] = queue.Queue()
        self.errors: queue.Queue[tuple[Any, BaseException]] = queue.Queue()
        self._clients: list[RawClient] = []

    @property
    def port(self) -> int:
        port: int = self.server.local_addr.port
        return port

    def connect(self, **options: Any) -> RawClient:
        """Return a raw client that has done its handshake (options: see RawClient)."""
        handshake, path = options.pop("handshake", True), options.pop("path", "/")
        headers = options.pop("headers", ())
        client = RawClient(self.port, handshake=False, **options)
        self._clients.append(client)
        self._forget(client.address)
        if handshake:
            client.handshake(path, headers)
        return client

    def _forget(self, address: tuple[str, int]) -> None:
        """Drop what was noted of an earlier client with this address, of whom nobody has asked: the kernel gives ports
        out again, and a server that several tests share has seen many."""

        def drop(noted: queue.Queue[T], conn_of: Callable[[T], Any]) -> None:
            with noted.mutex:
                noted.queue = deque(one for one in noted.queue if tuple(conn_of(one).remote_addr) != address)

        drop(self.opened, lambda conn: conn)
        drop(self.ended, lambda ended: ended.conn)

    def connect_conn(self, **options: Any) -> tuple[RawClient, Any]:
        """Return a client and the server's conn for it."""
        client = self.connect(**options)
        while tuple((conn := take(self.opened, "on_connect")).remote_addr) != client.address:
            # Another test's, of a server that several share.
            pass
        return client, conn

    def ended_of(self, client: RawClient) -> Ended:
        """Wait for the on_close of a client whose socket is still open."""
        while tuple((ended := take(self.ended, "on_close")).conn.remote_addr) != client.address:
            pass
        return ended

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()


def echo(conn: Any) -> None:
    """Send a message back: the issue's example."""
    msg, op = wsutil.read_client_data(conn)
    wsutil.write_server_message(conn, op, msg)


@contextlib.contextmanager
def serve(
    addr: str = "127.0.0.1:0",
    *,
    pool: tuple[int, int] | None = None,
    io_timeout: float | None = None,
    on_connect: Callable[[Any], None] | None = None,
    on_read: Callable[[Any], None] | None = None,
    on_message: Callable[[Any, str | bytes], None] | None = None,
    on_fragment: Callable[[Any, Any], None] | None = None,
    on_close: Callable[[Any], None] | None = None,
    record_connects: bool = True,
    **options: Any,
) -> Iterator[Live]:
    """Run a server; record on_connect, on_close and on_error beside the hooks given.

    Args:
        addr: where to listen.
        pool: workers and queued jobs; None runs callbacks inline.
        io_timeout: seconds; None leaves the default.
        on_connect, on_read, on_message, on_fragment, on_close: run after they are recorded.
        record_connects: False sets no on_connect, so that upgrading needs no callback.
        options: of NewServer.
    """
    options.setdefault("private_fds", PRIVATE_FDS)
    server = unlimitedws.NewServer(addr, **options)
    live = Live(server)
    if pool is not None:
        server.set_pool(*pool)
    if io_timeout is not None:
        server.set_io_timeout(io_timeout)

    def opened(conn: Any) -> None:
        live.opened.put(conn)
        if on_connect is not None:
            on_connect(conn)

    if record_connects:
        server.on_connect = opened

    @server.on_close
    def ended(conn: Any) -> None:
        live.ended.put(Ended(conn, conn.close_code, conn.close_reason))
        if on_close is not None:
            on_close(conn)

    @server.on_error
    def failed(conn: Any, exc: BaseException) -> None:
        live.errors.put((conn, exc))

    if on_read is not None:
        server.on_read = on_read
    if on_message is not None:
        server.on_message = on_message
    if on_fragment is not None:
        server.on_fragment = on_fragment
    server.start()
    try:
        yield live
    finally:
        # Clients first: a server that waits for their close frames would only wait for its timeout.
        live.close_clients()
        server.stop(STOP_TIMEOUT)


# --- a server in a process of its own ---

_PRELUDE = """
import logging, os, sys, threading, time
import unlimitedws
from unlimitedws import wsutil

def echo(conn):
    msg, op = wsutil.read_client_data(conn)
    wsutil.write_server_message(conn, op, msg)
"""

_EPILOGUE = """
server.start()
print(server.local_addr.port, flush=True)
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
server.stop(5)
"""


class ServerProcess:
    """A server in a process of its own, for what only a process has: descriptors, memory, an exit code.

    Args:
        body: Python source that makes `server`; `unlimitedws`, `wsutil`, `os`, `sys`, `threading`, `time`,
            `logging` and `echo` are there.
        epilogue: what runs then; the default serves, prints its port, and evaluates lines from `ask`.
    """

    def __init__(self, body: str, epilogue: str = _EPILOGUE) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by kill)
        self._unread = b""
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PRELUDE + body + epilogue],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
        )
        try:
            self.port = int(self.read_line())
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is not None:
            self.kill()
            return
        self.finish()

    def finish(self, code: int = 0) -> None:
        """End the server in good order; assert its exit code, and that it had nothing to complain of."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            got = self.process.wait(TIMEOUT)
        finally:
            complaints = self.kill()
        assert (got, complaints) == (code, "")

    def kill(self) -> str:
        """End the process if it still runs, and return its stderr."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        if self._stderr.closed:
            return ""
        self._stderr.seek(0)
        complaints = self._stderr.read().decode(errors="replace")
        self._stderr.close()
        return complaints

    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def has_line(self, timeout: float = 0.0) -> bool:
        """Tell whether the process has printed something that was not read yet."""
        assert self.process.stdout is not None
        return b"\n" in self._unread or bool(select.select([self.process.stdout], [], [], timeout)[0])

    def read_line(self) -> str:
        """Read the next line that the process prints."""
        assert self.process.stdout is not None
        while b"\n" not in self._unread:
            assert self.has_line(TIMEOUT), f"the server process printed nothing for {TIMEOUT} s"
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                raise EOFError(f"the server process ended: {self.kill()}")
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def ask(self, expression: str) -> Any:
        """Evaluate an expression in the process and return its value (a literal)."""
        assert self.process.stdin is not None
        self.process.stdin.write(expression.encode() + b"\n")
        self.process.stdin.flush()
        return ast.literal_eval(self.read_line())

    def connect(self, **options: Any) -> RawClient:
        """Return a raw client that has done its handshake (options: see RawClient)."""
        return RawClient(self.port, **options)

    def fds(self) -> set[int]:
        """Return the process's open descriptors."""
        return {int(name) for name in os.listdir(f"/proc/{self.process.pid}/fd")}

    def cpu_seconds(self) -> float:
        """Return the processor time the process has used, in seconds."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            # Behind the name, which may contain anything.
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self) -> tuple[int, int]:
        """Return (resident, private writable address space), in bytes."""
        values = {}
        with open(f"/proc/{self.process.pid}/status") as status:
            for line in status:
                name, _, rest = line.partition(":")
                if name in ("VmRSS", "VmData"):
                    values[name] = int(rest.split()[0]) * 1024
        return values["VmRSS"], values["VmData"]


def frames(*parts: tuple[Any, ...]) -> bytes:
    """Encode several frames, to be sent as one piece."""
    return b"".join(raw.frame(*part) for part in parts)
