"""What clients do while something fails: each play touches another part of the engine. For failing_calls.py."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

import raw
from raw import PING, TEXT
from worlds import LARGE, PATIENCE_S, PeerOver, Trial, World, Wrong, framed, request

from unlimitedws import loadgen

Play = Callable[[Trial], None]

LEFT = "close 1000"


def hello(t: Trial) -> None:
    p = t.guest()
    p.ask(b"e", b"hello", text=True)
    p.ask(b"e", b"\0\xff")
    t.expect(p.leave(), LEFT)


def pieces(t: Trial) -> None:
    """A request that comes in pieces, with a path to keep, and the first message behind it."""
    p = t.peer()
    opening = p.opening()
    message = p.payload(b"e", b"early")
    done = 0
    for cut in (7, 60, len(opening) - 1):
        p.put(opening[done:cut])
        t.read_by_server(cut)
        done = cut
    p.put(opening[done:] + p.frame(message))
    p.admitted()
    p.hear(message)
    t.expect(p.leave(), LEFT)


def pipelined(t: Trial) -> None:
    p = t.guest()
    said = [p.payload(b"e", b"%d" % i * i) for i in range(12)]
    p.put(b"".join(p.frame(message) for message in said))
    p.hear(*said)
    t.expect(p.leave(), LEFT)


def large(t: Trial) -> None:
    """More than the kernel takes, to a client that does not read at first."""
    p = t.guest(rcvbuf=16384)
    number = b"l%02d:" % p.number
    p.say(b"l")
    p.put(p.frame(p.payload(b"e", b"behind it")))
    t.grown("messages_out", 3)
    p.hear(*(number + b"x" * size for size in LARGE), p.payload(b"e", b"behind it"))
    t.expect(p.leave(), LEFT)


def long_message(t: Trial) -> None:
    """A message that outgrows its buffer again and again."""
    p = t.guest()
    for text in (False, True):
        said = p.say(b"n", b"longer and longer" * 15_000, text)
        p.hear(said if t.server.world.blank else p.payload(b"n", b"%d" % len(said)))
    t.expect(p.leave(), LEFT)


def fragments(t: Trial) -> None:
    """Cut wherever it hurts: in a header, in a payload, in a ping between two fragments."""
    p = t.guest()
    message = p.payload(b"e", b"a" * 300 + b"b" * 300 + b"c" * 70)
    wire = (
        p.frame(message[:304], text=True, fin=False)
        + framed(PING, b"in between", True, 0)
        + p.frame(message[304:604], cont=True, fin=False)
        + p.frame(message[604:], cont=True)
    )
    before = t.server.loop.counters()["bytes_in"] - t.before["bytes_in"]
    done = 0
    for cut in (1, 5, 100, 309, 315, 330, 337, 500, len(wire)):
        p.put(wire[done:cut])
        t.read_by_server(before + cut)
        done = cut
    p.hear(message)
    p.hear_pong(b"in between")
    t.expect(p.leave(), LEFT)


def pings(t: Trial) -> None:
    p = t.guest()
    p.put(framed(PING, b"one", True, 0) + framed(PING, b"", True, 0) + framed(PING, b"z" * 125, True, 0))
    for payload in (b"one", b"", b"z" * 125):
        p.hear_pong(payload)
    p.put(framed(raw.PONG, b"unasked", True, 0))
    p.ask(b"p", b"ping me")
    t.expect(p.leave(), LEFT)


def server_closes(t: Trial) -> None:
    p = t.guest()
    p.ask(b"e", b"first")
    p.say(b"c")
    t.expect(p.until_over(), "close 4001")


def server_aborts(t: Trial) -> None:
    p = t.guest()
    p.say(b"a")
    t.expect(p.until_over(), "reset", "eof")


def client_leaves(t: Trial) -> None:
    """FIN without a word, RST, and FIN in the middle of a message."""
    for how in ("fin", "rst", "cut"):
        p = t.guest()
        p.ask(b"e", b"before")
        if how == "rst":
            p.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            p.sock.close()
            p.over = "reset"
            continue
        if how == "cut":
            p.put(p.frame(p.payload(b"e", b"never whole"))[:9])
        try:
            p.sock.shutdown(socket.SHUT_WR)
        except OSError:
            p.until_over()
            continue
        t.expect(p.until_over(), "eof")


def broadcast(t: Trial) -> None:
    peers = [t.guest() for _ in range(4)]
    for p in peers:
        p.ask(b"e", b"here")
    # Who says it hears it last.
    message = peers[0].say(b"b", b"to all of you")
    peers[0].hear(message)
    for p in peers[1:]:
        p.hear_to(p.say(b"e", b"and?"))
        if t.harmless and message not in p.heard:
            raise Wrong(f"client {p.number} was not told")
    for p in peers:
        t.expect(p.leave(), LEFT)


def together(t: Trial) -> None:
    """Many at once: a batch of newcomers, and of messages of different connections in a turn."""
    peers = [t.peer() for _ in range(6)]
    for p in peers:
        p.put(p.opening())
    for p in peers:
        p.admitted()
    said = [[p.payload(b"e", b"%d" % i) for i in range(3)] for p in peers]
    for p, messages in zip(peers, said, strict=True):
        p.put(b"".join(p.frame(message) for message in messages))
    for p, messages in zip(peers, said, strict=True):
        p.hear(*messages)
    for p in peers:
        t.expect(p.leave(), LEFT)


def paused(t: Trial) -> None:
    """The application does not read on; its client says more and goes, in good order or not."""
    for how in ("close", "fin", "rst"):
        p = t.guest()
        p.ask(b"h", b"wait")
        said = [p.payload(b"e", b"%d" % i) for i in range(3)]
        p.put(b"".join(p.frame(message) for message in said))
        if how == "close":
            record = t.record(p)
            if record is not None:
                record.conn.resume()
            p.hear(*said)
            t.expect(p.leave(), LEFT)
            continue
        if how == "rst":
            p.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            p.sock.close()
            p.over = "reset"
        else:
            p.sock.shutdown(socket.SHUT_WR)
        record = t.record(p)
        if record is not None:
            record.conn.resume()
        p.until_over()


def blocked(t: Trial) -> None:
    """A callback waits: others are served meanwhile, and what comes for it lines up."""
    busy, other = t.guest(), t.guest()
    other.ask(b"e", b"before")
    first = busy.say(b"w", b"for the gate")
    if not t.server.waiting.acquire(timeout=PATIENCE_S if t.harmless else 1.0):
        raise PeerOver("its callback was not called")
    said = [busy.payload(b"e", b"%d" % i * 100) for i in range(9)]
    sent = t.server.loop.counters()["bytes_in"] - t.before["bytes_in"]
    wire = b"".join(busy.frame(message) for message in said)
    busy.put(wire)
    busy.put(framed(PING, b"alive?", True, 0))
    t.read_by_server(sent + len(wire))
    also = other.say(b"e", b"meanwhile")
    others_run = t.server.world.settings.get("runners", 1) > 1
    if others_run:
        other.hear(also)
    t.server.gate.set()
    busy.hear(first, *said)
    busy.hear_pong(b"alive?")
    if not others_run:
        other.hear(also)
    t.expect(other.leave(), LEFT)
    t.expect(busy.leave(), LEFT)


def blocked_and_gone(t: Trial) -> None:
    """The same, and the client goes: what it said is delivered before its end is told."""
    p = t.guest()
    p.say(b"w", b"for the gate")
    if not t.server.waiting.acquire(timeout=PATIENCE_S if t.harmless else 1.0):
        raise PeerOver("its callback was not called")
    sent = t.server.loop.counters()["bytes_in"] - t.before["bytes_in"]
    wire = b"".join(p.frame(p.payload(b"e", b"%d" % i)) for i in range(8))
    p.put(wire)
    t.read_by_server(sent + len(wire))
    p.put(p.frame(p.payload(b"e", b"unread")))
    p.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    p.sock.close()
    p.over = "reset"
    t.server.gate.set()


def guest_elsewhere(t: Trial) -> None:
    """The guest's event loop computes: the watchdog sees that somebody has spoken, and reads in its place."""
    p = t.guest()
    p.ask(b"e", b"before")
    t.server.elsewhere = True
    counters = t.server.loop.counters
    # The guest may have been late just before: then the watchdog has the role already.
    for _ in range(10):
        t.server.gate.clear()
        before = counters()
        message = p.say(b"e", b"is anybody there?")
        deadline = time.monotonic() + (PATIENCE_S if t.harmless else 1.0)
        while counters()["bytes_in"] == before["bytes_in"]:
            if time.monotonic() > deadline:
                raise PeerOver("nobody read in the guest's place")
            time.sleep(0.001)
        t.server.gate.set()
        p.hear(message)
        if counters()["takeovers"] > before["takeovers"]:
            break
    t.expect(p.leave(), LEFT)


