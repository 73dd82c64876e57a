# F5. See post.pxd.

from libc.stdint cimport int32_t, uint8_t, uint16_t

from _uws.errs cimport UWS_E_NOMEM, UWS_OK
from _uws.inbox cimport inbox_put
from _uws.proto cimport UWS_EV_CLOSE, UWS_EV_PONG, UWS_EVF_OWNED
from _uws.slab cimport slab_give
from _uws.slot cimport conn_at, conn_index, conn_mute, conn_reading, conn_side, conn_sooner
from _uws.state cimport (
    UWS_BATCH_EVENTS,
    UWS_F_BUSY,
    UWS_F_CLOSE_DONE,
    UWS_F_PAUSED,
    UWS_F_PENDING,
    UWS_F_READY,
    UWS_HELD_SUSPENDED,
    UWS_S_ASKING,
    UWS_S_LINGER,
    UWS_S_OPEN,
    UWS_W_DRAIN,
    UwsBatch,
    UwsSide,
    pthread_cond_broadcast,
    pthread_cond_signal,
)
from _uws.wheel cimport wheel_set

cdef enum:
    UNTOLD_TICKS = 8              # after which telling is tried again: an eighth of a second


cdef void post_wake_parked(UwsLoop* l) noexcept nogil:
    """Let one parked runner go on. One at a time: the next one when this one has come and gets nowhere either."""
    if l.wake_parked == 0 and l.parked != 0:
        l.wake_parked = 1
        pthread_cond_signal(&l.park_cond)


cdef void post_call(UwsLoop* l) noexcept nogil:
    """See that a runner comes for those that are kept apart. With one on the way to the GIL it is left to that one to
    call the next."""
    if l.n_apart != 0 and (l.gil_waiters == 0 or l.lanes > 1):
        post_wake_parked(l)


cdef inline void _append(UwsLoop* l, UwsConn* c, int32_t* head, int32_t* tail) noexcept nogil:
    c.side.ready_next = -1
    if tail[0] >= 0:
        l.table[tail[0]].side.ready_next = conn_index(l, c)
    else:
        head[0] = conn_index(l, c)
    tail[0] = conn_index(l, c)


cdef inline UwsConn* _pop(UwsLoop* l, int32_t* head, int32_t* tail) noexcept nogil:
    cdef UwsConn* c
    if head[0] < 0:
        return NULL
    c = &l.table[head[0]]
    head[0] = c.side.ready_next
    if head[0] < 0:
        tail[0] = -1
    l.n_ready -= 1
    c.flags &= ~UWS_F_READY
    return c


