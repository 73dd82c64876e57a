# F6. Loops as Python sees them: their beginning, their runners, their end. Owns the memory of a loop.
# Lock order: the GIL, then the loop's lock; nobody waits for the GIL with the lock held.

import os
import sys

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.pythread cimport PyThread_get_thread_ident
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from _uws.accept cimport accept_leave, accept_look
from _uws.atomic cimport atomic_read, atomic_write
from _uws.clock cimport clock_ms
from _uws.conn cimport UWS_FREE_THREADED, conns_fork
from _uws.drain cimport loop_drain, loop_stop
from _uws.errs cimport UWS_E_ARG, UWS_OK
from _uws.lock cimport conn_lock, conn_unlock
from _uws.loop cimport (
    batch_destroy,
    batch_init,
    loop_close,
    loop_destroy,
    loop_forked,
    loop_init,
    loop_listen,
)
from _uws.intern cimport intern_give, intern_take
from _uws.memory cimport (
    UwsMemory,
    UwsRange,
    memory_join,
    memory_leave,
    memory_ranges,
    memory_resident,
    memory_stack,
    memory_sums,
    memory_walk,
)
from _uws.post cimport post_call
from _uws.proxy cimport UWS_A_INET, UWS_A_INET6, UWS_A_UNIX, UWS_MAX_NETS, UwsNet
from _uws.role cimport (
    UWS_WORK_EVENTS,
    UWS_WORK_STOP,
    role_dismiss,
    role_end,
    role_invite,
    role_leave,
    role_start,
    role_visit,
    role_work,
)
from _uws.settings cimport UWS_MIN_SCHEDULE_US, UwsSettings, settings_read
from _uws.slab cimport slab_held_bytes, slab_used_bytes
from _uws.state cimport (
    UWS_CAUSES,
    UWS_MAX_HTTP_STATUS,
    UWS_MAX_SUBPROTOCOLS,
    UWS_ROLE_NEW,
    UwsBatch,
    UwsCounters,
    UwsLoop,
    pthread_cond_signal,
    pthread_mutex_lock,
    pthread_mutex_t,
    pthread_mutex_trylock,
    pthread_mutex_unlock,
)
from _uws.table cimport RLIMIT_NOFILE, getrlimit, rlim_t, rlimit

cdef extern from "pthread.h" nogil:
    int pthread_mutex_init(pthread_mutex_t*, const void*)

cdef enum:
    SPAWN_RETRY_MS = 1000         # after a runner could not be started
    MAX_TABLE = 1 << 24           # slots, where RLIMIT_NOFILE knows no limit
    # Of a descriptor table of its own: stdin, stdout, stderr, epoll, the eventfd, 16 listeners, the spare one, and one
    # for whoever is turned away.
    UWS_OWN_RESERVE = 24

# The first of all loops of this process, for fork(), and what guards them; taken before any loop's locks.
cdef UwsLoop* all_loops = NULL
cdef pthread_mutex_t loops_lock
# The thread that forks, and has all of these locks meanwhile; atomic, 0: none.
cdef uint64_t forker = 0

pthread_mutex_init(&loops_lock, NULL)


cdef bint _lock_loops() noexcept:
    """Take loops_lock, without the GIL where it has to be waited for. False: it is this thread's, which forks, already:
    hooks of the fork may let go of a loop, and in the child the interpreter drops what the other threads had."""
    if atomic_read(&forker) == PyThread_get_thread_ident():
        return False
    while pthread_mutex_trylock(&loops_lock) != 0:
        with nogil:
            pthread_mutex_lock(&loops_lock)
            pthread_mutex_unlock(&loops_lock)
    return True


def seats_of_own():
    """How many connections a loop has room for that has a descriptor table of its own. See core.pyi."""
    cdef rlimit files
    if getrlimit(RLIMIT_NOFILE, &files) != 0:
        raise OSError(errno, "getrlimit")
    return max(<int64_t>min(files.rlim_cur, <rlim_t>MAX_TABLE) - UWS_OWN_RESERVE, 1)


@cython.final
cdef class Crowd:
    """The connections of several loops, counted together. See core.pyi."""


