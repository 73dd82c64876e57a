"""The engine's load generator by itself: what it refuses, how it is ordered about, what it leaves."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest
from raw_server import RawServer, echo

from _uws import load
from unlimitedws.loadgen.target import Target, pack, request

REQUEST, KEY_AT = request(Target.parse("ws://127.0.0.1/"), (), ())
GOOD: dict[str, Any] = {
    "threads": 1, "request": REQUEST, "key_at": KEY_AT, "targets": [pack("127.0.0.1", 9)], "sources": [],
    "payloads": os.urandom(64), "size": 16, "text": False, "pipelining": 1, "rate": 0.0, "connect_rate": 0.0,
    "connecting": 8, "publishers": 0, "others_only": False, "protocols": b"", "any_reply": False, "abort": False,
    "greeting": 0, "max_head_bytes": 4096, "connect_timeout": 1.0, "handshake_timeout": 1.0, "reply_timeout": 1.0,
    "close_timeout": 1.0, "run_id": 7,
}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"targets": []}, {"threads": 0}, {"connecting": 0}, {"pipelining": 0}, {"key_at": len(REQUEST) - 23},
        {"key_at": -1}, {"request": b""}, {"request": bytes(70_000)}, {"payloads": os.urandom(48)}, {"payloads": b""},
        {"payloads": os.urandom(65)}, {"size": (1 << 30) + 1}, {"rate": -1.0}, {"connect_rate": -1.0},
        {"close_timeout": -1.0}, {"targets": [b"x"]}, {"targets": [bytes(200)]}, {"sources": [b""]},
    ],
    ids=str,
)  # fmt: skip
def test_a_plan_that_does_not_fit_together_is_refused(wrong: dict[str, Any]) -> None:
    load.Plan("echo", **GOOD)
    with pytest.raises(ValueError):
        load.Plan("echo", **{**GOOD, **wrong})


def test_modes_that_do_not_exist_and_publications_that_are_too_short() -> None:
    with pytest.raises(KeyError):
        load.Plan("ping", **GOOD)
    with pytest.raises(ValueError, match="at least 24 bytes"):
        load.Plan("broadcast", **{**GOOD, "publishers": 1})


def test_a_load_belongs_to_a_thread_of_its_plan() -> None:
    plan = load.Plan("echo", **{**GOOD, "threads": 2})
    with pytest.raises(ValueError):
        load.Load(plan, 2, 5, 0)
    broadcast = load.Plan("broadcast", **{**GOOD, "size": 32, "publishers": 3})
    with pytest.raises(ValueError):
        load.Load(broadcast, 0, 2, 0)


def test_phases_go_forward_only(no_fd_leaks: None) -> None:
    one = load.Load(load.Plan("echo", **GOOD), 0, 0, 0)
    one.order(load.MEASURE)
    for phase in (load.WARM, -1, load.END + 1):
        with pytest.raises(ValueError):
            one.order(phase)
    one.order(load.END)
    one.run()
    assert one.shown()["phase"] == load.END
    with pytest.raises(RuntimeError):
        one.run()


def test_an_end_in_the_middle_of_everything_leaves_nothing_open(no_fd_leaks: None) -> None:
    with RawServer(echo) as server:
        port = int(server.url.rpartition(":")[2].rstrip("/"))
        for phase in (load.RAMP, load.WARM, load.MEASURE, load.DRAIN):
            plan = load.Plan("echo", **{**GOOD, "targets": [pack("127.0.0.1", port)], "pipelining": 4})
            one = load.Load(plan, 0, 6, 0)
            thread = threading.Thread(target=one.run)
            thread.start()
            while one.shown()["open"] < 6:
                time.sleep(0.005)
            one.order(phase)
            while one.shown()["phase"] < phase:
                time.sleep(0.005)
            one.order(load.END)
            thread.join(10)
            assert not thread.is_alive()
            figures = one.figures()
            assert figures["errors"] == {}
            assert (figures["seconds"] > 0) == (phase == load.MEASURE)


def test_a_plan_lives_as_long_as_its_loads(no_fd_leaks: None) -> None:
    one = load.Load(load.Plan("echo", **GOOD), 0, 3, 0)
    one.order(load.END)
    one.run()
    assert one.latency() == (0, [])
