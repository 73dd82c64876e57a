# F5. Load generator: a thread's turns. See loadrun.pxd.

from libc.stdint cimport uint32_t, uint64_t
from posix.time cimport clock_gettime, timespec

from _uws.atomic cimport atomic_acquire, atomic_read, atomic_release, atomic_write
from _uws.clock cimport clock_ns
from _uws.dial cimport dial_end
from _uws.errs cimport UWS_OK
from _uws.loadlife cimport load_closed, load_due, load_expire
from _uws.loadopening cimport load_connected, load_start, load_upgrading
from _uws.loadplan cimport (
    UWS_LOAD_BROADCAST,
    UWS_LOAD_ECHO,
    UWS_LOAD_ERRORS,
    UWS_LOAD_HANDSHAKES,
    UWS_LS_CONNECTING,
    UWS_LS_NONE,
    UWS_LS_OPEN,
    UWS_LS_UPGRADING,
    UWS_PHASE_CLOSE,
    UWS_PHASE_DRAIN,
    UWS_PHASE_END,
    UWS_PHASE_MEASURE,
    UWS_PHASE_RAMP,
    UWS_PHASE_WARM,
    UwsLoadConn,
    UwsLoadTold,
)
from _uws.loadtraffic cimport load_close, load_queue, load_readable, load_send
from _uws.poller cimport (
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    poller_destroy,
    poller_init,
    poller_wait,
)
from _uws.table cimport table_leave

cdef extern from "time.h" nogil:
    cdef enum:
        CLOCK_THREAD_CPUTIME_ID

cdef enum:
    MS = 1000000
    TURN_MS = 20                  # the longest: orders and deadlines are looked at once a turn
    LOOK_NS = 10000000            # from one look at some deadlines to the next: all of them in half a second
    LOOKS = 50
    RETRY_NS = 100000000          # handshakes: after one that failed
    CLOSING = 256                 # closing handshakes under way at once: a server that gets all in one second is late
    BURST = 1024                  # messages that were due in a turn; then what has come is read


cdef uint64_t _cpu_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


cdef inline bint _loading(const UwsLoad* l) noexcept nogil:
    return l.phase == UWS_PHASE_WARM or l.phase == UWS_PHASE_MEASURE


# ---- phases

cdef void _begin_load(UwsLoad* l) noexcept nogil:
    cdef uint32_t i
    l.load_ns = l.now_ns
    if l.plan.mode == UWS_LOAD_BROADCAST:
        atomic_write(&l.plan.told[l.index].joined, <uint64_t>l.n_open + 1)
    if l.plan.mode == UWS_LOAD_ECHO and l.plan.gap_ns == 0:
        for i in range(l.n):
            if l.conns[i].state == UWS_LS_OPEN:
                load_queue(l, &l.conns[i], l.plan.pipelining, clock_ns())


cdef void _close_some(UwsLoad* l) noexcept nogil:
    """Begin closing handshakes, and give up on what is still being opened."""
    cdef UwsLoadConn* c
    while l.n_asked < l.n_begun and l.n_closing < CLOSING:
        c = &l.conns[l.n_asked]
        l.n_asked += 1
        if c.state == UWS_LS_OPEN:
            load_close(l, c)
        elif c.state == UWS_LS_CONNECTING or c.state == UWS_LS_UPGRADING:
            load_closed(l, c, True)


cdef void _obey(UwsLoad* l) noexcept nogil:
    """Go on to the phase that is wanted, through those between."""
    cdef uint64_t before = l.phase
    cdef uint64_t wanted = atomic_read(&l.orders)
    if wanted == before:
        return
    l.now_ns = clock_ns()
    l.phase = wanted
    if wanted == UWS_PHASE_MEASURE:
        # Before the load, where there is no warm-up: what it sends first is measured then.
        l.begin_ns = l.now_ns
        l.begin_cpu_ns = _cpu_ns()
        l.at_begin = l.count
    if wanted >= UWS_PHASE_WARM > before and wanted < UWS_PHASE_DRAIN:
        _begin_load(l)
    if before == UWS_PHASE_MEASURE:
        l.end_ns = l.now_ns
        l.end_cpu_ns = _cpu_ns()
        l.at_end = l.count


# ---- what is due

cdef bint _ramp(UwsLoad* l) noexcept nogil:
    """Begin the connections that are due. False: the server's backlog is full."""
    cdef uint64_t now
    # Handshakes are the load, where they are what is measured.
    if l.n_begun == l.n or not (
            l.phase == UWS_PHASE_RAMP or (l.plan.mode == UWS_LOAD_HANDSHAKES and _loading(l))):
        return True
    now = clock_ns()
    while l.n_begun < l.n and l.n_pending < l.plan.connecting:
        if l.plan.connect_gap_ns != 0 and now - l.ramp_ns < _connect_due(l):
            break
        if load_start(l, &l.conns[l.n_begun]) != UWS_OK:
            return False
        l.n_begun += 1
    return True


