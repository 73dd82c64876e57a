# F5. See life.pxd.
#
# state       what happens                                   next          in
# FREE        accepted                                       UPGRADING     conn_begin
# UPGRADING   valid request, 101 queued                      OPEN          conn_upgraded
#             valid request, and Python is to decide         ASKING        conn_ask
#             refused or served; response queued             LINGER        conn_answered
#             EOF, error                                     FREE          conn_eof
#             deadline: 408 queued                           LINGER        conn_refuse
# ASKING      Python accepts, 101 queued                     OPEN          conn_upgraded
#             Python answers otherwise                       LINGER        conn_answered
#             deadline, the server drains: 503 queued        LINGER        conn_refuse
#             error                                          DEAD          conn_eof
# OPEN        conn.close(), a deadline, a drain; close frame CLOSE_SENT    conn_close
#             close frame, broken rule, EOF, error           ENDING        conn_end
# CLOSE_SENT  the peer's close frame, EOF, error             ENDING        conn_end
#             deadline                                       DEAD          conn_expired
# ENDING      the CLOSE event reaches its callback           LINGER        conn_goodbye
#             (at once where nobody waits for it)
#             the replies before it take too long            LINGER        conn_expired
# LINGER      all is sent and the peer's FIN is here         DEAD          conn_flush, conn_eof
#             deadline, error                                DEAD          conn_expired, conn_eof
# any         conn.abort(), the server's last deadline       DEAD          conn_abort
# DEAD        the CLOSE event has been consumed              FREE          conn_settle

from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from _uws.clock cimport clock_ms
from _uws.deflate cimport deflate_give
from _uws.errs cimport (
    UWS_E_ARG,
    UWS_E_HTTP_408,
    UWS_E_HTTP_503,
    UWS_E_NOMEM,
    UWS_E_SYS,
    UWS_MORE,
    UWS_OK,
    err_http_status,
)
from _uws.frame cimport UWS_CLOSE_FRAME_BYTES, UWS_OP_PONG, close_frame
from _uws.inbox cimport inbox_drop
from _uws.intern cimport intern_give
from _uws.keeper cimport keeper_wait
from _uws.outq cimport outq_drop, outq_flush, outq_put, outq_put_frame
from _uws.poller cimport EPOLLIN, UWS_TAG_CONN, poll_tag, poller_add, poller_remove
from _uws.post cimport post_drained, post_event, post_nudge, post_ready, side_has_news
from _uws.proto cimport UWS_EV_CLOSE, UWS_EVF_OWNED, proto_reset
from _uws.response cimport UWS_MAX_REFUSAL_BYTES, response_refuse
from _uws.slab cimport slab_give, slab_take
from _uws.slot cimport (
    conn_ending_cause,
    conn_enlist,
    conn_index,
    conn_mute,
    conn_order,
    conn_poll_for,
    conn_reading,
    conn_side,
    conn_told,
    conn_trim,
    conn_unpoll,
    loop_foreign,
    seat_give,
    side_count,
    side_give_request,
    tick_now,
)
from _uws.slow cimport slow_got_on, slow_leave
from _uws.sock cimport sock_end_sending, sock_reset
from _uws.state cimport (
    UWS_C_ABORT,
    UWS_C_CALLBACK,
    UWS_C_CLOSE_TIMEOUT,
    UWS_C_DRAIN,
    UWS_C_IDLE,
    UWS_C_LIFETIME,
    UWS_C_LOCAL,
    UWS_C_LOST,
    UWS_C_SHUTDOWN,
    UWS_F_BUSY,
    UWS_F_CLOSE_DONE,
    UWS_F_CLOSE_OUT,
    UWS_F_COUNTED,
    UWS_F_DIRTY,
    UWS_F_EOF,
    UWS_F_GONE,
    UWS_F_IN_OFF,
    UWS_F_OUT_ON,
    UWS_F_PAUSED,
    UWS_F_PENDING,
    UWS_F_READY,
    UWS_F_SHUT,
    UWS_F_UNPOLLED,
    UWS_M_EXTRA,
    UWS_M_HEARD,
    UWS_M_LISTEN,
    UWS_M_MUTE,
    UWS_M_RESET,
    UWS_M_SAID,
    UWS_PING_WINDOW,
    UWS_S_ASKING,
    UWS_S_CLOSE_SENT,
    UWS_S_DEAD,
    UWS_S_ENDING,
    UWS_S_FREE,
    UWS_S_LINGER,
    UWS_S_OPEN,
    UWS_S_UPGRADING,
    UWS_W_CLOSE,
    UwsExtra,
    UwsSide,
    pthread_cond_broadcast,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)
