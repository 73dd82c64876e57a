"""read: how much is received in one go, and by whom it is dealt with."""

from __future__ import annotations

import queue
import random
import threading
from typing import Any

import pytest
import raw
from live import frames, ping, take, wait, wait_until
from loops import running
from raw import BINARY, TEXT, TIMEOUT

pytestmark = pytest.mark.usefixtures("no_fd_leaks")


def recorder(seen: queue.Queue[Any]) -> Any:
    return lambda conn, message: seen.put(message)


def test_messages_larger_than_the_arena_cut_at_random_arrive_in_order() -> None:
    rng = random.Random(3)
    seen: queue.Queue[Any] = queue.Queue()
    messages: list[Any] = [b"", "", b"x", rng.randbytes(125), rng.randbytes(126), rng.randbytes(700_000)]
    messages += ["é" * 40_000, rng.randbytes(65_536), b"last"]
    stream = frames(*[(TEXT if isinstance(m, str) else BINARY, m) for m in messages])
    with running(on_message=recorder(seen)) as engine:
        client = engine.connect()
        at = 0
        while at < len(stream):
            step = rng.choice([1, 2, 3, 1000, 50_000, 200_000])
            client.send(stream[at : at + step])
            at += step
        assert [take(seen) for _ in messages] == messages
        assert engine.counter("messages_in") == len(messages)
        client.close()
        engine.wait_empty()


def test_more_than_a_turn_can_hold_is_read_in_the_next() -> None:
    # Twenty times 64 KiB are more than the arena: who has no room in this turn is reported again.
    seen: queue.Queue[Any] = queue.Queue()
    with running(on_message=recorder(seen)) as engine:
        clients = [engine.connect() for _ in range(20)]
        payloads = [bytes([i]) * 65_000 for i in range(20)]
        for client, payload in zip(clients, payloads, strict=True):
            client.send_frame(BINARY, payload)
        assert sorted(take(seen) for _ in clients) == payloads


def test_many_small_messages_in_one_segment_all_arrive() -> None:
    # More events than one reading may bring into a batch that is half full.
    seen: list[int] = []
    count = 30_000
    with running(on_message=lambda conn, message: seen.append(len(message))) as engine:
        clients = [engine.connect() for _ in range(2)]
        block = raw.frame(BINARY, b"") * count
        for client in clients:
            client.send(block)
        for client in clients:
            ping(client)
        engine.wait_for(messages_in=2 * count)
        for client in clients:
            client.close()
        engine.wait_empty()
    assert seen == [0] * (2 * count)


def test_while_all_inboxes_are_full_nobody_gets_on_with_a_long_message_and_pings_are_answered() -> None:
    let_go = threading.Event()
    seen: queue.Queue[int] = queue.Queue()
    count, size, budget = 24, 200_000, 100_000

    def stuck(conn: Any, message: bytes) -> None:
        wait(let_go)
        seen.put(len(message))

    with running(on_message=stuck, record=False, max_inbox_total_bytes=budget) as engine:
        first = engine.connect()
        first.send_frame(BINARY, b"the callback that keeps its thread")
        wait_until(lambda: engine.counter("takeovers") >= 1, "the watchdog")
        first.send_frame(BINARY, bytes(budget))
        wait_until(lambda: engine.counter("inbox_bytes") >= budget, "the flood")
        before = engine.counter("slab_used_bytes")
        # One after the other would wait for the kernel to take it all.
        clients = [engine.connect() for _ in range(count)]
        threads = [threading.Thread(target=client.send_frame, args=(BINARY, bytes(size))) for client in clients]
        for thread in threads:
            thread.start()
        wait_until(lambda: engine.counter("pauses") > count, "those who are held back")
        newcomer = engine.connect()
        ping(newcomer)
        # Of each what one reading brings, in blocks twice that at most.
        assert engine.counter("slab_used_bytes") - before < count * 4096
        let_go.set()
        for thread in threads:
            thread.join(TIMEOUT)
        assert sorted(take(seen) for _ in range(2 + count))[2:] == [size] * count
        for client in (first, newcomer, *clients):
            client.close()
        engine.wait_empty()
