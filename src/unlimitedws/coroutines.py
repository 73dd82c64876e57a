"""Hooks that are coroutine functions: awaited on an asyncio loop, with a limit, on a thread of our own or elsewhere.

Imported by `helpers` when the first such hook runs: nobody else pays for importing asyncio.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias

from .threads import Thread

__all__ = ["AsyncThread", "Awaiter", "Done", "Given", "Late"]

Done: TypeAlias = Callable[[Any, BaseException | None], object]
"""Called with what was awaited, or with what it raised."""


# Often enough that those who come and go do not pile up; asking a thousand takes less than a millisecond.
_LOOK_INTERVAL = 0.25


class Late(Exception):
    """The time for it was over, nobody wanted it any more, or the server stopped, before it was done."""


class Given:
    """Something awaitable that is there already, as work for an `Awaiter`. For one call.

    Args:
        work: A coroutine, mostly.
    """

    __slots__ = ("_work",)

    def __init__(self, work: Awaitable[Any]) -> None:
        self._work: Awaitable[Any] | None = work

    def __call__(self) -> Awaitable[Any]:
        work, self._work = self._work, None
        assert work is not None, "called once"
        return work

    def drop(self) -> None:
        """Have done with it. Where it was not called, nobody awaits its coroutine, of which asyncio would complain."""
        work, self._work = self._work, None
        if isinstance(work, Coroutine):
            work.close()


class _Job:
    """What is awaited, and for whom."""

    __slots__ = ("_done", "_told", "is_late", "wanted", "work")

    def __init__(self, work: Callable[[], Awaitable[object]], done: Done, wanted: Callable[[], bool]) -> None:
        self.work = work
        self.wanted = wanted
        self.is_late = False
        self._done = done
        self._told = False

    def tell(self, result: object, error: BaseException | None) -> None:
        """Call done; the first outcome counts."""
        if not self._told:
            self._told = True
            self._done(result, error)


class Awaiter:
    """Awaits on an asyncio loop, each thing for a limited time. All of it on the loop's thread.

    Args:
        loop: It stays the caller's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._closing = False
        self._tasks: dict[asyncio.Task[None], _Job] = {}
        # Also those that have no task yet: the loop may be blocked for long.
        self._jobs: set[_Job] = set()
        self._looking: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return how much is to be awaited and not done yet, whether it has begun or not. Thread: any."""
        return len(self._jobs)

    def begin(
        self,
        work: Callable[[], Awaitable[object]],
        limit: float,
        done: Done,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Call work and await what it returns, then call done.

        Args:
            work: Typically a coroutine function with its arguments.
            limit: Seconds; then it is cancelled, and done gets a `Late`. So it does after `cancel`.
            done: Must not raise, and not block.
            wanted: Asked now and then. When it says no, it is as if the limit were over. As done.
        """
        self._start(self._enlisted(work, done, wanted), limit)

    def cancel(self) -> None:
        """Cancel what is awaited; it ends when the loop comes to it."""
        self._closing = True
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        for task in self._tasks:
            task.cancel()

    def _enlisted(self, work: Callable[[], Awaitable[object]], done: Done, wanted: Callable[[], bool]) -> _Job:
        job = _Job(work, done, wanted)
        self._jobs.add(job)
        return job

    def _tell(self, job: _Job, result: object, error: BaseException | None) -> None:
        # First this: what follows may be the next hook of the same request, which takes its place.
        self._jobs.discard(job)
        job.tell(result, error)

    def _start(self, job: _Job, limit: float) -> None:
        task = self._loop.create_task(self._watch(job, limit))
        # The loop itself holds its tasks weakly.
        self._tasks[task] = job
        task.add_done_callback(self._over)
        if self._looking is None:
            self._looking = self._loop.call_later(_LOOK_INTERVAL, self._look)

    def _over(self, task: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step ends without a word.
        self._tell(self._tasks.pop(task), None, Late())

    def _look(self) -> None:
        """Cancel what nobody wants any more: who has gone must not take the place of others."""
        for task, job in self._tasks.items():
            if not job.is_late and not job.wanted():
                job.is_late = True
                task.cancel()
        self._looking = self._loop.call_later(_LOOK_INTERVAL, self._look) if self._tasks else None

    async def _watch(self, job: _Job, limit: float) -> None:
        task = asyncio.current_task()
        assert task is not None, "a coroutine of ours runs in a task"

        def expire() -> None:
            job.is_late = True
            task.cancel()

        timer = self._loop.call_later(limit, expire)
        result: object = None
        error: BaseException | None = None
        try:
            result = await job.work()
        except asyncio.CancelledError as exc:
            if job.is_late or self._closing or _is_told_to_end(task):
                error = Late()
            else:
                # It has awaited something that somebody else cancelled. Not to be taken for an order to us.
                error = RuntimeError("the hook was cancelled")
                error.__cause__ = exc
        except GeneratorExit as exc:
            if self._loop.is_closed():
                # Nobody will go on with this coroutine, and it is thrown away.
                raise
            error = exc
        except BaseException as exc:
            # KeyboardInterrupt and SystemExit too: out of a task they would end the loop of all.
            error = exc
        finally:
            timer.cancel()
        try:
            self._tell(job, result, error)
        finally:
            # The traceback holds this frame, and the frame would hold the exception.
            del error


class AsyncThread(Awaiter):
    """A daemon thread that runs an asyncio loop until `close`.

    Args:
        fatal: Called with what comes out of the asyncio loop itself: `KeyboardInterrupt` or `SystemExit`, raised
            by a task of the application's own.
    """

    def __init__(self, fatal: Callable[[BaseException], object]) -> None:
        super().__init__(asyncio.new_event_loop())
        self._fatal = fatal
        self.thread = Thread(self._run, "unlimitedws-async")
        try:
            self.thread.start()
        except BaseException:
            self._loop.close()
            raise

    def submit(
        self,
        work: Callable[[], Awaitable[object]],
        limit: float,
        done: Done,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """As `begin`, from any thread: work and done run on ours. Not after `close`."""
        job = self._enlisted(work, done, wanted)
        try:
            self._loop.call_soon_threadsafe(self._start, job, limit)
        except BaseException:
            self._jobs.discard(job)
            raise

    def close(self) -> None:
        """Cancel what is left and end the thread; returns at once."""
        self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._closing = True
        self._loop.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._closing:
            self._guarded(self._loop.run_forever)
        try:
            while tasks := asyncio.all_tasks(self._loop):
                for task in tasks:
                    task.cancel()
                self._guarded(partial(self._loop.run_until_complete, _all_of(tasks)))
            self._guarded(partial(self._loop.run_until_complete, self._loop.shutdown_asyncgens()))
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
        except BaseException as exc:
            self._fatal(exc)


def _is_told_to_end(task: asyncio.Task[None]) -> bool:
    """Tell whether a task itself was cancelled, as all are at the end of `asyncio.run`; Python 3.10 cannot tell."""
    return sys.version_info >= (3, 11) and task.cancelling() > 0


async def _all_of(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks)
