# F4. Sockets: accept, receive, send, their options and addresses. The only floor that calls them.
# UwsTransport is the table of functions behind which TLS can come to live; owns nothing.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t

cdef extern from "sys/uio.h" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "sys/socket.h" nogil:
    cdef struct sockaddr:
        unsigned short sa_family
    cdef struct sockaddr_storage:
        unsigned short ss_family
    ctypedef unsigned int socklen_t

# Each returns bytes moved; 0 at end of stream (recv only); a negative UwsSocket status.
cdef enum UwsSocket:
    UWS_SOCK_AGAIN = -1       # would block
    UWS_SOCK_LOST = -2        # the connection is gone

ctypedef ssize_t (*uws_recv_fn)(int fd, uint8_t* data, size_t len_bytes) noexcept nogil
ctypedef ssize_t (*uws_send_fn)(int fd, const uint8_t* data, size_t len_bytes) noexcept nogil
ctypedef ssize_t (*uws_sendv_fn)(int fd, iovec* parts, int n) noexcept nogil

cdef struct UwsTransport:
    uws_recv_fn recv
    uws_send_fn send
    uws_sendv_fn sendv

cdef enum UwsAccept:
    UWS_ACCEPT_NONE = -1      # the backlog is empty
    UWS_ACCEPT_AGAIN = -2     # that one went away: try the next
    UWS_ACCEPT_STARVED = -3   # no descriptor or no memory for one (EMFILE, ENFILE, ENOBUFS, ENOMEM)
    UWS_ACCEPT_BROKEN = -4    # the listener is unusable

cdef const UwsTransport* sock_plain() noexcept nogil
cdef int sock_accept(int listen_fd) noexcept nogil
cdef void sock_end_sending(int fd) noexcept nogil
cdef void sock_reset(int fd) noexcept nogil
cdef void sock_sever(int fd) noexcept nogil
cdef int sock_turn_away(int listen_fd, const uint8_t* response, size_t len_bytes) noexcept nogil
cdef int sock_spare() noexcept nogil
cdef bint sock_unread(int fd) noexcept nogil
cdef bint sock_writable(int fd) noexcept nogil
cdef int sock_peer(int fd, sockaddr_storage* out) noexcept nogil
cdef int sock_local(int fd, sockaddr_storage* out) noexcept nogil
cdef int sock_kind(const sockaddr_storage* address, const uint8_t** addr) noexcept nogil
cdef size_t sock_compose(int kind, const uint8_t* addr, size_t len_bytes, uint16_t port,
                         sockaddr_storage* out) noexcept nogil
