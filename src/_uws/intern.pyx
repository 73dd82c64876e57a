# F1. Reference-counted table of byte strings: a million connections on /ws share one copy of the path.
# Owns the copies and the table. One per loop, not thread-safe: the caller holds the loop's lock.
#
# An id is 64 * page + place + 1 and does not move. Pages of ids come and go with their strings, and the hash
# table halves when it is mostly empty, so a burst of a million different paths leaves nothing behind.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport abort, calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from _uws.errs cimport UWS_OK


cdef extern from *:
    """
    /* Little-endian on every machine, as the reference vectors have it. */
    static inline uint64_t uws_intern_word(const uint8_t *p)
    {
        uint64_t word;
        __builtin_memcpy(&word, p, 8);
    #if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
    #endif
        return word;
    }
    """
    uint64_t uws_intern_word(const uint8_t* p) noexcept nogil
    int uws_first_zero "__builtin_ctzll"(unsigned long long inverted) noexcept nogil


cdef enum:
    MIN_PROBES = 16
    MIN_PAGES = 8


cdef inline uint64_t rotl(uint64_t x, int bits) noexcept nogil:
    return x << bits | x >> (64 - bits)


cdef inline void sip_round(uint64_t* v) noexcept nogil:
    v[0] += v[1]
    v[2] += v[3]
    v[1] = rotl(v[1], 13) ^ v[0]
    v[3] = rotl(v[3], 16) ^ v[2]
    v[0] = rotl(v[0], 32)
    v[2] += v[1]
    v[0] += v[3]
    v[1] = rotl(v[1], 17) ^ v[2]
    v[3] = rotl(v[3], 21) ^ v[0]
    v[2] = rotl(v[2], 32)


cdef uint64_t intern_hash(uint64_t key0, uint64_t key1, const uint8_t* p, size_t len_bytes) noexcept nogil:
    """SipHash-1-3: short strings in a few ns, and no way to find collisions without the key."""
    cdef uint64_t[4] v
    cdef uint64_t word
    cdef uint64_t last = <uint64_t>len_bytes << 56
    cdef size_t left = len_bytes
    cdef size_t i
    v[0] = key0 ^ <uint64_t>0x736F6D6570736575
    v[1] = key1 ^ <uint64_t>0x646F72616E646F6D
    v[2] = key0 ^ <uint64_t>0x6C7967656E657261
    v[3] = key1 ^ <uint64_t>0x7465646279746573
    while left >= 8:
        word = uws_intern_word(p)
        v[3] ^= word
        sip_round(v)
        v[0] ^= word
        p += 8
        left -= 8
    for i in range(left):
        last |= <uint64_t>p[i] << (8 * i)
    v[3] ^= last
    sip_round(v)
    v[0] ^= last
    v[2] ^= 0xFF
    sip_round(v)
    sip_round(v)
    sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


cdef inline UwsInternText* text_of(UwsIntern* table, uint32_t id) noexcept nogil:
    """The string of an id, NULL if there is none."""
    cdef uint32_t page = (id - 1) // UWS_INTERN_PAGE
    # Id 0 wraps to the highest page, which no table has.
    if page >= table.page_count or table.pages[page] == NULL:
        return NULL
    return table.pages[page].text[(id - 1) % UWS_INTERN_PAGE]


cdef inline uint8_t* bytes_of(UwsInternText* text) noexcept nogil:
    return <uint8_t*>text + sizeof(UwsInternText)


cdef inline bint text_is(UwsInternText* text, const uint8_t* p, size_t len_bytes) noexcept nogil:
    return text.len_bytes == len_bytes and (len_bytes == 0 or memcmp(bytes_of(text), p, len_bytes) == 0)


cdef inline size_t text_bytes(size_t len_bytes) noexcept nogil:
    return sizeof(UwsInternText) + len_bytes


# ---- the hash table ----------------------------------------------------------------------------------------

cdef bint probes_resize(UwsIntern* table, size_t room) noexcept nogil:
    """Move the table to room places, a power of two; False when out of memory: it is as it was."""
    cdef UwsInternProbe* probes = <UwsInternProbe*>calloc(room, sizeof(UwsInternProbe))
    cdef size_t old_room = <size_t>table.probe_mask + 1 if table.probes != NULL else 0
    cdef size_t i, at
    if probes == NULL:
        return False
    for i in range(old_room):
        if table.probes[i].id:
            at = table.probes[i].hash & (room - 1)
            while probes[at].id:
                at = (at + 1) & (room - 1)
            probes[at] = table.probes[i]
    free(table.probes)
    table.held_bytes += (room - old_room) * sizeof(UwsInternProbe)
    table.probes = probes
    table.probe_mask = <uint32_t>(room - 1)
    return True


