# F5. See drain.pxd.

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from _uws.accept cimport accept_leave_shared
from _uws.clock cimport clock_ms
from _uws.errs cimport UWS_E_HTTP_503, UWS_OK
from _uws.flush cimport conn_flush_all
from _uws.frame cimport UWS_MAX_REASON_BYTES
from _uws.keeper cimport keeper_tell
from _uws.life cimport conn_abort, conn_leave, conn_refuse
from _uws.poller cimport poller_remove
from _uws.post cimport post_nudge
from _uws.slot cimport loop_foreign, tick_now
from _uws.state cimport (
    UWS_C_DRAIN,
    UWS_C_SHUTDOWN,
    UWS_S_ASKING,
    UWS_S_FREE,
    UWS_S_OPEN,
    UWS_S_UPGRADING,
    UWS_TOLD_DRAIN,
    UWS_TOLD_STOP,
    UwsConn,
)
from _uws.tend cimport conn_leaves_at, random_below
from _uws.wheel cimport UWS_TICK_MS

cdef enum:
    FLUSH_EVERY = 256             # slots, while all of them are asked to leave


# ---- draining

cdef uint32_t _shuffled(uint32_t i, uint32_t n, uint64_t key) noexcept nogil:
    """A permutation of 0..n-1, another one for each key: the place of i. Needs no memory, however many they are.

    Each step maps the numbers below a power of two to one another; what comes to lie at n or beyond goes on."""
    cdef uint32_t mask = 1
    cdef int _
    cdef uint64_t x = i, k
    cdef unsigned int half = 1
    while mask < n - 1:
        mask = mask << 1 | 1
        half += 1
    half = half // 2 + 1
    while True:
        k = key
        for _ in range(4):
            # An odd factor, a sum and a shifted xor can all be undone.
            x = (x * (k | 1) + (k >> 32)) & mask
            x ^= x >> half
            k = k * <uint64_t>6364136223846793005 + <uint64_t>1442695040888963407
        if x < n:
            return <uint32_t>x


cdef void loop_drain(UwsLoop* l, uint32_t over_ms, uint16_t code, bint jitter, uint64_t timeout_ms) noexcept nogil:
    """Let nobody in any more, and have the open connections leave with code, evenly over over_ms; then stop.

    jitter: in an order and at times of which only that is known; False: as their descriptors are counted.
    timeout_ms: of the stop, when the last has left or the time is over.
    A second call brings the end forward, or does nothing. Nothing happens where the loop stops already.
    """
    l.now_ms = clock_ms()
    if l.stopping or (l.draining and l.now_ms + over_ms >= l.drain_at_ms):
        return
    if not l.draining:
        l.draining = 1
        accept_leave_shared(l)
    l.drain_at_ms = l.now_ms + over_ms
    l.drain_code = code
    l.drain_jitter = jitter
    l.drain_stop_ms = timeout_ms
    if loop_foreign(l):
        keeper_tell(l, UWS_TOLD_DRAIN)
        return
    drain_all(l, over_ms)
    post_nudge(l)


cdef void drain_all(UwsLoop* l, uint64_t over_ms) noexcept nogil:
    """Give everybody his turn to leave."""
    cdef uint32_t i, n = 0, place, now
    cdef uint64_t key = (<uint64_t>random_below(l, 0xFFFFFFFF) << 32) | random_below(l, 0xFFFFFFFF)
    cdef uint64_t share
    cdef bint jitter = l.drain_jitter
    cdef UwsConn* c
    for i in range(l.table_top):
        c = &l.table[i]
        if c.state == UWS_S_OPEN:
            n += 1
        elif c.state == UWS_S_ASKING and c.side != NULL and c.side.upgrade != NULL \
                and c.side.upgrade.status == UWS_OK:
            # A plain GET is answered still: health has to be seen to be red.
            conn_refuse(l, c, UWS_E_HTTP_503)
    now = tick_now(l)
    place = n
    # From the last to the first: of those whose time comes in one tick the wheel gives back first who came last.
    for i in range(l.table_top, 0, -1):
        c = &l.table[i - 1]
        if c.state == UWS_S_OPEN:
            place -= 1
            share = <uint64_t>(_shuffled(place, n, key) if jitter else place) * over_ms
            if jitter and over_ms != 0:
                share += random_below(l, <uint32_t>over_ms)
            conn_leaves_at(l, c, now + <uint32_t>(share // n // UWS_TICK_MS))


cdef void drain_step(UwsLoop* l) noexcept nogil:
    cdef uint32_t i
    if l.n_open != 0 and l.now_ms < l.drain_at_ms:
        return
    for i in range(l.table_top):
        if l.table[i].state == UWS_S_OPEN:
            conn_leave(l, &l.table[i], UWS_C_DRAIN)
    loop_stop(l, l.drain_code, NULL, 0, l.drain_stop_ms)


# ---- stopping

cdef void loop_stop(UwsLoop* l, uint16_t code, const uint8_t* reason, size_t len_bytes,
                    uint64_t timeout_ms) noexcept nogil:
    """Accept no more, and ask everybody to leave with code; whoever is there after timeout_ms is dropped.

    A second call only brings the deadline forward. The thread that polls says when nothing is left (finished)."""
    cdef uint64_t at
    l.now_ms = clock_ms()
    at = l.now_ms + timeout_ms
    if l.stopping:
        if at < l.stop_at_ms:
            l.stop_at_ms = at
            post_nudge(l)    # the poller sleeps until the old deadline
        return
    l.stopping = 1
    l.stop_at_ms = at
    l.stop_code = code
    l.stop_reason_len = <uint8_t>min(len_bytes, <size_t>UWS_MAX_REASON_BYTES)
    if len_bytes != 0:
        memcpy(l.stop_reason, reason, l.stop_reason_len)
    if loop_foreign(l):
        keeper_tell(l, UWS_TOLD_STOP)
        return
    stop_all(l)
    post_nudge(l)


cdef void stop_all(UwsLoop* l) noexcept nogil:
    """Accept no more, and ask everybody to leave."""
    cdef uint32_t i
    cdef UwsConn* c
    cdef int k
    for k in range(l.n_listeners):
        if l.accept_at_ms == 0 and not (l.draining and l.shared[k]):
            poller_remove(&l.poller, l.listener[k])
    l.accepting = 0
    l.accept_at_ms = 0
    for i in range(l.table_top):
        c = &l.table[i]
        if c.state == UWS_S_UPGRADING or c.state == UWS_S_ASKING:
            conn_abort(l, c, UWS_C_SHUTDOWN)
        elif c.state == UWS_S_OPEN:
            conn_leave(l, c, UWS_C_SHUTDOWN)
        if l.kept and i % FLUSH_EVERY == FLUSH_EVERY - 1:
            # Twenty thousand close frames at a time, in each of many loops, would be memory that nobody else needs.
            conn_flush_all(l)


cdef void stop_step(UwsLoop* l) noexcept nogil:
    cdef uint32_t i
    if l.stop_at_ms != 0 and l.now_ms >= l.stop_at_ms:
        # Once: what is still there afterwards waits for a callback to return, and for no time.
        l.stop_at_ms = 0
        for i in range(l.table_top):
            if l.table[i].state != UWS_S_FREE:
                conn_abort(l, &l.table[i], UWS_C_SHUTDOWN)
