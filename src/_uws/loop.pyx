# F5. See loop.pxd.

from libc.errno cimport EINTR, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort
from libc.string cimport memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close

from _uws.accept cimport (
    accept_batch,
    accept_leave,
    accept_leave_shared,
    accept_look,
    accept_pause,
    accept_resume,
)
from _uws.clock cimport clock_ms
from _uws.deflate cimport deflater_destroy, deflater_init, inflater_destroy
from _uws.drain cimport drain_all, drain_step, stop_all, stop_step
from _uws.errs cimport UWS_E_ARG, UWS_E_SYS, UWS_OK
from _uws.flush cimport conn_flush, conn_flush_all, conn_sweep
from _uws.hold cimport conn_release
from _uws.intern cimport intern_destroy, intern_init
from _uws.keeper cimport keeper_answer, keeper_is_through
from _uws.life cimport conn_eof
from _uws.memory cimport memory_left
from _uws.poller cimport (
    EPOLLERR,
    EPOLLEXCLUSIVE,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    UWS_TAG_LISTEN,
    UWS_TAG_WAKE,
    poll_tag,
    poll_tag_means,
    poller_add,
    poller_awake,
    poller_destroy,
    poller_init,
    poller_wait,
)
from _uws.post cimport post_near
from _uws.proto cimport UWS_P_WINDOW, UwsEvent
from _uws.read cimport conn_read
from _uws.slab cimport slab_destroy, slab_ease, slab_init, slab_is_tense
from _uws.slot cimport conn_heavy, conn_reading, conn_unpoll
from _uws.sock cimport sock_plain, sock_spare, sock_unread
from _uws.state cimport (
    UWS_ARENA_BYTES,
    UWS_ARENA_PAD,
    UWS_BATCH_EVENTS,
    UWS_BATCH_OWNED_BYTES,
    UWS_BATCH_RESERVE,
    UWS_F_EOF,
    UWS_F_GONE,
    UWS_F_PAUSED,
    UWS_HEAVY_BYTES,
    UWS_MAX_LISTENERS,
    UWS_O_DOG,
    UWS_O_GUEST,
    UWS_READ_BYTES,
    UWS_ROLE_NEW,
    UWS_SCRATCH_EVENTS,
    UWS_S_ASKING,
    UWS_S_FREE,
    UWS_TOLD_DRAIN,
    UWS_TOLD_LEAVE,
    UWS_TOLD_LOOK,
    UWS_TOLD_SHARED,
    UWS_TOLD_STOP,
    UWS_TOLD_SWEEP,
    UWS_TOLD_TEND,
    UwsExtra,
    pthread_cond_t,
    pthread_mutex_lock,
    pthread_mutex_t,
    pthread_mutex_unlock,
)
from _uws.tend cimport conn_timer, tend_queues
from _uws.wheel cimport UWS_TICK_MS, wheel_expire, wheel_init, wheel_next

cdef extern from *:
    const int UWS_DEBUG

cdef extern from "compat.h" nogil:
    ssize_t uws_getrandom(void*, size_t, unsigned int)

cdef extern from "sys/mman.h" nogil:
    cdef enum:
        MAP_NORESERVE

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_condattr_t:
        pass
    int pthread_mutex_init(pthread_mutex_t*, const void*)
    int pthread_mutex_destroy(pthread_mutex_t*)
    int pthread_condattr_init(pthread_condattr_t*)
    int pthread_condattr_setclock(pthread_condattr_t*, int)
    int pthread_condattr_destroy(pthread_condattr_t*)
    int pthread_cond_init(pthread_cond_t*, const pthread_condattr_t*)
    int pthread_cond_destroy(pthread_cond_t*)

from posix.time cimport CLOCK_MONOTONIC

cdef enum:
    # What a turn reads for Python before Python gets it; the rest of those that are ready have the next turn. A message
    # is read three times on its way: the nearer to each other, the nearer is the cache that has it.
    TURN_BYTES = 32768
    YIELD_EVERY = 16              # events between two chances for the threads that send
    EASE_MS = 500                 # memory that was not needed for so long, or up to twice as long, goes back


cdef void* _map(size_t len_bytes) noexcept nogil:
    """Zeroed memory that costs nothing until it is touched; NULL: the address space or the limit is used up."""
    cdef void* p = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    return NULL if p == MAP_FAILED else p


# ---- making and ending

