# F5. See hold.pxd.

from libc.stdint cimport uint8_t

from _uws.errs cimport UWS_E_ARG, UWS_E_NOMEM, UWS_OK
from _uws.post cimport post_ready, side_has_news
from _uws.slot cimport conn_order, conn_reading, conn_side, conn_sooner
from _uws.state cimport (
    UWS_F_BUSY,
    UWS_F_CLOSE_OUT,
    UWS_F_GONE,
    UWS_F_PAUSED,
    UWS_F_PENDING,
    UWS_HELD_NOT,
    UWS_HELD_PAUSED,
    UWS_HELD_RECALLED,
    UWS_HELD_SUSPENDED,
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


cdef inline void _hold_as(UwsLoop* l, UwsConn* c, int how) noexcept nogil:
    c.side.held = <uint8_t>how
    conn_order(l)
    l.count.holds += 1


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
    if c.side.held == UWS_HELD_NOT:
        _hold_as(l, c, UWS_HELD_PAUSED)
    c.flags |= UWS_F_PAUSED
    conn_reading(l, c)
    return UWS_OK


cdef void conn_release(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Read and deliver it again, if it was held by conn_hold(). The caller gives the side block back if it was for
    nothing else."""
    if c.side == NULL or c.side.held != UWS_HELD_PAUSED:
        return
    c.side.held = UWS_HELD_NOT
    conn_order(l)
    if _has_room(l, c.side):
        # Elsewhere whoever delivers what is there goes on to read.
        c.flags &= ~UWS_F_PAUSED
        conn_reading(l, c)
    if side_has_news(c.side) and not (c.flags & UWS_F_BUSY):
        post_ready(l, c)


cdef int conn_suspend(UwsLoop* l, UwsConn* c) noexcept nogil:
    """The callback that is being run for c goes on elsewhere, and returns: until conn_recall() it is as if it had not.
    Nothing of c is delivered, and whatever ends it meanwhile, on_close waits; while it is open it is not read either.
    Somebody has to recall it, or its slot is never free again. UWS_OK, UWS_E_NOMEM, or UWS_E_ARG where nothing of it
    will be delivered any more but its end."""
    if c.marks & UWS_M_MUTE:
        return UWS_E_ARG
    if conn_side(l, c) == NULL:
        return UWS_E_NOMEM
    _hold_as(l, c, UWS_HELD_SUSPENDED)
    c.flags |= UWS_F_PENDING
    if c.state == UWS_S_OPEN:
        c.flags |= UWS_F_PAUSED
        conn_reading(l, c)
    return UWS_OK


cdef bint conn_recall(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Have on_recall called for c, and all that waits behind it. False: it is not suspended."""
    if c.side == NULL or c.side.held != UWS_HELD_SUSPENDED:
        return False
    c.side.held = UWS_HELD_RECALLED
    if not (c.flags & UWS_F_BUSY):
        post_ready(l, c)
    return True


cdef void conn_come_back(UwsLoop* l, UwsConn* c) noexcept nogil:
    """A runner is about to call on_recall."""
    c.side.held = UWS_HELD_PAUSED
    conn_release(l, c)


cdef void conn_remind(UwsLoop* l, UwsConn* c) noexcept nogil:
    """There are too many pings: the pong that waits leaves when their next second begins."""
    if c.side.pong_at == 0:
        c.side.pong_at = (l.tick | (UWS_PING_WINDOW - 1)) + 1
        conn_sooner(l, c, c.side.pong_at)
