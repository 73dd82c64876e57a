# F5. See role.pxd.
#
# A runner's round: take the role, poll, and where events came, go away (away = 1, away_seq + 1) to run their callbacks.
# Coming back, it has the role still, unless the watchdog took it; then it asks for it. In the common case, callbacks
# that are short, all of this is a few stores under a lock that is held anyway.
#
# The watchdog ticks once in a schedule timeout, and only while there is traffic. It takes the role of a runner that
# has been away for a tick without beginning another connection's callbacks, or for AWAY_TICKS in any case. What the
# runner has not begun goes to the inboxes, from where any runner may take it. It polls without the GIL until a runner
# is free, and lets one more runner go on when none of those at work gets anywhere. One that waits for the GIL is
# enough: a second would only wait beside it. Where there is no GIL there are lanes, one for each processor: then what
# waits is shared among as many runners, whether they get anywhere or not.
#
# A guest is away whenever it is not visiting. That is no sign of anything: so the watchdog looks whether there is
# something to do, and for how long the guest has let it lie. When it takes the role it rings the bell, and polls until
# the guest comes. Timers alone are no reason to call the guest: the watchdog sees to those by itself.
#
# Where the descriptors are in a table of the loop's own (private_fds), the watchdog is their keeper: it leaves the
# process's table when it begins, and has the role from then on until its end. Runners only run callbacks.

from libc.errno cimport ENOMEM, errno
from posix.signal cimport SIG_SETMASK, sigfillset, sigset_t
from posix.time cimport timespec
from posix.unistd cimport close

from _uws.clock cimport clock_spec, clock_us
from _uws.errs cimport UWS_E_SYS, UWS_OK
from _uws.flush cimport conn_flush_all
from _uws.keeper cimport keeper_answer, keeper_is_through
from _uws.loop cimport batch_destroy, batch_init, loop_next_ms, loop_turn
from _uws.memory cimport memory_join, memory_leave, memory_stack
from _uws.poller cimport bell_make, bell_ring, bell_silence, poller_wake, poller_watch
from _uws.post cimport post_call, post_near, post_nudge, post_spill, post_wake_parked
from _uws.slot cimport pthread_self
from _uws.sock cimport sock_spare
from _uws.state cimport (
    UWS_O_DOG,
    UWS_O_GUEST,
    UWS_O_NONE,
    UWS_O_RUNNER,
    UWS_ROLE_NEW,
    pthread_cond_broadcast,
    pthread_cond_signal,
    pthread_cond_t,
    pthread_mutex_lock,
    pthread_mutex_t,
    pthread_mutex_unlock,
    pthread_t,
)
from _uws.table cimport table_empty, table_leave

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_attr_t:
        pass
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*)
    int pthread_cond_timedwait(pthread_cond_t*, pthread_mutex_t*, const timespec*)
    int pthread_attr_init(pthread_attr_t*)
    int pthread_attr_setstacksize(pthread_attr_t*, size_t)
    int pthread_attr_destroy(pthread_attr_t*)
    int pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*) noexcept nogil, void*)
    int pthread_join(pthread_t, void**)

cdef extern from "signal.h" nogil:
    int pthread_sigmask(int, const sigset_t*, sigset_t*)

cdef enum:
    AWAY_TICKS = 10               # schedule timeouts after which a runner has been away for too long in any case
    QUIET_TICKS = 50              # without a runner going away, after which the watchdog sleeps
    DOG_STACK_BYTES = 262144


# ---- the watchdog

cdef inline bint _has_lane(const UwsLoop* l) noexcept nogil:
    """Whether one more runner would get on beside those at work, and there is one."""
    return l.lanes > 1 and l.parked != 0 and l.runners - l.parked - l.role_wanted < l.lanes


cdef inline bint _stuck(const UwsLoop* l, uint64_t seq, uint64_t taken, int ticks) noexcept nogil:
    return l.away_seq == seq and (l.taken_seq == taken or ticks >= AWAY_TICKS
                                  or (_has_lane(l) and l.batch != NULL and l.batch.taken < l.batch.n))


cdef inline void _vacate(UwsLoop* l) noexcept nogil:
    """Leave the role to whoever wants it."""
    l.owner = UWS_O_NONE
    l.batch = NULL
    pthread_cond_broadcast(&l.runner_cond)
    pthread_cond_signal(&l.park_cond)


