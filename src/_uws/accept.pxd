# F5. Accepting: in batches, with a polite refusal when descriptors run out, and pauses.
# Owns nothing; the spare descriptor is the loop's. Everything is called with the loop's lock held.

from libc.stdint cimport uint32_t

from _uws.state cimport UwsLoop

cdef void accept_batch(UwsLoop* l, int which) noexcept nogil
cdef void accept_pause(UwsLoop* l, uint32_t pause_ms) noexcept nogil
cdef void accept_leave(UwsLoop* l) noexcept nogil
cdef void accept_look(UwsLoop* l) noexcept nogil
cdef void accept_resume(UwsLoop* l) noexcept nogil
cdef void accept_leave_shared(UwsLoop* l) noexcept nogil
