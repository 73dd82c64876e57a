"""The server: the Go API, its hooks and options, its signals. What runs while it serves is in `serving`."""

from __future__ import annotations

import logging
import math
import os
import resource
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from _uws.conn import Conn, check_close

from . import address
from .address import Address
from .callbacks import Callbacks
from .door import Door
from .durations import Duration, microseconds, seconds
from .ending import NONE, NOW, more_urgent, obey, patience
from .entrance import Entrance
from .errors import ConnectionClosed
from .hooks import adopt_methods, check_hook_name
from .listening import listen_all
from .memory import Memory
from .options import OptionKeywords, Options
from .proxies import Proxies
from .request import Request
from .serving import GRACE, Serving, any_serving
from .signals import SignalWaiter

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from .supervisor import Supervisor

__all__ = ["DefaultServer", "NewServer", "Server"]

logger = logging.getLogger("unlimitedws")

Addresses: TypeAlias = str | list[str] | tuple[str, ...]

# For fork().
_servers: weakref.WeakSet[Server] = weakref.WeakSet()


class Server(Callbacks, Entrance):
    """A WebSocket server.

    Its socket listens from the moment the server is made, as in Go: the address is known (`local_addr`, also
    for port 0), a port in use is an error here, and clients that come early wait in the kernel's backlog
    until `start` or `run`. `stop` closes it; starting again listens on the same address again, with the same
    port.

    A life: made, `start` or `run`, `stop`, and again. Hooks and times may be set at any moment; the pool and
    the other options while it does not run.

    Args:
        addr: ``":8000"``, ``"host:8000"``, ``"127.0.0.1:8000"``, ``"[::1]:8000"``; port 0 lets the kernel
            choose; without a host IPv6 and IPv4 are both served. ``"unix:/run/app.sock"``, ``"unix:@name"``;
            ``"fd:3"``, ``"systemd"``, ``"systemd:NAME"`` for sockets that the process was started with. Or a
            list of such, to listen in several places. See `unlimitedws.address.parse` and
            `unlimitedws.listening.listen`.
        options: The fields of `Options`, by name.

    Raises:
        AddressError: addr is not written as an address, or its host is unknown.
        OSError: The address cannot be had; the message names it.
        ValueError: More than 16 listening sockets, or none.
        TypeError, ValueError: An option is unknown or impossible; the message names it.
    """

    def __init__(self, addr: Addresses, **options: Unpack[OptionKeywords]) -> None:
        self._options = Options.of(options)
        places = [address.parse(one) for one in (addr if isinstance(addr, list | tuple) else [addr])]
        if not places:
            raise ValueError("no address to listen on")
        self._hooks: dict[str, Callable[..., object]] = {}
        # Guards what follows, the hooks and the options. Never held while waiting for a callback. Reentrant,
        # because an application's own signal handler may come in between.
        self._lock = threading.RLock()
        self._run: Serving | None = None
        self._supervisor: Supervisor | None = None
        self._worker: int | None = None
        self._last: Serving | None = None  # the run before
        super().__init__()
        _servers.add(self)
        self._listeners = listen_all(places, self._options)
        self._local_addrs = tuple(listener.address for listener in self._listeners)
        self._again = [listener.again for listener in self._listeners]
        for name, method in self._methods.items():
            setattr(self, name, method.__get__(self))

    _methods: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Let methods of a subclass that are named as hooks be set as hooks of each server."""
        super().__init_subclass__(**keywords)
        cls._methods = adopt_methods(cls, cls._methods)

    # Type checkers take a class that has this for one that has every attribute.
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            """Set an attribute; one that looks like a hook has to be one."""
            check_hook_name(self, name)
            super().__setattr__(name, value)

    # The setters of the Go API

    def set_pool(self, workers: int, jobs: int) -> None:
        """Run callbacks on up to so many threads; so many connections may wait for one. Without it: inline.

        Messages of one connection are delivered in order and one at a time; different connections run in
        parallel. Threads start when they are needed. While so many connections wait, new ones are left in the
        kernel's backlog for the cool-down time; what one connection may have waiting is bounded by
        `max_inbox_bytes` and `max_inbox_messages`, above which it is not read.

        Raises:
            ValueError: workers is 0 ("no worker"), jobs is 0 ("no job in queue"), or one is negative.
            RuntimeError: The server runs.

        Thread: any.
        """
        with self._lock:
            if self._run is not None:
                raise RuntimeError("the pool cannot be changed while the server runs")
            self._options = replace(self._options, pool=(workers, jobs))

    def set_poller(self) -> None:
        """Do nothing: the engine always polls, with epoll. Here so that programs from Go read the same.

        Thread: any.
        """

    def set_schedule_timeout(self, timeout: Duration) -> None:
        """Set how long I/O may rest because of a callback before another thread of the pool does it.

        Args:
            timeout: Seconds or a `timedelta`; 0.001 by default.

        Thread: any, at any time.
        """
        self._set_time("schedule_timeout", "schedule_timeout_us", timeout)

    def set_cooldown_time(self, timeout: Duration) -> None:
        """Set how long accepting rests when there is no file descriptor, or no room among the pool's jobs.

        Args:
            timeout: Seconds or a `timedelta`; 0.005 by default.

        Thread: any, at any time.
        """
        self._set_time("cooldown_time", "cooldown_us", timeout)

    def set_io_timeout(self, timeout: Duration) -> None:
        """Set how long one call of a callback waits, for a message or for room to write.

        Then the call raises `TimeoutError`. Unlike in Go it never ends a connection: a client that is slow to
        send is in nobody's way here.

        Args:
            timeout: Seconds or a `timedelta`; 0.1 by default; 0 waits without limit.

        Thread: any, at any time.
        """
        self._set_time("io_timeout", "io_timeout_us", timeout)

    # What it is and how it is doing

    @property
    def options(self) -> Options:
        """The options in force. Thread: any."""
        return self._options

    @property
    def local_addr(self) -> Address:
        """Where the server listens; with port 0, the port that the kernel chose. Of several places, the first.

        Thread: any.
        """
        return self._local_addrs[0]

    @property
    def local_addrs(self) -> tuple[Address, ...]:
        """Every place where the server listens. Thread: any."""
        return self._local_addrs

    @property
    def connections(self) -> int:
        """Open WebSocket connections. Thread: any."""
        run = self._run
        return 0 if run is None else run.connections

    @property
    def running(self) -> bool:
        """Whether it has been started and not yet stopped altogether. Thread: any."""
        return self._run is not None or self._supervisor is not None

    @property
    def worker(self) -> int | None:
        """Which of several workers this process is, from 0; None in their parent, and where there are none.

        Thread: any.
        """
        return self._worker

    @property
    def draining(self) -> bool:
        """Whether connections are being asked to leave, and nobody new is let in: see `drain`. Thread: any."""
        run = self._run
        return run is not None and run.draining

    def counters(self) -> dict[str, int]:
        """Return the engine's figures, for tests and the hunt for a leak; names may change. Thread: any."""
        run = self._run
        return {} if run is None else run.counters()

    def memory(self) -> Memory:
        """Return where the memory of the engine goes, in this process; all zeros while the server does not run.

        It costs some 5 ns for each descriptor in use and 100 ns for each connection that has something queued or
        waiting, 1 ms for each 100 MB of the process, and holds up nobody: no lock is kept for more than a fraction of
        a millisecond. Good for every few seconds, not for every message. See docs/memory.md.

        Raises:
            MemoryError: There is none to find out.

        Thread: any.
        """
        run = self._run
        return Memory() if run is None else run.memory(self._roll)

    def __repr__(self) -> str:
        state = f"{self.connections} connections" if self.running else "not running"
        return f"<Server {self._places()} {state}>"

    # Beginning and end

    def run(
        self,
        *,
        ready: Callable[[], object] | None = None,
        on_worker: Callable[[int], object] | None = None,
    ) -> None:
        """Start, and serve until the server is stopped.

        In the main thread SIGTERM drains it over `drain_time`, as `drain` does, and a second one stops it: connections
        are closed with 1001 and have `close_timeout` to answer. SIGINT stops it at once. One more signal drops who is
        left. Then it returns as usual. The handlers that were there before are put back; a signal that was ignored
        stays ignored.

        With more than one of the option `workers` this process serves nobody: it is the parent of those that do, and
        passes signals on; SIGHUP replaces the workers, one after the other. Each is a copy of this process as it is
        now, made by fork(), so no server may run in it. A worker leaves its process as soon as it has stopped: what
        follows this call, ``finally`` and atexit included, happens in the parent only. See docs/scaling.md.

        Args:
            ready: Called once, when the server serves and signals are handled; what it raises stops the
                server. With several workers: in the parent, when all of them serve.
            on_worker: Called in each worker, with its number, before it serves: the place to open what a process has
                to have for itself. What it raises ends the worker. Not called where there is only one.

        Raises:
            RuntimeError: It runs already. With several workers: this is not the main thread, or another server runs
                in this process; or a worker ended before all of them served, or more died than
                `worker_restart_limit`.
            TimeoutError: A second after the signal that drops who is left, callbacks still run. The server has not
                stopped, and does when they return; they are on daemon threads, which do not keep the process.
            BaseException: A callback raised `KeyboardInterrupt` or `SystemExit`, or the engine cannot go on:
                the server has been stopped, and this is what was raised.

        Thread: any; signals are handled in the main thread only.
        """
        if self._options.workers > 1:
            self._supervise(ready, on_worker)
            return
        run: Serving | None = None
        urgency = NONE

        def on_signal(number: int) -> bool:
            nonlocal urgency
            urgency = more_urgent(self._options, urgency, number)
            if run is not None:
                obey(self._options, run, urgency)
            return urgency < NOW

        with SignalWaiter(on_signal) as waiter:
            run = self._begin()
            run.wake = waiter.wake
            try:
                obey(self._options, run, urgency)
                if ready is not None:
                    ready()
                overdue = self._wait(waiter, run, lambda: urgency)
                if not overdue:
                    run.join()
            except BaseException:
                self.stop()
                raise
        raised, run.raised = run.raised, None
        if overdue and raised is None:
            raise TimeoutError(f"callbacks still run after the last signal: {run.busy()}")
        if raised is not None:
            try:
                raise raised
            finally:
                # The traceback holds this frame, and the frame would hold the exception.
                del raised

    def start(self) -> None:
        """Serve in the background, on daemon threads named ``unlimitedws-1`` and so on.

        Returns when the first has been started, which may be before it polls: clients that come meanwhile wait in
        the kernel's backlog, as they did before. What goes wrong on it is logged, and stops the server.

        Raises:
            RuntimeError: It runs already, or is being stopped; or no thread can be started; or it has more than one
                of the option `workers`, which only `run` can start.
            OSError: The address cannot be had any more, after a `stop`; or the engine got no descriptors.

        Thread: any.
        """
        if self._options.workers > 1:
            raise RuntimeError(f"workers={self._options.workers}: only run() can start them")
        self._begin()

    def stop(self, timeout: Duration | None = None) -> None:
        """Stop serving: accept no more, close every connection with 1001, wait until all has ended.

        Also closes the listening sockets of a server that never ran. Stopping a stopped server does nothing.
        Called by a callback it only begins to stop, and returns at once: what it would wait for is itself.

        In the parent of several workers it stops all of them. In a worker it stops that one, which is then replaced.

        Args:
            timeout: Seconds or a `timedelta` for the connections to take what was sent to them, and to answer;
                those left are dropped. None is the option `close_timeout`; 0 drops all at once.

        Raises:
            TimeoutError: A callback still runs a second after that, or, as the message then says, what is left to do
                without one takes so long. The server has not stopped; it does when that is over, and until then it
                cannot be started again.
            TypeError, ValueError: timeout is not a duration.

        Thread: any.
        """
        limit = self._options.close_timeout if timeout is None else timeout
        limit = seconds(limit, "timeout")
        supervisor = self._supervising()
        if supervisor is not None:
            supervisor.stop(limit)
            return
        run = self._serving()
        if run is None:
            return
        own = threading.current_thread() in run.threads()
        run.shut(limit)
        if not own:
            self._await_end(run, limit)

    def drain(
        self, over: Duration = 60.0, code: int = 1012, jitter: bool = True, *, wait: bool = True
    ) -> None:
        """Stop serving without a stampede: have the connections leave one after the other, then stop.

        From now on nobody new is let in: upgrades get 503, those that a hook is deciding on too. Routes still answer,
        so that `health` is seen to be red. A socket that other processes accept from too (``fd:``, ``systemd``) is
        left to them at once instead. Each open connection is closed with code at its moment of the time, when what
        it sent has been delivered and answered; the engine keeps to that also while Python is busy. When the last
        has left, or the time is over, the rest is as with `stop`.

        A second call may shorten the time, not lengthen it; `stop` may be called meanwhile. While the server stops
        this does nothing but wait.

        Args:
            over: Seconds or a `timedelta`.
            code: What they are told: 1012, "service restart". Clients that are well made come back then, elsewhere.
            jitter: Each leaves at a random moment of its share of the time, and in random order; False: evenly.
            wait: Wait until all has ended. Called by a callback it returns at once in any case.

        Raises:
            TimeoutError: As `stop`.
            TypeError, ValueError: over is not a duration; code may not be sent.

        Thread: any.
        """
        limit = seconds(over, "over")
        check_close(code, "")
        supervisor = self._supervising()
        if supervisor is not None:
            supervisor.drain(limit, code, jitter, wait)
            return
        run = self._serving()
        if run is None:
            return
        own = threading.current_thread() in run.threads()
        close_timeout = seconds(self._options.close_timeout, "close_timeout")
        run.drain(limit, code, jitter, close_timeout)
        if own or not wait:
            return
        if not run.ended.wait(limit):
            # The engine has begun by itself; the door is to know it too.
            run.shut(close_timeout)
        self._await_end(run, close_timeout)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    # Inside

    def _serving(self) -> Serving | None:
        """Return the run that has to end; without one close the sockets, and wait for the threads of the last one."""
        with self._lock:
            # A child process has the sockets of a server that ran when it was forked, but no thread of it.
            if self._run is not None and self._run.pid == os.getpid():
                return self._run
            self._close_listeners()
            last = self._last
        if last is not None and last.pid == os.getpid():
            last.join()
        return None

    def _wait(self, waiter: SignalWaiter, run: Serving, urgency: Callable[[], int]) -> bool:
        """Wait until a run has ended. True: it has not, as callbacks run on though a signal has said that nobody waits.

        Where an earlier signal has only asked for the end, the log says what it takes so long for.
        """
        obeyed, deadline = NONE, math.inf
        while not run.ended.is_set():
            if urgency() != obeyed:
                obeyed = urgency()
                deadline = time.monotonic() + patience(self._options, obeyed) + GRACE
            left = deadline - time.monotonic()
            if left > 0:
                waiter.pause(None if left == math.inf else left)
                continue
            if obeyed == NOW:
                return True
            logger.warning("the server cannot end, as callbacks still run: %s", run.busy())
            deadline = math.inf
        return False

    def _await_end(self, run: Serving, limit: float) -> None:
        """Wait until a run that has limit seconds to end is over, and its threads are gone."""
        if not run.ended.wait(limit + GRACE):
            busy = run.busy()
            if busy:
                raise TimeoutError(f"callbacks still run {limit + GRACE:g} s after stop: {busy}")
            # The last of these threads closes the sockets; a Unix socket's file may be on a disk that does not answer.
            raise TimeoutError(f"{self._places()} not closed {limit + GRACE:g} s after stop; no callback runs any more")
        run.join()

    def _places(self) -> str:
        return " ".join(str(addr) for addr in self._local_addrs)

    def _close_listeners(self) -> None:
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()

    def _set_time(self, option: str, setting: str, value: Duration) -> None:
        change: dict[str, Any] = {option: value}
        with self._lock:
            self._options = replace(self._options, **change)
            if self._run is not None:
                for loop in self._run.loops:
                    loop.set_time(setting, microseconds(value, option))

    def _set_hook(self, name: str, func: Callable[..., object] | None) -> None:
        with self._lock:
            if func is None:
                self._hooks.pop(name, None)
            else:
                self._hooks[name] = func
            if self._run is not None and name != "on_error":
                self._furnish(self._run)

    def _begin(self) -> Serving:
        run: Serving | None = None
        try:
            with self._lock:
                if self._run is not None:
                    raise RuntimeError("the server is running already")
                if self._options.raise_nofile_limit:
                    _raise_nofile_limit()
                if not self._listeners:
                    self._listeners = listen_all(self._again, self._options)
                made = self._make()
                run = self._run = made
                run.start()
        except BaseException:
            if run is not None:
                # Of the threads that could be started, the last one needs our lock on its way out.
                run.ended.wait()
            raise
        logger.info("listening on %s", self._places())
        return run

    def _make(self) -> Serving:
        """Make a run, with its loops told all they have to know. The lock is held."""
        options = self._options
        proxies = Proxies(options.trusted_proxies, options.forwarded_header)
        door = self._new_door(proxies)
        run = self._new_serving(options.settings_of_loops(), door)
        self._furnish(run)
        for loop in run.loops:
            loop.set_proxies(proxies.engine_networks(), proxies.field.encode(), proxies.client)
        return run

    def _new_door(self, proxies: Proxies) -> Door:
        return Door(self._rules, self._options, proxies, self._roll, self._failed, self._stop_for)

    def _new_serving(self, settings: list[dict[str, int]], door: Door) -> Serving:
        options = self._options
        return Serving(
            settings, self._failed, options.page, door, self._listeners, self._ended, shared=options.workers > 1
        )

    def _supervising(self) -> Supervisor | None:
        """Return the supervisor where this is the parent of workers."""
        supervisor = self._supervisor
        return supervisor if supervisor is not None and supervisor.pid == os.getpid() else None

    def _supervise(
        self, ready: Callable[[], object] | None, on_worker: Callable[[int], object] | None
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f"workers={self._options.workers}: only the main thread can run them")
        if any_serving():
            raise RuntimeError(f"workers={self._options.workers}: no server may run in the process that forks them")
        from .supervisor import Supervisor

        with self._lock:
            if self._supervisor is not None:
                raise RuntimeError("the server is running already")
            if not self._listeners:
                self._listeners = listen_all(self._again, self._options)
            supervisor = self._supervisor = Supervisor(self, ready, on_worker)
        logger.info("listening on %s", self._places())
        try:
            supervisor.run()
        finally:
            with self._lock:
                self._supervisor = None
                self._close_listeners()
            logger.info("stopped listening on %s", self._places())

    def _refuse(self) -> None:
        """Refuse newcomers; the parent of workers does, for all of them."""
        for listener in self._listeners:
            listener.refuse()

    def _ended(self) -> None:
        """The run has come to its end; `Serving` calls this from the last of its threads."""
        with self._lock:
            self._last, self._run = self._run, None
            self._close_listeners()
        logger.info("stopped listening on %s", self._places())

    def _failed(self, conn: Conn | Request | None, exc: BaseException, hook: str) -> None:
        """A callback raised; the loop calls this before it closes the connection, the door instead of one."""
        if isinstance(exc, KeyboardInterrupt | SystemExit):
            # No other order to stop: a CancelledError or a GeneratorExit is of the callback's own doings.
            logger.info("%s of %r raised %r: stopping", hook, conn, exc)
            self._stop_for(exc)
        elif (
            isinstance(exc, ConnectionClosed)
            and isinstance(conn, Conn)
            and not conn.is_open
            and hook != "on_close"
        ):
            # The peer left while the callback was at work. That is its right, and nobody's mistake.
            logger.debug("%s of %r: %s", hook, conn, exc)
        else:
            logger.error("%s of %r raised", hook, conn, exc_info=exc)
        on_error = self._hooks.get("on_error")
        if on_error is None:
            return
        try:
            on_error(conn, exc)
        except (KeyboardInterrupt, SystemExit) as second:
            self._stop_for(second)
        except BaseException:
            logger.exception("on_error of %r raised", conn)

    def _forked(self) -> None:
        """This is a child process: whoever held a lock when it was forked is not in it, and lets go of nothing."""
        self._lock = threading.RLock()
        self._roll.forked()

    def _stop_for(self, exc: BaseException) -> None:
        run = self._run
        if run is not None:
            run.shut_for(exc, self._options.close_timeout)


def NewServer(addr: Addresses, **options: Unpack[OptionKeywords]) -> Server:
    """Make a server, as Go's NewServer: callbacks run inline until `set_pool` is called. See `Server`."""
    return Server(addr, **options)


def DefaultServer(addr: Addresses, **options: Unpack[OptionKeywords]) -> Server:
    """Make a server with Go's defaults: a pool of 128 threads and 128 jobs, 1 ms, 5 ms and 0.1 s.

    The times are every server's defaults. Options given win over these. See `Server`.
    """
    defaults = OptionKeywords(pool=(128, 128), schedule_timeout=0.001, cooldown_time=0.005, io_timeout=0.1)
    defaults.update(options)
    return Server(addr, **defaults)


def _raise_nofile_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as exc:
        logger.warning("RLIMIT_NOFILE stays at %d of %d: %s", soft, hard, exc)


def _forked() -> None:
    for server in list(_servers):
        server._forked()


os.register_at_fork(after_in_child=_forked)
