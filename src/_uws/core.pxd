# F6. The top floor: loops. See core.pyx.

from libc.stdint cimport uint32_t, uint64_t

from _uws.dispatch cimport Dispatch
from _uws.state cimport UwsBatch


cdef class Crowd:
    cdef uint32_t n                   # atomic: every loop of the crowd writes it


cdef class Loop(Dispatch):
    cdef Crowd crowd
    cdef readonly object client       # of set_proxies()
    cdef object spawn
    cdef uint32_t max_runners
    cdef bint spawning
    cdef bint dog_started
    cdef UwsBatch guest               # where a guest drives the loop, its batch
    cdef bint visiting
    cdef uint64_t spawn_at_ms         # no runner is asked for before; 0: any time

    cdef int _end(self) except -1
    cdef int _staff(self, uint64_t role) except -1
    cdef int _spare(self) except -1
