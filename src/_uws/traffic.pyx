# F5. See traffic.pxd.

from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy

from _uws.errs cimport (
    UWS_E_FRAGMENTS,
    UWS_E_NOMEM,
    UWS_E_TOO_BIG,
    UWS_OK,
    err_close_code,
)
from _uws.flush cimport conn_dirty
from _uws.frame cimport UWS_OP_PONG
from _uws.hold cimport conn_remind
from _uws.life cimport conn_abort, conn_end, conn_starve
from _uws.outq cimport outq_put_frame
from _uws.post cimport post_event, post_lost
from _uws.proto cimport (
    UWS_EV_CLOSE,
    UWS_EV_FRAGMENT,
    UWS_EV_MESSAGE,
    UWS_EV_PING,
    UWS_EV_PONG,
    UWS_EVF_FINAL,
    UWS_EVF_OWNED,
    UWS_P_PEERS_KEPT,
    UWS_P_STREAMED,
    UwsEvent,
    UwsProto,
    proto_feed,
    proto_renew,
    proto_stalest,
)
from _uws.slab cimport slab_give, slab_take
from _uws.slot cimport conn_ending_cause, conn_extra, conn_held, conn_index, conn_side, loop_foreign
from _uws.sock cimport sock_unread
from _uws.state cimport (
    UWS_C_LIMIT,
    UWS_C_MEMORY,
    UWS_C_PEER,
    UWS_C_PROTOCOL,
    UWS_F_GONE,
    UWS_F_PAUSED,
    UWS_F_READY,
    UWS_HEAVY_BYTES,
    UWS_M_EXTRA,
    UWS_M_HEARD,
    UWS_M_LISTEN,
    UWS_M_STRANGER,
    UWS_S_CLOSE_SENT,
    UWS_S_ENDING,
    UWS_S_FREE,
    UWS_S_LEAVING,
    UWS_S_LINGER,
    UWS_S_OPEN,
    UWS_W_MESSAGE,
    UWS_W_PONG,
    UWS_W_STREAM,
    UwsSide,
)

cdef enum:
    PONG_BACKLOG_BYTES = 16384    # queued bytes above which only the last ping is answered (RFC 6455, section 5.5.3)
    TRY_AGAIN_LATER = 1013
    SPARED_AT_ONCE = 16
    STRANGER_BYTES = 65536        # of a message that says who he is: nobody unknown may hold more of ours


cdef void _pong(UwsLoop* l, UwsConn* c, const UwsEvent* ping) noexcept nogil:
    cdef UwsSide* side
    cdef bint too_many
    l.count.pings += 1
    if (c.state != UWS_S_OPEN and c.state != UWS_S_LEAVING) or c.flags & UWS_F_GONE:
        return
    side = conn_side(l, c)
    if side == NULL:
        conn_starve(l, c)
        return
    # Who is leaving has no count of his pings any more, and one pong for those that come together.
    too_many = c.state == UWS_S_OPEN and l.limits.max_pings != 0 and c.proto.spare >= l.limits.max_pings
    if too_many or c.state == UWS_S_LEAVING or side.out.bytes > PONG_BACKLOG_BYTES:
        # A peer that pings and does not read, or does little else than ping, gets one pong for all of its pings.
        side.pong_waits = 1
        side.control_len = <uint8_t>ping.len_bytes
        memcpy(side.control, ping.data, ping.len_bytes)
        l.count.pongs_put_off += 1
        if too_many:
            conn_remind(l, c)
        elif c.state == UWS_S_LEAVING:
            conn_dirty(l, c)
        return
    if l.limits.max_pings != 0:
        c.proto.spare += 1
    # An older one that still waits would come out of order.
    side.pong_waits = 0
    side.pong_at = 0
    if outq_put_frame(&side.out, &l.slab, UWS_OP_PONG, 0, ping.data, ping.len_bytes) == UWS_OK:
        conn_dirty(l, c)
    else:
        conn_starve(l, c)


