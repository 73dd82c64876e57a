"""One run of a server: its loops, their threads, the door; how it ends, and what is done when it has.

Made and asked by `server`, which keeps the API. Knows no hook and no address.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from _uws.conn import Conn
from _uws.core import Crowd, Loop, seats_of_own

from .about import Roll
from .door import Door
from .durations import Duration, milliseconds
from .listening import Listener
from .memory import Memory, memory_of
from .threads import Thread

__all__ = ["GRACE", "Serving", "any_serving"]

logger = logging.getLogger("unlimitedws")

GRACE = 1.0
"""After the connections have been dropped, a callback that runs on is given this long to notice; seconds."""

_GOING_AWAY = 1001
# At exit nobody waits for a peer that does not answer.
_EXIT_TIMEOUT = 1.0


class Serving:
    """From the start of a server until the last thread of its last loop has ended.

    Args:
        settings: Of each loop, as `Options.settings` makes them.
        failed: A callback raised: called with its connection, the exception, and the hook's name.
        page: See `Options.page`.
        door: One for all loops.
        listeners: Likewise. They stay the caller's.
        on_end: Called by the last thread, before `ended` is set. No lock is held.
        shared: Other processes accept from the listeners, too.

    Raises:
        OSError: A loop got no descriptors.

    Attributes:
        loops: All of them.
        door: As given.
        pid: The process that it serves in: a child made by fork() has a copy of this, and none of the threads.
        ended: Nothing of it is left, and `on_end` has been called.
        wake: Called after that.
        raised: What a callback raised to stop the server, or what the engine failed with; the first one.
    """

    def __init__(
        self,
        settings: Sequence[Mapping[str, int]],
        failed: Callable[[Conn | None, BaseException, str], object],
        page: bytes | None,
        door: Door,
        listeners: Sequence[Listener],
        on_end: Callable[[], object],
        *,
        shared: bool = False,
    ) -> None:
        self.door = door
        self.pid = os.getpid()
        self.ended = threading.Event()
        self.wake: Callable[[], object] = lambda: None
        self.raised: BaseException | None = None
        self._listeners = listeners
        self._on_end = on_end
        # Guards what follows. Whoever has it takes no other lock. Reentrant, because an application's own signal
        # handler may come in between.
        self._lock = threading.RLock()
        self._threads: set[threading.Thread] = set()
        # Those that have nothing left to do; the kernel may not have ended them yet.
        self._gone: list[threading.Thread] = []
        self._started = [0 for _ in settings]
        settings = [self._seated(one, len(settings)) for one in settings]
        crowd = Crowd() if len(settings) > 1 else None
        self.loops = tuple(
            Loop(dict(one), partial(self._spawn, number), failed, page, crowd)
            for number, one in enumerate(settings)
        )
        try:
            for loop in self.loops:
                for listener in listeners:
                    loop.listen(
                        listener.fileno(), listener.is_shared, in_turn=shared or crowd is not None
                    )
        except BaseException:
            self._let_go()
            raise

    @staticmethod
    def _seated(one: Mapping[str, int], loops: int) -> Mapping[str, int]:
        """Limit the connections of all loops together to what their own tables have room for.

        A table that is full is no reason to turn anybody away while another has room; when none has, this is.
        """
        if not one["private_fds"]:
            return one
        seats = seats_of_own() * loops
        return {**one, "max_connections": min(one["max_connections"] or seats, seats)}

    def start(self) -> None:
        """Start one thread for each loop; they ask for more.

        Raises:
            RuntimeError: A thread cannot be started. Those that were are about to stop: `ended` is set when
                they have.
        """
        self._enlist()
        alone = True
        try:
            # Held throughout: nobody is the last to end before all have begun.
            with self._lock:
                try:
                    for number in range(len(self.loops)):
                        self._start_thread(number)
                finally:
                    # Not asked again later: whoever was started may have been the last to end by then.
                    alone = not self._threads
        except BaseException:
            self.shut(0)
            if alone:
                self._end()
            raise

    def shut(self, timeout: Duration, code: int = _GOING_AWAY, reason: str = "") -> None:
        """Tell the loops to stop. Takes no lock of ours: signal handlers and callbacks call it.

        Args:
            timeout: For close handshakes; then connections are dropped.
            code, reason: Of the close frame that everybody gets.
        """
        limit_ms = milliseconds(timeout, "timeout")
        for loop in self.loops:
            loop.shut(code, reason, limit_ms)
        self.door.shut()
        # Newcomers, those in the backlog too, are refused now and do not wait for the end.
        for listener in self._listeners:
            listener.refuse()

    def leave(self) -> None:
        """Leave newcomers to the other processes that accept from the listeners. Thread: any."""
        for loop in self.loops:
            loop.accept_no_more()

    def look(self) -> None:
        """See to newcomers that another process may have been told of, which has ended. Thread: any."""
        for loop in self.loops:
            loop.look()

    def drain(self, over: Duration, code: int, jitter: bool, timeout: Duration) -> None:
        """Let the loops drain, and then stop. Takes no lock of ours: signal handlers and callbacks call it.

        Args:
            over, code, jitter: As `Server.drain`.
            timeout: As of `shut`, from when the last has left or the time is over.
        """
        over_ms, limit_ms = milliseconds(over, "over"), milliseconds(timeout, "timeout")
        for loop in self.loops:
            loop.drain(over_ms, code, jitter, limit_ms)

    @property
    def draining(self) -> bool:
        """Whether it drains, or has drained. Thread: any."""
        return any(loop.draining for loop in self.loops)

    def join(self, limit: float | None = None) -> None:
        """Wait until every thread of it has gone; `ended` is set. Thread: any but these."""
        deadline = None if limit is None else time.monotonic() + limit
        # A list of its own: others may wait too.
        for thread in tuple(self._gone):
            if thread is threading.current_thread():
                continue
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                return
        self._gone.clear()

    def shut_for(self, exc: BaseException, timeout: Duration) -> None:
        """Stop because of what was raised. The first one of a run comes out of `Server.run`."""
        self.raised = self.raised or exc
        self.shut(timeout)

    def threads(self) -> set[threading.Thread]:
        """Return the threads that callbacks and hooks run on. Thread: any."""
        with self._lock:
            own = set(self._threads)
        return own | self.door.threads()

    def busy(self) -> str:
        """Name the threads that run a callback, with where it is, and those that hooks run on. Thread: any."""
        with self._lock:
            runners = set(self._threads)
        frames = sys._current_frames()
        found = [thread.name for thread in self.door.threads()]
        for thread in runners:
            frame = frames.get(thread.ident or 0)
            callback = None
            while frame is not None and frame.f_code is not _RUNNER:
                callback, frame = frame, frame.f_back
            if callback is not None:
                code = callback.f_code
                found.append(f"{thread.name} in {code.co_name} ({code.co_filename}:{callback.f_lineno})")
        # Who is counted among them and runs none is about to end, or to begin.
        return ", ".join(sorted(found or (thread.name for thread in runners)))

    def has(self, conn: Conn) -> bool:
        """Whether a connection is one of these loops'. Thread: any."""
        return conn._loop in self.loops

    @property
    def connections(self) -> int:
        """Open WebSocket connections. Thread: any."""
        return sum(loop.connections for loop in self.loops)

    def counters(self) -> dict[str, int]:
        """Return the figures of all loops together. Thread: any."""
        # Not the sum of two Counters: that drops what is zero.
        total: Counter[str] = Counter()
        for loop in self.loops:
            total.update(loop.counters())
        total["draining"] = int(self.draining)
        return dict(total)

    def memory(self, roll: Roll) -> Memory:
        """See `Server.memory`. Thread: any."""
        return memory_of(self.loops, roll)

    def wait_at_exit(self, timeout: float) -> None:
        """Wait until it has ended, at the end of the interpreter."""
        self.ended.wait(timeout)

    # The threads

    def _start_thread(self, number: int) -> None:
        """Start a runner of a loop. The lock is held."""
        self._started[number] += 1
        which = f"{number + 1}." if len(self.loops) > 1 else ""
        thread = Thread(
            partial(self._runner, self.loops[number]), f"unlimitedws-{which}{self._started[number]}"
        )
        self._threads.add(thread)
        try:
            thread.start()
        except Exception:
            # Not for what a signal's handler raises: that comes while the thread's beginning is waited for.
            self._threads.discard(thread)
            raise

    def _spawn(self, number: int) -> None:
        """Start one more runner: a loop asks for it, from one of its runners."""
        with self._lock:
            try:
                self._start_thread(number)
            except RuntimeError as exc:
                logger.warning("callbacks have to do with %d threads: %s", len(self._threads), exc)
                raise

    def _runner(self, loop: Loop) -> None:
        try:
            loop.run()
        except BaseException as exc:
            if isinstance(exc, MemoryError) and loop.staffed:
                # One that was to help had no memory to begin with. The others go on.
                logger.warning("callbacks have to do with fewer threads: %r", exc)
            else:
                logger.critical("the engine failed", exc_info=exc)
                self.shut_for(exc, 0)
        finally:
            # A callback may have forked, and come back in the child: what is here is the parent's, its lock too.
            if self.pid == os.getpid():
                self._leave()

    def _leave(self) -> None:
        """A runner has come to its end."""
        with self._lock:
            self._threads.discard(threading.current_thread())
            # Where memory is short, helpers come and go for as long as that lasts.
            self._gone = [thread for thread in self._gone if thread.is_alive()]
            self._gone.append(threading.current_thread())
            last = not self._threads
        if last:
            self._end()

    def _end(self) -> None:
        """The last thread has come to its end."""
        try:
            # Hooks of requests that nobody waits for any more: they end before the server has.
            self.door.close()
            self._on_end()
        finally:
            self._let_go()
            _running.discard(self)
            self.ended.set()
            self.wake()

    def _enlist(self) -> None:
        """Have it stopped at the end of the interpreter, if it has not been before."""
        _running.add(self)

    def _let_go(self) -> None:
        # They ask us for threads, so a loop that was never run would be kept with its descriptors, in a circle.
        self.loops = ()


# What a thread of the engine's runs that is in no callback.
_RUNNER = Serving._runner.__code__

# For the end of the interpreter. Those that run are kept alive by their threads anyway.
_running: set[Serving] = set()


def any_serving() -> bool:
    """Whether a server runs in this process."""
    return any(serving.pid == os.getpid() for serving in _running)


@atexit.register
def _stop_all() -> None:
    """Let peers know that we go, and the callbacks end, before the interpreter takes their threads away."""
    here = [serving for serving in tuple(_running) if serving.pid == os.getpid()]
    for serving in here:
        serving.shut(_EXIT_TIMEOUT)
    deadline = time.monotonic() + _EXIT_TIMEOUT + GRACE
    for serving in here:
        serving.wait_at_exit(max(0.0, deadline - time.monotonic()))
