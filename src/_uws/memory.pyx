# F5. See memory.pxd.
#
# Nothing is counted for this while messages pass: somebody who asks pays for the walk. It lets go of the lock every
# WALK_STEPS slots, notes and chunks, so the figures are of one moment for each connection, not for all together.

from libc.stdint cimport uint8_t, uintptr_t
from posix.unistd cimport _SC_PAGESIZE, sysconf

from _uws.proto cimport UWS_EVF_OWNED, UwsEvent
from _uws.slab cimport UWS_SLAB_ARENA_BYTES, UWS_SLAB_CLASSES, UwsArena, slab_block_bytes, slab_used_bytes
from _uws.state cimport (
    UWS_ARENA_BYTES,
    UWS_ARENA_PAD,
    UWS_BATCH_EVENTS,
    UWS_SCRATCH_EVENTS,
    UWS_S_FREE,
    UwsChunk,
    UwsConn,
    UwsExtra,
    UwsNote,
    UwsSide,
    pthread_t,
)

cdef extern from "sys/mman.h" nogil:
    int mincore(void*, size_t, uint8_t*)

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_attr_t:
        pass
    pthread_t pthread_self()
    int pthread_getattr_np(pthread_t, pthread_attr_t*)
    int pthread_attr_getstack(const pthread_attr_t*, void**, size_t*)
    int pthread_attr_destroy(pthread_attr_t*)

cdef enum:
    WALK_STEPS = 4096             # under one taking of the lock: some 50 us
    LOOK_PAGES = 4096             # in one call of the kernel


# ---- the batches of threads

cdef void memory_stack(UwsBatch* b) noexcept nogil:
    """Note the calling thread's stack, which is there for the loop's sake."""
    cdef pthread_attr_t attr
    if pthread_getattr_np(pthread_self(), &attr) != 0:
        return
    if pthread_attr_getstack(&attr, &b.stack, &b.stack_bytes) != 0:
        b.stack = NULL
    pthread_attr_destroy(&attr)


cdef void memory_join(UwsLoop* l, UwsBatch* b) noexcept nogil:
    b.next = l.batches
    l.batches = b


cdef void memory_leave(UwsLoop* l, UwsBatch* b) noexcept nogil:
    """One that has not joined may leave, too."""
    cdef UwsBatch** at = &l.batches
    while at[0] != NULL and at[0] != b:
        at = &at[0].next
    if at[0] != NULL:
        at[0] = b.next


# ---- what connections own

cdef inline size_t _block(const void* p) noexcept nogil:
    return slab_block_bytes(p) if p != NULL else 0


cdef uint32_t _side(const UwsSide* side, UwsMemory* out) noexcept nogil:
    """Returns how many steps it took."""
    cdef uint32_t steps = 1
    cdef const UwsChunk* chunk = side.out.head
    cdef const UwsNote* note = side.inbox.head
    out.side_blocks += _block(side)
    out.request_heads += _block(side.upgrade) + _block(side.head)
    while chunk != NULL:
        out.send_queues += _block(chunk)
        chunk = chunk.next
        steps += 1
    while note != NULL:
        out.inboxes += _block(note)
        if note.event.flags & UWS_EVF_OWNED:
            out.inboxes += _block(note.event.data)
        note = note.next
        steps += 1
    return steps


cdef bint memory_walk(UwsLoop* l, uint32_t* at, UwsMemory* out) noexcept nogil:
    cdef uint32_t steps = 0
    cdef const UwsConn* c
    while at[0] < l.table_top:
        if steps >= WALK_STEPS:
            return True
        c = &l.table[at[0]]
        at[0] += 1
        steps += 1
        if c.state == UWS_S_FREE:
            continue
        out.connections += 1
        if c.conn != NULL:
            out.conns += 1
        if c.proto.part != NULL:
            out.partial_messages += _block(c.proto.part) + _block(c.proto.part.buf)
            steps += 1
        if c.side != NULL:
            steps += _side(c.side, out)
    return False


cdef void memory_sums(UwsLoop* l, UwsMemory* out) noexcept nogil:
    out.compression += l.slab.context_bytes
    out.slab_used += slab_used_bytes(&l.slab)
    out.interned += l.intern.held_bytes
    # Without its lock, which may be held for as long as a message takes to be compressed: a figure that is being
    # changed is old or new.
    out.shared_compression += l.deflater.held_bytes + l.deflater.cap_bytes + l.env.inflater.held_bytes
    out.fixed += sizeof(UwsLoop) + l.page_len


