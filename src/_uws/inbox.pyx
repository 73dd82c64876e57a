# F5. See inbox.pxd.

from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from _uws.errs cimport UWS_E_NOMEM, UWS_OK
from _uws.proto cimport UWS_EVF_OWNED
from _uws.slab cimport slab_block_bytes, slab_give, slab_take

cdef enum:
    SMALL_BLOCK_BYTES = 64        # the slab's smallest


cdef inline bint _is_roomy(const UwsEvent* event) noexcept nogil:
    """Is the block that the payload owns more than twice its size? A block that grew with its message may be any that
    the slab had kept. For a turn that is nobody's loss, but what waits is bounded by its payload."""
    return slab_block_bytes(event.data) > 2 * event.len_bytes + SMALL_BLOCK_BYTES


cdef UwsNote* _note(UwsSlab* slab, const UwsEvent* event) noexcept nogil:
    """The event, with its payload: the block that it owns, or a copy of what it does not own. NULL: out of memory."""
    cdef UwsNote* note
    cdef bint owns = event.flags & UWS_EVF_OWNED and event.data != NULL
    cdef size_t copied = event.len_bytes if not owns or _is_roomy(event) else 0
    note = <UwsNote*>slab_take(slab, sizeof(UwsNote) + copied, NULL)
    if note == NULL:
        return NULL
    note.next = NULL
    note.event = event[0]
    if copied != 0:
        note.event.data = <uint8_t*>note + sizeof(UwsNote)
        memcpy(note.event.data, event.data, copied)
        if owns:
            note.event.flags &= ~UWS_EVF_OWNED
            slab_give(slab, event.data)
    return note


cdef int inbox_put_back(UwsInbox* box, UwsSlab* slab, const UwsEvent* event) noexcept nogil:
    """As inbox_put(), but before all others."""
    cdef UwsNote* note = _note(slab, event)
    if note == NULL:
        return UWS_E_NOMEM
    note.next = box.head
    box.head = note
    if box.tail == NULL:
        box.tail = note
    box.bytes += event.len_bytes
    box.count += 1
    return UWS_OK


cdef int inbox_put(UwsInbox* box, UwsSlab* slab, const UwsEvent* event) noexcept nogil:
    """Append an event. A payload that it owns is the inbox's from then on; another one is copied. UWS_E_NOMEM: nothing
    has changed."""
    cdef UwsNote* note = _note(slab, event)
    if note == NULL:
        return UWS_E_NOMEM
    if box.tail == NULL:
        box.head = note
    else:
        box.tail.next = note
    box.tail = note
    box.bytes += event.len_bytes
    box.count += 1
    return UWS_OK


cdef UwsNote* inbox_take(UwsInbox* box) noexcept nogil:
    """The oldest event, now the caller's (note_give); NULL when there is none."""
    cdef UwsNote* note = box.head
    if note == NULL:
        return NULL
    box.head = note.next
    if box.head == NULL:
        box.tail = NULL
    box.bytes -= note.event.len_bytes
    box.count -= 1
    note.next = NULL
    return note


cdef void note_give(UwsNote* note, UwsSlab* slab) noexcept nogil:
    if note.event.flags & UWS_EVF_OWNED:
        slab_give(slab, note.event.data)
    slab_give(slab, note)


cdef void inbox_drop(UwsInbox* box, UwsSlab* slab) noexcept nogil:
    cdef UwsNote* note = inbox_take(box)
    while note != NULL:
        note_give(note, slab)
        note = inbox_take(box)
