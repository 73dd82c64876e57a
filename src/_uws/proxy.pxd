# F2. What proxies say of their clients: the PROXY protocol's header, the fields that forward an address, and whom to
# believe. Owns one table, filled when the module is imported; keeps no state. Used by the handshake (F5).

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef enum:
    UWS_PROXY_MAX_BYTES = 4096        # longest header, its TLVs included
    UWS_PROXY_LINE_BYTES = 107        # longest header of version 1, its CRLF included
    UWS_MAX_NETS = 64

# What kind of address a proxy, or a socket, gives.
cdef enum UwsAddressKind:
    UWS_A_NONE = 0
    UWS_A_UNIX = 1
    UWS_A_INET = 4
    UWS_A_INET6 = 6

cdef struct UwsProxy:
    uint32_t len_bytes        # of the header
    uint8_t kind              # UwsAddressKind of the client; UWS_A_NONE: the socket's own address is right
    uint8_t is_secure         # the client speaks TLS
    uint16_t port             # host byte order
    uint8_t addr[16]          # network byte order; IPv4 in the first four
    uint32_t path_off         # the name of a Unix socket, counted from the header's first byte
    uint32_t path_len

# A network that is trusted.
cdef struct UwsNet:
    uint8_t kind              # UwsAddressKind; UWS_A_UNIX is everybody on a Unix socket
    uint8_t bits
    uint8_t addr[16]


cdef int proxy_parse(const uint8_t* data, size_t len_bytes, UwsProxy* out) noexcept nogil

cdef bint proxy_trusts(const UwsNet* nets, int n, int kind, const uint8_t* addr) noexcept nogil

cdef size_t proxy_collect(const uint8_t* head, size_t head_len, const uint8_t* name, size_t name_len,
                          uint8_t* out, size_t cap) noexcept nogil
