# F5. The send queue of one connection, which is also its cork: what is queued in a turn leaves with one send.
# Owns its chunks (from the slab). Under the loop's lock.

from libc.stdint cimport uint8_t, uint32_t

from _uws.slab cimport UwsSlab
from _uws.sock cimport UwsTransport
from _uws.state cimport UwsOutq

cdef uint8_t* outq_room(UwsOutq* q, UwsSlab* slab, size_t len_bytes) noexcept nogil
cdef int outq_put(UwsOutq* q, UwsSlab* slab, const uint8_t* data, size_t len_bytes) noexcept nogil
cdef int outq_put_frame(UwsOutq* q, UwsSlab* slab, int opcode, int rsv, const uint8_t* data,
                        size_t len_bytes) noexcept nogil
cdef uint32_t outq_make_room(UwsOutq* q, UwsSlab* slab, size_t below_bytes, bint keep_deflated) noexcept nogil
cdef void outq_cut(UwsOutq* q, UwsSlab* slab) noexcept nogil
cdef int outq_flush(UwsOutq* q, UwsSlab* slab, const UwsTransport* io, int fd) noexcept nogil
cdef void outq_drop(UwsOutq* q, UwsSlab* slab) noexcept nogil
