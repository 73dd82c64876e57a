# F5. See slow.pxd.

from libc.stdint cimport int32_t

from _uws.slot cimport conn_index
from _uws.state cimport UwsSide


cdef void slow_got_on(UwsLoop* l, UwsConn* c) noexcept nogil:
    """c's queue waits for the kernel from now on, or some of it has left: it is the last whose turn it is to go."""
    cdef int32_t index = conn_index(l, c)
    if l.slow_tail == index:
        return
    slow_leave(l, c)
    c.side.behind = 1
    c.side.slow_next = -1
    c.side.slow_prev = l.slow_tail
    if l.slow_tail >= 0:
        l.table[l.slow_tail].side.slow_next = index
    else:
        l.slow_head = index
    l.slow_tail = index


cdef void slow_leave(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Nothing of c's waits any more. Nothing happens where it was not in the line."""
    cdef UwsSide* side = c.side
    if not side.behind:
        return
    side.behind = 0
    if side.slow_prev >= 0:
        l.table[side.slow_prev].side.slow_next = side.slow_next
    else:
        l.slow_head = side.slow_next
    if side.slow_next >= 0:
        l.table[side.slow_next].side.slow_prev = side.slow_prev
    else:
        l.slow_tail = side.slow_prev
