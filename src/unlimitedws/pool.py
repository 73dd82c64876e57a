"""A bounded pool of threads with a bounded queue, for work that should not hold a callback up.

Not what callbacks run on (`Server.set_pool`): that one is the engine's own, with the same two numbers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .durations import Duration, seconds
from .errors import ScheduleTimeoutError
from .threads import Thread

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Pool", "check_size"]

logger = logging.getLogger("unlimitedws")

# Threads are the kernel's; a number above this is a slip of the finger.
MAX_WORKERS = 1 << 15
_MAX_JOBS = 1 << 30


def check_size(workers: int, jobs: int) -> None:
    """Refuse sizes that no pool can have.

    Raises:
        TypeError: One of them is not an int.
        ValueError: workers is 0 ("no worker"), jobs is 0 ("no job in queue"), or one is negative or absurd.
    """
    for name, value, most in (("workers", workers, MAX_WORKERS), ("jobs", jobs, _MAX_JOBS)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"pool: {name} must be an int, not {value!r}")
        if not 0 <= value <= most:
            raise ValueError(f"pool: {name} must be from 1 to {most}, not {value}")
    if workers == 0:
        raise ValueError("no worker")
    if jobs == 0:
        raise ValueError("no job in queue")


class Pool:
    """At most so many threads, and at most so many jobs that wait for one.

    Threads start when there is work for them, and are daemons: they do not keep the process alive. Call
    `close`, or use ``with``, where every job has to end.

    Args:
        workers: Most threads.
        jobs: Most jobs that wait; `schedule` blocks while so many do.

    Raises:
        TypeError, ValueError: As `check_size`.
    """

    def __init__(self, workers: int, jobs: int) -> None:
        check_size(workers, jobs)
        self._workers = workers
        self._jobs = jobs
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)  # a job may be added, or the pool was closed
        self._wanting = 0  # who wait for room
        self._queue: deque[Callable[[], object]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        # Idle threads wait to acquire it: releasing it calls one of them.
        self._bell = threading.Lock()
        self._bell.acquire()
        # A thread was called, or started, and is not here yet. There is one at most: as long as those at work do not
        # block they take the next job themselves, and whoever comes calls the next one before it begins.
        self._coming = False
        self._started = 0
        self._closed = False

    def schedule(self, job: Callable[[], object]) -> None:
        """Have a job run, in the order of these calls; wait while the queue is full.

        Raises:
            TypeError: job cannot be called.
            RuntimeError: The pool is closed, or not even one thread can be started.

        Thread: any; a job that schedules into its own full pool may wait for itself.
        """
        self._put(job, None)

    def schedule_timeout(self, timeout: Duration, job: Callable[[], object]) -> None:
        """Have a job run; wait for room in the queue no longer than timeout.

        Args:
            timeout: Seconds or a `timedelta`; 0 does not wait.
            job: Called without arguments. What it returns is dropped, what it raises is logged.

        Raises:
            ScheduleTimeoutError: The queue stayed full; the job will not run.
            TypeError, ValueError: timeout is not a duration; job cannot be called.
            RuntimeError: As `schedule`.

        Thread: any.
        """
        if not self._put(job, seconds(timeout, "timeout")):
            raise ScheduleTimeoutError

    def close(self, timeout: Duration | None = None) -> None:
        """Take no more jobs, run those that wait, end the threads. Closing again waits again.

        Called by a job, it does not wait for that job.

        Args:
            timeout: Seconds or a `timedelta` to wait for the jobs; None waits until they have ended.

        Raises:
            TimeoutError: Jobs were still running or waiting; they go on.

        Thread: any.
        """
        deadline = None if timeout is None else time.monotonic() + seconds(timeout, "timeout")
        with self._lock:
            self._closed = True
            self._room.notify_all()
            # Who comes calls the next.
            self._call()
            threads = self._threads - {threading.current_thread()}
        for thread in threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        busy = sum(thread.is_alive() for thread in threads)
        if busy:
            raise TimeoutError(f"{busy} of the pool's threads still run after {timeout} s")

    def threads(self) -> set[threading.Thread]:
        """Return the threads there are, at work and idle. Thread: any."""
        with self._lock:
            return set(self._threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        with self._lock:
            state = "closed" if self._closed else f"{len(self._queue)} waiting"
            return f"<Pool workers={len(self._threads)}/{self._workers} jobs={self._jobs} {state}>"

    def _put(self, job: Callable[[], object], limit: float | None) -> bool:
        """Add a job; False where the queue stayed full for so many seconds. Raises as `schedule`."""
        if not callable(job):
            raise TypeError(f"a job is called without arguments; {job!r} cannot be called")
        with self._lock:
            if not self._may_add():
                self._wanting += 1
                try:
                    self._room.wait_for(self._may_add, limit)
                finally:
                    self._wanting -= 1
            if self._closed:
                raise RuntimeError("the pool is closed")
            if len(self._queue) >= self._jobs:
                return False
            self._queue.append(job)
            self._call()
            return True

    def _may_add(self) -> bool:
        return self._closed or len(self._queue) < self._jobs

    def _call(self) -> None:
        """Have a further thread come, unless one is on its way or all are at work. The lock is held."""
        if self._coming:
            return
        if self._idle:
            self._idle -= 1
            self._coming = True
            self._bell.release()
        elif self._queue and len(self._threads) < self._workers:
            self._start()

    def _start(self) -> None:
        """Start one more thread. The lock is held, and a job waits."""
        self._started += 1
        thread = Thread(self._run, f"unlimitedws-pool-{self._started}")
        self._threads.add(thread)
        self._coming = True
        try:
            thread.start()
        except RuntimeError:
            self._coming = False
            self._threads.discard(thread)
            if not self._threads:
                # The one that was just added: there never was a thread to leave another behind.
                self._queue.pop()
                raise
            logger.warning("the pool goes on with %d of %d threads", len(self._threads), self._workers)

    def _run(self) -> None:
        self._arrive()
        while (job := self._take()) is not None:
            try:
                job()
            # SystemExit too: there is nobody here who could obey it, and a thread less would help nobody.
            except BaseException:
                logger.exception("a job of the pool raised: %r", job)
            # Not to be kept until there is another.
            del job

    def _arrive(self) -> None:
        with self._lock:
            self._coming = False

    def _take(self) -> Callable[[], object] | None:
        """Return the next job; None when the pool is closed and has none."""
        while True:
            with self._lock:
                if self._queue:
                    job = self._queue.popleft()
                    if self._wanting:
                        self._room.notify()
                    if self._queue or self._closed:
                        # This job may block.
                        self._call()
                    return job
                if self._closed:
                    self._threads.discard(threading.current_thread())
                    self._call()
                    return None
                self._idle += 1
            self._bell.acquire()
            self._arrive()
