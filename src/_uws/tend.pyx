# F5. See tend.pxd.
#
# what                                     its sign                                what we do             cause
# the peer has vanished                    no byte for an interval: ping; then     drop                   PING_TIMEOUT
#                                          none for ping_timeout
# it does not read                         queued bytes without progress for       drop                   SLOW_READER
#                                          send_timeout; or it got on least
#                                          while all queues hold too much
# it says nothing                          no message either way in idle_timeout   close 1001             IDLE
# it is too old                            max_lifetime, +-10 %                    close 1001             LIFETIME
# it is asked to leave, as all are         its share of the drain                  close 1012 or other    DRAIN
# it has not said who it is                auth_timeout                            close 3000            UNAUTHENTICATED
# it is not any more who it was            its credential's expiry                 close 3000             EXPIRED
#
# A request that is late, a close frame that is not answered and a FIN that does not come are life's: they belong to
# other states. All of this goes on while Python is busy.

from libc.stdint cimport int32_t, uint64_t

from _uws.clock cimport clock_ms
from _uws.errs cimport UWS_OK
from _uws.flush cimport conn_dirty, conn_flush, conn_flush_all
from _uws.frame cimport UWS_OP_PING
from _uws.life cimport conn_abort, conn_expired, conn_leave, conn_starve
from _uws.outq cimport outq_put_frame
from _uws.post cimport post_flooded, post_nudge
from _uws.slot cimport (
    UWS_POLL_AGAIN_TICKS,
    conn_extra,
    conn_held,
    conn_index,
    conn_reading,
    conn_side,
    tick_now,
)
from _uws.slow cimport slow_first
from _uws.sock cimport sock_unread, sock_writable
from _uws.state cimport (
    UWS_C_DRAIN,
    UWS_C_EXPIRED,
    UWS_C_IDLE,
    UWS_C_LIFETIME,
    UWS_C_PING_TIMEOUT,
    UWS_C_SLOW_READER,
    UWS_C_UNAUTHENTICATED,
    UWS_F_BUSY,
    UWS_F_EOF,
    UWS_F_OUT_ON,
    UWS_F_PAUSED,
    UWS_F_READY,
    UWS_F_UNPOLLED,
    UWS_FLOODED_TICKS,
    UWS_M_EXTRA,
    UWS_M_MUTE,
    UWS_M_PINGED,
    UWS_M_STRANGER,
    UWS_S_OPEN,
    UwsExtra,
)
from _uws.wheel cimport UWS_TICK_MS, wheel_cancel, wheel_set

cdef enum:
    NEVER = 0x7FFFFFFF            # ticks


cdef inline uint32_t _ticks(uint32_t ms) noexcept nogil:
    return ms // UWS_TICK_MS + 1


cdef uint32_t random_below(UwsLoop* l, uint32_t below) noexcept nogil:
    """A number below below. xorshift64*: to spread timers, for nothing that has to be secret."""
    cdef uint64_t factor = 0x2545F4914F6CDD1D
    cdef uint64_t x = l.rng
    x ^= x >> 12
    x ^= x << 25
    x ^= x >> 27
    l.rng = x
    return <uint32_t>((x * factor >> 32) * below >> 32)


