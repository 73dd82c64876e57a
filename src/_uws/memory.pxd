# F5. Where a loop's memory is: what connections own, by purpose, and how much of what is mapped the kernel has given.
# Owns nothing but the list of the threads' batches. Called by role and core; asked by core for Loop.memory().

from libc.stdint cimport uint32_t

from _uws.state cimport UwsBatch, UwsLoop

# Bytes, the slab's blocks as their classes round them up.
cdef struct UwsMemory:
    uint32_t connections      # of any kind: slots that are not free
    uint32_t conns            # ... that have a Conn
    # in the slab
    size_t side_blocks
    size_t send_queues
    size_t inboxes
    size_t partial_messages
    size_t request_heads
    size_t compression
    size_t slab_used          # all of these, and what events own that are being delivered
    # resident
    size_t slab
    size_t table
    size_t extra
    size_t arenas
    size_t events
    size_t stacks
    # from malloc
    size_t interned
    size_t shared_compression
    size_t fixed              # the loop itself, and its page

# One mapping, and what it counts as.
cdef enum UwsRangeKind:
    UWS_R_SLAB = 0
    UWS_R_TABLE = 1
    UWS_R_EXTRA = 2
    UWS_R_ARENA = 3
    UWS_R_EVENTS = 4
    UWS_R_STACK = 5

cdef struct UwsRange:
    void* at
    size_t len_bytes
    uint32_t kind

# A thread's batch joins the loop, and leaves it; the lock is held. memory_stack(): of the calling thread, before.
cdef void memory_stack(UwsBatch* b) noexcept nogil
cdef void memory_join(UwsLoop* l, UwsBatch* b) noexcept nogil
cdef void memory_leave(UwsLoop* l, UwsBatch* b) noexcept nogil

# Add to out what connections own, from slot at[0] on, and move on. The lock is held; it may be let go of between two
# calls. False: that were all.
cdef bint memory_walk(UwsLoop* l, uint32_t* at, UwsMemory* out) noexcept nogil

# Add what is counted anyway. The lock is held.
cdef void memory_sums(UwsLoop* l, UwsMemory* out) noexcept nogil

# What a loop without connections has left of one; NULL: nothing. The lock is held.
cdef const char* memory_left(const UwsLoop* l) noexcept nogil

# Write up to cap of the loop's mappings, and return how many there are. The lock is held.
cdef size_t memory_ranges(UwsLoop* l, UwsRange* out, size_t cap) noexcept nogil

# Add what the kernel has given of mappings. No lock: of what has been unmapped meanwhile there is nothing.
cdef void memory_resident(const UwsRange* ranges, size_t n, UwsMemory* out) noexcept nogil
