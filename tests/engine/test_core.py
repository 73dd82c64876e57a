"""core: loops as objects of Python: settings, exceptions of callbacks, runners."""

from __future__ import annotations

import gc
import queue
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from live import ping, take, wait_until
from loops import SETTINGS, echo, running
from raw import TEXT

from _uws.core import Loop

pytestmark = pytest.mark.usefixtures("no_fd_leaks")

ROOT = Path(__file__).resolve().parents[2]
each_runners = pytest.mark.parametrize("runners", [1, 3])


class Thing:
    """What a weak reference can be made to."""


# --- exceptions ---


@each_runners
@pytest.mark.parametrize("hook", ["on_connect", "on_read", "on_message", "on_close"])
@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_a_callback_raises_goes_to_failed_and_ends_its_connection_alone(
    runners: int, hook: str, kind: type[BaseException]
) -> None:
    def fail(conn: Any, *message: Any) -> None:
        if conn.path == "/bad":
            raise kind("from " + hook)

    hooks: dict[str, Any] = {hook: fail}
    with running(runners=runners, expect_failures=True, **hooks) as engine:
        good = engine.connect()
        bad = engine.connect(path="/bad")
        bad.send_frame(TEXT, "x")
        if hook == "on_close":
            bad.send_close(4000)
        assert bad.recv_close().code == (4000 if hook == "on_close" else 1011)
        failure = take(engine.failures)
        assert isinstance(failure.exc, kind) and failure.hook == hook and failure.conn.path == "/bad"
        assert engine.end()[0] == (4000 if hook == "on_close" else 1011)
        ping(good)
        bad.close()
        engine.wait_for(descriptors=1)


def test_what_failed_raises_is_unraisable_and_the_loop_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: queue.Queue[Any] = queue.Queue()
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraisable.put(args.exc_value))

    def fail(conn: Any, message: Any) -> None:
        raise ValueError(message)

    def failed(conn: Any, exc: BaseException, hook: str) -> None:
        raise RuntimeError("the reporter itself")

    with running(on_message=fail, failed=failed, expect_failures=True) as engine:
        client = engine.connect()
        client.send_frame(TEXT, "x")
        assert client.recv_close().code == 1011
        assert str(take(unraisable)) == "the reporter itself"
        ping(engine.connect())


def test_exceptions_of_callbacks_leave_no_garbage_behind() -> None:
    gone: list[weakref.ref[Any]] = []

    def fail(conn: Any, message: Any) -> None:
        thing = Thing()
        gone.append(weakref.ref(thing))
        raise ValueError(thing)

    with running(on_message=fail, expect_failures=True) as engine:
        for _ in range(5):
            client = engine.connect()
            client.send_frame(TEXT, "x")
            assert client.recv_close().code == 1011
            client.close()
        engine.wait_empty()
        while not engine.failures.empty():
            engine.failures.get()
        gc.collect()
        assert len(gone) == 5 and all(ref() is None for ref in gone)


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


@pytest.mark.parametrize("name", SETTINGS)
def test_missing_setting_is_a_key_error_that_names_it(name: str) -> None:
    settings = dict(SETTINGS)
    del settings[name]
    with pytest.raises(KeyError, match=name):
        make(settings)


def test_unknown_setting_is_a_key_error_that_names_it() -> None:
    with pytest.raises(KeyError, match="max_fun"):
        make({**SETTINGS, "max_fun": 1})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("compression_level", (-2, 10)),
        ("compression_mem_level", (0, 10)),
        ("compression_server_bits", (0, 8, 16, 255)),
        ("compression_client_bits", (0, 8, 16, 255)),
    ],
)
def test_settings_that_would_lead_out_of_a_table_are_refused(name: str, wrong: tuple[int, ...]) -> None:
    for value in wrong:
        with pytest.raises(ValueError, match="compression: a setting is out of range"):
            Loop({**SETTINGS, name: value}, lambda: None, lambda *_: None, None)


@pytest.mark.parametrize("value", ["x", None, -1, 1 << 70])
def test_setting_of_another_type_or_range_is_refused(value: Any) -> None:
    # In a process of its own: what goes wrong here may end it.
    program = f"""
import sys; sys.path[:0] = [{str(ROOT / "src")!r}, {str(ROOT / "tests")!r}]
from loops import SETTINGS
from _uws.core import Loop
for name in SETTINGS:
    try:
        Loop({{**SETTINGS, name: {value!r}}}, lambda: None, lambda *_: None, None)
    except (TypeError, OverflowError):
        pass
    else:
        # -1 is a level of zlib's.
        assert (name, {value!r}) == ("compression_level", -1), name
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


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
