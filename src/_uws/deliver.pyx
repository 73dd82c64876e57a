# F5. See deliver.pxd.

from libc.stdint cimport uint8_t
from libc.string cimport memset
from posix.time cimport timespec

from _uws.clock cimport clock_spec, clock_us
from _uws.errs cimport UWS_OK
from _uws.hold cimport conn_come_back
from _uws.inbox cimport inbox_put_back, inbox_take, note_give
from _uws.life cimport conn_left
from _uws.post cimport (
    post_apart,
    post_call,
    post_lost,
    post_pop_apart,
    post_pop_ready,
    post_ready,
    post_to_inbox,
    side_has_news,
    side_opens,
)
from _uws.proto cimport (
    UWS_EV_DRAIN,
    UWS_EV_FRAGMENT,
    UWS_EV_MESSAGE,
    UWS_EV_OPEN,
    UWS_EV_PONG,
    UWS_EV_RECALL,
    UWS_EVF_OWNED,
)
from _uws.settle cimport conn_settle
from _uws.slab cimport slab_give, slab_is_tense
from _uws.slot cimport (
    conn_at,
    conn_blocks,
    conn_extra,
    conn_held,
    conn_index,
    conn_reading,
    conn_side,
    conn_takes,
    conn_trim,
    loop_nudge,
)
from _uws.state cimport (
    UWS_F_BUSY,
    UWS_F_PAUSED,
    UWS_F_PENDING,
    UWS_F_READY,
    UWS_HELD_RECALLED,
    UWS_HELD_SUSPENDED,
    UWS_M_MUTE,
    UWS_O_RUNNER,
    UWS_S_DEAD,
    UWS_S_LEAVING,
    UWS_S_OPEN,
    UwsConn,
    UwsExtra,
    UwsSide,
    pthread_cond_signal,
    pthread_cond_t,
    pthread_mutex_t,
)

cdef extern from "pthread.h" nogil:
    int pthread_cond_timedwait(pthread_cond_t*, pthread_mutex_t*, const timespec*)


cdef UwsConn* _next_ready(UwsLoop* l, const UwsDelivery* d) noexcept nogil:
    """Whose inbox comes next; NULL: nobody's.

    Connections whose callbacks block are for runners that do not have the role, while another has it: then whoever
    takes one keeps nobody from being served. While no runner has the role, who comes takes what is quick and then
    the role."""
    cdef UwsConn* c = NULL
    cdef bint alone = l.runners <= 1
    if l.n_apart != 0 and not alone and l.owner == UWS_O_RUNNER and not (l.away and l.away_seq == d.role):
        c = post_pop_apart(l)
        post_call(l)
        return c
    c = post_pop_ready(l)
    return post_pop_apart(l) if c == NULL and alone else c


cdef bint deliver_begin(UwsLoop* l, UwsBatch* b, UwsDelivery* d) noexcept nogil:
    """Take the next connection's events: first from the runner's own batch, then from the connections that are ready.
    False: there is nothing to deliver, or nothing that is this runner's business."""
    cdef UwsEvent* event
    cdef UwsConn* c
    d.own = b
    b.blamed_us = 0
    d.note = NULL
    d.event = NULL
    while b.taken < b.n:
        event = &b.events[b.taken]
        d.first = b.taken
        d.end = d.first + 1
        while d.end < b.n and b.events[d.end].index == event.index and b.events[d.end].generation == event.generation:
            d.end += 1
        c = conn_at(l, event.index, event.generation)
        if c == NULL or c.flags & (UWS_F_BUSY | UWS_F_READY) or (conn_held(c) and event.kind != UWS_EV_OPEN) \
                or post_apart(l, c):
            # Earlier events of it are still being delivered, or wait, or it is paused: these line up behind them. Or
            # it is another runner's, since these were put here.
            while b.taken < d.end:
                event = &b.events[b.taken]
                b.taken += 1
                if c == NULL or post_to_inbox(l, c, event) != UWS_OK:
                    post_lost(l, c, event)
            continue
        b.taken = d.end
        d.batch = b
        d.at = d.first
        d.index = event.index
        d.generation = event.generation
        if conn_blocks(l, c):
            d.began_us = clock_us()
        c.flags |= UWS_F_BUSY
        deliver_look(l, d)
        l.taken_seq += 1
        return True
    c = _next_ready(l, d)
    if c == NULL:
        return False
    if conn_blocks(l, c):
        d.began_us = clock_us()
    d.batch = NULL
    d.first = d.at = d.end = 0
    d.notes_left = UWS_DELIVER_NOTES
    d.index = conn_index(l, c)
    d.generation = c.generation
    c.flags |= UWS_F_BUSY
    deliver_look(l, d)
    l.taken_seq += 1
    return True


