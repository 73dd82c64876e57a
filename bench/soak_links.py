"""The clients of bench/soak.py: connections on bare sockets that live as clients do, and check every byte.

One thread, one epoll. Each link sends now and then, in all shapes that frames have, and knows what has to come back; it
ends in one of several ways. What is wrong is counted and told, never raised: a soak goes on.
"""

from __future__ import annotations

import base64
import collections
import errno
import hashlib
import heapq
import os
import random
import select
import socket
import struct
import time
import zlib
from collections.abc import Iterator

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
RST = struct.pack("ii", 1, 0)

ECHOING = ("wsutil", "on_message", "compressed", "aio")
NUMBERED = ("thread", "broadcast")

FILLER = base64.b64encode(random.Random(1).randbytes(48 << 10))
DEFLATE = "permessage-deflate; server_max_window_bits=10; client_max_window_bits=10"
WINDOW_BITS = 10
TAIL = b"\x00\x00\xff\xff"

# Beyond it nobody answers any more. Long: the machine may have other things to do.
PATIENCE_S = 120.0
RECEIVE_BYTES = 256 << 10
# Of what went wrong the first ones are told, all are counted.
TOLD = 20

CONNECTING, UPGRADING, OPEN, LEAVING, CLOSING, OVER = range(6)


def masked(first: int, payload: bytes) -> bytes:
    """Encode a client's frame. first: FIN, reserved bits and opcode."""
    n = len(payload)
    if n < 126:
        head = struct.pack("!BB", first, 0x80 | n)
    elif n < 65536:
        head = struct.pack("!BBH", first, 0xFE, n)
    else:
        head = struct.pack("!BBQ", first, 0xFF, n)
    key = os.urandom(4)
    stream = (key * (n // 4 + 1))[:n]
    return head + key + (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(n, "big")


class Link:
    """One connection.

    expected: what has to come back, the oldest first, each with its opcode and when it was sent.
    rest: the end of a frame that was cut; nothing else may be sent before it.
    number: of the last numbered message.
    """

    __slots__ = (
        "deflater", "ending", "expected", "fd", "inflater", "key", "kind", "last", "number", "opcode", "out", "partial",
        "rest", "seq", "serial", "since", "sock", "state", "unread",
    )  # fmt: skip

    def __init__(self, kind: str, serial: int, sock: socket.socket) -> None:
        self.kind, self.serial, self.sock, self.fd = kind, serial, sock, sock.fileno()
        self.state = CONNECTING
        self.since = time.monotonic()
        self.expected: collections.deque[tuple[int, bytes, float]] = collections.deque()
        self.unread = bytearray()
        self.out = bytearray()
        self.rest = b""
        self.partial: bytearray | None = None
        self.opcode = 0
        self.seq = 0
        self.number = 0
        self.last: int | None = None
        self.ending = ""
        self.key = b""
        self.deflater = self.inflater = None
        if kind == "compressed":
            self.deflater = zlib.compressobj(1, zlib.DEFLATED, -WINDOW_BITS, 1)
            self.inflater = zlib.decompressobj(-WINDOW_BITS)


class Wrong(Exception):
    """A link has got what it must not get."""


class Links:
    """All of them.

    Args:
        ports: Of the server, by kind.
        every: Seconds between two messages of a link, in the mean.
        rng: What chooses kinds, sizes, times and ends.
    """

    def __init__(self, ports: dict[str, int], every: float, rng: random.Random) -> None:
        self.ports, self.every, self.rng = ports, every, rng
        self.epoll = select.epoll()
        self.links: dict[int, Link] = {}
        self.due: list[tuple[float, int, Link]] = []
        self.opened = 0
        self.sent = self.received = self.numbered = 0
        self.pings = self.pongs = 0
        self.ends: collections.Counter[str] = collections.Counter()
        self.wrongs: collections.Counter[str] = collections.Counter()
        self.told: list[str] = []
        self.round_trips: list[float] = []

    # --- beginning and end ---

    def open(self, kind: str) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        result = sock.connect_ex(("127.0.0.1", self.ports[kind]))
        assert result in (0, errno.EINPROGRESS), os.strerror(result)
        self.opened += 1
        link = Link(kind, self.opened, sock)
        self.links[link.fd] = link
        self.epoll.register(link.fd, select.EPOLLOUT)

    def end(self, link: Link, how: str) -> None:
        """Have a link end; how: see `_leave`."""
        link.ending = how
        if link.state == OPEN:
            self._leave(link)

    def any_open(self) -> Link | None:
        """Return one of those that nobody has told to end, if there are such."""
        for _ in range(20):
            link = self.links[self.rng.choice(self._fds())]
            if link.state == OPEN and not link.ending:
                return link
        return None

    def _fds(self) -> list[int]:
        return list(self.links)

    def alive(self) -> Iterator[Link]:
        yield from list(self.links.values())

    def _leave(self, link: Link) -> None:
        how = link.ending
        if how in ("reset", "torn"):
            if how == "torn":
                whole = masked(0x80 | BINARY, FILLER[:5000])
                self._send(link, link.rest or whole[: self.rng.randrange(1, len(whole))])
            link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
            self._over(link)
            return
        self._send_rest(link)
        link.since = time.monotonic()
        link.state = LEAVING
        if link.kind in NUMBERED and how != "asked":
            self._send(link, masked(0x80 | TEXT, b"bye"))
        self._go_on_leaving(link)

    def _go_on_leaving(self, link: Link) -> None:
        """Say goodbye once nothing is outstanding any more."""
        if link.expected or (link.kind in NUMBERED and link.ending != "asked" and link.last is None):
            return
        link.state = CLOSING
        link.since = time.monotonic()
        if link.ending == "asked":
            self._send(link, masked(0x80 | TEXT, b"close"))
        elif link.ending == "fin":
            link.sock.shutdown(socket.SHUT_WR)
        else:
            self._send(link, masked(0x80 | CLOSE, struct.pack("!H", 1000)))

    def _over(self, link: Link, why: str = "") -> None:
        if link.state == OVER:
            return
        if why:
            self.wrong(link, why)
        self.ends[link.ending or "unasked"] += 1
        link.state = OVER
        del self.links[link.fd]
        link.sock.close()
        link.deflater = link.inflater = None

    def close(self) -> None:
        """Drop all that are left."""
        for link in self.alive():
            link.sock.close()
        self.links.clear()
        self.epoll.close()

    def wrong(self, link: Link, why: str) -> None:
        self.wrongs[why.partition(":")[0]] += 1
        if len(self.told) < TOLD:
            self.told.append(f"{link.kind} {link.serial}, ending {link.ending or 'not'}: {why}")

    # --- out ---

    def _message(self, link: Link) -> bytes:
        """Return frames of one message, and expect it back."""
        rng = self.rng
        dice = rng.random()
        size = rng.randrange(240) if dice < 0.8 else rng.randrange(4000) if dice < 0.97 else rng.randrange(60_000)
        link.seq += 1
        at = rng.randrange(4000)
        payload = b"%08x %08x " % (link.serial, link.seq) + FILLER[at : at + size]
        opcode = TEXT if rng.random() < 0.5 else BINARY
        link.expected.append((opcode, payload, time.monotonic()))
        self.sent += 1
        rsv1 = 0
        if link.deflater is not None and rng.random() < 0.8:
            payload = (link.deflater.compress(payload) + link.deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
            rsv1 = 0x40
        if rng.random() > 0.05 or len(payload) < 3:
            return masked(0x80 | rsv1 | opcode, payload)
        self.pings += 1
        one, two = sorted((rng.randrange(len(payload)), rng.randrange(len(payload))))
        return b"".join(
            (
                masked(rsv1 | opcode, payload[:one]),
                masked(CONT, payload[one:two]),
                masked(0x80 | PING, b"between"),
                masked(0x80 | CONT, payload[two:]),
            )
        )

    def _act(self, link: Link) -> None:
        """What a link does when its time has come."""
        if link.state != OPEN:
            return
        wait = self.rng.expovariate(1 / self.every)
        if link.rest:
            self._send_rest(link)
        elif link.kind in ECHOING:
            several = self.rng.randrange(2, 5) if self.rng.random() < 0.1 else 1
            data = b"".join(self._message(link) for _ in range(several))
            if self.rng.random() < 0.1:
                # Half of a frame, and the other half later: the server has to keep it.
                cut = self.rng.randrange(1, len(data))
                data, link.rest = data[:cut], data[cut:]
                wait = self.rng.uniform(0.5, 3.0)
            self._send(link, data)
        else:
            self.pings += 1
            self._send(link, masked(0x80 | PING, b"here"))
        if link.state == OPEN:
            heapq.heappush(self.due, (time.monotonic() + wait, link.serial, link))

    def _send_rest(self, link: Link) -> None:
        """Send the other half of what was cut, if it was; a reply is awaited from now on."""
        if link.rest:
            rest, link.rest = link.rest, b""
            now = time.monotonic()
            link.expected = collections.deque((opcode, payload, now) for opcode, payload, _ in link.expected)
            self._send(link, rest)

    def _send(self, link: Link, data: bytes) -> None:
        if link.out or link.state == OVER:
            link.out += data
            return
        try:
            n = link.sock.send(data)
        except BlockingIOError:
            n = 0
        except OSError as exc:
            self._over(link, f"cannot send: {exc.strerror}")
            return
        if n < len(data):
            link.out += data[n:]
            self.epoll.modify(link.fd, select.EPOLLIN | select.EPOLLOUT)

    # --- in ---

    def turn(self, until: float) -> None:
        """Do what is to be done, up to a time of the monotonic clock."""
        while True:
            now = time.monotonic()
            while self.due and self.due[0][0] <= now:
                self._act(heapq.heappop(self.due)[2])
            wake = min(until, self.due[0][0]) if self.due else until
            for fd, events in self.epoll.poll(max(0.0, wake - time.monotonic()), 512):
                link = self.links.get(fd)
                if link is not None:
                    self._ready(link, events)
            if time.monotonic() >= until:
                return

    def _ready(self, link: Link, events: int) -> None:
        try:
            if link.state == CONNECTING:
                self._request(link)
                return
            if events & select.EPOLLOUT and link.out:
                n = link.sock.send(link.out)
                del link.out[:n]
                if not link.out:
                    self.epoll.modify(link.fd, select.EPOLLIN)
            if events & ~select.EPOLLOUT:
                self._receive(link)
        except BlockingIOError:
            pass
        except OSError as exc:
            self._over(link, f"cannot go on: {exc.strerror}")
        except Wrong as exc:
            self._over(link, str(exc))

    def _request(self, link: Link) -> None:
        error = link.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        link.key = base64.b64encode(os.urandom(16))
        offer = f"Sec-WebSocket-Extensions: {DEFLATE}\r\n" if link.kind == "compressed" else ""
        head = (
            f"GET /{link.kind}/{link.serial} HTTP/1.1\r\nHost: soak\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {link.key.decode()}\r\n{offer}\r\n"
        )
        link.state = UPGRADING
        link.sock.send(head.encode())
        self.epoll.modify(link.fd, select.EPOLLIN)

    def _receive(self, link: Link) -> None:
        data = link.sock.recv(RECEIVE_BYTES)
        if not data:
            self._eof(link)
            return
        link.unread += data
        if link.state == UPGRADING and not self._upgraded(link):
            return
        while link.state != OVER and self._frame(link):
            pass

    def _eof(self, link: Link) -> None:
        if link.state != CLOSING:
            lost = f", {len(link.expected)} messages short" if link.expected else ""
            raise Wrong(f"end: unasked{lost}")
        self._over(link)

    def _upgraded(self, link: Link) -> bool:
        end = link.unread.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(link.unread[:end])
        del link.unread[: end + 4]
        accept = base64.b64encode(hashlib.sha1(link.key + GUID).digest())
        if not head.startswith(b"HTTP/1.1 101 ") or b"Sec-WebSocket-Accept: " + accept not in head:
            raise Wrong(f"not upgraded: {head[:80]!r}")
        if link.kind == "compressed" and (
            b"permessage-deflate" not in head or b"no_context_takeover" in head
        ):
            raise Wrong(f"not compressed: {head!r}")
        link.state = OPEN
        if link.ending:
            self._leave(link)
        else:
            heapq.heappush(self.due, (time.monotonic() + self.rng.uniform(0, 2 * self.every), link.serial, link))
        return link.state != OVER

    def _frame(self, link: Link) -> bool:
        """Take one frame of what has come; False: there is no whole one."""
        unread = link.unread
        if len(unread) < 2:
            return False
        first, n = unread[0], unread[1]
        at = 2
        if n == 126:
            if len(unread) < 4:
                return False
            (n,) = struct.unpack_from("!H", unread, 2)
            at = 4
        elif n == 127:
            if len(unread) < 10:
                return False
            (n,) = struct.unpack_from("!Q", unread, 2)
            at = 10
        if len(unread) < at + n:
            return False
        payload = bytes(unread[at : at + n])
        del unread[: at + n]
        opcode = first & 0x0F
        if opcode in (TEXT, BINARY) and first & 0x80:
            if first & 0x40:
                if link.inflater is None:
                    raise Wrong("compressed: nobody asked for that")
                payload = link.inflater.decompress(payload + TAIL)
            self._message_came(link, opcode, payload)
        elif opcode == PING:
            pong = masked(0x80 | PONG, payload)
            if link.rest:
                # In the middle of a frame there is no room for another.
                link.rest += pong
            elif link.state != CLOSING or link.ending == "asked":
                # Not behind our close frame, and not behind FIN.
                self._send(link, pong)
        elif opcode == PONG:
            self.pongs += 1
        elif opcode == CLOSE:
            self._closed(link, payload)
        else:
            raise Wrong(f"frame: {first:#x}")
        return True

    def _message_came(self, link: Link, opcode: int, payload: bytes) -> None:
        if link.kind in NUMBERED:
            self._number_came(link, payload)
            return
        if not link.expected:
            raise Wrong(f"message: nobody sent {payload[:40]!r}")
        wanted, content, sent = link.expected.popleft()
        if (wanted, content) != (opcode, payload):
            raise Wrong(f"message: {payload[:40]!r} of {len(payload)}, not {content[:40]!r} of {len(content)}")
        self.received += 1
        self.round_trips.append(time.monotonic() - sent)
        if link.state == LEAVING:
            self._go_on_leaving(link)

    def _number_came(self, link: Link, payload: bytes) -> None:
        if payload.startswith(b"last "):
            link.last = int(payload[5:])
            # Who came after the last broadcast has seen none.
            if link.state != LEAVING or (link.number and link.last != link.number):
                raise Wrong(f"number: the last was {link.last}, {link.number} has come")
            self._go_on_leaving(link)
            return
        crc, _, text = payload.partition(b" ")
        number = int(text[:12])
        if int(crc, 16) != zlib.crc32(text) or (link.number and number != link.number + 1) or link.last is not None:
            raise Wrong(f"number: {payload[:40]!r} behind {link.number}")
        link.number = number
        self.numbered += 1

    def _closed(self, link: Link, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if payload else None
        wanted = {"close": 1000, "asked": 4000, "fin": None}.get(link.ending, "none at all")
        # Who ended with FIN may be told anything, or nothing.
        if link.state != CLOSING or (link.ending != "fin" and code != wanted):
            raise Wrong(f"close: {code}, {payload[2:]!r}")
        if link.ending == "asked":
            self._send(link, masked(0x80 | CLOSE, payload))

    def look(self) -> None:
        """Find who waits for too long, and tell of it; he is ended."""
        now = time.monotonic()
        for link in self.alive():
            since = link.expected[0][2] if link.expected and not link.rest else link.since
            waiting = link.state not in (OPEN, OVER) or (link.expected and not link.rest)
            if waiting and now - since > PATIENCE_S:
                self._over(link, f"stuck: for {now - since:.0f} s, in state {link.state}")
