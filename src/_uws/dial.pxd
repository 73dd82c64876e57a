# F4. Connecting: sockets of clients and their options.
# Owns nothing. What is said over the sockets goes through sock's transport.

from libc.stdint cimport uint32_t

from _uws.sock cimport sockaddr_storage, socklen_t

cdef enum UwsDial:
    UWS_DIAL_AGAIN = -1       # a Unix socket's backlog is full: it is worth another try
    UWS_DIAL_FAILED = -2      # errno says why

# An address, and how much of it counts.
cdef struct UwsAddress:
    socklen_t len_bytes
    sockaddr_storage at

cdef int dial_start(const UwsAddress* to, const UwsAddress* source) noexcept nogil
cdef int dial_result(int fd) noexcept nogil
cdef void dial_end(int fd, bint reset) noexcept nogil
