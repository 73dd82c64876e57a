# F6. Loops and connections as Python sees them, and the handing over of events: the only file of the engine that
# holds Python objects. Owns the memory of a loop; a Conn is (loop, index, generation), never a pointer to a slot.
# Lock order: the GIL, then the loop's lock; nobody waits for the GIL with the lock held.

import os
import sys

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.errno cimport errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from _uws.clock cimport clock_ms, clock_us
from _uws.deliver cimport (
    UWS_WAITED,
    UWS_WAITED_CLOSED,
    UwsDelivery,
    deliver_begin,
    deliver_done,
    deliver_next,
    deliver_next_note,
    deliver_wait,
    deliver_wait_room,
)
from _uws.errs cimport UWS_E_ARG, UWS_OK
from _uws.frame cimport (
    UWS_MAX_CONTROL_BYTES,
    UWS_MAX_REASON_BYTES,
    UWS_OP_BINARY,
    UWS_OP_CLOSE,
    UWS_OP_PING,
    UWS_OP_PONG,
    UWS_OP_TEXT,
    close_code_valid,
    close_parse,
)
from _uws.intern cimport intern_get, intern_give, intern_ref
from _uws.life cimport conn_abort, conn_close, conn_consumed, conn_dirty, conn_end, conn_flush, conn_goodbye
from _uws.loop cimport batch_destroy, batch_init, loop_close, loop_destroy, loop_init, loop_listen, loop_stop
from _uws.outq cimport outq_put_frame
from _uws.proto cimport UWS_EV_CLOSE, UWS_EV_OPEN, UwsEvent
from _uws.role cimport UWS_WORK_STOP, role_end, role_leave, role_start, role_work
from _uws.slab cimport slab_held_bytes, slab_used_bytes
from _uws.slot cimport conn_at, conn_side, conn_takes
from _uws.sock cimport sock_local, sock_peer, sockaddr_storage
from _uws.state cimport (
    UWS_C_ABORT,
    UWS_C_CALLBACK,
    UWS_F_GONE,
    UWS_F_OUT_ON,
    UWS_F_PINNED,
    UWS_M_MUTE,
    UWS_S_OPEN,
    UWS_W_CLOSE,
    UWS_W_MESSAGE,
    UWS_W_OPEN,
    UwsBatch,
    UwsConn,
    UwsCounters,
    UwsLimits,
    UwsLoop,
    pthread_mutex_lock,
    pthread_mutex_trylock,
    pthread_mutex_unlock,
)
from _uws.utf8 cimport utf8_feed

cdef extern from "sys/resource.h" nogil:
    ctypedef unsigned long rlim_t
    cdef struct rlimit:
        rlim_t rlim_cur
        rlim_t rlim_max
    cdef enum:
        RLIMIT_NOFILE
    int getrlimit(int, rlimit*)

cdef extern from "arpa/inet.h" nogil:
    cdef enum:
        AF_INET
        AF_INET6
        INET6_ADDRSTRLEN
    cdef struct in_addr:
        pass
    cdef struct in6_addr:
        pass
    cdef struct sockaddr_in:
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_port
        in6_addr sin6_addr
    const char* inet_ntop(int, const void*, char*, unsigned int)
    uint16_t ntohs(uint16_t)

cdef extern from *:
    Py_ssize_t Py_REFCNT(PyObject*)

cdef enum:
    CORK_BYTES = 65536            # queued bytes of one connection that do not wait for the end of the turn
    MIN_SCHEDULE_US = 100         # below it the watchdog would do little else than look
    SPAWN_RETRY_MS = 1000         # after a runner could not be started
    MAX_TABLE = 1 << 24           # slots, where RLIMIT_NOFILE knows no limit
    KNOWN_LOCAL = 0
    KNOWN_REMOTE = 1
    KNOWN_TARGET = 2

cdef uint64_t FOR_EVER_US = 1 << 60

# The loop that is making a Conn just now; under the GIL.
cdef void* making = NULL
# The first of all loops of this process, for fork(); under the GIL.
cdef UwsLoop* all_loops = NULL

