"""Found by reviewers under an event loop and in the parent of workers, each with a test that fails without its mend."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import raw
from library.aio.both import LOOPS, client, port_of, run
from library.programs import PRELUDE, Program

from unlimitedws import aio

each_loop = pytest.mark.parametrize("loop", LOOPS)


async def wait_for_end(connection: aio.ServerConnection) -> None:
    await connection.wait_closed()


def dial(server: aio.Server) -> socket.socket:
    """A client that has sent its request, and never answers anything."""
    sock = socket.create_connection(("127.0.0.1", port_of(server)))
    sock.sendall(raw.request())
    return sock


@each_loop
def test_deadline_that_is_set_while_the_watchdog_sleeps_is_kept(loop: str) -> None:
    async def main() -> None:
        arrived: asyncio.Queue[aio.ServerConnection] = asyncio.Queue()

        async def handler(connection: aio.ServerConnection) -> None:
            arrived.put_nowait(connection)
            await connection.wait_closed()

        # Without pings there is no other timer: who misses this one sleeps for ever.
        async with aio.serve(handler, "127.0.0.1", 0, close_timeout=0.1, ping_interval=None) as server:
            for _ in range(8):
                with dial(server):
                    connection = await arrived.get()
                    # The watchdog goes to sleep after some 50 ticks without anything to do.
                    await asyncio.sleep(0.15)
                    await connection.close()
                    assert connection.close_code == 1006

    run(loop, main())


@each_loop
def test_server_that_was_told_to_close_is_closed_when_its_loop_ends(loop: str) -> None:
    servers: list[aio.Server] = []
    silent: list[socket.socket] = []

    async def main() -> None:
        server = await aio.serve(wait_for_end, "127.0.0.1", 0, close_timeout=0.1)
        servers.append(server)
        silent.append(dial(server))
        while not server.connections:
            await asyncio.sleep(0.01)
        server.close()
        # It has begun, and nobody waits for its end.
        await asyncio.sleep(0.01)

    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    run(loop, main())
    for sock in silent:
        sock.close()
    (server,) = servers
    assert server._run is not None and server._run.ended.is_set()
    assert server.sockets == ()
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


@pytest.mark.parametrize(
    ("code", "reason", "kind"), [(1005, "", ValueError), (1001, "x" * 124, ValueError), ("1001", "", TypeError)]
)
def test_server_refuses_to_close_with_what_no_frame_can_say_and_serves_on(
    code: int, reason: str, kind: type[Exception]
) -> None:
    async def main() -> None:
        async def echo(connection: aio.ServerConnection) -> None:
            async for message in connection:
                await connection.send(message)

        async with aio.serve(echo, "127.0.0.1", 0) as server, client(server) as peer:
            with pytest.raises(kind):
                server.close(code=code, reason=reason)
            assert server.is_serving()
            await peer.send("still")
            assert await peer.recv() == "still"
            server.close(code=4001, reason="now")
            await server.wait_closed()
            await peer.wait_closed()
            assert (peer.close_code, peer.close_reason) == (4001, "now")

    run("asyncio", main())


@each_loop
@pytest.mark.parametrize("how", ["drain", "stop"])
def test_handler_that_ends_the_server_underneath_does_not_wait_for_itself(loop: str, how: str) -> None:
    returned: list[str] = []

    async def main() -> None:
        async def handler(connection: aio.ServerConnection) -> None:
            # What waits here holds up the event loop that is to do it, and in the end raises TimeoutError.
            if how == "drain":
                server.server.drain(over=0, code=4001)
            else:
                server.server.stop()
            returned.append(how)
            await connection.wait_closed()

        server = await aio.serve(handler, "127.0.0.1", 0, close_timeout=1)
        async with client(server) as peer:
            await peer.wait_closed()
            assert peer.close_code == (4001 if how == "drain" else 1001)
        await server.wait_closed()

    run(loop, main())
    assert returned == [how]


WORKERS = """
import sys, threading
import unlimitedws

server = unlimitedws.NewServer("127.0.0.1:0", workers=2, close_timeout=0.2)

def drain_again_and_again():
    sys.stdin.readline()
    # More than a pipe takes.
    for _ in range(8000):
        server.drain(over=0, wait=False)

def ready():
    threading.Thread(target=drain_again_and_again, daemon=True).start()
    print("ready", flush=True)

server.run(ready=ready)
print("returned", flush=True)
"""


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def parent() -> Iterator[tuple[Program, int]]:
    """The parent of two workers, and the process of the one that hangs."""
    program = Program("-c", PRELUDE + WORKERS)
    try:
        assert program.line() == "ready"
        hangs = children(program.process.pid)[0]
        os.kill(hangs, signal.SIGSTOP)
        yield program, hangs
    finally:
        program.kill()


def test_parent_of_workers_lives_through_a_storm_of_signals(parent: tuple[Program, int]) -> None:
    program, hangs = parent
    # The one that hangs keeps the parent there; 256 times more urgent than nothing was more than it could count to.
    for _ in range(600):
        program.signal(signal.SIGTERM)
        time.sleep(0.0005)
    os.kill(hangs, signal.SIGCONT)
    assert program.end() == (0, "returned\n", "")


def test_worker_that_reads_nothing_does_not_keep_the_parent_from_killing_it(parent: tuple[Program, int]) -> None:
    program, hangs = parent
    program.say()
    status, out, err = program.end()
    assert (status, out) == (0, "returned\n"), err
    assert f"(process {hangs}) does not end: killing it" in err
