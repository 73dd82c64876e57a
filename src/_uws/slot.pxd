# F5. One slot of the connection table: finding it, its side block, what epoll is asked for on its behalf.
# Owns the side block. Everything is called with the loop's lock held.

from libc.stdint cimport int32_t, uint32_t

from _uws.atomic cimport atomic_write
from _uws.clock cimport clock_ms
from _uws.proto cimport UWS_EV_CLOSE
from _uws.state cimport (
    UWS_C_LOCAL,
    UWS_F_BUSY,
    UWS_F_CLOSE_DONE,
    UWS_F_CLOSE_OUT,
    UWS_F_DIRTY,
    UWS_F_GONE,
    UWS_F_UNPOLLED,
    UWS_M_EXTRA,
    UWS_M_MUTE,
    UWS_M_SAID,
    UWS_S_DEAD,
    UWS_S_ENDING,
    UWS_S_FREE,
    UWS_S_LEAVING,
    UWS_S_LINGER,
    UWS_S_OPEN,
    UwsConn,
    UwsExtra,
    UwsLoop,
    UwsSide,
    pthread_t,
)
from _uws.wheel cimport UWS_TICK_MS, wheel_set

cdef extern from * nogil:
    cdef enum:
        __ATOMIC_RELAXED
    uint32_t __atomic_add_fetch(uint32_t*, uint32_t, int)
    uint32_t __atomic_sub_fetch(uint32_t*, uint32_t, int)


cdef extern from "pthread.h" nogil:
    pthread_t pthread_self()


cdef inline bint loop_foreign(const UwsLoop* l) noexcept nogil:
    """Are the descriptors of the loop's connections in another thread's table? Then here their numbers mean nothing, or
    somebody else's files."""
    return l.limits.private_fds and pthread_self() != l.keeper


cdef inline void loop_nudge(UwsLoop* l) noexcept nogil:
    """Let the thread that waits in epoll come back, once however often it is asked: there is something for it."""
    if l.polling and not l.woken:
        loop_wake(l)


