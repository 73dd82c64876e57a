"""Threads that can be started where there is no memory for them: then that fails, and does not wait for ever."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ["Thread"]

# How often whoever waits for a thread looks whether it can still come; seconds. Most have come before the first look.
_LOOK = 0.05


class _Begun(threading.Event):
    """What `threading.Thread.start` waits on.

    Attributes:
        reached: The thread has got to its target.
        life: Of something that only the thread has.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.life: weakref.ref[Any] | None = None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the thread has got to its target; there is no other limit.

        Raises:
            RuntimeError: It has ended before.
        """
        while not self.reached.wait(_LOOK):
            # In this order: it may have got there, and ended since.
            if self.life is not None and self.life() is None and not self.reached.is_set():
                raise RuntimeError("a new thread ended before it began: there is no memory for it")
        return True


class Thread(threading.Thread):
    """A daemon thread whose `start` returns when it has got to its target, and raises where it never will.

    One that finds no memory for its first frame ends without a word, and a `threading.Thread` goes on waiting for
    the word: under an address space limit a server could then be neither used nor stopped.

    Rests on two attributes of `threading.Thread` that are not public: what the new thread is given to call, and
    what `start` waits on. CPython 3.10 to 3.15 have both. One that asks for neither makes this a plain
    `threading.Thread`.

    Args:
        target: What it runs.
        name: See `threading.Thread`.
    """

    def __init__(self, target: Callable[[], object], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._started = self._begun = _Begun()

    @property
    def _bootstrap(self) -> Callable[[], object]:
        # Only the thread keeps it, and drops it when it ends, however it does.
        call = partial(super()._bootstrap)  # type: ignore[misc]
        self._begun.life = weakref.ref(call)
        return call

    def start(self) -> None:
        """Start it.

        Raises:
            RuntimeError: It cannot be started, ended before it got to its target, or was started before.
        """
        try:
            super().start()
        except RuntimeError:
            # Where those stand that are about to begin: it did not get so far as to take itself out.
            getattr(threading, "_limbo", {}).pop(self, None)
            raise

    def run(self) -> None:
        """Run the target."""
        self._begun.reached.set()
        super().run()