cdef void _watch(UwsLoop* l) noexcept nogil:
    """Until the role has been taken, or there is nothing to watch."""
    cdef uint64_t seq = 0, taken = 0
    cdef int away_ticks = 0, quiet = 0
    cdef timespec until
    while not l.dog_quit and l.owner != UWS_O_DOG:
        if quiet >= QUIET_TICKS:
            l.dog_asleep = 1
            pthread_cond_wait(&l.dog_cond, &l.lock)
            l.dog_asleep = 0
            quiet = 0
        elif not l.yield_now:
            until = clock_spec(clock_us() + l.limits.schedule_timeout_us)
            pthread_cond_timedwait(&l.dog_cond, &l.lock, &until)
        if l.owner != UWS_O_RUNNER or not l.away:
            l.yield_now = 0
            quiet = quiet + 1 if l.away_seq == seq else 0
            seq = l.away_seq
            away_ticks = 0
            continue
        quiet = 0
        away_ticks = away_ticks + 1 if l.away_seq == seq else 0
        if l.yield_now or (away_ticks >= 1 and _stuck(l, seq, taken, away_ticks)):
            # Where it has got on since the last tick, nobody knows yet how long this one delivery takes.
            l.batch.blamed_us = clock_us()
            if not l.yield_now and l.taken_seq == taken:
                l.batch.blamed_us -= l.limits.schedule_timeout_us
            l.yield_now = 0
            l.owner = UWS_O_DOG
            l.away = 0
            l.count.takeovers += 1
            return
        seq = l.away_seq
        taken = l.taken_seq


cdef void _stand_in(UwsLoop* l, UwsBatch* b) noexcept nogil:
    """Poll until a runner wants the role."""
    cdef uint64_t taken = l.taken_seq - 1
    # First what the runner that went away has left.
    post_spill(l)
    l.batch = b
    while not l.dog_quit:
        if l.n_ready != 0 and (_has_lane(l) or (l.gil_waiters == 0 and l.taken_seq == taken)):
            post_wake_parked(l)
        taken = l.taken_seq
        loop_turn(l, b)
        post_spill(l)
        if _finish(l):
            break
        if l.role_wanted or (l.n_ready != 0 and l.parked == l.runners):
            break
    post_spill(l)
    _vacate(l)


cdef inline bint _is_called(UwsLoop* l) noexcept nogil:
    """Whether there is something that a guest should come for: asked to, it promised to, or epoll has something."""
    return l.woken or l.n_ready != 0 or l.batch.taken < l.batch.n or poller_watch(&l.poller, 0)


cdef bint _watch_guest(UwsLoop* l) noexcept nogil:
    """Until the role has been taken, or there is nothing to watch. True: the guest is late; False: for a timer."""
    cdef uint64_t seq = l.away_seq, done = 0, now_done
    cdef int late = 0, quiet = 0, wait
    cdef timespec until
    while not l.dog_quit and l.owner == UWS_O_GUEST:
        if l.finished:
            # The guest has been told, or is about to find out. There is nobody left to look after.
            pthread_cond_wait(&l.dog_cond, &l.lock)
            continue
        if quiet >= QUIET_TICKS:
            wait = loop_next_ms(l)
            l.dog_asleep = 1
            pthread_mutex_unlock(&l.lock)
            poller_watch(&l.poller, wait)
            pthread_mutex_lock(&l.lock)
            l.dog_asleep = 0
            quiet = 0
            late = 0
        until = clock_spec(clock_us() + l.limits.schedule_timeout_us)
        pthread_cond_timedwait(&l.dog_cond, &l.lock, &until)
        if l.away_seq != seq or not l.away:
            seq = l.away_seq
            late = quiet = 0
            continue
        if _is_called(l):
            # Its tasks send, or its callbacks return: it gets somewhere, and will come.
            now_done = l.count.messages_out + l.taken_seq
            quiet = 0
            late += 1
            if late >= 2 and (now_done == done or late >= AWAY_TICKS):
                l.owner = UWS_O_DOG
                l.count.takeovers += 1
                return True
            done = now_done
        elif loop_next_ms(l) == 0:
            l.owner = UWS_O_DOG
            return False
        else:
            late = 0
            quiet += 1
    return False