cdef int batch_init(UwsBatch* b) noexcept nogil:
    """Returns UWS_OK or UWS_E_SYS."""
    memset(b, 0, sizeof(UwsBatch))
    b.events = <UwsEvent*>_map(UWS_BATCH_EVENTS * sizeof(UwsEvent))
    b.arena = <uint8_t*>_map(UWS_ARENA_BYTES + UWS_ARENA_PAD)
    if b.events == NULL or b.arena == NULL:
        batch_destroy(b)
        return UWS_E_SYS
    return UWS_OK


cdef void batch_destroy(UwsBatch* b) noexcept nogil:
    if b.events != NULL:
        munmap(b.events, UWS_BATCH_EVENTS * sizeof(UwsEvent))
    if b.arena != NULL:
        munmap(b.arena, UWS_ARENA_BYTES + UWS_ARENA_PAD)
    memset(b, 0, sizeof(UwsBatch))


cdef int loop_init(UwsLoop* l, const UwsLimits* limits, uint64_t max_message_bytes, uint32_t max_fragments,
                   uint32_t max_fds) noexcept nogil:
    """max_fds: descriptors that this process may ever have, the size of the table (address space only).
    Returns UWS_OK or UWS_E_SYS (errno says why; nothing is left behind)."""
    cdef pthread_condattr_t monotonic
    cdef uint64_t seed = 0
    memset(l, 0, sizeof(UwsLoop))
    l.spare_fd = -1
    l.lanes = 1
    l.bell_fd = -1
    l.dirty_head = l.dirty_tail = -1
    l.slow_head = -1
    l.slow_tail = -1
    l.ready_head = -1
    l.ready_tail = -1
    l.apart_head = -1
    l.apart_tail = -1
    l.poller.epoll_fd = -1
    l.poller.wake_fd = -1
    l.limits = limits[0]
    if limits.private_fds:
        # The keeper's, who is on the way: no runner takes the role.
        l.owner = UWS_O_DOG
    l.io = sock_plain()
    while uws_getrandom(&seed, sizeof(seed), 0) != sizeof(seed):
        if errno != EINTR:
            return UWS_E_SYS
    intern_init(&l.intern, seed)
    l.rng = seed | 1
    l.away_seq = UWS_ROLE_NEW
    slab_init(&l.slab)
    l.env.slab = &l.slab
    l.env.max_message_bytes = max_message_bytes
    l.env.max_fragments = max_fragments
    pthread_mutex_init(&l.lock, NULL)
    pthread_mutex_init(&l.deflate_lock, NULL)
    deflater_init(&l.deflater, &limits.deflate)
    pthread_condattr_init(&monotonic)
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC)
    pthread_cond_init(&l.park_cond, &monotonic)
    pthread_cond_init(&l.runner_cond, &monotonic)
    pthread_cond_init(&l.dog_cond, &monotonic)
    pthread_cond_init(&l.wait_cond, &monotonic)
    pthread_condattr_destroy(&monotonic)
    l.table_cap = max_fds
    l.table = <UwsConn*>_map(<size_t>max_fds * sizeof(UwsConn))
    l.extra = <UwsExtra*>_map(<size_t>max_fds * sizeof(UwsExtra))
    l.scratch = <UwsEvent*>_map(UWS_SCRATCH_EVENTS * sizeof(UwsEvent))
    if l.table == NULL or l.extra == NULL or l.scratch == NULL or poller_init(&l.poller) != UWS_OK:
        loop_destroy(l)
        return UWS_E_SYS
    l.spare_fd = sock_spare()
    l.start_ms = l.now_ms = clock_ms()
    wheel_init(&l.wheel, &l.table[0].link, sizeof(UwsConn), 0)
    return UWS_OK


cdef void loop_close(UwsLoop* l) noexcept nogil:
    """Give the loop's own descriptors back: it has finished, and those who hold a Conn keep its memory for a while."""
    if l.spare_fd >= 0:
        close(l.spare_fd)
        l.spare_fd = -1
    if l.bell_fd >= 0:
        close(l.bell_fd)
        l.bell_fd = -1
    poller_destroy(&l.poller)


cdef inline void _check(const UwsLoop* l) noexcept nogil:
    """In a debug build: with the last connection everything went that was there for one. A test's process ends where it
    did not, whoever made the loop in it."""
    cdef const char* left = memory_left(l) if UWS_DEBUG and l.n_conns == 0 and not l.forked else NULL
    if left != NULL:
        fprintf(stderr, b"a loop without connections has %s left\n", left)
        abort()


