# F5. Taking events for delivery: one connection's at a time, in order, by one thread at a time.
# A delivery belongs to the runner that began it; the events in it are its own until deliver_done.

from libc.stdint cimport int32_t, uint32_t, uint64_t

from _uws.proto cimport UwsEvent
from _uws.state cimport UwsBatch, UwsLoop, UwsNote

cdef enum:
    UWS_QUICK_ENOUGH = 16         # deliveries in a row, after which a connection's callbacks are not taken to block
    UWS_DELIVER_NOTES = 256       # of one inbox in a row, so that a busy connection does not keep a runner

cdef enum UwsWaited:
    UWS_WAITED = 0
    UWS_WAITED_CLOSED = 1
    UWS_WAITED_TIMEOUT = 2
    UWS_WAITED_NOMEM = 3

cdef struct UwsDelivery:
    UwsBatch* own                 # the batch of the runner that began it
    UwsBatch* batch               # the span [first, end) of it; NULL: from the inbox
    int first
    int at
    int end
    UwsNote* note                 # the inbox's event that is being delivered
    UwsEvent* event               # the event whose callback runs
    UwsEvent bare                 # UWS_EV_DRAIN or UWS_EV_RECALL, which are no notes
    bint is_muted                 # what is left is dropped
    bint is_held                  # ... or waits: the application has paused the connection
    uint64_t orders               # UwsLoop.orders when that was looked at
    int32_t index
    uint32_t generation
    uint32_t notes_left
    uint64_t role                 # UwsLoop.away_seq of the runner when it left polling
    uint64_t began_us             # where the connection is known for callbacks that block

# All with the loop's lock held, except deliver_next; deliver_wait and deliver_wait_room let go of it while they wait.
cdef bint deliver_begin(UwsLoop* l, UwsBatch* b, UwsDelivery* d) noexcept nogil
cdef void deliver_look(UwsLoop* l, UwsDelivery* d) noexcept nogil
cdef UwsEvent* deliver_next_note(UwsLoop* l, UwsDelivery* d) noexcept nogil
cdef bint deliver_held(UwsLoop* l, UwsDelivery* d) noexcept nogil
cdef void deliver_done(UwsLoop* l, UwsDelivery* d) noexcept nogil
cdef int deliver_wait(UwsLoop* l, UwsDelivery* d, uint64_t timeout_us) noexcept nogil
cdef int deliver_wait_room(UwsLoop* l, int32_t index, uint32_t generation, uint64_t role,
                           uint64_t deadline_us) noexcept nogil


cdef inline UwsEvent* deliver_next(UwsDelivery* d) noexcept nogil:
    """The span's next event, without the lock: nobody else touches a span that was taken. NULL at its end."""
    if d.at < d.end:
        d.event = &d.batch.events[d.at]
        d.at += 1
        return d.event
    return NULL
