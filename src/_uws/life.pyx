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
# OPEN        conn.close(), a deadline, a drain; close frame CLOSE_SENT    conn_close, conn_leave
#             a deadline, a drain; messages of it wait       LEAVING       conn_leave
#             close frame, broken rule, EOF, error           ENDING        conn_end
# LEAVING     these are dealt with, or take too long         CLOSE_SENT    conn_left, conn_expired
#             conn.close(), its credential's end             CLOSE_SENT    conn_close
#             close frame, broken rule, EOF, error           ENDING        conn_end
# CLOSE_SENT  the peer's close frame, EOF, error             ENDING        conn_end
#             deadline                                       DEAD          conn_expired
# ENDING      the CLOSE event reaches its callback           LINGER        conn_goodbye
#             (at once where nobody waits for it)
#             the replies before it take too long            LINGER        conn_expired
#             there was no memory for the CLOSE event        LINGER        conn_expired
# LINGER      all is sent and the peer's FIN is here         DEAD          conn_flush, conn_eof
#             deadline, error                                DEAD          conn_expired, conn_eof
# any         conn.abort(), the server's last deadline       DEAD          conn_abort
# DEAD        the CLOSE event has been consumed              FREE          conn_settle
#             there was no memory for the CLOSE event        DEAD          conn_expired, which tries again

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, memset, strlen

from _uws.clock cimport clock_unix_s
from _uws.date cimport UWS_DATE_LINE_BYTES, date_line
from _uws.errs cimport UWS_E_HTTP_408, UWS_E_HTTP_503, UWS_E_NOMEM, UWS_OK, err_http_status
from _uws.flush cimport conn_dirty, conn_flush
from _uws.frame cimport UWS_CLOSE_FRAME_BYTES, UWS_OP_CLOSE, close_frame
from _uws.hold cimport conn_release
from _uws.outq cimport outq_put, outq_put_frame
from _uws.poller cimport EPOLLIN, UWS_TAG_CONN, poll_tag, poller_add
from _uws.post cimport post_event, post_nudge, post_untold
from _uws.proto cimport UWS_EVF_OWNED, UWS_EV_CLOSE, UwsEvent, proto_reset
from _uws.response cimport UWS_MAX_REFUSAL_BYTES, response_refuse
from _uws.settle cimport conn_drop, conn_settle
from _uws.slab cimport slab_give, slab_take
from _uws.slot cimport (
    conn_deadline,
    conn_ending_cause,
    conn_extra,
    conn_index,
    conn_mute,
    conn_reading,
    conn_side,
    conn_sooner,
    conn_unpoll,
    conn_untold,
    loop_foreign,
    side_give_request,
    tick_now,
)
from _uws.sock cimport sock_reset
from _uws.state cimport (
    UWS_C_ABORT,
    UWS_C_CALLBACK,
    UWS_C_CLOSE_TIMEOUT,
    UWS_C_DRAIN,
    UWS_C_EXPIRED,
    UWS_C_IDLE,
    UWS_C_LIFETIME,
    UWS_C_LOCAL,
    UWS_C_LOST,
    UWS_C_MEMORY,
    UWS_C_REVOKED,
    UWS_C_SHUTDOWN,
    UWS_C_UNAUTHENTICATED,
    UWS_F_CLOSE_DONE,
    UWS_F_CLOSE_OUT,
    UWS_F_COUNTED,
    UWS_F_EOF,
    UWS_F_GONE,
    UWS_F_OUT_ON,
    UWS_F_PAUSED,
    UWS_F_PENDING,
    UWS_M_EXTRA,
    UWS_M_HEARD,
    UWS_M_LISTEN,
    UWS_M_RESET,
    UWS_M_SAID,
    UWS_S_ASKING,
    UWS_S_CLOSE_SENT,
    UWS_S_DEAD,
    UWS_S_ENDING,
    UWS_S_FREE,
    UWS_S_LEAVING,
    UWS_S_LINGER,
    UWS_S_OPEN,
    UWS_S_UPGRADING,
    UWS_W_CLOSE,
    UwsExtra,
    UwsSide,
)
from _uws.wheel cimport UWS_TICK_MS, wheel_cancel


