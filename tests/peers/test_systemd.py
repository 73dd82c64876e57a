"""Started by systemd's socket activation, with the files of docs/deployment.md."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import raw
from live import is_listening, wait_until
from raw import TEXT, TIMEOUT

from .behind import documented

ROOT = Path(__file__).parents[2]
ACTIVATE = shutil.which("systemd-socket-activate")
ANALYZE = shutil.which("systemd-analyze")

pytestmark = pytest.mark.usefixtures("no_fd_leaks")


@contextlib.contextmanager
def activated(place: Path) -> Iterator[subprocess.Popen[str]]:
    """Let systemd's program listen, and start the documented one when somebody connects."""
    assert ACTIVATE is not None
    program = place.parent / "chat.py"
    program.write_text(documented("/srv/chat/chat.py"))
    # Of its own it passes on nothing: of ours the interpreter may want something, under a sanitizer say.
    settings = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    setenv = (f"--setenv={name}={value}" for name, value in settings.items())
    process = subprocess.Popen(
        [ACTIVATE, f"--listen={place}", *setenv, sys.executable, str(program)],
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ.get("PATH", "")},
    )
    try:
        wait_until(lambda: is_listening(place), "systemd listens")
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(ACTIVATE is None, reason="systemd-socket-activate is not installed")
def test_program_of_the_documentation_serves_the_socket_it_is_started_with(tmp_path: Path) -> None:
    place = tmp_path / "chat.sock"
    with activated(place) as process, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT)
        # Before there is a server.
        client.connect(str(place))
        client.sendall(raw.request() + raw.frame(TEXT, b"early"))
        got = b""
        while not got.endswith(b"\x81\x05early"):
            data = client.recv(4096)
            assert data, got
            got += data
        assert got.startswith(b"HTTP/1.1 101 ")
        # The one that listened has become the server.
        # Not SIGTERM, at which it would leave in a while.
        process.send_signal(signal.SIGINT)
        assert client.recv(4096) == b"\x88\x02\x03\xe9"
        client.sendall(raw.close_frame(1001))
        assert client.recv(4096) == b""
        said = process.communicate(timeout=TIMEOUT)[1]
        assert process.returncode == 0, said
        assert "Traceback" not in said
        # It is systemd's, and stays.
        assert place.exists()


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_units_of_the_documentation_are_valid(tmp_path: Path) -> None:
    for kind in ("service", "socket"):
        unit = documented(f"/etc/systemd/system/chat.{kind}")
        # What it would start is not on this machine.
        unit = unit.replace("/srv/chat/.venv/bin/python", sys.executable)
        (tmp_path / f"chat.{kind}").write_text(unit)
    assert ANALYZE is not None
    done = subprocess.run(
        [ANALYZE, "verify", tmp_path / "chat.service", tmp_path / "chat.socket"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    ours = [line for line in done.stderr.splitlines() if "chat." in line]
    assert (done.returncode, ours) == (0, [])
