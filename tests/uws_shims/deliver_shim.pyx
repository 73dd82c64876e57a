# Window of the tests onto _uws.post and _uws.deliver: one loop without threads, whose every step the test takes.
# Imported by tests/engine/test_post.py, test_deliver.py, test_life.py and test_loop.py.

from libc.errno cimport errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from _uws.clock cimport clock_us
from _uws.deliver cimport (
    UWS_DELIVER_NOTES,
    UWS_QUICK_ENOUGH,
    UWS_WAITED,
    UWS_WAITED_CLOSED,
    UWS_WAITED_TIMEOUT,
    UwsDelivery,
    deliver_begin,
    deliver_done,
    deliver_held,
    deliver_next,
    deliver_next_note,
    deliver_wait,
    deliver_wait_room,
)
from _uws.drain cimport loop_drain
from _uws.errs cimport UWS_OK
from _uws.flush cimport conn_dirty, conn_flush, conn_flush_all
from _uws.frame cimport UWS_OP_BINARY
from _uws.hold cimport conn_hold, conn_recall, conn_release, conn_suspend
from _uws.life cimport conn_abort, conn_begin, conn_close, conn_consumed, conn_leave, conn_raised, conn_upgraded
from _uws.loop cimport batch_destroy, batch_init, loop_destroy, loop_init, loop_next_ms
from _uws.memory cimport UWS_R_SLAB, UwsRange, memory_ranges
from _uws.outq cimport outq_put, outq_put_frame
from _uws.poller cimport poller_wait
from _uws.post cimport post_drained, post_event, post_nudge, post_spill
from _uws.proto cimport (
    UWS_EV_CLOSE,
    UWS_EV_DRAIN,
    UWS_EV_MESSAGE,
    UWS_EV_OPEN,
    UWS_EV_RECALL,
    UWS_EVF_OWNED,
    UwsEvent,
)
from _uws.slab cimport slab_give, slab_held_bytes, slab_take
from _uws.slot cimport conn_blocks, conn_index, conn_side, tick_now
from _uws.slow cimport slow_first, slow_got_on, slow_leave
from _uws.sock cimport UwsTransport, iovec, sock_writable
from _uws.state cimport (
    UWS_BATCH_EVENTS,
    UWS_C_ABORT,
    UWS_C_EXPIRED,
    UWS_C_LOCAL,
    UWS_C_REVOKED,
    UWS_F_BUSY,
    UWS_F_PAUSED,
    UWS_F_PENDING,
    UWS_F_READY,
    UWS_O_NONE,
    UWS_O_RUNNER,
    UWS_S_FREE,
    UWS_W_CLOSE,
    UWS_W_DRAIN,
    UWS_W_MESSAGE,
    UwsBatch,
    UwsConn,
    UwsLimits,
    UwsLoop,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)
from _uws.tend cimport conn_timer, tend_queues
from _uws.wheel cimport wheel_expire

BATCH_EVENTS = UWS_BATCH_EVENTS
DELIVER_NOTES = UWS_DELIVER_NOTES
QUICK_ENOUGH = UWS_QUICK_ENOUGH
WAITED = UWS_WAITED
WAITED_CLOSED = UWS_WAITED_CLOSED
WAITED_TIMEOUT = UWS_WAITED_TIMEOUT

cdef tuple FLAGS = (("busy", UWS_F_BUSY), ("ready", UWS_F_READY), ("pending", UWS_F_PENDING),
                    ("paused", UWS_F_PAUSED))


# What a thread that sends without end is to a loop that flushes: see Bare.flush_all.
cdef UwsLoop* crowded = NULL
cdef int32_t[64] sent
cdef int n_sent

cdef ssize_t _send_and_be_sent(int fd, const uint8_t* data, size_t len_bytes) noexcept nogil:
    cdef UwsConn* last
    if n_sent != 0 and n_sent < 64:
        last = &crowded.table[sent[n_sent - 1]]
        outq_put(&conn_side(crowded, last).out, &crowded.slab, b"x", 1)
        conn_dirty(crowded, last)
    _note_sent(fd)
    return <ssize_t>len_bytes


# What a peer that reads slowly is to a loop: it takes so many bytes at a time.
cdef size_t sip_bytes

cdef ssize_t _sip(int fd, const uint8_t* data, size_t len_bytes) noexcept nogil:
    return <ssize_t>min(len_bytes, sip_bytes)


