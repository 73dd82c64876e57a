# F5. Load generator: a thread's turns. Pace, phases, deadlines. See loadplan.pxd.
# Called by load (F6), from a thread of its own without the GIL.

from _uws.loadplan cimport UwsLoad

# UWS_OK at the end of the run; UWS_E_SYS: there is no epoll (errno), or no private table where one is required.
cdef int load_run(UwsLoad* l, int private_table, int required) noexcept nogil
