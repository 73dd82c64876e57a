"""``unlimitedws bench`` as it is typed: what it prints, where, and with which status it ends."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures import EchoServer
from raw_server import RawServer, Talk, echo

SRC = Path(__file__).resolve().parents[2] / "src"
ENV = {**os.environ, "PYTHONPATH": str(SRC), "TERM": "xterm", "COLUMNS": "200"}
COMMAND = [sys.executable, "-m", "unlimitedws", "bench"]
needs_histogram = pytest.mark.skipif(
    importlib.util.find_spec("hdrh") is None, reason="the load generator needs hdrhistogram"
)


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *args], env=ENV, capture_output=True, text=True, timeout=60)


def url_of(server: EchoServer) -> str:
    return f"ws://127.0.0.1:{server.port}/"


@needs_histogram
def test_a_person_gets_a_summary_and_lines_of_progress(echo_server: EchoServer) -> None:
    done = bench(
        url_of(echo_server), "-c", "20", "-d", "200ms", "-w", "0.1s", "-p", "2", "-s", "1k", "--text"
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first == f"{url_of(echo_server)}  echo, 20 connections, 1,024 bytes text, 2 under way each"
    names = [line.split()[0] for line in rest]
    assert names[:5] == ["connections", "handshake", "measured", "messages", "latency"]
    assert rest[-1] == "errors        none"
    assert "20 of 20 opened" in rest[0] and "p99.9" in rest[4]
    phases = [line.partition(":")[0] for line in done.stderr.splitlines()]
    assert phases[0] == "connecting" and "measuring" in phases


@needs_histogram
def test_a_program_gets_an_object(echo_server: EchoServer) -> None:
    done = bench(url_of(echo_server), "-c", "5", "-d", "200ms", "-w", "0", "--json", "-q", "--rate", "200")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert result["errors"] == {} and result["opened"] == result["held"] == 5
    assert set(result["latency_seconds"]) == {"count", "mean", "max", "p50", "p90", "p99", "p99.9", "p99.99"}
    assert 0 < result["latency_seconds"]["p50"] <= result["latency_seconds"]["max"] < 60
    assert result["offered"] == int(200 * result["seconds"])


@needs_histogram
def test_the_handshake_is_told_what_it_says() -> None:
    heads: list[bytes] = []

    def serve(talk: Talk) -> None:
        heads.append(talk.hear_request())
        talk.sock.sendall(talk.response(b"Sec-WebSocket-Protocol: v2"))
        while True:
            talk.send(*talk.message())

    with RawServer(serve) as server:
        done = bench(
            server.url, "-c", "1", "-d", "50ms", "-w", "0", "-q", "-H", "X-A: b: c", "--cookie", "a=1",
            "--cookie", "b=2", "--token", "t0k", "--origin", "https://a.example", "--subprotocol", "v1",
            "--subprotocol", "v2",
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (b"X-A: b: c", b"Cookie: a=1; b=2", b"Authorization: Bearer t0k", b"Origin: https://a.example",
                 b"Sec-WebSocket-Protocol: v1, v2"):  # fmt: skip
        assert line in heads[0].split(b"\r\n")


@needs_histogram
def test_errors_are_listed_and_end_with_1() -> None:
    def serve(talk: Talk) -> None:
        talk.hear_request()
        talk.sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with RawServer(serve) as server:
        done = bench(server.url, "-c", "3", "-d", "1", "-q")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "errors        3 refused with 403 Forbidden"


@needs_histogram
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["wss://h/"], "TLS is not supported yet"),
        (["ws://h/", "-c", "0"], "connections"),
        (["ws://h/", "-c", "many"], "'many' is no number"),
        (["ws://h/", "-r", "0"], "0: more than nothing, or no --rate at all"),
        (["ws://h/", "-d", "soon"], "'soon' is no time"),
        (["ws://h/", "-H", "no colon"], "a name, a colon and a value"),
        (["ws://nobody.invalid/"], "nobody.invalid"),
        ([], "url"),
    ],
)
def test_what_is_wrong_is_said_and_ends_with_2(args: list[str], says: str) -> None:
    done = bench(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr and "Traceback" not in done.stderr


@needs_histogram
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_in_order_with_what_there_is(number: signal.Signals) -> None:
    closes: list[int] = []

    def serve(talk: Talk) -> None:
        talk.open()
        while True:
            b0, payload = talk.frame()
            talk.send(b0 & 15, payload)
            if b0 & 15 == 8:
                closes.append(int.from_bytes(payload[:2], "big"))
                return

    with RawServer(serve) as server:
        running = subprocess.Popen(
            [*COMMAND, server.url, "-c", "4", "-d", "1h", "-w", "0"],
            env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert running.stderr is not None
        for line in running.stderr:
            if line.startswith("measuring"):
                break
        running.send_signal(number)
        out, err = running.communicate(timeout=30)
    assert running.returncode == 128 + number, err
    assert "interrupted" in out and out.splitlines()[-1] == "errors        none"
    assert closes == [1000] * 4


@needs_histogram
def test_on_a_terminal_there_is_a_bar() -> None:
    ours, theirs = pty.openpty()
    with RawServer(echo) as server:
        running = subprocess.Popen(
            [*COMMAND, server.url, "-c", "2", "-d", "300ms", "-w", "0"],
            env=ENV,
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        drawn = b""
        while True:
            try:
                got = os.read(ours, 65536)
            except OSError:
                break
            drawn += got
        out, _ = running.communicate(timeout=30)
    os.close(ours)
    assert running.returncode == 0
    # Drawn over and over, not line by line; and gone at the end.
    assert b"measuring" in drawn and b"\x1b[" in drawn
    assert b"messages " in out


@pytest.mark.parametrize("line", ["Run(LoadOptions('ws://127.0.0.1:9/'))", "display.Bar()"])
def test_a_missing_extra_is_named(line: str) -> None:
    program = f"from unlimitedws.loadgen import display, Run, LoadOptions\n{line}"
    # -S: nothing of what was installed.
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], env=ENV, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ") and last.endswith("pip install 'unlimitedws[load]'")


def test_without_the_extra_the_command_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-S", *COMMAND[1:], "ws://127.0.0.1:9/"],
        env=ENV, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "unlimitedws bench: the load generator needs the package hdrhistogram: pip install 'unlimitedws[load]'"
    ]