cdef inline void _rest(UwsLoop* l) noexcept nogil:
    l.away = 1
    l.away_seq += 1


cdef inline void _ring(UwsLoop* l) noexcept nogil:
    if not l.rung:
        l.rung = 1
        bell_ring(l.bell_fd)


cdef void _stand_in_for_guest(UwsLoop* l, UwsBatch* b, bint is_late) noexcept nogil:
    """Poll until the guest comes; or, where it has not been called, for one turn."""
    # What was promised was that the guest would look. From now on it takes a write to the eventfd.
    l.woken = 0
    l.away = 0
    l.polling = 0
    post_spill(l)
    l.batch = b
    if is_late:
        _ring(l)
    while not l.dog_quit:
        loop_turn(l, b)
        post_spill(l)
        if _finish(l) or l.n_ready != 0:
            _ring(l)
        if l.finished or l.role_wanted or not l.rung:
            break
    l.batch = l.guest
    l.owner = UWS_O_GUEST
    _rest(l)
    l.polling = 1
    pthread_cond_broadcast(&l.runner_cond)


cdef void* _dog(void* arg) noexcept nogil:
    cdef UwsLoop* l = <UwsLoop*>arg
    cdef UwsBatch b
    cdef bint able = batch_init(&b) == UWS_OK, is_late
    if able:
        memory_stack(&b)
    pthread_mutex_lock(&l.lock)
    if able:
        memory_join(l, &b)
    l.dog_alive = 1 if able else 2
    l.dog_error = ENOMEM
    pthread_cond_broadcast(&l.runner_cond)
    while able and not l.dog_quit:
        if l.guest != NULL:
            is_late = _watch_guest(l)
            if l.owner == UWS_O_DOG:
                _stand_in_for_guest(l, &b, is_late)
            continue
        _watch(l)
        if l.owner == UWS_O_DOG:
            _stand_in(l, &b)
    memory_leave(l, &b)
    pthread_mutex_unlock(&l.lock)
    batch_destroy(&b)
    return NULL


cdef bint _move_out(UwsLoop* l) noexcept nogil:
    """Have a descriptor table of one's own, with what the loop needs there. False: errno says why."""
    cdef int[18] keep
    cdef int k
    keep[0] = l.poller.epoll_fd
    keep[1] = l.poller.wake_fd
    for k in range(l.n_listeners):
        keep[2 + k] = l.listener[k]
    return table_leave(keep, 2 + l.n_listeners) == UWS_OK


cdef void _keep(UwsLoop* l, UwsBatch* b) noexcept nogil:
    """Poll, and leave the callbacks to the runners, which have another table: what is for them goes to the inboxes."""
    cdef uint64_t taken
    l.batch = b
    while not l.dog_quit:
        taken = l.taken_seq
        loop_turn(l, b)
        post_spill(l)
        _finish(l)
        if l.n_ready != 0 and (l.parked == l.runners or _has_lane(l)
                               or (l.gil_waiters == 0 and l.taken_seq == taken)):
            post_wake_parked(l)
    l.batch = NULL


cdef void* _keeper(void* arg) noexcept nogil:
    """The watchdog of a loop whose descriptors are in a table of its own, which is this thread's: it has the role for
    good."""
    cdef UwsLoop* l = <UwsLoop*>arg
    cdef UwsBatch b
    cdef bint able = batch_init(&b) == UWS_OK
    cdef int error = ENOMEM
    pthread_mutex_lock(&l.lock)
    # One in the table of the process would be of no use.
    if l.spare_fd >= 0:
        close(l.spare_fd)
    l.spare_fd = -1
    pthread_mutex_unlock(&l.lock)
    if able and not _move_out(l):
        error = errno
        able = False
    pthread_mutex_lock(&l.lock)
    l.dog_alive = 1 if able else 2
    l.dog_error = error
    if able:
        l.spare_fd = sock_spare()
        l.keeper = pthread_self()
        l.kept = 1
    pthread_cond_broadcast(&l.runner_cond)
    if able:
        _keep(l, &b)
        # Nobody waits for it any more.
        l.kept = 0
        keeper_answer(l)
        keeper_is_through(l)
        l.keeper = 0
    l.spare_fd = -1
    pthread_mutex_unlock(&l.lock)
    if able:
        table_empty()
    batch_destroy(&b)
    return NULL


