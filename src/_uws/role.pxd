# F5. Who polls: a role, not a thread. A runner (a thread that runs callbacks) has it while it waits in epoll;
# while every runner is away in callbacks, or waits for the GIL, the watchdog takes it and the engine lives on.
# Or a guest has it: an event loop of somebody else's, which waits for our epoll descriptor beside its own, and visits
# when there is something to do. Then there are no runners, and the guest is the one thread that runs callbacks.
# Owns the watchdog thread. No function here needs the GIL, and none may be called with the lock held.

from libc.stdint cimport uint64_t

from _uws.state cimport UwsBatch, UwsLoop

cdef enum UwsWork:
    UWS_WORK_STOP = 0         # the loop has finished
    UWS_WORK_EVENTS = 1       # there are events to deliver
    UWS_WORK_NONE = 2         # of a visit: nothing for now

cdef int role_start(UwsLoop* l) noexcept nogil
cdef void role_end(UwsLoop* l) noexcept nogil
cdef int role_work(UwsLoop* l, UwsBatch* b, uint64_t* role) noexcept nogil
cdef void role_leave(UwsLoop* l, UwsBatch* b, uint64_t role) noexcept nogil
cdef int role_invite(UwsLoop* l, UwsBatch* b) noexcept nogil
cdef void role_dismiss(UwsLoop* l) noexcept nogil
cdef int role_visit(UwsLoop* l) noexcept nogil
