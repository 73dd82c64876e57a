# F5. What an open connection sends us: frames in; events, pongs and the end out. With the loop's lock held.
# Owns nothing. Called by read for what was received, and by handshake for what came behind the request.

from libc.stdint cimport uint8_t

from _uws.state cimport UwsBatch, UwsConn, UwsLoop

cdef void conn_frames(UwsLoop* l, UwsBatch* b, UwsConn* c, uint8_t* data, size_t len_bytes) noexcept nogil