cdef object OP_TEXT
cdef object OP_BINARY

cdef tuple SETTINGS = (
    "max_message_bytes", "max_fragments", "max_header_bytes", "max_header_fields", "max_line_bytes",
    "handshake_timeout_ms", "close_timeout_ms", "max_buffered_bytes", "max_inbox_bytes", "max_inbox_messages",
    "max_inbox_total_bytes", "max_connections", "schedule_timeout_us", "cooldown_us", "io_timeout_us", "runners",
    "jobs",
)


cdef inline void _lock(UwsLoop* l) noexcept:
    """Take the loop's lock with the GIL held; let go of the GIL while somebody else has the lock.

    It is taken a second time, by trying, once the GIL is back: waiting for the GIL with the lock held would be a
    deadlock with whoever waits for the lock with the GIL held, as Conn.__dealloc__ has to."""
    while pthread_mutex_trylock(&l.lock) != 0:
        with nogil:
            pthread_mutex_lock(&l.lock)
            pthread_mutex_unlock(&l.lock)


cdef inline void _unlock(UwsLoop* l) noexcept nogil:
    pthread_mutex_unlock(&l.lock)


cdef inline uint64_t _io_timeout(UwsLoop* l) noexcept nogil:
    return l.limits.io_timeout_us if l.limits.io_timeout_us != 0 else FOR_EVER_US


cdef object _address(const sockaddr_storage* storage):
    """A socket's address as an Address; that of a socket without one, such as a Unix socket, is the empty one."""
    cdef char text[64]
    if storage.ss_family == AF_INET:
        inet_ntop(AF_INET, &(<sockaddr_in*>storage).sin_addr, text, sizeof(text))
        return Address(text.decode("ascii"), ntohs((<sockaddr_in*>storage).sin_port))
    if storage.ss_family == AF_INET6:
        inet_ntop(AF_INET6, &(<sockaddr_in6*>storage).sin6_addr, text, sizeof(text))
        return Address(plain_host(text.decode("ascii")), ntohs((<sockaddr_in6*>storage).sin6_port))
    return Address("", 0)


# ---- connections