def refused(t: Trial) -> None:
    """What is no upgrade gets its answer."""
    wrong = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n"
    page = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    other = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    found = b"HTTP/1.1 200 " if t.server.world.asks else b"HTTP/1.1 426 "
    for data, answer in ((wrong, b"HTTP/1.1 400 "), (page, b"HTTP/1.1 200 "), (other, found)):
        p = t.peer()
        opening = p.opening()
        p.put(opening[: opening.index(b"GET ")] + data)
        got = p.response()
        if not got.startswith((answer, b"HTTP/1.1 5")):
            raise Wrong(f"{got[:40]!r}")
        try:
            while True:
                p._more()
        except PeerOver:
            t.expect(p.over, "eof")


def breaks_rules(t: Trial) -> None:
    for data, code in (
        (raw.frame(TEXT, b"e00:", mask=False), 1002),
        (framed(TEXT, b"e00:\xff", True, 0), 1007),
        (raw.frame(TEXT, b"", length=1 << 40, length_form=64), 1009),
    ):
        p = t.guest()
        p.put(data)
        t.expect(p.until_over(), f"close {code}")


def facts(t: Trial) -> None:
    p = t.guest()
    p.ask(b"f", b"who am I")
    t.expect(p.leave(), LEFT)


def subprotocols(t: Trial) -> None:
    p = t.peer()
    prefix = p.opening()[: p.opening().index(b"GET ")]
    p.shake(prefix + request("/later" if t.server.world.asks else "/b", (("Sec-WebSocket-Protocol", "x, chat"),)))
    p.ask(b"f", b"what have we agreed on")
    t.expect(p.leave(), LEFT)


