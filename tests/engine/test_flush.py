"""flush: what is queued leaves as far as the kernel takes it, whoever asks, in whose table the descriptor may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from live import expect_eof, wait_until
from loops import Running, echo, running
from raw import TEXT
from uws_shims.deliver_shim import Bare
from uws_shims.keeper_shim import index_of_open, is_read, set_paused

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

Make = Callable[..., tuple[Bare, list[int]]]

in_both_tables = pytest.mark.usefixtures("both_tables")


@pytest.fixture(params=[1, 3], ids=["inline", "pool"])
def engine(request: pytest.FixtureRequest, no_fd_leaks: None) -> Iterator[Running]:
    with running(runners=request.param, on_message=echo, close_timeout_ms=60) as made:
        yield made


@pytest.fixture
def private(no_fd_leaks: None) -> Iterator[Running]:
    """A loop whose descriptors only its keeper can name."""
    with running(private_fds=1, on_message=echo) as made:
        yield made


def test_who_was_first_is_flushed_first_and_who_comes_meanwhile_the_next_time(make: Make) -> None:
    """Threads that send without end neither keep the loop from polling nor others' messages from leaving."""
    loop, conns = make(5)
    for fd in conns:
        loop.queue(fd, b"x")
    assert loop.flush_all() == conns
    # All but the last have been sent to again, and are there to be flushed: the loop does not sleep.
    assert loop.next_ms() == 0
    assert loop.flush_all() == conns[:-1]


@in_both_tables
def test_what_the_kernel_did_not_take_is_counted_as_waiting() -> None:
    length = 20_000_000
    with running(on_message=echo) as engine:
        client, conn = engine.connect_conn(rcvbuf=4096)
        conn.send(bytes(length))
        waiting = conn.buffered_amount
        assert 0 < waiting < length + 10
        assert engine.counter("buffered_bytes") == waiting
        assert engine.counter("highs") == 1
        assert client.recv_message() == bytes(length)
        engine.wait_for(buffered_bytes=0, slab_blocks=0)


@in_both_tables
def test_close_frame_that_cannot_be_sent_is_given_up_at_the_deadline(engine: Running) -> None:
    client, conn = engine.connect_conn(rcvbuf=4096)
    while conn.buffered_amount < 500_000:
        conn.send(bytes(100_000))
    conn.close()
    assert engine.end() == (1006, "")
    engine.wait_empty()
    assert engine.counter("timeouts") == 1
    client.close()


@in_both_tables
def test_last_words_are_flushed_to_a_peer_that_reads_slowly(engine: Running) -> None:
    client, conn = engine.connect_conn(rcvbuf=4096)
    payload = bytes(900_000)
    conn.send(payload)
    client.send_close(1000)
    assert engine.end() == (1000, "")
    # Half closed as it is, too.
    client.shutdown()
    assert client.recv_message() == payload
    assert client.recv_close().code == 1000
    expect_eof(client)
    engine.wait_empty()


def test_who_sends_much_finds_out_what_the_kernel_did_not_take(private: Running) -> None:
    client, conn = private.connect_conn(rcvbuf=4096)
    told = [conn.send(b"x" * 60_000) for _ in range(12)]
    # What is below the cork has not been offered yet; above it the kernel is asked, by the keeper, before send returns.
    assert conn.buffered_amount > 64 << 10 or all(one.name == "OK" for one in told)
    while any(one.name == "HIGH" for one in told) is False and len(told) < 400:
        told.append(conn.send(b"x" * 60_000))
    assert told[-1].name == "HIGH"
    got = 0
    while got < len(told):
        assert client.recv_frame().payload == b"x" * 60_000
        got += 1
    wait_until(lambda: conn.buffered_amount == 0, "all has left")


def test_a_full_queue_that_the_kernel_would_take_is_no_reason_to_drop_anybody() -> None:
    with running(private_fds=1, overflow=1, max_buffered_bytes=1000) as engine:
        client, conn = engine.connect_conn()
        for _ in range(300):
            # Each fills the queue; the keeper empties it, as there is room in the kernel.
            conn.send(b"y" * 1000)
            assert client.recv_frame().payload == b"y" * 1000
        assert conn.is_open and engine.counter("overflow_closed") == 0


def test_what_there_was_no_memory_to_say_is_found_by_looking_at_all(private: Running) -> None:
    client, _ = private.connect_conn()
    index = index_of_open(private.loop)
    assert is_read(private.loop, index)
    set_paused(private.loop, index, True)
    wait_until(lambda: not is_read(private.loop, index), "it is not read")
    client.send_frame(TEXT, b"later")
    set_paused(private.loop, index, False)
    assert client.recv_frame().payload == b"later"
