# F4. See poller.pxd.

from libc.errno cimport EINTR, errno
from libc.string cimport memset
from posix.unistd cimport close, read, write

from _uws.errs cimport UWS_E_SYS, UWS_OK

cdef extern from "sys/epoll.h" nogil:
    cdef enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_MOD
        EPOLL_CTL_DEL
    int epoll_create1(int)
    int epoll_ctl(int, int, int, epoll_event*)
    int epoll_wait(int, epoll_event*, int, int)

cdef extern from "poll.h" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    cdef enum:
        POLLIN
    int poll(pollfd*, unsigned long, int)

cdef extern from "sys/eventfd.h" nogil:
    cdef enum:
        EFD_NONBLOCK
        EFD_CLOEXEC
    int eventfd(unsigned int, int)


cdef int poller_init(UwsPoller* p) noexcept nogil:
    """Returns UWS_OK or UWS_E_SYS (errno says why; nothing is left open)."""
    memset(p, 0, sizeof(UwsPoller))
    p.wake_fd = -1
    p.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    if p.epoll_fd < 0:
        return UWS_E_SYS
    p.wake_fd = bell_make()
    if p.wake_fd < 0 or poller_add(p, p.wake_fd, EPOLLIN, poll_tag(UWS_TAG_WAKE, 0, 0)) != UWS_OK:
        poller_destroy(p)
        return UWS_E_SYS
    return UWS_OK


cdef void poller_destroy(UwsPoller* p) noexcept nogil:
    cdef int saved = errno
    if p.wake_fd >= 0:
        close(p.wake_fd)
    if p.epoll_fd >= 0:
        close(p.epoll_fd)
    p.wake_fd = -1
    p.epoll_fd = -1
    (&errno)[0] = saved


cdef inline int _control(UwsPoller* p, int op, int fd, uint32_t events, uint64_t tag) noexcept nogil:
    cdef epoll_event ev
    memset(&ev, 0, sizeof(ev))
    ev.events = events
    ev.data.u64 = tag
    return UWS_OK if epoll_ctl(p.epoll_fd, op, fd, &ev) == 0 else UWS_E_SYS


cdef int poller_add(UwsPoller* p, int fd, uint32_t events, uint64_t tag) noexcept nogil:
    """Returns UWS_OK or UWS_E_SYS (ENOSPC: /proc/sys/fs/epoll/max_user_watches; ENOMEM)."""
    return _control(p, EPOLL_CTL_ADD, fd, events, tag)


cdef int poller_change(UwsPoller* p, int fd, uint32_t events, uint64_t tag) noexcept nogil:
    return _control(p, EPOLL_CTL_MOD, fd, events, tag)


cdef void poller_remove(UwsPoller* p, int fd) noexcept nogil:
    _control(p, EPOLL_CTL_DEL, fd, 0, 0)


cdef bint poller_watch(const UwsPoller* p, int timeout_ms) noexcept nogil:
    """Wait until poller_wait() would find something, and leave it there. False: a timeout or a signal."""
    cdef pollfd at
    at.fd = p.epoll_fd
    at.events = POLLIN
    at.revents = 0
    return poll(&at, 1, timeout_ms) > 0


cdef int poller_wait(UwsPoller* p, int timeout_ms) noexcept nogil:
    """Fill p.ready. timeout_ms: -1 waits for ever. Returns their number (0 on a timeout or a signal)."""
    cdef int n = epoll_wait(p.epoll_fd, p.ready, UWS_POLL_EVENTS, timeout_ms)
    # EINTR: the caller's next turn waits again. Nothing else can happen to descriptors of our own.
    p.n = <uint32_t>n if n > 0 else 0
    p.next = 0
    return <int>p.n


cdef int bell_make() noexcept nogil:
    """An eventfd, readable once it has been rung; -1: none can be had (errno says why)."""
    return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)


cdef void bell_ring(int fd) noexcept nogil:
    cdef uint64_t one = 1
    cdef ssize_t n
    while True:
        n = write(fd, &one, sizeof(one))
        # EAGAIN: the counter is full, so it is readable already.
        if n >= 0 or errno != EINTR:
            return


cdef void bell_silence(int fd) noexcept nogil:
    cdef uint64_t count
    cdef ssize_t n
    while True:
        n = read(fd, &count, sizeof(count))
        if n >= 0 or errno != EINTR:
            return


cdef void poller_wake(UwsPoller* p) noexcept nogil:
    """Let a poller_wait that is under way, or the next one, return."""
    bell_ring(p.wake_fd)


cdef void poller_awake(UwsPoller* p) noexcept nogil:
    """Take note of the wake-ups: the eventfd is silent again."""
    bell_silence(p.wake_fd)