cdef void deliver_look(UwsLoop* l, UwsDelivery* d) noexcept nogil:
    """Find out whether the connection has been muted or paused."""
    cdef const UwsConn* c = conn_at(l, d.index, d.generation)
    d.orders = l.orders
    d.is_held = c != NULL and conn_held(c)
    d.is_muted = c != NULL and (c.marks & UWS_M_MUTE) != 0


cdef void _next_note(UwsLoop* l, UwsDelivery* d, UwsConn* c) noexcept nogil:
    """Let d.note be the inbox's oldest event; NULL when it is empty. The one before goes back."""
    if d.note != NULL:
        note_give(d.note, &l.slab)
        d.note = NULL
    if c.side != NULL:
        d.note = inbox_take(&c.side.inbox)
    if d.note != NULL:
        d.event = &d.note.event
        l.inbox_bytes -= d.event.len_bytes
        l.inbox_count -= 1
        l.taken_seq += 1


cdef inline UwsEvent* _bare(UwsDelivery* d, int kind) noexcept nogil:
    """An event that is in no inbox, and takes no memory."""
    memset(&d.bare, 0, sizeof(d.bare))
    d.bare.kind = <uint8_t>kind
    d.event = &d.bare
    return d.event


cdef UwsEvent* deliver_next_note(UwsLoop* l, UwsDelivery* d) noexcept nogil:
    """The inbox's next event for a delivery that began with it; NULL at its end, or when it is others' turn."""
    cdef UwsConn* c = conn_at(l, d.index, d.generation)
    if d.batch != NULL or c == NULL or c.side == NULL or not side_has_news(c.side) or d.notes_left == 0:
        return NULL
    d.notes_left -= 1
    if c.side.held == UWS_HELD_RECALLED:
        conn_come_back(l, c)
        return _bare(d, UWS_EV_RECALL)
    if c.side.drain_due and not side_opens(c.side):
        c.side.drain_due = 0
        return _bare(d, UWS_EV_DRAIN)
    _next_note(l, d, c)
    return d.event if d.note != NULL else NULL


cdef bint deliver_held(UwsLoop* l, UwsDelivery* d) noexcept nogil:
    """Where the connection has been paused, put what is left of the span back to the front of its inbox. True: that
    was it."""
    cdef UwsConn* c = conn_at(l, d.index, d.generation)
    cdef UwsEvent* event
    if c == NULL or not conn_held(c) or (d.at < d.end and d.batch.events[d.at].kind == UWS_EV_OPEN):
        return False
    while d.at < d.end:
        d.end -= 1
        event = &d.batch.events[d.end]
        if inbox_put_back(&c.side.inbox, &l.slab, event) == UWS_OK:
            l.inbox_bytes += event.len_bytes
            l.inbox_count += 1
        else:
            post_lost(l, c, event)
    return True


cdef void _learn(UwsLoop* l, const UwsDelivery* d, UwsConn* c) noexcept nogil:
    """The delivery cost its runner the role, or the connection is known for such: do its callbacks block?

    Many short ones in a row do not, however long they take together: an eighth of the timeout each is not short."""
    cdef uint64_t calls = <uint64_t>(d.at - d.first) if d.batch != NULL else UWS_DELIVER_NOTES - d.notes_left
    cdef uint64_t since_us = d.own.blamed_us if d.own.blamed_us != 0 else d.began_us
    cdef uint64_t took_us = clock_us() - since_us, timeout_us = l.limits.schedule_timeout_us
    cdef bint blocked = took_us >= timeout_us and 8 * took_us >= calls * timeout_us
    cdef UwsExtra* extra
    d.own.blamed_us = 0
    if blocked and l.runners > 1:
        extra = conn_extra(l, c)
        if extra.blocks == 0:
            l.blockers += 1
        extra.blocks = UWS_QUICK_ENOUGH
    elif not blocked and conn_blocks(l, c):
        extra = conn_extra(l, c)
        extra.blocks -= 1
        if extra.blocks == 0:
            l.blockers -= 1


cdef inline void _ease_later(UwsLoop* l) noexcept nogil:
    """Have the thread that sleeps in epoll find out that there is memory to be given back in a while."""
    if l.ease_at_ms == 0 and slab_is_tense(&l.slab):
        loop_nudge(l)


