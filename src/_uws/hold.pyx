# F5. See hold.pxd.

from _uws.errs cimport UWS_E_ARG, UWS_E_NOMEM, UWS_OK
from _uws.post cimport post_ready, side_has_news
from _uws.slot cimport conn_order, conn_reading, conn_side, conn_sooner
from _uws.state cimport (
    UWS_F_BUSY,
    UWS_F_CLOSE_OUT,
    UWS_F_GONE,
    UWS_F_PAUSED,
    UWS_M_MUTE,
    UWS_PING_WINDOW,
    UWS_S_LEAVING,
    UWS_S_OPEN,
    UwsSide,
)


cdef void conn_rest(UwsLoop* l, UwsConn* c, uint32_t ticks) noexcept nogil:
    """Do not read an open connection until its timer has looked whether it may be read on; one that is leaving,
    until it has left."""
    c.flags |= UWS_F_PAUSED
    l.count.pauses += 1
    conn_reading(l, c)
    if c.state == UWS_S_OPEN:
        conn_sooner(l, c, l.tick + ticks)


cdef inline bint _has_room(const UwsLoop* l, const UwsSide* side) noexcept nogil:
    return side.inbox.bytes < l.limits.max_inbox_bytes and side.inbox.count < l.limits.max_inbox_messages


cdef int conn_hold(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Neither read an open connection nor deliver what it sent, until conn_release(), or until it is not open any more.
    UWS_OK, UWS_E_NOMEM, or UWS_E_ARG where it is over. Where it has ended, and its last messages and the CLOSE event
    are still on their way, it is as if it had been held before: they are delivered."""
    if c.state != UWS_S_OPEN or c.flags & UWS_F_GONE:
        if c.marks & UWS_M_MUTE or c.conn == NULL:
            return UWS_E_ARG
        return UWS_OK if c.state == UWS_S_OPEN or c.state == UWS_S_LEAVING or c.flags & UWS_F_CLOSE_OUT else UWS_E_ARG
    if conn_side(l, c) == NULL:
        return UWS_E_NOMEM
    if not c.side.held:
        c.side.held = 1
        conn_order(l)
        l.count.holds += 1
    c.flags |= UWS_F_PAUSED
    conn_reading(l, c)
    return UWS_OK


cdef void conn_release(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Read and deliver it again, if it was held. The caller gives the side block back if it was for nothing else."""
    if c.side == NULL or not c.side.held:
        return
    c.side.held = 0
    conn_order(l)
    if _has_room(l, c.side):
        # Elsewhere whoever delivers what is there goes on to read.
        c.flags &= ~UWS_F_PAUSED
        conn_reading(l, c)
    if side_has_news(c.side) and not (c.flags & UWS_F_BUSY):
        post_ready(l, c)


cdef void conn_remind(UwsLoop* l, UwsConn* c) noexcept nogil:
    """There are too many pings: the pong that waits leaves when their next second begins."""
    if c.side.pong_at == 0:
        c.side.pong_at = (l.tick | (UWS_PING_WINDOW - 1)) + 1
        conn_sooner(l, c, c.side.pong_at)