def dead_air(t: Trial) -> None:
    """The server looks after those who are silent: a ping, and its answer."""
    p = t.guest()
    p.ask(b"e", b"once")
    before = t.server.loop.counters()["pings_out"]
    deadline = time.monotonic() + (PATIENCE_S if t.harmless else 1.0)
    while t.server.loop.counters()["pings_out"] == before:
        if time.monotonic() > deadline:
            # It is over; or there is no memory for a ping, and it is tried again at each tick.
            raise PeerOver("it was not pinged")
        time.sleep(0.001)
    p.ask(b"e", b"again")
    t.expect(p.leave(), LEFT)


def loads(t: Trial) -> None:
    """The engine as a client. It may count errors, and may not hang."""
    times = {f"{what}_timeout": 0.3 for what in ("connect", "handshake", "reply", "close")}
    try:
        result = loadgen.run(f"ws://127.0.0.1:{t.server.port}/", connections=3, duration=0.02, warmup=0.0, **times)
    except (loadgen.LoadError, OSError, MemoryError) as exc:
        if t.harmless:
            raise Wrong(f"the load: {exc!r}") from exc
        return
    if t.harmless and result.errors:
        raise Wrong(f"errors of a load to which nothing happened: {result.errors}")


EVERYWHERE: tuple[Play, ...] = (
    hello,
    pieces,
    pipelined,
    large,
    long_message,
    fragments,
    pings,
    server_closes,
    server_aborts,
    client_leaves,
    broadcast,
    together,
    paused,
    blocked,
    blocked_and_gone,
    refused,
    breaks_rules,
    facts,
    subprotocols,
)
BLANK: tuple[Play, ...] = (hello, pieces, pipelined, long_message, fragments, together)


def plays_of(world: World) -> tuple[Play, ...]:
    """What is played in a world."""
    if world.loads:
        return (loads,)
    if world.blank:
        return BLANK
    if world.settings.get("ping_interval_ms"):
        return (hello, dead_air)
    return (*EVERYWHERE, guest_elsewhere) if world.guest else EVERYWHERE
