"""What reviewers found in our own code, each with a test that fails without its mend."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest
import raw
from live import each_mode, echo, expect_eof, serve, take, wait, wait_until
from raw import TEXT

import unlimitedws


@each_mode
def test_close_after_a_silence_longer_than_close_timeout_sends_its_frame(pool: Any) -> None:
    with serve(pool=pool, on_read=echo, close_timeout=0.1) as live:
        client, conn = live.connect_conn()
        # The loop sleeps for longer than the deadline that it is about to set: nothing happens but time.
        time.sleep(0.4)
        conn.close(4000, "bye")
        assert client.recv_close() == (4000, "bye")


@each_mode
def test_callback_longer_than_close_timeout_still_ends_with_its_close_frame(pool: Any) -> None:
    def slow(conn: Any, message: str) -> None:
        time.sleep(0.4)
        conn.close(4001, "done")

    with serve(pool=pool, on_message=slow, close_timeout=0.1) as live:
        client = live.connect()
        client.send_frame(TEXT, "x")
        assert client.recv_close() == (4001, "done")


@each_mode
def test_callback_that_sends_on_is_told_that_the_peer_has_closed(pool: Any) -> None:
    told = threading.Event()

    def stream(conn: Any) -> None:
        try:
            while True:
                conn.send("tick")
                time.sleep(0.01)
        except unlimitedws.ConnectionClosed:
            told.set()

    with serve(pool=pool, on_connect=stream, on_message=echo) as live:
        client = live.connect()
        client.recv_message()
        client.send_close(1000)
        wait(told, "ConnectionClosed")
        take(live.ended, "on_close")


def test_abort_from_elsewhere_is_delivered_while_a_callback_blocks() -> None:
    entered, release = threading.Event(), threading.Event()

    def broadcast(conn: Any, message: str) -> None:
        for each in everybody:
            each.send(message)
        entered.set()
        wait(release)

    everybody: list[Any] = []
    with serve(pool=(4, 4), on_message=broadcast) as live:
        for _ in range(40):
            everybody.append(live.connect_conn()[1])
        client, own = live.connect_conn()
        try:
            for victim in list(everybody[:20]):
                entered.clear()
                release.clear()
                client.send_frame(TEXT, "x")
                wait(entered, "the callback")
                everybody.remove(victim)
                victim.abort()
                # Other runners are free: the end must not wait for the callback that blocks.
                assert take(live.ended, "on_close").conn is victim
                release.set()
        finally:
            release.set()
        assert own.is_open


def test_socket_that_a_child_process_keeps_open_does_not_make_the_loop_spin() -> None:
    with serve(on_read=echo) as live:
        clients = [live.connect() for _ in range(5)]
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            # Holds copies of all sockets until it is told to go.
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        try:
            os.close(reader)
            for client in clients:
                client.close_cleanly()
            for _ in clients:
                take(live.ended, "on_close")
            wait_until(lambda: live.server.counters()["descriptors"] == 0, "the slots are free")
            before = os.times()
            time.sleep(0.5)
            after = os.times()
            # A loop that spins takes all of the half second.
            assert after.user + after.system - before.user - before.system < 0.25
        finally:
            os.close(writer)
            os.waitpid(child, 0)


def test_child_process_sees_closed_connections_and_does_not_hang() -> None:
    stop = threading.Event()
    with serve(on_read=echo) as live:
        client, conn = live.connect_conn()

        def chatter() -> None:
            while not stop.is_set():
                client.send_frame(TEXT, "x")
                client.recv_message()

        thread = threading.Thread(target=chatter)
        thread.start()
        try:
            for _ in range(30):
                child = os.fork()
                if child == 0:
                    closed = not conn.is_open
                    try:
                        conn.send("from the child")
                        closed = False
                    except unlimitedws.ConnectionClosed:
                        pass
                    os._exit(0 if closed else 1)
                deadline = time.monotonic() + raw.TIMEOUT
                done, status = os.waitpid(child, os.WNOHANG)
                while done == 0 and time.monotonic() < deadline:
                    time.sleep(0.002)
                    done, status = os.waitpid(child, os.WNOHANG)
                if done == 0:
                    os.kill(child, 9)
                    os.waitpid(child, 0)
                    pytest.fail("the child hangs")
                assert status == 0
        finally:
            stop.set()
            thread.join(raw.TIMEOUT)
        assert conn.is_open


def test_empty_messages_that_wait_count_against_the_total() -> None:
    entered, release = threading.Event(), threading.Event()

    def block(conn: Any, message: str) -> None:
        entered.set()
        wait(release)

    limit = 1 << 20
    with serve(on_message=block, max_inbox_messages=1 << 20, max_inbox_total_bytes=limit, io_timeout=0) as live:
        client = live.connect()
        client.send_frame(TEXT, "x")
        wait(entered, "the callback")
        flood = raw.frame(TEXT, "") * 10_000
        client.sock.settimeout(0.5)
        try:
            # More than the kernel's buffers and the limit take together: it has to stop.
            for _ in range(400):
                client.send(flood)
        except TimeoutError:
            pass
        else:
            pytest.fail("24 MB of empty messages were taken in")
        counters = live.server.counters()
        assert counters["pauses"] >= 1
        # One more reading may have been under way.
        assert counters["slab_used_bytes"] < limit + 2000 * 64
        client.reset()
        release.set()


def test_newcomers_are_refused_while_the_server_waits_for_its_clients() -> None:
    with serve(on_read=echo, close_timeout=raw.TIMEOUT) as live:
        client = live.connect()
        stopper = threading.Thread(target=live.server.stop, args=(raw.TIMEOUT,))
        stopper.start()
        try:
            assert client.recv_close().code == 1001
            with pytest.raises(ConnectionError):
                live.connect()
        finally:
            client.send_close(1001)
            expect_eof(client)
            client.close()
            stopper.join(raw.TIMEOUT)
        assert not stopper.is_alive()


def test_conn_cannot_be_made_by_hand() -> None:
    for make in (unlimitedws.Conn, lambda: unlimitedws.Conn.__new__(unlimitedws.Conn)):
        with pytest.raises(TypeError):
            make()


def test_own_close_code_is_what_a_later_send_is_told() -> None:
    told: list[Any] = []
    done = threading.Event()

    def once(conn: Any, message: str) -> None:
        conn.close(4000, "mine")
        try:
            conn.send("too late")
        except unlimitedws.ConnectionClosed as exc:
            told.append((exc.code, exc.reason))
        done.set()

    with serve(on_message=once) as live:
        client = live.connect()
        client.send_frame(TEXT, "x")
        assert client.recv_close() == (4000, "mine")
        wait(done)
    assert told == [(4000, "mine")]
