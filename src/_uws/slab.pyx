# F1. Buffer allocator in size classes: everything a connection owns beside its slot comes from here.
# Owns the arenas it maps. One per loop, not thread-safe: the caller holds the loop's lock.
#
# An arena is 256 KiB at an address divisible by 256 KiB, holds blocks of one class, and is touched from its
# start on only as far as it is used. Empty it is kept for a while: the replies of a turn are what the next one's will
# need. What was not needed for longer goes back to the kernel, except one per class without its pages.
# Malloc was not an answer: a burst of a million partial messages leaves its free lists full of holes, and an
# idle server keeps it all.

from libc.stdint cimport uint8_t, uint32_t, uintptr_t
from libc.stdlib cimport abort
from libc.string cimport memcpy, memset
from posix.mman cimport (
    MADV_DONTNEED, MADV_NOHUGEPAGE, MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE,
    PROT_READ, PROT_WRITE, madvise, mmap, mremap, munmap,
)
from posix.unistd cimport _SC_PAGESIZE, sysconf

from _uws.errs cimport UWS_OK


cdef extern from *:
    """
    #include <sys/mman.h>
    /* The class of 1 to 65536 bytes. Two classes a power of two: 64, 96, 128, 192, 256 ... */
    static inline unsigned uws_slab_class(size_t want_bytes)
    {
        if (want_bytes <= 64)
            return 0;
        size_t top = want_bytes - 1;
        unsigned power = 63u - (unsigned)__builtin_clzll((unsigned long long)top);
        return (power - 6) * 2 + (unsigned)(top >> (power - 1) & 1) + 1;
    }
    /* A freed block is filled with this, and looked at when it is taken again: who wrote in between? */
    #define UWS_SLAB_POISON 0xDB
    """
    unsigned int uws_slab_class(size_t want_bytes) noexcept nogil
    const int UWS_SLAB_POISON
    const int UWS_DEBUG
    const int MREMAP_MAYMOVE
    const int MREMAP_FIXED

# Of no effect without AddressSanitizer. With it, a block's bytes beyond those that were asked for are nobody's, and so
# is a block that was given back, but for its first word.
cdef extern from "poison.h" nogil:
    void uws_poison(const void* p, size_t len_bytes)
    void uws_unpoison(const void* p, size_t len_bytes)


cdef inline UwsArena* arena_of(const void* p) noexcept nogil:
    return <UwsArena*>(<uintptr_t>p & ~<uintptr_t>(UWS_SLAB_ARENA_BYTES - 1))


cdef inline void ring_add(UwsArena** head, UwsArena* arena) noexcept nogil:
    """Append: whoever is first stays first."""
    cdef UwsArena* first = head[0]
    if first == NULL:
        arena.next = arena.prev = arena
        head[0] = arena
        return
    arena.next = first
    arena.prev = first.prev
    first.prev.next = arena
    first.prev = arena


cdef inline void ring_remove(UwsArena** head, UwsArena* arena) noexcept nogil:
    if arena.next == arena:
        head[0] = NULL
    else:
        arena.prev.next = arena.next
        arena.next.prev = arena.prev
        if head[0] == arena:
            head[0] = arena.next
    arena.next = arena.prev = NULL


cdef UwsArena* arena_map(UwsSlab* slab, size_t len_bytes) noexcept nogil:
    """Map len_bytes (whole pages) at an address divisible by UWS_SLAB_ARENA_BYTES, or NULL."""
    cdef int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
    cdef uint8_t* p
    cdef size_t before, after
    # The kernel puts a mapping right below the last one, so once one of our arenas is aligned the next ones
    # are.
    p = <uint8_t*>mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, flags, -1, 0)
    if p == <uint8_t*>MAP_FAILED:
        return NULL
    if <uintptr_t>p & (UWS_SLAB_ARENA_BYTES - 1):
        munmap(p, len_bytes)
        p = <uint8_t*>mmap(NULL, len_bytes + UWS_SLAB_ARENA_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0)
        if p == <uint8_t*>MAP_FAILED:
            return NULL
        before = (UWS_SLAB_ARENA_BYTES - (<uintptr_t>p & (UWS_SLAB_ARENA_BYTES - 1))) % UWS_SLAB_ARENA_BYTES
        after = UWS_SLAB_ARENA_BYTES - before
        # Should the kernel refuse to split the mapping (vm.max_map_count), untouched address space stays
        # behind.
        if before:
            munmap(p, before)
        p += before
        if after:
            munmap(p + len_bytes, after)
    slab.maps += 1
    slab.held_bytes += len_bytes
    # One byte touched must not cost 2 MiB. Fails where the kernel has no huge pages: then it needs no advice.
    madvise(p, len_bytes, MADV_NOHUGEPAGE)
    (<UwsArena*>p).mapped_bytes = len_bytes
    (<UwsArena*>p).owner = slab
    return <UwsArena*>p


