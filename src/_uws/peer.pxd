# F6. Who is at either end of a connection, as an Address. Owns nothing; used by conn and by exchange.

from libc.stdint cimport uint8_t, uint32_t

from _uws.sock cimport sockaddr_storage
from _uws.state cimport UwsConn, UwsLoop

# Who is at the other end, as it is taken from a slot under the lock.
cdef struct UwsRemote:
    sockaddr_storage peer
    bint is_secure                    # the client speaks TLS, a PROXY header said
    uint32_t forwarded                # id of what a trusted proxy said of its client, with a reference; 0: nothing
    const uint8_t* text
    size_t len_bytes


cdef class RawEnds:
    cdef sockaddr_storage peer
    cdef sockaddr_storage local
    cdef object client                # remote_addr, where it is not that of peer; else None
    cdef readonly bint is_secure


cdef void remote_take(UwsLoop* l, UwsConn* c, UwsRemote* out) noexcept nogil
cdef object remote_make(object owner, UwsLoop* l, UwsRemote* remote)
cdef object address_of(const sockaddr_storage* storage)