cdef inline uint64_t _connect_due(const UwsLoad* l) noexcept nogil:
    """When the next connection begins, after the ramp began."""
    return <uint64_t>((<double>l.n_begun * l.plan.threads + l.index) * l.plan.connect_gap_ns)


cdef inline uint64_t _message_due(const UwsLoad* l) noexcept nogil:
    return load_due(l, &l.conns[l.next % l.takers], l.next // l.takers)


cdef void _pace(UwsLoad* l) noexcept nogil:
    """Open loop: queue the messages that are due, whatever became of those before."""
    cdef UwsLoadConn* c
    cdef uint64_t now = clock_ns()
    cdef int _i
    for _i in range(BURST):
        if _message_due(l) > now:
            break
        c = &l.conns[l.next % l.takers]
        l.next += 1
        if c.state == UWS_LS_OPEN:
            l.published += 1
            load_queue(l, c, 1, now)


cdef uint64_t _lacking(const UwsLoad* l) noexcept nogil:
    """Broadcast: deliveries that are still to come. Of those who are gone none is."""
    cdef UwsLoadTold* told = l.plan.told
    cdef uint64_t joined = 0, have = 0, due, gone
    cdef uint32_t i
    for i in range(l.plan.threads):
        due = atomic_read(&told[i].joined)
        if due == 0:
            # It has not begun to count. Nothing is published before.
            return l.published + 1
        joined += due - 1
        have += atomic_read(&told[i].delivered)
        # One after the other: C reads the operands of one expression in any order.
        gone = atomic_acquire(&told[i].gone)
        have += gone * l.published - atomic_read(&told[i].gone_delivered)
    if l.plan.others_only and joined:
        joined -= 1
    due = joined * l.published
    return due - have if due > have else 0


cdef uint64_t _undelivered(const UwsLoad* l) noexcept nogil:
    """Publications that somebody has not got yet; all, if not everybody has begun to count."""
    cdef uint64_t lacking = _lacking(l)
    cdef uint64_t joined = 0, one
    cdef uint32_t i
    for i in range(l.plan.threads):
        one = atomic_read(&l.plan.told[i].joined)
        if one == 0:
            return <uint64_t>-1
        joined += one - 1
    if l.plan.others_only and joined:
        joined -= 1
    return (lacking + joined - 1) // joined if joined else 0


cdef void _publish(UwsLoad* l) noexcept nogil:
    """Closed loop: publish while fewer publications are under way than should be."""
    cdef UwsLoadConn* c
    cdef uint64_t now = clock_ns(), room, under_way
    cdef uint32_t i, live = 0
    for i in range(l.takers):
        live += l.conns[i].state == UWS_LS_OPEN
    room = <uint64_t>live * l.plan.pipelining
    under_way = _undelivered(l)
    while under_way < room:
        c = &l.conns[l.next % l.takers]
        l.next += 1
        if c.state == UWS_LS_OPEN:
            under_way += 1
            l.published += 1
            load_queue(l, c, 1, now)
            if c.state != UWS_LS_OPEN:
                # One fewer: the room is another one.
                return


# ---- turns

cdef int _patience_ms(UwsLoad* l, bint ramping) noexcept nogil:
    """How long a turn may wait. Less than a millisecond is not waited for but spent asking: epoll would come late, and
    what leaves late counts against the server."""
    cdef uint64_t now, due
    cdef uint64_t patience = TURN_MS
    if ramping and l.n_begun == l.n and l.plan.gap_ns == 0 and l.plan.mode != UWS_LOAD_BROADCAST:
        # Nothing is due but what comes.
        return TURN_MS
    now = clock_ns()
    if not ramping:
        patience = 1
    elif l.plan.connect_gap_ns != 0 and l.n_begun < l.n and l.n_pending < l.plan.connecting:
        due = l.ramp_ns + _connect_due(l)
        patience = (due - now) // MS if due > now else 0
    if _loading(l) and l.takers:
        if l.plan.gap_ns != 0:
            due = _message_due(l)
            due = (due - now) // MS if due > now else 0
            if due < patience:
                patience = due
        elif l.plan.mode == UWS_LOAD_BROADCAST and l.plan.threads > 1:
            # What the others have got nobody tells.
            patience = 0
    return <int>(patience if patience < TURN_MS else TURN_MS)


cdef void _handle(UwsLoad* l, UwsLoadConn* c, uint32_t what) noexcept nogil:
    if c.state == UWS_LS_CONNECTING:
        load_connected(l, c)
    elif c.state == UWS_LS_UPGRADING:
        load_upgrading(l, c)
    else:
        if what & (EPOLLIN | EPOLLHUP | EPOLLERR) and c.fd >= 0:
            load_readable(l, c)
        if what & EPOLLOUT and c.fd >= 0:
            load_send(l, c)
    if c.state == UWS_LS_NONE and c.since_ns == 0 and _loading(l):
        # A handshake that was done: another one. Where the backlog is full it waits like one that failed.
        if load_start(l, c) != UWS_OK:
            c.since_ns = l.now_ns


cdef void _look(UwsLoad* l) noexcept nogil:
    """Look at some connections' deadlines."""
    cdef UwsLoadConn* c
    cdef uint32_t _i
    if l.n == 0 or l.now_ns < l.looked_ns or l.now_ns - l.looked_ns < LOOK_NS:
        return
    l.looked_ns = l.now_ns
    for _i in range(l.n // LOOKS + 1):
        l.cursor = l.cursor + 1 if l.cursor + 1 < l.n else 0
        c = &l.conns[l.cursor]
        if l.cursor >= l.n_begun:
            continue
        load_expire(l, c, l.now_ns)
        if c.state == UWS_LS_NONE and _loading(l) and l.now_ns > c.since_ns and l.now_ns - c.since_ns > RETRY_NS:
            load_start(l, c)


cdef void _show(UwsLoad* l, bint now) noexcept nogil:
    """Tell those who watch how far it is. now: also where that was told a moment ago."""
    cdef uint64_t errors = 0, outstanding = l.outstanding
    cdef int i
    if l.plan.mode == UWS_LOAD_BROADCAST:
        # The first thread waits for it.
        atomic_write(&l.plan.told[l.index].delivered, l.count.replies)
    if not now and l.now_ns - l.shown_ns < MS:
        return
    l.shown_ns = l.now_ns
    for i in range(UWS_LOAD_ERRORS):
        errors += l.errors[i]
    if l.plan.mode == UWS_LOAD_BROADCAST:
        outstanding = _lacking(l) if l.index == 0 and l.published else 0
    elif l.plan.mode == UWS_LOAD_HANDSHAKES:
        outstanding = l.n_pending + l.n_closing
    atomic_write(&l.shown.open, l.n_open)
    atomic_write(&l.shown.closing, l.n_closing)
    atomic_write(&l.shown.settled, l.n_begun - l.n_pending)
    atomic_write(&l.shown.outstanding, outstanding)
    atomic_write(&l.shown.started, l.count.started)
    atomic_write(&l.shown.upgraded, l.count.upgraded)
    atomic_write(&l.shown.failed, l.count.failed)
    atomic_write(&l.shown.replies, l.count.replies)
    atomic_write(&l.shown.errors, errors)
    # The last: who sees a phase here sees what was counted in it.
    atomic_release(&l.shown.phase, l.phase)


cdef int load_run(UwsLoad* l, int private_table, int required) noexcept nogil:
    """Take turns until the order to end. Every socket is closed afterwards.

    private_table: without it the limit of descriptors is that of all threads together. Each system call on one is
        quicker with it: a table that is shared has to be held on to meanwhile.
    """
    cdef uint32_t i
    cdef bint ramping
    cdef int ready, k, status
    if private_table:
        status = table_leave(NULL, 0)
        if status != UWS_OK and required:
            return status
    status = poller_init(&l.poller)
    if status != UWS_OK:
        return status
    l.ramp_ns = l.now_ns = clock_ns()
    while True:
        _obey(l)
        if l.phase == UWS_PHASE_END:
            break
        if l.phase == UWS_PHASE_CLOSE:
            _close_some(l)
        ramping = _ramp(l)
        if _loading(l) and l.takers:
            if l.plan.gap_ns != 0:
                _pace(l)
            elif l.plan.mode == UWS_LOAD_BROADCAST:
                _publish(l)
        ready = poller_wait(&l.poller, _patience_ms(l, ramping))
        l.now_ns = clock_ns()
        for k in range(ready):
            # The eventfd has a tag of its own, but nobody rings it.
            _handle(l, &l.conns[<uint32_t>l.poller.ready[k].data.u64], l.poller.ready[k].events)
        _look(l)
        if l.ramped_ns == 0 and l.n_begun == l.n and l.n_pending == 0:
            l.ramped_ns = l.now_ns
        _show(l, False)
    for i in range(l.n_begun):
        if l.conns[i].fd >= 0:
            dial_end(l.conns[i].fd, True)
            l.conns[i].fd = -1
    poller_destroy(&l.poller)
    _show(l, True)
    return UWS_OK