cdef bint _own(UwsLoop* l, UwsEvent* event) noexcept nogil:
    """Give the event a copy of its payload. False: out of memory."""
    cdef uint8_t* copy
    if event.len_bytes == 0 or event.flags & UWS_EVF_OWNED:
        return True
    copy = <uint8_t*>slab_take(&l.slab, event.len_bytes, NULL)
    if copy == NULL:
        return False
    memcpy(copy, event.data, event.len_bytes)
    event.data = copy
    event.flags |= UWS_EVF_OWNED
    return True


cdef void _message(UwsLoop* l, UwsBatch* b, UwsConn* c, UwsEvent* event) noexcept nogil:
    """A message, or a piece of one that is streamed."""
    if event.kind == UWS_EV_MESSAGE or event.flags & UWS_EVF_FINAL:
        l.count.messages_in += 1
    if c.marks & UWS_M_EXTRA:
        l.extra[c - l.table].spoke = l.tick
    if (c.state != UWS_S_OPEN and c.state != UWS_S_LEAVING) or not (l.want & UWS_W_MESSAGE):
        if event.flags & UWS_EVF_OWNED:
            slab_give(&l.slab, event.data)
        return
    if b == NULL:
        if not _own(l, event):
            conn_starve(l, c)
            return
    elif event.flags & UWS_EVF_OWNED:
        b.owned_bytes += event.len_bytes
    elif event.len_bytes != 0:
        # An empty message of empty fragments has no payload anywhere, nor has an empty end of one that is streamed.
        b.used_bytes = (<size_t>(event.data + event.len_bytes - b.arena) + 15) & ~<size_t>15
    if post_event(l, c, event) != UWS_OK:
        post_lost(l, c, event)
        conn_starve(l, c)


cdef void _heard(UwsLoop* l, UwsBatch* b, UwsConn* c, UwsEvent* event) noexcept nogil:
    """A pong, where somebody wants to know. It is for those who wait for it: without memory they do so in vain, and the
    connection is none the worse."""
    if c.state != UWS_S_OPEN or not (l.want & UWS_W_PONG) or c.marks & UWS_M_STRANGER:
        return
    if b == NULL:
        if not _own(l, event):
            return
    elif event.len_bytes != 0:
        b.used_bytes = (<size_t>(event.data + event.len_bytes - b.arena) + 15) & ~<size_t>15
    if post_event(l, c, event) != UWS_OK:
        if event.flags & UWS_EVF_OWNED:
            slab_give(&l.slab, event.data)


cdef inline int _cause_of(int status) noexcept nogil:
    if status == UWS_E_TOO_BIG or status == UWS_E_FRAGMENTS:
        return UWS_C_LIMIT
    return UWS_C_MEMORY if status == UWS_E_NOMEM else UWS_C_PROTOCOL


cdef inline bint _kept_waiting(const UwsLoop* l, const UwsConn* c) noexcept nogil:
    """Has c sent what we have not read, for the sake of others? Nothing of its own waits for a callback then."""
    if c.state != UWS_S_OPEN or not (c.flags & UWS_F_PAUSED) or c.flags & (UWS_F_READY | UWS_F_GONE):
        return False
    if conn_held(c) or (c.side != NULL and c.side.inbox.head != NULL) or loop_foreign(l):
        return False
    return sock_unread(conn_index(l, c))


cdef void _shed(UwsLoop* l, UwsConn* fed) noexcept nogil:
    """Incomplete messages take more than they may, all together: who has sent nothing of his for longest has to go. One
    who is in the middle of sending is the last to be hit, and one who began a message to keep us waiting the first.

    Who looks as if he had stopped because we do not read him is passed over; where there are too many of those, fed
    has to go, with whose message it became too much: to look at all of them each time would be dear."""
    cdef UwsProto* p
    cdef int spared = 0
    while l.env.partial_bytes > l.limits.max_partial_bytes:
        p = proto_stalest(&l.env)
        if p == NULL:
            return
        # It is the first member of its slot.
        if p != &fed.proto and spared < SPARED_AT_ONCE and _kept_waiting(l, <UwsConn*>p):
            proto_renew(p, &l.env)
            spared += 1
            continue
        if spared == SPARED_AT_ONCE and fed.proto.part != NULL and not (fed.proto.msg_opcode & UWS_P_STREAMED):
            p = &fed.proto
        conn_end(l, <UwsConn*>p, UWS_C_LIMIT, TRY_AGAIN_LATER, TRY_AGAIN_LATER, NULL, 0)
        if p.part != NULL:
            # It is over, and was listened to for its close frame only.
            conn_abort(l, <UwsConn*>p, UWS_C_LIMIT)


