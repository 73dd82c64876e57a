from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from library.programs import PATIENCE, PRELUDE, ROOT, Program
from websockets.exceptions import ConnectionClosed as PeerClosed
from websockets.sync.client import ClientConnection

import unlimitedws
from unlimitedws.cli import main

Dial = Callable[..., ClientConnection]


@pytest.fixture
def echo(program: Callable[..., Program]) -> Callable[..., tuple[Program, int, str]]:
    """Start ``unlimitedws echo`` with arguments; return it, its port, and its one line."""

    def start(*args: str, addr: str = "127.0.0.1:0") -> tuple[Program, int, str]:
        text = f"{PRELUDE}import sys; from unlimitedws.cli import main; sys.exit(main(sys.argv[1:]))"
        running = program("-c", text, "echo", "--addr", addr, *args)
        line = running.line()
        match = re.match(r"listening on \S+:(\d+)", line)
        assert match, (line, running.end())
        return running, int(match[1]), line

    return start


def get(port: int, path: str) -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type"), response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_echo_runs_until_a_signal_and_prints_one_line(
    echo: Callable[..., tuple[Program, int, str]], number: signal.Signals
) -> None:
    running, port, line = echo()
    assert line == f"listening on 127.0.0.1:{port}, page at http://127.0.0.1:{port}/"
    running.signal(number)
    assert running.end() == (0, "", "")


def test_address_for_every_host_is_shown_as_one_that_a_browser_can_go_to(
    echo: Callable[..., tuple[Program, int, str]],
) -> None:
    running, port, line = echo(addr=":0")
    assert line.endswith(f", page at http://localhost:{port}/")
    running.signal(signal.SIGTERM)
    assert running.end()[0] == 0


def test_unix_socket_has_no_page_to_go_to(program: Callable[..., Program], tmp_path: Path) -> None:
    running = program("-m", "unlimitedws", "echo", "--addr", f"unix:{tmp_path}/s")
    assert running.line() == f"listening on unix:{tmp_path}/s"
    assert (tmp_path / "s").is_socket()
    running.signal(signal.SIGTERM)
    assert running.end() == (0, "", "")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("args", [(), ("--inline",), ("--pool", "2", "4"), ("--loops", "2", "--private-fds")])
def test_every_message_comes_back_as_it_was(
    echo: Callable[..., tuple[Program, int, str]], client: Dial, args: tuple[str, ...]
) -> None:
    running, port, _ = echo(*args)
    ws = client(port, "/any/path?stats")
    for message in ("", "text", "\U0001f600\0é", b"", bytes(range(256)), b"\xff" * 200_000, "stats"):
        ws.send(message)
        assert ws.recv(PATIENCE) == message
    ws.close()
    assert ws.close_code == 1000
    running.signal(signal.SIGTERM)
    assert running.end() == (0, "", "")


def test_stats_answers_text_with_the_number_of_connections(
    echo: Callable[..., tuple[Program, int, str]], client: Dial
) -> None:
    _, port, _ = echo()
    ws = client(port, "/stats")
    ws.send("connections")
    assert ws.recv(PATIENCE) == "1"
    client(port)
    ws.send("connections")
    assert ws.recv(PATIENCE) == "2"
    ws.send(b"binary is echoed here too")
    assert ws.recv(PATIENCE) == b"binary is echoed here too"


def test_page_is_served_at_the_root_only(echo: Callable[..., tuple[Program, int, str]]) -> None:
    _, port, _ = echo()
    status, kind, body = get(port, "/")
    assert status == 200
    assert kind == "text/html; charset=utf-8"
    assert b"new WebSocket(" in body
    assert b"</html>" in body
    assert get(port, "/other")[0] == 426


def test_page_asks_nobody_else(echo: Callable[..., tuple[Program, int, str]]) -> None:
    _, port, _ = echo()
    body = get(port, "/")[2].decode()
    assert re.findall(r"https?://[^\s\"']+", body) == []
    assert "innerHTML" not in body


def test_no_page_is_426_everywhere(echo: Callable[..., tuple[Program, int, str]]) -> None:
    _, port, line = echo("--no-page")
    assert "page" not in line
    assert get(port, "/")[0] == 426


def test_limits_are_handed_on(echo: Callable[..., tuple[Program, int, str]], client: Dial) -> None:
    _, port, _ = echo("--max-message-bytes", "10")
    ws = client(port)
    ws.send("x" * 10)
    assert ws.recv(PATIENCE) == "x" * 10
    ws.send("x" * 11)
    with pytest.raises(PeerClosed) as caught:
        ws.recv(PATIENCE)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1009


def test_verbose_logs_to_stderr(echo: Callable[..., tuple[Program, int, str]]) -> None:
    running, port, _ = echo("-v")
    running.signal(signal.SIGTERM)
    status, out, err = running.end()
    assert (status, out) == (0, "")
    assert f"INFO unlimitedws: listening on 127.0.0.1:{port}" in err
    assert f"INFO unlimitedws: stopped listening on 127.0.0.1:{port}" in err


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"unlimitedws {unlimitedws.__version__}\n"


def test_every_package_is_installed() -> None:
    source = ROOT / "src"
    there = {str(path.parent.relative_to(source)).replace("/", ".") for path in source.rglob("__init__.py")}
    match = re.search(r"^packages = \[(.+?)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert match
    assert set(re.findall(r'"(.+?)"', match[1])) >= there


def test_module_is_the_same_program(program: Callable[..., Program]) -> None:
    status, out, err = program("-m", "unlimitedws", "--version").end()
    assert (status, out, err) == (0, f"unlimitedws {unlimitedws.__version__}\n", "")


def test_address_in_use_is_status_1_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    server = unlimitedws.NewServer("127.0.0.1:0")
    assert main(["echo", "--addr", str(server.local_addr)]) == 1
    server.stop()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"unlimitedws: cannot listen on {server.local_addr}: Address already in use\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["nothing"], "invalid choice: 'nothing'"),
        (["echo", "--addr", "8000"], "did you mean ':8000'?"),
        (["echo", "--addr", ":0", "--pool", "0", "1"], "no worker"),
        (["echo", "--addr", ":0", "--pool", "1", "0"], "no job in queue"),
        (["echo", "--addr", ":0", "--pool", "1", "1", "--inline"], "not allowed with argument --pool"),
        (["echo", "--addr", ":0", "--max-message-bytes", "0"], "max_message_bytes: must be from 1"),
    ],
)
def test_wrong_arguments_are_status_2_and_say_why(
    capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def doctor_into(stdout: int) -> tuple[int, bytes]:
    """Run `unlimitedws doctor --json` with this output; returns its status, and what it complains of."""
    done = subprocess.run(
        [sys.executable, "-m", "unlimitedws", "doctor", "--json"],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
        check=False,
    )
    os.close(stdout)
    return done.returncode, done.stderr


def test_who_reads_may_go_away() -> None:
    """`unlimitedws ... | head`, with nobody left to read."""
    reading, writing = os.pipe()
    os.close(reading)
    assert doctor_into(writing) == (1, b"")


def test_what_cannot_be_written_is_said_in_a_line() -> None:
    status, said = doctor_into(os.open("/dev/full", os.O_WRONLY))
    assert status == 1
    assert said == b"unlimitedws: what is printed cannot be written: No space left on device\n"
