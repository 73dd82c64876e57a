"""core: loops as objects of Python: settings, exceptions of callbacks, runners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from live import wait_until
from loops import SETTINGS, echo, running
from raw import TEXT

from _uws.core import Loop

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

ROOT = Path(__file__).resolve().parents[2]
each_runners = pytest.mark.parametrize("runners", [1, 3])


class Thing:
    """What a weak reference can be made to."""


# --- exceptions ---


def test_spawn_that_raises_leaves_the_runners_there_are() -> None:
    def spawn() -> None:
        raise RuntimeError("no thread")

    with running(runners=4, on_message=echo, spawn=spawn) as engine:
        client = engine.connect()

        def talk(count: int = 1) -> None:
            for _ in range(count):
                client.send_frame(TEXT, "x")
                assert client.recv_message() == "x"

        # Not with every message, which would be a log line each; but again: threads may be had later.
        talk(300)
        assert 1 <= engine.spawned < 30

        def asked_again() -> bool:
            talk()
            return engine.spawned > 1

        wait_until(asked_again, "it asks again")
        assert engine.counter("runners") == 1


# --- settings ---


def make(settings: dict[str, Any], page: Any = None) -> Loop:
    return Loop(settings, lambda: None, lambda *_: None, page)


def test_page_is_bytes() -> None:
    with pytest.raises(TypeError):
        make(SETTINGS, "text")


def test_unknown_hook_and_time_are_refused() -> None:
    loop = make(SETTINGS)
    with pytest.raises(ValueError, match="on_fun"):
        loop.set_hook("on_fun", None)
    with pytest.raises(ValueError, match="fun_us"):
        loop.set_time("fun_us", 1)
    for value in (-1, 1 << 32):
        with pytest.raises(ValueError):
            loop.set_time("io_timeout_us", value)
    loop.set_time("io_timeout_us", (1 << 32) - 1)


def test_counters_are_all_zero_before_anything_happens() -> None:
    counters = make(SETTINGS).counters()
    assert counters.pop("slab_held_bytes") >= 0
    assert set(counters.values()) == {0}
    assert all(type(value) is int for value in counters.values())
