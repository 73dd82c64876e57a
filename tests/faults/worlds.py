"""A loop of the engine with real clients, in a process where anything may fail: what they do, and what has to hold.

Owns the server side with its records (`Server`), the clients (`Peer`), and the check of a case (`Trial`). A command is
the first byte of a message, its client's number the next two: so the server knows what to do, and the check whose
messages are whose. For failing_calls.py; plays.py has what the clients do.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import raw
from loops import NOTHING, SETTINGS, echo, listener
from raw import BINARY, CLOSE, CONT, PING, PONG, TEXT

from _uws.core import Loop
from _uws.messages import read_client_data
from unlimitedws.errors import ConnectionClosed
from unlimitedws.proxies import _KIND_INET

# Nothing here takes longer than this, however loaded the machine is.
PATIENCE_S = 10.0
TICK_S = 0.1
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
TAIL = b"\0\0\xff\xff"
PAGE = b"<!doctype html><title>here</title>"
PROXIED = b"PROXY TCP4 192.0.2.7 127.0.0.1 5000 80\r\n"
# Past the queue, at the cork, and more than the kernel takes.
LARGE = (9000, 70_000, 200_000)
# Of Loop.visit().
STOP, EVENTS = 0, 1

# As in loops.SETTINGS, but for times: what only a deadline can end is to end soon.
QUICK = {
    "handshake_timeout_ms": 1000,
    "request_timeout_ms": 1000,
    "close_timeout_ms": 200,
    "max_buffered_bytes": 256 << 10,
    "high_water_bytes": 32 << 10,
    "low_water_bytes": 8 << 10,
    "max_inbox_bytes": 4096,
    "max_inbox_messages": 6,
    "compression_threshold": 16,
}


class Wrong(AssertionError):
    """Something that must not happen, whatever fails."""


class PeerOver(Exception):
    """The server has ended a client's connection, or has not let it in."""


@dataclass(frozen=True)
class World:
    """A way to run a loop.

    Attributes:
        name: Of the cases' names.
        settings: Beside `QUICK`.
        deflate: What clients offer: "" nothing, "reset" no contexts, "kept" contexts on both sides.
        guest: An event loop of the test's drives it.
        reads: Messages are read by on_read, piece by piece where they are streamed; otherwise on_message gets them.
        asks: Python answers every request.
        keeps: Each Conn has data of the application's.
        proxied: A PROXY header comes first, and proxies name their clients in a field.
        blank: Nobody keeps a Conn, and nobody is told of a connection's beginning and end: messages come back.
        loads: The clients are the engine's own, the load generator.
        share: Of the cases, beside the others: less for those that take their time.
    """

    name: str
    settings: dict[str, int] = field(default_factory=dict)
    deflate: str = ""
    guest: bool = False
    reads: bool = False
    asks: bool = False
    keeps: bool = False
    proxied: bool = False
    blank: bool = False
    loads: bool = False
    share: float = 1.0


WORLDS = (
    World("inline"),
    World("blank", blank=True),
    World("keeps", keeps=True),
    World("pool", {"runners": 4, "jobs": 8}),
    World("guest", guest=True),
    World("private", {"private_fds": 1}),
    World("private-pool", {"private_fds": 1, "runners": 3}, asks=True),
    World("asks", asks=True),
    World("reads", reads=True),
    World("streams", {"streaming": 1}, reads=True),
    World("deflate", deflate="reset"),
    World("deflate-kept", deflate="kept"),
    World("proxied", proxied=True),
    World("pings", {"ping_interval_ms": 64, "idle_timeout_ms": 60_000, "max_lifetime_ms": 60_000}, share=0.2),
    World("load", blank=True, loads=True, share=0.1),
)


