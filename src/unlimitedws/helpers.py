"""Threads beside the engine's, for hooks that must not hold it up: started when needed, ended with the server."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from .pool import Pool

if TYPE_CHECKING:
    from .coroutines import AsyncThread, Awaiter, Done

__all__ = ["Helpers"]

# Each of those that wait holds a request, 16 KiB at most. They wait no longer than request_timeout anyway.
_MAX_JOBS = 1024
_MAX_AWAITED = 1 << 14


class Helpers:
    """Up to so many threads for functions, and one for coroutines.

    Args:
        workers: Most threads; 0: a function runs where it is submitted.
        fatal: See `AsyncThread`.
    """

    def __init__(self, workers: int, fatal: Callable[[BaseException], object]) -> None:
        self._pool = Pool(workers, _MAX_JOBS) if workers else None
        self._fatal = fatal
        self._lock = threading.Lock()
        self._asyncs: AsyncThread | None = None
        self._closed = False

    def submit(self, job: Callable[[], object]) -> bool:
        """Have a job run; False where too many wait, or after `close`. It must not raise. Thread: any."""
        if self._pool is None:
            job()
            return True
        try:
            return self._pool._put(job, 0.0)
        except RuntimeError:
            return False

    def submit_async(
        self, work: Callable[[], Awaitable[object]], limit: float, done: Done, wanted: Callable[[], bool]
    ) -> bool:
        """Await what work returns; False where too much is awaited, or after `close`.

        See `AsyncThread.submit`. Thread: any.
        """
        with self._lock:
            if self._closed:
                return False
            if self._asyncs is None:
                from .coroutines import AsyncThread

                self._asyncs = AsyncThread(self._fatal)
            if not self._has_room(self._asyncs):
                return False
            self._asyncs.submit(work, limit, done, wanted)
            return True

    @staticmethod
    def _has_room(awaiter: Awaiter) -> bool:
        return len(awaiter) < _MAX_AWAITED

    def threads(self) -> set[threading.Thread]:
        """Return the threads there are. Thread: any."""
        found = set() if self._pool is None else self._pool.threads()
        asyncs = self._asyncs
        if asyncs is not None and asyncs.thread.is_alive():
            found.add(asyncs.thread)
        return found

    def close(self) -> None:
        """Take no more, cancel what is awaited, and wait until every thread has ended.

        Thread: any but these.
        """
        with self._lock:
            asyncs, was_closed = self._asyncs, self._closed
            self._closed = True
            if asyncs is not None and not was_closed:
                asyncs.close()
        # What was awaited may still have a job for the others, so they are the last.
        if asyncs is not None:
            asyncs.thread.join()
        if self._pool is not None:
            self._pool.close()
