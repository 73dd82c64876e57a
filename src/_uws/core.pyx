# F6. Loops as Python sees them, and the handing over of events: with conn, the only files of the engine that hold
# Python objects. Owns the memory of a loop.
# Lock order: the GIL, then the loop's lock; nobody waits for the GIL with the lock held.

import os
import sys

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from _uws.clock cimport clock_ms
from _uws.conn cimport (
    Conn,
    conn_lock,
    conn_make,
    conn_unlock,
    conns_fork,
    event_fragment,
    event_goes_on,
    event_payload,
    event_text,
)
from _uws.deflate cimport deflate_valid
from _uws.deliver cimport UwsDelivery, deliver_begin, deliver_done, deliver_next, deliver_next_note
from _uws.errs cimport UWS_E_ARG, UWS_OK
from _uws.exchange cimport Exchange, exchange_fail, exchange_make
from _uws.frame cimport UWS_OP_TEXT
from _uws.life cimport conn_consumed, conn_end, conn_goodbye
from _uws.loop cimport batch_destroy, batch_init, loop_close, loop_destroy, loop_init, loop_listen, loop_stop
from _uws.intern cimport intern_give, intern_take
from _uws.proto cimport UWS_EV_CLOSE, UWS_EV_FRAGMENT, UWS_EV_OPEN, UWS_EV_REQUEST, UWS_EVF_FINAL, UwsEvent
from _uws.proxy cimport UWS_A_INET, UWS_A_INET6, UWS_A_UNIX, UWS_MAX_NETS, UwsNet
from _uws.role cimport UWS_WORK_STOP, role_end, role_leave, role_start, role_work
from _uws.slab cimport slab_held_bytes, slab_used_bytes
from _uws.slot cimport conn_at
from _uws.state cimport (
    UWS_CAUSES,
    UWS_C_CALLBACK,
    UWS_F_PINNED,
    UWS_MAX_HTTP_STATUS,
    UWS_MAX_SUBPROTOCOLS,
    UWS_M_MUTE,
    UWS_S_OPEN,
    UWS_W_CLOSE,
    UWS_W_MESSAGE,
    UWS_W_OPEN,
    UWS_W_REQUEST,
    UWS_W_ROUTE,
    UWS_W_STREAM,
    UwsBatch,
    UwsConn,
    UwsCounters,
    UwsLimits,
    UwsLoop,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)

cdef extern from "sys/resource.h" nogil:
    ctypedef unsigned long rlim_t
    cdef struct rlimit:
        rlim_t rlim_cur
        rlim_t rlim_max
    cdef enum:
        RLIMIT_NOFILE
    int getrlimit(int, rlimit*)

cdef extern from *:
    Py_ssize_t Py_REFCNT(PyObject*)

cdef enum:
    MIN_SCHEDULE_US = 100         # below it the watchdog would do little else than look
    SPAWN_RETRY_MS = 1000         # after a runner could not be started
    MAX_TABLE = 1 << 24           # slots, where RLIMIT_NOFILE knows no limit
    # What a hook gets beside the connection: nothing, a message, a fragment.
    AS_CALL = 0
    AS_MESSAGE = 1
    AS_FRAGMENT = 2

# The first of all loops of this process, for fork(); under the GIL.
cdef UwsLoop* all_loops = NULL

cdef tuple SETTINGS = (
    "max_message_bytes", "max_stream_bytes", "streaming", "max_fragments",
    "max_header_bytes", "max_header_fields", "max_line_bytes",
    "handshake_timeout_ms", "request_timeout_ms", "close_timeout_ms", "ping_interval_ms", "ping_timeout_ms",
    "send_timeout_ms", "idle_timeout_ms", "max_lifetime_ms", "max_pings_per_second", "max_incomplete_total_bytes",
    "max_buffered_bytes", "max_inbox_bytes", "max_inbox_messages",
    "max_inbox_total_bytes", "max_connections", "schedule_timeout_us", "cooldown_us", "io_timeout_us", "runners",
    "jobs", "proxy_protocol", "compression", "compression_level", "compression_mem_level",
    "compression_server_takeover",
    "compression_client_takeover", "compression_server_bits", "compression_client_bits", "compression_threshold",
)


