"""The server of bench/soak.py: every way of serving in one process, each on a port of its own.

    python soak.py SECONDS

Prints the ports as a line of JSON, by kind. `wsutil`, `on_message`, `compressed` and `aio` echo; `thread` and
`broadcast` send a numbered message to everybody once in SECONDS, from a thread of the application and from the event
loop. A line of its stdin is answered with figures as JSON, the line "at rest" with what is counted when nobody is
there; at the end of them it stops.

Orders that clients give, as a message: "close": close me. "bye", where messages are numbered: leave me out from now on,
and tell the last number that I was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import sys
import threading
import zlib
from typing import Any

import unlimitedws
from unlimitedws import Compression, ConnectionClosed, wsutil
from unlimitedws.aio import ServerConnection, broadcast, serve

PERIOD_S = float(sys.argv[1])
CLOSE_CODE = 4000
FILLING = "0123456789abcdef" * 100
# A context of its own for each connection, as small as zlib's can be made: kept and given back with it.
CONTEXTS = Compression(
    server_context_takeover=True,
    client_context_takeover=True,
    server_max_window_bits=10,
    client_max_window_bits=10,
    mem_level=1,
    threshold=64,
)

# Where an hour of this runs others run as well: clients that are kept waiting for a core are not gone.
PATIENT: dict[str, Any] = dict.fromkeys(("ping_timeout", "send_timeout", "close_timeout", "handshake_timeout"), 60.0)

go = unlimitedws.DefaultServer("127.0.0.1:0", **PATIENT)
inline = unlimitedws.NewServer("127.0.0.1:0", **PATIENT)
compressed = unlimitedws.NewServer("127.0.0.1:0", compression=CONTEXTS, **PATIENT)
# The sender holds a lock that callbacks want: it must never wait for a reader.
fan_out = unlimitedws.NewServer("127.0.0.1:0", overflow="close", **PATIENT)


def numbered(number: int) -> str:
    text = f"{number:012d} {FILLING[: number * 97 % 1500]}"
    return f"{zlib.crc32(text.encode()):08x} {text}"


@go.on_read
def read(conn: Any) -> None:
    message, opcode = wsutil.read_client_data(conn)
    if message == b"close":
        conn.close(CLOSE_CODE, "as you wish")
        return
    # Whoever was reset has no use for it.
    with contextlib.suppress(ConnectionClosed):
        wsutil.write_server_message(conn, opcode, message)


@inline.on_message
@compressed.on_message
def echo(conn: Any, message: str | bytes) -> None:
    if message == "close":
        conn.close(CLOSE_CODE, "as you wish")
        return
    with contextlib.suppress(ConnectionClosed):
        conn.send(message)


class FanOut(threading.Thread):
    """Sends to everybody, from outside of the library's threads."""

    def __init__(self) -> None:
        super().__init__(name="fan-out")
        self.lock = threading.Lock()
        self.group: set[Any] = set()
        self.number = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(PERIOD_S):
            with self.lock:
                self.number += 1
                message = numbered(self.number)
                for conn in self.group:
                    with contextlib.suppress(ConnectionClosed):
                        conn.send(message)


fanning = FanOut()


@fan_out.on_connect
def join(conn: Any) -> None:
    with fanning.lock:
        fanning.group.add(conn)


@fan_out.on_close
def leave(conn: Any) -> None:
    with fanning.lock:
        fanning.group.discard(conn)


@fan_out.on_message
def obey(conn: Any, message: str | bytes) -> None:
    if message == "close":
        conn.close(CLOSE_CODE, "as you wish")
        return
    assert message == "bye", message
    with fanning.lock:
        fanning.group.discard(conn)
        last = fanning.number
    with contextlib.suppress(ConnectionClosed):
        conn.send(f"last {last}")


# --- asyncio ---


async def echo_aio(connection: ServerConnection) -> None:
    async for message in connection:
        if message == "close":
            await connection.close(CLOSE_CODE, "as you wish")
            return
        with contextlib.suppress(ConnectionClosed):
            await connection.send(message)


class Room:
    """Those who are sent what `broadcast` sends."""

    def __init__(self) -> None:
        self.group: set[ServerConnection] = set()
        self.number = 0

    async def talk(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            self.number += 1
            broadcast(self.group, numbered(self.number))

    async def handle(self, connection: ServerConnection) -> None:
        self.group.add(connection)
        try:
            async for message in connection:
                if message == "close":
                    await connection.close(CLOSE_CODE, "as you wish")
                    return
                assert message == "bye", message
                self.group.discard(connection)
                with contextlib.suppress(ConnectionClosed):
                    await connection.send(f"last {self.number}")
        finally:
            self.group.discard(connection)


def figures(servers: list[Any]) -> dict[str, int]:
    """What the engine counts of all servers together."""
    names = ("connections", "descriptors", "timers", "targets", "slab_used_bytes", "slab_held_bytes", "slab_blocks")
    counted = [server.counters() for server in servers]
    resident = sum(server.memory().slab_bytes for server in servers)
    return {**{name: sum(one[name] for one in counted) for name in names}, "slab_resident_bytes": resident}


class Mallinfo2(ctypes.Structure):
    """See mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


# Not of every C library; glibc has it since 2.33.
mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
if mallinfo2 is not None:
    mallinfo2.restype = Mallinfo2


def at_rest() -> dict[str, int]:
    """What the interpreter and the C library have handed out.

    The latter counts in what its threads have at hand for their next use, unless it is told to have nothing at hand
    (glibc.malloc.tcache_count). 0: it does not say.
    """
    gc.collect()
    return {
        "threads": threading.active_count(),
        "blocks": sys.getallocatedblocks(),
        "malloc_bytes": 0 if mallinfo2 is None else mallinfo2().uordblks,
    }


async def main() -> None:
    room = Room()
    async with (
        serve(echo_aio, "127.0.0.1", 0, **PATIENT) as echoing,
        serve(room.handle, "127.0.0.1", 0, **PATIENT) as talking,
    ):
        talk = asyncio.create_task(room.talk())
        with go, inline, compressed, fan_out:
            fanning.start()
            kinds = {
                "wsutil": go,
                "on_message": inline,
                "compressed": compressed,
                "thread": fan_out,
                "aio": echoing.server,
                "broadcast": talking.server,
            }
            print(json.dumps({kind: server.local_addr.port for kind, server in kinds.items()}), flush=True)
            loop = asyncio.get_running_loop()
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                told = at_rest() if line == "at rest\n" else figures(list(kinds.values()))
                print(json.dumps(told), flush=True)
            fanning.over.set()
            fanning.join()
        talk.cancel()


asyncio.run(main())
