"""No descriptors for some seconds (`make abuse`: ten): who is in lives on, nobody spins, and it goes on afterwards."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import abuse
import pytest
import rig
from live import ServerProcess, wait_until
from raw import PING, PONG, TEXT, Frame, RawClient, request

pytestmark = pytest.mark.skipif(shutil.which(os.environ.get("CC", "gcc")) is None, reason="no C compiler")

STARVED_S = 1.0
# What a server rests where the system has no file left, in seconds: see accept.pyx.
PAUSE_S = 0.1
ECHO = """
server = unlimitedws.{kind}("127.0.0.1:0")
server.on_read = echo
"""


def test_emfile_ends_nobody_and_lets_nobody_in_until_it_is_over() -> None:
    # What comes after it is let in: descriptors() fails where it is not.
    seen = abuse.descriptors(abuse.SMALL, "pool")
    assert seen["inside"] > 0 and seen["tried"] > 0
    assert (seen["let_in"], seen["talk_wrong"]) == (0, 0)
    assert seen["turned_away"] > 0


@pytest.mark.parametrize("kind", ["NewServer", "DefaultServer"])
def test_enfile_is_waited_for_without_spinning(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starved = tmp_path / "starved"
    # What has to be loaded first, a sanitizer say, stays first.
    preload = [*os.environ.get("LD_PRELOAD", "").split(), str(rig.native_library("starved"))]
    monkeypatch.setenv("LD_PRELOAD", " ".join(preload))
    monkeypatch.setenv("STARVED", str(starved))
    with ServerProcess(ECHO.format(kind=kind)) as process, process.connect() as early:
        before = process.fds()
        begun = time.monotonic()
        starved.touch()
        waiting = [RawClient(process.port, handshake=False) for _ in range(20)]
        for client in waiting:
            client.send(request())
        wait_until(lambda: starved.stat().st_size > 0, "the server finds that there is no room")
        # Who is in is served all the while.
        while time.monotonic() - begun < STARVED_S:
            early.send_frame(PING, b"still here")
            assert early.recv_frame() == Frame(True, 0, PONG, b"still here")
            early.send_frame(TEXT, "still here")
            assert early.recv_message() == "still here"
            time.sleep(0.01)
        starved.rename(tmp_path / "over")
        tried = (tmp_path / "over").stat().st_size
        took = time.monotonic() - begun
        # At most twice each time: for one to keep, and for one to refuse.
        assert tried <= 2 * (took / PAUSE_S + 2), "it spins"
        # Nobody who has waited was lost, or told anything else.
        for client in waiting:
            assert client.recv_response().status == 101
            client.send_frame(TEXT, "in at last")
            assert client.recv_message() == "in at last"
            client.close_cleanly()
        wait_until(lambda: process.fds() == before, "the descriptors are what they were")
