# F1. Reference-counted table of byte strings: a million connections on /ws share one copy of the path.
# Owns the copies and the table. One per loop, not thread-safe: the caller holds the loop's lock.

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef enum:
    UWS_INTERN_PAGE = 64              # ids a page; a page without strings is given back


cdef struct UwsInternText:
    uint64_t refs
    uint32_t len_bytes
    uint32_t hash                     # low half of the keyed hash; the bytes follow


cdef struct UwsInternPage:
    uint32_t next                     # pages with a free id: doubly linked by page number + 1, 0 ends
    uint32_t prev
    uint64_t taken                    # bit i: text[i] is there
    UwsInternText* text[UWS_INTERN_PAGE]


cdef struct UwsInternProbe:
    uint32_t hash
    uint32_t id                       # 0: empty


cdef struct UwsIntern:
    uint64_t key0
    uint64_t key1
    UwsInternProbe* probes            # open addressing, a power of two, at most three quarters full
    uint32_t probe_mask
    uint32_t live                     # strings; tests assert it to be back at zero
    UwsInternPage** pages
    uint32_t page_room                # length of pages
    uint32_t page_count               # highest page in use + 1
    uint32_t page_hole                # no page below this number is missing
    uint32_t page_free                # first page with a free id + 1, 0 if none
    size_t held_bytes                 # of everything above


# seed: random and secret, so that nobody can choose strings that collide. UWS_OK; allocates nothing.
cdef int intern_init(UwsIntern* table, uint64_t seed) noexcept nogil

# Free everything, strings that are still referenced too.
cdef void intern_destroy(UwsIntern* table) noexcept nogil

# The id (> 0) of these bytes, with a reference for the caller; 0 when out of memory or longer than 2^32 - 1.
cdef uint32_t intern_take(UwsIntern* table, const uint8_t* p, size_t len_bytes) noexcept nogil

# One reference more or less. Id 0 is nobody's: nothing happens. The last reference frees the string.
cdef void intern_ref(UwsIntern* table, uint32_t id) noexcept nogil
cdef void intern_give(UwsIntern* table, uint32_t id) noexcept nogil

# The bytes, borrowed until the last reference goes. NULL and length 0 for an id that is not there.
cdef const uint8_t* intern_get(UwsIntern* table, uint32_t id, size_t* len_bytes) noexcept nogil

# SipHash-1-3.
cdef uint64_t intern_hash(uint64_t key0, uint64_t key1, const uint8_t* p, size_t len_bytes) noexcept nogil
