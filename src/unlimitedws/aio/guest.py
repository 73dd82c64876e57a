"""The engine inside an asyncio event loop: its loop is a guest's, and its thread the one that runs callbacks.

The event loop watches two descriptors of the engine's. While it is blocked, or waits for the GIL, the engine's watchdog
does what needs no Python. Nothing here waits, but for the end of the interpreter.
"""

from __future__ import annotations

import asyncio
import logging
import select
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ..coroutines import Awaiter, Done
from ..helpers import Helpers
from ..serving import Serving

__all__ = ["Guest", "LoopHelpers"]

logger = logging.getLogger("unlimitedws")

# Of Loop.visit().
_STOPPED = 0
_AGAIN = 1

_EXIT_POLL_MS = 20
_HOOKS = ("on_connect", "on_message", "on_drain", "on_pong", "on_close", "on_request", "on_route")


class Guest(Serving):
    """One run of a server, driven by the event loop that is running when it is started. See `Serving`."""

    _aio: asyncio.AbstractEventLoop
    _thread: threading.Thread | None = None
    _fds: tuple[int, int] = (-1, -1)
    _is_due = False

    def start(self) -> None:
        """Begin to serve.

        Raises:
            RuntimeError: No event loop is running.
            OSError: The engine gets no descriptor or no thread.
        """
        try:
            self._aio = asyncio.get_running_loop()
            self._thread = threading.current_thread()
            (engine,) = self.loops
            self._fds = engine.enter()
            self._visit = engine.visit
        except BaseException:
            self._end()
            raise
        self._enlist()
        for fd in self._fds:
            self._aio.add_reader(fd, self._readable)

    def threads(self) -> set[threading.Thread]:
        """See `Serving`: tasks are callbacks, too, and what they would wait for is their own event loop."""
        return super().threads() | ({self._thread} if self._thread is not None else set())

    def _readable(self) -> None:
        if not self._is_due:
            self._turn()

    def _turn(self) -> None:
        self._is_due = False
        try:
            found = self._visit()
        except Exception as exc:
            logger.critical("the engine failed", exc_info=exc)
            self.shut_for(exc, 0)
            raise
        if found == _AGAIN:
            # Behind the tasks that were woken: what they send leaves then, and all of it together.
            self._is_due = True
            self._aio.call_soon(self._turn)
        elif found == _STOPPED:
            self._finish()
        raised, self.raised = self.raised, None
        if raised is not None and not isinstance(raised, Exception):
            # KeyboardInterrupt or SystemExit out of a callback: the event loop's to deal with.
            try:
                raise raised
            finally:
                del raised

    def _finish(self) -> None:
        """Nobody is left."""
        if not self._aio.is_closed():
            for fd in self._fds:
                self._aio.remove_reader(fd)
        (engine,) = self.loops
        engine.leave()
        self._end()

    def wait_at_exit(self, timeout: float) -> None:
        """See `Serving`. Where the event loop is not running any more, we are the one who visits."""
        if self._aio.is_running():
            super().wait_at_exit(timeout)
            return
        if self.ended.is_set():
            # Since we were found to run, by the event loop of another thread.
            return
        (engine,) = self.loops
        # Nobody is left whom it could be told.
        for name in _HOOKS:
            engine.set_hook(name, None)
        deadline = time.monotonic() + timeout
        poll = select.poll()
        for fd in self._fds:
            poll.register(fd, select.POLLIN)
        while not self.ended.is_set() and time.monotonic() < deadline:
            found = self._visit()
            if found == _STOPPED:
                self._finish()
            elif found != _AGAIN:
                poll.poll(_EXIT_POLL_MS)


class LoopHelpers(Helpers):
    """What hooks of the handshake run on, in a server of asyncio's: the event loop, plain ones and coroutines."""

    def __init__(self, fatal: Callable[[BaseException], object]) -> None:
        super().__init__(0, fatal)
        self._awaiter = Awaiter(asyncio.get_running_loop())

    def submit_async(
        self, work: Callable[[], Awaitable[object]], limit: float, done: Done, wanted: Callable[[], bool]
    ) -> bool:
        """See `Helpers`. Thread: the event loop's."""
        if self._closed or not self._has_room(self._awaiter):
            return False
        self._awaiter.begin(work, limit, done, wanted)
        return True

    def threads(self) -> set[Any]:
        """Return none: there are none but the event loop's."""
        return set()

    def close(self) -> None:
        """Take no more, and cancel what is awaited. Does not wait. Thread: the event loop's."""
        self._closed = True
        self._awaiter.cancel()
