# What the simulation's clients compress and decompress with (RFC 7692): zlib as it is, and nothing of the engine's.
# Owns a pair of contexts for each client. Used by simpeer_shim, and by sim_shim, which gives them back.

from libc.stdint cimport uint8_t, uint32_t

# What the 101 says. Window bits: 8 to 15.
cdef struct PeerTerms:
    uint8_t server_bits
    uint8_t client_bits
    uint8_t server_resets             # no context takeover
    uint8_t client_resets

cdef bint deflates_begin(int client, const PeerTerms* terms) noexcept nogil
cdef void deflates_end() noexcept nogil
# How many bytes there are in out then; 0: something is wrong.
cdef uint32_t deflates(int client, const uint8_t* data, uint32_t n, uint8_t* out, uint32_t cap) noexcept nogil
cdef uint32_t inflates(int client, uint8_t* data, uint32_t n, uint8_t* out, uint32_t cap) noexcept nogil
