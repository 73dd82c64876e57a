"""A WebSocket client on a bare socket: what a test writes is what is on the wire, however wrong it is.

Owns the tests' own reading of RFC 6455, kept apart from the engine's. Any test may use it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

# No test waits longer than this for one read: a server that says nothing fails the test, it does not hang it.
TIMEOUT = 10.0


class Frame(NamedTuple):
    """One frame as it was on the wire. rsv: the three reserved bits as a number, RSV1 = 4."""

    fin: bool
    rsv: int
    opcode: int
    payload: bytes


class Response(NamedTuple):
    """The head of an HTTP response; field names in lower case, repeated fields joined with a comma."""

    status: int
    reason: str
    headers: dict[str, str]


class Close(NamedTuple):
    """A close frame's content. code is None where the frame had no payload."""

    code: int | None
    reason: str


def xor_mask(payload: bytes, key: bytes) -> bytes:
    """Mask or unmask (section 5.3); through one big integer, so that megabytes stay cheap."""
    if not payload:
        return b""
    stream = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(payload), "big")


def frame(
    opcode: int,
    payload: bytes | str = b"",
    fin: bool = True,
    rsv: int = 0,
    mask: bool | bytes = True,
    length_form: int | None = None,
    length: int | None = None,
) -> bytes:
    """Encode one frame, right or wrong.

    Args:
        opcode: 0 to 15.
        payload: str is encoded as UTF-8.
        fin: the FIN bit.
        rsv: the reserved bits as a number, RSV1 = 4.
        mask: True takes a random key, False sends unmasked, four bytes are the key.
        length_form: 7, 16 or 64 bits for the length, needed or not; None takes the shortest.
        length: the length to declare; None declares the payload's own.
    """
    if isinstance(payload, str):
        payload = payload.encode()
    declared = len(payload) if length is None else length
    if length_form is None:
        length_form = 7 if declared < 126 else 16 if declared < 65536 else 64
    masked = 0 if mask is False else 0x80
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if length_form == 7:
        head += bytes([masked | declared])
    elif length_form == 16:
        head += struct.pack("!BH", masked | 126, declared)
    elif length_form == 64:
        head += struct.pack("!BQ", masked | 127, declared)
    else:
        raise ValueError(f"length_form is 7, 16, 64 or None, not {length_form!r}")
    if mask is False:
        return head + payload
    key = os.urandom(4) if mask is True else mask
    return head + key + xor_mask(payload, key)


def close_frame(code: int | None = 1000, reason: str | bytes = b"", mask: bool | bytes = True) -> bytes:
    """Encode a close frame; code None sends no payload at all."""
    if isinstance(reason, str):
        reason = reason.encode()
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason, mask=mask)


def request(
    path: str = "/",
    key: str | None = None,
    host: str = "127.0.0.1",
    headers: Iterable[tuple[str, str]] = (),
) -> bytes:
    """Encode a correct upgrade request; headers are added behind the required ones."""
    key = key or new_key()
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def new_key() -> str:
    """Return a fresh Sec-WebSocket-Key (section 4.1)."""
    return base64.b64encode(os.urandom(16)).decode()


