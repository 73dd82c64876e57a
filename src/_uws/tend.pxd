# F5. Looking after open connections: which of their deadlines comes next, and what is done when it is there.
# Owns no state; a slot has one timer, and everything is worked out anew when it runs. With the loop's lock held.

from libc.stdint cimport uint32_t, uint64_t

from _uws.state cimport UwsConn, UwsLoop

cdef void conn_tended(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void tend_queues(UwsLoop* l) noexcept nogil
cdef void conn_timer(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_expires_in(UwsLoop* l, UwsConn* c, uint64_t timeout_ms) noexcept nogil
cdef void conn_leaves_at(UwsLoop* l, UwsConn* c, uint32_t tick) noexcept nogil
cdef uint32_t random_below(UwsLoop* l, uint32_t below) noexcept nogil
