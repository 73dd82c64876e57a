# F5. Where events go on their way to the callbacks: into the batch of the thread that polls, or, where that would
# break their order or nobody could read them there, into the connection's inbox.
# Owns the list of connections that are ready. Everything is called with the loop's lock held.

from _uws.proto cimport UwsEvent
from _uws.state cimport UwsConn, UwsLoop


cdef enum:
    # What an event that waits takes beside its payload: messages of no bytes at all have to count in the total.
    UWS_NOTE_COST_BYTES = 64


cdef inline bint post_flooded(const UwsLoop* l) noexcept nogil:
    """Does what waits in all inboxes take as much as it may?"""
    return l.inbox_bytes + l.inbox_count * UWS_NOTE_COST_BYTES >= l.limits.max_inbox_total_bytes


cdef int post_event(UwsLoop* l, UwsConn* c, UwsEvent* event) noexcept nogil
cdef int post_to_inbox(UwsLoop* l, UwsConn* c, UwsEvent* event) noexcept nogil
cdef void post_lost(UwsLoop* l, UwsConn* c, UwsEvent* event) noexcept nogil
cdef void post_spill(UwsLoop* l) noexcept nogil
cdef void post_nudge(UwsLoop* l) noexcept nogil
cdef void post_ready(UwsLoop* l, UwsConn* c) noexcept nogil
cdef UwsConn* post_pop_ready(UwsLoop* l) noexcept nogil
