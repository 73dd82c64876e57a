"""Window on _uws.histogram."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from _uws.histogram cimport (
    UWS_HISTOGRAM_COUNTS, UWS_HISTOGRAM_MAX_NS, UwsHistogram, histogram_add, histogram_index, histogram_value,
)

COUNTS = UWS_HISTOGRAM_COUNTS
MAX_NS = UWS_HISTOGRAM_MAX_NS


def index(uint64_t ns):
    return histogram_index(ns)


def value(uint32_t bucket):
    return histogram_value(bucket)


def counted(samples):
    """(n, max, {bucket: count}) of a histogram of them."""
    cdef UwsHistogram* h = <UwsHistogram*>calloc(1, sizeof(UwsHistogram))
    if h == NULL:
        raise MemoryError
    for sample in samples:
        histogram_add(h, sample)
    found = {i: h.counts[i] for i in range(UWS_HISTOGRAM_COUNTS) if h.counts[i]}
    n, longest = h.n, h.max_ns
    free(h)
    return n, longest, found