cdef void post_ready(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Put c at the end of its ready list; it has a side block. The poller comes for it, or calls who does."""
    if c.flags & UWS_F_READY:
        return
    c.flags |= UWS_F_READY
    if post_apart(l, c):
        _append(l, c, &l.apart_head, &l.apart_tail)
        l.n_apart += 1
    else:
        _append(l, c, &l.ready_head, &l.ready_tail)
    l.n_ready += 1
    post_nudge(l)


cdef UwsConn* post_pop_ready(UwsLoop* l) noexcept nogil:
    """The connection that has been ready for longest; NULL when there is none."""
    return _pop(l, &l.ready_head, &l.ready_tail)


cdef UwsConn* post_pop_apart(UwsLoop* l) noexcept nogil:
    """The same of those that are kept apart."""
    cdef UwsConn* c = _pop(l, &l.apart_head, &l.apart_tail)
    if c != NULL:
        l.n_apart -= 1
    return c


cdef int post_to_inbox(UwsLoop* l, UwsConn* c, UwsEvent* event) noexcept nogil:
    """Append an event to c's inbox, and see that somebody comes for it: UWS_OK or UWS_E_NOMEM."""
    cdef UwsSide* side = conn_side(l, c)
    if side == NULL or inbox_put(&side.inbox, &l.slab, event) != UWS_OK:
        return UWS_E_NOMEM
    l.inbox_bytes += event.len_bytes
    l.inbox_count += 1
    if not (c.flags & UWS_F_BUSY):
        if side_has_news(side):
            post_ready(l, c)
    elif side.waiters != 0:
        pthread_cond_broadcast(&l.wait_cond)
    if not (c.flags & UWS_F_PAUSED) and (side.inbox.bytes >= l.limits.max_inbox_bytes
                                         or side.inbox.count >= l.limits.max_inbox_messages
                                         or post_flooded(l)):
        # Its callbacks do not keep up: the rest waits in the kernel, and in the end in the client.
        c.flags |= UWS_F_PAUSED
        l.count.pauses += 1
        conn_reading(l, c)
    return UWS_OK


cdef int post_event(UwsLoop* l, UwsConn* c, UwsEvent* event) noexcept nogil:
    """Send one event of c on its way. What it owns goes along; other payload is in the batch's arena.

    Returns UWS_OK, or UWS_E_NOMEM: the event is still the caller's."""
    cdef UwsBatch* b
    event.index = conn_index(l, c)
    event.generation = c.generation
    if l.batch != NULL and l.batch.n >= UWS_BATCH_EVENTS:
        post_spill(l)
    b = l.batch
    if b == NULL or b.n >= UWS_BATCH_EVENTS or c.flags & (UWS_F_BUSY | UWS_F_READY) \
            or (c.side != NULL and c.side.inbox.head != NULL) or post_apart(l, c):
        if post_to_inbox(l, c, event) != UWS_OK:
            return UWS_E_NOMEM
    else:
        b.events[b.n] = event[0]
        b.n += 1
        post_nudge(l)
    c.flags |= UWS_F_PENDING
    return UWS_OK


cdef void post_drained(UwsLoop* l, UwsConn* c) noexcept nogil:
    """A queue that was above the high mark is down to the low one: on_drain is called, once, and takes no memory to
    be remembered. It does not line up behind messages: an application that has paused the connection until then, or
    is busy with one of them, would wait for ever."""
    c.side.high = 0
    l.count.drained += 1
    if c.state != UWS_S_OPEN or not (l.want & UWS_W_DRAIN):
        return
    c.side.drain_due = 1
    # Where its events are in a batch they keep their place there: whoever has delivered them finds this.
    if not (c.flags & UWS_F_BUSY) and (c.side.inbox.head != NULL or not (c.flags & UWS_F_PENDING)
                                       or c.side.held == UWS_HELD_SUSPENDED):
        post_ready(l, c)
    c.flags |= UWS_F_PENDING


cdef void post_spill(UwsLoop* l) noexcept nogil:
    """Move what is left in the batch to the inboxes, in order: any thread may take it from there."""
    cdef UwsBatch* b = l.batch
    cdef UwsEvent* event
    cdef UwsConn* c
    while b.taken < b.n:
        event = &b.events[b.taken]
        b.taken += 1
        c = conn_at(l, event.index, event.generation)
        if c == NULL or post_to_inbox(l, c, event) != UWS_OK:
            post_lost(l, c, event)


cdef void post_lost(UwsLoop* l, UwsConn* c, UwsEvent* event) noexcept nogil:
    """An event that cannot be delivered: the connection is over (c is NULL) or memory is."""
    if event.flags & UWS_EVF_OWNED:
        slab_give(&l.slab, event.data)
    if c == NULL or event.kind == UWS_EV_PONG:
        # Who waits for a pong does so in vain, and the connection is none the worse.
        return
    if event.kind == UWS_EV_CLOSE:
        post_untold(l, c, event.cause, event.code)
        return
    # A message is missing now, so none behind it may be delivered, and the connection ends for it: at the next tick, by
    # its timer. A request that Python was to be asked about is answered then, as if Python had been too slow.
    conn_mute(l, c)
    if c.state == UWS_S_OPEN or c.state == UWS_S_ASKING:
        wheel_set(&l.wheel, conn_index(l, c), l.wheel.now + 1)
        post_nudge(l)


cdef void post_untold(UwsLoop* l, UwsConn* c, int cause, uint16_t code) noexcept nogil:
    """There is no memory to tell that a connection, which is ENDING or beyond, is over. on_close comes for each, so
    what it is to say is kept in the slot, in members that nobody needs any more, and when it is DEAD its timer tries
    again, as long as it takes. The peer is not kept waiting for that."""
    if l.stopping and l.stop_at_ms == 0:
        # The server's last deadline is over: rather an end that nobody hears of than a server without one.
        c.flags |= UWS_F_CLOSE_DONE
        cause = 0
    c.proto.spare = <uint8_t>cause
    c.proto.heard = code
    if c.state != UWS_S_LINGER:
        conn_sooner(l, c, l.wheel.now + UNTOLD_TICKS)
        post_nudge(l)