cdef const char* memory_left(const UwsLoop* l) noexcept nogil:
    """What a loop that has no connection any more has left of one, by the counter that says so; NULL: nothing."""
    if l.n_open != 0 or l.n_ready != 0 or l.dirty_head >= 0 or l.slow_head >= 0:
        return b"connections on its lists"
    if l.wheel.count != 0:
        return b"timers"
    if l.blockers != 0:
        return b"connections whose callbacks block"
    if l.inbox_bytes != 0 or l.inbox_count != 0:
        return b"events that wait"
    if l.out_bytes != 0:
        return b"bytes to be sent"
    if l.env.partial_bytes != 0 or l.env.stalest != NULL:
        return b"incomplete messages"
    if l.slab.live_blocks != 0 or l.slab.used_bytes != 0 or l.slab.context_bytes != 0:
        return b"blocks of the slab"
    # Its own subprotocols are strings as well.
    if l.intern.live > <uint32_t>l.n_subprotocols:
        return b"strings"
    return NULL


# ---- what is mapped

cdef inline size_t _add(UwsRange* out, size_t cap, size_t n, const void* at, size_t len_bytes, int kind) noexcept nogil:
    if n < cap:
        out[n].at = <void*>at
        out[n].len_bytes = len_bytes
        out[n].kind = kind
    return n + 1


cdef size_t _ring(UwsRange* out, size_t cap, size_t n, const UwsArena* first) noexcept nogil:
    cdef const UwsArena* arena = first
    if first == NULL:
        return n
    while True:
        n = _add(out, cap, n, arena, arena.mapped_bytes, UWS_R_SLAB)
        arena = arena.next
        if arena == first:
            return n


cdef size_t memory_ranges(UwsLoop* l, UwsRange* out, size_t cap) noexcept nogil:
    cdef size_t n = 0
    cdef int i
    cdef const UwsBatch* b = l.batches
    cdef const UwsArena* arena
    # Beyond the highest slot nothing has been touched.
    n = _add(out, cap, n, l.table, <size_t>l.table_top * sizeof(UwsConn), UWS_R_TABLE)
    n = _add(out, cap, n, l.extra, <size_t>l.table_top * sizeof(UwsExtra), UWS_R_EXTRA)
    n = _add(out, cap, n, l.scratch, UWS_SCRATCH_EVENTS * sizeof(UwsEvent), UWS_R_EVENTS)
    while b != NULL:
        n = _add(out, cap, n, b.arena, UWS_ARENA_BYTES + UWS_ARENA_PAD, UWS_R_ARENA)
        n = _add(out, cap, n, b.events, UWS_BATCH_EVENTS * sizeof(UwsEvent), UWS_R_EVENTS)
        if b.stack != NULL:
            n = _add(out, cap, n, b.stack, b.stack_bytes, UWS_R_STACK)
        b = b.next
    for i in range(UWS_SLAB_CLASSES):
        n = _ring(out, cap, n, l.slab.room[i])
        arena = l.slab.kept[i]
        while arena != NULL:
            n = _add(out, cap, n, arena, UWS_SLAB_ARENA_BYTES, UWS_R_SLAB)
            arena = arena.next
    n = _ring(out, cap, n, l.slab.full)
    n = _ring(out, cap, n, l.slab.large)
    return _ring(out, cap, n, l.slab.kept_large)


cdef size_t _resident(const void* at, size_t len_bytes, size_t page_bytes) noexcept nogil:
    """Bytes of a mapping that have pages. What lies before the first page's beginning is on that page, too."""
    cdef uint8_t pages[LOOK_PAGES]
    cdef uintptr_t begin = <uintptr_t>at & ~(<uintptr_t>page_bytes - 1)
    cdef size_t left = <size_t>(<uintptr_t>at - begin) + len_bytes, found = 0, look, i
    left = (left + page_bytes - 1) // page_bytes
    while left != 0:
        look = left if left < LOOK_PAGES else LOOK_PAGES
        # A thread's guard pages and what has been unmapped meanwhile are no error: there is nothing.
        if mincore(<void*>begin, look * page_bytes, pages) == 0:
            for i in range(look):
                found += pages[i] & 1
        begin += look * page_bytes
        left -= look
    return found * page_bytes


cdef void memory_resident(const UwsRange* ranges, size_t n, UwsMemory* out) noexcept nogil:
    cdef size_t i, found, page_bytes = <size_t>sysconf(_SC_PAGESIZE)
    for i in range(n):
        found = _resident(ranges[i].at, ranges[i].len_bytes, page_bytes)
        if ranges[i].kind == UWS_R_SLAB:
            out.slab += found
        elif ranges[i].kind == UWS_R_TABLE:
            out.table += found
        elif ranges[i].kind == UWS_R_EXTRA:
            out.extra += found
        elif ranges[i].kind == UWS_R_ARENA:
            out.arenas += found
        elif ranges[i].kind == UWS_R_EVENTS:
            out.events += found
        else:
            out.stacks += found
