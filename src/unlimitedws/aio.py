"""An asyncio loop on a thread of its own, for hooks that are coroutine functions.

Imported by `helpers` when the first such hook runs: nobody else pays for importing asyncio. Any thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

__all__ = ["AsyncThread", "Done", "Late"]

Done: TypeAlias = Callable[[Any, BaseException | None], object]
"""Called with what was awaited, or with what it raised."""


class Late(Exception):
    """The time for it was over, or the server stopped, before it was done."""


class AsyncThread:
    """A daemon thread that runs an asyncio loop until `close`.

    Args:
        fatal: Called with what comes out of the asyncio loop itself: `KeyboardInterrupt` or `SystemExit`, raised
            by a task of the application's own.
    """

    def __init__(self, fatal: Callable[[BaseException], object]) -> None:
        self._fatal = fatal
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="unlimitedws-async", daemon=True)
        try:
            self.thread.start()
        except BaseException:
            self._loop.close()
            raise

    def __len__(self) -> int:
        """Return how much is being awaited."""
        return len(self._tasks)

    def submit(self, work: Callable[[], Awaitable[object]], limit: float, done: Done) -> None:
        """Call work on the thread and await what it returns, then call done there. Not after `close`.

        Args:
            work: Typically a coroutine function with its arguments.
            limit: Seconds; then it is cancelled, and done gets a `Late`. So it does when the thread closes.
            done: Must not raise, and not block.
        """
        self._loop.call_soon_threadsafe(self._start, work, limit, done)

    def close(self) -> None:
        """Cancel what is left and end the thread; returns at once."""
        self._loop.call_soon_threadsafe(self._stop)

    def _start(self, work: Callable[[], Awaitable[object]], limit: float, done: Done) -> None:
        task = self._loop.create_task(self._watch(work, limit, done))
        # The loop itself holds its tasks weakly.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stop(self) -> None:
        self._closing = True
        self._loop.stop()

    async def _watch(self, work: Callable[[], Awaitable[object]], limit: float, done: Done) -> None:
        task = asyncio.current_task()
        assert task is not None, "a coroutine of ours runs in a task"
        is_late = False

        def expire() -> None:
            nonlocal is_late
            is_late = True
            task.cancel()

        timer = self._loop.call_later(limit, expire)
        result: object = None
        error: BaseException | None = None
        try:
            result = await work()
        except asyncio.CancelledError as exc:
            if is_late or self._closing:
                error = Late()
            else:
                # It has awaited something that somebody else cancelled. Not to be taken for an order to us.
                error = RuntimeError("the hook was cancelled")
                error.__cause__ = exc
        except GeneratorExit:
            raise
        except BaseException as exc:
            # KeyboardInterrupt and SystemExit too: out of a task they would end the loop of all.
            error = exc
        finally:
            timer.cancel()
        try:
            done(result, error)
        finally:
            # The traceback holds this frame, and the frame would hold the exception.
            del error

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


async def _all_of(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks)
