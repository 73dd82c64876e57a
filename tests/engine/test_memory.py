"""server.memory(): every byte that a connection owns is somewhere in it, and together they are what the kernel says."""

from __future__ import annotations

import dataclasses
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import raw
from live import Live, ServerProcess, serve, wait, wait_until
from memory_agrees import assert_they_agree, growth, memory_of
from raw import BINARY, RawClient
from uws_shims.deliver_shim import Bare

import unlimitedws
from unlimitedws import Memory, NewServer

DEFLATE = [("Sec-WebSocket-Extensions", "permessage-deflate")]
# 64 KiB with many a kernel for ARM64.
PAGE = resource.getpagesize()


def engine(live: Live) -> dict[str, int]:
    """What the engine says of a server's only loop."""
    (loop,) = live.server._run.loops
    figures: dict[str, int] = loop.memory()
    return figures


PURPOSES = ("side_blocks", "send_queues", "inboxes", "partial_messages", "request_heads", "compression")


def purposes(live: Live) -> dict[str, int]:
    """What buffers are used for, of what anything is. Asserts that it is all that is used: to the byte."""
    figures = engine(live)
    used = {name: figures[name] for name in PURPOSES if figures[name] != 0}
    assert sum(used.values()) == figures["slab_used"]
    return used


def settled(live: Live, names: set[str]) -> dict[str, int]:
    """Wait until buffers are used for just this."""

    def is_so() -> bool:
        figures = engine(live)
        return {name for name in PURPOSES if figures[name]} == names and (
            sum(figures[name] for name in PURPOSES) == figures["slab_used"]
        )

    wait_until(is_so, f"buffers are used for {sorted(names)}")
    return purposes(live)


# ---- what connections own


def test_an_idle_connection_owns_nothing_but_its_slot() -> None:
    with serve(on_message=lambda conn, message: None) as live:
        live.connect_conn()
        assert settled(live, set()) == {}
        memory = live.server.memory()
        assert (memory.connections, memory.conns) == (1, engine(live)["conns"])
        assert memory.table_bytes > 0
        assert memory.extra_bytes == 0


def test_a_message_that_is_cut_is_counted_while_it_is_incomplete() -> None:
    with serve(on_message=lambda conn, message: None) as live:
        client, _ = live.connect_conn()
        whole = raw.frame(BINARY, bytes(3000))
        client.send(whole[:2000])
        # 192 bytes of state, and what has come in a block of its class.
        found = settled(live, {"partial_messages"})
        assert 192 + 2000 <= found["partial_messages"] <= 192 + 4096
        client.send(whole[2000:])
        settled(live, set())


def test_a_request_that_is_cut_is_counted_until_it_is_answered() -> None:
    with serve(on_message=lambda conn, message: None) as live:
        client = RawClient(live.port, handshake=False)
        request = raw.request()
        client.send(request[:-2])
        found = settled(live, {"side_blocks", "request_heads"})
        assert found["request_heads"] > len(request)
        client.send(request[-2:])
        assert client.recv_response().status == 101
        settled(live, set())
        client.close()


def test_what_waits_for_the_kernel_is_counted() -> None:
    with serve(on_message=lambda conn, message: None, max_buffered_bytes=1 << 24) as live:
        client, conn = live.connect_conn(rcvbuf=4096)
        # The kernel takes a few megabytes of it.
        while conn.buffered_amount < 1 << 20:
            conn.send(bytes(100_000))
        found = settled(live, {"side_blocks", "send_queues"})
        assert conn.buffered_amount <= found["send_queues"] <= 1.5 * conn.buffered_amount
        client.close()
        wait_until(lambda: live.server.memory().connections == 0, "the connection is over")
        assert settled(live, set()) == {}


def test_what_waits_for_its_callback_is_counted() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def block(conn: Any, message: Any) -> None:
        begun.set()
        wait(go_on)

    with serve(on_message=block, pool=(2, 8)) as live:
        client, _ = live.connect_conn()
        try:
            client.send_frame(BINARY, b"first")
            wait(begun)
            for _ in range(10):
                client.send_frame(BINARY, bytes(1000))
            # A message with a buffer of its own: it came in two pieces.
            whole = raw.frame(BINARY, bytes(200_000))
            client.send(whole[:100_000])
            client.send(whole[100_000:])
            wait_until(lambda: live.server.memory().inboxes_bytes >= 210_000, "all of it has come")
            memory = live.server.memory()
            # A buffer beyond the classes is whole pages, and there are two.
            assert memory.inboxes_bytes <= 310_000 + 2 * PAGE
            # The first one, where it was in an inbox before a thread took it.
            assert memory.delivering_bytes <= 128
        finally:
            go_on.set()
        settled(live, set())


