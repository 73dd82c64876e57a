"""dispatch: hooks, and what happens to what they raise."""

from __future__ import annotations

import gc
import queue
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from live import ping, take
from loops import running
from raw import TEXT

pytestmark = pytest.mark.usefixtures("no_fd_leaks")
ROOT = Path(__file__).resolve().parents[2]
each_runners = pytest.mark.parametrize("runners", [1, 3])


class Thing:
    """What a weak reference can be made to."""


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
