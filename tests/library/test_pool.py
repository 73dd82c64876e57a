from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from library.programs import PATIENCE

from unlimitedws import Pool, ScheduleTimeoutError, UnlimitedWSError


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What jobs wait for; open at the end, so that a test that fails leaves no thread behind."""
    event = threading.Event()
    yield event
    event.set()


def held(pool: Pool, gate: threading.Event) -> None:
    """Schedule a job that waits for the gate, and wait until it runs."""
    running = threading.Event()

    def job() -> None:
        running.set()
        gate.wait(PATIENCE)

    pool.schedule(job)
    assert running.wait(PATIENCE)


# The original's five


def test_pool_of_10_workers_and_10_jobs() -> None:
    with Pool(10, 10):
        pass


def test_no_worker() -> None:
    with pytest.raises(ValueError, match=r"^no worker$"):
        Pool(0, 3)


def test_no_job_in_queue() -> None:
    with pytest.raises(ValueError, match=r"^no job in queue$"):
        Pool(5, 0)


def test_every_job_runs() -> None:
    done: list[int] = []
    with Pool(5, 5) as pool:
        for i in range(5):
            pool.schedule(lambda i=i: done.append(i))  # type: ignore[misc]
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_full_queue_times_out(gate: threading.Event) -> None:
    ran: list[str] = []
    with Pool(1, 1) as pool:
        held(pool, gate)
        pool.schedule(lambda: ran.append("waited"))
        with pytest.raises(ScheduleTimeoutError):
            pool.schedule_timeout(0.01, lambda: ran.append("too late"))
        gate.set()
    assert ran == ["waited"]


def test_room_in_time_is_no_timeout(gate: threading.Event) -> None:
    ran: list[str] = []
    with Pool(1, 1) as pool:
        held(pool, gate)
        pool.schedule(lambda: ran.append("first"))
        threading.Thread(target=gate.set).start()
        pool.schedule_timeout(PATIENCE, lambda: ran.append("second"))
    assert ran == ["first", "second"]


# And more


@pytest.mark.parametrize(
    ("workers", "jobs", "error", "message"),
    [
        (-1, 1, ValueError, "workers must be from 1"),
        (1, -1, ValueError, "jobs must be from 1"),
        (10**6, 1, ValueError, "workers must be from 1"),
        (1.0, 1, TypeError, "workers must be an int"),
        (1, "1", TypeError, "jobs must be an int"),
        (True, 1, TypeError, "workers must be an int"),
    ],
)
def test_impossible_size_is_refused(workers: Any, jobs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Pool(workers, jobs)


def test_threads_start_when_they_are_needed_and_no_more_than_allowed(gate: threading.Event) -> None:
    before = threading.active_count()
    with Pool(2, 10) as pool:
        assert threading.active_count() == before
        held(pool, gate)
        assert threading.active_count() == before + 1
        held(pool, gate)
        for _ in range(5):
            pool.schedule(lambda: None)
        assert threading.active_count() == before + 2
        gate.set()


def test_all_workers_run_at_the_same_time() -> None:
    together = threading.Barrier(4, timeout=PATIENCE)
    passed: list[int] = []

    def job() -> None:
        passed.append(together.wait())

    with Pool(4, 1) as pool:
        for _ in range(4):
            pool.schedule(job)
    assert sorted(passed) == [0, 1, 2, 3]


def test_jobs_of_one_worker_run_in_order() -> None:
    done: list[int] = []
    with Pool(1, 3) as pool:
        for i in range(200):
            pool.schedule(lambda i=i: done.append(i))  # type: ignore[misc]
    assert done == list(range(200))


def test_many_threads_may_schedule() -> None:
    done: list[int] = []

    def feed(pool: Pool) -> None:
        for i in range(250):
            pool.schedule(lambda i=i: done.append(i))  # type: ignore[misc]

    with Pool(3, 2) as pool:
        feeders = [threading.Thread(target=feed, args=(pool,)) for _ in range(4)]
        for feeder in feeders:
            feeder.start()
        for feeder in feeders:
            feeder.join(PATIENCE)
    assert sorted(done) == sorted(list(range(250)) * 4)


def test_timeout_of_nothing_does_not_wait(gate: threading.Event) -> None:
    with Pool(1, 1) as pool:
        held(pool, gate)
        pool.schedule_timeout(0, lambda: None)
        with pytest.raises(ScheduleTimeoutError):
            pool.schedule_timeout(timedelta(0), lambda: None)
        gate.set()


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf")])
def test_impossible_timeout_is_refused(timeout: float) -> None:
    with Pool(1, 1) as pool, pytest.raises(ValueError, match="timeout: must be from 0"):
        pool.schedule_timeout(timeout, lambda: None)


def test_what_cannot_be_called_is_refused() -> None:
    job: Any = 7
    with Pool(1, 1) as pool, pytest.raises(TypeError, match="7 cannot be called"):
        pool.schedule(job)


def test_schedule_timeout_error_is_ours_and_a_timeout_error() -> None:
    assert issubclass(ScheduleTimeoutError, UnlimitedWSError)
    assert issubclass(ScheduleTimeoutError, TimeoutError)
    assert str(ScheduleTimeoutError()) == "schedule timeout"


@pytest.mark.parametrize("exc", [ValueError("broken"), SystemExit(3), KeyboardInterrupt()])
def test_worker_outlives_a_job_that_raises(exc: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    names: list[str] = []

    def bad() -> None:
        names.append(threading.current_thread().name)
        raise exc

    with Pool(1, 2) as pool:
        pool.schedule(bad)
        pool.schedule(lambda: names.append(threading.current_thread().name))
    assert len(names) == 2
    assert len(set(names)) == 1
    [record] = caplog.records
    assert record.name == "unlimitedws"
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is exc


def test_close_runs_what_waits_and_ends_the_threads(gate: threading.Event) -> None:
    before = threading.active_count()
    ran: list[str] = []
    pool = Pool(1, 2)
    held(pool, gate)
    pool.schedule(lambda: ran.append("waited"))
    gate.set()
    pool.close(PATIENCE)
    pool.close(PATIENCE)
    assert ran == ["waited"]
    assert threading.active_count() == before


def test_closed_pool_takes_no_job() -> None:
    pool = Pool(1, 1)
    pool.close()
    with pytest.raises(RuntimeError, match="the pool is closed"):
        pool.schedule(lambda: None)
    with pytest.raises(RuntimeError, match="the pool is closed"):
        pool.schedule_timeout(PATIENCE, lambda: None)


def test_close_releases_who_waits_for_room(gate: threading.Event) -> None:
    pool = Pool(1, 1)
    held(pool, gate)
    pool.schedule(lambda: None)
    raised: list[BaseException] = []

    def blocked() -> None:
        try:
            pool.schedule(lambda: None)
        except RuntimeError as exc:
            raised.append(exc)

    waiter = threading.Thread(target=blocked)
    waiter.start()
    with pytest.raises(TimeoutError, match="1 of the pool's threads still run"):
        pool.close(0)
    waiter.join(PATIENCE)
    assert [str(exc) for exc in raised] == ["the pool is closed"]
    gate.set()
    pool.close(PATIENCE)


def test_job_may_close_its_own_pool() -> None:
    closed = threading.Event()
    pool = Pool(1, 1)

    def job() -> None:
        pool.close()
        closed.set()

    pool.schedule(job)
    assert closed.wait(PATIENCE)


def crew(pool: Pool, count: int) -> None:
    """Have so many threads start, and wait until all of them have had a job."""
    together = threading.Barrier(count + 1, timeout=PATIENCE)
    for _ in range(count):
        pool.schedule(together.wait)
    together.wait()


def test_threads_that_are_idle_are_not_held_up_by_jobs_that_block(gate: threading.Event) -> None:
    # Only one of them is called at a time, and it calls the next.
    for _ in range(50):
        blocked = threading.Event()
        with Pool(4, 8) as pool:
            crew(pool, 4)
            for _ in range(3):
                pool.schedule(lambda blocked=blocked: blocked.wait(PATIENCE))  # type: ignore[misc]
            pool.schedule(blocked.set)
            assert blocked.wait(PATIENCE)
            assert len(pool.threads()) == 4


def test_job_that_schedules_another_and_waits_for_it_gets_it_run() -> None:
    done = threading.Event()
    results: list[bool] = []

    def job(pool: Pool) -> None:
        pool.schedule(done.set)
        results.append(done.wait(PATIENCE))

    with Pool(2, 2) as pool:
        crew(pool, 2)
        pool.schedule(lambda: job(pool))
        assert done.wait(PATIENCE)
    assert results == [True]


def test_close_ends_threads_that_are_idle_though_one_is_at_work(gate: threading.Event) -> None:
    pool = Pool(5, 5)
    crew(pool, 5)
    held(pool, gate)
    with pytest.raises(TimeoutError):
        pool.close(0)
    deadline = time.monotonic() + PATIENCE
    while len(pool.threads()) > 1:
        assert time.monotonic() < deadline, f"{pool} has idle threads"
        time.sleep(0.001)
    gate.set()
    pool.close(PATIENCE)
    assert not pool.threads()


def test_thread_that_cannot_start_is_an_error_only_where_there_is_no_other(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ran: list[str] = []
    with Pool(3, 3) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            with pytest.raises(RuntimeError, match="can't start"):
                pool.schedule(lambda: ran.append("never"))
        held(pool, gate)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            pool.schedule(lambda: ran.append("waited"))
        assert "goes on with 1 of 3 threads" in caplog.text
        assert ran == []
        # The next one can start, and takes what waits.
        pool.schedule(gate.set)
    assert ran == ["waited"]


@pytest.mark.parametrize("job", ["lambda: None", "threading.Event().wait"])
def test_pool_does_not_keep_the_interpreter_alive(script: Callable[[str], Any], job: str) -> None:
    text = f"import threading, unlimitedws\nunlimitedws.Pool(2, 2).schedule({job})\n"
    assert script(text).end() == (0, "", "")


def test_idle_thread_keeps_nothing_of_its_last_job() -> None:
    class Job:
        def __init__(self) -> None:
            self.done = threading.Event()

        def __call__(self) -> None:
            self.done.set()

    with Pool(1, 1) as pool:
        job = Job()
        ref, done = weakref.ref(job), job.done
        pool.schedule(job)
        del job
        assert done.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while ref() is not None:
            assert time.monotonic() < deadline, "the job is kept"
            time.sleep(0.001)
