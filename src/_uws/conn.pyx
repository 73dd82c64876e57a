# F6. See conn.pxd.

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset

from _uws.errs cimport UWS_E_ARG, UWS_E_NOMEM, UWS_OK
from _uws.frame cimport (
    UWS_MAX_CONTROL_BYTES,
    UWS_MAX_REASON_BYTES,
    UWS_OP_BINARY,
    UWS_OP_CLOSE,
    UWS_OP_PING,
    UWS_OP_TEXT,
    close_code_valid,
)
from _uws.hold cimport conn_hold, conn_recall, conn_release, conn_suspend
from _uws.intern cimport intern_get, intern_give, intern_ref
from _uws.keeper cimport keeper_addresses
from _uws.life cimport conn_abort, conn_close, conn_end, conn_words
from _uws.peer cimport UwsRemote, address_of, remote_make, remote_take
from _uws.lock cimport conn_lock, conn_unlock
from _uws.slot cimport conn_at, conn_awaits, conn_held, conn_mute, conn_takes, conn_tells, conn_trim
from _uws.sock cimport sock_local, sockaddr_storage
from _uws.state cimport (
    UWS_C_ABORT,
    UWS_C_LIMIT,
    UWS_C_LOCAL,
    UWS_F_CLOSE_OUT,
    UWS_F_GONE,
    UWS_F_PINNED,
    UWS_M_EXTRA,
    UWS_M_STRANGER,
    UWS_S_OPEN,
    UwsConn,
    pthread_mutex_lock,
)
from _uws.tend cimport conn_expires_in
from _uws.utf8 cimport utf8_feed
from _uws.write cimport COMPRESS_ALWAYS, COMPRESS_LONG, COMPRESS_NEVER, WRITE_GONE, WRITE_LATE, write_message

cdef enum:
    KNOWN_LOCAL = 0
    KNOWN_REMOTE = 1
    KNOWN_TARGET = 2
    KNOWN_SUBPROTOCOL = 3

# Who has it may make a Conn. Not a flag that says when: making an object may collect garbage, and let others run.
cdef object MAKER = object()
cdef tuple MADE_BY_US = (MAKER,)

# Whether a fork is under way, which has the locks of all loops meanwhile; under the GIL.
cdef bint forking = False

cdef tuple CAUSES
cdef tuple SENT


def check_close(code, reason):
    """Refuse what a close frame cannot say. See conn.pyi."""
    cdef bytes text
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"a close code is an int, not {type(code).__name__}")
    if not isinstance(reason, str):
        raise TypeError(f"a close reason is a str, not {type(reason).__name__}")
    if not 0 <= code <= 0xFFFF or not close_code_valid(code):
        raise ValueError(f"close code {code} may not be sent: 1000 to 1003, 1007 to 1014, 3000 to 4999 may")
    text = reason.encode()
    if len(text) > UWS_MAX_REASON_BYTES:
        raise ValueError(f"a close reason has at most {UWS_MAX_REASON_BYTES} bytes, not {len(text)}")
    return text


cdef void conns_fork(bint is_under_way) noexcept:
    """A fork has taken the locks of all loops, or is about to let go of them. The GIL is held."""
    global forking
    forking = is_under_way


ctypedef int (*UwsHold)(UwsLoop*, UwsConn*) noexcept nogil


cdef bint _held(Conn conn, UwsHold hold) except -1:
    """Hold a connection, in one of the ways there are. False: it is over."""
    cdef UwsLoop* l = conn.l
    cdef UwsConn* c
    cdef int status = UWS_E_ARG
    conn_lock(l)
    c = conn_at(l, conn.index, conn.generation)
    if c != NULL:
        status = hold(l, c)
    conn_unlock(l)
    if status == UWS_E_NOMEM:
        raise MemoryError
    return status == UWS_OK


