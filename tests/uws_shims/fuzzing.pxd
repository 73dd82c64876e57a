# What the harnesses of the fuzz targets share: exact copies of inputs, ways to cut them, and notes of what was said.
# Inline, and without Python: all of it happens a few hundred times for each input. Used by fuzz_*_shim.pyx only.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport abort, malloc, realloc
from libc.string cimport memcpy


# A copy that ends where its allocation ends: a step behind it is one that a sanitizer sees. free(base).
cdef struct Exact:
    uint8_t* base
    uint8_t* at


cdef inline Exact exact(const uint8_t* data, size_t len_bytes, size_t shift) noexcept nogil:
    """shift: where in its allocation the copy begins, for every alignment to come up."""
    cdef Exact copy
    if len_bytes == 0 and shift == 0:
        # malloc(0) may hand out a byte.
        shift = 1
    copy.base = <uint8_t*>malloc(shift + len_bytes)
    if copy.base == NULL:
        abort()
    copy.at = copy.base + shift
    if len_bytes:
        memcpy(copy.at, data, len_bytes)
    return copy


cdef enum Feeding:
    WHOLE = 0
    BYTEWISE = 1
    CHOPPED = 2
    FEEDINGS = 3


# Where an input is cut. CHOPPED: by a generator that bytes of the input have seeded.
cdef struct Cuts:
    int how
    uint32_t state


cdef inline size_t cut(Cuts* cuts, size_t left) noexcept nogil:
    """The length of the next piece: all that is left, 1, or up to 128 with short ones as frequent as long ones."""
    cdef size_t size
    if cuts.how == WHOLE:
        return left
    if cuts.how == BYTEWISE:
        return 1
    cuts.state = cuts.state * 1664525 + 1013904223
    size = 1 + (cuts.state >> 8 & ((<uint32_t>1 << (cuts.state >> 29)) - 1))
    return size if size < left else left


# In front of each event's payload in the notes; tests/fuzz/targets.py unpacks it.
cdef struct Entry:
    uint8_t kind
    uint8_t opcode
    uint8_t flags
    uint8_t spare
    uint16_t code
    uint16_t reply
    uint32_t len_bytes


cdef struct Notes:
    uint8_t* data
    size_t len_bytes
    size_t cap_bytes
    size_t open           # one more than where the entry begins that the next piece of a message belongs to; 0: none


cdef inline void _note(Notes* notes, const void* data, size_t len_bytes) noexcept nogil:
    if notes.cap_bytes - notes.len_bytes < len_bytes:
        notes.cap_bytes = 2 * (notes.len_bytes + len_bytes)
        notes.data = <uint8_t*>realloc(notes.data, notes.cap_bytes)
        if notes.data == NULL:
            abort()
    if len_bytes:
        memcpy(notes.data + notes.len_bytes, data, len_bytes)
        notes.len_bytes += len_bytes


cdef inline void note_event(Notes* notes, Entry* entry, const void* payload, size_t len_bytes) noexcept nogil:
    notes.open = 0
    entry.spare = 0
    entry.len_bytes = <uint32_t>len_bytes
    _note(notes, entry, sizeof(Entry))
    _note(notes, payload, len_bytes)


cdef inline void note_piece(Notes* notes, Entry* entry, const void* payload, size_t len_bytes,
                            bint is_last) noexcept nogil:
    """Of a message that is handed out as it comes. Where one piece ends and the next begins is the cuts' doing, so
    neighbours become one entry, with the flags of all."""
    cdef Entry before
    cdef size_t at = notes.len_bytes
    if notes.open == 0:
        note_event(notes, entry, payload, len_bytes)
        notes.open = at + 1
    else:
        at = notes.open - 1
        memcpy(&before, notes.data + at, sizeof(Entry))
        before.flags |= entry.flags
        before.len_bytes += <uint32_t>len_bytes
        memcpy(notes.data + at, &before, sizeof(Entry))
        _note(notes, payload, len_bytes)
    if is_last:
        notes.open = 0


cdef inline void note_failure(Notes* notes) noexcept nogil:
    """Forget the pieces at the end: how much of a frame comes out before its wrong byte is seen is the cuts' doing."""
    if notes.open != 0:
        notes.len_bytes = notes.open - 1
        notes.open = 0
