# Memory that runs out: what the engine takes from its slab may be refused. To be installed before any other module of
# the engine is there but _uws.slab.

from libc.stdint cimport uint32_t

# ask(one_in) says whether this is refused; NULL: nothing is.
cdef void scarce_set(int (*ask)(uint32_t) noexcept nogil, uint32_t one_in) noexcept nogil