from _uws.wheel cimport UWS_TICK_MS, wheel_cancel, wheel_set


cdef enum:
    FIN_TIMEOUT_MS = 1000         # for the peer's FIN, when everything has been said
    LAST_WORDS_MS = 1000          # for the replies to messages that came before a close frame


# ---- sending

cdef void conn_dirty(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Something was queued: it leaves at the end of the turn. The caller has made sure of the side block."""
    side_count(l, c.side)
    conn_enlist(l, c)
    post_nudge(l)


cdef void conn_flush_all(UwsLoop* l) noexcept nogil:
    """Send what all connections have queued. Lets go of the lock now and then, for the threads that send."""
    cdef UwsConn* c
    cdef unsigned int done = 0
    while l.dirty_head >= 0:
        c = &l.table[l.dirty_head]
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
        _part(l, c)
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
    while l.kept and c.generation == generation and c.flags & UWS_F_DIRTY and l.rounds == round:
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
                if not (c.marks & UWS_M_SAID) and outq_put_frame(&side.out, &l.slab, UWS_OP_PONG, 0, side.pong,
                                                                 side.pong_len) == UWS_OK:
                    status = outq_flush(&side.out, &l.slab, l.io, conn_index(l, c))
        if status == UWS_E_SYS:
            # What the peer sent before its RST may still be unread: reading finds the end by itself.
            c.flags |= UWS_F_GONE
            outq_drop(&side.out, &l.slab)
            conn_release(l, c)
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
                    _sooner(l, c, side.stuck + l.limits.send_timeout_ms // UWS_TICK_MS + 1)
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
            _drop(l, c)
            return
        if not (c.flags & UWS_F_SHUT):
            # With both close frames exchanged it is for the server to close at once (RFC 6455, section 7.1.1).
            c.flags |= UWS_F_SHUT
            sock_end_sending(conn_index(l, c))
        if c.marks & UWS_M_HEARD or not (c.flags & UWS_F_CLOSE_OUT):
            # Everything has been said, or this never was a WebSocket. There are clients that send a second close
            # frame; an RST in answer would look like a failure to them.
            # So the descriptor stays until their FIN, but not for long.
            _deadline(l, c, min(l.limits.close_timeout_ms, FIN_TIMEOUT_MS))
    conn_trim(l, c)


cdef inline void _deadline(UwsLoop* l, UwsConn* c, uint32_t timeout_ms) noexcept nogil:
    # From now, not from the turn's beginning: a thread that closes a connection may come hours after it. Rounded up,
    # and one more for the tick that is under way: a deadline may be late, never early.
    wheel_set(&l.wheel, conn_index(l, c),
              <uint32_t>((clock_ms() - l.start_ms + timeout_ms + UWS_TICK_MS - 1) // UWS_TICK_MS) + 1)


cdef inline void _sooner(UwsLoop* l, UwsConn* c, uint32_t tick) noexcept nogil:
    """Let the timer run at tick at the latest."""
    if c.link.deadline == 0 or <int32_t>(c.link.deadline - tick) > 0:
        wheel_set(&l.wheel, conn_index(l, c), tick)


cdef void conn_rest(UwsLoop* l, UwsConn* c, uint32_t ticks) noexcept nogil:
    """Do not read an open connection until its timer has looked whether it may be read on."""
    c.flags |= UWS_F_PAUSED
    l.count.pauses += 1
    conn_reading(l, c)
    _sooner(l, c, l.tick + ticks)


cdef inline bint _has_room(const UwsLoop* l, const UwsSide* side) noexcept nogil:
    return side.inbox.bytes < l.limits.max_inbox_bytes and side.inbox.count < l.limits.max_inbox_messages


cdef int conn_hold(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Neither read an open connection nor deliver what it sent, until conn_release(), or until it is not open any more.
    UWS_OK, UWS_E_NOMEM, or UWS_E_ARG where it is over. Where it has ended, and its last messages and the CLOSE event
    are still on their way, it is as if it had been held before: they are delivered."""
    if c.state != UWS_S_OPEN or c.flags & UWS_F_GONE:
        if c.marks & UWS_M_MUTE or c.conn == NULL:
            return UWS_E_ARG
        return UWS_OK if c.state == UWS_S_OPEN or c.flags & UWS_F_CLOSE_OUT else UWS_E_ARG
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
        _sooner(l, c, c.side.pong_at)


# ---- the states

cdef UwsConn* conn_begin(UwsLoop* l, int fd) noexcept nogil:
    """FREE -> UPGRADING for an accepted socket. NULL: epoll or the table has no room; fd is the caller's to close."""
    cdef UwsConn* c
    if <uint32_t>fd >= l.table_cap:
        return NULL
    c = &l.table[fd]
    if poller_add(&l.poller, fd, EPOLLIN, poll_tag(UWS_TAG_CONN, fd)) != UWS_OK:
        return NULL
    c.state = UWS_S_UPGRADING
    if <uint32_t>fd >= l.table_top:
        l.table_top = fd + 1
    l.n_conns += 1
    _deadline(l, c, l.limits.handshake_timeout_ms)
    return c


cdef void conn_upgraded(UwsLoop* l, UwsConn* c) noexcept nogil:
    """UPGRADING or ASKING -> OPEN; the caller has queued the 101."""
    if c.side != NULL:
        side_give_request(l, c.side)
    wheel_cancel(&l.wheel, conn_index(l, c))
    c.state = UWS_S_OPEN
    l.answered[101] += 1
    if c.flags & UWS_F_PAUSED:
        c.flags &= ~UWS_F_PAUSED
        conn_reading(l, c)
    c.flags |= UWS_F_COUNTED
    l.n_open += 1


cdef void conn_ask(UwsLoop* l, UwsConn* c) noexcept nogil:
    """UPGRADING -> ASKING; the caller keeps the request in the side block."""
    c.state = UWS_S_ASKING
    _deadline(l, c, l.limits.request_timeout_ms)


cdef void _answered(UwsLoop* l, UwsConn* c, int http_status) noexcept nogil:
    """UPGRADING or ASKING -> LINGER, behind an HTTP response that is not 101."""
    if c.side != NULL:
        side_give_request(l, c.side)
    c.state = UWS_S_LINGER
    l.answered[http_status] += 1
    if http_status >= 400:
        l.count.refused += 1
    if c.flags & UWS_F_PAUSED:
        c.flags &= ~UWS_F_PAUSED
        conn_reading(l, c)
    _deadline(l, c, l.limits.close_timeout_ms)


cdef void conn_refuse(UwsLoop* l, UwsConn* c, int status) noexcept nogil:
    """Refuse the request (status: UWS_E_HTTP_*). The slot may be free afterwards."""
    cdef uint8_t response[UWS_MAX_REFUSAL_BYTES]
    cdef size_t n = response_refuse(response, sizeof(response), status)
    conn_answer(l, c, err_http_status(status), response, n)


cdef bint conn_answer(UwsLoop* l, UwsConn* c, int http_status, const uint8_t* response,
                      size_t len_bytes) noexcept nogil:
    """Queue a whole HTTP response, behind which the connection ends. False: out of memory, it has ended."""
    cdef UwsSide* side = conn_side(l, c)
    if side == NULL or outq_put(&side.out, &l.slab, response, len_bytes) != UWS_OK:
        conn_eof(l, c, True)
        return False
    _answered(l, c, http_status)
    conn_dirty(l, c)
    return True


cdef int conn_close(UwsLoop* l, UwsConn* c, int cause, uint16_t code, const uint8_t* reason,
                    size_t len_bytes) noexcept nogil:
    """OPEN -> CLOSE_SENT: start the closing handshake (RFC 6455, section 7.1.2). Messages that wait for their callback
    are dropped. A connection that is ENDING gets this close frame instead of the one it would have got. Nothing
    happens in another state. UWS_OK or UWS_E_NOMEM."""
    cdef uint8_t frame[UWS_CLOSE_FRAME_BYTES]
    cdef size_t n
    if c.marks & UWS_M_SAID or (c.state != UWS_S_OPEN and c.state != UWS_S_ENDING):
        return UWS_OK
    n = close_frame(frame, code, reason, len_bytes)
    if conn_side(l, c) == NULL or outq_put(&c.side.out, &l.slab, frame, n) != UWS_OK:
        return UWS_E_NOMEM
    conn_mute(l, c)
    c.marks |= UWS_M_SAID
    conn_dirty(l, c)
    if c.state == UWS_S_ENDING:
        return UWS_OK
    c.state = UWS_S_CLOSE_SENT
    c.proto.spare = <uint8_t>cause
    conn_release(l, c)
    if c.flags & UWS_F_PAUSED:
        # The peer's answer is what we wait for now.
        c.flags &= ~UWS_F_PAUSED
        conn_reading(l, c)
    _deadline(l, c, l.limits.close_timeout_ms)
    return UWS_OK


cdef void conn_leave(UwsLoop* l, UwsConn* c, int cause, uint16_t code, const uint8_t* reason,
                     size_t len_bytes) noexcept nogil:
    """End an open connection for a reason of our own. Where the cause leaves the peer its rights, its messages are
    delivered and answered first, and the close frame leaves behind the answers."""
    if c.flags & UWS_F_PENDING and _keeps_to_protocol(cause):
        conn_end(l, c, cause, code, code, reason, len_bytes)
    elif conn_close(l, c, cause, code, reason, len_bytes) != UWS_OK:
        conn_abort(l, c, cause)


cdef inline bint _keeps_to_protocol(int cause) noexcept nogil:
    """Does the peer's close frame still come, perhaps, though we ended the connection?"""
    return (cause == UWS_C_CALLBACK or cause == UWS_C_SHUTDOWN or cause == UWS_C_IDLE or cause == UWS_C_LIFETIME
            or cause == UWS_C_DRAIN)


cdef void conn_end(UwsLoop* l, UwsConn* c, int cause, uint16_t code, int reply_code,
                   const uint8_t* reason, size_t len_bytes) noexcept nogil:
    """OPEN or CLOSE_SENT -> ENDING: make the CLOSE event, the connection's last.

    The close frame that we owe (reply_code; 0: none) leaves when the event is consumed, behind the replies to the
    messages before it; at once where nothing waits and nobody asks.
    """
    cdef UwsEvent event
    if c.state != UWS_S_OPEN and c.state != UWS_S_CLOSE_SENT:
        return
    conn_release(l, c)
    if c.side != NULL:
        # Whoever waits for on_drain gets on_close.
        c.side.drain_due = 0
    wheel_cancel(&l.wheel, conn_index(l, c))
    if _keeps_to_protocol(cause):
        c.marks |= UWS_M_LISTEN
    else:
        proto_reset(&c.proto, &l.env)
    c.state = UWS_S_ENDING
    if c.flags & UWS_F_COUNTED:
        c.flags &= ~UWS_F_COUNTED
        l.n_open -= 1
        l.count.closed += 1
        l.closed_by[cause] += 1
    memset(&event, 0, sizeof(event))
    event.kind = UWS_EV_CLOSE
    event.cause = <uint8_t>cause
    event.code = code
    if reply_code != 0 and conn_side(l, c) != NULL:
        c.side.reply_code = <uint16_t>reply_code
        # The callbacks of earlier messages may still answer, but a peer that closes is not kept waiting for ever.
        _deadline(l, c, min(l.limits.close_timeout_ms, LAST_WORDS_MS))
    c.flags |= UWS_F_CLOSE_OUT
    if not (l.want & UWS_W_CLOSE) and c.conn == NULL and not (c.flags & UWS_F_PENDING):
        c.flags |= UWS_F_CLOSE_DONE
        conn_goodbye(l, c, &event)
        return
    if len_bytes != 0:
        # reason lives in somebody's buffer; the event outlives it.
        event.data = <uint8_t*>slab_take(&l.slab, len_bytes, NULL)
        if event.data != NULL:
            event.flags |= UWS_EVF_OWNED
            event.len_bytes = len_bytes
            memcpy(event.data, reason, len_bytes)
    if post_event(l, c, &event) == UWS_E_NOMEM:
        # No memory to tell: the connection ends untold, but it ends.
        c.flags |= UWS_F_CLOSE_DONE
        if event.flags & UWS_EVF_OWNED:
            slab_give(&l.slab, event.data)
        conn_goodbye(l, c, &event)


cdef void conn_goodbye(UwsLoop* l, UwsConn* c, const UwsEvent* event) noexcept nogil:
    """ENDING -> LINGER: the messages before the end are dealt with, so say what is left to say.

    event: the CLOSE event; NULL where it is still on its way."""
    cdef uint8_t frame[UWS_CLOSE_FRAME_BYTES]
    cdef const uint8_t* reason = NULL
    cdef size_t n, len_bytes = 0
    if c.state != UWS_S_ENDING:
        return
    c.state = UWS_S_LINGER
    if conn_side(l, c) == NULL:
        _drop(l, c)
        return
    # There is one close frame from each side (section 5.5.1).
    if c.side.reply_code != 0 and not (c.marks & UWS_M_SAID) and not (c.flags & UWS_F_GONE):
        c.marks |= UWS_M_SAID
        if event != NULL and _keeps_to_protocol(event.cause):
            reason = event.data
            len_bytes = event.len_bytes
        n = close_frame(frame, c.side.reply_code, reason, len_bytes)
        if outq_put(&c.side.out, &l.slab, frame, n) != UWS_OK:
            _drop(l, c)
            return
    c.side.reply_code = 0
    c.flags &= ~UWS_F_PAUSED
    conn_reading(l, c)
    _deadline(l, c, l.limits.close_timeout_ms)
    conn_dirty(l, c)


cdef void conn_consumed(UwsLoop* l, UwsConn* c) noexcept nogil:
    """The CLOSE event's callback has returned."""
    c.flags |= UWS_F_CLOSE_DONE
    if c.state == UWS_S_DEAD:
        conn_settle(l, c)


cdef void conn_eof(UwsLoop* l, UwsConn* c, bint gone) noexcept nogil:
    """The peer's FIN, or (gone) an error that ended the transport. What came before it has been read."""
    c.flags |= UWS_F_EOF
    if gone:
        c.flags |= UWS_F_GONE
        conn_unpoll(l, c)
    else:
        conn_reading(l, c)
    if c.state == UWS_S_UPGRADING or c.state == UWS_S_ASKING:
        _drop(l, c)
    elif c.state == UWS_S_OPEN:
        if not gone:
            l.count.half_closed += 1
        conn_end(l, c, UWS_C_LOST, 1006, 0, NULL, 0)
    elif c.state == UWS_S_CLOSE_SENT:
        conn_end(l, c, conn_ending_cause(c), 1006, 0, NULL, 0)
    elif c.state == UWS_S_LINGER:
        if gone or c.side == NULL or c.side.out.head == NULL:
            _drop(l, c)


cdef void conn_abort(UwsLoop* l, UwsConn* c, int cause) noexcept nogil:
    """Any state -> DEAD, with RST and without a word; on_close comes with 1006."""
    if c.state == UWS_S_DEAD:
        return
    conn_mute(l, c)
    conn_end(l, c, cause, 1006, 0, NULL, 0)
    # conn_end may have freed the slot, where nobody waited for the event.
    if c.state != UWS_S_FREE and c.state != UWS_S_DEAD:
        if cause == UWS_C_ABORT:
            c.marks |= UWS_M_RESET
            if not loop_foreign(l):
                sock_reset(conn_index(l, c))
        _drop(l, c)


cdef bint _still_reads(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Does the peer still take what is queued before the end? Then it has not come to our close frame yet, and its time
    to answer has not begun: what was accepted for sending is delivered, however slowly it is read. The slot may be
    free afterwards, and then it does."""
    cdef uint32_t generation = c.generation
    if (c.state != UWS_S_CLOSE_SENT and c.state != UWS_S_LINGER) or not (c.flags & UWS_F_OUT_ON):
        return False
    # epoll does not report room before a third of the kernel's buffer is free.
    conn_flush(l, c)
    if c.generation != generation:
        return True
    if c.flags & UWS_F_OUT_ON and tick_now(l) - c.side.stuck >= l.limits.close_timeout_ms // UWS_TICK_MS:
        return False
    # Where flushing has come to the end it has set the deadline for the peer's FIN.
    if c.link.deadline == 0 and (c.state == UWS_S_CLOSE_SENT or c.state == UWS_S_LINGER):
        _deadline(l, c, l.limits.close_timeout_ms)
    return True


cdef void conn_expired(UwsLoop* l, UwsConn* c) noexcept nogil:
    """The timer of a connection that is not open ran out."""
    if _still_reads(l, c):
        return
    if c.state != UWS_S_ENDING and not (c.state == UWS_S_LINGER and c.marks & UWS_M_HEARD):
        l.count.timeouts += 1
    if c.state == UWS_S_UPGRADING:
        conn_refuse(l, c, UWS_E_HTTP_408)
    elif c.state == UWS_S_ASKING:
        conn_refuse(l, c, UWS_E_HTTP_503)
    elif c.state == UWS_S_CLOSE_SENT:
        conn_abort(l, c, conn_ending_cause(c) if c.proto.spare != UWS_C_LOCAL else UWS_C_CLOSE_TIMEOUT)
    elif c.state == UWS_S_ENDING:
        conn_goodbye(l, c, NULL)
    elif c.state == UWS_S_LINGER:
        _drop(l, c)


cdef void _drop(UwsLoop* l, UwsConn* c) noexcept nogil:
    """-> DEAD: the transport's end. Everything the connection holds goes back, but for events not consumed yet."""
    c.state = UWS_S_DEAD
    c.flags |= UWS_F_GONE | UWS_F_EOF
    wheel_cancel(&l.wheel, conn_index(l, c))
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


cdef void _part(UwsLoop* l, UwsConn* c) noexcept nogil:
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
