# Window of the tests onto _uws.outq, with a transport that keeps what it is sent and obeys a script.
# Owns that transport's state: one at a time, in C, since the engine's functions know only a descriptor.
# Imported by tests/engine/test_outq.py only.

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from _uws.errs cimport UWS_E_NOMEM, UWS_E_SYS, UWS_MORE, UWS_OK
from _uws.outq cimport outq_cut, outq_drop, outq_flush, outq_make_room, outq_put, outq_put_frame, outq_room
from _uws.slab cimport UwsSlab, slab_destroy, slab_init, slab_used_bytes
from _uws.sock cimport UWS_SOCK_AGAIN, UWS_SOCK_LOST, UwsTransport, iovec
from _uws.state cimport UwsOutq

OK = UWS_OK
MORE = UWS_MORE
E_NOMEM = UWS_E_NOMEM
E_SYS = UWS_E_SYS
AGAIN = UWS_SOCK_AGAIN
LOST = UWS_SOCK_LOST

cdef enum:
    FD = 1234

# What the transport took since it was last asked, and what it does next: script[0] bytes or a status, and so
# on; behind the script's end it takes everything.
cdef uint8_t* took
cdef size_t took_len
cdef ssize_t script[256]
cdef int script_len
cdef int script_at
cdef int calls_send
cdef int calls_sendv
cdef int most_parts
cdef bint misused


cdef ssize_t _take(const uint8_t* data, size_t len_bytes, ssize_t most) noexcept nogil:
    global took, took_len, misused
    cdef size_t n = len_bytes
    cdef uint8_t* grown
    if most < 0:
        return most
    if <size_t>most < n:
        n = <size_t>most
    if n:
        grown = <uint8_t*>realloc(took, took_len + n)
        if grown == NULL:
            misused = True
            return UWS_SOCK_LOST
        took = grown
        memcpy(took + took_len, data, n)
        took_len += n
    return <ssize_t>n


cdef ssize_t _next(size_t offered) noexcept nogil:
    global script_at
    cdef ssize_t most = <ssize_t>offered
    if script_at < script_len:
        most = script[script_at]
        script_at += 1
    return most


cdef ssize_t _send(int fd, const uint8_t* data, size_t len_bytes) noexcept nogil:
    global calls_send, misused
    calls_send += 1
    if fd != FD:
        misused = True
    return _take(data, len_bytes, _next(len_bytes))


cdef ssize_t _sendv(int fd, iovec* parts, int n) noexcept nogil:
    global calls_sendv, most_parts, misused
    cdef size_t offered = 0
    cdef ssize_t most, done = 0, k
    cdef int i
    calls_sendv += 1
    if n > most_parts:
        most_parts = n
    if fd != FD or n < 2:
        misused = True
    for i in range(n):
        offered += parts[i].iov_len
    most = _next(offered)
    if most < 0:
        return most
    for i in range(n):
        k = _take(<const uint8_t*>parts[i].iov_base, parts[i].iov_len, most - done)
        if k < 0:
            return k
        done += k
    return done


cdef ssize_t _recv(int fd, uint8_t* data, size_t len_bytes) noexcept nogil:
    global misused
    misused = True
    return UWS_SOCK_LOST


cdef class Outq:
    cdef UwsSlab slab
    cdef UwsOutq q
    cdef UwsTransport io

    def __cinit__(self):
        global took_len, misused, most_parts, calls_send, calls_sendv, script_len, script_at
        assert slab_init(&self.slab) == UWS_OK
        self.io.recv = _recv
        self.io.send = _send
        self.io.sendv = _sendv
        took_len = 0
        misused = False
        most_parts = calls_send = calls_sendv = script_len = script_at = 0

    def __dealloc__(self):
        slab_destroy(&self.slab)

    def put(self, bytes data):
        cdef size_t n = len(data)
        cdef uint8_t* copy = <uint8_t*>malloc(n if n else 1)
        if copy == NULL:
            raise MemoryError
        try:
            memcpy(copy, <char*>data, n)
            return outq_put(&self.q, &self.slab, copy, n)
        finally:
            # The queue keeps a copy, never the caller's bytes.
            free(copy)

    def put_frame(self, int opcode, bytes data, int rsv=0):
        cdef size_t n = len(data)
        cdef uint8_t* copy = NULL
        if n:
            copy = <uint8_t*>malloc(n)
            if copy == NULL:
                raise MemoryError
            memcpy(copy, <char*>data, n)
        try:
            # An empty payload is nowhere.
            return outq_put_frame(&self.q, &self.slab, opcode, rsv, copy, n)
        finally:
            free(copy)

    def put_in_place(self, bytes data):
        """As outq_room()'s callers do: fill what it gives at once."""
        cdef size_t n = len(data)
        cdef uint8_t* at = outq_room(&self.q, &self.slab, n)
        if at == NULL:
            return UWS_E_NOMEM
        memcpy(at, <char*>data, n)
        return UWS_OK

    def put_absurd(self, size_t len_bytes, bint framed):
        """Ask for room that no machine has; nothing is copied."""
        if framed:
            return outq_put_frame(&self.q, &self.slab, 2, 0, NULL, len_bytes)
        return UWS_E_NOMEM if outq_room(&self.q, &self.slab, len_bytes) == NULL else UWS_OK

    def flush(self, steps=()):
        """steps: what the transport does, call by call: bytes it takes at most, AGAIN or LOST."""
        global script_len, script_at
        cdef int status
        assert len(steps) <= 256
        for i, step in enumerate(steps):
            script[i] = step
        script_len = len(steps)
        script_at = 0
        with nogil:
            status = outq_flush(&self.q, &self.slab, &self.io, FD)
        assert not misused
        return status

    def make_room(self, size_t below_bytes, bint keep_deflated=False):
        """How many messages were dropped."""
        return outq_make_room(&self.q, &self.slab, below_bytes, keep_deflated)

    def cut(self):
        outq_cut(&self.q, &self.slab)

    def drop(self):
        outq_drop(&self.q, &self.slab)

    def sent(self):
        """What the transport took since it was last asked."""
        global took_len
        data = PyBytes_FromStringAndSize(<char*>took, took_len) if took_len else b""
        took_len = 0
        return data

    @property
    def steps_left(self):
        return script_len - script_at

    @property
    def calls(self):
        """(send, sendv, most parts of one sendv)"""
        return calls_send, calls_sendv, most_parts

    @property
    def queued(self):
        return self.q.bytes

    @property
    def empty(self):
        """Whether nothing is left in the queue, pointers too."""
        return self.q.head == NULL and self.q.tail == NULL and self.q.bytes == 0

    @property
    def live_blocks(self):
        return self.slab.live_blocks

    @property
    def used_bytes(self):
        return slab_used_bytes(&self.slab)
