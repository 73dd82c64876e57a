# F1. Counts of durations in log-linear buckets: three significant figures from 1 ns to an hour, a few ns a sample.
# Owns nothing: the counts are the caller's. One thread writes; others read when it has stopped.
# The buckets are those of an HDR histogram of (1, 3600 s in ns, 3 figures): what is read from here goes into one of
# any library without loss.

from libc.stdint cimport uint32_t, uint64_t


cdef enum:
    UWS_HISTOGRAM_HALF = 1024         # buckets of each power of two: 2,048 of them keep three figures
    UWS_HISTOGRAM_SHIFT = 10          # log2 of it
    UWS_HISTOGRAM_COUNTS = 33792      # (32 + 1) * 1,024

cdef extern from *:
    """
    #define UWS_HISTOGRAM_MAX_NS 3600000000000ull
    static inline unsigned uws_top_bit(unsigned long long x) { return 63u - (unsigned)__builtin_clzll(x); }
    """
    const uint64_t UWS_HISTOGRAM_MAX_NS
    unsigned int uws_top_bit(uint64_t x) noexcept nogil

cdef struct UwsHistogram:
    uint64_t n
    uint64_t max_ns                   # exact
    uint64_t counts[33792]


cdef inline uint32_t histogram_index(uint64_t ns) noexcept nogil:
    """The bucket of a duration of at most UWS_HISTOGRAM_MAX_NS."""
    # Below 2,048 a bucket is a nanosecond. Above, each power of two has 1,024 of them.
    cdef uint32_t power = uws_top_bit(ns | (2 * UWS_HISTOGRAM_HALF - 1)) - UWS_HISTOGRAM_SHIFT
    return (power << UWS_HISTOGRAM_SHIFT) + <uint32_t>(ns >> power)


cdef inline uint64_t histogram_value(uint32_t index) noexcept nogil:
    """The shortest duration of a bucket."""
    cdef uint32_t power
    if index < 2 * UWS_HISTOGRAM_HALF:
        return index
    power = (index >> UWS_HISTOGRAM_SHIFT) - 1
    return <uint64_t>(index - (power << UWS_HISTOGRAM_SHIFT)) << power


cdef inline void histogram_add(UwsHistogram* h, uint64_t ns) noexcept nogil:
    if ns > UWS_HISTOGRAM_MAX_NS:
        ns = UWS_HISTOGRAM_MAX_NS
    if ns > h.max_ns:
        h.max_ns = ns
    h.n += 1
    h.counts[histogram_index(ns)] += 1