def accept_of(key: str) -> str:
    """Return the Sec-WebSocket-Accept that answers a key (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


class RawClient:
    """One connection to a server.

    Args:
        port: the server's port.
        host: the server's address.
        path: the request's target.
        headers: more fields for the upgrade request.
        handshake: False only connects; send a request of your own.
        timeout: seconds that any one read or write may take.
        rcvbuf: bytes for SO_RCVBUF, set before connecting; None leaves the kernel's.
        source: address to connect from; None lets the kernel choose.
    """

    def __init__(
        self,
        port: int,
        host: str = "127.0.0.1",
        path: str = "/",
        headers: Iterable[tuple[str, str]] = (),
        handshake: bool = True,
        timeout: float = TIMEOUT,
        rcvbuf: int | None = None,
        source: str | None = None,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.response: Response | None = None
        self._unread = bytearray()
        try:
            self.sock.settimeout(timeout)
            # A test that writes byte by byte means segments, not what Nagle makes of them.
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if rcvbuf is not None:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
            if source is not None:
                self.sock.bind((source, 0))
            self.sock.connect((host, port))
            if handshake:
                self.handshake(path, headers)
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.sock.close()

    @property
    def address(self) -> tuple[str, int]:
        """Our end's host and port: the server's `conn.remote_addr`."""
        host, port = self.sock.getsockname()[:2]
        return host, port

    def handshake(self, path: str = "/", headers: Iterable[tuple[str, str]] = ()) -> Response:
        """Upgrade, and assert that the answer is the one of section 4.2.2."""
        key = new_key()
        host, port = self.sock.getpeername()[:2]
        self.send(request(path, key, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", headers))
        response = self.recv_response()
        assert response.status == 101, response
        assert response.headers["upgrade"].lower() == "websocket", response
        assert "upgrade" in response.headers["connection"].lower(), response
        assert response.headers["sec-websocket-accept"] == accept_of(key), response
        return response

    # --- out ---

    def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.sock.sendall(data)

    def send_bytewise(self, data: bytes) -> None:
        """Write every byte with a system call of its own."""
        for i in range(len(data)):
            self.sock.sendall(data[i : i + 1])

    def send_frame(
        self,
        opcode: int,
        payload: bytes | str = b"",
        fin: bool = True,
        rsv: int = 0,
        mask: bool | bytes = True,
        length_form: int | None = None,
        length: int | None = None,
    ) -> None:
        """Encode one frame (see `frame`) and write it."""
        self.send(frame(opcode, payload, fin, rsv, mask, length_form, length))

    def send_close(self, code: int | None = 1000, reason: str | bytes = b"") -> None:
        """Write a close frame."""
        self.send(close_frame(code, reason))

    def shutdown(self) -> None:
        """Send FIN; reading goes on."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST, as a peer does that was killed."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """Close the socket without a close frame."""
        self.sock.close()

    # --- in ---

    def recv_exactly(self, count: int) -> bytes:
        """Read count bytes. Raises EOFError if the peer ends before them."""
        while len(self._unread) < count:
            chunk = self.sock.recv(max(65536, count - len(self._unread)))
            if not chunk:
                raise EOFError(
                    f"end of stream, {count - len(self._unread)} bytes short; had {self._unread!r:.200}"
                )
            self._unread += chunk
        data = bytes(self._unread[:count])
        del self._unread[:count]
        return data

    def recv_response(self) -> Response:
        """Read the head of an HTTP response; what comes behind it stays for the other readers."""
        while (end := self._unread.find(b"\r\n\r\n")) < 0:
            chunk = self.sock.recv(65536)
            if not chunk:
                raise EOFError(f"end of stream within the response's head; had {bytes(self._unread)!r:.200}")
            self._unread += chunk
        first, *lines = bytes(self._unread[:end]).decode("latin-1").split("\r\n")
        del self._unread[: end + 4]
        version, status, reason = (first + " ").split(" ", 2)
        assert version == "HTTP/1.1", first
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            assert colon and name and name == name.strip(), f"not a header field: {line!r}"
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        self.response = Response(int(status), reason.strip(), headers)
        return self.response

    def recv_body(self) -> bytes:
        """Read the body that the last response's Content-Length declares."""
        assert self.response is not None, "no response was read"
        return self.recv_exactly(int(self.response.headers.get("content-length", "0")))

    def recv_frame(self) -> Frame:
        """Read one frame, and assert what every frame of a server has to be (sections 5.1 and 5.2)."""
        b0, b1 = self.recv_exactly(2)
        assert not b1 & 0x80, "a server must not mask"
        length = b1 & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self.recv_exactly(2))
            assert length > 125, f"length {length} in the 16-bit form"
        elif length == 127:
            (length,) = struct.unpack("!Q", self.recv_exactly(8))
            assert length > 65535, f"length {length} in the 64-bit form"
        opcode = b0 & 0x0F
        if opcode >= 8:
            assert b0 & 0x80 and length <= 125, f"control frame fragmented or too long: {b0:#x} {length}"
        return Frame(bool(b0 & 0x80), b0 >> 4 & 7, opcode, self.recv_exactly(length))

    def recv_message(self) -> bytes | str:
        """Read one message, joining its fragments; a control frame before its end fails the test."""
        first = self.recv_frame()
        assert first.opcode in (TEXT, BINARY), first
        payload = bytearray(first.payload)
        fin = first.fin
        while not fin:
            part = self.recv_frame()
            assert part.opcode == CONT, part
            payload += part.payload
            fin = part.fin
        return payload.decode() if first.opcode == TEXT else bytes(payload)

    def recv_close(self) -> Close:
        """Read frames up to the close frame; any other frame before it fails the test."""
        got = self.recv_frame()
        assert got.opcode == CLOSE, got
        if not got.payload:
            return Close(None, "")
        assert len(got.payload) >= 2, got
        return Close(int.from_bytes(got.payload[:2], "big"), got.payload[2:].decode())

    def recv_pending(self) -> bytes:
        """Return what has been received and not been asked for yet."""
        data = bytes(self._unread)
        self._unread.clear()
        return data

    def recv_until_eof(self) -> bytes:
        """Read all there is until the peer's FIN, and return it. A reset is raised, not taken for an end."""
        chunks = [self.recv_pending()]
        while chunk := self.sock.recv(65536):
            chunks.append(chunk)
        return b"".join(chunks)

    def close_cleanly(self, code: int | None = 1000, reason: str = "") -> Close:
        """Do the close handshake from our end, wait for the server's FIN, and return what it answered."""
        self.send_close(code, reason)
        answer = self.recv_close()
        rest = self.recv_until_eof()
        assert rest == b"", f"bytes behind the close frame: {rest!r:.200}"
        self.sock.close()
        return answer