cdef void loop_destroy(UwsLoop* l) noexcept nogil:
    """Everything back, connections that are left included. No thread is in the loop any more."""
    cdef int saved = errno
    _check(l)
    if l.table != NULL:
        if not l.forked and not l.limits.private_fds:
            # Otherwise they went with the keeper's table.
            _close_conns(l)
        munmap(l.table, <size_t>l.table_cap * sizeof(UwsConn))
    if l.extra != NULL:
        munmap(l.extra, <size_t>l.table_cap * sizeof(UwsExtra))
    if l.scratch != NULL:
        munmap(l.scratch, UWS_SCRATCH_EVENTS * sizeof(UwsEvent))
    loop_close(l)
    intern_destroy(&l.intern)
    deflater_destroy(&l.deflater)
    inflater_destroy(&l.env.inflater)
    # The contexts of connections that are left go with it.
    slab_destroy(&l.slab)
    pthread_cond_destroy(&l.park_cond)
    pthread_cond_destroy(&l.runner_cond)
    pthread_cond_destroy(&l.dog_cond)
    pthread_cond_destroy(&l.wait_cond)
    pthread_mutex_destroy(&l.deflate_lock)
    pthread_mutex_destroy(&l.lock)
    l.table = NULL
    l.extra = NULL
    l.scratch = NULL
    (&errno)[0] = saved


cdef void _close_conns(UwsLoop* l) noexcept nogil:
    cdef uint32_t i
    for i in range(l.table_top):
        if l.table[i].state != UWS_S_FREE:
            close(<int>i)


cdef void loop_forked(UwsLoop* l) noexcept nogil:
    """This is a child process, and the connections are the parent's: its copies of all descriptors go at once.

    Later their numbers may be those of files that the child has opened. And a peer is to find out that the parent has
    closed, however long the child lives."""
    cdef int saved = errno
    l.forked = 1
    if not l.limits.private_fds:
        _close_conns(l)
    elif l.kept:
        # It is in the keeper's table, as they are.
        l.spare_fd = -1
    loop_close(l)
    (&errno)[0] = saved


cdef int loop_listen(UwsLoop* l, int fd, bint shared, bint in_turn) noexcept nogil:
    """Accept from fd, a listening non-blocking socket that stays the caller's.

    shared: other programs accept from it too; a loop that drains leaves the newcomers to them.
    in_turn: other loops of the same server do; of those that wait the kernel wakes one.
    UWS_OK, UWS_E_ARG (there are UWS_MAX_LISTENERS already, or the keeper has a table without this one) or
    UWS_E_SYS."""
    if l.n_listeners == UWS_MAX_LISTENERS or l.kept:
        return UWS_E_ARG
    l.listen_for = EPOLLIN | EPOLLEXCLUSIVE if in_turn else EPOLLIN
    if poller_add(&l.poller, fd, l.listen_for, poll_tag(UWS_TAG_LISTEN, l.n_listeners, 0)) != UWS_OK:
        return UWS_E_SYS
    l.listener[l.n_listeners] = fd
    l.shared[l.n_listeners] = shared
    l.n_listeners += 1
    l.accepting = 1
    return UWS_OK


# ---- a turn