cdef enum:
    LAST_WORDS_MS = 1000          # for the replies to messages that came before a close frame
    PACE_BYTES = 4096             # in a second: who reads more slowly what is queued at the end does not get all of it
    GOING_AWAY = 1001
    INTERNAL_ERROR = 1011
    UNAUTHORIZED = 3000           # registered with IANA beside those of RFC 6455, section 7.4.2


cdef UwsConn* conn_begin(UwsLoop* l, int fd) noexcept nogil:
    """FREE -> UPGRADING for an accepted socket. NULL: epoll or the table has no room; fd is the caller's to close."""
    cdef UwsConn* c
    if <uint32_t>fd >= l.table_cap:
        return NULL
    c = &l.table[fd]
    if poller_add(&l.poller, fd, EPOLLIN, poll_tag(UWS_TAG_CONN, fd, c.generation)) != UWS_OK:
        return NULL
    c.state = UWS_S_UPGRADING
    if <uint32_t>fd >= l.table_top:
        l.table_top = fd + 1
    l.n_conns += 1
    conn_deadline(l, c, l.limits.handshake_timeout_ms)
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
    conn_deadline(l, c, l.limits.request_timeout_ms)


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
    conn_deadline(l, c, l.limits.close_timeout_ms)


cdef void conn_refuse(UwsLoop* l, UwsConn* c, int status) noexcept nogil:
    """Refuse the request (status: UWS_E_HTTP_*). The slot may be free afterwards."""
    cdef uint8_t response[UWS_MAX_REFUSAL_BYTES]
    cdef size_t n = response_refuse(response, sizeof(response), status)
    conn_answer(l, c, err_http_status(status), response, n, False)


cdef bint _put_response(UwsLoop* l, UwsSide* side, const uint8_t* response, size_t len_bytes,
                        bint is_dated) noexcept nogil:
    """Queue a response, with a Date behind its first line (RFC 9110, section 6.6.1). False: out of memory."""
    cdef uint8_t date[UWS_DATE_LINE_BYTES]
    cdef const uint8_t* end = NULL
    cdef size_t first
    if not is_dated:
        end = <const uint8_t*>memchr(response, c'\n', len_bytes)
    if end != NULL:
        first = <size_t>(end - response) + 1
        date_line(clock_unix_s(), date)
        if (outq_put(&side.out, &l.slab, response, first) != UWS_OK
                or outq_put(&side.out, &l.slab, date, UWS_DATE_LINE_BYTES) != UWS_OK):
            return False
        response += first
        len_bytes -= first
    return outq_put(&side.out, &l.slab, response, len_bytes) == UWS_OK


cdef bint conn_answer(UwsLoop* l, UwsConn* c, int http_status, const uint8_t* response,
                      size_t len_bytes, bint is_dated) noexcept nogil:
    """Queue a whole HTTP response, behind which the connection ends. is_dated: it has a Date; one that has none gets
    it. False: out of memory, it has ended."""
    cdef UwsSide* side = conn_side(l, c)
    if side == NULL or not _put_response(l, side, response, len_bytes, is_dated):
        conn_eof(l, c, True)
        return False
    _answered(l, c, http_status)
    conn_dirty(l, c)
    return True


# ---- how long the end may take

cdef inline bint _is_distrusted(int cause) noexcept nogil:
    """Is the peer not, or not any more, who it has to be?"""
    return cause == UWS_C_REVOKED or cause == UWS_C_EXPIRED or cause == UWS_C_UNAUTHENTICATED