@cython.final
@cython.freelist(256)
cdef class Conn:
    """One WebSocket connection. See core.pyi."""

    def __cinit__(self):
        # Also for Conn.__new__(Conn): without a loop there is nothing to ask.
        if making == NULL:
            raise TypeError("connections are made by the server")
        self.l = (<Loop>making).l
        self.owner = making
        Py_INCREF(<Loop>making)

    def __dealloc__(self):
        cdef UwsConn* c
        if self.l == NULL:
            return
        if self.index >= 0:
            # Without letting go of the GIL: nobody may find this object in its slot now.
            pthread_mutex_lock(&self.l.lock)
            c = conn_at(self.l, self.index, self.generation)
            if c != NULL and c.conn == <void*>self:
                c.conn = NULL
            _unlock(self.l)
        Py_DECREF(<Loop>self.owner)

    def __repr__(self):
        state = "open" if self.is_open else "closed"
        return f"<unlimitedws.Conn {self.remote_addr} {self.path} {state}>"

    cdef object _known(self, int what):
        """What is asked of the socket while there is one, and remembered for those who hold the Conn beyond it."""
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        cdef const uint8_t* text = NULL
        cdef size_t len_bytes = 0
        cdef uint32_t target = 0
        cdef sockaddr_storage storage
        if self.memory is not None:
            return self.memory[what]
        # No object is made under the lock: that may collect garbage, a Conn perhaps, which takes the lock.
        memset(&storage, 0, sizeof(storage))
        _lock(l)
        c = conn_at(l, self.index, self.generation)
        if c != NULL and what == KNOWN_TARGET:
            # With a reference of our own the text stays where it is.
            target = c.target
            intern_ref(&l.intern, target)
            text = intern_get(&l.intern, target, &len_bytes)
        elif c != NULL:
            if what == KNOWN_REMOTE:
                sock_peer(self.index, &storage)
            else:
                sock_local(self.index, &storage)
        _unlock(l)
        if what != KNOWN_TARGET:
            return _address(&storage)
        if target == 0:
            return "/"
        try:
            return (<char*>text)[:len_bytes].decode("latin-1")
        finally:
            _lock(l)
            intern_give(&l.intern, target)
            _unlock(l)

    @property
    def local_addr(self):
        return self._known(KNOWN_LOCAL)

    @property
    def remote_addr(self):
        return self._known(KNOWN_REMOTE)

    cdef object _gone(self):
        """The exception for a use after the end."""
        end = self.end or self.said
        return ConnectionClosed() if end is None else ConnectionClosed(end[0], end[1])

    @property
    def path(self):
        return _split_target(self._known(KNOWN_TARGET))[0]

    @property
    def query(self):
        return _split_target(self._known(KNOWN_TARGET))[1]

    @property
    def is_open(self):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        _lock(l)
        c = conn_at(l, self.index, self.generation)
        cdef bint is_open = c != NULL and c.state == UWS_S_OPEN and not (c.flags & UWS_F_GONE)
        _unlock(l)
        return is_open

    @property
    def close_code(self):
        return None if self.end is None else self.end[0]

    @property
    def close_reason(self):
        return None if self.end is None else self.end[1]

    @property
    def buffered_amount(self):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        cdef size_t amount = 0
        _lock(l)
        c = conn_at(l, self.index, self.generation)
        if c != NULL and c.side != NULL:
            amount = c.side.out.bytes
        _unlock(l)
        return amount

    @property
    def data(self):
        return self._data

    @data.setter
    def data(self, value):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        if value is not None and self.end is None:
            # Whoever finds the connection again later has to find its data: the slot keeps this object.
            _lock(l)
            c = conn_at(l, self.index, self.generation)
            if c != NULL and c.conn == <void*>self and not (c.flags & UWS_F_PINNED):
                c.flags |= UWS_F_PINNED
                Py_INCREF(self)
            _unlock(l)
        self._data = value

    cdef int _wait_room(self, uint64_t deadline_us) except -1:
        """Wait until the send queue has room, or raise. The lock is held on entry and not on return."""
        cdef UwsLoop* l = self.l
        cdef UwsConn* c = conn_at(l, self.index, self.generation)
        cdef uint64_t role = 0
        cdef int waited
        if self.delivery != NULL and self.thread == PyThread_get_thread_ident():
            role = self.delivery.role
        with nogil:
            if not (c.flags & UWS_F_OUT_ON):
                # Perhaps it is only our own cork that is full.
                conn_flush(l, c)
            waited = deliver_wait_room(l, self.index, self.generation, role, deadline_us)
            _unlock(l)
        if waited == UWS_WAITED_CLOSED:
            raise self._gone()
        if waited != UWS_WAITED:
            raise TimeoutError("the send buffer stayed full: the peer does not read")
        return 0

    cdef int _send(self, int opcode, const uint8_t* data, size_t len_bytes) except -1:
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        cdef uint64_t deadline_us = 0
        while True:
            _lock(l)
            c = conn_at(l, self.index, self.generation)
            if not conn_takes(c):
                _unlock(l)
                raise self._gone()
            if c.side == NULL or c.side.out.bytes < l.limits.max_buffered_bytes:
                break
            # The room may be gone again by the time that it is our turn: others send too.
            if deadline_us == 0:
                deadline_us = clock_us() + _io_timeout(l)
            self._wait_room(deadline_us)
        if conn_side(l, c) == NULL or outq_put_frame(&c.side.out, &l.slab, opcode, data, len_bytes) != UWS_OK:
            _unlock(l)
            raise MemoryError
        l.count.messages_out += 1
        l.count.bytes_out += len_bytes
        conn_dirty(l, c)
        if c.side.out.bytes < CORK_BYTES or c.flags & UWS_F_OUT_ON:
            _unlock(l)
            return 0
        # Much at once: others may compute while the kernel copies it.
        with nogil:
            conn_flush(l, c)
            _unlock(l)
        return 0

    def send(self, message):
        _write(self, UWS_OP_TEXT if isinstance(message, str) else UWS_OP_BINARY, message, False)

    def ping(self, payload=b""):
        _write(self, UWS_OP_PING, payload, False)

    def close(self, code=1000, str reason not None=""):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        cdef bytes text = reason.encode()
        cdef uint16_t number
        cdef int status = UWS_OK
        if not isinstance(code, int):
            raise TypeError(f"a close code is an int, not {type(code).__name__}")
        if not 0 <= code <= 0xFFFF or not close_code_valid(code):
            raise ValueError(f"close code {code} may not be sent: 1000 to 1003, 1007 to 1014, 3000 to 4999 may")
        if len(text) > UWS_MAX_REASON_BYTES:
            raise ValueError(f"a close reason has at most {UWS_MAX_REASON_BYTES} bytes, not {len(text)}")
        number = code
        said = (int(code), reason)
        _lock(l)
        c = conn_at(l, self.index, self.generation)
        if c != NULL:
            if conn_takes(c):
                self.said = said
            status = conn_close(l, c, number, <const uint8_t*>PyBytes_AS_STRING(text), len(text))
        _unlock(l)
        if status != UWS_OK:
            raise MemoryError

    def abort(self):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        if self.memory is None and self.is_open:
            # on_close still wants to know them, and the socket will not.
            self.memory = (self.local_addr, self.remote_addr, self._known(KNOWN_TARGET))
        _lock(l)
        c = conn_at(l, self.index, self.generation)
        if c != NULL:
            conn_abort(l, c, UWS_C_ABORT)
        _unlock(l)


