# F5. See flush.pxd.

from libc.stdint cimport int32_t, uint32_t

from _uws.errs cimport UWS_E_SYS, UWS_MORE, UWS_OK
from _uws.frame cimport UWS_OP_PONG
from _uws.hold cimport conn_release
from _uws.keeper cimport keeper_wait
from _uws.outq cimport outq_cut, outq_drop, outq_flush, outq_put_frame
from _uws.post cimport post_drained, post_nudge
from _uws.settle cimport conn_drop, conn_part, conn_settle
from _uws.slot cimport (
    conn_deadline,
    conn_enlist,
    conn_index,
    conn_poll_for,
    conn_reading,
    conn_sooner,
    conn_trim,
    conn_unpoll,
    loop_foreign,
    side_count,
    tick_now,
)
from _uws.slow cimport slow_got_on, slow_leave
from _uws.sock cimport sock_end_sending, sock_sever
from _uws.state cimport (
    UWS_F_CLOSE_OUT,
    UWS_F_DIRTY,
    UWS_F_EOF,
    UWS_F_GONE,
    UWS_F_IN_OFF,
    UWS_F_OUT_ON,
    UWS_F_SHUT,
    UWS_M_HEARD,
    UWS_M_LISTEN,
    UWS_M_SAID,
    UWS_S_DEAD,
    UWS_S_FREE,
    UWS_S_LINGER,
    UWS_S_OPEN,
    UwsSide,
    pthread_cond_broadcast,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)
from _uws.wheel cimport UWS_TICK_MS


cdef enum:
    FIN_TIMEOUT_MS = 1000         # for the peer's FIN, when everything has been said


cdef void conn_dirty(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Something was queued: it leaves at the end of the turn. The caller has made sure of the side block."""
    side_count(l, c.side)
    conn_enlist(l, c)
    post_nudge(l)


cdef void flush_enlisted(UwsLoop* l) noexcept nogil:
    """conn_flush_all(), where somebody is enlisted."""
    cdef UwsConn* c
    cdef unsigned int done = 0
    # Up to who is the last now: threads that send without end must not keep the caller here for ever.
    cdef int32_t last = l.dirty_tail, at = -1
    while l.dirty_head >= 0 and at != last:
        at = l.dirty_head
        c = &l.table[at]
        l.dirty_head = c.side.dirty_next
        c.flags &= ~UWS_F_DIRTY
        if l.limits.private_fds:
            _obey(l, c)
        else:
            conn_flush(l, c)
        done += 1
        if done & 7 == 0:
            pthread_mutex_unlock(&l.lock)
            pthread_mutex_lock(&l.lock)


cdef void _obey(UwsLoop* l, UwsConn* c) noexcept nogil:
    """The keeper's part in what other threads want with c's descriptor (conn_told), and flushing. The slot may be free
    afterwards."""
    if c.state == UWS_S_DEAD:
        conn_part(l, c)
        return
    if c.flags & UWS_F_GONE and c.flags & UWS_F_EOF:
        conn_unpoll(l, c)
    else:
        conn_reading(l, c)
    conn_flush(l, c)


cdef void conn_sweep(UwsLoop* l) noexcept nogil:
    """Of some connection there was no memory to say that its descriptor needs something: look at all."""
    cdef uint32_t i
    for i in range(l.table_top):
        # Those that are dirty have their turn.
        if l.table[i].state != UWS_S_FREE and not (l.table[i].flags & UWS_F_DIRTY):
            _obey(l, &l.table[i])


cdef void _flush_there(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Have the keeper send what c has queued, and wait until it has: the caller wants to know what the kernel left.
    Lets go of the lock meanwhile."""
    cdef uint32_t generation = c.generation, round = l.rounds
    if c.side == NULL:
        return
    conn_dirty(l, c)
    while l.kept and c.generation == generation and c.flags & UWS_F_DIRTY and l.rounds - round < 2:
        keeper_wait(l)


cdef void conn_flush(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Send what c has queued. The slot may be free afterwards."""
    cdef UwsSide* side = c.side
    cdef size_t before
    cdef int status = UWS_OK
    if loop_foreign(l):
        _flush_there(l, c)
        return
    if c.state == UWS_S_DEAD:
        conn_settle(l, c)
        return
    if side != NULL and (side.out.head != NULL or side.pong_waits):
        if c.flags & UWS_F_GONE:
            outq_drop(&side.out, &l.slab)
            side.pong_waits = 0
        else:
            before = side.out.bytes
            status = outq_flush(&side.out, &l.slab, l.io, conn_index(l, c))
            if status == UWS_OK and side.pong_waits and side.pong_at == 0:
                side.pong_waits = 0
                if not (c.marks & UWS_M_SAID) and outq_put_frame(&side.out, &l.slab, UWS_OP_PONG, 0, side.control,
                                                                 side.control_len) == UWS_OK:
                    status = outq_flush(&side.out, &l.slab, l.io, conn_index(l, c))
        if status == UWS_E_SYS:
            # What the peer sent before its RST may still be unread: reading finds the end by itself. Where it is not
            # the peer that has ended it, but somebody here who forbids to send (EACCES, EPERM), there would be none.
            sock_sever(conn_index(l, c))
            c.flags |= UWS_F_GONE
            outq_drop(&side.out, &l.slab)
            conn_release(l, c)
        elif status == UWS_MORE and side.is_cut:
            outq_cut(&side.out, &l.slab)
        if side.waiters != 0:
            pthread_cond_broadcast(&l.wait_cond)
        side_count(l, side)
        if status == UWS_MORE:
            if side.high and side.out.bytes <= l.limits.low_bytes:
                post_drained(l, c)
            if side.out.bytes != before or not (c.flags & UWS_F_OUT_ON):
                side.stuck = tick_now(l)
                slow_got_on(l, c)
                if c.state == UWS_S_OPEN and l.limits.send_timeout_ms != 0 and not (c.flags & UWS_F_OUT_ON):
                    conn_sooner(l, c, side.stuck + l.limits.send_timeout_ms // UWS_TICK_MS + 1)
            conn_poll_for(l, c, not (c.flags & UWS_F_IN_OFF), True)
            return
    if c.flags & UWS_F_OUT_ON:
        conn_poll_for(l, c, not (c.flags & UWS_F_IN_OFF), False)
    if side != NULL:
        slow_leave(l, c)
        if side.high:
            post_drained(l, c)
    if c.state == UWS_S_LINGER:
        if c.flags & (UWS_F_EOF | UWS_F_GONE):
            conn_drop(l, c)
            return
        if not (c.flags & UWS_F_SHUT) and (c.marks & UWS_M_HEARD or not (c.marks & UWS_M_LISTEN)):
            # With both close frames exchanged it is for the server to close at once (RFC 6455, section 7.1.1). Before
            # that a FIN would have proxies close to the client, whose answer they have not read, with RST.
            c.flags |= UWS_F_SHUT
            sock_end_sending(conn_index(l, c))
        if c.marks & UWS_M_HEARD or not (c.flags & UWS_F_CLOSE_OUT):
            # Everything has been said, or this never was a WebSocket. There are clients that send a second close
            # frame; an RST in answer would look like a failure to them.
            # So the descriptor stays until their FIN, but not for long.
            conn_deadline(l, c, min(l.limits.close_timeout_ms, FIN_TIMEOUT_MS))
    conn_trim(l, c)
