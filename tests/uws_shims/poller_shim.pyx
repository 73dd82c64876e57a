# Window of the tests onto _uws.poller. Imported by tests/engine/test_poller.py only.

from libc.errno cimport errno
from libc.stdint cimport uint32_t

from _uws.errs cimport UWS_OK
from _uws.poller cimport (
    EPOLLERR,
    EPOLLEXCLUSIVE,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    UWS_POLL_EVENTS,
    UWS_TAG_CONN,
    UWS_TAG_LISTEN,
    UWS_TAG_WAKE,
    UwsPoller,
    UwsTag,
    poll_tag,
    poll_tag_means,
    poller_add,
    poller_awake,
    poller_change,
    poller_destroy,
    poller_init,
    poller_remove,
    poller_wait,
    poller_wake,
)

IN = EPOLLIN
OUT = EPOLLOUT
ERR = EPOLLERR
EXCLUSIVE = EPOLLEXCLUSIVE
HUP = EPOLLHUP
CONN = UWS_TAG_CONN
LISTEN = UWS_TAG_LISTEN
WAKE = UWS_TAG_WAKE
EVENTS = UWS_POLL_EVENTS


def tag_means(uint32_t made_for, uint32_t asked):
    """Whether a tag of one generation of a slot is taken for that of another."""
    return bool(poll_tag_means(poll_tag(UWS_TAG_CONN, 0xFFFFFFFF, made_for), asked))


cdef class Poller:
    cdef UwsPoller p

    def __cinit__(self):
        # So that destroying what init has refused closes nobody's descriptor.
        self.p.epoll_fd = self.p.wake_fd = -1
        if poller_init(&self.p) != UWS_OK:
            raise OSError(errno, "poller_init")

    def __dealloc__(self):
        poller_destroy(&self.p)

    def destroy(self):
        poller_destroy(&self.p)

    @property
    def fds(self):
        return self.p.epoll_fd, self.p.wake_fd

    def add(self, int fd, uint32_t events, int kind, uint32_t value, uint32_t generation=0):
        if poller_add(&self.p, fd, events, poll_tag(<UwsTag>kind, value, generation)) != UWS_OK:
            raise OSError(errno, "poller_add")

    def change(self, int fd, uint32_t events, int kind, uint32_t value, uint32_t generation=0):
        if poller_change(&self.p, fd, events, poll_tag(<UwsTag>kind, value, generation)) != UWS_OK:
            raise OSError(errno, "poller_change")

    def remove(self, int fd):
        poller_remove(&self.p, fd)

    def wait(self, int timeout_ms):
        """[(kind, value, events)]"""
        cdef int n
        with nogil:
            n = poller_wait(&self.p, timeout_ms)
        return sorted(
            (self.p.ready[i].data.u64 >> 56, self.p.ready[i].data.u64 & 0xFFFFFFFF, self.p.ready[i].events)
            for i in range(n)
        )

    def wake(self):
        poller_wake(&self.p)

    def awake(self):
        poller_awake(&self.p)