cdef inline void _weigh(UwsLoop* l, UwsConn* c, uint64_t work_bytes) noexcept nogil:
    """Account for what it took to inflate, which nobody could tell before. One that was heavy is expected to be so
    again, until it has sent something that was not."""
    l.inflating += work_bytes
    if work_bytes >= UWS_HEAVY_BYTES:
        conn_extra(l, c).heavy = 1
    elif c.marks & UWS_M_EXTRA:
        conn_extra(l, c).heavy = 0


cdef void conn_frames(UwsLoop* l, UwsBatch* b, UwsConn* c, uint8_t* data, size_t len_bytes) noexcept nogil:
    """Decode what came, answer what the protocol itself answers, and send the rest on its way.

    b: the batch whose arena data is in; NULL where it is elsewhere, and messages need a copy of it.
    """
    cdef UwsEvent* event
    cdef int i, n = 0, status
    cdef uint16_t code
    cdef uint64_t most = l.env.max_message_bytes, inflated = l.env.inflated_bytes
    # Who he is has to be in one message: a stranger's is kept until it is whole, and is not long.
    l.env.stream = l.want & UWS_W_STREAM and not (c.marks & UWS_M_STRANGER)
    l.env.own = l.extra[c - l.table].deflate if c.proto.flags & UWS_P_PEERS_KEPT else NULL
    if c.marks & UWS_M_STRANGER:
        l.env.max_message_bytes = min(most, <uint64_t>STRANGER_BYTES)
    l.env.work_bytes = 0
    status = proto_feed(&c.proto, &l.env, data, len_bytes, l.scratch, &n)
    if b != NULL:
        # A compressed message that comes to nothing, or is refused, has cost the others as much time as one that is
        # handed on: the turn is to end after it all the same.
        b.owned_bytes += l.env.work_bytes
    if l.env.work_bytes != 0:
        _weigh(l, c, l.env.work_bytes + l.env.inflated_bytes - inflated)
    l.env.max_message_bytes = most
    for i in range(n):
        event = &l.scratch[i]
        if event.kind == UWS_EV_MESSAGE or event.kind == UWS_EV_FRAGMENT:
            _message(l, b, c, event)
        elif event.kind == UWS_EV_PING:
            _pong(l, c, event)
        elif event.kind == UWS_EV_PONG:
            _heard(l, b, c, event)
        elif event.kind == UWS_EV_CLOSE:
            if c.state == UWS_S_FREE:
                return    # it ended for want of memory, and the slot is the next one's
            c.marks |= UWS_M_HEARD
            if c.state == UWS_S_LINGER:
                # The last word has been said on both sides: the end of this turn closes.
                if conn_side(l, c) != NULL:
                    conn_dirty(l, c)
                return
            conn_end(l, c, conn_ending_cause(c) if c.state == UWS_S_CLOSE_SENT else UWS_C_PEER, event.code,
                     event.reply_code, event.data, event.len_bytes)
    if status < 0:
        if c.state == UWS_S_ENDING or c.state == UWS_S_LINGER:
            # It has no close frame for us any more: there is nothing to wait for.
            c.marks &= ~UWS_M_LISTEN
            if c.state == UWS_S_LINGER and conn_side(l, c) != NULL:
                conn_dirty(l, c)
        code = <uint16_t>err_close_code(status)
        conn_end(l, c, _cause_of(status), code, code, NULL, 0)
    if l.env.partial_bytes > l.limits.max_partial_bytes:
        _shed(l, c)
