"""Several processes on one port: the parent starts them, replaces what dies, passes signals on, and stops in order.

Called by `server.run` where there is more than one worker. Owns the workers' life, on both sides of the fork; what
a worker serves is `serving`, as anywhere else. The parent holds no engine.

Parent and worker have two pipes. On one the worker says that it serves. On the other the parent says what is
asked of it, and the end of that pipe is the end of the parent, however it came: so no worker is left behind. Signals
alone would not do: a terminal sends SIGINT to all of them, a service manager SIGTERM, and the parent's own would come
on top, and a second signal means something else than the first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from .durations import milliseconds, seconds
from .ending import DRAIN, NONE, NOW, STOP, more_urgent, obey, patience
from .serving import GRACE, Serving
from .signals import SignalWaiter
from .threads import Thread

if TYPE_CHECKING:
    from .server import Server

__all__ = ["Supervisor"]

logger = logging.getLogger("unlimitedws")


class _Ask(NamedTuple):
    """What the parent asks of a worker."""

    kind: int
    urgency: int = NONE  # of what signals ask for
    over_ms: int = 0
    code: int = 0
    jitter: bool = False
    timeout_ms: int = 0


_ASK = struct.Struct("=BBIHBI")
_AS_SIGNALLED, _TO_STOP, _TO_DRAIN, _TO_MAKE_ROOM, _TO_LOOK = range(5)
# A worker that died is replaced at once, the next one after this, doubled with each, up to the other.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
# A process is given this long, beyond what `stop` takes, to leave the interpreter.
_EXIT_GRACE = 1.0
# Exit status of a worker that failed, of one that was interrupted, and of one whose parent has gone.
_FAILED = 1
_INTERRUPTED = 130
# What a terminal, or a service manager, sends to all of them.
_OF_ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Worker:
    """A worker, as the parent knows it."""

    def __init__(self, index: int, pid: int, ready_fd: int, ask_fd: int) -> None:
        self.index = index
        self.pid = pid
        self.ready_fd = ready_fd
        self.ask_fd = ask_fd
        self.is_ready = False
        # It was asked to leave, so its end is none that anybody wonders about.
        self.is_leaving = False
        self.kill_at: float | None = None

    def ask(self, ask: _Ask) -> None:
        # It may have ended just now, and the reaper comes later. One that has not read for so long that the pipe is
        # full hears no more of this either: the time that it has been given ends it.
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(self.ask_fd, _ASK.pack(*ask))

    def ask_to_leave(self, ask: _Ask, patience: float) -> None:
        """Ask it to stop; if it still runs after patience and what an interpreter needs, it is killed."""
        self.is_leaving = True
        kill_at = time.monotonic() + patience + GRACE + _EXIT_GRACE
        self.kill_at = kill_at if self.kill_at is None else min(self.kill_at, kill_at)
        self.ask(ask)

    def close(self) -> None:
        for fd in (self.ready_fd, self.ask_fd):
            if fd >= 0:
                os.close(fd)
        self.ready_fd = self.ask_fd = -1

    def __repr__(self) -> str:
        return f"worker {self.index} (process {self.pid})"


class Supervisor:
    """The parent of a server's workers.

    Args:
        server: Whose; it listens, and does not run.
        ready: See `Server.run`.
        on_worker: See `Server.run`.
    """

    def __init__(
        self,
        server: Server,
        ready: Callable[[], object] | None,
        on_worker: Callable[[int], object] | None,
    ) -> None:
        options = server.options
        self.pid = os.getpid()
        self.ended = threading.Event()
        self._server = server
        self._ready = ready
        self._on_worker = on_worker
        self._count = options.workers
        self._limit = options.worker_restart_limit
        self._window = seconds(options.worker_restart_window, "worker_restart_window")
        self._workers: list[_Worker] = []
        # When those are to be started that are missing, by index.
        self._due: dict[int, float] = dict.fromkeys(range(self._count), 0.0)
        self._deaths: deque[float] = deque()
        # All have served at the same time: from now on those that die are replaced.
        self._complete = False
        # Those that SIGHUP has still to replace, and the pair that is being exchanged.
        self._rolling: deque[int] = deque()
        self._exchange: tuple[_Worker, _Worker] | None = None
        # Signals, and what `stop` and `drain` ask for with the time that it takes.
        self._heard: deque[int | tuple[_Ask, float]] = deque()
        self._signalled = NONE
        self._urgency = NONE
        self._failure: BaseException | None = None
        self._waiter: SignalWaiter | None = None

    # The parent

    def run(self) -> None:
        """Start the workers, and look after them until all are gone.

        Raises:
            RuntimeError: A worker died before all of them served; or too many died. The others were stopped.
            BaseException: What ready raised. Likewise.

        Thread: the main one.
        """
        with SignalWaiter(
            self._on_signal,
            _OF_ALL,
            also=signal.SIGCHLD,
        ) as waiter:
            self._waiter = waiter
            try:
                self._supervise(waiter)
            finally:
                # Only where something was raised that is not ours.
                for worker in self._workers:
                    # Somebody else in this process may have waited for it before.
                    with contextlib.suppress(ProcessLookupError, ChildProcessError):
                        os.kill(worker.pid, signal.SIGKILL)
                        os.waitpid(worker.pid, 0)
                    worker.close()
                self.ended.set()
        if self._failure is not None:
            try:
                raise self._failure
            finally:
                self._failure = None

    def _on_signal(self, number: int) -> bool:
        """Line a signal up. False: no other one can make the end more urgent."""
        self._heard.append(number)
        if number != signal.SIGHUP:
            self._signalled = more_urgent(self._server.options, self._signalled, number)
        return self._signalled < NOW

    def stop(self, timeout: float) -> None:
        """Stop all workers; see `Server.stop`. The main thread does not wait. Thread: any."""
        ask = _Ask(_TO_STOP, STOP, timeout_ms=milliseconds(timeout, "timeout"))
        self._heard.append((ask, timeout))
        self._await_end(True)

    def drain(self, over: float, code: int, jitter: bool, wait: bool) -> None:
        """Drain all workers; see `Server.drain`. The main thread does not wait. Thread: any."""
        limit = seconds(self._server.options.close_timeout, "close_timeout")
        over_ms, limit_ms = milliseconds(over, "over"), milliseconds(limit, "close_timeout")
        self._heard.append((_Ask(_TO_DRAIN, DRAIN, over_ms, code, jitter, limit_ms), over + limit))
        self._await_end(wait)

    def _await_end(self, wait: bool) -> None:
        if self._waiter is not None:
            self._waiter.wake()
        # The main thread is the one that looks after the workers.
        if wait and threading.current_thread() is not threading.main_thread():
            self.ended.wait()

    def _supervise(self, waiter: SignalWaiter) -> None:
        while True:
            while self._heard:
                self._obey(self._heard.popleft())
            self._reap()
            self._start_missing()
            self._look_who_is_ready()
            self._roll()
            self._kill_late_ones()
            if self._urgency != NONE and not self._workers:
                return
            if not self._heard:
                waiter.pause(self._wait_s(), [one.ready_fd for one in self._workers if one.ready_fd >= 0])

    def _obey(self, heard: int | tuple[_Ask, float]) -> None:
        """Do what a signal asks for, or another thread."""
        if isinstance(heard, tuple):
            self._end_all(*heard)
        elif heard != signal.SIGHUP:
            urgency = more_urgent(self._server.options, self._urgency, heard)
            if urgency > self._urgency:
                self._end_all(_Ask(_AS_SIGNALLED, urgency), patience(self._server.options, urgency))
        elif self._urgency == NONE:
            logger.info("SIGHUP: replacing the workers, one after the other")
            self._rolling = deque(range(self._count))

    def _end_all(self, ask: _Ask, patience: float) -> None:
        """Stop or drain all workers; again: with less patience."""
        self._urgency = max(self._urgency, ask.urgency)
        logger.info("%s %d workers", "draining" if ask.urgency == DRAIN else "stopping", len(self._workers))
        self._due.clear()
        self._rolling.clear()
        if self._urgency >= STOP:
            # Newcomers, those in the backlog too, are refused now and do not wait for the end. No worker may do that.
            self._server._refuse()
        for worker in self._workers:
            worker.ask_to_leave(ask, patience)

    def _fail(self, failure: BaseException) -> None:
        """Stop because something cannot go on. The first one comes out of `run`."""
        if self._failure is None:
            self._failure = failure
        if self._urgency < STOP:
            self._end_all(_Ask(_AS_SIGNALLED, STOP), patience(self._server.options, STOP))

    def _reap(self) -> None:
        for worker in list(self._workers):
            try:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
            except ChildProcessError:
                # Somebody else in this process waits for children of any kind.
                how = "ended, unknown how"
            else:
                if pid == 0:
                    continue
                how = _how(os.waitstatus_to_exitcode(status))
            self._workers.remove(worker)
            worker.close()
            if worker.is_leaving:
                logger.info("%r has %s", worker, how)
            else:
                logger.error("%r has %s", worker, how)
                self._died(worker, how)

    def _died(self, worker: _Worker, how: str) -> None:
        """A worker has ended that nobody had asked to."""
        for other in self._workers:
            # The kernel may have told this one, and only this one, that somebody had come.
            other.ask(_Ask(_TO_LOOK))
        if self._urgency != NONE:
            return
        if not self._complete:
            self._fail(RuntimeError(f"{worker!r} has {how} before all {self._count} served"))
            return
        now = time.monotonic()
        while self._deaths and self._deaths[0] < now - self._window:
            self._deaths.popleft()
        self._deaths.append(now)
        count = len(self._deaths)
        if count > self._limit:
            self._fail(RuntimeError(f"{count} workers died within {self._window:g} s; the last: {worker!r} has {how}"))
            return
        if self._exchange is not None and worker in self._exchange:
            # Whichever is left is the worker of that index from now on.
            if worker is self._exchange[1]:
                self._rolling.clear()
            self._exchange = None
            if any(one.index == worker.index and not one.is_leaving for one in self._workers):
                return
        pause = 0.0 if count == 1 else min(_FIRST_PAUSE * 2 ** min(count - 2, 10), _LONGEST_PAUSE)
        self._due[worker.index] = now + pause

    def _start_missing(self) -> None:
        now = time.monotonic()
        for index in [index for index, at in self._due.items() if at <= now]:
            try:
                self._fork(index)
            except OSError as exc:
                if not self._complete:
                    self._fail(exc)
                    return
                logger.error("worker %d cannot be started: %s", index, exc)
                self._due[index] = now + _LONGEST_PAUSE
            else:
                del self._due[index]

    def _look_who_is_ready(self) -> None:
        for worker in self._workers:
            if worker.ready_fd < 0:
                continue
            try:
                said = os.read(worker.ready_fd, 1)
            except BlockingIOError:
                continue
            # Nothing: it has ended, or is about to, and is reaped then.
            os.close(worker.ready_fd)
            worker.ready_fd = -1
            if said:
                worker.is_ready = True
                logger.info("%r serves", worker)
        serving = {worker.index for worker in self._workers if worker.is_ready}
        if not self._complete and self._urgency == NONE and len(serving) == self._count:
            self._complete = True
            if self._ready is not None:
                try:
                    self._ready()
                except BaseException as exc:
                    self._fail(exc)

    def _roll(self) -> None:
        """Replace one worker after the other: the next one only when the last has left."""
        if self._exchange is not None:
            old, new = self._exchange
            if new.is_ready and not old.is_leaving:
                urgency = more_urgent(self._server.options, NONE, signal.SIGTERM)
                old.ask_to_leave(_Ask(_TO_MAKE_ROOM, urgency), patience(self._server.options, urgency))
            if old in self._workers:
                return
            self._exchange = None
        if self._urgency != NONE or not self._complete or self._due or not self._rolling:
            return
        if any(not worker.is_ready for worker in self._workers):
            return
        index = self._rolling.popleft()
        # The one before it may still be on its way out: its successor died meanwhile, and has been replaced.
        old = next(worker for worker in self._workers if worker.index == index and not worker.is_leaving)
        try:
            self._exchange = (old, self._fork(index))
        except OSError as exc:
            logger.error("%r stays, as its successor cannot be started: %s", old, exc)
            self._rolling.clear()

    def _kill_late_ones(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.kill_at is not None and worker.kill_at <= now:
                logger.warning("%r does not end: killing it", worker)
                # Somebody else in this process may have waited for it just now.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
                worker.kill_at = None

    def _wait_s(self) -> float | None:
        times = [worker.kill_at for worker in self._workers if worker.kill_at is not None]
        times += self._due.values()
        return max(min(times) - time.monotonic(), 0.0) if times else None

    def _fork(self, index: int) -> _Worker:
        with contextlib.ExitStack() as opened:
            ready_r, ready_w = _pipe(opened)
            ask_r, ask_w = _pipe(opened)
            os.set_blocking(ready_r, False)
            os.set_blocking(ask_w, False)
            # What is buffered would be written twice.
            _flush()
            # A worker's signals wait until it has handlers of its own: ours would line them up in a copy of our
            # queue, and without any they would end it.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_ALL)
            pid = -1
            try:
                pid = os.fork()
                opened.pop_all()
            finally:
                if pid != 0:
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if pid == 0:
            self._be_worker(index, ready_w, ask_r, (ready_r, ask_w), mask)
        os.close(ready_w)
        os.close(ask_r)
        worker = _Worker(index, pid, ready_r, ask_w)
        self._workers.append(worker)
        return worker

    # The worker

    def _be_worker(
        self, index: int, ready_fd: int, ask_fd: int, parents: tuple[int, int], mask: set[signal.Signals | int]
    ) -> NoReturn:
        """Serve, and leave the process. What called us goes on in the parent, and there alone.

        Args:
            parents: The other ends of the pipes.
            mask: Of signals, as it was before the fork.
        """
        status = _FAILED
        try:
            assert self._waiter is not None
            self._waiter.forked()
            # The parent asks for more than one worker: with its end of their pipes we would keep them from its end.
            for worker in self._workers:
                worker.close()
            for fd in parents:
                os.close(fd)
            status = _Work(self._server, index, ready_fd, ask_fd).run(self._on_worker, mask)
        except SystemExit as exc:
            status = _status_of(exc)
        except KeyboardInterrupt:
            status = _INTERRUPTED
        except BaseException:
            logger.critical("worker %d failed", index, exc_info=True)
        finally:
            try:
                _flush()
                logging.shutdown()
            finally:
                os._exit(status)


class _Work:
    """A worker, as it knows itself."""

    def __init__(self, server: Server, index: int, ready_fd: int, ask_fd: int) -> None:
        self._server = server
        self._index = index
        self._ready_fd = ready_fd
        self._ask_fd = ask_fd
        # What is asked of us. Signals and the parent's messages line up here, so that each finds the one before done.
        self._heard: deque[_Ask] = deque()
        self._urgency = NONE

    def run(self, on_worker: Callable[[int], object] | None, mask: set[signal.Signals | int]) -> int:
        """Serve until somebody asks for the end. Returns the exit status."""
        # A terminal's goes to all of us, and the parent passes its own on.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with SignalWaiter(self._signalled, (signal.SIGTERM,)) as waiter:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            Thread(partial(self._listen, waiter), "unlimitedws-parent").start()
            self._server._worker = self._index
            if on_worker is not None:
                on_worker(self._index)
            serving = self._server._begin()
            serving.wake = waiter.wake
            os.write(self._ready_fd, b"1")
            os.close(self._ready_fd)
            while not serving.ended.is_set():
                while self._heard:
                    self._obey(serving, self._heard.popleft())
                waiter.pause()
        if serving.raised is not None:
            raise serving.raised
        return 0

    def _signalled(self, number: int) -> bool:
        # However often: one that all of the group get is not to count twice, and the parent has the last word.
        self._heard.append(_Ask(_AS_SIGNALLED, more_urgent(self._server.options, NONE, number)))
        return False

    def _obey(self, serving: Serving, ask: _Ask) -> None:
        if ask.kind == _TO_LOOK:
            serving.look()
            return
        # Who was asked by a signal already is not asked more urgently by hearing the same of the parent.
        is_news = ask.urgency > self._urgency
        self._urgency = max(self._urgency, ask.urgency)
        if ask.kind == _TO_STOP:
            serving.shut(ask.timeout_ms / 1e3)
        elif ask.kind == _TO_DRAIN:
            serving.drain(ask.over_ms / 1e3, ask.code, ask.jitter, ask.timeout_ms / 1e3)
        elif is_news:
            if ask.kind == _TO_MAKE_ROOM:
                serving.leave()
            obey(self._server.options, serving, ask.urgency)

    def _listen(self, waiter: SignalWaiter) -> None:
        """Hear what the parent asks, and whether it is there."""
        while True:
            message = os.read(self._ask_fd, _ASK.size)
            if not message:
                break
            self._heard.append(_Ask(*_ASK.unpack(message)))
            waiter.wake()
        # Whoever starts the server anew wants the port. Nobody is left to kill us if this takes too long.
        limit = seconds(self._server.options.close_timeout, "close_timeout")
        logger.error("worker %d: the supervisor has gone: stopping", self._index)
        self._heard.append(_Ask(_TO_STOP, STOP, timeout_ms=milliseconds(limit, "close_timeout")))
        waiter.wake()
        time.sleep(limit + GRACE + _EXIT_GRACE)
        os._exit(_FAILED)


def _status_of(exc: SystemExit) -> int:
    if exc.code is None:
        return 0
    if isinstance(exc.code, int):
        return exc.code & 0xFF
    print(exc.code, file=sys.stderr)
    return _FAILED


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"been killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"been killed by signal {-code}"


def _pipe(opened: contextlib.ExitStack) -> tuple[int, int]:
    """Make a pipe that is closed with the others, if it comes to that."""
    ends = os.pipe()
    for fd in ends:
        opened.callback(os.close, fd)
    return ends


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # None where there is no console; closed where the application closed it.
        if stream is not None and not stream.closed:
            with contextlib.suppress(OSError):
                stream.flush()