def test_what_callbacks_gave_back_goes_back_though_nothing_happens_any_more() -> None:
    """The poller sleeps by then: it has to be told that there will be memory to give back."""
    begun, go_on = threading.Event(), threading.Event()

    def block(conn: Any, message: Any) -> None:
        begun.set()
        wait(go_on)

    with serve(on_message=block, pool=(2, 8), max_inbox_bytes=1 << 23) as live:
        client, _ = live.connect_conn()
        try:
            client.send_frame(BINARY, b"first")
            wait(begun)
            client.send(b"".join(raw.frame(BINARY, bytes(100_000)) for _ in range(20)))
            wait_until(lambda: live.server.memory().inboxes_bytes >= 2_000_000, "all of it has come")
            # The poller has looked whether there is something to give back, and sleeps without a deadline.
            time.sleep(1.5)
        finally:
            go_on.set()
        settled(live, set())
        wait_until(lambda: live.server.memory().slab_bytes < 100_000 + 24 * PAGE, "nobody's memory has gone back")


@pytest.mark.parametrize("takeover", [True, False], ids=["kept", "shared"])
def test_compression_is_counted_where_it_is(takeover: bool) -> None:
    options = unlimitedws.Compression(server_context_takeover=takeover, client_context_takeover=takeover)
    with serve(on_message=lambda conn, message: conn.send(message), compression=options) as live:
        client, conn = live.connect_conn(headers=DEFLATE)
        before = live.server.memory()
        conn.send("x" * 10_000)
        client.recv_frame()
        memory = live.server.memory()
        # zlib's deflater with a window of 32 KiB and the largest tables takes 262 KiB.
        if takeover:
            assert memory.compression_bytes - before.compression_bytes > 200_000
            assert memory.shared_compression_bytes == 0
        else:
            assert memory.compression_bytes == 0
            assert memory.shared_compression_bytes > 200_000
        client.close()
        wait_until(lambda: live.server.memory().connections == 0, "the connection is over")
        assert settled(live, set()) == {}


def test_a_conn_that_is_held_is_counted_and_users_are() -> None:
    with serve(on_message=lambda conn, message: None) as live:
        before = live.server.memory()
        _, conn = live.connect_conn()
        conn.data = conn
        live.server.identify(conn, user="somebody")
        memory = live.server.memory()
        assert memory.conns == before.conns + 1
        # 104 bytes, and what the allocator adds.
        assert memory.conn_objects_bytes - before.conn_objects_bytes in range(104, 129)
        assert memory.identities_bytes > before.identities_bytes
        conn.data = None


def test_every_target_that_differs_is_counted() -> None:
    with serve(on_message=lambda conn, message: None) as live:
        for number in range(10):
            live.connect_conn(path=f"/{number:0200}")
        assert live.server.memory().interned_bytes > 10 * 200


# ---- threads


def test_threads_are_counted_as_long_as_they_are_there() -> None:
    gate = threading.Barrier(4)

    def meet(conn: Any, message: Any) -> None:
        gate.wait(raw.TIMEOUT)

    with serve(on_message=meet, pool=(3, 8)) as live:
        few = live.server.memory()
        clients = [live.connect_conn()[0] for _ in range(3)]
        for client in clients:
            client.send_frame(BINARY, b"")
        gate.wait(raw.TIMEOUT)
        many = live.server.memory()
        # One more runner at least, and every thread has touched a page of its stack; who polled has an arena.
        assert many.stacks_bytes >= few.stacks_bytes + 2 * resource.getpagesize()
        assert many.arenas_bytes > 0
        assert many.events_bytes > 0
        (loop,) = live.server._run.loops
    # Nobody is left, and nobody's stack is looked at.
    wait_until(lambda: loop.memory()["stacks"] == 0, "the threads have left")
    assert loop.memory()["arenas"] == 0


