# See simrules_shim.pxd.

from libc.stdint cimport int32_t, uint32_t, uint64_t

from _uws.loop cimport loop_next_ms
from _uws.memory cimport memory_left
from _uws.post cimport post_near
from _uws.state cimport (
    UWS_F_BUSY,
    UWS_F_COUNTED,
    UWS_F_DIRTY,
    UWS_F_EOF,
    UWS_F_GONE,
    UWS_F_OUT_ON,
    UWS_F_PAUSED,
    UWS_F_READY,
    UWS_O_RUNNER,
    UWS_S_ASKING,
    UWS_S_CLOSE_SENT,
    UWS_S_ENDING,
    UWS_S_FREE,
    UWS_S_LEAVING,
    UWS_S_LINGER,
    UWS_S_OPEN,
    UWS_S_UPGRADING,
    UWS_W_CLOSE,
    UWS_W_OPEN,
    UwsChunk,
    UwsConn,
)

from uws_shims.simkernel cimport SIM_BASE, SIM_FDS
from uws_shims.simpeer_shim cimport NAMED_NOT, PEER_LONGEST_BYTES, PEER_MESSAGES, Peer
from uws_shims.simworld cimport World

cdef enum:
    TWO_READS_BYTES = 2 * (65536 + PEER_LONGEST_BYTES)
    # A client that compresses may say all that it ever says in one read.
    ALL_BYTES = PEER_MESSAGES * PEER_LONGEST_BYTES
    QUEUE_SLACK_BYTES = 40000     # a message beyond the limit, pongs, two close frames, the 101
    CUT_BYTES = PEER_LONGEST_BYTES + 1024     # the rest of one message, the 101, a close frame


cdef inline bint _waits_for_nothing(const UwsConn* c, const Peer* p) noexcept nogil:
    """It is open and paused: will nothing ever let it go on? What waits in its inbox would, and the callback that runs,
    if it does not wait for a message itself, its timer, or the application that has paused it."""
    if c.state != UWS_S_OPEN or c.flags & UWS_F_READY or c.link.deadline != 0:
        return False
    if c.flags & UWS_F_BUSY and not p.awaited:
        return False
    return c.side == NULL or (not c.side.held and c.side.inbox.head == NULL)


cdef void rules_asleep(World* w, uint64_t until_us) noexcept nogil:
    """The poller sleeps, nothing is ready: there must be nothing that it ought to do, nor before it wakes up."""
    cdef UwsConn* c
    cdef int i, due_ms = loop_next_ms(&w.l)
    if due_ms >= 0 and until_us > w.k.now() + <uint64_t>due_ms * 1000 + 1000:
        w.k.fail("it sleeps, and its next timer runs in %d ms", due_ms)
    if w.l.dirty_head >= 0:
        w.k.fail("it sleeps, and descriptor %d has something to flush", w.l.dirty_head)
    if w.l.owner == UWS_O_RUNNER and post_near(&w.l) != 0:
        w.k.fail("it sleeps, and %u connections have something to deliver", post_near(&w.l))
    if w.l.stopping and w.l.n_conns == 0:
        w.k.fail("it sleeps, and has nobody to wait for")
    for i in range(SIM_BASE, SIM_BASE + SIM_FDS):
        c = &w.l.table[i]
        if c.state == UWS_S_FREE or c.flags & UWS_F_EOF or w.weather.no_watch != 0:
            continue
        if w.k.kept(i) != 0 and not (c.flags & UWS_F_PAUSED):
            w.k.fail("it sleeps, and descriptor %d, which is not paused, has something to read", i)
        if not (c.flags & UWS_F_GONE) and c.side != NULL and c.side.out.bytes != 0 and w.k.takes(i):
            w.k.fail("it sleeps, and descriptor %d has room for what is queued", i)
        if c.flags & UWS_F_PAUSED and _waits_for_nothing(c, &w.peer[w.k.owner(i)]):
            w.k.fail("descriptor %d is paused for nothing", i)


cdef size_t _queued(const UwsChunk* chunk) noexcept nogil:
    cdef size_t n = 0
    while chunk != NULL:
        n += chunk.end - chunk.begin
        chunk = chunk.next
    return n


