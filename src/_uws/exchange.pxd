# F6. One request that Python is asked about. See exchange.pyx.

from libc.stdint cimport int32_t, uint32_t

from _uws.peer cimport RawEnds
from _uws.state cimport UwsLoop
from _uws.upgrade cimport UwsSpan


cdef class Exchange:
    cdef object owner                 # the Loop: keeps l's memory
    cdef UwsLoop* l
    cdef int32_t index
    cdef uint32_t generation
    cdef readonly bint is_upgrade
    cdef readonly bytes head
    cdef UwsSpan span                 # of the target, in head
    cdef readonly RawEnds ends


cdef Exchange exchange_make(object owner, UwsLoop* l, int32_t index, uint32_t generation)
cdef int exchange_fail(UwsLoop* l, int32_t index, uint32_t generation) except -1
