# F4. See sock.pxd.

from libc.errno cimport (
    EAGAIN,
    EBADF,
    EINTR,
    EINVAL,
    EMFILE,
    ENFILE,
    ENOBUFS,
    ENOMEM,
    ENOTSOCK,
    EOPNOTSUPP,
    errno,
)
from libc.string cimport memcpy, memset
from posix.fcntl cimport O_CLOEXEC, O_RDONLY, open as c_open
from posix.unistd cimport close

from _uws.proxy cimport UWS_A_INET, UWS_A_INET6, UWS_A_NONE, UWS_A_UNIX

cdef extern from "sys/socket.h" nogil:
    cdef enum:
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        SOL_SOCKET
        AF_UNIX
        AF_INET
        AF_INET6
        AF_UNSPEC
        SO_PEERNAME
        MSG_NOSIGNAL
        MSG_DONTWAIT
        SHUT_WR
        SHUT_RDWR
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t c_recv "recv"(int, void*, size_t, int)
    ssize_t c_send "send"(int, const void*, size_t, int)
    ssize_t sendmsg(int, const msghdr*, int)
    int accept4(int, sockaddr*, socklen_t*, int)
    int connect(int, const sockaddr*, socklen_t)
    int shutdown(int, int)
    int getsockopt(int, int, int, void*, socklen_t*)
    int getsockname(int, sockaddr*, socklen_t*)
    int getpeername(int, sockaddr*, socklen_t*)

cdef extern from "netinet/in.h" nogil:
    cdef struct in_addr:
        pass
    cdef struct in6_addr:
        pass
    cdef struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        unsigned short sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
    uint16_t htons(uint16_t)

cdef extern from "sys/ioctl.h" nogil:
    cdef enum:
        FIONREAD
    int ioctl(int, unsigned long, ...)

cdef extern from "poll.h" nogil:
    cdef enum:
        POLLOUT
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd*, unsigned long, int)


cdef ssize_t _recv(int fd, uint8_t* data, size_t len_bytes) noexcept nogil:
    cdef ssize_t n
    while True:
        n = c_recv(fd, data, len_bytes, 0)
        if n >= 0:
            return n
        if errno == EAGAIN:
            return UWS_SOCK_AGAIN
        if errno != EINTR:
            return UWS_SOCK_LOST


cdef inline ssize_t _sent(ssize_t n) noexcept nogil:
    """What a failed send means. ENOBUFS and ENOMEM pass: EPOLLOUT tells when it is worth another try."""
    if errno == EAGAIN or errno == ENOBUFS or errno == ENOMEM:
        return UWS_SOCK_AGAIN
    return UWS_SOCK_LOST


cdef ssize_t _send(int fd, const uint8_t* data, size_t len_bytes) noexcept nogil:
    cdef ssize_t n
    while True:
        n = c_send(fd, data, len_bytes, MSG_NOSIGNAL)
        if n >= 0:
            return n
        if errno != EINTR:
            return _sent(n)


cdef ssize_t _sendv(int fd, iovec* parts, int n_parts) noexcept nogil:
    # sendmsg and not writev: only the former can be told not to raise SIGPIPE.
    cdef msghdr message
    cdef ssize_t n
    memset(&message, 0, sizeof(message))
    message.msg_iov = parts
    message.msg_iovlen = n_parts
    while True:
        n = sendmsg(fd, &message, MSG_NOSIGNAL)
        if n >= 0:
            return n
        if errno != EINTR:
            return _sent(n)


cdef UwsTransport PLAIN
PLAIN.recv = _recv
PLAIN.send = _send
PLAIN.sendv = _sendv


cdef const UwsTransport* sock_plain() noexcept nogil:
    return &PLAIN


cdef int sock_accept(int listen_fd) noexcept nogil:
    """The next connection's descriptor (non-blocking, closed on exec), or a negative UwsAccept."""
    cdef int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd >= 0:
        return fd
    if errno == EAGAIN:
        return UWS_ACCEPT_NONE
    if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
        return UWS_ACCEPT_STARVED
    if errno == EBADF or errno == EINVAL or errno == ENOTSOCK or errno == EOPNOTSUPP:
        return UWS_ACCEPT_BROKEN
    # ECONNABORTED, EINTR, and the network errors of the new socket that Linux passes on through accept.
    return UWS_ACCEPT_AGAIN


cdef void sock_end_sending(int fd) noexcept nogil:
    """Send FIN behind what is queued. What the peer still sends is read and dropped: closing with unread data would
    send RST, which may overtake our close frame (RFC 6455, section 7.1.1)."""
    shutdown(fd, SHUT_WR)


cdef void sock_reset(int fd) noexcept nogil:
    """Send RST now, though the descriptor stays open: disconnecting does, where SO_LINGER would wait for close(). The
    socket has forgotten its peer afterwards. A Unix socket knows no RST: its peer finds the end."""
    cdef sockaddr nobody
    memset(&nobody, 0, sizeof(nobody))
    nobody.sa_family = AF_UNSPEC
    if connect(fd, &nobody, sizeof(nobody)) != 0:
        sock_sever(fd)


