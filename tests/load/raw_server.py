"""A server of a few lines whose every byte is the test's: for what no honest server does."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PATIENCE = 20.0


class Talk:
    """One connection, from its server's side."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.request = b""
        self.keys: list[bytes] = []
        self._heard = b""

    def read(self, count: int) -> bytes:
        """Exactly so many bytes; EOFError at the end of the stream."""
        while len(self._heard) < count:
            got = self.sock.recv(65536)
            if not got:
                raise EOFError
            self._heard += got
        out, self._heard = self._heard[:count], self._heard[count:]
        return out

    def wait_for_some(self) -> None:
        """Have something of what the client sends."""
        if not self._heard:
            self._heard = self.sock.recv(100)

    def hear_request(self) -> bytes:
        while b"\r\n\r\n" not in self._heard:
            got = self.sock.recv(65536)
            if not got:
                raise EOFError
            self._heard += got
        self.request, _, self._heard = self._heard.partition(b"\r\n\r\n")
        return self.request

    def accept_of(self) -> bytes:
        found = re.search(rb"(?i)sec-websocket-key: *([^\r\n]+)", self.request)
        assert found
        return base64.b64encode(hashlib.sha1(found[1] + GUID).digest())

    def response(self, *lines: bytes) -> bytes:
        head = [
            b"HTTP/1.1 101 Switching Protocols",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + self.accept_of(),
            *lines,
        ]
        return b"\r\n".join(head) + b"\r\n\r\n"

    def open(self, *lines: bytes) -> None:
        self.hear_request()
        self.sock.sendall(self.response(*lines))

    def frame(self) -> tuple[int, bytes]:
        """The next frame of the client: first byte and payload. It has to be masked; its key is kept."""
        b0, b1 = self.read(2)
        assert b1 & 0x80, "a client's frame without a mask"
        length = b1 & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.read(8))
        key = self.read(4)
        self.keys.append(key)
        body = self.read(length)
        mask = (key * (length // 4 + 1))[:length]
        return b0, (int.from_bytes(body, "big") ^ int.from_bytes(mask, "big")).to_bytes(length, "big")

    def message(self) -> tuple[int, bytes]:
        """The next message; EOFError where the client closes, which is answered."""
        while True:
            b0, payload = self.frame()
            if b0 & 0x0F == 8:
                self.send(8, payload)
                raise EOFError
            if b0 & 0x0F < 8:
                return b0 & 0x0F, payload

    def send(self, opcode: int, payload: bytes = b"", fin: bool = True) -> None:
        self.sock.sendall(frame(opcode, payload, fin))


def frame(opcode: int, payload: bytes = b"", fin: bool = True) -> bytes:
    head = bytes([(0x80 if fin else 0) | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 65536:
        return head + struct.pack("!BH", 126, len(payload)) + payload
    return head + struct.pack("!BQ", 127, len(payload)) + payload


class RawServer:
    """Calls talk for each connection, in a thread of its own; what it raises is raised again at the end. The end of a
    stream ends a talk."""

    def __init__(
        self, talk: Callable[[Talk], None], receive_buffer: int | None = None, host: str = "127.0.0.1"
    ) -> None:
        self._talk = talk
        self._listener = socket.socket()
        if receive_buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind((host, 0))
        self._listener.listen(128)
        self.url = f"ws://127.0.0.1:{self._listener.getsockname()[1]}/"
        self.talks: list[Talk] = []
        self._threads: list[threading.Thread] = []
        self._raised: list[BaseException] = []
        self._acceptor = threading.Thread(target=self._accept)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(PATIENCE)
            talk = Talk(sock)
            self.talks.append(talk)
            thread = threading.Thread(target=self._run, args=(talk,))
            self._threads.append(thread)
            thread.start()

    def _run(self, talk: Talk) -> None:
        with talk.sock:
            try:
                self._talk(talk)
            except (EOFError, ConnectionError):
                pass
            except BaseException as exc:
                self._raised.append(exc)

    def __enter__(self) -> RawServer:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(PATIENCE)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in self._threads)
        if kind is None and self._raised:
            raise self._raised[0]


def echo(talk: Talk) -> None:
    talk.open()
    while True:
        talk.send(*talk.message())
