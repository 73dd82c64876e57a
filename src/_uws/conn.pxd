# F6. A connection as Python sees it. Owns the Conn: (loop, index, generation), never a pointer to a slot.
# Used by dispatch, which makes them and runs their callbacks, and by messages.

from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int32_t, uint32_t, uint64_t

from _uws.atomic cimport atomic_read
from _uws.deliver cimport UwsDelivery
from _uws.state cimport UWS_F_PINNED, UwsConn, UwsLoop


cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    #define UWS_FREE_THREADED 1
    #else
    #define UWS_FREE_THREADED 0
    #endif
    """
    Py_ssize_t Py_REFCNT(PyObject*)
    # Where there is no GIL to keep an object from going away while it is looked for, a slot owns its Conn.
    const bint UWS_FREE_THREADED


cdef class Conn:
    # Counted but hidden from the garbage collector, which may clear what it sees before __dealloc__ needs it.
    cdef void* owner                  # the Loop
    cdef UwsLoop* l                   # its loop
    cdef UwsDelivery* delivery        # of the callback that runs; NULL between callbacks. For its thread alone,
    cdef uint64_t thread              # which is this one; anybody may read it: atomic
    cdef int32_t index                # -1: its slot does not know it any more; under the lock
    cdef uint32_t generation
    cdef bint unread                  # the message that on_read was called for has not been read
    cdef uint32_t reading             # messages that were begun to be read: whose pieces a reader may have
    # Any thread reads and writes these, in a critical section of the Conn where there is no GIL. It is entered before
    # the loop's lock is taken, and may be left while that is waited for.
    cdef object _data
    cdef tuple said                   # (close code, reason) of the application's own close()
    cdef tuple end                    # (close code, reason, cause) once closed
    cdef tuple memory                 # what _known() knew, for those who hold it beyond the end
    cdef object about                 # who it is, of the library's

    cdef int _ended(self, tuple end) except -1
    cdef object _gone(self)
    cdef object _known(self, int what)
    cdef int _remember(self) except -1
    cdef tuple _memory(self)
    cdef tuple _how(self)
    cdef void _pin(self, UwsConn* c) noexcept


cdef inline bint conn_runs_here(Conn conn) noexcept:
    """Whether this thread runs a callback of it, and may so touch what is the callback's own."""
    return atomic_read(&conn.thread) == PyThread_get_thread_ident()


cdef inline bint conn_is_blank(Conn conn) noexcept:
    """Whether nothing has been written on it: for another connection it would be like a new one."""
    return (conn is not None and conn.said is None and conn.end is None and conn.memory is None
            and conn.about is None and conn._data is None)


cdef inline void conn_attach(Conn conn, UwsConn* c, int32_t index, uint32_t generation) noexcept:
    """Let a blank Conn of this loop be that of a slot which has none. The GIL and the lock are held."""
    conn.index = index
    conn.generation = generation
    conn.reading = 0
    c.conn = <void*>conn


cdef inline bint conn_detach(Conn conn, UwsConn* c) noexcept:
    """Take it from its slot, if the caller alone has it. The GIL and the lock are held: so nobody can come and find it.
    False: somebody keeps it, or it may not be told who does."""
    if UWS_FREE_THREADED or c == NULL or c.conn != <void*>conn or c.flags & UWS_F_PINNED \
            or Py_REFCNT(<PyObject*>conn) != 1:
        return False
    c.conn = NULL
    conn.index = -1
    return True


cdef void conns_fork(bint is_under_way) noexcept

cdef Conn conn_new(object owner, UwsLoop* l, int32_t index, uint32_t generation)
cdef Conn conn_make(object owner, UwsLoop* l, int32_t index, uint32_t generation)

# Send any kind of frame but CLOSE. check_text: bytes that go out as text have to be UTF-8. compress: COMPRESS_*
cdef object conn_write(Conn conn, int opcode, object message, bint check_text, int compress)