cdef bint probes_reserve(UwsIntern* table) noexcept nogil:
    """Room for one more string."""
    cdef size_t room = <size_t>table.probe_mask + 1
    if table.probes == NULL:
        return probes_resize(table, MIN_PROBES)
    if table.live < room - room // 4:
        return True
    # The mask is 32 bits wide.
    return room <= 0x40000000 and probes_resize(table, room * 2)


cdef void probes_remove(UwsIntern* table, uint32_t hash, uint32_t id) noexcept nogil:
    """Take an id out and close the gap, so that no probe ever runs over graves."""
    cdef uint32_t mask = table.probe_mask
    cdef uint32_t at = hash & mask
    cdef uint32_t gap, home
    while table.probes[at].id != id:
        at = (at + 1) & mask
    gap = at
    while True:
        at = (at + 1) & mask
        if table.probes[at].id == 0:
            break
        home = table.probes[at].hash & mask
        # Whoever would be found from the gap on as well moves into it.
        if ((at - home) & mask) >= ((at - gap) & mask):
            table.probes[gap] = table.probes[at]
            gap = at
    table.probes[gap].id = 0


# ---- pages of ids ------------------------------------------------------------------------------------------

cdef void page_link(UwsIntern* table, uint32_t number) noexcept nogil:
    cdef UwsInternPage* page = table.pages[number]
    page.prev = 0
    page.next = table.page_free
    if page.next:
        table.pages[page.next - 1].prev = number + 1
    table.page_free = number + 1


cdef void page_unlink(UwsIntern* table, uint32_t number) noexcept nogil:
    cdef UwsInternPage* page = table.pages[number]
    if page.prev:
        table.pages[page.prev - 1].next = page.next
    else:
        table.page_free = page.next
    if page.next:
        table.pages[page.next - 1].prev = page.prev


cdef bint directory_resize(UwsIntern* table, size_t room) noexcept nogil:
    cdef UwsInternPage** pages = <UwsInternPage**>realloc(table.pages, room * sizeof(UwsInternPage*))
    if pages == NULL:
        return False
    if room > table.page_room:
        memset(pages + table.page_room, 0, (room - table.page_room) * sizeof(UwsInternPage*))
    table.held_bytes += (room - <size_t>table.page_room) * sizeof(UwsInternPage*)
    table.pages = pages
    table.page_room = <uint32_t>room
    return True


cdef bint page_new(UwsIntern* table) noexcept nogil:
    """A page of free ids at the lowest number that has none."""
    cdef uint32_t number = table.page_hole
    cdef UwsInternPage* page
    cdef size_t room
    while number < table.page_count and table.pages[number] != NULL:
        number += 1
    table.page_hole = number
    # Ids are 32 bits wide.
    if number >= 0x03FFFFFF:
        return False
    if number == table.page_room:
        room = <size_t>number * 2 if number else MIN_PAGES
        if not directory_resize(table, room):
            return False
    page = <UwsInternPage*>calloc(1, sizeof(UwsInternPage))
    if page == NULL:
        return False
    table.held_bytes += sizeof(UwsInternPage)
    table.pages[number] = page
    table.page_hole = number + 1
    if number == table.page_count:
        table.page_count += 1
    page_link(table, number)
    return True


cdef void page_drop(UwsIntern* table, uint32_t number) noexcept nogil:
    """Free a page without strings, and the end of the directory with it."""
    cdef size_t room
    page_unlink(table, number)
    free(table.pages[number])
    table.held_bytes -= sizeof(UwsInternPage)
    table.pages[number] = NULL
    if number < table.page_hole:
        table.page_hole = number
    while table.page_count and table.pages[table.page_count - 1] == NULL:
        table.page_count -= 1
    room = table.page_room
    while room > MIN_PAGES and table.page_count <= room // 4:
        room //= 2
    # A shrinking realloc that fails leaves the directory as it is, which is right too.
    if room != table.page_room:
        directory_resize(table, room)


# ---- the table ---------------------------------------------------------------------------------------------

cdef int intern_init(UwsIntern* table, uint64_t seed) noexcept nogil:
    """Begin empty; nothing is allocated yet.

    seed: random and secret, so that nobody can choose strings that collide.
    Returns UWS_OK.
    """
    memset(table, 0, sizeof(UwsIntern))
    table.key0 = seed
    # Only the seed is secret; what is done to it need not be.
    table.key1 = rotl(seed, 29) * <uint64_t>0x9E3779B97F4A7C15 + 1
    return UWS_OK


