"""Signals while the main thread waits: handled, and never slept through.

A lock is not enough to wait with: a signal that arrives after the interpreter last looked and before the
thread sleeps is noticed when the next one comes. What the C handler writes into a pipe waits there for us.
"""

from __future__ import annotations

import contextlib
import math
import operator
import os
import select
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from _uws.relay import Relay

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SignalWaiter"]

# A handler that does nothing, and has no frame that the next signal could interrupt. SIG_IGN has Python complain of
# a signal that came in just before.
_nothing = operator.is_


class SignalWaiter:
    """A context in which a handler gets some signals, and a place to wait in meanwhile.

    Left alone: signals that are ignored (nohup, a shell's background job), and those that C code handles,
    which could not be put back. In a thread that is not the main one it only waits.

    Args:
        handler: Called with a signal's number between two steps of whatever the main thread does: it must take no
            lock. The next one waits until it returns. Where it returns False it wants no more of them, and they are
            ignored until the end of the context.
        numbers: The signals.
        also: One that only ends a `pause`, also where it is ignored: SIGCHLD.
    """

    def __init__(
        self,
        handler: Callable[[int], object],
        numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
        also: signal.Signals | None = None,
    ) -> None:
        self._handler = handler
        self._relay = Relay(self._on_signal)
        self._numbers = numbers
        self._also = also
        self._previous: dict[signal.Signals, signal._HANDLER] = {}
        self._previous_fd = -1
        self._main = threading.current_thread() is threading.main_thread()
        # Keeps a late `wake` from writing into a pipe that is closed, or into what has its number now. Reentrant,
        # because an application's own signal handler may come in between, and stop the server.
        self._lock = threading.RLock()
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        if self._main:
            self._previous_fd = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            for number in self._numbers:
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    self._previous[number] = signal.signal(number, self._relay)
            if self._also is not None and signal.getsignal(self._also) is not None:
                self._previous[self._also] = signal.signal(self._also, _hear)
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
        while not event.is_set():
            self.pause()

    def pause(self, timeout: float | None = None, fds: Sequence[int] = ()) -> None:
        """Wait for a signal, or for a `wake`; since the last time, or from now on.

        Args:
            timeout: Seconds; None waits for ever.
            fds: Descriptors that end it, too, when there is something to read.
        """
        assert self._pipe is not None, "only inside of the context"
        poll = select.poll()
        for fd in (self._pipe[0], *fds):
            poll.register(fd, select.POLLIN)
        # Rounded up: a little too early would be once more, and again.
        ready = poll.poll(None if timeout is None else math.ceil(timeout * 1e3))
        if any(fd == self._pipe[0] for fd, _ in ready):
            os.read(self._pipe[0], 4096)

    def wake(self) -> None:
        """Let `wait` look again. Harmless after the context. Thread: any."""
        with self._lock:
            if self._pipe is not None:
                # A full pipe wakes as well as one byte does.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._pipe[1], b"\0")

    def forked(self) -> None:
        """This is a child process: end the context, without what another thread may have been about to do."""
        self._lock = threading.RLock()
        self.__exit__(None, None, None)

    def _on_signal(self, number: int) -> object:
        if self._handler(number) is not False:
            return True
        for each in self._numbers:
            if each in self._previous:
                signal.signal(each, _nothing)
        return False


def _hear(number: int, frame: FrameType | None) -> None:
    """Without a handler of Python's nothing would come through the pipe."""
