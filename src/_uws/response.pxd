# F2. Responses of the opening handshake (RFC 6455, section 4.2.2): the 101, and refusals that are complete HTTP.
# Owns nothing. Used by the loop (F5) and by the tests' shim.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from _uws.upgrade cimport UwsUpgrade


cdef enum:
    UWS_MAX_REFUSAL_BYTES = 512       # no response of response_refuse() is longer


cdef size_t response_accept(uint8_t* out, size_t cap, const UwsUpgrade* u,
                            const uint8_t* subprotocol, size_t subprotocol_len,
                            const uint8_t* extensions, size_t extensions_len, bint more) noexcept nogil

cdef size_t response_refuse(uint8_t* out, size_t cap, int status) noexcept nogil
