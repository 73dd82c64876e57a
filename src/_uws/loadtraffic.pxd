# F5. Load generator: messages and control frames out, replies in, every one checked. See loadplan.pxd.
# Owns nothing; called by loadopening for what came with the handshake, and by loadrun.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t

from _uws.loadplan cimport UwsLoad, UwsLoadConn

cdef void load_send(UwsLoad* l, UwsLoadConn* c) noexcept nogil
cdef void load_queue(UwsLoad* l, UwsLoadConn* c, uint64_t count, uint64_t now_ns) noexcept nogil
cdef void load_close(UwsLoad* l, UwsLoadConn* c) noexcept nogil
cdef void load_received(UwsLoad* l, UwsLoadConn* c, const uint8_t* data, size_t len_bytes) noexcept nogil
cdef void load_readable(UwsLoad* l, UwsLoadConn* c) noexcept nogil