cdef void arena_unmap(UwsSlab* slab, UwsArena* arena) noexcept nogil:
    cdef size_t len_bytes = arena.mapped_bytes
    uws_unpoison(arena, len_bytes)
    # Can fail only for a range that is not ours, or for want of memory when it splits a mapping that the
    # kernel merged: the pages at least go back.
    if munmap(arena, len_bytes) != 0:
        madvise(arena, len_bytes, MADV_DONTNEED)
    slab.held_bytes -= len_bytes


cdef inline uint32_t bit_of(unsigned int index) noexcept nogil:
    return <uint32_t>1 << index


cdef void arena_cool(UwsSlab* slab, UwsArena* arena) noexcept nogil:
    """Give back the pages of an empty one, but for that with its head. Taken again they are zeros, and nobody asks."""
    cdef size_t head = slab.page_bytes
    if arena.mapped_bytes > head:
        madvise(<uint8_t*>arena + head, arena.mapped_bytes - head, MADV_DONTNEED)


cdef inline void arena_reset(UwsArena* arena) noexcept nogil:
    arena.free = NULL
    arena.used = 0
    arena.fresh = 0


cdef UwsArena* kept_pop(UwsSlab* slab, unsigned int index) noexcept nogil:
    """Take one of the class's empty arenas; there is one."""
    cdef UwsArena* arena = slab.kept[index]
    slab.kept[index] = arena.next
    slab.n_kept[index] -= 1
    if slab.n_kept[index] != 0:
        slab.n_extra -= 1
    else:
        slab.warm &= ~bit_of(index)
    if slab.n_kept[index] < slab.n_idle[index]:
        slab.n_idle[index] = slab.n_kept[index]
    arena.next = arena.prev = NULL
    return arena


cdef bint kept_push(UwsSlab* slab, UwsArena* arena) noexcept nogil:
    """Keep an empty arena that is in no ring. False: there are enough of them."""
    cdef unsigned int index = arena.index
    if slab.n_kept[index] != 0:
        # Large ones count among them, and have a bound of their own: there may be more than that already.
        if slab.n_extra >= UWS_SLAB_MAX_EXTRA:
            return False
        slab.n_extra += 1
    # From its start again, so that a lone block keeps to the pages that are touched already.
    arena_reset(arena)
    arena.next = slab.kept[index]
    slab.kept[index] = arena
    slab.n_kept[index] += 1
    slab.warm |= bit_of(index)
    return True


