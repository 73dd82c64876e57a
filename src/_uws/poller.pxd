# F4. epoll (level-triggered) and the eventfd that wakes it. Owns both descriptors; one per loop.
# Waiting is done without the loop's lock; everything else under it.

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "compat.h" nogil:
    cdef enum:
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP
        EPOLLEXCLUSIVE
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data

cdef enum:
    UWS_POLL_EVENTS = 512

# A tag names what is ready: the kind in the top byte, below it a slot's index.
cdef enum UwsTag:
    UWS_TAG_CONN = 0
    UWS_TAG_LISTEN = 1
    UWS_TAG_WAKE = 2

cdef struct UwsPoller:
    int epoll_fd
    int wake_fd
    epoll_event ready[512]

cdef inline uint64_t poll_tag(UwsTag kind, uint32_t value) noexcept nogil:
    return (<uint64_t>kind << 56) | value

cdef int poller_init(UwsPoller* p) noexcept nogil
cdef void poller_destroy(UwsPoller* p) noexcept nogil
cdef int poller_add(UwsPoller* p, int fd, uint32_t events, uint64_t tag) noexcept nogil
cdef int poller_change(UwsPoller* p, int fd, uint32_t events, uint64_t tag) noexcept nogil
cdef void poller_remove(UwsPoller* p, int fd) noexcept nogil
cdef bint poller_watch(const UwsPoller* p, int timeout_ms) noexcept nogil
cdef int poller_wait(UwsPoller* p, int timeout_ms) noexcept nogil
cdef int bell_make() noexcept nogil
cdef void bell_ring(int fd) noexcept nogil
cdef void bell_silence(int fd) noexcept nogil
cdef void poller_wake(UwsPoller* p) noexcept nogil
cdef void poller_awake(UwsPoller* p) noexcept nogil
