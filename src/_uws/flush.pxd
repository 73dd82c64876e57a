# F5. What connections have queued leaves: at once, at the turn's end, or by the keeper's hand where the descriptors are
# in its table. Owns nothing. Everything is called with the loop's lock held.

from _uws.state cimport UwsConn, UwsLoop

cdef void conn_dirty(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void flush_enlisted(UwsLoop* l) noexcept nogil
cdef void conn_flush(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_sweep(UwsLoop* l) noexcept nogil


cdef inline void conn_flush_all(UwsLoop* l) noexcept nogil:
    """Send what all connections have queued. Lets go of the lock now and then, for the threads that send: what these
    add meanwhile is for the next time."""
    if l.dirty_head >= 0:
        flush_enlisted(l)
