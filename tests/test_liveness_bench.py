"""The benchmark of liveness, small: nobody is lost while the GIL is held, and who is lost is found."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from contextlib import suppress
from typing import Any

import liveness
import pytest
import raw
import rig
from loops import HAS_GIL

pytestmark = [
    pytest.mark.skipif(shutil.which(os.environ.get("CC", "gcc")) is None, reason="no C compiler"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core"),
]
# Longer than the client's deadline of 2 s: a server that waits for the GIL misses it for sure.
HELD_S = 5.0


def held(server: rig.Server) -> dict[str, Any]:
    result: dict[str, Any] = liveness.measure(server, connections=200, seconds=HELD_S, newcomers=20, before=0.2)["held"]
    return result


@pytest.mark.parametrize("server", [rig.OURS_INLINE, rig.OURS_POOL], ids=["inline", "pool"])
def test_nobody_is_lost_and_everybody_comes_in_while_the_gil_is_held(server: rig.Server) -> None:
    result = held(server)
    wanted = {"lost": 0, "newcomers": 20, "newcomers_in_time": 20, "wrong": 0, "error": ""}
    assert {key: result[key] for key in wanted} == wanted
    # Every second each of them; what a busy machine may cost is half of that.
    assert result["pong"]["count"] >= 200 * HELD_S / 2


@pytest.mark.skipif(not HAS_GIL, reason="there is no GIL to wait for")
def test_a_server_that_waits_for_the_gil_loses_all_of_them() -> None:
    pytest.importorskip("websockets")
    result = held(rig.WEBSOCKETS)
    # Between the word that the GIL is about to be held and its being held the server may have done something yet.
    assert result["lost"] >= 200
    assert result["newcomers_in_time"] < result["newcomers"]
    assert result["pong"]["count"] < 200 * HELD_S / 2


def echo_of(kind: str, **options: Any) -> dict[str, Any]:
    """Measure a server of `websockets` that sleeps when asked to."""
    pytest.importorskip("websockets")
    server = rig.Server("websockets", "websockets_slow.py", args=("threads",))
    server_core, client_core = rig.cores()
    with rig.running(server, server_core) as (pid, port):
        return rig.probe(client_core, pid, port, "echo", 1.0, connections=10, slow=2, kind=kind, **options)


@pytest.mark.parametrize("rate", [0, 200])
def test_slow_ones_are_slow_and_not_timed(rate: int) -> None:
    result = echo_of("S", rate=rate)
    assert result["wrong"] == 0
    assert result["round_trip"]["count"] > 0
    # Two of them, which sleep 100 ms each time, for a second.
    assert 0 < result["slow_per_s"] <= 2 * 10 + 2


def test_who_is_never_answered_counts_with_the_time_that_he_waited() -> None:
    """A server that answered nobody would be the best one otherwise."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=upgrade_and_be_silent, args=(listener,))
        thread.start()
        options = {"connections": 1, "rate": 100, "seconds": 0.5, "warmup": 0}
        command = rig.probe_command(listener.getsockname()[1], "echo", options)
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=60)
        thread.join()
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["messages_per_s"] == 0
    # The first has waited for all of it, and those that were due behind it for less and less.
    assert result["round_trip"]["max_us"] >= 500_000
    assert 45 <= result["round_trip"]["count"] <= 60


def upgrade_and_be_silent(listener: socket.socket) -> None:
    peer, _ = listener.accept()
    with peer:
        lines = peer.recv(4096).decode().split("\r\n")
        key = next(line.partition(": ")[2] for line in lines if line.startswith("Sec-WebSocket-Key"))
        response = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        peer.sendall(f"{response}Sec-WebSocket-Accept: {raw.accept_of(key)}\r\n\r\n".encode())
        # The client leaves with RST.
        with suppress(ConnectionResetError):
            while peer.recv(4096):
                pass
