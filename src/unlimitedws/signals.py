"""SIGINT and SIGTERM while the main thread waits: handled, and never slept through.

A lock is not enough to wait with: a signal that arrives after the interpreter last looked and before the
thread sleeps is noticed when the next one comes. What the C handler writes into a pipe waits there for us.
"""

from __future__ import annotations

import contextlib
import operator
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SignalWaiter"]

# A handler that does nothing, and has no frame that the next signal could interrupt. SIG_IGN has Python complain of
# a signal that came in just before.
_nothing = operator.is_


class SignalWaiter:
    """A context in which a handler gets SIGINT and SIGTERM, and a place to wait in meanwhile.

    Left alone: signals that are ignored (nohup, a shell's background job), and those that C code handles,
    which could not be put back. In a thread that is not the main one it only waits.

    Args:
        handler: Called with the signal, between two steps of whatever the main thread does: it must take no lock.
            Where it returns False it wants no more of them, and they are ignored until the end of the context:
            in a storm of signals each handler would be interrupted by the next, and in the end there is no stack.
    """

    def __init__(self, handler: Callable[[int], bool]) -> None:
        self._handler = handler
        self._previous: dict[signal.Signals, signal._HANDLER] = {}
        self._previous_fd = -1
        self._main = threading.current_thread() is threading.main_thread()
        # Keeps a late `wake` from writing into a pipe that is closed, or into what has its number now.
        self._lock = threading.Lock()
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        if self._main:
            self._previous_fd = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._main:
            signal.set_wakeup_fd(self._previous_fd)
        with self._lock:
            pipe, self._pipe = self._pipe, None
        if pipe is not None:
            os.close(pipe[0])
            os.close(pipe[1])

    def wait(self, event: threading.Event) -> None:
        """Wait until the event is set; who sets it calls `wake` afterwards."""
        assert self._pipe is not None, "wait is for the inside of the context"
        while not event.is_set():
            os.read(self._pipe[0], 4096)

    def wake(self) -> None:
        """Let `wait` look again. Harmless after the context. Thread: any."""
        with self._lock:
            if self._pipe is not None:
                # A full pipe wakes as well as one byte does.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._pipe[1], b"\0")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._handler(number):
            for each in self._previous:
                signal.signal(each, _nothing)