cdef void sock_sever(int fd) noexcept nogil:
    """Shut both directions, of a connection that is of no use any more: what has come can still be read, then the end
    of the stream. epoll reports that, asked for or not."""
    shutdown(fd, SHUT_RDWR)


cdef int sock_turn_away(int listen_fd, const uint8_t* response, size_t len_bytes) noexcept nogil:
    """Accept one connection only to answer it with response and close it: 0, or a negative UwsAccept."""
    cdef uint8_t unread[4096]
    cdef int fd = sock_accept(listen_fd)
    if fd < 0:
        return fd
    # What the client has sent is read first, or close() would answer it with RST and the response be lost.
    c_recv(fd, unread, sizeof(unread), MSG_DONTWAIT)
    c_send(fd, response, len_bytes, MSG_NOSIGNAL | MSG_DONTWAIT)
    shutdown(fd, SHUT_WR)
    c_recv(fd, unread, sizeof(unread), MSG_DONTWAIT)
    close(fd)
    return 0


cdef int sock_spare() noexcept nogil:
    """A descriptor kept so that there is one to refuse clients with when all others are used; -1 if there is none."""
    return c_open("/dev/null", O_RDONLY | O_CLOEXEC)


cdef bint sock_unread(int fd) noexcept nogil:
    """Is there something that has come and has not been received? An end of the stream does not count."""
    cdef int n = 0
    return ioctl(fd, FIONREAD, &n) == 0 and n > 0


cdef bint sock_writable(int fd) noexcept nogil:
    """Would epoll report EPOLLOUT now? Sending may take some bytes long before that."""
    cdef pollfd asked
    asked.fd = fd
    asked.events = POLLOUT
    asked.revents = 0
    return poll(&asked, 1, 0) > 0


cdef int sock_peer(int fd, sockaddr_storage* out) noexcept nogil:
    """The peer's address: 0 or -1. SO_PEERNAME, unlike getpeername(), still knows it after an RST; it wants to be asked
    for no more bytes than the address has, 16 for IPv4 and 28 for IPv6, of which it gives the first 16 as well. That of
    a Unix socket may be the two bytes of its family, and has no RST to outlive. A sandbox or an emulator, in place of a
    kernel, may not know SO_PEERNAME."""
    cdef socklen_t size = 16
    memset(out, 0, sizeof(sockaddr_storage))
    if getsockopt(fd, SOL_SOCKET, SO_PEERNAME, out, &size) == 0 and out.ss_family == AF_INET:
        return 0
    size = 28
    if out.ss_family == AF_INET6 and getsockopt(fd, SOL_SOCKET, SO_PEERNAME, out, &size) == 0:
        return 0
    memset(out, 0, sizeof(sockaddr_storage))
    size = sizeof(sockaddr_storage)
    if getpeername(fd, <sockaddr*>out, &size) == 0 and out.ss_family in (AF_UNIX, AF_INET, AF_INET6):
        return 0
    return -1


cdef int sock_local(int fd, sockaddr_storage* out) noexcept nogil:
    cdef socklen_t size = sizeof(sockaddr_storage)
    memset(out, 0, sizeof(sockaddr_storage))
    return getsockname(fd, <sockaddr*>out, &size)


cdef int sock_kind(const sockaddr_storage* address, const uint8_t** addr) noexcept nogil:
    """UwsAddressKind of a socket's address; addr: its bytes, network byte order."""
    if address.ss_family == AF_INET:
        addr[0] = <const uint8_t*>&(<const sockaddr_in*>address).sin_addr
        return UWS_A_INET
    if address.ss_family == AF_INET6:
        addr[0] = <const uint8_t*>&(<const sockaddr_in6*>address).sin6_addr
        return UWS_A_INET6
    return UWS_A_UNIX if address.ss_family == AF_UNIX else UWS_A_NONE


cdef size_t sock_compose(int kind, const uint8_t* addr, size_t len_bytes, uint16_t port,
                         sockaddr_storage* out) noexcept nogil:
    """Make a socket's address of what a proxy gave; it is as long as what is returned.

    addr, len_bytes: the address's bytes, network byte order; of UWS_A_UNIX the name, 108 bytes at most.
    """
    memset(out, 0, sizeof(sockaddr_storage))
    if kind == UWS_A_INET:
        (<sockaddr_in*>out).sin_family = AF_INET
        (<sockaddr_in*>out).sin_port = htons(port)
        memcpy(&(<sockaddr_in*>out).sin_addr, addr, 4)
        return sizeof(sockaddr_in)
    if kind == UWS_A_INET6:
        (<sockaddr_in6*>out).sin6_family = AF_INET6
        (<sockaddr_in6*>out).sin6_port = htons(port)
        memcpy(&(<sockaddr_in6*>out).sin6_addr, addr, 16)
        return sizeof(sockaddr_in6)
    out.ss_family = AF_UNIX
    memcpy(<uint8_t*>out + sizeof(out.ss_family), addr, len_bytes)
    return sizeof(out.ss_family) + len_bytes