@cython.final
@cython.freelist(256)
cdef class Conn:
    """One WebSocket connection. See conn.pyi."""

    def __cinit__(self, maker=None):
        # Also for Conn.__new__(Conn): without a loop there is nothing to ask.
        if maker is not MAKER:
            raise TypeError("connections are made by the server")

    def __dealloc__(self):
        cdef UwsConn* c
        cdef bint has_lock
        if self.owner == NULL:
            return
        if self.index >= 0 and not UWS_FREE_THREADED:
            # Without letting go of the GIL: nobody may find this object in its slot now. While a fork is under way the
            # lock is the fork's, and whoever has the GIL may write as if it were his: hooks of the fork may collect
            # garbage, and in the child the interpreter drops what the other threads had before any hook is called.
            has_lock = not forking
            if has_lock:
                pthread_mutex_lock(&self.l.lock)
            c = conn_at(self.l, self.index, self.generation)
            if c != NULL and c.conn == <void*>self:
                c.conn = NULL
            if has_lock:
                conn_unlock(self.l)
        Py_DECREF(<object>self.owner)

    def __repr__(self):
        state = "open" if self.is_open else "closed"
        return f"<unlimitedws.Conn {self.remote_addr} {self.path} {state}>"

    cdef object _known(self, int what):
        """What is asked of the socket while there is one, and remembered for those who hold the Conn beyond it."""
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        cdef const uint8_t* text = NULL
        cdef size_t len_bytes = 0
        cdef uint32_t kept = 0
        cdef sockaddr_storage storage
        cdef UwsRemote remote
        cdef tuple memory = self._memory()
        if memory is not None:
            return memory[what]
        # No object is made under the lock: that may collect garbage, a Conn perhaps, which takes the lock.
        memset(&storage, 0, sizeof(storage))
        memset(&remote, 0, sizeof(remote))
        if l.limits.private_fds and what < KNOWN_TARGET:
            with nogil:
                pthread_mutex_lock(&l.lock)
                keeper_addresses(l, self.index, self.generation, &remote.peer, &storage)
                conn_unlock(l)
        conn_lock(l)
        c = conn_at(l, self.index, self.generation)
        if c != NULL and what >= KNOWN_TARGET:
            if what == KNOWN_TARGET:
                kept = c.target
            elif c.marks & UWS_M_EXTRA:
                kept = l.extra[self.index].subprotocol
            # With a reference of our own the text stays where it is.
            intern_ref(&l.intern, kept)
            text = intern_get(&l.intern, kept, &len_bytes)
        elif c != NULL:
            if what == KNOWN_REMOTE:
                remote_take(l, c, &remote)
            elif not l.limits.private_fds:
                sock_local(self.index, &storage)
        conn_unlock(l)
        if c == NULL:
            # It may have ended while the lock was waited for, and what it knew was remembered before.
            memory = self._memory()
            if memory is not None:
                return memory[what]
        if what < KNOWN_TARGET:
            if what == KNOWN_REMOTE:
                address = remote_make(<object>self.owner, l, &remote)
            else:
                address = address_of(&storage)
            # Another thread may have aborted it meanwhile, which asked first: then the socket knew nothing any more.
            memory = self._memory()
            return address if memory is None else memory[what]
        if kept == 0:
            return "/" if what == KNOWN_TARGET else None
        try:
            return (<char*>text)[:len_bytes].decode("latin-1")
        finally:
            conn_lock(l)
            intern_give(&l.intern, kept)
            conn_unlock(l)

    cdef int _remember(self) except -1:
        """What the slot and the socket know is to outlive them."""
        cdef tuple memory
        if self._memory() is None:
            memory = (self.local_addr, self.remote_addr, self._known(KNOWN_TARGET), self.subprotocol)
            with cython.critical_section(self):
                # The first one counts: a later one may have asked a socket that was gone already.
                if self.memory is None:
                    self.memory = memory
        return 0

    @cython.critical_section
    cdef tuple _memory(self):
        return self.memory

    @cython.critical_section
    cdef int _ended(self, tuple end) except -1:
        self.end = end
        return 0

    @property
    def local_addr(self):
        return self._known(KNOWN_LOCAL)

    @property
    def remote_addr(self):
        return self._known(KNOWN_REMOTE)

    cdef object _gone(self):
        """The exception for a use after the end. The lock is not held."""
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        cdef uint8_t reason[UWS_MAX_CONTROL_BYTES]
        cdef size_t len_bytes = 0
        cdef int code = 0
        cdef tuple end
        # What the peer has said, though on_close has not been called yet. First: it is told before the slot is free.
        conn_lock(l)
        c = conn_at(l, self.index, self.generation)
        if c != NULL and c.flags & UWS_F_CLOSE_OUT:
            code = <int>c.proto.heard
            if c.side != NULL and c.side.reply_code != 0:
                len_bytes = c.side.control_len
                memcpy(reason, c.side.control, len_bytes)
        conn_unlock(l)
        with cython.critical_section(self):
            end = self.end if self.end is not None else self.said
            if self.end is None and code != 0:
                end = (code, (<char*>reason)[:len_bytes].decode())
        return ConnectionClosed() if end is None else ConnectionClosed(end[0], end[1])

    @property
    def path(self):
        return _split_target(self._known(KNOWN_TARGET))[0]

    @property
    def query(self):
        return _split_target(self._known(KNOWN_TARGET))[1]

    @property
    def subprotocol(self):
        return self._known(KNOWN_SUBPROTOCOL)

    @property
    def user(self):
        about = self._about
        return None if about is None else about.user

    @property
    def session(self):
        about = self._about
        return None if about is None else about.session

    @property
    def request(self):
        about = self._about
        return None if about is None else about.request

    @property
    def _loop(self):
        return <object>self.owner

    @property
    def _about(self):
        with cython.critical_section(self):
            return self.about

    def _identify(self, about, int64_t expires_ms=0, bint was_stranger=False):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        cdef bint is_open
        if not 0 <= expires_ms <= 1 << 62:
            raise ValueError("a time is 62 bits of milliseconds at most")
        with cython.critical_section(self):
            _before = self.about
            conn_lock(l)
            c = conn_at(l, self.index, self.generation)
            is_open = conn_takes(c) or (was_stranger and conn_tells(c))
            if is_open:
                c.marks &= ~UWS_M_STRANGER
                conn_expires_in(l, c, <uint64_t>expires_ms)
                self._pin(c)
            conn_unlock(l)
            # Before anybody can find the connection closed, and this missing.
            if is_open:
                self.about = about
        return is_open

    cdef void _pin(self, UwsConn* c) noexcept:
        """Let the slot keep this object: whoever finds the connection again later has to find what it knows."""
        if c.conn == <void*>self and not (c.flags & UWS_F_PINNED):
            c.flags |= UWS_F_PINNED
            Py_INCREF(self)

    @property
    def is_open(self):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        conn_lock(l)
        c = conn_at(l, self.index, self.generation)
        cdef bint is_open = c != NULL and c.state == UWS_S_OPEN and not (c.flags & UWS_F_GONE)
        conn_unlock(l)
        return is_open

    @cython.critical_section
    cdef tuple _how(self):
        """(close code, reason, cause); None: it is not over."""
        return self.end

    @property
    def close_code(self):
        end = self._how()
        return None if end is None else end[0]

    @property
    def close_reason(self):
        end = self._how()
        return None if end is None else end[1]

    @property
    def close_cause(self):
        end = self._how()
        return None if end is None else CAUSES[end[2]]

    @property
    def _sent(self):
        cdef UwsLoop* l = self.l
        cdef const uint8_t* reason = NULL
        cdef uint16_t code = 0
        cdef size_t len_bytes
        cdef tuple end, said
        with cython.critical_section(self):
            end = self.end
            said = self.said
        if said is not None or end is None:
            return said
        conn_lock(l)
        len_bytes = conn_words(l, end[2], &code, &reason)
        conn_unlock(l)
        # What a server says at its end is written once.
        return None if code == 0 else (code, (<char*>reason)[:len_bytes].decode())

    @property
    def buffered_amount(self):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        cdef size_t amount = 0
        conn_lock(l)
        c = conn_at(l, self.index, self.generation)
        if c != NULL and c.side != NULL:
            amount = c.side.out.bytes
        conn_unlock(l)
        return amount

    @property
    def data(self):
        with cython.critical_section(self):
            return self._data

    @data.setter
    def data(self, value):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        with cython.critical_section(self):
            if value is not None and self.end is None:
                conn_lock(l)
                c = conn_at(l, self.index, self.generation)
                if c != NULL:
                    self._pin(c)
                conn_unlock(l)
            # What was there goes when this is done: that may call others.
            _before, self._data = self._data, value

    def send(self, message, *, compress=None):
        cdef int how = COMPRESS_LONG
        if compress is not None:
            if compress is not True and compress is not False:
                raise TypeError(f"compress: must be True, False or None, not {compress!r}")
            how = COMPRESS_ALWAYS if compress else COMPRESS_NEVER
        return conn_write(self, UWS_OP_TEXT if isinstance(message, str) else UWS_OP_BINARY, message, False, how)

    def ping(self, payload=b""):
        return conn_write(self, UWS_OP_PING, payload, False, COMPRESS_NEVER)

    def pause(self):
        if not _held(self, conn_hold):
            raise self._gone()

    def resume(self):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        conn_lock(l)
        c = conn_at(l, self.index, self.generation)
        if c != NULL:
            conn_release(l, c)
            conn_trim(l, c)
        conn_unlock(l)

    def _suspend(self):
        return _held(self, conn_suspend)

    def _recall(self):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        cdef bint done
        conn_lock(l)
        c = conn_at(l, self.index, self.generation)
        done = c != NULL and conn_recall(l, c)
        conn_unlock(l)
        return done

    def _is_awaited(self):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        conn_lock(l)
        c = conn_at(l, self.index, self.generation)
        cdef bint is_awaited = not l.stopping and conn_awaits(c)
        conn_unlock(l)
        return is_awaited

    @property
    def is_paused(self):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        conn_lock(l)
        c = conn_at(l, self.index, self.generation)
        cdef bint is_paused = c != NULL and conn_held(c)
        conn_unlock(l)
        return is_paused

    def close(self, code=1000, reason=""):
        self._end(UWS_C_LOCAL, code, reason)

    def _end(self, int cause, code, reason):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        cdef bytes text = check_close(code, reason)
        cdef uint16_t number
        cdef int status = UWS_OK
        number = code
        said = (int(code), reason)
        with cython.critical_section(self):
            # Whoever finds it closed has to find this too; and nothing may be dropped under the lock.
            _before = self.said
            conn_lock(l)
            c = conn_at(l, self.index, self.generation)
            if c != NULL:
                if conn_takes(c):
                    self.said = said
                if cause == UWS_C_LIMIT and c.state == UWS_S_OPEN:
                    # It is failed (RFC 6455, section 7.1.7), as where the engine finds it above a limit.
                    conn_mute(l, c)
                    conn_end(l, c, cause, number, number, NULL, 0)
                else:
                    status = conn_close(l, c, cause, number, <const uint8_t*>PyBytes_AS_STRING(text), len(text))
            if status != UWS_OK:
                self.said = _before
            conn_unlock(l)
        if status != UWS_OK:
            raise MemoryError

    def abort(self):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        # on_close still wants to know them, and the socket will not; also where it is about to be called.
        self._remember()
        conn_lock(l)
        c = conn_at(l, self.index, self.generation)
        if c != NULL:
            conn_abort(l, c, UWS_C_ABORT)
        conn_unlock(l)


