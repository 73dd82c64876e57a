# F5. Where events go on their way to the callbacks: into the batch of the thread that polls, or, where that would
# break their order or nobody could read them there, into the connection's inbox.
# Owns the lists of connections that are ready. Everything is called with the loop's lock held.

from _uws.proto cimport UWS_EV_OPEN, UwsEvent
from libc.stdint cimport uint16_t, uint32_t

from _uws.slot cimport conn_blocks, loop_nudge
from _uws.state cimport UWS_HELD_NOT, UWS_HELD_RECALLED, UwsConn, UwsLoop, UwsSide


cdef enum:
    # What an event that waits takes beside its payload: messages of no bytes at all have to count in the total.
    UWS_NOTE_COST_BYTES = 64


cdef inline void post_nudge(UwsLoop* l) noexcept nogil:
    """There is something for the thread that polls."""
    loop_nudge(l)


cdef inline bint post_flooded(const UwsLoop* l) noexcept nogil:
    """Does what waits in all inboxes take as much as it may?"""
    return l.inbox_bytes + l.inbox_count * UWS_NOTE_COST_BYTES >= l.limits.max_inbox_total_bytes


cdef inline bint side_opens(const UwsSide* side) noexcept nogil:
    """Is that it is open the next thing to tell of it? That goes before everything else."""
    return side.inbox.head != NULL and side.inbox.head.event.kind == UWS_EV_OPEN


cdef inline bint side_has_news(const UwsSide* side) noexcept nogil:
    """Is there something that a runner may deliver now?"""
    return side.drain_due or side.held == UWS_HELD_RECALLED \
        or (side.inbox.head != NULL and (side.held == UWS_HELD_NOT or side_opens(side)))


cdef inline bint post_apart(const UwsLoop* l, const UwsConn* c) noexcept nogil:
    """Is c to be left to a runner that does not poll? Where there is only one thread there is no such runner."""
    return l.blockers != 0 and l.runners > 1 and conn_blocks(l, c)


cdef inline uint32_t post_near(const UwsLoop* l) noexcept nogil:
    """How many of those that are ready are the poller's business: all where there is nobody else."""
    return l.n_ready - l.n_apart if l.runners > 1 else l.n_ready


cdef int post_event(UwsLoop* l, UwsConn* c, UwsEvent* event) noexcept nogil
cdef int post_to_inbox(UwsLoop* l, UwsConn* c, UwsEvent* event) noexcept nogil
cdef void post_lost(UwsLoop* l, UwsConn* c, UwsEvent* event) noexcept nogil
cdef void post_untold(UwsLoop* l, UwsConn* c, int cause, uint16_t code) noexcept nogil
cdef void post_spill(UwsLoop* l) noexcept nogil
cdef void post_drained(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void post_ready(UwsLoop* l, UwsConn* c) noexcept nogil
cdef UwsConn* post_pop_ready(UwsLoop* l) noexcept nogil
cdef UwsConn* post_pop_apart(UwsLoop* l) noexcept nogil
cdef void post_wake_parked(UwsLoop* l) noexcept nogil
cdef void post_call(UwsLoop* l) noexcept nogil