cdef int role_start(UwsLoop* l) noexcept nogil:
    """Start the watchdog. UWS_OK or UWS_E_SYS (errno says why). It takes no signals: they are for Python."""
    cdef pthread_attr_t attr
    cdef sigset_t every, before
    cdef int failed
    # An earlier one may have failed.
    l.dog_alive = 0
    sigfillset(&every)
    pthread_sigmask(SIG_SETMASK, &every, &before)
    pthread_attr_init(&attr)
    pthread_attr_setstacksize(&attr, DOG_STACK_BYTES)
    failed = pthread_create(&l.dog, &attr, _keeper if l.limits.private_fds else _dog, l)
    pthread_attr_destroy(&attr)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    if failed:
        # Unlike most, these functions return it.
        (&errno)[0] = failed
        return UWS_E_SYS
    pthread_mutex_lock(&l.lock)
    while l.dog_alive == 0:
        pthread_cond_wait(&l.runner_cond, &l.lock)
    failed = l.dog_alive == 2
    pthread_mutex_unlock(&l.lock)
    if failed:
        pthread_join(l.dog, NULL)
        (&errno)[0] = l.dog_error
        return UWS_E_SYS
    return UWS_OK


cdef void role_end(UwsLoop* l) noexcept nogil:
    """Stop the watchdog and wait for it; no runner is left."""
    pthread_mutex_lock(&l.lock)
    l.dog_quit = 1
    pthread_cond_broadcast(&l.dog_cond)
    post_nudge(l)
    if l.guest != NULL:
        # It may sleep in front of epoll, and not inside.
        poller_wake(&l.poller)
    pthread_mutex_unlock(&l.lock)
    pthread_join(l.dog, NULL)
    l.dog_alive = 0


# ---- the runners

cdef bint _finish(UwsLoop* l) noexcept nogil:
    """When the loop is stopping and the last connection has gone, tell everybody."""
    if l.stopping and l.n_conns == 0 and not l.finished:
        l.finished = 1
        pthread_cond_broadcast(&l.runner_cond)
        pthread_cond_broadcast(&l.park_cond)
        post_nudge(l)
    return l.finished


cdef inline void _go_away(UwsLoop* l, uint64_t* role) noexcept nogil:
    l.away = 1
    l.away_seq += 1
    role[0] = l.away_seq
    if l.dog_asleep:
        pthread_cond_signal(&l.dog_cond)


cdef void _park(UwsLoop* l) noexcept nogil:
    l.parked += 1
    while l.wake_parked == 0 and not l.finished and l.owner != UWS_O_NONE:
        pthread_cond_wait(&l.park_cond, &l.lock)
    if l.wake_parked != 0:
        l.wake_parked -= 1
    l.parked -= 1


cdef inline void _arrive(UwsLoop* l, bint* is_new) noexcept nogil:
    """A runner that has only just begun is among those in reserve, or at work, from now on."""
    if is_new[0]:
        is_new[0] = False
        l.arriving -= 1


cdef int role_work(UwsLoop* l, UwsBatch* b, uint64_t* role) noexcept nogil:
    """A runner's way back from its callbacks (or in): poll, or wait until there is something to deliver.

    b: the runner's batch. role: what the last call set; UWS_ROLE_NEW at first, when the caller is among those arriving.
    Returns a UwsWork. With EVENTS the caller is counted among those that wait for the GIL (gil_waiters), and says
    when it has it.
    """
    cdef bint mine, is_new = role[0] == UWS_ROLE_NEW
    cdef int work = UWS_WORK_STOP
    pthread_mutex_lock(&l.lock)
    mine = role[0] != 0 and l.owner == UWS_O_RUNNER and l.away and l.away_seq == role[0]
    role[0] = 0
    if mine:
        l.away = 0
        l.yield_now = 0
    while True:
        if mine:
            # The callbacks' replies leave before anything else is begun.
            conn_flush_all(l)
            if l.n_apart != 0:
                post_call(l)
        if mine and (b.taken < b.n or post_near(l) != 0):
            _go_away(l, role)
            work = UWS_WORK_EVENTS
            break
        if _finish(l):
            break
        if mine:
            _arrive(l, &is_new)
            loop_turn(l, b)
            continue
        if l.owner == UWS_O_NONE:
            # Before anything else: a runner that went to work now and blocked would leave nobody to poll.
            l.owner = UWS_O_RUNNER
            l.away = 0
            l.batch = b
            mine = True
            continue
        if (l.gil_waiters == 0 or l.lanes > 1) and (l.n_ready if l.owner == UWS_O_RUNNER else post_near(l)) != 0:
            work = UWS_WORK_EVENTS
            break
        if l.owner == UWS_O_DOG and l.role_wanted == 0 and not l.limits.private_fds:
            l.role_wanted = 1
            post_nudge(l)
            while l.owner == UWS_O_DOG and not l.finished:
                pthread_cond_wait(&l.runner_cond, &l.lock)
            l.role_wanted = 0
            continue
        _arrive(l, &is_new)
        _park(l)
    _arrive(l, &is_new)
    if work == UWS_WORK_EVENTS:
        l.gil_waiters += 1
        if l.n_ready > 1 and _has_lane(l):
            post_wake_parked(l)
    elif mine:
        _vacate(l)
    pthread_mutex_unlock(&l.lock)
    return work