class Record:
    """What the server knows of a connection."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        self.number = -1
        self.sent: list[bytes] = []
        # What was on its way when the connection was lost: whoever waited for it is told of that, and it may have come.
        self.perhaps: list[bytes] = []
        self.closed = False
        # Two callbacks may send to one connection, and the order of `sent` is to be that of the sending.
        self.lock = threading.Lock()

    def send(self, message: str | bytes) -> None:
        """Send; what was accepted is in `sent`."""
        with self.lock:
            self.sent.append(message.encode() if isinstance(message, str) else message)
            try:
                self.conn.send(message)
            except BaseException as exc:
                message = self.sent.pop()
                if isinstance(exc, ConnectionClosed) and not self.perhaps:
                    self.perhaps.append(message)
                raise


class Server:
    """A loop and what it was called with. `mark` tells the shim whether the calling thread is at work for the loop."""

    def __init__(self, world: World, mark: Callable[[bool], None]) -> None:
        self.world = world
        self.crashes: list[BaseException] = []
        self.threads: list[threading.Thread] = []
        self.gate = threading.Event()
        self.keeper = 0
        self.attic: list[Any] = []
        self.records: list[Record] = []
        self._mark = mark
        self.reset()
        settings = {**SETTINGS, **QUICK, **world.settings, "compression": int(bool(world.deflate))}
        settings["compression_server_takeover"] = settings["compression_client_takeover"] = int(
            world.deflate == "kept"
        )
        settings["proxy_protocol"] = int(world.proxied)
        self.loop = Loop(settings, self._spawn, self._failed, PAGE, None)
        self.sock = listener()
        try:
            # Inherited by what is accepted: little is enough to fill it, and nothing waits for an acknowledgement.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._set_up(world)
        except BaseException:
            self.sock.close()
            raise
        self.port: int = self.sock.getsockname()[1]

    def _set_up(self, world: World) -> None:
        loop = self.loop
        if world.blank:
            loop.set_hook("on_message", echo)
        else:
            loop.set_hook("on_connect", self._opened)
            loop.set_hook("on_close", self._ended)
            loop.set_hook("on_drain", self._drained)
            loop.set_hook("on_pong", self._ponged)
            loop.set_hook("on_read" if world.reads else "on_message", self._read if world.reads else self._message)
        if world.asks:
            loop.set_hook("on_request", self._asked)
            loop.set_hook("on_route", self._routed)
        loop.set_subprotocols([b"chat", b"news"])
        if world.proxied:
            network = (_KIND_INET, 32, socket.inet_aton("127.0.0.1"))
            loop.set_proxies([network], b"x-forwarded-for", lambda peer, text: peer)
        loop.listen(self.sock.fileno())

    def reset(self) -> None:
        """Forget what has been, before a case."""
        # What is freed would be there for the next one, without asking the allocator that is to fail.
        self.attic += [record.conn for record in self.records]
        for record in self.records:
            record.sent.clear()
            record.perhaps.clear()
        self.records = []
        self.by_conn: dict[Any, Record] = {}
        self.failures: list[tuple[str, BaseException]] = []
        self.opened = 0
        self.closed = 0
        self.gate.clear()
        self.waiting = threading.Semaphore(0)
        # A guest that is called, and has something else to do until the gate opens.
        self.elsewhere = False

    # --- running ---

    def start(self) -> None:
        self._start()
        # What it opens is open when the first case begins.
        deadline = time.monotonic() + PATIENCE_S
        while self.loop.counters()["runners"] == 0 and not self.crashes:
            if time.monotonic() > deadline:
                raise Wrong("the loop does not begin")
            time.sleep(0.0002)
        if self.world.settings.get("private_fds"):
            self.keeper = find_keeper(self.sock.fileno(), self.crashes)

    def _start(self) -> None:
        thread = threading.Thread(target=self._visit if self.world.guest else self._run, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _spawn(self) -> None:
        # What Python's threads need is not the engine's.
        self._mark(False)
        try:
            self._start()
        finally:
            self._mark(True)

    def _run(self) -> None:
        try:
            self._mark(True)
            self.loop.run()
        except BaseException as exc:
            self._mark(False)
            if isinstance(exc, MemoryError) and self.loop.counters()["runners"] != 0:
                # It was to help, and the others go on: as the library has it.
                self.failures.append(("run", exc))
            else:
                self.crashes.append(exc)
        finally:
            self._mark(False)

    def _visit(self) -> None:
        try:
            self._mark(True)
            fds = self.loop.enter()
            self._mark(False)
            # Not before: that may need an iterator, which is not the engine's either.
            epoll_fd, bell_fd = fds
            waiter = select.poll()
            waiter.register(epoll_fd, select.POLLIN)
            waiter.register(bell_fd, select.POLLIN)
            while True:
                # What a guest's event loop needs is not the engine's.
                self._mark(True)
                work = self.loop.visit()
                self._mark(False)
                if work == STOP:
                    break
                if work != EVENTS:
                    waiter.poll()
                    if self.elsewhere and not self.gate.wait(PATIENCE_S):
                        raise Wrong("the gate stayed shut")
            self.loop.leave()
        except BaseException as exc:
            self._mark(False)
            self.crashes.append(exc)
        finally:
            self._mark(False)

    def stop(self, drain: bool = False) -> None:
        """Stop, and wait for the threads."""
        self.gate.set()
        if drain:
            self.loop.drain(20, 1001, True, 500)
        else:
            self.loop.shut(1001, "", 500)
        self.join()
        self.sock.close()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(PATIENCE_S)
            if thread.is_alive():
                raise Wrong("a runner does not return")
        self.threads.clear()

    # --- hooks ---

    def _record_of(self, conn: Any) -> Record | None:
        return conn.data if self.world.keeps else self.by_conn.get(conn)

    def _opened(self, conn: Any) -> None:
        self.opened += 1
        record = Record(conn)
        if self.world.keeps:
            conn.data = record
        else:
            self.by_conn[conn] = record
        self.records.append(record)

    def _ended(self, conn: Any) -> None:
        self.closed += 1
        record = self._record_of(conn)
        if record is not None:
            if record.closed:
                self.crashes.append(Wrong("on_close a second time"))
            record.closed = True
            if conn.close_code is None or conn.close_cause is None or conn.is_open:
                self.crashes.append(Wrong("on_close of a connection that does not know how it ended"))

    def _failed(self, conn: Any, exc: BaseException, hook: str) -> None:
        self.failures.append((hook, exc))

    def _drained(self, conn: Any) -> None:
        pass

    def _ponged(self, conn: Any, payload: bytes) -> None:
        pass

    def _read(self, conn: Any) -> None:
        data, op = read_client_data(conn)
        self._message(conn, data.decode() if int(op) == TEXT else data)

    def _message(self, conn: Any, message: str | bytes) -> None:
        data = message.encode() if isinstance(message, str) else message
        record = self._record_of(conn)
        if record is None:
            # There was no memory for one.
            conn.close(1011)
            return
        record.number = int(data[1:3])
        self._commands[data[:1]](self, record, message)

    def _asked(self, exchange: Any) -> None:
        if "later" in exchange.target:
            self._mark(False)
            try:
                threading.Thread(target=self._accept_later, args=(exchange,)).start()
            finally:
                self._mark(True)
        else:
            exchange.accept(subprotocol=b"chat", headers=b"X-Seen: yes\r\n")

    def _accept_later(self, exchange: Any) -> None:
        try:
            exchange.accept(subprotocol=b"chat")
        except BaseException as exc:
            self._failed(None, exc, "on_request")

    def _routed(self, exchange: Any) -> None:
        exchange.answer(200, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    # --- commands ---

    def _echo(self, record: Record, message: str | bytes) -> None:
        record.send(message)

    def _close(self, record: Record, _message: str | bytes) -> None:
        record.conn.close(4001, "as you wish")

    def _abort(self, record: Record, _message: str | bytes) -> None:
        record.conn.abort()

    def _broadcast(self, record: Record, message: str | bytes) -> None:
        for other in tuple(self.records):
            if other is not record:
                # Whoever cannot be told need not keep the others from being told.
                with contextlib.suppress(ConnectionClosed, MemoryError):
                    other.send(message)
        record.send(message)

    def _ping(self, record: Record, message: str | bytes) -> None:
        record.conn.ping(b"are you there")
        record.send(message)

    def _hold(self, record: Record, message: str | bytes) -> None:
        record.conn.pause()
        record.send(message)

    def _facts(self, record: Record, message: str | bytes) -> None:
        conn = record.conn
        # Without an address where the kernel would not say.
        if conn.local_addr.port not in (self.port, 0):
            raise Wrong(f"local_addr {conn.local_addr}")
        repr((conn.remote_addr, conn.query, conn.subprotocol, conn.buffered_amount, conn))
        self.loop.memory()
        record.send(message)

    def _large(self, record: Record, _message: str | bytes) -> None:
        for size in LARGE:
            record.send(b"l%02d:" % record.number + b"x" * size)

    def _length(self, record: Record, message: str | bytes) -> None:
        record.send(b"n%02d:%d" % (record.number, len(message)))

    def _wait(self, record: Record, message: str | bytes) -> None:
        # Without memory Python's own conditions may stay locked for good.
        self._mark(False)
        try:
            self.waiting.release()
            if not self.gate.wait(PATIENCE_S):
                raise Wrong("the gate stayed shut")
        finally:
            self._mark(True)
        record.send(message)

    _commands: ClassVar[dict[bytes, Callable[[Server, Record, str | bytes], None]]] = {
        b"e": _echo,
        b"c": _close,
        b"a": _abort,
        b"b": _broadcast,
        b"p": _ping,
        b"h": _hold,
        b"f": _facts,
        b"l": _large,
        b"n": _length,
        b"w": _wait,
    }


@functools.lru_cache(4096)
def framed(opcode: int, payload: bytes, fin: bool, rsv: int) -> bytes:
    return raw.frame(opcode, payload, fin, rsv, mask=b"\x01\x80\x7f\xff")


@functools.lru_cache(64)
def request(path: str = "/", headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    return raw.request(path, KEY, headers=headers)


class Peer:
    """A client. Its operations raise PeerOver when the server has ended the connection: `over` says how."""

    def __init__(self, trial: Trial, number: int, rcvbuf: int = 0) -> None:
        self.trial = trial
        self.number = number
        self.over = ""
        self.upgraded = False
        self.deflates = False
        self._left = False
        self.heard: list[bytes] = []
        self.pongs: list[bytes] = []
        self._unread = bytearray()
        self._asked = 0
        self._inflater = self._deflater = None
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(TICK_S)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if rcvbuf:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
            self.sock.connect(("127.0.0.1", trial.server.port))
        except BaseException:
            self.sock.close()
            raise

    def _ends(self, how: str) -> PeerOver:
        self.over = self.over or how
        return PeerOver(f"client {self.number}: {self.over}")

    # --- out ---

    def put(self, data: bytes) -> None:
        """Write bytes as they are."""
        deadline = time.monotonic() + PATIENCE_S
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise Wrong(f"client {self.number}: the server does not read") from None
            except OSError:
                # What it said before it went may still be there: whoever reads comes to the end.
                return

    def payload(self, command: bytes, body: bytes = b"") -> bytes:
        return command + b"%02d:" % self.number + body

    def frame(self, payload: bytes, text: bool = False, fin: bool = True, cont: bool = False) -> bytes:
        opcode = CONT if cont else TEXT if text else BINARY
        if self.deflates and fin and not cont:
            return framed(opcode, self._deflated(payload), True, 4)
        return framed(opcode, payload, fin, 0)

    def say(self, command: bytes, body: bytes = b"", text: bool = False) -> bytes:
        """Send a command; return the message."""
        payload = self.payload(command, body)
        self.put(self.frame(payload, text))
        return payload

    def ask(self, command: bytes, body: bytes = b"", text: bool = False) -> None:
        """Send a command, and hear the message come back."""
        self.hear(self.say(command, body, text))

    def _deflated(self, payload: bytes) -> bytes:
        if self._deflater is None or self.trial.server.world.deflate == "reset":
            self._deflater = zlib.compressobj(1, zlib.DEFLATED, -15)
        return (self._deflater.compress(payload) + self._deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def _inflated(self, payload: bytes) -> bytes:
        if self._inflater is None or self.trial.server.world.deflate == "reset":
            self._inflater = zlib.decompressobj(-15)
        return self._inflater.decompress(payload + TAIL)

    # --- in ---

    def _more(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                chunk = self.sock.recv(262144)
            except TimeoutError:
                if self.trial.server.crashes:
                    raise self._ends("crash") from None
                if time.monotonic() > deadline:
                    raise Wrong(f"client {self.number} waits for ever; heard {len(self.heard)} messages") from None
                continue
            except OSError:
                raise self._ends("reset") from None
            if not chunk:
                raise self._ends("eof")
            self._unread += chunk
            return

    def _exactly(self, count: int) -> bytes:
        while len(self._unread) < count:
            self._more()
        data = bytes(self._unread[:count])
        del self._unread[:count]
        return data

    def opening(self) -> bytes:
        """The request, with what has to come before it."""
        world = self.trial.server.world
        headers: tuple[tuple[str, str], ...] = ()
        if world.deflate:
            offer = "permessage-deflate" + ("; server_no_context_takeover" if world.deflate == "reset" else "")
            headers += (("Sec-WebSocket-Extensions", offer),)
        if world.proxied:
            headers += (("X-Forwarded-For", "198.51.100.1"),)
        return (PROXIED if world.proxied else b"") + request("/a/path?a=query", headers)

    def shake(self, opening: bytes | None = None) -> None:
        """Ask to be let in, and be let in."""
        self.put(self.opening() if opening is None else opening)
        self.admitted()

    def admitted(self) -> None:
        """Read the response; it has to be 101."""
        response = self.response()
        if not response.startswith(b"HTTP/1.1 101 "):
            raise self._ends("refused")
        self.upgraded = True
        self.deflates = b"permessage-deflate" in response

    def response(self) -> bytes:
        """Read the head of a response."""
        while (end := self._unread.find(b"\r\n\r\n")) < 0:
            self._more()
        return self._exactly(end + 4)

    def _frame(self) -> tuple[int, int, bytes]:
        b0, b1 = self._exactly(2)
        length = b1
        if length == 126:
            (length,) = struct.unpack("!H", self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._exactly(8))
        return b0 & 15, b0 >> 4, self._exactly(length)

    def _step(self) -> None:
        """Read one frame and deal with it."""
        opcode, bits, payload = self._frame()
        if opcode in (TEXT, BINARY) and bits in (8, 12):
            self.heard.append(self._inflated(payload) if bits == 12 else payload)
        elif opcode == PING:
            self.put(framed(PONG, payload, True, 0))
        elif opcode == PONG:
            self.pongs.append(payload)
        elif opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big")
            if not self._left:
                self.put(framed(CLOSE, payload[:2], True, 0))
            raise self._ends(f"close {code}")
        else:
            raise Wrong(f"client {self.number}: a frame {opcode} {bits} {payload[:20]!r}")

    def hear(self, *expected: bytes) -> None:
        """Hear these messages, the next ones in this order."""
        for message in expected:
            while len(self.heard) == self._asked:
                self._step()
            if self.heard[self._asked] != message:
                raise Wrong(f"client {self.number}: {self.heard[self._asked][:40]!r} and not {message[:40]!r}")
            self._asked += 1

    def hear_to(self, last: bytes) -> None:
        """Hear what comes up to this message."""
        while not self.heard or self.heard[-1] != last:
            self._step()
        self._asked = len(self.heard)

    def hear_pong(self, payload: bytes) -> None:
        while payload not in self.pongs:
            self._step()

    def until_over(self) -> str:
        """Read until the connection is over, both ways; say how."""
        while not self.over:
            with contextlib.suppress(PeerOver):
                self._step()
        how = self.over
        if how not in ("eof", "reset", "crash"):
            with contextlib.suppress(PeerOver):
                while True:
                    self._more()
            self.over = how
        return how

    def leave(self) -> str:
        """Do the close handshake from our end; say how it went."""
        self._left = True
        self.put(framed(CLOSE, b"\x03\xe8", True, 0))
        return self.until_over()


class Trial:
    """One case: its clients, and whether all is as it has to be."""

    def __init__(self, server: Server, harmless: bool) -> None:
        self.server = server
        self.harmless = harmless
        self.peers: list[Peer] = []
        self.before = server.loop.counters()
        self.fds = count_fds(server.keeper)

    def peer(self, rcvbuf: int = 0) -> Peer:
        """A client that has connected."""
        peer = Peer(self, len(self.peers), rcvbuf)
        self.peers.append(peer)
        return peer

    def guest(self, rcvbuf: int = 0) -> Peer:
        """One that has been let in."""
        peer = self.peer(rcvbuf)
        peer.shake()
        return peer

    def expect(self, how: str, *wanted: str) -> None:
        """Where nothing may be noticed, this is how it had to end."""
        if self.harmless and how not in wanted:
            raise Wrong(f"ended with {how!r} and not with {wanted[0]!r}")

    def grown(self, name: str, by: int) -> None:
        """Wait until a counter of the loop has grown by this much since the beginning, or does not come to it."""
        wanted = self.before[name] + by
        deadline = time.monotonic() + 0.05
        while self.server.loop.counters()[name] < wanted and time.monotonic() < deadline:
            time.sleep(0.0002)

    def read_by_server(self, count: int) -> None:
        """Wait until the server has read so many bytes since the beginning."""
        self.grown("bytes_in", count)

    def record(self, peer: Peer) -> Record | None:
        """The server's record of a client that has spoken."""
        return next((record for record in self.server.records if record.number == peer.number), None)

    # --- the end ---

    def settle(self) -> None:
        """Nothing fails any more: see that nobody has been forgotten."""
        self.server.gate.set()
        for record in tuple(self.server.records):
            with contextlib.suppress(ConnectionClosed):
                record.conn.resume()
        for peer in self.peers:
            if peer.sock.fileno() < 0 or peer.over:
                continue
            try:
                if not peer.upgraded:
                    peer.admitted()
            except PeerOver:
                continue
            peer.leave()

    def check(self, memory: bool, python: bool) -> None:
        """Compare what both sides saw. memory, python: what failed was memory, was the interpreter's."""
        server = self.server
        for peer in self.peers:
            peer.sock.close()
        self._check_empty()
        if server.crashes:
            raise Wrong(f"a runner ended: {server.crashes!r}")
        after = server.loop.counters()
        opened = after["upgraded"] - self.before["upgraded"]
        hooks = [hook for hook, _ in server.failures]
        # Python's locks say it in words of their own.
        allowed = (ConnectionClosed, *((MemoryError,) if memory else ()), *((RuntimeError,) if python else ()))
        for hook, exc in server.failures:
            # Without memory for the frame that a traceback shows, CPython loses the exception: without us, too.
            lost = python and isinstance(exc, SystemError) and str(exc) == "error return without exception set"
            if not isinstance(exc, allowed) and not lost:
                raise Wrong(f"{hook} raised {exc!r}") from exc
        told = (server.opened, server.closed)
        if server.world.blank:
            return
        # Without memory a hook may not be called, and that is told; that of the end is called when there is some again.
        untold = [hooks.count("on_connect") if python else opened if memory else 0, 0]
        untold[1] = hooks.count("on_close") if python else 0
        if not all(opened - most <= calls <= opened for calls, most in zip(told, untold, strict=True)):
            raise Wrong(f"{opened} opened: on_connect, on_close {told}, failures {server.failures}")
        for record in server.records:
            self._check_record(record)

    def check_fds(self) -> None:
        """No descriptor is left, on either side; after a fresh client, which waits for a listener that rests."""
        self._check_empty()
        left = count_fds(self.server.keeper)
        if left != self.fds:
            raise Wrong(f"{self.fds} descriptors before, {left} now")

    def _check_empty(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            now = self.server.loop.counters()
            left = {name: now[name] for name in NOTHING if now[name] != self.before[name]}
            if not left:
                return
            if time.monotonic() > deadline:
                raise Wrong(f"left behind: {left}")
            time.sleep(0.0002)

    def _check_record(self, record: Record) -> None:
        if not 0 <= record.number < len(self.peers):
            return
        peer = self.peers[record.number]
        if peer.heard != (record.sent + record.perhaps)[: len(peer.heard)]:
            raise Wrong(f"client {peer.number} heard what was not sent, or not in this order")
        # Our close frame leaves behind all that was accepted before it.
        if peer.over.startswith("close") and len(peer.heard) != len(record.sent):
            raise Wrong(f"client {peer.number}: {len(record.sent)} messages accepted, {len(peer.heard)} came")


def count_fds(keeper: int = 0) -> int:
    """How many descriptors this process has; with those of a thread that has a table of its own."""
    total = len(os.listdir("/proc/self/fd"))
    return total + len(os.listdir(f"/proc/self/task/{keeper}/fd")) if keeper else total


def find_keeper(listening_fd: int, crashes: list[BaseException]) -> int:
    """The thread that has a table of its own: it knows the listener, and not what was opened since. 0: none came."""
    deadline = time.monotonic() + PATIENCE_S
    mark = os.open("/dev/null", os.O_RDONLY)
    try:
        while time.monotonic() < deadline and not crashes:
            for thread in os.listdir("/proc/self/task"):
                with contextlib.suppress(OSError):
                    files = os.listdir(f"/proc/self/task/{thread}/fd")
                    if str(mark) not in files and str(listening_fd) in files:
                        return int(thread)
            time.sleep(0.001)
    finally:
        os.close(mark)
    if crashes:
        return 0
    raise Wrong("no thread has a table of its own")
