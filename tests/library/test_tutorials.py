"""The programs of the pages that one begins with: the README, the tutorial, coming from Go, coming from `websockets`;
and of a door with a lock in asyncio.

Each is taken from its page and run as it stands there, but for the port, which may be somebody's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import raw
from library.programs import PATIENCE, ROOT, Program
from live import is_listening, wait_until
from raw import TEXT, RawClient

DOCS = ROOT / "docs"
ACTIVATE = shutil.which("systemd-socket-activate")
ANALYZE = shutil.which("systemd-analyze")

# A program that listens on a port of its own choice, which is printed.
ON_ANY_PORT = """
import functools, runpy, socket, sys
import unlimitedws, unlimitedws.aio

def on_any_port(addr, make=unlimitedws.DefaultServer, **options):
    server = make("127.0.0.1:0", **options)
    print(server.local_addr.port)
    return server

def on_any_socket(handler, host, port, make=unlimitedws.aio.serve, **options):
    sock = socket.create_server(("127.0.0.1", 0))
    print(sock.getsockname()[1])
    return make(handler, sock=sock, **options)

unlimitedws.Server = functools.partial(on_any_port, make=unlimitedws.Server)
unlimitedws.DefaultServer = on_any_port
unlimitedws.aio.serve = on_any_socket
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def blocks(page: str, language: str = "python") -> list[str]:
    """The blocks of a page in a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)


def titled(page: str, title: str, language: str = "python") -> list[str]:
    """Those that begin with this comment."""
    return [block for block in blocks(page, language) if block.startswith(f"# {title}\n")]


@pytest.fixture
def listening(program: Callable[..., Program], tmp_path: Path) -> Callable[[str], int]:
    """Run a program of a page, and return its port."""

    def start(text: str) -> int:
        file = tmp_path / "page.py"
        file.write_text(text)
        return int(program("-c", ON_ANY_PORT, str(file)).line())

    return start


def said_to_all(port: int) -> None:
    """One says something, and both hear it."""
    with RawClient(port) as ann:
        # Who hears himself is in the room.
        ann.send_frame(TEXT, "one")
        assert ann.recv_message() == "one"
        with RawClient(port) as bob:
            bob.send_frame(TEXT, "two")
            assert ann.recv_message() == bob.recv_message() == "two"
            ann.send_frame(TEXT, "three")
            assert ann.recv_message() == bob.recv_message() == "three"


def echoed(port: int) -> None:
    with RawClient(port) as client:
        client.send_frame(TEXT, "hello")
        assert client.recv_message() == "hello"


def test_programs_of_the_readme(listening: Callable[[str], int]) -> None:
    go, direct, room, handlers = blocks("../README.md")
    echoed(listening(go))
    echoed(listening(direct))
    said_to_all(listening(room))
    echoed(listening(handlers))


def test_first_programs_of_the_tutorial(listening: Callable[[str], int]) -> None:
    first, second, _ = titled("tutorial.md", "chat.py")
    echoed(listening(first))
    said_to_all(listening(second))


def test_the_test_of_the_tutorial_passes(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(titled("tutorial.md", "chat.py")[-1])
    (text,) = titled("tutorial.md", "test_chat.py")
    (tmp_path / "test_chat.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        # Its client would ask a proxy of the environment's.
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "no_proxy": "*"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


@pytest.mark.skipif(ACTIVATE is None, reason="systemd-socket-activate is not installed")
def test_last_program_of_the_tutorial_under_systemd(tmp_path: Path) -> None:
    assert ACTIVATE is not None
    program, place = tmp_path / "chat.py", tmp_path / "chat.sock"
    program.write_text(titled("tutorial.md", "chat.py")[-1])
    token = "a-token-of-some-length"
    # As /etc/chat.env has them.
    settings = {"CHAT_ADDR": "systemd", "CHAT_TOKENS": json.dumps({token: "ann"})}
    # Of its own systemd passes on nothing: of ours the interpreter may want something, under a sanitizer say.
    settings = {**os.environ, **settings, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        [
            ACTIVATE,
            f"--listen={place}",
            *(f"--setenv={name}={value}" for name, value in settings.items()),
            sys.executable,
            str(program),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ.get("PATH", "")},
    )

    def answer(text: bytes) -> bytes:
        """What comes until the server closes, or has said hello."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(place))
            client.sendall(text)
            got = b""
            while not got.endswith(b"ann is here") and (data := client.recv(4096)):
                got += data
            return got

    try:
        wait_until(lambda: is_listening(place), "systemd listens")
        health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert re.match(rb"HTTP/1\.1 200 .*\r\n\r\nok\n$", answer(health), re.DOTALL)
        assert answer(raw.request()).startswith(b"HTTP/1.1 401 ")
        welcome = answer(raw.request(headers=[("Authorization", f"Bearer {token}")]))
        assert welcome.startswith(b"HTTP/1.1 101 ") and welcome.endswith(b"\x81\x0bann is here")
    finally:
        process.terminate()
        said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0, said
    assert "Traceback" not in said


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_drop_in_of_the_tutorial_is_valid(tmp_path: Path) -> None:
    assert ANALYZE is not None
    (unit,) = titled("deployment.md", "/etc/systemd/system/chat.service", "ini")
    (drop_in,) = titled("tutorial.md", "/etc/systemd/system/chat.service.d/environment.conf", "ini")
    # What it would start is not on this machine, and neither is the socket's unit.
    unit = re.sub(r"^ExecStart=.*$", f"ExecStart={sys.executable}", unit, flags=re.MULTILINE)
    service = tmp_path / "chat.service"
    service.write_text(re.sub(r"^Requires=.*\n", "", unit, flags=re.MULTILINE))
    (tmp_path / "chat.service.d").mkdir()
    (tmp_path / "chat.service.d" / "environment.conf").write_text(drop_in)
    done = subprocess.run([ANALYZE, "verify", str(service)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "chat.service" not in done.stderr


def test_program_that_came_from_go(listening: Callable[[str], int]) -> None:
    (program,) = blocks("from-go.md")
    echoed(listening(program))


def test_programs_that_came_from_websockets(listening: Callable[[str], int]) -> None:
    handlers, callbacks = blocks("from-websockets.md")
    said_to_all(listening(handlers))
    echoed(listening(callbacks))


def test_program_of_authentication_with_asyncio(
    listening: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENS", json.dumps({"a-token-of-some-length": "ann"}))
    (text,) = [block for block in blocks("authentication.md") if "asyncio.run" in block]
    port = listening(text)
    with RawClient(port, handshake=False) as stranger:
        stranger.send(raw.request())
        assert stranger.recv_until_eof().startswith(b"HTTP/1.1 401 ")
    with RawClient(port, headers=[("Authorization", "Bearer a-token-of-some-length")]) as ann:
        ann.send_frame(TEXT, "hello")
        assert ann.recv_message() == "ann: hello"


def test_handlers_that_came_from_websockets_run_there_too(program: Callable[..., Program], tmp_path: Path) -> None:
    """But for the import it is a program of theirs."""
    text, count = re.subn(
        r"^from unlimitedws\.aio import .*$",
        "from websockets.asyncio.server import broadcast, serve\nfrom websockets.exceptions import ConnectionClosed",
        blocks("from-websockets.md")[0],
        flags=re.MULTILINE,
    )
    assert count == 1
    file = tmp_path / "page.py"
    # Their server tells its port where it is asked.
    file.write_text(
        text.replace('"127.0.0.1", 8000', '"127.0.0.1", 0').replace(
            "as server:\n", "as server:\n        print(server.sockets[0].getsockname()[1])\n"
        )
    )
    said_to_all(int(program(str(file)).line()))