cdef void role_leave(UwsLoop* l, UwsBatch* b, uint64_t role) noexcept nogil:
    """A runner goes for good in the middle of a round: what it has not begun is left to the others."""
    pthread_mutex_lock(&l.lock)
    if role == UWS_ROLE_NEW:
        l.arriving -= 1
    if role != 0 and l.owner == UWS_O_RUNNER and l.away and l.away_seq == role:
        post_spill(l)
        l.away = 0
        _vacate(l)
    memory_leave(l, b)
    pthread_mutex_unlock(&l.lock)


# ---- a guest

cdef int role_invite(UwsLoop* l, UwsBatch* b) noexcept nogil:
    """Give the role to a guest, instead of to runners, before the watchdog is started. UWS_OK or UWS_E_SYS.

    b: the guest's batch; it stays where it is. The guest visits when epoll_fd or bell_fd is readable, and when its last
    visit had events."""
    l.bell_fd = bell_make()
    if l.bell_fd < 0:
        return UWS_E_SYS
    pthread_mutex_lock(&l.lock)
    l.guest = b
    l.batch = b
    l.owner = UWS_O_GUEST
    _rest(l)
    l.polling = 1
    pthread_mutex_unlock(&l.lock)
    return UWS_OK


cdef void role_dismiss(UwsLoop* l) noexcept nogil:
    """The guest does not come after all: as if it had not been invited. There is no watchdog."""
    pthread_mutex_lock(&l.lock)
    l.guest = NULL
    l.batch = NULL
    l.owner = UWS_O_NONE
    l.away = 0
    l.polling = 0
    pthread_mutex_unlock(&l.lock)
    close(l.bell_fd)
    l.bell_fd = -1


cdef int role_visit(UwsLoop* l) noexcept nogil:
    """The guest's turn: all that can be done without waiting, but for the watchdog to hand the role back.

    Returns a UwsWork. With EVENTS the guest delivers them, and visits again when those whom it woke have had their
    turn: what they send leaves then, so they need not wake anybody."""
    cdef UwsBatch* b = l.guest
    cdef int work = UWS_WORK_NONE
    pthread_mutex_lock(&l.lock)
    if l.rung:
        l.rung = 0
        bell_silence(l.bell_fd)
    while l.owner == UWS_O_DOG:
        if not l.role_wanted:
            l.role_wanted = 1
            post_nudge(l)
        pthread_cond_wait(&l.runner_cond, &l.lock)
    l.role_wanted = 0
    l.away = 0
    l.polling = 0
    l.woken = 0
    loop_turn(l, b)
    _rest(l)
    if b.taken < b.n or l.n_ready != 0:
        work = UWS_WORK_EVENTS
        l.gil_waiters += 1
        l.woken = 1
    elif _finish(l):
        work = UWS_WORK_STOP
    else:
        l.polling = 1
    if l.dog_asleep:
        # It looks at epoll, where nothing may be seen of what was promised, or of a timer that was set. As often as it
        # takes until it is awake, which it says itself: the visit that this leads to silences the eventfd, and if the
        # watchdog has not seen it by then it sleeps on, for as long as it meant to before there was the timer.
        l.woken = 1
        poller_wake(&l.poller)
    pthread_mutex_unlock(&l.lock)
    return work