cdef bint _goes_on(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Callbacks of c, which is not open any more, have returned. True: it may be free now."""
    if c.state == UWS_S_DEAD:
        conn_settle(l, c)
        return True
    if c.state == UWS_S_LEAVING and not (c.flags & UWS_F_PENDING):
        conn_left(l, c)
        return True
    return False


cdef void deliver_done(UwsLoop* l, UwsDelivery* d) noexcept nogil:
    """The delivery's callbacks have returned: its payloads go back, and the connection may be taken again."""
    cdef UwsConn* c = conn_at(l, d.index, d.generation)
    cdef int i
    if d.note != NULL:
        note_give(d.note, &l.slab)
        d.note = NULL
    for i in range(d.first, d.end):
        if d.batch.events[i].flags & UWS_EVF_OWNED:
            slab_give(&l.slab, d.batch.events[i].data)
    d.event = NULL
    if c == NULL:
        _ease_later(l)
        return
    if d.own.blamed_us != 0 or conn_blocks(l, c):
        _learn(l, d, c)
    c.flags &= ~UWS_F_BUSY
    if c.side != NULL and (c.side.inbox.head != NULL or c.side.held == UWS_HELD_SUSPENDED or side_has_news(c.side)):
        if side_has_news(c.side):
            post_ready(l, c)
    else:
        c.flags &= ~UWS_F_PENDING
    if c.flags & UWS_F_PAUSED and (c.side == NULL or (not c.side.held
                                                      and c.side.inbox.bytes <= l.limits.max_inbox_bytes >> 1
                                                      and c.side.inbox.count <= l.limits.max_inbox_messages >> 1)):
        c.flags &= ~UWS_F_PAUSED
        conn_reading(l, c)
    if c.state != UWS_S_OPEN and _goes_on(l, c):
        _ease_later(l)
        return
    conn_trim(l, c)
    _ease_later(l)


cdef inline void _going_to_block(UwsLoop* l, uint64_t role) noexcept nogil:
    """The caller is the poller that went away to run this callback: let another poll at once, not after a timeout."""
    if l.owner == UWS_O_RUNNER and l.away and l.away_seq == role:
        l.yield_now = 1
        pthread_cond_signal(&l.dog_cond)


cdef inline bint _is_read(const UwsEvent* event) noexcept nogil:
    """Whether a callback reads it: a message, or a piece of one that is streamed."""
    return event.kind == UWS_EV_MESSAGE or event.kind == UWS_EV_FRAGMENT


cdef int deliver_wait(UwsLoop* l, UwsDelivery* d, uint64_t timeout_us) noexcept nogil:
    """Let d.event be the connection's next message, or piece of one, and wait for it if need be. A CLOSE is left where
    it is."""
    cdef UwsConn* c
    cdef UwsSide* side
    cdef uint64_t deadline = clock_us() + timeout_us
    cdef timespec until
    while d.at < d.end and d.batch.events[d.at].kind == UWS_EV_PONG:
        # Who is in the middle of reading has no use for it.
        deliver_next(d)
    if d.at < d.end:
        if not _is_read(&d.batch.events[d.at]):
            return UWS_WAITED_CLOSED
        deliver_next(d)
        return UWS_WAITED
    while True:
        c = conn_at(l, d.index, d.generation)
        if c == NULL or c.marks & UWS_M_MUTE:
            return UWS_WAITED_CLOSED
        side = c.side
        while side != NULL and side.inbox.head != NULL and side.inbox.head.event.kind == UWS_EV_PONG:
            _next_note(l, d, c)
        if side != NULL and side.inbox.head != NULL:
            if not _is_read(&side.inbox.head.event):
                return UWS_WAITED_CLOSED
            _next_note(l, d, c)
            if c.flags & UWS_F_PAUSED and side.inbox.head == NULL and not side.held:
                c.flags &= ~UWS_F_PAUSED
                conn_reading(l, c)
            return UWS_WAITED
        if c.state != UWS_S_OPEN:
            return UWS_WAITED_CLOSED
        if c.flags & UWS_F_PAUSED and not conn_held(c):
            # Its inbox was full of pongs, which nobody reads, and is empty now.
            c.flags &= ~UWS_F_PAUSED
            conn_reading(l, c)
        if timeout_us == 0 or clock_us() >= deadline:
            return UWS_WAITED_TIMEOUT
        side = conn_side(l, c)
        if side == NULL:
            return UWS_WAITED_NOMEM
        side.waiters += 1
        _going_to_block(l, d.role)
        until = clock_spec(deadline)
        pthread_cond_timedwait(&l.wait_cond, &l.lock, &until)
        # BUSY keeps the slot, waiters the side block.
        c.side.waiters -= 1


cdef int deliver_wait_room(UwsLoop* l, int32_t index, uint32_t generation, uint64_t role,
                           uint64_t deadline_us) noexcept nogil:
    """Wait until the send queue is below its limit: then it takes a message whole, however long."""
    cdef UwsConn* c
    cdef UwsSide* side
    cdef timespec until
    while True:
        c = conn_at(l, index, generation)
        if not conn_takes(c):
            return UWS_WAITED_CLOSED
        side = c.side
        if side == NULL or side.out.bytes < l.limits.max_buffered_bytes:
            return UWS_WAITED
        if clock_us() >= deadline_us:
            return UWS_WAITED_TIMEOUT
        side.waiters += 1
        _going_to_block(l, role)
        until = clock_spec(deadline_us)
        pthread_cond_timedwait(&l.wait_cond, &l.lock, &until)
        side.waiters -= 1
        if c.state == UWS_S_DEAD:
            conn_settle(l, c)
            return UWS_WAITED_CLOSED
