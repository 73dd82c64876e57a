# F6. The load generator as Python sees it. See load.pyx.

from _uws.loadplan cimport UwsLoad, UwsLoadPlan


cdef class Plan:
    cdef UwsLoadPlan p
    cdef object kept                  # what p points into


cdef class Load:
    cdef UwsLoad* l
    cdef Plan plan
    cdef bint started
