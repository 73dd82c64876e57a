# Window of the tests onto _uws.sock: statuses as they are, addresses as the kernel's bytes.
# Imported by tests/engine/test_sock.py only.

from libc.stdint cimport uint8_t

from _uws.sock cimport (
    UWS_ACCEPT_AGAIN,
    UWS_ACCEPT_BROKEN,
    UWS_ACCEPT_NONE,
    UWS_ACCEPT_STARVED,
    UWS_SOCK_AGAIN,
    UWS_SOCK_LOST,
    iovec,
    sock_accept,
    sock_end_sending,
    sock_local,
    sock_peer,
    sock_plain,
    sock_reset,
    sock_spare,
    sock_turn_away,
    sockaddr_storage,
)

ACCEPT_AGAIN = UWS_ACCEPT_AGAIN
ACCEPT_BROKEN = UWS_ACCEPT_BROKEN
ACCEPT_NONE = UWS_ACCEPT_NONE
ACCEPT_STARVED = UWS_ACCEPT_STARVED
AGAIN = UWS_SOCK_AGAIN
LOST = UWS_SOCK_LOST

cdef enum:
    MAX_PARTS = 64


def recv(int fd, size_t len_bytes):
    """The bytes, or the status."""
    cdef bytearray room = bytearray(len_bytes)
    cdef uint8_t* data = room
    cdef ssize_t n
    with nogil:
        n = sock_plain().recv(fd, data, len_bytes)
    return bytes(room[:n]) if n >= 0 else n


def send(int fd, bytes data):
    cdef const uint8_t* p = data
    cdef size_t len_bytes = len(data)
    cdef ssize_t n
    with nogil:
        n = sock_plain().send(fd, p, len_bytes)
    return n


def sendv(int fd, list parts):
    cdef iovec vector[MAX_PARTS]
    cdef int count = len(parts)
    cdef ssize_t n
    assert count <= MAX_PARTS
    for i in range(count):
        vector[i].iov_base = <void*><const uint8_t*>(<bytes>parts[i])
        vector[i].iov_len = len(parts[i])
    with nogil:
        n = sock_plain().sendv(fd, vector, count)
    return n


def accept(int listen_fd):
    return sock_accept(listen_fd)


def end_sending(int fd):
    sock_end_sending(fd)


def reset(int fd):
    sock_reset(fd)


def turn_away(int listen_fd, bytes response):
    return sock_turn_away(listen_fd, response, len(response))


def spare():
    return sock_spare()


def peer(int fd):
    """struct sockaddr as bytes, or None"""
    cdef sockaddr_storage storage
    return (<char*>&storage)[:sizeof(storage)] if sock_peer(fd, &storage) == 0 else None


def local(int fd):
    cdef sockaddr_storage storage
    return (<char*>&storage)[:28] if sock_local(fd, &storage) == 0 else None
