# F5. One loop: its making and end, and one turn of it: wait, accept, read, time out, flush.
# Owns the table, the allocator, the poller and the spare descriptor. Turns are taken by the thread that has the role.

from libc.stdint cimport uint32_t, uint64_t

from _uws.state cimport UwsBatch, UwsConn, UwsLimits, UwsLoop

cdef int loop_init(UwsLoop* l, const UwsLimits* limits, uint64_t max_message_bytes, uint32_t max_fragments,
                   uint32_t max_fds) noexcept nogil
cdef void loop_destroy(UwsLoop* l) noexcept nogil
cdef void loop_close(UwsLoop* l) noexcept nogil
cdef int batch_init(UwsBatch* b) noexcept nogil
cdef void batch_destroy(UwsBatch* b) noexcept nogil

# With the lock held.
cdef int loop_listen(UwsLoop* l, int fd, bint shared, bint in_turn) noexcept nogil
cdef void loop_turn(UwsLoop* l, UwsBatch* b) noexcept nogil
cdef int loop_next_ms(UwsLoop* l) noexcept nogil

# In a child process, right after the fork; nobody has the lock.
cdef void loop_forked(UwsLoop* l) noexcept nogil
