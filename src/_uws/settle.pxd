# F5. The end of a connection: what a slot held goes back, and at the very end its descriptor and the slot itself.
# With life.pyx the only file that changes UwsConn.state. Everything is called with the loop's lock held.

from _uws.state cimport UwsConn, UwsLoop

cdef void conn_drop(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_part(UwsLoop* l, UwsConn* c) noexcept nogil
cdef bint conn_settle(UwsLoop* l, UwsConn* c) noexcept nogil