cdef ssize_t _sipv(int fd, iovec* parts, int n) noexcept nogil:
    return <ssize_t>min(parts[0].iov_len, sip_bytes)


cdef void _note_sent(int fd) noexcept nogil:
    global n_sent
    if n_sent < 64:
        sent[n_sent] = fd
    n_sent += 1


cdef class Delivery:
    """Events of one connection that were taken."""
    cdef UwsDelivery d
    cdef bint over                # its CLOSE has been taken

    @property
    def index(self):
        return self.d.index


cdef class Bare:
    cdef UwsLoop l
    cdef UwsBatch b
    cdef UwsTransport slow

    def __cinit__(self, size_t max_inbox_bytes=1 << 20, uint32_t max_inbox_messages=1000,
                  size_t max_inbox_total_bytes=1 << 30, size_t max_buffered_bytes=1 << 20):
        cdef UwsLimits limits
        memset(&limits, 0, sizeof(limits))
        limits.handshake_timeout_ms = limits.close_timeout_ms = 10000
        limits.schedule_timeout_us = 1000000
        limits.max_inbox_bytes = max_inbox_bytes
        limits.max_inbox_messages = max_inbox_messages
        limits.max_inbox_total_bytes = max_inbox_total_bytes
        limits.max_buffered_bytes = max_buffered_bytes
        assert batch_init(&self.b) == UWS_OK
        assert loop_init(&self.l, &limits, 1 << 20, 1000, 1024) == UWS_OK
        self.l.want = UWS_W_MESSAGE | UWS_W_CLOSE | UWS_W_DRAIN

    def __dealloc__(self):
        loop_destroy(&self.l)
        batch_destroy(&self.b)

    cdef UwsConn* at(self, int fd) except NULL:
        if not 0 <= fd < <int>self.l.table_cap or self.l.table[fd].state == UWS_S_FREE:
            raise IndexError(fd)
        return &self.l.table[fd]

    def open(self, int fd):
        """An open connection on fd, a socket's descriptor that is the loop's from now on."""
        cdef UwsConn* c = conn_begin(&self.l, fd)
        if c == NULL:
            raise OSError(errno, "conn_begin")
        conn_upgraded(&self.l, c)
        return fd

    @property
    def table_cap(self):
        return self.l.table_cap

    def is_there(self, int fd):
        return self.l.table[fd].state != UWS_S_FREE

    def poller_present(self, bint there):
        """Whether new events go to the poller's batch, or to the inboxes because it is away."""
        self.l.batch = &self.b if there else NULL

    def post(self, int fd, bytes payload, bint owned=False):
        """A message of the connection. owned: its payload is a block of its own, else it is in the arena."""
        cdef UwsEvent event
        cdef UwsConn* c = self.at(fd)
        memset(&event, 0, sizeof(event))
        event.kind = UWS_EV_MESSAGE
        event.len_bytes = len(payload)
        if owned:
            event.flags = UWS_EVF_OWNED
            event.data = <uint8_t*>slab_take(&self.l.slab, event.len_bytes, NULL)
            assert event.data != NULL
        else:
            event.data = self.b.arena + self.b.used_bytes
            self.b.used_bytes += event.len_bytes
        memcpy(event.data, <const uint8_t*>payload, event.len_bytes)
        assert post_event(&self.l, c, &event) == UWS_OK

    def post_open(self, int fd):
        cdef UwsEvent event
        memset(&event, 0, sizeof(event))
        event.kind = UWS_EV_OPEN
        assert post_event(&self.l, self.at(fd), &event) == UWS_OK

    def hold(self, int fd):
        return conn_hold(&self.l, self.at(fd))

    def release(self, int fd):
        conn_release(&self.l, self.at(fd))

    def suspend(self, int fd):
        return conn_suspend(&self.l, self.at(fd))

    def recall(self, int fd):
        return conn_recall(&self.l, self.at(fd))

    def held(self, Delivery taken not None):
        """What a runner asks between two callbacks: was the connection paused, and is the delivery over for it?"""
        return deliver_held(&self.l, &taken.d)

    def drained(self, int fd):
        """As where its queue has come down to the low mark."""
        cdef UwsConn* c = self.at(fd)
        assert conn_side(&self.l, c) != NULL
        post_drained(&self.l, c)

    # ---- who waits for the kernel

    def got_on(self, int fd):
        cdef UwsConn* c = self.at(fd)
        assert conn_side(&self.l, c) != NULL
        slow_got_on(&self.l, c)

    def caught_up(self, int fd):
        slow_leave(&self.l, self.at(fd))

    def slowest(self):
        cdef UwsConn* c = slow_first(&self.l)
        return -1 if c == NULL else conn_index(&self.l, c)

    def line(self):
        """All of them, from the one that has not got on for longest; the links back agree."""
        cdef int32_t at = self.l.slow_head, before = -1
        found = []
        while at >= 0:
            assert self.l.table[at].side.behind and self.l.table[at].side.slow_prev == before
            found.append(at)
            before = at
            at = self.l.table[at].side.slow_next
        assert self.l.slow_tail == before
        return found

    def tend_queues(self, size_t max_out_bytes):
        self.l.limits.max_out_bytes = max_out_bytes
        pthread_mutex_lock(&self.l.lock)
        tend_queues(&self.l)
        pthread_mutex_unlock(&self.l.lock)

    def writable(self, int fd):
        return sock_writable(fd)

    # ---- sending

    def queue(self, int fd, bytes data):
        """As whoever sends does."""
        self.queue_bytes(fd, data)
        conn_dirty(&self.l, self.at(fd))

    def queue_message(self, int fd, size_t len_bytes):
        """A message of so many zero bytes."""
        cdef UwsConn* c = self.at(fd)
        cdef bytes data = bytes(len_bytes)
        assert outq_put_frame(&conn_side(&self.l, c).out, &self.l.slab, UWS_OP_BINARY, 0, <const uint8_t*>data,
                              len_bytes) == UWS_OK
        conn_dirty(&self.l, c)

    def flush(self, int fd):
        conn_flush(&self.l, self.at(fd))

    def flush_all(self):
        """Flush, while others send more on each connection that has been flushed; return the descriptors in turn."""
        global crowded, n_sent
        cdef UwsTransport io = self.l.io[0]
        cdef const UwsTransport* plain = self.l.io
        io.send = &_send_and_be_sent
        crowded, n_sent = &self.l, 0
        self.l.io = &io
        conn_flush_all(&self.l)
        self.l.io = plain
        return [sent[i] for i in range(min(n_sent, 64))]

    def spill(self):
        post_spill(&self.l)

    def close(self, int fd):
        assert conn_close(&self.l, self.at(fd), UWS_C_LOCAL, 1000, NULL, 0) == UWS_OK

    def revoke(self, int fd):
        """As server.disconnect() does."""
        assert conn_close(&self.l, self.at(fd), UWS_C_REVOKED, 3000, NULL, 0) == UWS_OK

    def expire(self, int fd):
        conn_leave(&self.l, self.at(fd), UWS_C_EXPIRED)

    def sip(self, size_t n):
        """From now on peers take n bytes at a time."""
        global sip_bytes
        sip_bytes = n
        self.slow = self.l.io[0]
        self.slow.send = _sip
        self.slow.sendv = _sipv
        self.l.io = &self.slow

    def queued_for(self, int fd):
        cdef UwsConn* c = self.at(fd)
        return 0 if c.side == NULL else c.side.out.bytes

    def later(self, uint64_t ms):
        """As if so much time had passed: run the timers that run out."""
        cdef int32_t index
        self.l.start_ms -= ms
        tick_now(&self.l)
        index = wheel_expire(&self.l.wheel, self.l.tick)
        while index >= 0:
            conn_timer(&self.l, &self.l.table[index])
            index = wheel_expire(&self.l.wheel, self.l.tick)

    def abort(self, int fd):
        conn_abort(&self.l, self.at(fd), UWS_C_ABORT)

    def fail(self, int fd):
        """As where a callback of it has raised."""
        conn_raised(&self.l, self.at(fd))

    def drain(self, uint32_t over_ms):
        loop_drain(&self.l, over_ms, 1012, False, 1000)

    def queue_bytes(self, int fd, bytes data):
        cdef UwsConn* c = self.at(fd)
        assert outq_put(&conn_side(&self.l, c).out, &self.l.slab, data, len(data)) == UWS_OK

    # ---- delivering

    def threads(self, int runners, bint polled):
        """So many runners; polled: one of them has the role, and is away."""
        self.l.runners = runners
        self.l.owner = UWS_O_RUNNER if polled else UWS_O_NONE
        self.l.away = polled

    @property
    def role(self):
        """What the runner that has the role got when it went away."""
        return self.l.away_seq

    def blame(self, uint64_t ago_us):
        """As the watchdog does, of a delivery that has kept the role for so long."""
        self.b.blamed_us = clock_us() - ago_us

    def blocks(self, int fd):
        return bool(conn_blocks(&self.l, self.at(fd)))

    def begin(self, uint64_t role=0):
        cdef Delivery taken = Delivery()
        taken.d.role = role
        return taken if deliver_begin(&self.l, &self.b, &taken.d) else None

    def next(self, Delivery taken not None):
        """The next event: a message's payload, "close", or None"""
        cdef UwsEvent* event = deliver_next(&taken.d)
        if event == NULL:
            event = deliver_next_note(&self.l, &taken.d)
        taken.over = taken.over or (event != NULL and event.kind == UWS_EV_CLOSE)
        return self.content(event)

    def done(self, Delivery taken not None):
        if taken.over:
            conn_consumed(&self.l, &self.l.table[taken.d.index])
        deliver_done(&self.l, &taken.d)

    def wait(self, Delivery taken not None, uint64_t timeout_us=0):
        """(status, payload)"""
        cdef int status
        with nogil:
            pthread_mutex_lock(&self.l.lock)
            status = deliver_wait(&self.l, &taken.d, timeout_us)
            pthread_mutex_unlock(&self.l.lock)
        return status, self.content(taken.d.event) if status == UWS_WAITED else None

    def wait_room(self, int fd, uint32_t generation, uint64_t timeout_us=0):
        cdef int status
        with nogil:
            pthread_mutex_lock(&self.l.lock)
            status = deliver_wait_room(&self.l, fd, generation, 0, clock_us() + timeout_us)
            pthread_mutex_unlock(&self.l.lock)
        return status

    cdef object content(self, UwsEvent* event):
        if event == NULL:
            return None
        kinds = {UWS_EV_CLOSE: "close", UWS_EV_DRAIN: "drain", UWS_EV_OPEN: "open", UWS_EV_RECALL: "recall"}
        return kinds.get(event.kind) or (<char*>event.data)[:event.len_bytes]

    # ---- the poller's bell

    def sleep(self):
        """As the poller does before it waits."""
        self.l.polling = 1
        self.l.woken = 0

    def next_ms(self):
        return loop_next_ms(&self.l)

    def nudge(self):
        post_nudge(&self.l)

    @property
    def wake_fd(self):
        return self.l.poller.wake_fd

    def poll(self):
        """How many descriptors epoll reports."""
        return poller_wait(&self.l.poller, 0)

    # ---- figures

    def used_for_a_while(self, size_t want, int count):
        """Take so many blocks of the slab, and give them all back."""
        cdef void* blocks[4096]
        cdef int i
        assert count <= 4096
        for i in range(count):
            blocks[i] = slab_take(&self.l.slab, want, NULL)
            assert blocks[i] != NULL
        for i in range(count):
            slab_give(&self.l.slab, blocks[i])

    def slab_mappings(self):
        """What the account says is mapped for the slab, and what the slab says."""
        cdef UwsRange ranges[256]
        cdef size_t i, total = 0, n = memory_ranges(&self.l, ranges, 256)
        assert n <= 256
        for i in range(n):
            if ranges[i].kind == UWS_R_SLAB:
                total += ranges[i].len_bytes
        return total, slab_held_bytes(&self.l.slab)

    def flags(self, int fd):
        cdef UwsConn* c = self.at(fd)
        return {name for name, bit in FLAGS if c.flags & bit}

    def generation(self, int fd):
        return self.at(fd).generation

    def queued(self):
        """(what the loop counts, writes to the eventfd)"""
        return self.l.out_bytes, self.l.count.wakeups

    def inbox(self, int fd):
        """(messages, bytes)"""
        cdef UwsConn* c = self.at(fd)
        if c.side == NULL:
            return 0, 0
        return c.side.inbox.count, c.side.inbox.bytes

    def figures(self):
        return {"batch": self.b.n - self.b.taken, "ready": self.l.n_ready, "inbox_bytes": self.l.inbox_bytes,
                "blocks": self.l.slab.live_blocks, "conns": self.l.n_conns, "pauses": self.l.count.pauses}
