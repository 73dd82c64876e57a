"""A connection's whole life, cut by RST or FIN behind each of its bytes: from the TCP handshake to the close frames."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import raw
from live import STOP_TIMEOUT, Live, serve, wait_until
from live import echo as echo_read
from raw import BINARY, CONT, PING, TEXT, RawClient

from unlimitedws import CloseCause, ConnectionClosed, aio

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
REQUEST = raw.request(key=KEY)
# One byte, a message, one in fragments with a ping in between, one with the long form of its length, the end.
FRAMES = [
    raw.frame(TEXT, "a"),
    raw.frame(TEXT, "hello"),
    raw.frame(TEXT, "frag", fin=False),
    raw.frame(PING, b"are you there"),
    raw.frame(CONT, "ments"),
    raw.frame(BINARY, bytes(range(130))),
    raw.close_frame(1000, "bye"),
]
LIFE = REQUEST + b"".join(FRAMES)
# Behind which byte a connection is cut: none, and each of them.
CUTS = range(len(LIFE) + 1)
# What an opening leaves when it is cut is nobody's.
NOTHING = ("connections", "descriptors", "inbox_bytes", "buffered_bytes", "incomplete_bytes", "slab_used_bytes",
           "slab_blocks", "timers", "targets", "ready")  # fmt: skip


def echo_message(conn: Any, message: str | bytes) -> None:
    conn.send(message)


SERVERS: dict[str, dict[str, Any]] = {
    "on_read": {"on_read": echo_read},
    "on_read, pool": {"on_read": echo_read, "pool": (4, 64)},
    "on_message": {"on_message": echo_message},
    "on_message, private": {"on_message": echo_message, "private_fds": True},
}
ENDS: dict[str, Callable[[RawClient], None]] = {"RST": RawClient.reset, "FIN": RawClient.close}


def wait_nothing(live: Live) -> None:
    def left() -> dict[str, int]:
        counters = live.server.counters()
        return {name: counters[name] for name in NOTHING if counters[name]}

    try:
        wait_until(lambda: not left(), "that nobody is left")
    except AssertionError:
        raise AssertionError(f"left: {left()}") from None


def drained(source: queue.Queue[Any]) -> list[Any]:
    """All that has been put there; the server has stopped."""
    return [source.get() for _ in range(source.qsize())]


def meant(error: BaseException) -> bool:
    """What a callback may meet that answers a peer who has gone."""
    return isinstance(error, ConnectionClosed)


@pytest.mark.parametrize("taken", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("kind", SERVERS)
def test_on_close_comes_exactly_once_wherever_a_life_is_cut(
    kind: str, how: str, taken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """taken: whether the server has read all that was sent before the cut, or finds it and the end together."""
    caplog.set_level(logging.WARNING, "unlimitedws")
    with serve(**SERVERS[kind]) as live:
        # All lives side by side, each at its own moment.
        clients = [RawClient(live.port, handshake=False) for _ in CUTS]
        for client, cut in zip(clients, CUTS, strict=True):
            if cut:
                client.send(LIFE[:cut])
        if taken:
            # Of a life that ends in time the close frame is the last thing that is read.
            wait_until(lambda: live.server.counters()["bytes_in"] == sum(CUTS), "all that was sent")
        for client in clients:
            ENDS[how](client)
        wait_nothing(live)
        counters = live.server.counters()
    opened = Counter(drained(live.opened))
    ended = Counter(one.conn for one in drained(live.ended))
    whole = sum(cut >= len(REQUEST) for cut in CUTS)
    # Whoever was let in was told of, once; and of no other. RST may throw away a request that was never read.
    assert counters["answered_101"] == len(opened)
    assert len(opened) == whole if taken or how == "FIN" else len(opened) <= whole
    assert set(opened.values()) | set(ended.values()) <= {1}
    assert set(opened) == set(ended)
    assert counters["closed"] == len(opened)
    errors = [error for _, error in drained(live.errors)]
    assert all(map(meant, errors)), errors
    # That callbacks meet it is no fault of theirs: it is worth a word for who debugs, and for nobody else.
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@pytest.mark.parametrize("how", ENDS)
def test_handler_of_asyncio_ends_wherever_a_life_is_cut(how: str, caplog: pytest.LogCaptureFixture) -> None:
    begun: list[int] = []
    over: list[int] = []

    async def handler(connection: aio.ServerConnection) -> None:
        begun.append(id(connection))
        try:
            async for message in connection:
                await connection.send(message)
        except aio.ConnectionClosed:
            # Its answer met a peer that was gone, or its reading did.
            pass
        finally:
            over.append(id(connection))

    with serving_asyncio(handler) as port:
        clients = [RawClient(port, handshake=False) for _ in CUTS]
        for client, cut in zip(clients, CUTS, strict=True):
            if cut:
                client.send(LIFE[:cut])
        whole = sum(cut >= len(REQUEST) for cut in CUTS)
        wait_until(lambda: len(begun) == whole, "all whose request is whole")
        for client in clients:
            ENDS[how](client)
        wait_until(lambda: len(over) == whole, "all handlers to end")
    assert len(begun) == len(over) == whole
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@contextmanager
def serving_asyncio(handler: Any) -> Iterator[int]:
    """Run a server of `unlimitedws.aio` on an event loop in a thread of its own; yields its port."""
    ports: queue.Queue[int] = queue.Queue()
    told: list[dict[str, Any]] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def main() -> None:
        loop.set_exception_handler(lambda _, context: told.append(context))
        async with aio.serve(handler, "127.0.0.1", 0) as server:
            ports.put(next(iter(server.sockets)).getsockname()[1])
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    try:
        yield ports.get(timeout=raw.TIMEOUT)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(STOP_TIMEOUT)
        assert not thread.is_alive()
        loop.close()
    assert told == []


@pytest.mark.parametrize("private_fds", [False, True], ids=["shared", "private"])
@pytest.mark.parametrize("how", ENDS)
def test_end_behind_a_full_queue_gives_back_what_was_queued(how: str, private_fds: bool) -> None:
    """The peer has not read for long, and goes: with RST, or with FIN, which RST follows for what it has not read."""
    count, size = 20, 1 << 20
    with serve(private_fds=private_fds, overflow="drop-newest") as live:
        clients = [live.connect(rcvbuf=4096) for _ in range(count)]
        conns = [live.opened.get(timeout=raw.TIMEOUT) for _ in range(count)]
        for conn in conns:
            for _ in range(4):
                conn.send(bytes(size))
        wait_until(lambda: all(conn.buffered_amount >= size for conn in conns), "queues that are full")
        for client in clients:
            ENDS[how](client)
        wait_nothing(live)
    ended = drained(live.ended)
    assert Counter(one.conn for one in ended) == Counter(conns)
    assert {one.code for one in ended} == {1006}
    assert {one.conn.close_cause for one in ended} == {CloseCause.LOST}
    assert live.errors.empty()


@pytest.mark.parametrize("how", ENDS)
def test_end_while_our_close_frame_is_on_its_way(how: str) -> None:
    """conn.close() and the peer's end cross, behind each byte of its answer."""
    answer = raw.close_frame(1000)
    with serve(on_message=echo_message) as live:
        pairs = [(*live.connect_conn(), cut) for cut in range(len(answer) + 1)]
        for client, conn, cut in pairs:
            conn.close(1000)
            if cut:
                client.send(answer[:cut])
        for client, _, _ in pairs:
            ENDS[how](client)
        wait_nothing(live)
    ended = Counter(one.conn for one in drained(live.ended))
    assert ended == Counter(conn for _, conn, _ in pairs)
    assert live.errors.empty()
