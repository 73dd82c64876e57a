# F6. The top floor: loops, and the handing over of events to Python. See core.pyx.

from libc.stdint cimport uint32_t, uint64_t

from _uws.conn cimport Conn
from _uws.deliver cimport UwsDelivery
from _uws.proto cimport UwsEvent
from _uws.state cimport UwsBatch, UwsLoop


cdef class Loop:
    cdef UwsLoop* l
    cdef object on_connect
    cdef object on_read
    cdef object on_message
    cdef object on_fragment
    cdef object on_close
    cdef object on_request
    cdef object on_route
    cdef readonly object client       # of set_proxies()
    cdef object spawn
    cdef object failed
    cdef uint32_t max_runners
    cdef bint streaming               # on_read is called when a message begins
    cdef bint spawning
    cdef bint dog_started
    cdef uint64_t spawn_at_ms         # no runner is asked for before; 0: any time

    cdef int _deliver(self, UwsBatch* b, uint64_t role) except -1
    cdef object _reading_hook(self, const UwsEvent* event, int* how)
    cdef int _asked(self, UwsDelivery* d) except -1
    cdef int _callbacks(self, UwsDelivery* d, Conn conn) except -1
    cdef int _closed(self, UwsDelivery* d, Conn conn) except -1
    cdef void _report(self, Conn conn, str hook) noexcept
    cdef int _fail(self, Conn conn, str hook) except -1
    cdef int _spare(self) except -1