cdef void intern_destroy(UwsIntern* table) noexcept nogil:
    """Free everything, strings that are still referenced too; the table is empty and as good as new."""
    cdef size_t i, j
    for i in range(table.page_count):
        if table.pages[i] != NULL:
            for j in range(UWS_INTERN_PAGE):
                free(table.pages[i].text[j])
            free(table.pages[i])
    free(table.pages)
    free(table.probes)
    intern_init(table, table.key0)


cdef uint32_t intern_take(UwsIntern* table, const uint8_t* p, size_t len_bytes) noexcept nogil:
    """Look a string up, or copy it in.

    p: may be NULL if len_bytes is 0.
    Returns its id, > 0, with one reference for the caller; 0 when out of memory or beyond 2^32 - 1 bytes.
    """
    cdef uint32_t hash, at, id, place
    cdef UwsInternText* text
    cdef UwsInternPage* page
    if len_bytes > <size_t>0xFFFFFFFF:
        return 0
    hash = <uint32_t>intern_hash(table.key0, table.key1, p, len_bytes)
    if table.probes != NULL:
        at = hash & table.probe_mask
        while table.probes[at].id:
            if table.probes[at].hash == hash:
                text = text_of(table, table.probes[at].id)
                if text_is(text, p, len_bytes):
                    text.refs += 1
                    return table.probes[at].id
            at = (at + 1) & table.probe_mask

    text = <UwsInternText*>malloc(text_bytes(len_bytes))
    if text == NULL:
        return 0
    # A page that was made and finds no string is not lost: it is the next one's.
    if not probes_reserve(table) or (table.page_free == 0 and not page_new(table)):
        free(text)
        return 0
    text.refs = 1
    text.len_bytes = <uint32_t>len_bytes
    text.hash = hash
    if len_bytes:
        memcpy(bytes_of(text), p, len_bytes)
    page = table.pages[table.page_free - 1]
    place = uws_first_zero(~page.taken)
    id = (table.page_free - 1) * UWS_INTERN_PAGE + place + 1
    page.text[place] = text
    page.taken |= <uint64_t>1 << place
    if page.taken == <uint64_t>-1:
        page_unlink(table, table.page_free - 1)
    at = hash & table.probe_mask
    while table.probes[at].id:
        at = (at + 1) & table.probe_mask
    table.probes[at].hash = hash
    table.probes[at].id = id
    table.live += 1
    table.held_bytes += text_bytes(len_bytes)
    return id


cdef void intern_ref(UwsIntern* table, uint32_t id) noexcept nogil:
    """One more reference; id 0 is nobody's."""
    cdef UwsInternText* text
    if id == 0:
        return
    text = text_of(table, id)
    # Whoever counts a string that is gone will read freed memory next.
    if text == NULL:
        abort()
    text.refs += 1


cdef void intern_give(UwsIntern* table, uint32_t id) noexcept nogil:
    """One reference less; the last one frees the string. Id 0 is nobody's."""
    cdef uint32_t number = (id - 1) // UWS_INTERN_PAGE
    cdef uint32_t place = (id - 1) % UWS_INTERN_PAGE
    cdef UwsInternText* text
    cdef UwsInternPage* page
    cdef size_t room
    if id == 0:
        return
    text = text_of(table, id)
    if text == NULL:
        abort()
    text.refs -= 1
    if text.refs:
        return
    probes_remove(table, text.hash, id)
    table.live -= 1
    table.held_bytes -= text_bytes(text.len_bytes)
    free(text)
    page = table.pages[number]
    if page.taken == <uint64_t>-1:
        page_link(table, number)
    page.text[place] = NULL
    page.taken &= ~(<uint64_t>1 << place)
    if page.taken == 0:
        page_drop(table, number)
    room = <size_t>table.probe_mask + 1
    # An eighth, so that a string that comes and goes at the edge does not rebuild the table each time.
    # Without memory for the smaller one the larger one stays.
    if room > MIN_PROBES and table.live < room // 8:
        probes_resize(table, room // 2)


cdef const uint8_t* intern_get(UwsIntern* table, uint32_t id, size_t* len_bytes) noexcept nogil:
    """Borrow the bytes of an id until its last reference goes; NULL and length 0 if it is not there."""
    cdef UwsInternText* text = text_of(table, id)
    if text == NULL:
        len_bytes[0] = 0
        return NULL
    len_bytes[0] = text.len_bytes
    return bytes_of(text)
