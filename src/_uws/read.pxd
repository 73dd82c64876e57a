# F5. Reading a connection: the request head while it upgrades, frames afterwards.
# Owns nothing; reads into the arena of the batch at hand. Called with the loop's lock held.

from _uws.state cimport UwsBatch, UwsConn, UwsLoop

cdef void conn_read(UwsLoop* l, UwsBatch* b, UwsConn* c) noexcept nogil
