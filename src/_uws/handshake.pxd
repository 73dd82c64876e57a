# F5. The opening handshake of a connection: its request in; the 101, a refusal or Python's answer out.
# Owns the request's bytes in the side block, until it is answered. Everything is called with the loop's lock held.

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from _uws.sock cimport sockaddr_storage
from _uws.state cimport UwsBatch, UwsConn, UwsLoop

# What Python adds to a 101.
cdef struct UwsAcceptance:
    const uint8_t* subprotocol
    size_t subprotocol_len
    const uint8_t* headers        # whole field lines, each with its CRLF
    size_t headers_len
    uint32_t auth_timeout_ms      # for a connection that is not authenticated yet; 0: it is
    uint64_t expires_ms           # until its credential expires; 0: it does not
    bint decided                  # by Python, the subprotocol too

cdef enum:
    UWS_MAX_SUBPROTOCOL_BYTES = 255

cdef void conn_request(UwsLoop* l, UwsBatch* b, UwsConn* c, uint8_t* data, size_t len_bytes) noexcept nogil
cdef UwsConn* conn_asking(UwsLoop* l, int32_t index, uint32_t generation) noexcept nogil
cdef bint conn_accept(UwsLoop* l, UwsConn* c, const UwsAcceptance* with_) noexcept nogil
cdef bint conn_peer(UwsLoop* l, UwsConn* c, sockaddr_storage* out) noexcept nogil
