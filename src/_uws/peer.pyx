# F6. See peer.pxd.

import os

cimport cython
from libc.stdint cimport uint16_t

from _uws.handshake cimport conn_peer
from _uws.intern cimport intern_get, intern_give, intern_ref
from _uws.lock cimport conn_lock, conn_unlock
from _uws.slot cimport conn_index
from _uws.state cimport UWS_M_EXTRA

cdef extern from "arpa/inet.h" nogil:
    cdef enum:
        AF_UNIX
        AF_INET
        AF_INET6
        INET6_ADDRSTRLEN
    cdef struct in_addr:
        pass
    cdef struct in6_addr:
        pass
    cdef struct sockaddr_in:
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_port
        in6_addr sin6_addr
    const char* inet_ntop(int, const void*, char*, unsigned int)
    uint16_t ntohs(uint16_t)


@cython.final
cdef class RawEnds:
    """Both ends of a connection that was there. See peer.pyi."""

    def __init__(self):
        raise TypeError("ends are taken by the loop")

    @property
    def remote_addr(self):
        return address_of(&self.peer) if self.client is None else self.client

    @property
    def peer_addr(self):
        return address_of(&self.peer)

    @property
    def local_addr(self):
        return address_of(&self.local)

    def __reduce__(self):
        return Ends, (self.remote_addr, self.local_addr, self.is_secure)


cdef str _unix_host(const sockaddr_storage* storage):
    """How Address writes the name of a Unix socket. What is behind the name is zero bytes."""
    cdef bytes name = (<char*>&storage.ss_family)[sizeof(storage.ss_family):sizeof(sockaddr_storage)].rstrip(b"\0")
    return "unix:" + os.fsdecode(b"@" + name[1:] if name.startswith(b"\0") else name)


cdef object address_of(const sockaddr_storage* storage):
    """A socket's address as an Address; that of a socket without one is the empty one."""
    cdef char text[64]
    if storage.ss_family == AF_INET:
        inet_ntop(AF_INET, &(<sockaddr_in*>storage).sin_addr, text, sizeof(text))
        return Address(text.decode("ascii"), ntohs((<sockaddr_in*>storage).sin_port))
    if storage.ss_family == AF_INET6:
        inet_ntop(AF_INET6, &(<sockaddr_in6*>storage).sin6_addr, text, sizeof(text))
        return Address(plain_host(text.decode("ascii")), ntohs((<sockaddr_in6*>storage).sin6_port))
    if storage.ss_family == AF_UNIX:
        return Address(_unix_host(storage), 0)
    return Address("", 0)


cdef void remote_take(UwsLoop* l, UwsConn* c, UwsRemote* out) noexcept nogil:
    """Take from a slot what remote_make() makes an Address of. The lock is held; no object may be made."""
    cdef uint32_t forwarded = 0
    out.is_secure = conn_peer(l, c, &out.peer)
    if c.marks & UWS_M_EXTRA:
        forwarded = l.extra[conn_index(l, c)].forwarded
    # With a reference of our own the text stays where it is.
    intern_ref(&l.intern, forwarded)
    out.forwarded = forwarded
    out.text = intern_get(&l.intern, forwarded, &out.len_bytes)


cdef object remote_make(object owner, UwsLoop* l, UwsRemote* remote):
    """Who the client is: remote.peer, or whom that one, a trusted proxy, speaks for. The lock is not held; remote is
    used up, also where there is no memory for what is made of it."""
    if remote.forwarded == 0:
        return address_of(&remote.peer)
    try:
        peer = address_of(&remote.peer)
        text = (<char*>remote.text)[:remote.len_bytes].decode("latin-1")
    finally:
        conn_lock(l)
        intern_give(&l.intern, remote.forwarded)
        conn_unlock(l)
    return owner.client(peer, text)


# At the end, as in conn.
from unlimitedws.address import Address, Ends, plain_host