cdef Conn conn_new(object owner, UwsLoop* l, int32_t index, uint32_t generation):
    """A Conn that its slot does not know yet."""
    # Not Conn.__new__(Conn, MAKER), which makes a tuple for each.
    cdef Conn conn = <Conn>(<PyTypeObject*>Conn).tp_new(Conn, <PyObject*>MADE_BY_US, NULL)
    conn.l = l
    conn.index = index
    conn.generation = generation
    conn.owner = <void*>owner
    Py_INCREF(owner)
    return conn


cdef Conn conn_make(object owner, UwsLoop* l, int32_t index, uint32_t generation):
    """The Conn of a connection that a callback is about to run for; it has none so far. owner keeps l's memory."""
    cdef Conn conn = conn_new(owner, l, index, generation)
    cdef UwsConn* c
    conn_lock(l)
    c = conn_at(l, index, generation)
    if c != NULL:
        c.conn = <void*>conn
        if UWS_FREE_THREADED:
            conn._pin(c)
    conn_unlock(l)
    return conn


cdef tuple _split_target(str target):
    """Path and query of a request target; of one in absolute form (RFC 9112, section 3.2.2) what follows the host."""
    path, _, query = target.partition("?")
    if not path.startswith("/"):
        # What is left of an authority is never longer than its path: a slash in the query is none of either.
        _, _, path = path[path.find("://") + 3:].partition("/")
        path = "/" + path
    return path, query


