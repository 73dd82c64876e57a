# F6. See dispatch.pyx.

from libc.stdint cimport uint32_t, uint64_t

from _uws.conn cimport Conn
from _uws.deliver cimport UwsDelivery
from _uws.proto cimport UwsEvent
from _uws.state cimport UwsBatch, UwsLoop


cdef class Dispatch:
    cdef UwsLoop* l
    cdef object on_connect
    cdef object on_read
    cdef object on_message
    cdef object on_fragment
    cdef object on_pong
    cdef object on_close
    cdef object on_drain
    cdef object on_recall
    cdef object on_request
    cdef object on_route
    cdef object failed
    cdef bint streaming               # on_read is called when a message begins

    cdef int _deliver(self, UwsBatch* b, uint64_t role) except -1
    cdef int _callbacks(self, UwsDelivery* d, Conn conn) except -1
    cdef object _hook_for(self, const UwsEvent* event, int* how)
    cdef object _asking_hook(self, bint is_upgrade)
    cdef uint32_t _wanted(self) noexcept
    cdef int _asked(self, UwsDelivery* d) except -1
    cdef int _closed(self, UwsDelivery* d, Conn conn) except -1
    cdef int _tell_end(self, UwsDelivery* d, Conn conn) except -1
    cdef void _report(self, Conn conn, str hook) noexcept
    cdef int _fail(self, const UwsDelivery* d, Conn conn, str hook) except -1
    cdef int _forget(self) except -1
