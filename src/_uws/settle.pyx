# F5. See settle.pxd.

from libc.stdint cimport int32_t, uint16_t, uint32_t
from libc.string cimport memset
from posix.unistd cimport close

from _uws.deflate cimport deflate_give
from _uws.inbox cimport inbox_drop
from _uws.intern cimport intern_give
from _uws.outq cimport outq_drop
from _uws.poller cimport poller_remove
from _uws.post cimport post_nudge, post_untold
from _uws.proto cimport proto_reset
from _uws.slab cimport slab_give
from _uws.slot cimport (
    conn_index,
    conn_told,
    conn_unpoll,
    conn_untold,
    loop_foreign,
    seat_give,
    side_count,
    side_give_request,
)
from _uws.slow cimport slow_leave
from _uws.sock cimport sock_end_sending, sock_reset
from _uws.state cimport (
    UWS_F_BUSY,
    UWS_F_CLOSE_DONE,
    UWS_F_CLOSE_OUT,
    UWS_F_DIRTY,
    UWS_F_EOF,
    UWS_F_GONE,
    UWS_F_READY,
    UWS_F_UNPOLLED,
    UWS_M_EXTRA,
    UWS_M_RESET,
    UWS_S_DEAD,
    UwsExtra,
    pthread_cond_broadcast,
)
from _uws.wheel cimport wheel_cancel


cdef void conn_drop(UwsLoop* l, UwsConn* c) noexcept nogil:
    """-> DEAD: the transport's end. Everything the connection holds goes back, but for events not consumed yet."""
    c.state = UWS_S_DEAD
    c.flags |= UWS_F_GONE | UWS_F_EOF
    wheel_cancel(&l.wheel, conn_index(l, c))
    if conn_untold(c):
        post_untold(l, c, c.proto.spare, <uint16_t>c.proto.heard)
    proto_reset(&c.proto, &l.env)
    if c.marks & UWS_M_EXTRA:
        deflate_give(l.extra[conn_index(l, c)].deflate)
        l.extra[conn_index(l, c)].deflate = NULL
    if c.side != NULL:
        side_give_request(l, c.side)
        outq_drop(&c.side.out, &l.slab)
        side_count(l, c.side)
        slow_leave(l, c)
        c.side.pong_waits = 0
        if c.side.waiters != 0:
            pthread_cond_broadcast(&l.wait_cond)
    if loop_foreign(l):
        conn_told(l, c)
    elif not conn_settle(l, c):
        # The descriptor stays, so that its number is not given to another while events still name it; the peer
        # need not wait for that.
        conn_unpoll(l, c)
        if not (c.marks & UWS_M_RESET):
            sock_end_sending(conn_index(l, c))


cdef void conn_part(UwsLoop* l, UwsConn* c) noexcept nogil:
    """The keeper's part in the end of a connection that another thread dropped, or was the last to name. What has been
    done before does no harm a second time."""
    cdef int32_t index = conn_index(l, c)
    cdef bint reset = c.marks & UWS_M_RESET
    if reset:
        sock_reset(index)
    if not conn_settle(l, c):
        conn_unpoll(l, c)
        if not reset:
            sock_end_sending(index)


cdef void _forget(UwsLoop* l, UwsExtra* extra) noexcept nogil:
    intern_give(&l.intern, extra.subprotocol)
    intern_give(&l.intern, extra.peer)
    intern_give(&l.intern, extra.forwarded)
    if extra.blocks != 0:
        l.blockers -= 1
    memset(extra, 0, sizeof(UwsExtra))


cdef bint conn_settle(UwsLoop* l, UwsConn* c) noexcept nogil:
    """DEAD -> FREE, if nothing points at the slot any more."""
    cdef int32_t index = conn_index(l, c)
    cdef uint32_t generation = c.generation
    cdef bint polled = not (c.flags & UWS_F_UNPOLLED)
    if c.flags & (UWS_F_DIRTY | UWS_F_READY | UWS_F_BUSY):
        return False
    if c.flags & UWS_F_CLOSE_OUT and not (c.flags & UWS_F_CLOSE_DONE):
        return False
    if c.side != NULL and c.side.waiters != 0:
        return False
    if loop_foreign(l):
        conn_told(l, c)
        return False
    if c.side != NULL:
        l.inbox_bytes -= c.side.inbox.bytes
        l.inbox_count -= c.side.inbox.count
        inbox_drop(&c.side.inbox, &l.slab)
        slab_give(&l.slab, c.side)
    if c.marks & UWS_M_EXTRA:
        _forget(l, &l.extra[index])
    intern_give(&l.intern, c.target)
    # Where there was no memory to tell of the end (post_untold).
    wheel_cancel(&l.wheel, index)
    memset(c, 0, sizeof(UwsConn))
    c.generation = generation + 1
    l.n_conns -= 1
    seat_give(l)
    if l.is_full:
        l.is_full = 0
        if l.accepting and l.accept_at_ms != 0:
            # There is room again, and this turn's end is the time.
            l.accept_at_ms = l.now_ms
    if l.stopping and l.n_conns == 0:
        # The thread that polls is to find out: this may be one that waited for room.
        post_nudge(l)
    # Explicitly: a child process that was forked meanwhile keeps the socket, and with it its place in the epoll set.
    if polled:
        poller_remove(&l.poller, index)
    close(index)
    return True
