# F5. What connections have queued leaves: at once, at the turn's end, or by the keeper's hand where the descriptors are
# in its table. Owns nothing. Everything is called with the loop's lock held.

from _uws.state cimport UwsConn, UwsLoop

cdef void conn_dirty(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_flush_all(UwsLoop* l) noexcept nogil
cdef void conn_flush(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_sweep(UwsLoop* l) noexcept nogil