@cython.final
cdef class Loop(Dispatch):
    """One epoll instance, its connections, and the threads that serve them. See core.pyi."""

    def __cinit__(self, dict settings, spawn, failed, page, Crowd crowd=None):
        cdef UwsSettings told
        cdef rlimit files
        cdef uint32_t table
        settings_read(&told, settings)
        self.streaming = told.streaming != 0
        self.max_runners = told.runners
        self.spawn = spawn
        self.failed = failed
        if getrlimit(RLIMIT_NOFILE, &files) != 0:
            raise OSError(errno, "getrlimit")
        table = MAX_TABLE if files.rlim_max > MAX_TABLE else <uint32_t>files.rlim_max
        self.l = <UwsLoop*>PyMem_RawMalloc(sizeof(UwsLoop))
        if self.l == NULL:
            raise MemoryError
        if loop_init(self.l, &told.limits, told.max_message_bytes, told.max_fragments, table) != UWS_OK:
            PyMem_RawFree(self.l)
            self.l = NULL
            raise OSError(errno, "epoll, eventfd or the connection table cannot be had")
        self.l.env.max_stream_bytes = told.max_stream_bytes
        if UWS_FREE_THREADED and not sys._is_gil_enabled():
            self.l.lanes = len(os.sched_getaffinity(0))
        if told.limits.private_fds:
            self.l.seats = <uint32_t>min(seats_of_own(), MAX_TABLE)
            if crowd is None and (told.limits.max_connections == 0 or told.limits.max_connections > self.l.seats):
                self.l.limits.max_connections = self.l.seats
        self.crowd = crowd
        if crowd is not None:
            self.l.crowd = &crowd.n
        global all_loops
        cdef bint locked = _lock_loops()
        self.l.next_loop = all_loops
        all_loops = self.l
        if locked:
            pthread_mutex_unlock(&loops_lock)
        if page is not None:
            self._set_page(page)

    def __dealloc__(self):
        global all_loops
        cdef UwsLoop** at = &all_loops
        cdef bint locked
        if self.l != NULL:
            locked = _lock_loops()
            while at[0] != NULL and at[0] != self.l:
                at = &at[0].next_loop
            if at[0] != NULL:
                at[0] = self.l.next_loop
            if locked:
                pthread_mutex_unlock(&loops_lock)
            PyMem_RawFree(self.l.page)
            loop_destroy(self.l)
            PyMem_RawFree(self.l)

    def _set_page(self, bytes page):
        cdef bytes response = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n"
            b"Cache-Control: no-cache\r\nConnection: close\r\n\r\n%b" % (len(page), page)
        )
        self.l.page = <uint8_t*>PyMem_RawMalloc(len(response))
        if self.l.page == NULL:
            raise MemoryError
        memcpy(self.l.page, PyBytes_AS_STRING(response), len(response))
        self.l.page_len = len(response)

    @property
    def connections(self):
        cdef uint32_t n
        conn_lock(self.l)
        n = 0 if self.l.forked else self.l.n_open
        conn_unlock(self.l)
        return n

    @property
    def staffed(self):
        # Makes no object: who asks may be out of memory.
        cdef bint staffed
        conn_lock(self.l)
        staffed = self.l.runners != 0
        conn_unlock(self.l)
        return staffed

    def listen(self, int fd, bint shared=False, bint in_turn=False):
        cdef int status
        conn_lock(self.l)
        status = loop_listen(self.l, fd, shared, in_turn)
        conn_unlock(self.l)
        if status == UWS_E_ARG:
            raise ValueError("too many listening sockets for one loop, or it has a table of its own without this one")
        if status != UWS_OK:
            raise OSError(errno, "epoll does not take the listening socket")

    def accept_no_more(self):
        conn_lock(self.l)
        accept_leave(self.l)
        conn_unlock(self.l)

    def look(self):
        conn_lock(self.l)
        accept_look(self.l)
        conn_unlock(self.l)

    def set_subprotocols(self, list names not None):
        cdef UwsLoop* l = self.l
        cdef bytes name
        cdef int i
        if len(names) > UWS_MAX_SUBPROTOCOLS:
            raise ValueError(f"at most {UWS_MAX_SUBPROTOCOLS} subprotocols, not {len(names)}")
        cdef list checked = [bytes(name) for name in names]
        conn_lock(l)
        for i in range(l.n_subprotocols):
            intern_give(&l.intern, l.subprotocol[i])
        l.n_subprotocols = 0
        for i in range(len(checked)):
            name = <bytes>checked[i]
            l.subprotocol[i] = intern_take(&l.intern, <const uint8_t*>PyBytes_AS_STRING(name), len(name))
            if l.subprotocol[i] != 0:
                l.n_subprotocols += 1
        conn_unlock(l)
        if l.n_subprotocols != len(checked):
            raise MemoryError

    def set_proxies(self, list networks not None, bytes field not None, client):
        cdef UwsLoop* l = self.l
        cdef UwsNet[UWS_MAX_NETS] trusted
        cdef bytes addr
        cdef int i, kind, bits
        if len(networks) > UWS_MAX_NETS:
            raise ValueError(f"at most {UWS_MAX_NETS} networks, not {len(networks)}")
        if not 0 < len(field) <= sizeof(l.forwarded):
            raise ValueError(f"a field's name has 1 to {sizeof(l.forwarded)} bytes, not {len(field)}")
        memset(trusted, 0, sizeof(trusted))
        for i in range(len(networks)):
            kind, bits, addr = networks[i]
            if (kind, len(addr)) not in ((UWS_A_UNIX, 0), (UWS_A_INET, 4), (UWS_A_INET6, 16)) \
                    or not 0 <= bits <= 8 * len(addr):
                raise ValueError(f"{networks[i]!r} is no network")
            trusted[i].kind = <uint8_t>kind
            trusted[i].bits = <uint8_t>bits
            memcpy(trusted[i].addr, PyBytes_AS_STRING(addr), len(addr))
        self.client = client
        conn_lock(l)
        memcpy(l.trusted, trusted, sizeof(trusted))
        l.n_trusted = len(networks)
        memcpy(l.forwarded, PyBytes_AS_STRING(field), len(field))
        l.forwarded_len = len(field)
        conn_unlock(l)

    def set_time(self, str name, int64_t value):
        if not 0 <= value <= 0xFFFFFFFF:
            raise ValueError(f"{name} cannot be {value} us")
        conn_lock(self.l)
        if name == "schedule_timeout_us":
            self.l.limits.schedule_timeout_us = <uint32_t>max(value, UWS_MIN_SCHEDULE_US)
            # The watchdog may be waiting for the end of the old one.
            pthread_cond_signal(&self.l.dog_cond)
        elif name == "cooldown_us":
            self.l.limits.cooldown_us = <uint32_t>value
        elif name == "io_timeout_us":
            self.l.limits.io_timeout_us = <uint32_t>value
        else:
            conn_unlock(self.l)
            raise ValueError(f"there is no time named {name!r}")
        conn_unlock(self.l)

    def shut(self, int code, str reason, int64_t timeout_ms):
        cdef bytes text = reason.encode()
        cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(text)
        cdef size_t n = len(text)
        if timeout_ms < 0:
            timeout_ms = 0
        with nogil:
            pthread_mutex_lock(&self.l.lock)
            if not self.l.forked:
                loop_stop(self.l, <uint16_t>code, p, n, <uint64_t>timeout_ms)
            conn_unlock(self.l)

    def drain(self, int64_t over_ms, int code, bint jitter, int64_t timeout_ms):
        if not 0 <= over_ms <= 0x7FFFFFFF or timeout_ms < 0:
            raise ValueError(f"a drain cannot last {over_ms} ms and {timeout_ms} ms")
        with nogil:
            pthread_mutex_lock(&self.l.lock)
            if not self.l.forked:
                loop_drain(self.l, <uint32_t>over_ms, <uint16_t>code, jitter, <uint64_t>timeout_ms)
            conn_unlock(self.l)

    @property
    def draining(self):
        cdef bint draining
        conn_lock(self.l)
        draining = self.l.draining != 0
        conn_unlock(self.l)
        return draining

    def counters(self):
        cdef UwsLoop* l = self.l
        cdef UwsCounters c
        cdef uint32_t connections, descriptors, draining, runners, parked, ready, blocking, timers, targets
        cdef size_t inbox_bytes, out_bytes, used_bytes, held_bytes, blocks, partial
        cdef uint64_t inflated, inflated_from_bytes, inflated_bytes
        cdef uint64_t[19] closed_by
        cdef uint64_t[600] answered
        cdef int i
        conn_lock(l)
        c = l.count
        connections, descriptors, runners, parked, draining = l.n_open, l.n_conns, l.runners, l.parked, l.draining
        ready, blocking, timers, targets = l.n_ready, l.blockers, l.wheel.count, l.intern.live
        inbox_bytes, blocks, partial = l.inbox_bytes, l.slab.live_blocks, l.env.partial_bytes
        out_bytes = l.out_bytes
        inflated, inflated_from_bytes, inflated_bytes = l.env.inflated, l.env.inflated_from_bytes, l.env.inflated_bytes
        memcpy(closed_by, l.closed_by, sizeof(closed_by))
        memcpy(answered, l.answered, sizeof(answered))
        used_bytes, held_bytes = slab_used_bytes(&l.slab), slab_held_bytes(&l.slab)
        conn_unlock(l)
        figures = {
            "connections": connections, "descriptors": descriptors, "runners": runners, "parked": parked,
            "ready": ready, "blocking": blocking, "timers": timers, "targets": targets, "inbox_bytes": inbox_bytes,
            "buffered_bytes": out_bytes, "incomplete_bytes": partial,
            "slab_used_bytes": used_bytes, "slab_held_bytes": held_bytes,
            "slab_blocks": blocks, "inflated": inflated, "inflated_from_bytes": inflated_from_bytes,
            "inflated_bytes": inflated_bytes, "draining": draining,
        }
        figures.update(c)
        for i in range(1, UWS_CAUSES):
            figures[f"closed_by_{CloseCause(i).name.lower()}"] = closed_by[i]
        for i in range(100, UWS_MAX_HTTP_STATUS + 1):
            if answered[i] != 0:
                figures[f"answered_{i}"] = answered[i]
        return figures

    def memory(self):
        cdef UwsLoop* l = self.l
        cdef UwsMemory m
        cdef UwsRange* ranges = NULL
        cdef size_t room = 64, n = 0
        cdef uint32_t at = 0
        cdef bint more = True
        memset(&m, 0, sizeof(m))
        if l.forked:
            return m
        with nogil:
            while more:
                pthread_mutex_lock(&l.lock)
                more = memory_walk(l, &at, &m)
                if not more:
                    memory_sums(l, &m)
                pthread_mutex_unlock(&l.lock)
        try:
            while n == 0 or n > room:
                # There may be more of them by the time that there is room.
                room = max(room, n + n // 8)
                PyMem_RawFree(ranges)
                ranges = <UwsRange*>PyMem_RawMalloc(room * sizeof(UwsRange))
                if ranges == NULL:
                    raise MemoryError
                with nogil:
                    pthread_mutex_lock(&l.lock)
                    n = memory_ranges(l, ranges, room)
                    pthread_mutex_unlock(&l.lock)
            with nogil:
                memory_resident(ranges, n, &m)
        finally:
            PyMem_RawFree(ranges)
        return m

    # ---- runners

    def run(self):
        cdef UwsLoop* l = self.l
        cdef UwsBatch b
        cdef uint64_t role = UWS_ROLE_NEW
        cdef int work, error = 0
        cdef bint started = True
        cdef bint forked, able
        able = batch_init(&b) == UWS_OK
        if able:
            memory_stack(&b)
        conn_lock(l)
        self.spawning = False
        forked = l.forked
        if forked or not able:
            if not able:
                # Who asked for one more need not ask again at once.
                self.spawn_at_ms = clock_ms() + SPAWN_RETRY_MS
            conn_unlock(l)
            if able:
                batch_destroy(&b)
                raise RuntimeError("a loop stays with the process that made it")
            raise MemoryError
        memory_join(l, &b)
        l.runners += 1
        l.arriving += 1
        if not self.dog_started and not l.finished:
            self.dog_started = True
            conn_unlock(l)
            with nogil:
                started = role_start(l) == UWS_OK
                error = errno
            conn_lock(l)
            self.dog_started = started
        conn_unlock(l)
        try:
            if not started:
                raise OSError(error, "the watchdog thread cannot be started")
            while True:
                with nogil:
                    work = role_work(l, &b, &role)
                if work == UWS_WORK_STOP:
                    break
                self._staff(role)
                self._deliver(&b, role)
                if l.forked:
                    break
        finally:
            # Where a callback has forked, and this is the child, there is nothing to leave, nor anybody to wait for.
            forked = l.forked
            last = False
            with nogil:
                if not forked:
                    role_leave(l, &b, role)
                batch_destroy(&b)
            if not forked:
                conn_lock(l)
                l.runners -= 1
                last = l.runners == 0 and self.dog_started
                if last:
                    self.dog_started = False
                conn_unlock(l)
            if last:
                self._end()

    cdef int _end(self) except -1:
        """The last of those who drive the loop has come to its end."""
        cdef UwsLoop* l = self.l
        with nogil:
            role_end(l)
            if l.finished:
                loop_close(l)
        self._forget()
        self.spawn = None
        return 0

    def enter(self):
        cdef UwsLoop* l = self.l
        cdef bint started = False
        cdef int error = 0
        cdef tuple fds
        if l.limits.private_fds:
            raise RuntimeError("a guest cannot drive a loop whose descriptors are in another table")
        if l.forked or self.dog_started or l.finished:
            raise RuntimeError("a loop runs once, and in the process that made it")
        if batch_init(&self.guest) != UWS_OK:
            raise MemoryError
        if role_invite(l, &self.guest) != UWS_OK:
            error = errno
            batch_destroy(&self.guest)
            raise OSError(error, "an eventfd cannot be had")
        try:
            # Before there is a watchdog: without memory for it there is to be none.
            fds = (l.poller.epoll_fd, l.bell_fd)
            with nogil:
                started = role_start(l) == UWS_OK
                error = errno
            if not started:
                raise OSError(error, "the watchdog thread cannot be had")
        except BaseException:
            role_dismiss(l)
            batch_destroy(&self.guest)
            raise
        self.dog_started = True
        conn_lock(l)
        memory_join(l, &self.guest)
        l.runners += 1
        conn_unlock(l)
        return fds

    def visit(self):
        cdef UwsLoop* l = self.l
        cdef int work
        if not self.dog_started or self.visiting or l.forked:
            raise RuntimeError("not the guest's to call now: enter() comes first, and no callback visits")
        self.visiting = True
        try:
            with nogil:
                work = role_visit(l)
            if work == UWS_WORK_EVENTS:
                conn_lock(l)
                l.gil_waiters -= 1
                conn_unlock(l)
                self._deliver(&self.guest, 0)
        finally:
            self.visiting = False
        return work

    def leave(self):
        cdef UwsLoop* l = self.l
        if not self.dog_started or not l.finished or self.visiting:
            raise RuntimeError("the loop has not finished")
        conn_lock(l)
        memory_leave(l, &self.guest)
        l.runners -= 1
        conn_unlock(l)
        self.dog_started = False
        self._end()
        l.guest = NULL
        l.batch = NULL
        batch_destroy(&self.guest)

    cdef int _spare(self) except -1:
        """Keep one runner in reserve: when those at work get stuck, the watchdog can only wake one that exists."""
        cdef bint started = False
        try:
            self.spawn()
            started = True
        except Exception:
            # It goes on with the runners there are, and asks again in a while; the server has logged why.
            pass
        finally:
            if not started:
                conn_lock(self.l)
                self.spawning = False
                self.spawn_at_ms = clock_ms() + SPAWN_RETRY_MS
                conn_unlock(self.l)
        return 0

    cdef int _staff(self, uint64_t role) except -1:
        """Have one more runner started, if none is in reserve. The GIL is held, the lock is not."""
        cdef UwsLoop* l = self.l
        cdef bint wanted
        conn_lock(l)
        l.gil_waiters -= 1
        if role != 0:
            post_call(l)
        wanted = self.max_runners > l.runners and l.parked == 0 and l.arriving == 0 and not self.spawning \
            and not l.stopping and (self.spawn_at_ms == 0 or clock_ms() >= self.spawn_at_ms)
        if wanted:
            self.spawning = True
        conn_unlock(l)
        if wanted:
            self._spare()
        return 0


# A child process has the locks as they were at the fork, but not the threads that would let go of them: so all are
# taken before, and let go of after it. To the child every connection is over; they are the parent's.

def _before_fork():
    cdef UwsLoop* l
    _lock_loops()
    atomic_write(&forker, PyThread_get_thread_ident())
    l = all_loops
    while l != NULL:
        pthread_mutex_lock(&l.deflate_lock)
        pthread_mutex_lock(&l.lock)
        l = l.next_loop
    conns_fork(True)


cdef void _unlock_loops() noexcept:
    atomic_write(&forker, 0)
    pthread_mutex_unlock(&loops_lock)


def _after_fork_in_parent():
    cdef UwsLoop* l = all_loops
    conns_fork(False)
    while l != NULL:
        conn_unlock(l)
        pthread_mutex_unlock(&l.deflate_lock)
        l = l.next_loop
    _unlock_loops()


def _after_fork_in_child():
    cdef UwsLoop* l = all_loops
    conns_fork(False)
    while l != NULL:
        loop_forked(l)
        conn_unlock(l)
        pthread_mutex_unlock(&l.deflate_lock)
        l = l.next_loop
    _unlock_loops()


# At the end, as in conn.
from unlimitedws.causes import CloseCause

os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
