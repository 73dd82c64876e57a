# F4. See dial.pxd.

from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, errno
from posix.unistd cimport close

from _uws.sock cimport sockaddr

cdef extern from "sys/socket.h" nogil:
    cdef enum:
        SOCK_STREAM
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        SOL_SOCKET
        SO_ERROR
        SO_LINGER
        AF_UNIX
    cdef struct linger:
        int l_onoff
        int l_linger
    int socket(int, int, int)
    int bind(int, const sockaddr*, socklen_t)
    int connect(int, const sockaddr*, socklen_t)
    int getsockopt(int, int, int, void*, socklen_t*)
    int setsockopt(int, int, int, const void*, socklen_t)

cdef extern from "netinet/tcp.h" nogil:
    cdef enum:
        IPPROTO_TCP
        TCP_NODELAY

cdef extern from *:
    """
    #include <netinet/in.h>
    /* Newer than the headers of some systems that we are built on. */
    #ifndef IP_BIND_ADDRESS_NO_PORT
    #define IP_BIND_ADDRESS_NO_PORT 24
    #endif
    """
    const int IPPROTO_IP
    const int IP_BIND_ADDRESS_NO_PORT


cdef int dial_start(const UwsAddress* to, const UwsAddress* source) noexcept nogil:
    """Begin to connect, without waiting.

    source: the local address, its port 0; NULL: the kernel chooses.
    Returns the descriptor, which is writable (or in error) once it is known how that went: see dial_result(); or a
        negative UwsDial.
    """
    cdef int one = 1, saved
    cdef int fd = socket(to.at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return UWS_DIAL_FAILED
    if to.at.ss_family != AF_UNIX:
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    if source != NULL:
        # bind() would choose a port that is free towards everybody, and so there would be 28,000 in all; so it is
        # chosen by connect(), free towards this peer. The name is IPv4's; the kernel heeds it for IPv6 as well.
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one))
        if bind(fd, <const sockaddr*>&source.at, source.len_bytes) != 0:
            saved = errno
            close(fd)
            (&errno)[0] = saved
            return UWS_DIAL_FAILED
    # A signal interrupts nothing here: connecting goes on by itself.
    if connect(fd, <const sockaddr*>&to.at, to.len_bytes) != 0 and errno != EINPROGRESS and errno != EINTR:
        saved = errno
        close(fd)
        (&errno)[0] = saved
        return UWS_DIAL_AGAIN if saved == EAGAIN and to.at.ss_family == AF_UNIX else UWS_DIAL_FAILED
    return fd


cdef int dial_result(int fd) noexcept nogil:
    """How connecting went: 0, or the errno of it."""
    cdef int error = 0
    cdef socklen_t size = sizeof(error)
    if getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0:
        return errno
    return error


cdef void dial_end(int fd, bint reset) noexcept nogil:
    """Close. reset: with RST, which leaves no TIME_WAIT behind, and nothing that the peer may have to wait for."""
    cdef linger now
    if reset:
        now.l_onoff = 1
        now.l_linger = 0
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))
    close(fd)
