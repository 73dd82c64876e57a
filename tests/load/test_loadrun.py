"""A load from its beginning to its end: pace, phases, threads, what is counted when."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures import EchoServer
from raw_server import RawServer, Talk, frame

import unlimitedws
from unlimitedws import loadgen

pytest.importorskip("hdrh", reason="the load generator needs hdrhistogram")

pytestmark = pytest.mark.usefixtures("no_fd_leaks")
SRC = Path(__file__).resolve().parents[2] / "src"


def url_of(server: EchoServer) -> str:
    return f"ws://127.0.0.1:{server.port}/"


def test_a_rate_is_kept_and_all_that_was_due_is_counted(echo_server: EchoServer) -> None:
    result = loadgen.run(url_of(echo_server), connections=7, rate=500, duration=0.5, warmup=0.1)
    assert result.errors == {}
    # Each message that was due in the time that was measured has its latency.
    assert abs(result.latency.count - 500 * result.seconds) <= 2
    assert result.offered == int(500 * result.seconds)


def test_a_server_that_stalls_is_charged_with_all_that_it_kept_waiting() -> None:
    def stalls(talk: Talk) -> None:
        talk.open()
        held = [talk.message()]
        # It reads on, but answers nothing until a hundred have come: at 200 a second half a second.
        while len(held) < 100:
            held.append(talk.message())
        talk.sock.sendall(b"".join(frame(*message) for message in held))
        while True:
            talk.send(*talk.message())

    with RawServer(stalls) as server:
        result = loadgen.run(server.url, connections=1, rate=200, duration=1.0, warmup=0.0)
    assert result.errors == {}
    waited = [
        count.count_at_value_iterated_to
        for count in result.latency.histogram.get_recorded_iterator()
        if count.value_iterated_to > 100e6
    ]
    # Of the first hundred the first eighty were due a tenth of a second or more before the answers.
    assert sum(waited) >= 80
    assert result.latency.max >= 0.49


def test_a_closed_loop_has_as_much_under_way_as_was_asked_for() -> None:
    most: list[int] = []

    def batches(talk: Talk) -> None:
        talk.open()
        while True:
            # As long as nothing is answered no further one comes.
            held = [talk.message() for _ in range(5)]
            talk.sock.settimeout(0.05)
            try:
                talk.wait_for_some()
                most.append(6)
            except TimeoutError:
                most.append(5)
            talk.sock.settimeout(20)
            for message in held:
                talk.send(*message)

    with RawServer(batches) as server:
        result = loadgen.run(server.url, connections=2, pipelining=5, duration=0.2, warmup=0.0)
    assert result.errors == {}
    assert set(most[:4]) == {5}


def test_handshakes_are_made_one_after_the_other_and_all_end_in_order(echo_server: EchoServer) -> None:
    result = loadgen.run(url_of(echo_server), mode="handshakes", connections=4, duration=0.3, warmup=0.0)
    assert result.errors == {}
    assert result.handshakes > 8
    assert abs(result.opening.count - result.handshakes) <= 8
    codes = [echo_server.closed.get(timeout=10).code for _ in range(result.handshakes)]
    assert set(codes) == {1000}


def test_handshakes_that_are_aborted(echo_server: EchoServer) -> None:
    result = loadgen.run(
        url_of(echo_server), mode="handshakes", connections=4, duration=0.2, warmup=0.0, abort=True
    )
    assert result.errors == {} and result.handshakes > 8


def test_a_handshake_that_fails_is_tried_again_after_a_while() -> None:
    def refuse(talk: Talk) -> None:
        talk.hear_request()
        talk.sock.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    with RawServer(refuse) as server:
        result = loadgen.run(server.url, mode="handshakes", connections=2, duration=1.5, warmup=0.0)
    # Not a million times.
    assert 4 <= result.errors["status"] <= 40


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "how",
    [
        {"pipelining": 4},
        {"publishers": 3},
        {"rate": 100.0},
        {"others_only": True},
        {"text": True, "size": 24},
    ],
)
def test_a_broadcast_reaches_everybody(no_fd_leaks: None, threads: int, how: dict[str, Any]) -> None:
    server = unlimitedws.Server("127.0.0.1:0", pool=None)
    everybody: set[Any] = set()

    @server.on_connect
    def come(conn: Any) -> None:
        everybody.add(conn)

    @server.on_close
    def go(conn: Any) -> None:
        everybody.discard(conn)

    @server.on_message
    def publish(conn: Any, message: str | bytes) -> None:
        for one in list(everybody):
            if one is not conn or not how.get("others_only"):
                one.send(message)

    server.start()
    try:
        result = loadgen.run(
            f"ws://127.0.0.1:{server.local_addr.port}/", mode="broadcast", connections=20, duration=0.4, warmup=0.1,
            threads=threads, **{"size": 64, **how},
        )  # fmt: skip
    finally:
        server.stop(5)
    assert result.errors == {}
    assert result.sent > 0 and result.messages > 10 * result.sent
    assert result.latency.count > 0


def test_publications_that_are_lost_are_missed() -> None:
    def forgetful(talk: Talk) -> None:
        talk.open()
        for i in range(1 << 30):
            opcode, payload = talk.message()
            if i % 3 != 1:
                talk.send(opcode, payload)

    with RawServer(forgetful) as server:
        result = loadgen.run(
            server.url,
            mode="broadcast",
            connections=1,
            size=64,
            rate=100,
            duration=0.3,
            warmup=0.0,
            reply_timeout=0.2,
        )
    assert result.errors.keys() == {"missing"}
    assert result.errors["missing"] >= 5


def test_several_threads_have_tables_of_their_own(echo_server: EchoServer) -> None:
    result = loadgen.run(
        url_of(echo_server), connections=30, threads=4, duration=0.2, warmup=0.0, pipelining=3
    )
    assert result.errors == {} and result.opened == result.held == 30
    assert len(result.busy) == 4


def test_more_connections_than_this_process_may_have_descriptors(tmp_path: Path) -> None:
    """Server and client in processes of their own: 300 connections where 128 descriptors are allowed."""
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128));"
        "from unlimitedws.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    server = unlimitedws.Server("127.0.0.1:0", pool=None)

    @server.on_message
    def back(conn: Any, message: str | bytes) -> None:
        conn.send(message)

    server.start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, "bench", f"ws://127.0.0.1:{server.local_addr.port}/", "-c", "300",
             "-d", "0.3", "-w", "0", "--json", "-q"],
            env={**os.environ, "PYTHONPATH": str(SRC)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    finally:
        server.stop(5)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"opened": 300' in done.stdout and '"held": 300' in done.stdout


def test_the_first_word_ends_it_in_order_the_second_at_once(echo_server: EchoServer) -> None:
    run = loadgen.Run(loadgen.LoadOptions(url_of(echo_server), connections=5, duration=3600))
    results: list[loadgen.Result] = []
    phases: list[str] = []
    thread = threading.Thread(target=lambda: results.append(run.run(lambda p: phases.append(p.phase))))
    thread.start()
    while "measuring" not in phases:
        time.sleep(0.01)
    run.interrupt()
    thread.join(20)
    assert not thread.is_alive()
    (result,) = results
    assert result.interrupted and result.errors == {} and result.messages > 0
    assert result.seconds > 0
    assert [echo_server.closed.get(timeout=10).code for _ in range(5)] == [1000] * 5
    with pytest.raises(RuntimeError):
        run.run()


def test_a_ramp_that_is_interrupted_ends() -> None:
    def silent(talk: Talk) -> None:
        talk.hear_request()
        talk.read(1)

    with RawServer(silent) as server:
        run = loadgen.Run(loadgen.LoadOptions(server.url, connections=3, handshake_timeout=3600))
        result = run.run(lambda p: run.interrupt() if len(server.talks) == 3 else None)
    assert result.interrupted and result.seconds == 0 and result.opened == 0


def test_a_ramp_takes_its_time(echo_server: EchoServer) -> None:
    result = loadgen.run(url_of(echo_server), mode="idle", connections=11, ramp=0.5, duration=0.05)
    # The last of them begins after ten elevenths of it.
    assert result.errors == {} and result.ramp_seconds >= 0.45
