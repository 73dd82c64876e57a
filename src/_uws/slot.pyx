# F5. See slot.pxd.

from libc.stdint cimport uint8_t
from libc.string cimport memset

from _uws.errs cimport UWS_OK
from _uws.poller cimport (
    EPOLLIN,
    EPOLLOUT,
    UWS_TAG_CONN,
    poll_tag,
    poller_add,
    poller_change,
    poller_remove,
    poller_wake,
)
from _uws.slab cimport slab_give, slab_take
from _uws.sock cimport sock_sever
from _uws.state cimport (
    UWS_F_DIRTY,
    UWS_F_EOF,
    UWS_F_GONE,
    UWS_F_IN_OFF,
    UWS_F_OUT_ON,
    UWS_F_PAUSED,
    UWS_F_READY,
    UWS_F_UNPOLLED,
    UWS_M_EXTRA,
    UWS_S_OPEN,
    UWS_TOLD_SWEEP,
)


cdef void loop_wake(UwsLoop* l) noexcept nogil:
    l.woken = 1
    l.count.wakeups += 1
    poller_wake(&l.poller)


cdef void conn_told(UwsLoop* l, UwsConn* c) noexcept nogil:
    """There is something to be done with c's descriptor, which is in the keeper's table: what that is, its state and
    flags say. It comes with what is flushed."""
    if conn_side(l, c) != NULL:
        conn_enlist(l, c)
    else:
        l.told |= UWS_TOLD_SWEEP
    loop_nudge(l)


# ---- the side block

cdef UwsSide* conn_side(UwsLoop* l, UwsConn* c) noexcept nogil:
    """The connection's side block, made when it is first needed; NULL: out of memory."""
    if c.side == NULL:
        c.side = <UwsSide*>slab_take(&l.slab, sizeof(UwsSide), NULL)
        if c.side != NULL:
            # But for its last member, which nobody reads before it is written.
            memset(c.side, 0, <size_t>(<uint8_t*>&c.side.control - <uint8_t*>c.side))
    return c.side


cdef UwsExtra* conn_extra(UwsLoop* l, UwsConn* c) noexcept nogil:
    """The row beside the connection's slot; what is free is all zero, as it was mapped."""
    c.marks |= UWS_M_EXTRA
    return &l.extra[conn_index(l, c)]


cdef void side_give_request(UwsLoop* l, UwsSide* side) noexcept nogil:
    slab_give(&l.slab, side.upgrade)
    slab_give(&l.slab, side.head)
    side.upgrade = NULL
    side.head = NULL
    side.head_len = 0
    side.head_cap = 0


cdef void conn_trim(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Give the side block back if nothing is in it."""
    cdef UwsSide* side = c.side
    if side == NULL or side.out.head != NULL or side.inbox.head != NULL or side.upgrade != NULL or side.head != NULL \
            or side.waiters != 0 or side.pong_waits or side.reply_code != 0 or c.flags & (UWS_F_DIRTY | UWS_F_READY) \
            or side.behind or side.high or side.drain_due or side.held:
        return
    slab_give(&l.slab, side)
    c.side = NULL


# ---- what epoll is asked for

cdef void conn_poll_for(UwsLoop* l, UwsConn* c, bint reading, bint writing) noexcept nogil:
    """Bring the epoll set in line; no system call where nothing changes."""
    cdef int32_t index = conn_index(l, c)
    cdef bint was_reading = not (c.flags & UWS_F_IN_OFF)
    cdef bint was_writing = (c.flags & UWS_F_OUT_ON) != 0
    if was_reading == reading and was_writing == writing:
        return
    if loop_foreign(l):
        conn_told(l, c)
        return
    c.flags &= ~(UWS_F_IN_OFF | UWS_F_OUT_ON)
    if not reading:
        c.flags |= UWS_F_IN_OFF
    if writing:
        c.flags |= UWS_F_OUT_ON
    if c.flags & UWS_F_UNPOLLED:
        # A reply may have found that the peer is gone: what came before has to be read all the same, and then the end.
        if (c.flags & UWS_F_GONE and c.flags & UWS_F_EOF) or not (reading or writing):
            return
        if poller_add(&l.poller, index, (EPOLLIN if reading else 0) | (EPOLLOUT if writing else 0),
                      poll_tag(UWS_TAG_CONN, index, c.generation)) == UWS_OK:
            c.flags &= ~UWS_F_UNPOLLED
            return
        # The kernel has no memory for it, or the user too many watches: it stays out, and what is there to be read is
        # read a little later. Where it is not open any more there is a deadline for what else may come.
        c.flags |= UWS_F_IN_OFF
        c.flags &= ~UWS_F_OUT_ON
        if c.state == UWS_S_OPEN:
            conn_sooner(l, c, tick_now(l) + UWS_POLL_AGAIN_TICKS)
            loop_nudge(l)
        return
    if poller_change(&l.poller, index, (EPOLLIN if reading else 0) | (EPOLLOUT if writing else 0),
                     poll_tag(UWS_TAG_CONN, index, c.generation)) != UWS_OK:
        # Linux needs no memory for this, but may say that it has none. Nobody would hear of it again.
        sock_sever(index)


cdef void conn_reading(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Read on, or not, as the flags say."""
    conn_poll_for(l, c, not (c.flags & (UWS_F_PAUSED | UWS_F_EOF)), (c.flags & UWS_F_OUT_ON) != 0)


cdef void conn_unpoll(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Out of the epoll set: a hang-up or an error is reported whether it is asked for or not, level-triggered."""
    if c.flags & UWS_F_UNPOLLED:
        return
    if loop_foreign(l):
        conn_told(l, c)
    else:
        poller_remove(&l.poller, conn_index(l, c))
        c.flags |= UWS_F_UNPOLLED | UWS_F_IN_OFF
        c.flags &= ~UWS_F_OUT_ON