@cython.final
cdef class Loop:
    """One epoll instance, its connections, and the threads that serve them. See core.pyi."""

    def __cinit__(self, dict settings, spawn, failed, page):
        cdef UwsLimits limits
        cdef rlimit files
        cdef uint32_t table
        for name in SETTINGS:
            if name not in settings:
                raise KeyError(name)
        for name in settings:
            if name not in SETTINGS:
                raise KeyError(name)
        memset(&limits, 0, sizeof(limits))
        limits.upgrade.max_head_bytes = settings["max_header_bytes"]
        limits.upgrade.max_fields = settings["max_header_fields"]
        limits.upgrade.max_line_bytes = settings["max_line_bytes"]
        limits.handshake_timeout_ms = settings["handshake_timeout_ms"]
        limits.request_timeout_ms = settings["request_timeout_ms"]
        limits.close_timeout_ms = settings["close_timeout_ms"]
        limits.ping_interval_ms = settings["ping_interval_ms"]
        limits.ping_timeout_ms = settings["ping_timeout_ms"]
        limits.send_timeout_ms = settings["send_timeout_ms"]
        limits.idle_timeout_ms = settings["idle_timeout_ms"]
        limits.max_lifetime_ms = settings["max_lifetime_ms"]
        limits.max_pings = settings["max_pings_per_second"]
        limits.max_partial_bytes = settings["max_incomplete_total_bytes"]
        limits.max_buffered_bytes = settings["max_buffered_bytes"]
        limits.max_inbox_bytes = settings["max_inbox_bytes"]
        limits.max_inbox_messages = settings["max_inbox_messages"]
        limits.max_inbox_total_bytes = settings["max_inbox_total_bytes"]
        limits.max_connections = settings["max_connections"]
        limits.schedule_timeout_us = settings["schedule_timeout_us"]
        limits.schedule_timeout_us = max(limits.schedule_timeout_us, MIN_SCHEDULE_US)
        limits.cooldown_us = settings["cooldown_us"]
        limits.io_timeout_us = settings["io_timeout_us"]
        limits.jobs = settings["jobs"]
        limits.proxy_protocol = settings["proxy_protocol"]
        limits.deflate.enabled = settings["compression"]
        limits.deflate.level = settings["compression_level"]
        limits.deflate.mem_level = settings["compression_mem_level"]
        limits.deflate.server_takeover = settings["compression_server_takeover"]
        limits.deflate.client_takeover = settings["compression_client_takeover"]
        limits.deflate.server_bits = settings["compression_server_bits"]
        limits.deflate.client_bits = settings["compression_client_bits"]
        limits.deflate.threshold_bytes = settings["compression_threshold"]
        if not deflate_valid(&limits.deflate):
            raise ValueError("compression: a setting is out of range")
        # Every setting is read before anything is made: one that is refused leaves nothing behind.
        cdef uint64_t max_message_bytes = settings["max_message_bytes"]
        cdef uint64_t max_stream_bytes = settings["max_stream_bytes"]
        cdef uint32_t max_fragments = settings["max_fragments"]
        cdef uint32_t streaming = settings["streaming"]
        self.streaming = streaming != 0
        self.max_runners = settings["runners"]
        self.spawn = spawn
        self.failed = failed
        if getrlimit(RLIMIT_NOFILE, &files) != 0:
            raise OSError(errno, "getrlimit")
        table = MAX_TABLE if files.rlim_max > MAX_TABLE else <uint32_t>files.rlim_max
        self.l = <UwsLoop*>PyMem_RawMalloc(sizeof(UwsLoop))
        if self.l == NULL:
            raise MemoryError
        if loop_init(self.l, &limits, max_message_bytes, max_fragments, table) != UWS_OK:
            PyMem_RawFree(self.l)
            self.l = NULL
            raise OSError(errno, "epoll, eventfd or the connection table cannot be had")
        self.l.env.max_stream_bytes = max_stream_bytes
        global all_loops
        self.l.next_loop = all_loops
        all_loops = self.l
        if page is not None:
            self._set_page(page)

    def __dealloc__(self):
        global all_loops
        cdef UwsLoop** at = &all_loops
        if self.l != NULL:
            while at[0] != NULL and at[0] != self.l:
                at = &at[0].next_loop
            if at[0] != NULL:
                at[0] = self.l.next_loop
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
        return 0 if self.l.forked else self.l.n_open

    def listen(self, int fd):
        cdef int status
        conn_lock(self.l)
        status = loop_listen(self.l, fd)
        conn_unlock(self.l)
        if status == UWS_E_ARG:
            raise ValueError("too many listening sockets for one loop")
        if status != UWS_OK:
            raise OSError(errno, "epoll does not take the listening socket")

    def set_hook(self, str name, func):
        if name == "on_connect":
            self.on_connect = func
        elif name == "on_read":
            self.on_read = func
        elif name == "on_message":
            self.on_message = func
        elif name == "on_fragment":
            self.on_fragment = func
        elif name == "on_close":
            self.on_close = func
        elif name == "on_request":
            self.on_request = func
        elif name == "on_route":
            self.on_route = func
        else:
            raise ValueError(f"there is no hook named {name!r}")
        cdef uint32_t want = 0
        if self.on_connect is not None:
            want |= UWS_W_OPEN
        if self.on_read is not None or self.on_message is not None or self.on_fragment is not None:
            want |= UWS_W_MESSAGE
        # on_message takes nothing but whole messages.
        if self.on_fragment is not None or (self.streaming and self.on_message is None):
            want |= UWS_W_STREAM
        if self.on_close is not None:
            want |= UWS_W_CLOSE
        if self.on_request is not None:
            want |= UWS_W_REQUEST
        if self.on_route is not None:
            want |= UWS_W_ROUTE
        conn_lock(self.l)
        self.l.want = want
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
            self.l.limits.schedule_timeout_us = <uint32_t>max(value, MIN_SCHEDULE_US)
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

    def counters(self):
        cdef UwsLoop* l = self.l
        cdef UwsCounters c
        cdef uint32_t connections, descriptors, runners, parked, ready, timers, targets
        cdef size_t inbox_bytes, used_bytes, held_bytes, blocks, partial
        cdef uint64_t inflated, inflated_from_bytes, inflated_bytes
        cdef uint64_t[18] closed_by
        cdef uint64_t[600] answered
        cdef int i
        conn_lock(l)
        c = l.count
        connections, descriptors, runners, parked = l.n_open, l.n_conns, l.runners, l.parked
        ready, timers, targets = l.n_ready, l.wheel.count, l.intern.live
        inbox_bytes, blocks, partial = l.inbox_bytes, l.slab.live_blocks, l.env.partial_bytes
        inflated, inflated_from_bytes, inflated_bytes = l.env.inflated, l.env.inflated_from_bytes, l.env.inflated_bytes
        memcpy(closed_by, l.closed_by, sizeof(closed_by))
        memcpy(answered, l.answered, sizeof(answered))
        used_bytes, held_bytes = slab_used_bytes(&l.slab), slab_held_bytes(&l.slab)
        conn_unlock(l)
        figures = {
            "connections": connections, "descriptors": descriptors, "runners": runners, "parked": parked,
            "ready": ready, "timers": timers, "targets": targets, "inbox_bytes": inbox_bytes,
            "incomplete_bytes": partial, "slab_used_bytes": used_bytes, "slab_held_bytes": held_bytes,
            "slab_blocks": blocks, "inflated": inflated, "inflated_from_bytes": inflated_from_bytes,
            "inflated_bytes": inflated_bytes,
        }
        figures.update(c)
        for i in range(1, UWS_CAUSES):
            figures[f"closed_by_{CloseCause(i).name.lower()}"] = closed_by[i]
        for i in range(100, UWS_MAX_HTTP_STATUS + 1):
            if answered[i] != 0:
                figures[f"answered_{i}"] = answered[i]
        return figures

    # ---- runners

    def run(self):
        cdef UwsLoop* l = self.l
        cdef UwsBatch b
        cdef uint64_t role = 0
        cdef int work
        cdef bint started = True
        if l.forked:
            raise RuntimeError("a loop stays with the process that made it")
        if batch_init(&b) != UWS_OK:
            self.spawning = False
            raise MemoryError
        conn_lock(l)
        l.runners += 1
        self.spawning = False
        if not self.dog_started and not l.finished:
            self.dog_started = True
            conn_unlock(l)
            with nogil:
                started = role_start(l) == UWS_OK
            conn_lock(l)
            self.dog_started = started
        conn_unlock(l)
        try:
            if not started:
                raise OSError(errno, "the watchdog thread cannot be started")
            while True:
                with nogil:
                    work = role_work(l, &b, &role)
                if work == UWS_WORK_STOP:
                    break
                self._deliver(&b, role)
        finally:
            with nogil:
                role_leave(l, &b, role)
                batch_destroy(&b)
            conn_lock(l)
            l.runners -= 1
            last = l.runners == 0 and self.dog_started
            if last:
                self.dog_started = False
            conn_unlock(l)
            if last:
                with nogil:
                    role_end(l)
                    if l.finished:
                        loop_close(l)
                # It calls nobody any more. A Conn that somebody keeps need not keep what the hooks hold.
                self.on_connect = self.on_read = self.on_message = self.on_fragment = self.on_close = None
                self.on_request = self.on_route = None
                self.spawn = self.failed = None

    cdef int _spare(self) except -1:
        """Keep one runner in reserve: when those at work get stuck, the watchdog can only wake one that exists."""
        cdef bint started = False
        self.spawning = True
        try:
            self.spawn()
            started = True
        except Exception:
            # It goes on with the runners there are, and asks again in a while; the server has logged why.
            pass
        finally:
            if not started:
                self.spawning = False
                self.spawn_at_ms = clock_ms() + SPAWN_RETRY_MS
        return 0

    cdef int _deliver(self, UwsBatch* b, uint64_t role) except -1:
        """Run the callbacks of all that waits. The GIL is held, the lock is not."""
        cdef UwsLoop* l = self.l
        cdef UwsDelivery d
        cdef Conn conn
        cdef void* known
        d.role = role
        conn_lock(l)
        l.gil_waiters -= 1
        if self.max_runners > l.runners and l.parked == 0 and not self.spawning and not l.stopping \
                and (self.spawn_at_ms == 0 or clock_ms() >= self.spawn_at_ms):
            conn_unlock(l)
            self._spare()
            conn_lock(l)
        while deliver_begin(l, b, &d):
            known = l.table[d.index].conn
            conn_unlock(l)
            conn = <Conn>known if known != NULL else None
            try:
                self._callbacks(&d, conn)
            finally:
                conn = None
                conn_lock(l)
                deliver_done(l, &d)
        conn_unlock(l)
        return 0

    cdef int _callbacks(self, UwsDelivery* d, Conn conn) except -1:
        """The callbacks of one connection's events. Exceptions end here."""
        cdef UwsLoop* l = self.l
        cdef UwsEvent* event
        cdef object hook
        cdef str name = ""
        cdef int how = AS_CALL
        cdef void* known
        while True:
            event = deliver_next(d)
            if event == NULL:
                if d.batch != NULL:
                    break
                conn_lock(l)
                event = deliver_next_note(l, d)
                conn_unlock(l)
                if event == NULL:
                    break
            if event.kind == UWS_EV_REQUEST:
                self._asked(d)
                continue
            if conn is None:
                # Whoever accepts it gives it a Conn that knows who it is, on any thread and at any time before this.
                conn_lock(l)
                known = l.table[d.index].conn
                conn_unlock(l)
                conn = <Conn>known if known != NULL else None
            if event.kind == UWS_EV_CLOSE:
                self._closed(d, conn)
                return 0
            if l.table[d.index].marks & UWS_M_MUTE:
                continue
            if event.kind == UWS_EV_OPEN:
                hook = self.on_connect
            else:
                hook = self._reading_hook(event, &how)
            if hook is None:
                continue
            if conn is None:
                conn = conn_make(self, l, d.index, d.generation)
            if conn.delivery == NULL:
                conn.delivery = d
                conn.thread = PyThread_get_thread_ident()
            conn.unread = False
            try:
                if event.kind == UWS_EV_OPEN:
                    name = "on_connect"
                    hook(conn)
                elif how == AS_FRAGMENT:
                    name = "on_fragment"
                    hook(conn, event_fragment(event))
                elif how == AS_MESSAGE:
                    name = "on_message"
                    hook(conn, event_text(event) if event.opcode == UWS_OP_TEXT else event_payload(event))
                else:
                    name = "on_read"
                    conn.unread = True
                    hook(conn)
            except BaseException:
                self._fail(conn, name)
        if conn is not None:
            conn.delivery = NULL
            conn.unread = False
        return 0

    cdef object _reading_hook(self, const UwsEvent* event, int* how):
        """The hook for a message, or for a piece of one that is streamed, and what it is given; None: nobody's."""
        if self.on_fragment is not None:
            how[0] = AS_FRAGMENT
            return self.on_fragment
        if event_goes_on(event):
            # on_read has returned, and left the rest of it.
            return None
        if self.on_message is None:
            how[0] = AS_CALL
            return self.on_read
        if event.kind == UWS_EV_FRAGMENT and not (event.flags & UWS_EVF_FINAL):
            # It began before on_message was set.
            return None
        how[0] = AS_MESSAGE
        return self.on_message

    cdef int _asked(self, UwsDelivery* d) except -1:
        """A request waits for its answer. Who is asked answers it, now or later; the engine watches the deadline."""
        cdef UwsLoop* l = self.l
        cdef Exchange exchange = exchange_make(self, l, d.index, d.generation)
        if exchange is None:
            return 0
        hook = self.on_request if exchange.is_upgrade else self.on_route
        try:
            if hook is not None:
                hook(exchange)
            elif exchange.is_upgrade:
                # It has been taken away since: as if it had never been there.
                exchange.accept()
            else:
                exchange_fail(l, d.index, d.generation)
        except BaseException:
            self._report(None, "on_request")
            exchange_fail(l, d.index, d.generation)
        return 0

    cdef void _report(self, Conn conn, str hook) noexcept:
        # What reporting itself raises goes to sys.unraisablehook: nobody else is left to tell.
        self.failed(conn, sys.exc_info()[1], hook)

    cdef int _fail(self, Conn conn, str hook) except -1:
        """The exception being handled came out of a callback: report it, close the connection with 1011."""
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        self._report(conn, hook)
        conn_lock(l)
        c = conn_at(l, conn.index, conn.generation)
        if c != NULL:
            c.marks |= UWS_M_MUTE
            # Where the application has closed it before, its close frame is on the way and the peer's is awaited.
            if c.state == UWS_S_OPEN:
                conn_end(l, c, UWS_C_CALLBACK, 1011, 1011, NULL, 0)
        conn_unlock(l)
        return 0

    cdef int _closed(self, UwsDelivery* d, Conn conn) except -1:
        """The last event of a connection: tell its Conn, say goodbye to the peer, run on_close."""
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        cdef UwsEvent* event = d.event
        cdef bint pinned = False
        cdef object hook = self.on_close
        if conn is None and hook is not None:
            conn = conn_make(self, l, d.index, d.generation)
        if conn is not None:
            conn.end = (event.code, event_text(event), event.cause)
            conn.delivery = d
            conn.thread = PyThread_get_thread_ident()
            conn.unread = False
        conn_lock(l)
        c = conn_at(l, d.index, d.generation)
        if c != NULL:
            conn_goodbye(l, c, event)
            c.conn = NULL
            pinned = (c.flags & UWS_F_PINNED) != 0
            c.flags &= ~UWS_F_PINNED
        conn_unlock(l)
        if hook is not None:
            try:
                hook(conn)
            except BaseException:
                self._fail(conn, "on_close")
        if conn is not None and conn.about is not None:
            try:
                conn.about.closed(conn)
            except BaseException:
                self._report(conn, "on_close")
        if conn is not None:
            conn.delivery = NULL
            if Py_REFCNT(<PyObject*>conn) > 1 + pinned:
                # Somebody may hold it.
                conn._remember()
            conn.index = -1
            if pinned:
                Py_DECREF(conn)
        conn_lock(l)
        c = conn_at(l, d.index, d.generation)
        if c != NULL:
            conn_consumed(l, c)
        conn_unlock(l)
        return 0


# A child process has the locks as they were at the fork, but not the threads that would let go of them: so all are
# taken before, and let go of after it. To the child every connection is over; they are the parent's.

def _before_fork():
    cdef UwsLoop* l = all_loops
    while l != NULL:
        pthread_mutex_lock(&l.deflate_lock)
        pthread_mutex_lock(&l.lock)
        l = l.next_loop
    conns_fork(True)


def _after_fork_in_parent():
    cdef UwsLoop* l = all_loops
    conns_fork(False)
    while l != NULL:
        conn_unlock(l)
        pthread_mutex_unlock(&l.deflate_lock)
        l = l.next_loop


def _after_fork_in_child():
    cdef UwsLoop* l = all_loops
    conns_fork(False)
    while l != NULL:
        l.forked = 1
        conn_unlock(l)
        pthread_mutex_unlock(&l.deflate_lock)
        l = l.next_loop


# At the end, as in conn.
from unlimitedws.causes import CloseCause

os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