cdef inline uint32_t _ticks(uint64_t ms) noexcept nogil:
    return <uint32_t>min(ms // UWS_TICK_MS + 2, <uint64_t>1 << 30)


cdef inline void _forget_term(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Its lifetime does not count any more."""
    if c.marks & UWS_M_EXTRA and (c.state == UWS_S_OPEN or c.state == UWS_S_LEAVING):
        l.extra[conn_index(l, c)].ends = 0


cdef void _ends_in(UwsLoop* l, UwsConn* c, uint64_t ms) noexcept nogil:
    """Whatever the peer still reads, and however often it gets on: it is over in ms, or when it would have been."""
    cdef UwsExtra* x = conn_extra(l, c)
    cdef uint32_t tick = tick_now(l) + _ticks(ms)
    if x.ends == 0 or <int32_t>(x.ends - tick) > 0:
        x.ends = tick if tick != 0 else 1


cdef void _wait(UwsLoop* l, UwsConn* c, uint32_t timeout_ms) noexcept nogil:
    """Let the timer run in timeout_ms, or when it is over."""
    conn_deadline(l, c, timeout_ms)
    if c.marks & UWS_M_EXTRA and l.extra[conn_index(l, c)].ends != 0:
        conn_sooner(l, c, l.extra[conn_index(l, c)].ends)


cdef inline bint _is_over(UwsLoop* l, const UwsConn* c) noexcept nogil:
    return (c.marks & UWS_M_EXTRA and l.extra[conn_index(l, c)].ends != 0
            and <int32_t>(l.extra[conn_index(l, c)].ends - tick_now(l)) <= 0)


cdef void _distrust(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Let c get no message any more: what the kernel does not take at once is dropped, but for the rest of a frame that
    has begun, and the end takes no longer for being read slowly. What it sent is dropped, too."""
    conn_mute(l, c)
    _ends_in(l, c, l.limits.close_timeout_ms)
    if c.side != NULL and c.side.out.head != NULL:
        c.side.is_cut = 1
        conn_dirty(l, c)
    if c.link.deadline != 0:
        conn_sooner(l, c, l.extra[conn_index(l, c)].ends)
        post_nudge(l)


# ---- closing

cdef int _put_close(UwsLoop* l, UwsConn* c, uint16_t code, const uint8_t* reason, size_t len_bytes) noexcept nogil:
    """Queue a close frame; the caller has made sure of the side block. UWS_OK or UWS_E_NOMEM."""
    cdef uint8_t frame[UWS_CLOSE_FRAME_BYTES]
    cdef size_t n = close_frame(frame, code, reason, len_bytes)
    # A frame among frames, from behind its header of two bytes: those before it can still be told apart, and dropped.
    return outq_put_frame(&c.side.out, &l.slab, UWS_OP_CLOSE, 0, frame + 2, n - 2)


cdef int _say_close(UwsLoop* l, UwsConn* c, int cause, uint16_t code, const uint8_t* reason,
                    size_t len_bytes) noexcept nogil:
    """Queue our close frame, and await the peer's where it has not come. UWS_OK or UWS_E_NOMEM."""
    if conn_side(l, c) == NULL or _put_close(l, c, code, reason, len_bytes) != UWS_OK:
        return UWS_E_NOMEM
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
    _wait(l, c, l.limits.close_timeout_ms)
    return UWS_OK


cdef int conn_close(UwsLoop* l, UwsConn* c, int cause, uint16_t code, const uint8_t* reason,
                    size_t len_bytes) noexcept nogil:
    """OPEN or LEAVING -> CLOSE_SENT: start the closing handshake (RFC 6455, section 7.1.2). Messages that wait for
    their callback are dropped. A connection that is ENDING gets this close frame instead of the one it would have got.
    Nothing happens in another state, but that a peer which is distrusted gets no message any more in any. UWS_OK or
    UWS_E_NOMEM."""
    cdef int status
    if c.marks & UWS_M_SAID or (c.state != UWS_S_OPEN and c.state != UWS_S_LEAVING and c.state != UWS_S_ENDING):
        if _is_distrusted(cause) and (c.state == UWS_S_CLOSE_SENT or c.state == UWS_S_LINGER
                                      or c.state == UWS_S_ENDING):
            _distrust(l, c)
        return UWS_OK
    _forget_term(l, c)
    status = _say_close(l, c, cause, code, reason, len_bytes)
    if _is_distrusted(cause):
        if status == UWS_OK:
            _distrust(l, c)
        else:
            # Rather without a word than not at all.
            conn_abort(l, c, cause)
        return UWS_OK
    if status == UWS_OK:
        conn_mute(l, c)
    return status


cdef size_t conn_words(UwsLoop* l, int cause, uint16_t* code, const uint8_t** reason) noexcept nogil:
    """What the close frame says where the engine ends an open connection for cause, one of conn_leave()'s: its code and
    reason. Returns the reason's length; code is 0 for another cause."""
    cdef const char* text = b""
    code[0] = 0
    if cause == UWS_C_SHUTDOWN:
        code[0] = l.stop_code
        reason[0] = l.stop_reason
        return l.stop_reason_len
    if cause == UWS_C_DRAIN:
        code[0] = l.drain_code
    elif cause == UWS_C_IDLE:
        code[0] = GOING_AWAY
        text = b"idle"
    elif cause == UWS_C_LIFETIME:
        code[0] = GOING_AWAY
        text = b"maximum lifetime"
    elif cause == UWS_C_EXPIRED:
        code[0] = UNAUTHORIZED
        text = b"credential expired"
    elif cause == UWS_C_UNAUTHENTICATED:
        code[0] = UNAUTHORIZED
        text = b"authentication timeout"
    reason[0] = <const uint8_t*>text
    return strlen(text)


cdef void conn_leave(UwsLoop* l, UwsConn* c, int cause) noexcept nogil:
    """End an open connection for a reason of our own. Unless the peer is distrusted, its messages are delivered and
    answered first, and the close frame leaves behind the answers."""
    cdef const uint8_t* reason = NULL
    cdef uint16_t code = 0
    cdef size_t n
    if c.flags & UWS_F_PENDING and not _is_distrusted(cause):
        _forget_term(l, c)
        c.state = UWS_S_LEAVING
        c.proto.spare = <uint8_t>cause
        conn_release(l, c)
        conn_deadline(l, c, min(l.limits.close_timeout_ms, LAST_WORDS_MS))
        post_nudge(l)
        return
    n = conn_words(l, cause, &code, &reason)
    if conn_close(l, c, cause, code, reason, n) != UWS_OK:
        conn_abort(l, c, cause)


cdef void conn_left(UwsLoop* l, UwsConn* c) noexcept nogil:
    """LEAVING -> CLOSE_SENT: the messages before the end are dealt with, or take too long; then they are delivered all
    the same, and not answered."""
    cdef const uint8_t* reason = NULL
    cdef uint16_t code = 0
    cdef int cause = c.proto.spare
    cdef size_t n = conn_words(l, cause, &code, &reason)
    if _say_close(l, c, cause, code, reason, n) != UWS_OK:
        conn_abort(l, c, cause)


cdef void conn_raised(UwsLoop* l, UwsConn* c) noexcept nogil:
    """A callback of c has raised: its messages are dropped, and the peer is told 1011, also where its close frame has
    been read before: what came before that has not been dealt with. Where we end it already, and say why, that stands:
    SystemExit stops the server first, and whoever raised it is told 1001 like all others."""
    conn_mute(l, c)
    if c.state == UWS_S_OPEN:
        conn_end(l, c, UWS_C_CALLBACK, INTERNAL_ERROR, INTERNAL_ERROR, NULL, 0)
    elif c.state == UWS_S_ENDING and c.marks & UWS_M_HEARD and c.side != NULL and c.side.reply_code != 0:
        c.side.reply_code = INTERNAL_ERROR


cdef inline void _close_event(UwsEvent* event, int cause, uint16_t code) noexcept nogil:
    memset(event, 0, sizeof(UwsEvent))
    event.kind = UWS_EV_CLOSE
    event.cause = <uint8_t>cause
    event.code = code


cdef void conn_end(UwsLoop* l, UwsConn* c, int cause, uint16_t code, int reply_code,
                   const uint8_t* reason, size_t len_bytes) noexcept nogil:
    """OPEN, LEAVING or CLOSE_SENT -> ENDING: make the CLOSE event, the connection's last.

    code, reason: of the peer's close frame, or the code that we fail the connection with; 1006: there is neither. The
    close frame that we owe (reply_code; 0: none) leaves when the event is consumed, behind the replies to the
    messages before it; at once where nothing waits and nobody asks.
    """
    cdef UwsEvent event
    if c.state != UWS_S_OPEN and c.state != UWS_S_LEAVING and c.state != UWS_S_CLOSE_SENT:
        return
    _forget_term(l, c)
    conn_release(l, c)
    if c.side != NULL:
        # Whoever waits for on_drain gets on_close.
        c.side.drain_due = 0
    wheel_cancel(&l.wheel, conn_index(l, c))
    if cause == UWS_C_CALLBACK:
        # The peer keeps to the protocol: its close frame comes, perhaps.
        c.marks |= UWS_M_LISTEN
    else:
        proto_reset(&c.proto, &l.env)
    c.state = UWS_S_ENDING
    # From here on this is post_untold's; and the code is here for who uses the connection before it is told of its end.
    c.proto.spare = 0
    c.proto.heard = code
    if c.flags & UWS_F_COUNTED:
        c.flags &= ~UWS_F_COUNTED
        l.n_open -= 1
        l.count.closed += 1
        l.closed_by[cause] += 1
        if l.draining and l.n_open == 0:
            # It may be another thread that ends the last one, and the poller sleeps until the drain's end.
            post_nudge(l)
    _close_event(&event, cause, code)
    if reply_code != 0 and conn_side(l, c) != NULL:
        c.side.reply_code = <uint16_t>reply_code
        c.side.pong_waits = 0
        c.side.control_len = <uint8_t>len_bytes
        if len_bytes != 0:
            memcpy(c.side.control, reason, len_bytes)
        # The callbacks of earlier messages may still answer, but a peer that closes is not kept waiting for ever. Where
        # one of them has raised, its thread says so, while the one that polls sleeps until the timers that it knew.
        _wait(l, c, min(l.limits.close_timeout_ms, LAST_WORDS_MS))
        post_nudge(l)
    c.flags |= UWS_F_CLOSE_OUT
    if not (l.want & UWS_W_CLOSE) and c.conn == NULL and not (c.flags & UWS_F_PENDING):
        c.flags |= UWS_F_CLOSE_DONE
        conn_goodbye(l, c)
        return
    if len_bytes != 0:
        # reason lives in somebody's buffer; the event outlives it.
        event.data = <uint8_t*>slab_take(&l.slab, len_bytes, NULL)
        if event.data != NULL:
            event.flags |= UWS_EVF_OWNED
            event.len_bytes = len_bytes
            memcpy(event.data, reason, len_bytes)
    if post_event(l, c, &event) == UWS_E_NOMEM:
        if event.flags & UWS_EVF_OWNED:
            slab_give(&l.slab, event.data)
        post_untold(l, c, cause, code)


cdef void conn_starve(UwsLoop* l, UwsConn* c) noexcept nogil:
    """There is no memory to deal with what c sent, or with c: rather an end than a peer that waits for its answer."""
    conn_end(l, c, UWS_C_MEMORY, INTERNAL_ERROR, INTERNAL_ERROR, NULL, 0)


cdef void _tell_again(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Make the CLOSE event of c, which is DEAD, for which there was no memory. The slot may be free afterwards."""
    cdef UwsEvent event
    if not conn_untold(c):
        conn_settle(l, c)
        return
    _close_event(&event, c.proto.spare, <uint16_t>c.proto.heard)
    c.proto.spare = 0
    if post_event(l, c, &event) != UWS_OK:
        post_untold(l, c, event.cause, event.code)


cdef void conn_goodbye(UwsLoop* l, UwsConn* c) noexcept nogil:
    """ENDING -> LINGER: the messages before the end are dealt with, or take too long, so say what is left to say."""
    if c.state != UWS_S_ENDING:
        return
    c.state = UWS_S_LINGER
    if conn_side(l, c) == NULL:
        conn_drop(l, c)
        return
    # There is one close frame from each side (section 5.5.1).
    if c.side.reply_code != 0 and not (c.marks & UWS_M_SAID) and not (c.flags & UWS_F_GONE):
        c.marks |= UWS_M_SAID
        if _put_close(l, c, c.side.reply_code, NULL, 0) != UWS_OK:
            conn_drop(l, c)
            return
    if c.flags & UWS_F_CLOSE_DONE:
        c.side.reply_code = 0
    c.flags &= ~UWS_F_PAUSED
    conn_reading(l, c)
    _wait(l, c, l.limits.close_timeout_ms)
    conn_dirty(l, c)


cdef void conn_consumed(UwsLoop* l, UwsConn* c) noexcept nogil:
    """The CLOSE event's callback has returned."""
    c.flags |= UWS_F_CLOSE_DONE
    if c.side != NULL:
        # It has kept the peer's words until now.
        c.side.reply_code = 0
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
        conn_drop(l, c)
    elif c.state == UWS_S_OPEN or c.state == UWS_S_LEAVING:
        if not gone:
            l.count.half_closed += 1
        conn_end(l, c, UWS_C_LOST, 1006, 0, NULL, 0)
    elif c.state == UWS_S_CLOSE_SENT:
        conn_end(l, c, conn_ending_cause(c), 1006, 0, NULL, 0)
    elif c.state == UWS_S_LINGER:
        if gone or c.side == NULL or c.side.out.head == NULL:
            conn_drop(l, c)


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
        conn_drop(l, c)


cdef bint _still_reads(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Does the peer still take what is queued before the end? Then it has not come to our close frame yet, and its time
    to answer has not begun: what was accepted for sending is delivered, though it is read slowly, but for at less than
    PACE_BYTES a second. The slot may be free afterwards, and then it does."""
    cdef uint32_t generation = c.generation
    if (c.state != UWS_S_CLOSE_SENT and c.state != UWS_S_LINGER) or not (c.flags & UWS_F_OUT_ON):
        return False
    # epoll does not report room before a third of the kernel's buffer is free.
    conn_flush(l, c)
    if c.generation != generation:
        return True
    if c.flags & UWS_F_OUT_ON and tick_now(l) - c.side.stuck >= l.limits.close_timeout_ms // UWS_TICK_MS:
        return False
    if _is_over(l, c):
        return False
    if c.flags & UWS_F_OUT_ON and conn_extra(l, c).ends == 0:
        _ends_in(l, c, l.limits.close_timeout_ms + <uint64_t>c.side.out.bytes * 1000 // PACE_BYTES)
    # Where flushing has come to the end it has set the deadline for the peer's FIN.
    if c.link.deadline == 0 and (c.state == UWS_S_CLOSE_SENT or c.state == UWS_S_LINGER):
        _wait(l, c, l.limits.close_timeout_ms)
    return True


cdef void conn_expired(UwsLoop* l, UwsConn* c) noexcept nogil:
    """The timer of a connection that is not open ran out."""
    if c.state == UWS_S_DEAD:
        _tell_again(l, c)
        return
    if _still_reads(l, c):
        return
    if c.state != UWS_S_LEAVING and c.state != UWS_S_ENDING \
            and not (c.state == UWS_S_LINGER and c.marks & UWS_M_HEARD):
        l.count.timeouts += 1
    if c.state == UWS_S_UPGRADING:
        conn_refuse(l, c, UWS_E_HTTP_408)
    elif c.state == UWS_S_ASKING:
        conn_refuse(l, c, UWS_E_HTTP_503)
    elif c.state == UWS_S_LEAVING:
        conn_left(l, c)
    elif c.state == UWS_S_CLOSE_SENT:
        conn_end(l, c, conn_ending_cause(c) if c.proto.spare != UWS_C_LOCAL else UWS_C_CLOSE_TIMEOUT, 1006, 0, NULL, 0)
        # conn_end may have freed the slot, where nobody waited for the event.
        if c.state != UWS_S_FREE and c.state != UWS_S_DEAD:
            conn_drop(l, c)
    elif c.state == UWS_S_ENDING:
        conn_goodbye(l, c)
    elif c.state == UWS_S_LINGER:
        conn_drop(l, c)
