# F5. The line of those whose queue waits for the kernel: who has not got on for longest stands at its head.
# Owns the links in their side blocks. Everything is called with the loop's lock held.

from _uws.state cimport UwsConn, UwsLoop


cdef inline UwsConn* slow_first(UwsLoop* l) noexcept nogil:
    """Who has not got on for longest; NULL: nobody waits."""
    return &l.table[l.slow_head] if l.slow_head >= 0 else NULL


cdef void slow_got_on(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void slow_leave(UwsLoop* l, UwsConn* c) noexcept nogil
