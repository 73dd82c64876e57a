# F5. See accept.pxd.

from libc.errno cimport ENOMEM, ENOSPC, errno
from libc.stdint cimport uint8_t, uint64_t
from posix.unistd cimport close

from _uws.clock cimport clock_ms
from _uws.errs cimport UWS_E_HTTP_503, UWS_OK
from _uws.keeper cimport keeper_tell
from _uws.life cimport conn_begin
from _uws.poller cimport EPOLLEXCLUSIVE, UWS_TAG_LISTEN, poll_tag, poller_add, poller_remove
from _uws.response cimport UWS_MAX_REFUSAL_BYTES, response_refuse
from _uws.slot cimport loop_foreign, seat_give, seat_take
from _uws.sock cimport (
    UWS_ACCEPT_AGAIN,
    UWS_ACCEPT_BROKEN,
    UWS_ACCEPT_STARVED,
    sock_accept,
    sock_spare,
    sock_turn_away,
)
from _uws.state cimport UWS_TOLD_LEAVE, UWS_TOLD_LOOK, UWS_TOLD_SHARED

cdef enum:
    ACCEPT_BATCH = 64         # of one listener in one turn: those who are in have their turn too
    LAST_BATCHES = 64         # of one listener, by a loop that leaves it: 4096, the usual limit of a backlog
    SHED_BATCH = 128          # refusals in a row; with the pause below, at most some 2 % of a core
    SHED_PAUSE_MS = 100
    FULL_PAUSE_MS = 60000     # at most: until one of the loop's connections has gone


cdef void accept_batch(UwsLoop* l, int which) noexcept nogil:
    """Take in the connections that wait at a listener, a batch at most."""
    cdef uint64_t before = l.count.accepted
    if not l.accepting or l.accept_at_ms != 0 or (l.draining and l.shared[which]):
        return    # stopped, paused or left to others since epoll reported it
    _take_in(l, l.listener[which])
    if l.listen_for & EPOLLEXCLUSIVE and l.count.accepted != before and l.accept_at_ms == 0:
        # Of the loops that wait the kernel wakes the one that was added first, and while little happens always the
        # same one: it would have all the connections. Whoever was served goes to the end of the line.
        poller_remove(&l.poller, l.listener[which])
        if not _ask(l, which):
            accept_pause(l, SHED_PAUSE_MS)


cdef inline bint _ask(UwsLoop* l, int which) noexcept nogil:
    """Have epoll report who waits at a listener, those who do already included. False: it has no memory."""
    cdef uint64_t tag = poll_tag(UWS_TAG_LISTEN, which, 0)
    return poller_add(&l.poller, l.listener[which], l.listen_for, tag) == UWS_OK or errno not in (ENOMEM, ENOSPC)


cdef bint _take_in(UwsLoop* l, int listen_fd) noexcept nogil:
    """Take in a batch at most. True: there may be more."""
    cdef int _, fd
    for _ in range(ACCEPT_BATCH):
        if not seat_take(l):
            _shed(l, listen_fd, True)
            return False
        if l.seats != 0 and l.n_conns >= l.seats:
            # The table of this loop is full; there are others that have room.
            seat_give(l)
            accept_pause(l, FULL_PAUSE_MS)
            l.is_full = 1
            return False
        fd = sock_accept(listen_fd)
        if fd < 0:
            seat_give(l)
        if fd == UWS_ACCEPT_AGAIN:
            continue
        if fd == UWS_ACCEPT_STARVED:
            _shed(l, listen_fd, False)
            return False
        if fd == UWS_ACCEPT_BROKEN:
            poller_remove(&l.poller, listen_fd)
            return False
        if fd < 0:
            return False
        l.count.accepted += 1
        if conn_begin(l, fd) == NULL:
            close(fd)
            seat_give(l)
            _shed(l, listen_fd, False)
            return False
    return True


cdef void _shed(UwsLoop* l, int listen_fd, bint is_full) noexcept nogil:
    """There is no room for those who wait: tell some of them so, then rest.

    A listener that is not emptied would report itself for ever; and a client that is told comes back later, or
    elsewhere, instead of waiting for its own timeout. is_full: for want of a seat."""
    cdef uint8_t response[UWS_MAX_REFUSAL_BYTES]
    cdef size_t len_bytes = response_refuse(response, sizeof(response), UWS_E_HTTP_503)
    cdef int _, status
    if l.spare_fd >= 0:
        close(l.spare_fd)
        l.spare_fd = -1
        for _ in range(SHED_BATCH):
            status = sock_turn_away(listen_fd, response, len_bytes)
            if status == UWS_ACCEPT_AGAIN:
                continue
            if status < 0:
                break
            l.count.turned_away += 1
            if is_full and seat_take(l):
                # Where there is one now, the next one is not refused: the client that was told may have been given
                # the processor, and know of somebody who has left meanwhile.
                seat_give(l)
                break
    l.spare_fd = sock_spare()
    accept_pause(l, SHED_PAUSE_MS)


cdef void accept_pause(UwsLoop* l, uint32_t pause_ms) noexcept nogil:
    """Leave newcomers in the kernel's backlog for pause_ms."""
    cdef int k
    if not l.accepting or l.accept_at_ms != 0:
        return
    for k in range(l.n_listeners):
        poller_remove(&l.poller, l.listener[k])
    l.accept_at_ms = l.now_ms + (pause_ms if pause_ms != 0 else 1)


cdef void accept_resume(UwsLoop* l) noexcept nogil:
    cdef int k
    l.accept_at_ms = 0
    if l.spare_fd < 0:
        l.spare_fd = sock_spare()
    for k in range(l.n_listeners):
        if not (l.draining and l.shared[k]) and not _ask(l, k):
            accept_pause(l, SHED_PAUSE_MS)
            return


cdef void accept_leave(UwsLoop* l) noexcept nogil:
    """Newcomers are for the other loops of the server, in other processes, from now on."""
    cdef int k, batches
    if loop_foreign(l):
        keeper_tell(l, UWS_TOLD_LEAVE)
        return
    if not l.accepting:
        return
    l.now_ms = clock_ms()
    accept_pause(l, SHED_PAUSE_MS)
    l.accept_at_ms = 0
    for k in range(l.n_listeners):
        # Of those who came before this, the kernel may have told us, and nobody else. No more than a long backlog:
        # those who come meanwhile, one after the other, are heard of elsewhere.
        batches = LAST_BATCHES
        while batches != 0 and _take_in(l, l.listener[k]):
            batches -= 1
    l.accepting = 0
    l.accept_at_ms = 0


cdef void accept_look(UwsLoop* l) noexcept nogil:
    """Somebody may wait of whom the kernel has told a process that is no more."""
    if loop_foreign(l):
        keeper_tell(l, UWS_TOLD_LOOK)
        return
    l.now_ms = clock_ms()
    if l.accepting and l.accept_at_ms == 0:
        accept_pause(l, SHED_PAUSE_MS)
        accept_resume(l)


cdef void accept_leave_shared(UwsLoop* l) noexcept nogil:
    """The loop drains: who comes to a listener that other processes accept from too is theirs."""
    cdef int k
    if loop_foreign(l):
        keeper_tell(l, UWS_TOLD_SHARED)
        return
    if not l.accepting or l.accept_at_ms != 0:
        return    # not accepted from now, and accept_resume leaves them out
    for k in range(l.n_listeners):
        if l.shared[k]:
            poller_remove(&l.poller, l.listener[k])
