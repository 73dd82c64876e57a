# F6. The top floor: the only file that holds Python objects. See core.pyx.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from _uws.deliver cimport UwsDelivery
from _uws.state cimport UwsBatch, UwsLoop


cdef class Loop:
    cdef UwsLoop* l
    cdef object on_connect
    cdef object on_read
    cdef object on_message
    cdef object on_close
    cdef object spawn
    cdef object failed
    cdef uint32_t max_runners
    cdef bint spawning
    cdef bint dog_started
    cdef uint64_t spawn_at_ms         # no runner is asked for before; 0: any time

    cdef int _deliver(self, UwsBatch* b, uint64_t role) except -1
    cdef int _callbacks(self, UwsDelivery* d, Conn conn) except -1
    cdef int _closed(self, UwsDelivery* d, Conn conn) except -1
    cdef void _report(self, Conn conn, str hook) noexcept
    cdef int _fail(self, Conn conn, str hook) except -1
    cdef int _spare(self) except -1
    cdef Conn _conn(self, int32_t index, uint32_t generation)


cdef class Conn:
    cdef Loop loop
    cdef UwsDelivery* delivery        # of the callback that runs; NULL between callbacks
    cdef unsigned long thread         # that runs it
    cdef int32_t index                # -1: its slot does not know it any more
    cdef uint32_t generation
    cdef bint unread                  # the message that on_read was called for has not been read
    cdef object _data
    cdef object end                   # (close code, reason) once closed
    cdef object memory                # (local, remote, target) for those who hold it beyond the end

    cdef int _send(self, int opcode, const uint8_t* data, size_t len_bytes) except -1
    cdef int _wait_room(self, uint64_t deadline_us) except -1
    cdef object _gone(self)
    cdef object _known(self, int what)
