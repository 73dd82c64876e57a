# F5. Events of one connection that could not be delivered in the turn in which they were read.
# Owns the notes and copies of the payloads (from the slab). Under the loop's lock.

from _uws.proto cimport UwsEvent
from _uws.slab cimport UwsSlab
from _uws.state cimport UwsInbox, UwsNote

cdef int inbox_put(UwsInbox* box, UwsSlab* slab, const UwsEvent* event) noexcept nogil
cdef int inbox_put_back(UwsInbox* box, UwsSlab* slab, const UwsEvent* event) noexcept nogil
cdef UwsNote* inbox_take(UwsInbox* box) noexcept nogil
cdef void note_give(UwsNote* note, UwsSlab* slab) noexcept nogil
cdef void inbox_drop(UwsInbox* box, UwsSlab* slab) noexcept nogil
