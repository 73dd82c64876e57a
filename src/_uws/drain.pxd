# F5. How a loop comes to its end: it may drain, and then it stops. Called with the lock held.
# Beginning is anybody's; the steps are the loop's, by the thread that has the role, in whose table the descriptors are.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from _uws.state cimport UwsLoop

cdef void loop_drain(UwsLoop* l, uint32_t over_ms, uint16_t code, bint jitter, uint64_t timeout_ms) noexcept nogil
cdef void loop_stop(UwsLoop* l, uint16_t code, const uint8_t* reason, size_t len_bytes,
                    uint64_t timeout_ms) noexcept nogil
cdef void drain_all(UwsLoop* l, uint64_t over_ms) noexcept nogil
cdef void drain_step(UwsLoop* l) noexcept nogil
cdef void stop_all(UwsLoop* l) noexcept nogil
cdef void stop_step(UwsLoop* l) noexcept nogil