cdef tuple _split_target(str target):
    """Path and query of a request target; of one in absolute form (RFC 9112, section 3.2.2) what follows the host."""
    cdef Py_ssize_t start
    if not target.startswith("/"):
        start = target.find("/", target.find("://") + 3)
        if start < 0:
            start = target.find("?")
        target = "/" if start < 0 else target[start:]
        if target.startswith("?"):
            target = "/" + target
    path, _, query = target.partition("?")
    return path, query


# ---- reading and writing, as in Go

cdef int _write(Conn conn, int opcode, object message, bint check_text) except -1:
    """Send any kind of frame but CLOSE. check_text: bytes that go out as text have to be UTF-8."""
    cdef const char* text
    cdef Py_ssize_t n = 0
    cdef Py_buffer view
    cdef bint control = opcode >= UWS_OP_CLOSE
    if type(message) is bytes:
        n = PyBytes_GET_SIZE(message)
        text = PyBytes_AS_STRING(message)
        _check(opcode, control, check_text, <const uint8_t*>text, n)
        return conn._send(opcode, <const uint8_t*>text, n)
    if isinstance(message, str):
        text = PyUnicode_AsUTF8AndSize(message, &n)
        _check(opcode, control, False, <const uint8_t*>text, n)
        return conn._send(opcode, <const uint8_t*>text, n)
    PyObject_GetBuffer(message, &view, PyBUF_SIMPLE)
    try:
        _check(opcode, control, check_text, <const uint8_t*>view.buf, view.len)
        return conn._send(opcode, <const uint8_t*>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef inline int _check(int opcode, bint control, bint check_text, const uint8_t* data, Py_ssize_t n) except -1:
    cdef uint8_t state = 0
    if control and n > UWS_MAX_CONTROL_BYTES:
        raise ValueError(f"a control frame carries at most {UWS_MAX_CONTROL_BYTES} bytes, not {n}")
    if check_text and (utf8_feed(&state, data, n) != UWS_OK or state != 0):
        raise ValueError("a text message has to be UTF-8 (RFC 6455, section 5.6)")
    return 0


cdef int _next_message(Conn conn, uint64_t timeout_us) except -1:
    """Let conn.delivery.event be the message to read."""
    cdef UwsDelivery* d = conn.delivery
    cdef UwsLoop* l = conn.l
    cdef int waited
    if d == NULL or conn.thread != PyThread_get_thread_ident():
        raise RuntimeError("messages are read in a callback of their connection, by the thread that runs it")
    if conn.unread:
        conn.unread = False
        return 0
    with nogil:
        pthread_mutex_lock(&l.lock)
        waited = deliver_wait(l, d, timeout_us)
        _unlock(l)
    if waited == UWS_WAITED_CLOSED:
        raise conn._gone()
    if waited != UWS_WAITED:
        raise TimeoutError("no further message came within the I/O timeout")
    return 0


cdef inline bytes _payload(const UwsEvent* event):
    return PyBytes_FromStringAndSize(<char*>event.data, event.len_bytes)


cdef inline str _text(const UwsEvent* event):
    # The engine has validated it already; this only builds the str.
    return PyUnicode_DecodeUTF8(<char*>event.data, event.len_bytes, NULL)


def read_client_data(Conn conn not None):
    """Read the message on_read was called for; called again, wait for the next one. See core.pyi."""
    _next_message(conn, _io_timeout(conn.l))
    return (_payload(conn.delivery.event), OP_TEXT if conn.delivery.event.opcode == UWS_OP_TEXT else OP_BINARY)


cdef int _next_of(Conn conn, int opcode) except -1:
    """The next message of one kind; those of the other are dropped. One timeout for all of it."""
    cdef uint64_t left = _io_timeout(conn.l)
    cdef uint64_t end = clock_us() + left, now
    while True:
        _next_message(conn, left)
        if conn.delivery.event.opcode == opcode:
            return 0
        now = clock_us()
        left = end - now if end > now else 0


def read_client_text(Conn conn not None):
    """Read the next text message. See core.pyi."""
    _next_of(conn, UWS_OP_TEXT)
    return _text(conn.delivery.event)


def read_client_binary(Conn conn not None):
    """Read the next binary message. See core.pyi."""
    _next_of(conn, UWS_OP_BINARY)
    return _payload(conn.delivery.event)


def write_server_message(Conn conn not None, int op, msg):
    """Send one message with the opcode given. See core.pyi."""
    cdef bytes body
    cdef uint16_t code = 0
    if op == UWS_OP_TEXT:
        _write(conn, op, msg, True)
    elif op == UWS_OP_BINARY or op == UWS_OP_PING or op == UWS_OP_PONG:
        _write(conn, op, msg, False)
    elif op == UWS_OP_CLOSE:
        body = msg.encode() if isinstance(msg, str) else memoryview(msg).tobytes()
        if close_parse(<const uint8_t*>PyBytes_AS_STRING(body), len(body), &code) != UWS_OK:
            raise ValueError("malformed body of a close frame (RFC 6455, section 5.5.1)")
        if not conn.is_open:
            raise conn._gone()
        if code == 1005:
            conn.close()
        else:
            conn.close(code, body[2:].decode())
    else:
        raise ValueError(f"opcode {op} is no message and no control frame")


def write_server_text(Conn conn not None, msg):
    """Send one text message. See core.pyi."""
    _write(conn, UWS_OP_TEXT, msg, True)


def write_server_binary(Conn conn not None, msg):
    """Send one binary message. See core.pyi."""
    _write(conn, UWS_OP_BINARY, msg, False)


# ---- the loop

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
        limits.close_timeout_ms = settings["close_timeout_ms"]
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
        # Every setting is read before anything is made: one that is refused leaves nothing behind.
        cdef uint64_t max_message_bytes = settings["max_message_bytes"]
        cdef uint32_t max_fragments = settings["max_fragments"]
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
        _lock(self.l)
        status = loop_listen(self.l, fd)
        _unlock(self.l)
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
        elif name == "on_close":
            self.on_close = func
        else:
            raise ValueError(f"there is no hook named {name!r}")
        cdef uint32_t want = 0
        if self.on_connect is not None:
            want |= UWS_W_OPEN
        if self.on_read is not None or self.on_message is not None:
            want |= UWS_W_MESSAGE
        if self.on_close is not None:
            want |= UWS_W_CLOSE
        _lock(self.l)
        self.l.want = want
        _unlock(self.l)

    def set_time(self, str name, int64_t value):
        if not 0 <= value <= 0xFFFFFFFF:
            raise ValueError(f"{name} cannot be {value} us")
        _lock(self.l)
        if name == "schedule_timeout_us":
            self.l.limits.schedule_timeout_us = <uint32_t>max(value, MIN_SCHEDULE_US)
        elif name == "cooldown_us":
            self.l.limits.cooldown_us = <uint32_t>value
        elif name == "io_timeout_us":
            self.l.limits.io_timeout_us = <uint32_t>value
        else:
            _unlock(self.l)
            raise ValueError(f"there is no time named {name!r}")
        _unlock(self.l)

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
            _unlock(self.l)

    def counters(self):
        cdef UwsLoop* l = self.l
        cdef UwsCounters c
        cdef uint32_t connections, descriptors, runners, parked, ready, timers, targets
        cdef size_t inbox_bytes, used_bytes, held_bytes, blocks
        _lock(l)
        c = l.count
        connections, descriptors, runners, parked = l.n_open, l.n_conns, l.runners, l.parked
        ready, timers, targets = l.n_ready, l.wheel.count, l.intern.live
        inbox_bytes, blocks = l.inbox_bytes, l.slab.live_blocks
        used_bytes, held_bytes = slab_used_bytes(&l.slab), slab_held_bytes(&l.slab)
        _unlock(l)
        figures = {
            "connections": connections, "descriptors": descriptors, "runners": runners, "parked": parked,
            "ready": ready, "timers": timers, "targets": targets, "inbox_bytes": inbox_bytes,
            "slab_used_bytes": used_bytes, "slab_held_bytes": held_bytes, "slab_blocks": blocks,
        }
        figures.update(c)
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
        _lock(l)
        l.runners += 1
        self.spawning = False
        if not self.dog_started and not l.finished:
            self.dog_started = True
            _unlock(l)
            with nogil:
                started = role_start(l) == UWS_OK
            _lock(l)
            self.dog_started = started
        _unlock(l)
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
            _lock(l)
            l.runners -= 1
            last = l.runners == 0 and self.dog_started
            if last:
                self.dog_started = False
            _unlock(l)
            if last:
                with nogil:
                    role_end(l)
                    if l.finished:
                        loop_close(l)
                # It calls nobody any more. A Conn that somebody keeps need not keep what the hooks hold.
                self.on_connect = self.on_read = self.on_message = self.on_close = None
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
        _lock(l)
        l.gil_waiters -= 1
        if self.max_runners > l.runners and l.parked == 0 and not self.spawning and not l.stopping \
                and (self.spawn_at_ms == 0 or clock_ms() >= self.spawn_at_ms):
            _unlock(l)
            self._spare()
            _lock(l)
        while deliver_begin(l, b, &d):
            known = l.table[d.index].conn
            _unlock(l)
            conn = <Conn>known if known != NULL else None
            try:
                self._callbacks(&d, conn)
            finally:
                conn = None
                _lock(l)
                deliver_done(l, &d)
        _unlock(l)
        return 0

    cdef Conn _conn(self, int32_t index, uint32_t generation):
        """The Conn of a connection that a callback is about to run for; it has none so far."""
        global making
        cdef Conn conn
        cdef UwsConn* c
        making = <void*>self
        try:
            conn = Conn.__new__(Conn)
        finally:
            making = NULL
        conn.index = index
        conn.generation = generation
        _lock(self.l)
        c = conn_at(self.l, index, generation)
        if c != NULL:
            c.conn = <void*>conn
        _unlock(self.l)
        return conn

    cdef int _callbacks(self, UwsDelivery* d, Conn conn) except -1:
        """The callbacks of one connection's events. Exceptions end here."""
        cdef UwsLoop* l = self.l
        cdef UwsEvent* event
        cdef object hook
        cdef str name = ""
        while True:
            event = deliver_next(d)
            if event == NULL:
                if d.batch != NULL:
                    break
                _lock(l)
                event = deliver_next_note(l, d)
                _unlock(l)
                if event == NULL:
                    break
            if event.kind == UWS_EV_CLOSE:
                self._closed(d, conn)
                return 0
            if l.table[d.index].marks & UWS_M_MUTE:
                continue
            if event.kind == UWS_EV_OPEN:
                hook = self.on_connect
            else:
                hook = self.on_message
                if hook is None:
                    hook = self.on_read
            if hook is None:
                continue
            if conn is None:
                conn = self._conn(d.index, d.generation)
            if conn.delivery == NULL:
                conn.delivery = d
                conn.thread = PyThread_get_thread_ident()
            conn.unread = False
            try:
                if event.kind == UWS_EV_OPEN:
                    name = "on_connect"
                    hook(conn)
                elif self.on_message is hook:
                    name = "on_message"
                    hook(conn, _text(event) if event.opcode == UWS_OP_TEXT else _payload(event))
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

    cdef void _report(self, Conn conn, str hook) noexcept:
        # What reporting itself raises goes to sys.unraisablehook: nobody else is left to tell.
        self.failed(conn, sys.exc_info()[1], hook)

    cdef int _fail(self, Conn conn, str hook) except -1:
        """The exception being handled came out of a callback: report it, close the connection with 1011."""
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        self._report(conn, hook)
        _lock(l)
        c = conn_at(l, conn.index, conn.generation)
        if c != NULL:
            c.marks |= UWS_M_MUTE
            # Where the application has closed it before, its close frame is on the way and the peer's is awaited.
            if c.state == UWS_S_OPEN:
                conn_end(l, c, UWS_C_CALLBACK, 1011, 1011, NULL, 0)
        _unlock(l)
        return 0

    cdef int _closed(self, UwsDelivery* d, Conn conn) except -1:
        """The last event of a connection: tell its Conn, say goodbye to the peer, run on_close."""
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        cdef UwsEvent* event = d.event
        cdef bint pinned = False
        cdef object hook = self.on_close
        if conn is None and hook is not None:
            conn = self._conn(d.index, d.generation)
        if conn is not None:
            conn.end = (event.code, _text(event))
            conn.delivery = d
            conn.thread = PyThread_get_thread_ident()
            conn.unread = False
        _lock(l)
        c = conn_at(l, d.index, d.generation)
        if c != NULL:
            conn_goodbye(l, c, event)
            c.conn = NULL
            pinned = (c.flags & UWS_F_PINNED) != 0
            c.flags &= ~UWS_F_PINNED
        _unlock(l)
        if hook is not None:
            try:
                hook(conn)
            except BaseException:
                self._fail(conn, "on_close")
        if conn is not None:
            conn.delivery = NULL
            if Py_REFCNT(<PyObject*>conn) > 1 + pinned:
                # Somebody may hold it: what the slot knows has to outlive the slot.
                conn.memory = (conn.local_addr, conn.remote_addr, conn._known(KNOWN_TARGET))
            conn.index = -1
            if pinned:
                Py_DECREF(conn)
        _lock(l)
        c = conn_at(l, d.index, d.generation)
        if c != NULL:
            conn_consumed(l, c)
        _unlock(l)
        return 0


# At the end, when every name of this module is there: the package `unlimitedws` takes them from here.
from unlimitedws.address import Address, plain_host
from unlimitedws.errors import ConnectionClosed
from unlimitedws.opcode import OpCode

OP_TEXT = OpCode.TEXT
OP_BINARY = OpCode.BINARY


# A child process has the locks as they were at the fork, but not the threads that would let go of them: so all are
# taken before, and let go of after it. To the child every connection is over; they are the parent's.

def _before_fork():
    cdef UwsLoop* l = all_loops
    while l != NULL:
        pthread_mutex_lock(&l.lock)
        l = l.next_loop


def _after_fork_in_parent():
    cdef UwsLoop* l = all_loops
    while l != NULL:
        _unlock(l)
        l = l.next_loop


def _after_fork_in_child():
    cdef UwsLoop* l = all_loops
    while l != NULL:
        l.forked = 1
        _unlock(l)
        l = l.next_loop


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