def test_asking_while_connections_come_and_go() -> None:
    stop = threading.Event()
    wrong: list[BaseException] = []

    def ask(live: Live) -> None:
        try:
            while not stop.is_set():
                memory = live.server.memory()
                assert all(value >= 0 for value in dataclasses.asdict(memory).values()), memory
        except BaseException as exc:
            wrong.append(exc)

    with serve(on_message=lambda conn, message: conn.send(message), loops=2, pool=(2, 8)) as live:
        askers = [threading.Thread(target=ask, args=(live,)) for _ in range(2)]
        for asker in askers:
            asker.start()
        try:
            for number in range(200):
                with RawClient(live.port) as client:
                    whole = raw.frame(BINARY, bytes(number * 1000))
                    client.send(whole[: len(whole) // 2])
                    if number % 3:
                        client.send(whole[len(whole) // 2 :])
                        assert len(client.recv_message()) == number * 1000
        finally:
            stop.set()
            for asker in askers:
                asker.join()
    assert wrong == []


# ---- the account


def test_the_parts_are_the_total_and_the_text_has_all_of_them() -> None:
    values = {field.name: 2**number for number, field in enumerate(dataclasses.fields(Memory))}
    memory = Memory(**values)
    apart = {f"{name}_bytes" for name in memory.parts}
    of_slab = {f"{name}_bytes" for name in memory.purposes}
    assert apart | of_slab | {"connections", "conns", "rss_bytes"} == set(values)
    assert not apart & of_slab
    assert memory.total_bytes == sum(values[name] for name in apart)
    assert memory.per_connection_bytes == memory.connections_bytes / values["connections"]
    assert memory.connections_bytes < memory.total_bytes
    for name in apart | of_slab | {"rss_bytes"}:
        assert f"{values[name]:,}" in str(memory)
    with pytest.raises(dataclasses.FrozenInstanceError):
        memory.rss_bytes = 0  # type: ignore[misc]


def test_a_server_that_does_not_run_has_nothing() -> None:
    server = NewServer("127.0.0.1:0")
    assert server.memory() == Memory()
    assert server.memory().per_connection_bytes == 0.0
    server.stop()


def test_several_loops_are_counted_together() -> None:
    with serve(on_message=lambda conn, message: None, loops=2) as live:
        for _ in range(20):
            live.connect_conn()
        memory = live.server.memory()
        both = [loop.memory() for loop in live.server._run.loops]
        assert memory.connections == 20 == sum(one["connections"] for one in both)
        assert memory.fixed_bytes == sum(one["fixed"] for one in both)
        assert min(one["fixed"] for one in both) > 0


def test_a_child_process_has_nothing_of_it() -> None:
    with serve(on_message=lambda conn, message: None) as live:
        live.connect_conn()
        (loop,) = live.server._run.loops
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writing, str(set(loop.memory().values())).encode())
            os._exit(0)
        assert os.read(reading, 100) == b"{0}"
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)


# ---- what is kept for the next taker


@pytest.mark.parametrize("size", [100, 1000, 100_000], ids=["small", "medium", "a mapping each"])
def test_all_that_is_kept_is_mapped_and_counted(size: int) -> None:
    bare = Bare()
    bare.used_for_a_while(size, 4096 if size < 4096 else 10)
    counted, held = bare.slab_mappings()
    # More than one arena, or one mapping, of its kind.
    assert held > 2 * max(size, 65536)
    assert counted == held


# ---- and the kernel's

SERVER = """
server = unlimitedws.NewServer("127.0.0.1:0", {options})
@server.on_connect
def keep(conn):
    {connected}

taken = []

@server.on_message
def take(conn, message):
    {got}
    taken.append(None)
"""


@pytest.fixture
def many_descriptors() -> Iterator[int]:
    """Yields how many connections a test may hold."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield min(9000, hard - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def nothing(client: RawClient) -> None:
    pass


def a_piece(client: RawClient) -> None:
    client.send(raw.frame(BINARY, bytes(4000))[:3900])


def a_word(client: RawClient) -> None:
    client.send_frame(BINARY, b"go")


@pytest.mark.parametrize(
    ("count", "least", "options", "connected", "got", "say"),
    [
        pytest.param(9000, 55, "", "pass", "pass", nothing, id="idle"),
        pytest.param(9000, 160, "", "conn.data = True", "pass", nothing, id="conn held"),
        pytest.param(9000, 4100, "max_incomplete_total_bytes=1 << 30", "pass", "pass", a_piece, id="partial messages"),
        pytest.param(
            100, 400_000, "max_buffered_bytes=1 << 24", "pass",
            "while conn.buffered_amount < 400_000: conn.send(bytes(50_000))", a_word, id="send queues",
        ),
        pytest.param(
            200, 200_000, "compression=unlimitedws.Compression(server_context_takeover=True)", "pass",
            "conn.send(os.urandom(60_000).hex())", a_word, id="compression",
        ),
    ],
)  # fmt: skip
def test_the_account_is_the_kernels(
    many_descriptors: int,
    count: int,
    least: int,
    options: str,
    connected: str,
    got: str,
    say: Callable[[RawClient], None],
) -> None:
    """least: bytes of one connection, so that it is not by having nothing that the accounts agree."""
    body = SERVER.format(options=options, connected=connected, got=got)
    with ServerProcess(body) as server, ExitStack() as stack:

        def hold(number: int) -> None:
            # To one address, the kernel's search for a local port slows down.
            client = RawClient(
                server.port, source=f"127.0.1.{1 + number // 1000}", headers=DEFLATE, rcvbuf=4096
            )
            stack.enter_context(client)
            say(client)

        # What is there once, and for all: code that is run for the first time.
        for number in range(3):
            hold(number)
        memory_of(server)
        before = memory_of(server)
        wanted = min(count, many_descriptors)
        for number in range(wanted):
            hold(number + 3)
        messages = f"len(taken) == {wanted + 3 if say is a_word else 0}"
        incomplete = f"server.counters()['incomplete_bytes'] >= {3900 * wanted if say is a_piece else 0}"
        wait_until(lambda: server.ask(f"{messages} and {incomplete}"), "the server has read it", timeout=60.0)
        memory_of(server)
        after = memory_of(server)
        assert after.connections == wanted + 3
        print("GROWTH", wanted, growth(before, after))
        # Whole pages: the table's last one may have been there before.
        assert growth(before, after).engine >= least * wanted - PAGE
        # Of the interpreter's own comings and goings, which show beside half a megabyte.
        assert_they_agree(before, after, slack_bytes=65536)


def test_who_has_no_descriptor_left_may_ask_all_the_same() -> None:
    with unlimitedws.NewServer("127.0.0.1:0") as server:
        before = server.memory()
        assert before.rss_bytes > 0
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            full = server.memory()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert full.rss_bytes == 0
        assert full.total_bytes > 0
