# F1. Buffer allocator in size classes: everything a connection owns beside its slot comes from here.
# Owns the arenas it maps. One per loop, not thread-safe: the caller holds the loop's lock.
# A block finds its arena by its address, so giving it back needs neither its size nor its class.

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef enum:
    UWS_SLAB_CLASSES = 21             # 64, 96, 128, 192 ... 49152, 65536 bytes
    UWS_SLAB_MAX_CLASS_BYTES = 65536  # larger blocks have a mapping of their own
    UWS_SLAB_ARENA_BYTES = 262144     # size and alignment of an arena
    UWS_SLAB_HEAD_BYTES = 64          # of UwsArena; blocks follow, the first of them on a cache line
    UWS_SLAB_KEEP_BYTES = 2097152     # the largest mapping of its own that is kept for the next taker
    UWS_SLAB_MAX_LARGE = 8            # of those that are kept
    UWS_SLAB_MAX_EXTRA = 32           # empty arenas that are kept beside one a class: what a turn takes the next takes


# At the start of every arena and of every large block's mapping.
cdef struct UwsArena:
    UwsArena* next            # ring of the list it is in
    UwsArena* prev
    void* free                # blocks given back, linked through their first word
    void* owner               # the UwsSlab
    size_t mapped_bytes
    size_t block_bytes
    uint32_t used             # live blocks
    uint32_t fresh            # blocks from this one on were never taken since the arena was last empty
    uint32_t capacity
    uint32_t index            # class; UWS_SLAB_CLASSES for a large block


cdef struct UwsSlab:
    UwsArena* room[UWS_SLAB_CLASSES]   # arenas with a free block, the one in use first
    UwsArena* kept[UWS_SLAB_CLASSES]   # empty ones, linked by next
    uint32_t n_kept[UWS_SLAB_CLASSES]
    uint32_t n_idle[UWS_SLAB_CLASSES]  # of those, how many nobody has needed since slab_ease() was called last
    uint32_t warm                      # bits of classes whose kept ones may have pages beside the first; large are one
    uint32_t n_extra                   # of all classes' kept ones those beside one a class, large ones are a class
    uint32_t n_kept_large
    uint32_t n_idle_large
    UwsArena* full
    UwsArena* large
    UwsArena* kept_large               # ring of mappings that are kept, the one given back last first
    size_t page_bytes                  # the kernel's
    size_t used_bytes                  # of live blocks, as rounded up
    size_t held_bytes                  # mapped; touched only as far as it was used
    size_t live_blocks
    size_t live_large
    size_t arenas
    size_t context_bytes               # of live blocks, those that compression contexts own: deflate's to keep
    uint64_t maps                      # mmap calls made so far


# UWS_OK. Maps nothing.
cdef int slab_init(UwsSlab* slab) noexcept nogil

# Unmap everything, live blocks too.
cdef void slab_destroy(UwsSlab* slab) noexcept nogil

# A block of at least want_bytes, 16-byte aligned, its content undefined; NULL when out of memory.
# got_bytes: what may be used of it (the class's size); may be NULL.
cdef void* slab_take(UwsSlab* slab, size_t want_bytes, size_t* got_bytes) noexcept nogil

# Give a block back; NULL is nothing.
cdef void slab_give(UwsSlab* slab, void* p) noexcept nogil

# A block of at least want_bytes that starts with p's first used_bytes. p is given back, or is the result
# itself. NULL when out of memory: p is as it was. p may be NULL.
cdef void* slab_grow(UwsSlab* slab, void* p, size_t used_bytes, size_t want_bytes,
                     size_t* got_bytes) noexcept nogil

# What may be used of p.
cdef size_t slab_block_bytes(const void* p) noexcept nogil

# Unmap the empty arenas that were not needed since the last call, but for one a class, which keeps its first page only.
# To be called now and then, as long as there is something to ease.
cdef void slab_ease(UwsSlab* slab) noexcept nogil

cdef inline bint slab_is_tense(const UwsSlab* slab) noexcept nogil:
    """Is there something for slab_ease()?"""
    return slab.n_extra != 0 or slab.warm != 0

# Unmap the empty arenas kept for the next taker.
cdef void slab_trim(UwsSlab* slab) noexcept nogil

cdef size_t slab_used_bytes(UwsSlab* slab) noexcept nogil
cdef size_t slab_held_bytes(UwsSlab* slab) noexcept nogil