cdef object conn_write(Conn conn, int opcode, object message, bint check_text, int compress):
    """Send any kind of frame but CLOSE, and return a Sent. check_text: bytes that go out as text have to be UTF-8.
    compress: COMPRESS_*"""
    cdef const char* text
    cdef Py_ssize_t n = 0
    if type(message) is bytes:
        n = PyBytes_GET_SIZE(message)
        text = PyBytes_AS_STRING(message)
    elif isinstance(message, str):
        text = PyUnicode_AsUTF8AndSize(message, &n)
        check_text = False
    else:
        return _write_buffer(conn, opcode, message, check_text, compress)
    return _write(conn, opcode, <const uint8_t*>text, n, check_text, compress)


cdef object _write_buffer(Conn conn, int opcode, object message, bint check_text, int compress):
    cdef Py_buffer view
    if not PyObject_CheckBuffer(message):
        raise TypeError(f"a message is a str or a bytes-like object, not {type(message).__name__}")
    PyObject_GetBuffer(message, &view, PyBUF_SIMPLE)
    try:
        return _write(conn, opcode, <const uint8_t*>view.buf, view.len, check_text, compress)
    finally:
        PyBuffer_Release(&view)


cdef inline object _write(Conn conn, int opcode, const uint8_t* data, Py_ssize_t n, bint check_text, int compress):
    cdef UwsDelivery* running = conn.delivery if conn_runs_here(conn) else NULL
    cdef uint8_t state = 0
    cdef int sent
    if opcode >= UWS_OP_CLOSE and n > UWS_MAX_CONTROL_BYTES:
        raise ValueError(f"a control frame carries at most {UWS_MAX_CONTROL_BYTES} bytes, not {n}")
    if check_text and (utf8_feed(&state, data, n) != UWS_OK or state != 0):
        raise ValueError("a text message has to be UTF-8 (RFC 6455, section 5.6)")
    conn_lock(conn.l)
    # Whoever ends the connection, under the lock, may change what the object says.
    sent = write_message(conn.l, conn.index, conn.generation, running, opcode, data, n, compress)
    if sent >= 0:
        return SENT[sent]
    if sent == WRITE_GONE:
        raise conn._gone()
    if sent == WRITE_LATE:
        raise TimeoutError("the send buffer stayed full: the peer does not read")
    raise MemoryError


# At the end, when every name of this module is there: the package `unlimitedws` takes them from here.
from unlimitedws.causes import CloseCause
from unlimitedws.errors import ConnectionClosed
from unlimitedws.sent import Sent

CAUSES = (None, *CloseCause)
SENT = tuple(Sent)
