"""Threads that find no memory for their beginning. That is planted: the kernel cannot be made to refuse just that."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import pytest
from library.programs import PATIENCE
from raw import TEXT, RawClient

import unlimitedws
from unlimitedws.threads import Thread

Ends = Callable[[str], None]


def test_it_runs_as_any_other_thread() -> None:
    found = []
    thread = Thread(lambda: found.append(threading.current_thread()), "worker")
    assert thread.daemon
    assert thread.name == "worker"
    assert not thread.is_alive()
    thread.start()
    thread.join(PATIENCE)
    assert found == [thread]
    assert not thread.is_alive()
    assert thread not in threading.enumerate()
    with pytest.raises(RuntimeError, match="once"):
        thread.start()


def test_it_keeps_nothing_when_it_has_ended() -> None:
    thread = Thread(lambda: None, "worker")
    thread.start()
    thread.join(PATIENCE)
    gone = weakref.ref(thread)
    del thread
    assert gone() is None


@pytest.fixture(params=["_bootstrap_inner", "run"])
def ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ends:
    """Have the threads of a name end before they have said that they begin, or after that."""
    owner = threading.Thread if request.param == "_bootstrap_inner" else Thread
    real = getattr(owner, request.param)
    names = set()

    def begin(thread: threading.Thread) -> None:
        if thread.name in names:
            raise MemoryError
        real(thread)

    monkeypatch.setattr(owner, request.param, begin)
    return names.add


ignored = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@ignored
def test_one_that_never_begins_raises_where_it_is_started(ends: Ends) -> None:
    ends("worker")
    ran = []
    thread = Thread(lambda: ran.append(1), "worker")
    with pytest.raises(RuntimeError, match="ended before it began"):
        thread.start()
    assert not ran
    assert not thread.is_alive()
    assert thread not in threading.enumerate()


@ignored
def test_a_server_goes_on_with_the_runners_it_has_and_stops(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    ends("unlimitedws-2")
    server = unlimitedws.DefaultServer("127.0.0.1:0")
    server.on_message = lambda conn, message: conn.send(message)
    with server, RawClient(server.local_addr.port) as client:
        client.send_frame(TEXT, b"hello")
        assert client.recv_message() == "hello"
    assert not server.running
    assert "have to do with 1 threads" in caplog.text


@ignored
def test_a_server_whose_first_runner_never_begins_does_not_start(ends: Ends) -> None:
    ends("unlimitedws-1")
    server = unlimitedws.Server("127.0.0.1:0")
    with pytest.raises(RuntimeError, match="ended before it began"):
        server.start()
    assert not server.running


@ignored
def test_a_pool_goes_on_with_the_threads_it_has(ends: Ends) -> None:
    ends("unlimitedws-pool-2")
    gate, done = threading.Event(), threading.Event()
    with unlimitedws.Pool(2, 10) as pool:
        pool.schedule(lambda: gate.wait(PATIENCE))
        pool.schedule(done.set)
        gate.set()
        assert done.wait(PATIENCE)


@ignored
def test_a_pool_without_a_thread_refuses_the_job(ends: Ends) -> None:
    ends("unlimitedws-pool-1")
    ran = threading.Event()
    with unlimitedws.Pool(2, 10) as pool:
        with pytest.raises(RuntimeError, match="ended before it began"):
            pool.schedule(ran.set)
        assert not pool.threads()
        pool.schedule(ran.set)
        assert ran.wait(PATIENCE)


def test_a_server_keeps_no_runner_that_has_ended_long_ago() -> None:
    server = unlimitedws.NewServer("127.0.0.1:0")
    with server:
        run = server._run
        assert run is not None
        gone = []
        for _ in range(5):
            # As a helper does that had no memory to begin with.
            thread = threading.Thread(target=run._leave)
            thread.start()
            thread.join(PATIENCE)
            gone.append(weakref.ref(thread))
            del thread
        assert sum(thread() is not None for thread in gone) == 1