cdef int _wait_ms(UwsLoop* l, const UwsBatch* b) noexcept nogil:
    """How long epoll may wait: until the next timer; not at all when there is something to deliver, which the watchdog
    leaves to others but looks after, and never in the name of a guest."""
    cdef int wait = loop_next_ms(l), look
    if b.taken < b.n or l.owner == UWS_O_GUEST:
        return 0
    if l.owner == UWS_O_DOG and (l.role_wanted or l.dog_quit or l.told != 0 or l.asks != NULL
                                 or (l.stopping and l.n_conns == 0 and not l.finished)):
        # Whoever said so while the flushing before this let go of the lock found nobody in epoll to be woken.
        return 0
    if l.owner != UWS_O_DOG and post_near(l) != 0 and l.guest == NULL:
        return 0
    if l.owner == UWS_O_DOG and l.n_ready != 0 and l.guest == NULL:
        look = <int>((l.limits.schedule_timeout_us + 999) // 1000)
        return look if wait < 0 or look < wait else wait
    return wait


cdef int loop_next_ms(UwsLoop* l) noexcept nogil:
    """How long it is until something is to be done at a time; -1: there is nothing of the kind."""
    cdef int wait = -1
    cdef uint64_t now = clock_ms(), at
    cdef uint32_t ticks = wheel_next(&l.wheel)
    if l.dirty_head >= 0:
        return 0    # enlisted while the last flushing let go of the lock
    if ticks != 0:
        at = l.start_ms + (<uint64_t>l.wheel.now + ticks) * UWS_TICK_MS
        wait = _sooner(wait, at, now)
    if l.accept_at_ms != 0:
        wait = _sooner(wait, l.accept_at_ms, now)
    if l.ease_at_ms != 0:
        wait = _sooner(wait, l.ease_at_ms, now)
    if l.draining and not l.stopping:
        # With the last one gone since the turn's beginning it is over already.
        wait = _sooner(wait, l.drain_at_ms if l.n_open != 0 else now, now)
    if l.stopping and l.stop_at_ms != 0:
        wait = _sooner(wait, l.stop_at_ms, now)
    return wait


cdef inline int _sooner(int wait, uint64_t at_ms, uint64_t now_ms) noexcept nogil:
    cdef uint64_t left = at_ms - now_ms if at_ms > now_ms else 0
    if left > 60000:
        left = 60000
    return <int>left if wait < 0 or <int>left < wait else wait


cdef inline bint _full(const UwsBatch* b) noexcept nogil:
    """No room for what one more reading may bring, or enough beside the arena."""
    return (b.n > UWS_BATCH_EVENTS - UWS_BATCH_RESERVE - UWS_SCRATCH_EVENTS
            or UWS_ARENA_BYTES - b.used_bytes < UWS_READ_BYTES
            or b.owned_bytes > UWS_BATCH_OWNED_BYTES)


cdef void _conn_event(UwsLoop* l, UwsBatch* b, int32_t index, uint32_t events) noexcept nogil:
    cdef UwsConn* c = &l.table[index]
    if c.state == UWS_S_FREE:
        return    # freed earlier in this turn
    if events & EPOLLOUT:
        conn_flush(l, c)
        if c.state == UWS_S_FREE:
            return
    if not (events & (EPOLLIN | EPOLLHUP | EPOLLERR)):
        return
    if c.state == UWS_S_ASKING:
        # What comes before the answer waits in the kernel; only few clients send any.
        if events & (EPOLLHUP | EPOLLERR):
            conn_eof(l, c, True)
        else:
            c.flags |= UWS_F_PAUSED
            conn_reading(l, c)
        return
    if events & (EPOLLHUP | EPOLLERR):
        # It is over, and there is no more to come than the kernel has: that may be told also while it is paused.
        conn_release(l, c)
    if c.flags & (UWS_F_EOF | UWS_F_PAUSED):
        if events & (EPOLLHUP | EPOLLERR):
            # Both directions are shut. A paused connection's last data stays in the kernel until it is read on.
            conn_unpoll(l, c)
            if c.side != NULL:
                c.side.is_drained = not sock_unread(index)
            if c.flags & UWS_F_EOF:
                c.flags |= UWS_F_GONE
                conn_flush(l, c)
        return
    if not _full(b):
        conn_read(l, b, c)


# Messages are inflated in one go, and may be a thousand times what they come as: a few clients who send those would
# have everybody wait for all of them. So between two polls there is time for one of those, or for many of other kinds.

cdef inline bint _has_time(const UwsLoop* l, const UwsConn* c) noexcept nogil:
    """May what c sent be read now, or has it to wait until everybody else's has been?"""
    return not (c.proto.flags & UWS_P_WINDOW) or (l.inflating < UWS_HEAVY_BYTES and not conn_heavy(l, c))


cdef void _catch_up(UwsLoop* l, UwsBatch* b) noexcept nogil:
    """Read those that were put off while there is time, but one at least, whose turn is the longest ago. epoll reports
    the rest again."""
    cdef uint32_t n = l.n_put_off, first = 0, i, after = 0xFFFFFFFF, behind
    cdef uint64_t tag
    l.n_put_off = 0
    for i in range(n):
        behind = <uint32_t>l.poller.ready[i].data.u64 - l.put_off_at
        if behind < after:
            after = behind
            first = i
    for i in range(n):
        tag = l.poller.ready[(first + i) % n].data.u64
        l.put_off_at = <uint32_t>tag
        if i != 0 and l.inflating >= UWS_HEAVY_BYTES:
            return
        if poll_tag_means(tag, l.table[<uint32_t>tag].generation):
            _conn_event(l, b, <int32_t>(<uint32_t>tag), l.poller.ready[(first + i) % n].events)
        l.put_off_at += 1


cdef void _expire(UwsLoop* l) noexcept nogil:
    cdef uint32_t tick = l.tick
    cdef int32_t index = wheel_expire(&l.wheel, tick)
    while index >= 0:
        conn_timer(l, &l.table[index])
        index = wheel_expire(&l.wheel, tick)


cdef void _obey(UwsLoop* l) noexcept nogil:
    """The keeper does what it was told since its last turn."""
    cdef uint8_t told = l.told
    # Who waits for the tending waits for its end.
    l.told = told & UWS_TOLD_TEND
    keeper_answer(l)
    if told & UWS_TOLD_SWEEP:
        conn_sweep(l)
    if told & UWS_TOLD_LEAVE:
        accept_leave(l)
    if told & UWS_TOLD_LOOK:
        accept_look(l)
    if told & UWS_TOLD_SHARED:
        accept_leave_shared(l)
    if told & UWS_TOLD_DRAIN and not l.stopping:
        drain_all(l, l.drain_at_ms - l.now_ms if l.drain_at_ms > l.now_ms else 0)
    if told & UWS_TOLD_STOP:
        stop_all(l)
    if told & UWS_TOLD_TEND:
        tend_queues(l)
        l.told &= ~UWS_TOLD_TEND


cdef void loop_turn(UwsLoop* l, UwsBatch* b) noexcept nogil:
    """One turn: wait, then deal with all that is there. The events for Python end up in b, which is l.batch, or in the
    inboxes. Lets go of the lock while it waits, and now and then."""
    cdef int wait
    cdef uint32_t i
    cdef uint64_t tag
    cdef size_t enough
    cdef bint idle = True, room
    if b.taken == b.n:
        b.n = b.taken = 0
        b.used_bytes = b.owned_bytes = 0
    if l.told != 0 or l.asks != NULL:
        _obey(l)
    conn_flush_all(l)
    if l.kept:
        keeper_is_through(l)
    if l.poller.next == l.poller.n and l.n_put_off == 0:
        # Only now: flushing lets go of the lock, and whoever came in between did not see anybody to wake.
        wait = _wait_ms(l, b)
        l.polling = 1
        pthread_mutex_unlock(&l.lock)
        poller_wait(&l.poller, wait)
        pthread_mutex_lock(&l.lock)
        l.polling = 0
        l.inflating = 0
    else:
        # The rest of those who were ready; threads that send are not to wait for all of them.
        pthread_mutex_unlock(&l.lock)
        pthread_mutex_lock(&l.lock)
    l.now_ms = clock_ms()
    l.tick = <uint32_t>((l.now_ms - l.start_ms) // UWS_TICK_MS)
    enough = b.used_bytes + b.owned_bytes + TURN_BYTES
    room = not _full(b)
    # Once it is full the others are first in the next turn: epoll names those who are not read in the same order again,
    # and whoever can fill a batch would leave nothing for those behind.
    while l.poller.next < l.poller.n and b.used_bytes + b.owned_bytes < enough and not (room and _full(b)):
        i = l.poller.next
        l.poller.next += 1
        tag = l.poller.ready[i].data.u64
        if tag >> 56 == UWS_TAG_WAKE:
            poller_awake(&l.poller)
            l.woken = 0
        elif tag >> 56 == UWS_TAG_LISTEN:
            accept_batch(l, <int>(<uint32_t>tag))
        else:
            if poll_tag_means(tag, l.table[<uint32_t>tag].generation):
                if _has_time(l, &l.table[<uint32_t>tag]):
                    _conn_event(l, b, <int32_t>(<uint32_t>tag), l.poller.ready[i].events)
                else:
                    l.poller.ready[l.n_put_off] = l.poller.ready[i]
                    l.n_put_off += 1
                    continue
            if i % YIELD_EVERY == YIELD_EVERY - 1:
                pthread_mutex_unlock(&l.lock)
                pthread_mutex_lock(&l.lock)
        idle = False
    if l.n_put_off != 0 and idle and l.poller.next == l.poller.n:
        # What the others sent has been delivered, and answered, before.
        _catch_up(l, b)
    _expire(l)
    if l.accept_at_ms != 0 and l.now_ms >= l.accept_at_ms:
        accept_resume(l)
    if l.limits.jobs != 0 and l.n_ready >= l.limits.jobs and l.accepting and l.accept_at_ms == 0:
        l.count.cooldowns += 1
        accept_pause(l, (l.limits.cooldown_us + 999) // 1000)
    if l.draining and not l.stopping:
        drain_step(l)
    if l.stopping:
        stop_step(l)
    conn_flush_all(l)
    if l.out_bytes > l.limits.max_out_bytes:
        tend_queues(l)
    if l.ease_at_ms != 0 or slab_is_tense(&l.slab):
        _ease(l)


cdef void _ease(UwsLoop* l) noexcept nogil:
    """After a busy time, give memory back."""
    if l.ease_at_ms == 0:
        l.ease_at_ms = l.now_ms + EASE_MS
    elif l.now_ms >= l.ease_at_ms:
        slab_ease(&l.slab)
        l.ease_at_ms = l.now_ms + EASE_MS if slab_is_tense(&l.slab) else 0
