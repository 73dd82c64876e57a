# F5. Load generator: connecting and upgrading. See loadplan.pxd. Called by loadrun only.

from _uws.loadplan cimport UwsLoad, UwsLoadConn

cdef int load_start(UwsLoad* l, UwsLoadConn* c) noexcept nogil
cdef void load_connected(UwsLoad* l, UwsLoadConn* c) noexcept nogil
cdef void load_upgrading(UwsLoad* l, UwsLoadConn* c) noexcept nogil