cdef inline uint32_t _about(UwsLoop* l, uint32_t ticks, uint32_t percent) noexcept nogil:
    """ticks, more or less by up to percent: connections that came together do not stay together."""
    cdef uint32_t spread = <uint32_t>(<uint64_t>ticks * percent // 100)
    return ticks - spread + random_below(l, 2 * spread + 1)


cdef inline int32_t _until(uint32_t at, uint32_t now) noexcept nogil:
    """Ticks until at; 0 or less: it is there. The counter wraps after two years."""
    return <int32_t>(at - now)


cdef int32_t _ticks_left(uint64_t at_ms) noexcept nogil:
    """Ticks until the clock shows at_ms, rounded up; 0: it does. For what is further ahead than ticks can be counted,
    as many as can be: the timer that runs out then finds the rest."""
    cdef uint64_t now = clock_ms()
    if at_ms <= now:
        return 0
    return <int32_t>min((at_ms - now) // UWS_TICK_MS + 1, <uint64_t>NEVER - 1)


cdef bint _leave(UwsLoop* l, UwsConn* c, int cause) noexcept nogil:
    conn_leave(l, c, cause)
    return True


cdef bint _terms_end(UwsLoop* l, UwsConn* c, uint32_t now, int32_t* wait) noexcept nogil:
    """The deadlines of the row beside the slot. True: one of them is over, and so is the connection."""
    cdef UwsExtra* x = &l.extra[conn_index(l, c)]
    cdef uint32_t idle
    cdef int32_t left
    if x.expires_ms != 0:
        left = _ticks_left(x.expires_ms)
        if left <= 0:
            return _leave(l, c, UWS_C_UNAUTHENTICATED if c.marks & UWS_M_STRANGER else UWS_C_EXPIRED)
        wait[0] = min(wait[0], left)
    if x.ends != 0:
        if _until(x.ends, now) <= 0:
            return _leave(l, c, UWS_C_DRAIN if l.draining else UWS_C_LIFETIME)
        wait[0] = min(wait[0], _until(x.ends, now))
    if l.limits.idle_timeout_ms != 0:
        idle = x.spoke + _ticks(l.limits.idle_timeout_ms)
        if _until(idle, now) <= 0:
            return _leave(l, c, UWS_C_IDLE)
        wait[0] = min(wait[0], _until(idle, now))
    return False


cdef bint _stuck(UwsLoop* l, UwsConn* c, uint32_t now, int32_t* wait) noexcept nogil:
    """A queue that does not drain. True: for too long, and the connection is over."""
    cdef uint32_t limit = _ticks(l.limits.send_timeout_ms)
    if _until(c.side.stuck + limit, now) <= 0:
        # We may have been asleep ourselves, and the kernel may have room by now.
        conn_flush(l, c)
        if c.state != UWS_S_OPEN:
            return True
        if c.flags & UWS_F_OUT_ON and _until(c.side.stuck + limit, now) <= 0:
            conn_abort(l, c, UWS_C_SLOW_READER)
            return True
    if c.flags & UWS_F_OUT_ON:
        wait[0] = min(wait[0], _until(c.side.stuck + limit, now))
    return False


cdef bint _vanished(UwsLoop* l, UwsConn* c, uint32_t now, int32_t* wait) noexcept nogil:
    """Ping who has been silent. True: it was pinged, is silent still, and the connection is over."""
    cdef uint32_t interval = _ticks(l.limits.ping_interval_ms)
    cdef uint32_t patience = _ticks(l.limits.ping_timeout_ms)
    if c.flags & UWS_F_PAUSED:
        # It is we who do not listen.
        c.marks &= ~UWS_M_PINGED
        c.proto.heard = now
    elif c.flags & UWS_F_OUT_ON and _until(c.side.stuck, c.proto.heard) > 0:
        # It reads, if slowly: that is life too, and a ping would only line up behind.
        c.marks &= ~UWS_M_PINGED
        c.proto.heard = c.side.stuck
    if c.marks & UWS_M_PINGED:
        if _until(c.proto.heard + patience, now) > 0:
            wait[0] = min(wait[0], _until(c.proto.heard + patience, now))
            return False
        if not sock_unread(conn_index(l, c)):
            conn_abort(l, c, UWS_C_PING_TIMEOUT)
            return True
        # Its answer is there; we have not come to reading it.
        c.marks &= ~UWS_M_PINGED
        c.proto.heard = now
    elif now - c.proto.heard >= interval - interval // 5 and not (c.flags & UWS_F_OUT_ON):
        if conn_side(l, c) != NULL and outq_put_frame(&c.side.out, &l.slab, UWS_OP_PING, 0, NULL, 0) == UWS_OK:
            conn_dirty(l, c)
            c.marks |= UWS_M_PINGED
            # From here on it counts the patience, and any byte that comes ends it.
            c.proto.heard = now
            l.count.pings_out += 1
            # Where pings come more often than answers are waited for, the next one is not late.
            wait[0] = min(wait[0], <int32_t>min(patience, interval))
            return False
    wait[0] = min(wait[0], max(_until(c.proto.heard + _about(l, interval, 20), now), 1))
    return False


cdef void _look(UwsLoop* l, UwsConn* c, uint32_t now) noexcept nogil:
    """Do what is due, and set the timer to what comes next."""
    cdef int32_t wait = NEVER
    if c.marks & UWS_M_MUTE:
        # An event of it has been lost for want of memory (post_lost): nothing else mutes one that stays open.
        conn_starve(l, c)
        return
    if c.side != NULL and c.side.pong_at != 0:
        wait = _until(c.side.pong_at, now)
        if wait <= 0:
            # There were too many pings; a new second has begun, and the newest of them is answered.
            wait = NEVER
            c.side.pong_at = 0
            conn_dirty(l, c)
    if c.marks & UWS_M_EXTRA and _terms_end(l, c, now, &wait):
        return
    if c.flags & UWS_F_PAUSED and not (c.flags & UWS_F_READY) and not conn_held(c) \
            and not (c.flags & UWS_F_BUSY and c.side != NULL and c.side.inbox.head != NULL):
        # Nothing of it waits to be delivered: it is for others that it is not read. Its callback may wait for more.
        if post_flooded(l):
            wait = min(wait, UWS_FLOODED_TICKS)
        else:
            c.flags &= ~UWS_F_PAUSED
            conn_reading(l, c)
    if c.flags & UWS_F_UNPOLLED and not (c.flags & (UWS_F_PAUSED | UWS_F_EOF)):
        # epoll had no memory to take it in again.
        conn_reading(l, c)
        if c.flags & UWS_F_UNPOLLED:
            wait = min(wait, UWS_POLL_AGAIN_TICKS)
    if c.flags & UWS_F_OUT_ON and l.limits.send_timeout_ms != 0 and _stuck(l, c, now, &wait):
        return
    if l.limits.ping_interval_ms != 0 and _vanished(l, c, now, &wait):
        return
    if wait == NEVER:
        wheel_cancel(&l.wheel, conn_index(l, c))
    else:
        wheel_set(&l.wheel, conn_index(l, c), now + <uint32_t>wait)


cdef void conn_timer(UwsLoop* l, UwsConn* c) noexcept nogil:
    """The connection's timer ran out. The slot may be free afterwards."""
    if c.state == UWS_S_OPEN:
        _look(l, c, l.tick)
    else:
        conn_expired(l, c)


cdef void tend_queues(UwsLoop* l) noexcept nogil:
    """What waits for all peers together is more than it may be: they are dropped until it is below seven eighths, who
    has not got on for longest first. Lets go of the lock now and then; any slot may be free afterwards."""
    cdef UwsConn* c
    cdef size_t had
    # What has not been offered to the kernel yet is nobody's fault.
    conn_flush_all(l)
    if l.out_bytes <= l.limits.max_out_bytes:
        return
    while l.out_bytes > l.limits.max_out_bytes - l.limits.max_out_bytes // 8:
        c = slow_first(l)
        if c == NULL:
            return
        if sock_writable(conn_index(l, c)):
            # Whoever polls has been away, and the kernel has room by now.
            had = c.side.out.bytes
            conn_flush(l, c)
            if c.side == NULL or c.side.out.bytes < had:
                continue
        l.count.overload_closed += 1
        conn_abort(l, c, UWS_C_SLOW_READER)


cdef void conn_tended(UwsLoop* l, UwsConn* c) noexcept nogil:
    """A connection is open now: set its deadlines."""
    cdef uint32_t now = tick_now(l)
    cdef UwsExtra* x
    c.proto.heard = now
    if l.limits.max_lifetime_ms != 0 or l.limits.idle_timeout_ms != 0:
        x = conn_extra(l, c)
        x.spoke = now
        if l.limits.max_lifetime_ms != 0:
            x.ends = now + _about(l, _ticks(l.limits.max_lifetime_ms), 10)
    _look(l, c, now)


cdef inline void _no_later(UwsLoop* l, UwsConn* c, uint32_t tick) noexcept nogil:
    """Let the timer of an open connection run at tick at the latest; where it is over, its timer is for its end."""
    if c.state == UWS_S_OPEN and (c.link.deadline == 0 or _until(c.link.deadline, tick) > 0):
        wheel_set(&l.wheel, conn_index(l, c), tick)


cdef void conn_expires_in(UwsLoop* l, UwsConn* c, uint64_t timeout_ms) noexcept nogil:
    """Close c after timeout_ms, from now and not from the turn's beginning; 0: it does not expire."""
    cdef UwsExtra* x
    if timeout_ms == 0:
        if c.marks & UWS_M_EXTRA:
            l.extra[conn_index(l, c)].expires_ms = 0
        return
    x = conn_extra(l, c)
    x.expires_ms = clock_ms() + timeout_ms
    _no_later(l, c, tick_now(l) + <uint32_t>_ticks_left(x.expires_ms))
    # Any thread may say so, while the one that polls sleeps until the timers that it knew.
    post_nudge(l)


cdef void conn_leaves_at(UwsLoop* l, UwsConn* c, uint32_t tick) noexcept nogil:
    """The loop drains: c's turn to leave is at tick, or before, where it would not have lived as long anyway."""
    cdef UwsExtra* x = conn_extra(l, c)
    if tick == 0:
        tick = 1    # 0 is none
    if x.ends == 0 or _until(x.ends, tick) > 0:
        x.ends = tick
    _no_later(l, c, x.ends)
