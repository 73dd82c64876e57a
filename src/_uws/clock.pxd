# F1. The monotonic clock, and that of dates, for F5 and above; the sans-IO floors are handed their time.

from libc.stdint cimport uint64_t
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec


cdef inline uint64_t clock_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


cdef inline uint64_t clock_us() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000 + <uint64_t>t.tv_nsec // 1000


cdef inline uint64_t clock_ms() noexcept nogil:
    return clock_us() // 1000


cdef inline uint64_t clock_unix_s() noexcept nogil:
    """Seconds since 1970, by a clock that may be set; 0 before."""
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <uint64_t>t.tv_sec if t.tv_sec > 0 else 0


cdef inline timespec clock_spec(uint64_t us) noexcept nogil:
    """The instant us, as pthread_cond_timedwait wants it."""
    cdef timespec t
    t.tv_sec = <long>(us // 1000000)
    t.tv_nsec = <long>(us % 1000000 * 1000)
    return t
