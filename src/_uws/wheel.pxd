# F4. A hashed timing wheel over the connection table: links live in the slots, so a timer costs no allocation.
# Owns only its buckets; one per loop, under the loop's lock. Takes the time as a tick number, reads no clock.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

cdef enum:
    UWS_WHEEL_BUCKETS = 2048          # a power of two
    UWS_TICK_MS = 16                  # horizon: 2048 * 16 ms = 32.8 s; a longer timer goes round again

cdef struct UwsLink:
    int32_t next                      # slot index, -1 ends the list
    int32_t prev                      # slot index, or -2 - bucket for the first of a bucket
    uint32_t deadline                 # tick; 0: not in the wheel

# Where the links are: slot i's is at base + i * stride.
cdef struct UwsWheel:
    uint8_t* base
    size_t stride
    uint32_t now                      # the last tick that was advanced to
    uint32_t count
    int32_t bucket[2048]
    uint64_t busy[32]                 # a bit for each bucket that is not empty

cdef void wheel_init(UwsWheel* w, void* base, size_t stride, uint32_t now) noexcept nogil
cdef void wheel_set(UwsWheel* w, int32_t index, uint32_t deadline) noexcept nogil
cdef void wheel_cancel(UwsWheel* w, int32_t index) noexcept nogil
cdef int32_t wheel_expire(UwsWheel* w, uint32_t now) noexcept nogil
cdef uint32_t wheel_next(const UwsWheel* w) noexcept nogil
