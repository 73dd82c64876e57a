# Window of the tests onto _uws.slot: a loop that has no more than a table, a slab and a poller.
# Owns all three; the descriptors that the poller is asked about are the test's.
# Imported by tests/engine/test_slot.py and, for the sizes, tests/library/test_limits_page.py.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from _uws.errs cimport UWS_OK
from _uws.inbox cimport inbox_drop, inbox_put
from _uws.outq cimport outq_drop, outq_put
from _uws.poller cimport EPOLLIN, EPOLLOUT, UWS_TAG_CONN, poll_tag, poller_add, poller_destroy, poller_init
from _uws.proto cimport UWS_EV_MESSAGE, UwsEvent
from _uws.slab cimport slab_destroy, slab_init, slab_take
from _uws.slot cimport (
    conn_at, conn_index, conn_poll_for, conn_reading, conn_side, conn_trim, conn_unpoll, side_give_request,
)
from _uws.state cimport (
    UWS_F_DIRTY, UWS_F_EOF, UWS_F_GONE, UWS_F_IN_OFF, UWS_F_OUT_ON, UWS_F_PAUSED, UWS_F_READY, UWS_F_UNPOLLED,
    UWS_S_DEAD, UWS_S_FREE, UWS_S_OPEN, UwsChunk, UwsConn, UwsExtra, UwsLoop, UwsNote, UwsSide,
)
from _uws.upgrade cimport UwsUpgrade
from _uws.wheel cimport wheel_init

S_FREE = UWS_S_FREE
S_OPEN = UWS_S_OPEN
S_DEAD = UWS_S_DEAD
F_DIRTY = UWS_F_DIRTY
F_READY = UWS_F_READY
F_OUT_ON = UWS_F_OUT_ON
F_IN_OFF = UWS_F_IN_OFF
F_UNPOLLED = UWS_F_UNPOLLED
F_PAUSED = UWS_F_PAUSED
F_EOF = UWS_F_EOF
F_GONE = UWS_F_GONE
IN = EPOLLIN
OUT = EPOLLOUT
SLOT_BYTES = sizeof(UwsConn)
EXTRA_BYTES = sizeof(UwsExtra)
SIDE_BYTES = sizeof(UwsSide)
EVENT_BYTES = sizeof(UwsEvent)
NOTE_BYTES = sizeof(UwsNote)
CHUNK_BYTES = sizeof(UwsChunk)


cdef class Table:
    cdef UwsLoop* loop
    cdef bint polls

    def __cinit__(self, uint32_t cap, bint polls=False):
        cdef int status
        self.loop = <UwsLoop*>calloc(1, sizeof(UwsLoop))
        if self.loop == NULL:
            raise MemoryError
        self.loop.table = <UwsConn*>calloc(cap, sizeof(UwsConn))
        if self.loop.table == NULL:
            raise MemoryError
        self.loop.table_cap = cap
        wheel_init(&self.loop.wheel, &self.loop.table.link, sizeof(UwsConn), 0)
        status = slab_init(&self.loop.slab)
        assert status == UWS_OK
        if polls:
            status = poller_init(&self.loop.poller)
            assert status == UWS_OK
            self.polls = True

    def __dealloc__(self):
        self.close()
        if self.loop != NULL:
            slab_destroy(&self.loop.slab)
            free(self.loop.table)
            free(self.loop)

    def close(self):
        if self.polls:
            poller_destroy(&self.loop.poller)
            self.polls = False

    cdef UwsConn* _conn(self, int32_t index) except NULL:
        if not 0 <= index < <int32_t>self.loop.table_cap:
            raise IndexError(index)
        return &self.loop.table[index]

    def make(self, int32_t index, uint32_t generation, uint8_t state=UWS_S_OPEN):
        cdef UwsConn* c = self._conn(index)
        c.generation = generation
        c.state = state

    def has_timer(self, int32_t index):
        return self._conn(index).link.deadline != 0

    def at(self, int32_t index, uint32_t generation):
        """The index of the connection that the handle means, or None."""
        cdef UwsConn* c = conn_at(self.loop, index, generation)
        return None if c == NULL else conn_index(self.loop, c)

    # ---- the side block

    def side(self, int32_t index):
        """Whether the block is the one that was there before; None if there was none and it is all zero, but for the
        payload that is written before it is read."""
        cdef UwsConn* c = self._conn(index)
        cdef UwsSide* before = c.side
        cdef UwsSide* side = conn_side(self.loop, c)
        cdef size_t i
        assert side != NULL and c.side == side
        if before != NULL:
            return side == before
        for i in range(<size_t>(<uint8_t*>&side.control - <uint8_t*>side)):
            assert (<uint8_t*>side)[i] == 0, i
        return None

    def scribble(self, int32_t index):
        """Leave something where nobody looks to see whether the block is empty."""
        cdef UwsSide* side = self._conn(index).side
        assert side != NULL
        side.dirty_next = side.ready_next = -1
        side.control_len = 125
        memset(side.control, 0xEE, sizeof(side.control))

    def has_side(self, int32_t index):
        return self._conn(index).side != NULL

    def trim(self, int32_t index):
        conn_trim(self.loop, self._conn(index))

    def fill(self, int32_t index, str what, bint on):
        """Put something into the side block, or take it out."""
        cdef UwsSide* side = self._conn(index).side
        cdef UwsEvent event
        cdef int status = UWS_OK
        assert side != NULL
        if what == "out":
            if on:
                status = outq_put(&side.out, &self.loop.slab, b"x", 1)
            else:
                outq_drop(&side.out, &self.loop.slab)
        elif what == "inbox":
            event.kind = UWS_EV_MESSAGE
            event.flags = 0
            event.data = NULL
            event.len_bytes = 0
            if on:
                status = inbox_put(&side.inbox, &self.loop.slab, &event)
            else:
                inbox_drop(&side.inbox, &self.loop.slab)
        elif what == "request":
            if on:
                side.upgrade = <UwsUpgrade*>slab_take(&self.loop.slab, sizeof(UwsUpgrade), NULL)
                side.head = <uint8_t*>slab_take(&self.loop.slab, 1000, &side.head_cap)
                side.head_len = 17
                assert side.upgrade != NULL and side.head != NULL
            else:
                side_give_request(self.loop, side)
                assert side.upgrade == NULL and side.head == NULL
                assert side.head_len == 0 and side.head_cap == 0
        elif what == "waiters":
            side.waiters = 1 if on else 0
        elif what == "pong":
            side.pong_waits = 1 if on else 0
        else:
            raise ValueError(what)
        assert status == UWS_OK

    @property
    def live_blocks(self):
        return self.loop.slab.live_blocks

    # ---- epoll

    @property
    def epoll_fd(self):
        return self.loop.poller.epoll_fd

    def add(self, int32_t fd):
        """Into the epoll set for reading, as a connection begins; its slot's index is its descriptor."""
        tag = poll_tag(UWS_TAG_CONN, fd, self._conn(fd).generation)
        assert poller_add(&self.loop.poller, fd, EPOLLIN, tag) == UWS_OK

    def flags(self, int32_t index):
        return self._conn(index).flags

    def set_flags(self, int32_t index, uint16_t flags):
        self._conn(index).flags = flags

    def poll_for(self, int32_t index, bint reading, bint writing):
        conn_poll_for(self.loop, self._conn(index), reading, writing)

    def reading(self, int32_t index):
        conn_reading(self.loop, self._conn(index))

    def unpoll(self, int32_t index):
        conn_unpoll(self.loop, self._conn(index))