cdef UwsArena* arena_new(UwsSlab* slab, unsigned int index) noexcept nogil:
    """An empty arena of the class, in no list."""
    cdef UwsArena* arena = slab.kept[index]
    if arena != NULL:
        return kept_pop(slab, index)
    arena = arena_map(slab, UWS_SLAB_ARENA_BYTES)
    if arena == NULL:
        return NULL
    slab.arenas += 1
    arena_reset(arena)
    arena.next = arena.prev = NULL
    arena.index = index
    arena.block_bytes = <size_t>(96 if index & 1 else 64) << (index >> 1)
    arena.capacity = <uint32_t>((UWS_SLAB_ARENA_BYTES - UWS_SLAB_HEAD_BYTES) // arena.block_bytes)
    return arena


cdef bint large_bytes(UwsSlab* slab, size_t want_bytes, size_t* need) noexcept nogil:
    """Size of the mapping for a large block; False for what no machine has."""
    if want_bytes > <size_t>-1 // 4:
        return False
    need[0] = (want_bytes + UWS_SLAB_HEAD_BYTES + slab.page_bytes - 1) & ~(slab.page_bytes - 1)
    return True


cdef UwsArena* large_fitting(UwsSlab* slab, size_t need, bint growing) noexcept nogil:
    """One of the mappings kept; NULL: none of them fits."""
    cdef UwsArena* arena = slab.kept_large
    cdef uint32_t _
    for _ in range(slab.n_kept_large):
        # A message that grows will go on growing and may have all of what was kept; anybody else may not sit on more
        # than twice what it asked for.
        if arena.mapped_bytes >= need and (growing or arena.mapped_bytes // 2 <= need):
            return arena
        arena = arena.next
    return NULL


cdef void large_unkeep(UwsSlab* slab, UwsArena* arena) noexcept nogil:
    ring_remove(&slab.kept_large, arena)
    slab.n_kept_large -= 1
    if slab.n_kept_large != 0:
        slab.n_extra -= 1
    else:
        slab.warm &= ~bit_of(UWS_SLAB_CLASSES)
    if slab.n_kept_large < slab.n_idle_large:
        slab.n_idle_large = slab.n_kept_large


cdef void large_drop(UwsSlab* slab, uint32_t n_left) noexcept nogil:
    """Unmap what has been kept for longest until n_left are."""
    cdef UwsArena* arena
    while slab.n_kept_large > n_left:
        arena = slab.kept_large.prev
        large_unkeep(slab, arena)
        arena_unmap(slab, arena)
    slab.n_idle_large = slab.n_kept_large


cdef void* large_take(UwsSlab* slab, size_t want_bytes, bint growing) noexcept nogil:
    """A block with a mapping of its own."""
    cdef UwsArena* arena
    cdef size_t need
    if not large_bytes(slab, want_bytes, &need):
        return NULL
    arena = large_fitting(slab, need, growing)
    if arena != NULL:
        large_unkeep(slab, arena)
        uws_unpoison(<uint8_t*>arena + UWS_SLAB_HEAD_BYTES, arena.block_bytes)
    else:
        arena = arena_map(slab, need)
        if arena == NULL:
            return NULL
        arena_reset(arena)
        arena.index = UWS_SLAB_CLASSES
        arena.capacity = 1
        arena.block_bytes = need - UWS_SLAB_HEAD_BYTES
    arena.used = 1
    ring_add(&slab.large, arena)
    slab.live_large += 1
    slab.live_blocks += 1
    slab.used_bytes += arena.block_bytes
    return <uint8_t*>arena + UWS_SLAB_HEAD_BYTES


cdef void* large_grow(UwsSlab* slab, UwsArena* arena, size_t want_bytes) noexcept nogil:
    """Move a large block into a larger mapping: its pages move, no byte is copied. NULL: it is as it was."""
    cdef UwsArena* new
    cdef size_t need
    cdef size_t old_mapped = arena.mapped_bytes
    if not large_bytes(slab, want_bytes, &need):
        return NULL
    new = arena_map(slab, need)
    if new == NULL:
        return NULL
    uws_unpoison(arena, old_mapped)
    ring_remove(&slab.large, arena)
    if mremap(arena, old_mapped, need, MREMAP_MAYMOVE | MREMAP_FIXED, new) == MAP_FAILED:
        ring_add(&slab.large, arena)
        # mremap may have unmapped its target before it failed, and another thread may be there by now. So the
        # target stays as it is: at worst untouched address space.
        slab.held_bytes -= need
        return NULL
    slab.held_bytes -= old_mapped
    slab.used_bytes += need - old_mapped
    new.mapped_bytes = need
    new.block_bytes = need - UWS_SLAB_HEAD_BYTES
    ring_add(&slab.large, new)
    return <uint8_t*>new + UWS_SLAB_HEAD_BYTES


cdef void large_give(UwsSlab* slab, UwsArena* arena) noexcept nogil:
    ring_remove(&slab.large, arena)
    slab.live_large -= 1
    slab.live_blocks -= 1
    slab.used_bytes -= arena.block_bytes
    arena.used = 0
    if arena.mapped_bytes > UWS_SLAB_KEEP_BYTES or slab.n_kept_large == UWS_SLAB_MAX_LARGE:
        arena_unmap(slab, arena)
        return
    uws_poison(<uint8_t*>arena + UWS_SLAB_HEAD_BYTES, arena.block_bytes)
    ring_add(&slab.kept_large, arena)
    slab.kept_large = arena
    if slab.n_kept_large != 0:
        slab.n_extra += 1
    slab.n_kept_large += 1
    slab.warm |= bit_of(UWS_SLAB_CLASSES)


cdef void* block_take(UwsSlab* slab, unsigned int index) noexcept nogil:
    cdef UwsArena* arena = slab.room[index]
    cdef void* p
    if arena == NULL:
        arena = arena_new(slab, index)
        if arena == NULL:
            return NULL
        ring_add(&slab.room[index], arena)
    p = arena.free
    if p != NULL:
        uws_unpoison(p, arena.block_bytes)
        arena.free = (<void**>p)[0]
        if UWS_DEBUG:
            check_poison(p, arena.block_bytes)
    else:
        p = <uint8_t*>arena + UWS_SLAB_HEAD_BYTES + arena.fresh * arena.block_bytes
        uws_unpoison(p, arena.block_bytes)
        arena.fresh += 1
    arena.used += 1
    if arena.used == arena.capacity:
        ring_remove(&slab.room[index], arena)
        ring_add(&slab.full, arena)
    slab.live_blocks += 1
    slab.used_bytes += arena.block_bytes
    return p


cdef void block_give(UwsSlab* slab, UwsArena* arena, void* p) noexcept nogil:
    cdef unsigned int index = arena.index
    slab.live_blocks -= 1
    slab.used_bytes -= arena.block_bytes
    if arena.used == arena.capacity:
        ring_remove(&slab.full, arena)
        # Last in its ring: the arenas in use before it are filled first, so that this one may become empty.
        ring_add(&slab.room[index], arena)
    arena.used -= 1
    uws_unpoison(p, arena.block_bytes)
    if UWS_DEBUG:
        memset(p, UWS_SLAB_POISON, arena.block_bytes)
    (<void**>p)[0] = arena.free
    arena.free = p
    uws_poison(<uint8_t*>p + sizeof(void*), arena.block_bytes - sizeof(void*))
    if arena.used == 0:
        ring_remove(&slab.room[index], arena)
        if not kept_push(slab, arena):
            slab.arenas -= 1
            arena_unmap(slab, arena)


cdef void check_poison(const void* p, size_t block_bytes) noexcept nogil:
    cdef size_t i
    for i in range(sizeof(void*), block_bytes):
        if (<const uint8_t*>p)[i] != UWS_SLAB_POISON:
            abort()


cdef inline void check_owner(UwsSlab* slab, UwsArena* arena, void* p) noexcept nogil:
    """A block that is not ours, or given back twice, is a bug that no caller survives: stop before it spreads."""
    cdef void* other
    if arena.owner != slab or arena.used == 0:
        abort()
    if UWS_DEBUG:
        if (<size_t>(<uint8_t*>p - <uint8_t*>arena) - UWS_SLAB_HEAD_BYTES) % arena.block_bytes:
            abort()
        other = arena.free
        while other != NULL:
            if other == p:
                abort()
            other = (<void**>other)[0]


cdef int slab_init(UwsSlab* slab) noexcept nogil:
    """Begin empty; nothing is mapped yet. Returns UWS_OK."""
    memset(slab, 0, sizeof(UwsSlab))
    slab.page_bytes = <size_t>sysconf(_SC_PAGESIZE)
    return UWS_OK


cdef void unmap_ring(UwsSlab* slab, UwsArena** head) noexcept nogil:
    cdef UwsArena* arena
    while head[0] != NULL:
        arena = head[0]
        ring_remove(head, arena)
        arena_unmap(slab, arena)


cdef void slab_destroy(UwsSlab* slab) noexcept nogil:
    """Unmap everything, live blocks too; the counters stay for whoever wants to see what was live."""
    cdef size_t i
    slab_trim(slab)
    for i in range(UWS_SLAB_CLASSES):
        unmap_ring(slab, &slab.room[i])
    unmap_ring(slab, &slab.full)
    unmap_ring(slab, &slab.large)
    slab.arenas = 0


cdef void kept_drop(UwsSlab* slab, unsigned int index, uint32_t n_left) noexcept nogil:
    """Unmap empty arenas of a class until n_left are kept."""
    while slab.n_kept[index] > n_left:
        arena_unmap(slab, kept_pop(slab, index))
        slab.arenas -= 1
    slab.n_idle[index] = slab.n_kept[index]


cdef void slab_ease(UwsSlab* slab) noexcept nogil:
    """Unmap the empty arenas that were not needed since the last call, but for one a class: of that the pages go."""
    cdef unsigned int i
    cdef uint32_t n_idle
    for i in range(UWS_SLAB_CLASSES):
        n_idle = slab.n_idle[i]
        kept_drop(slab, i, slab.n_kept[i] - (n_idle - 1 if n_idle > 1 else 0))
        if n_idle != 0 and slab.n_kept[i] == 1 and slab.warm & bit_of(i):
            arena_cool(slab, slab.kept[i])
            slab.warm &= ~bit_of(i)
    n_idle = slab.n_idle_large
    large_drop(slab, slab.n_kept_large - (n_idle - 1 if n_idle > 1 else 0))
    if n_idle != 0 and slab.n_kept_large == 1 and slab.warm & bit_of(UWS_SLAB_CLASSES):
        arena_cool(slab, slab.kept_large)
        slab.warm &= ~bit_of(UWS_SLAB_CLASSES)


cdef void slab_trim(UwsSlab* slab) noexcept nogil:
    """Unmap the empty arenas kept for the next taker."""
    cdef unsigned int i
    for i in range(UWS_SLAB_CLASSES):
        kept_drop(slab, i, 0)
    large_drop(slab, 0)


cdef inline void block_lend(void* p, size_t want_bytes, size_t* got_bytes) noexcept nogil:
    """Whoever does not ask what more there is of a block may not use it."""
    if got_bytes != NULL:
        got_bytes[0] = arena_of(p).block_bytes
    else:
        uws_poison(<uint8_t*>p + want_bytes, arena_of(p).block_bytes - want_bytes)


cdef void* slab_take(UwsSlab* slab, size_t want_bytes, size_t* got_bytes) noexcept nogil:
    """Take a block.

    got_bytes: what may be used of it, at least want_bytes; may be NULL.
    Returns it 16-byte aligned, its content undefined; NULL when out of memory.
    """
    cdef void* p
    if want_bytes <= UWS_SLAB_MAX_CLASS_BYTES:
        p = block_take(slab, uws_slab_class(want_bytes))
    else:
        p = large_take(slab, want_bytes, False)
    if p != NULL:
        block_lend(p, want_bytes, got_bytes)
    return p


cdef void slab_give(UwsSlab* slab, void* p) noexcept nogil:
    """Give a block back; NULL is nothing."""
    cdef UwsArena* arena
    if p == NULL:
        return
    arena = arena_of(p)
    check_owner(slab, arena, p)
    if arena.index == UWS_SLAB_CLASSES:
        large_give(slab, arena)
    else:
        block_give(slab, arena, p)


cdef void* slab_grow(UwsSlab* slab, void* p, size_t used_bytes, size_t want_bytes,
                     size_t* got_bytes) noexcept nogil:
    """Make room in a block for want_bytes.

    p: may be NULL. Given back if the result is another block.
    used_bytes: how many of its first bytes the result starts with; not more than p's size.
    got_bytes: as for slab_take().
    Returns the block; NULL when out of memory, and p is as it was.
    """
    cdef UwsArena* arena
    cdef void* new
    if p == NULL:
        return slab_take(slab, want_bytes, got_bytes)
    arena = arena_of(p)
    check_owner(slab, arena, p)
    if want_bytes <= arena.block_bytes:
        uws_unpoison(p, arena.block_bytes)
        new = p
    elif arena.index == UWS_SLAB_CLASSES:
        new = large_grow(slab, arena, want_bytes)
    else:
        if want_bytes <= UWS_SLAB_MAX_CLASS_BYTES:
            new = block_take(slab, uws_slab_class(want_bytes))
        else:
            new = large_take(slab, want_bytes, True)
        if new != NULL:
            memcpy(new, p, used_bytes)
            block_give(slab, arena, p)
    if new != NULL:
        block_lend(new, want_bytes, got_bytes)
    return new


cdef size_t slab_block_bytes(const void* p) noexcept nogil:
    """What may be used of a live block."""
    return arena_of(p).block_bytes


cdef size_t slab_used_bytes(UwsSlab* slab) noexcept nogil:
    """Bytes of live blocks, each counted with its class's size."""
    return slab.used_bytes


cdef size_t slab_held_bytes(UwsSlab* slab) noexcept nogil:
    """Bytes mapped. Untouched pages count, so this is never less than what the kernel gave."""
    return slab.held_bytes