cdef void rules_between_turns(World* w) noexcept nogil:
    """Between two turns: what is counted is what is there, and no more than it may be."""
    cdef UwsConn* c
    cdef size_t inbox = 0, notes = 0, out = 0
    cdef uint32_t conns = 0, opened = 0, timers = 0, ready = 0, behind = 0
    cdef int i
    cdef int32_t at
    for i in range(SIM_BASE, SIM_BASE + SIM_FDS):
        c = &w.l.table[i]
        if c.state == UWS_S_FREE:
            if c.side != NULL or c.flags != 0 or c.marks != 0 or c.link.deadline != 0 or c.proto.part != NULL:
                w.k.fail("descriptor %d is free, and not empty", i)
            continue
        conns += 1
        opened += c.flags & UWS_F_COUNTED != 0
        timers += c.link.deadline != 0
        ready += c.flags & UWS_F_READY != 0
        if c.link.deadline != 0 and <int32_t>(c.link.deadline - w.l.wheel.now) <= 0:
            w.k.fail("descriptor %d has a timer for tick %u, and it is %u", i, c.link.deadline, w.l.wheel.now)
        if c.link.deadline == 0 and (c.state == UWS_S_UPGRADING or c.state == UWS_S_ASKING
                                     or c.state == UWS_S_CLOSE_SENT or c.state == UWS_S_LINGER
                                     or c.state == UWS_S_LEAVING):
            w.k.fail("descriptor %d is in state %u without a deadline", i, c.state)
        if c.side == NULL:
            continue
        inbox += c.side.inbox.bytes
        notes += c.side.inbox.count
        out += c.side.counted
        behind += c.side.behind
        if c.side.out.bytes != _queued(c.side.out.head):
            w.k.fail("descriptor %d: %zu bytes are queued, %zu are counted", i, _queued(c.side.out.head),
                     c.side.out.bytes)
        if c.side.is_cut:
            if not (c.flags & UWS_F_DIRTY) and c.side.out.bytes > CUT_BYTES:
                w.k.fail("descriptor %d: %zu bytes are queued for who is not trusted", i, c.side.out.bytes)
            if c.link.deadline != 0 and c.flags & UWS_F_OUT_ON and c.state != UWS_S_ENDING \
                    and <int32_t>(c.link.deadline - w.l.extra[i].ends) > 0:
                w.k.fail("descriptor %d: who is not trusted stays until tick %u, and not %u", i, c.link.deadline,
                         w.l.extra[i].ends)
        if c.side.out.bytes > w.l.limits.max_buffered_bytes + QUEUE_SLACK_BYTES:
            w.k.fail("descriptor %d: %zu bytes are queued", i, c.side.out.bytes)
        if c.side.inbox.bytes > w.l.limits.max_inbox_bytes + TWO_READS_BYTES + ALL_BYTES * w.l.limits.deflate.enabled:
            w.k.fail("descriptor %d: %zu bytes wait", i, c.side.inbox.bytes)
    if conns != w.l.n_conns or opened != w.l.n_open:
        w.k.fail("%u connections, %u open; counted: %u, %u", conns, opened, w.l.n_conns, w.l.n_open)
    if timers != w.l.wheel.count:
        w.k.fail("%u timers, %u are counted", timers, w.l.wheel.count)
    if ready != w.l.n_ready:
        w.k.fail("%u are ready, %u are counted", ready, w.l.n_ready)
    if inbox != w.l.inbox_bytes or notes != w.l.inbox_count:
        w.k.fail("%zu bytes wait in %zu notes, counted: %zu, %zu", inbox, notes, w.l.inbox_bytes, w.l.inbox_count)
    if out != w.l.out_bytes:
        w.k.fail("%zu bytes are queued, %zu are counted", out, w.l.out_bytes)
    at = w.l.slow_head
    while at >= 0:
        behind -= 1
        if not w.l.table[at].side.behind:
            w.k.fail("descriptor %d is in the line of the slow ones, and not slow", at)
        at = w.l.table[at].side.slow_next
    if behind != 0:
        w.k.fail("%u are slow and not in the line", behind)


cdef void rules_over(World* w) noexcept nogil:
    """The loop has finished: there is nothing left, and everybody was told what there was to be told."""
    cdef const char* left = memory_left(&w.l)
    cdef const Peer* p
    cdef int i
    if w.l.n_conns != 0:
        w.k.fail("%u connections are left", w.l.n_conns)
    if left != NULL:
        w.k.fail("left: %s", left)
    for i in range(w.n_peers):
        p = &w.peer[i]
        if p.opens and not p.closes and w.l.want & UWS_W_CLOSE and not w.is_scarce:
            w.k.fail("client %d: no on_close", p.id)
        if p.closes and not p.opens and w.l.want & UWS_W_OPEN and not w.is_scarce:
            w.k.fail("client %d: no on_connect", p.id)
        w.totals.connections += 1
        w.totals.opened += p.opens
        w.totals.closed += p.closes
        w.totals.told += p.told
        w.totals.accepted += p.accepted
        w.totals.heard += p.heard - p.skipped
        w.totals.deflated += p.deflated
        w.totals.inflated += p.inflated
        w.totals.proxied += p.opens != 0 and p.header != NAMED_NOT
