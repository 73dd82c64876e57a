# F5. Connections that are not read for a while: for their rate, as they are held, as their pings are too many.
# Owns nothing. Everything is called with the loop's lock held.

from libc.stdint cimport uint32_t

from _uws.state cimport UwsConn, UwsLoop

cdef void conn_rest(UwsLoop* l, UwsConn* c, uint32_t ticks) noexcept nogil
cdef int conn_hold(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_release(UwsLoop* l, UwsConn* c) noexcept nogil
cdef int conn_suspend(UwsLoop* l, UwsConn* c) noexcept nogil
cdef bint conn_recall(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_come_back(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_remind(UwsLoop* l, UwsConn* c) noexcept nogil
