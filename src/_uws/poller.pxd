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

# A tag names what is ready: the kind in the top byte, below it whose turn at the slot it is (as much of its generation
# as there is room for), and the slot's index.
cdef enum UwsTag:
    UWS_TAG_CONN = 0
    UWS_TAG_LISTEN = 1
    UWS_TAG_WAKE = 2

cdef struct UwsPoller:
    int epoll_fd
    int wake_fd
    uint32_t n                    # of ready
    uint32_t next                 # the first of them that has not been dealt with
    epoll_event ready[512]

cdef inline uint64_t poll_tag(UwsTag kind, uint32_t value, uint32_t generation) noexcept nogil:
    return (<uint64_t>kind << 56) | (<uint64_t>(generation & 0xFFFFFF) << 32) | value

cdef inline bint poll_tag_means(uint64_t tag, uint32_t generation) noexcept nogil:
    """Is what was ready still there? It may have ended since, and its number may be another's."""
    return (tag >> 32 & 0xFFFFFF) == (generation & 0xFFFFFF)

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