cdef inline void conn_enlist(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Put c on the list of those that have something to flush; it has a side block."""
    cdef int32_t index = conn_index(l, c)
    if not (c.flags & UWS_F_DIRTY):
        c.flags |= UWS_F_DIRTY
        c.side.dirty_next = -1
        if l.dirty_head < 0:
            l.dirty_head = index
        else:
            l.table[l.dirty_tail].side.dirty_next = index
        l.dirty_tail = index


cdef inline int32_t conn_index(const UwsLoop* l, const UwsConn* c) noexcept nogil:
    return <int32_t>(c - l.table)


cdef inline void conn_deadline(UwsLoop* l, UwsConn* c, uint32_t timeout_ms) noexcept nogil:
    """Let the timer run in timeout_ms, and not before."""
    # From now, not from the turn's beginning: a thread that closes a connection may come hours after it. Rounded up,
    # and one more for the tick that is under way: a deadline may be late, never early.
    wheel_set(&l.wheel, conn_index(l, c),
              <uint32_t>((clock_ms() - l.start_ms + timeout_ms + UWS_TICK_MS - 1) // UWS_TICK_MS) + 1)


cdef inline void conn_sooner(UwsLoop* l, UwsConn* c, uint32_t tick) noexcept nogil:
    """Let the timer run at tick at the latest."""
    if c.link.deadline == 0 or <int32_t>(c.link.deadline - tick) > 0:
        wheel_set(&l.wheel, conn_index(l, c), tick)


cdef inline UwsConn* conn_at(UwsLoop* l, int32_t index, uint32_t generation) noexcept nogil:
    """The connection that a handle means; NULL when it is over, whoever has its descriptor now. An index of -1 means
    none any more."""
    cdef UwsConn* c
    if index < 0 or l.forked:
        return NULL
    c = &l.table[index]
    if c.generation != generation or c.state == UWS_S_FREE:
        return NULL
    return c


cdef inline bint conn_takes(const UwsConn* c) noexcept nogil:
    """May a frame still be queued? Also while the end waits for the replies to the messages before it."""
    return (c != NULL and (c.state == UWS_S_OPEN or c.state == UWS_S_ENDING or c.state == UWS_S_LEAVING)
            and not (c.flags & UWS_F_GONE) and not (c.marks & UWS_M_SAID))


cdef inline bint conn_tells(const UwsConn* c) noexcept nogil:
    """Is there more to tell of it: is it open, or has its client ended it and on_close is still to come? What we end
    ourselves and do not deliver to its end is muted."""
    return (c != NULL and not (c.marks & UWS_M_MUTE) and not (c.flags & UWS_F_CLOSE_DONE)
            and (c.state == UWS_S_OPEN or c.state == UWS_S_LEAVING or c.flags & UWS_F_CLOSE_OUT))


cdef inline bint conn_awaits(const UwsConn* c) noexcept nogil:
    """Is its client there, or may something wait that it sent before it left? One that is not read is out of the epoll
    set when both directions are shut. What a runner still has of a connection that was suspended just now comes to the
    inbox when its callback has returned."""
    if not conn_tells(c):
        return False
    if not (c.flags & (UWS_F_CLOSE_OUT | UWS_F_UNPOLLED)) or c.flags & UWS_F_BUSY or c.side == NULL:
        return True
    if c.side.inbox.head != NULL:
        return c.side.inbox.head.event.kind != UWS_EV_CLOSE
    return not (c.flags & UWS_F_CLOSE_OUT) and not c.side.is_drained


cdef inline void conn_order(UwsLoop* l) noexcept nogil:
    """A connection has been muted, held, or let go on: a runner at work on it sees that before its next callback."""
    atomic_write(&l.orders, l.orders + 1)


cdef inline void conn_mute(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Let what has not been delivered of it be dropped."""
    c.marks |= UWS_M_MUTE
    conn_order(l)


cdef inline bint conn_held(const UwsConn* c) noexcept nogil:
    """Has the application paused it, or suspended its callbacks?"""
    return c.side != NULL and c.side.held != 0


cdef inline bint conn_blocks(const UwsLoop* l, const UwsConn* c) noexcept nogil:
    """Have callbacks of it taken longer than a schedule timeout lately?"""
    return l.blockers != 0 and c.marks & UWS_M_EXTRA and l.extra[conn_index(l, c)].blocks != 0

cdef inline bint conn_heavy(const UwsLoop* l, const UwsConn* c) noexcept nogil:
    return c.marks & UWS_M_EXTRA and l.extra[conn_index(l, c)].heavy != 0


cdef inline void side_count(UwsLoop* l, UwsSide* side) noexcept nogil:
    """Its queue has become longer or shorter: bring what all hold together in line."""
    l.out_bytes += side.out.bytes - side.counted
    side.counted = side.out.bytes


cdef inline int conn_ending_cause(const UwsConn* c) noexcept nogil:
    """Why we sent a close frame: CLOSE_SENT keeps it where OPEN counts pings."""
    return c.proto.spare if c.proto.spare != 0 else UWS_C_LOCAL


cdef inline bint conn_untold(const UwsConn* c) noexcept nogil:
    """Is it over, and was there no memory to say so (post_untold)?"""
    return c.flags & UWS_F_CLOSE_OUT and c.proto.spare != 0 and \
        (c.state == UWS_S_ENDING or c.state == UWS_S_LINGER or c.state == UWS_S_DEAD)


cdef inline bint seat_take(UwsLoop* l) noexcept nogil:
    """Is there room for one more connection, below max_connections? Then the caller has a seat, to be given back."""
    cdef uint32_t most = l.limits.max_connections
    if l.crowd == NULL:
        return most == 0 or l.n_conns < most
    # Taken before it is looked at: of two loops that come for the last one, one gets it.
    if __atomic_add_fetch(l.crowd, 1, __ATOMIC_RELAXED) <= most or most == 0:
        return True
    seat_give(l)
    return False


cdef inline void seat_give(UwsLoop* l) noexcept nogil:
    if l.crowd != NULL:
        __atomic_sub_fetch(l.crowd, 1, __ATOMIC_RELAXED)


cdef inline uint32_t tick_now(UwsLoop* l) noexcept nogil:
    """The current tick, for those who cannot know that a turn is under way; UwsLoop.tick may be hours old."""
    l.tick = <uint32_t>((clock_ms() - l.start_ms) // UWS_TICK_MS)
    return l.tick


cdef enum:
    UWS_POLL_AGAIN_TICKS = 4      # after which epoll is asked again to take in a connection for which it had no memory


cdef void loop_wake(UwsLoop* l) noexcept nogil
cdef UwsSide* conn_side(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_told(UwsLoop* l, UwsConn* c) noexcept nogil
cdef UwsExtra* conn_extra(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_trim(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void side_give_request(UwsLoop* l, UwsSide* side) noexcept nogil
cdef void conn_poll_for(UwsLoop* l, UwsConn* c, bint reading, bint writing) noexcept nogil
cdef void conn_reading(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_unpoll(UwsLoop* l, UwsConn* c) noexcept nogil
