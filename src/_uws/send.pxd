# F5. Queueing messages: as they are, or compressed. Used by the threads that send; conn decides which way each goes.

from libc.stdint cimport int32_t, uint8_t, uint32_t

from _uws.state cimport UWS_F_DIRTY, UWS_F_OUT_ON, UwsConn, UwsLoop

cdef enum:
    UWS_SEND_FLUSH = 2            # what is queued now should leave at once: send_leave()
    UWS_SEND_HIGH = 3             # it is queued, and the queue is above the high mark
    # Of send_overflow():
    UWS_SEND_OLDER = 4            # older messages have made room
    UWS_SEND_DROP = 5             # there is none
    # A message of so many bytes need not wait for others to leave with: copying it costs more than a system call.
    UWS_STRAIGHT_BYTES = 8192

cdef inline bint send_may_go_straight(const UwsLoop* l, const UwsConn* c) noexcept nogil:
    """The descriptor is at hand, and nothing is queued, or put off, that would have to go first."""
    if l.limits.private_fds or c.flags & (UWS_F_DIRTY | UWS_F_OUT_ON):
        return False
    return c.side == NULL or (c.side.out.head == NULL and not c.side.pong_waits)


# All with the loop's lock held. UWS_OK, UWS_SEND_FLUSH, UWS_SEND_HIGH or UWS_E_NOMEM.
# plain_bytes: of the message before it was compressed.
cdef int send_frame(UwsLoop* l, UwsConn* c, int opcode, int rsv, const uint8_t* data, size_t len_bytes,
                    size_t plain_bytes) noexcept nogil
# Past the queue, which is empty (send_may_go_straight). UWS_OK, UWS_SEND_FLUSH (not all of it has left), or
# UWS_E_NOMEM: either nothing has been queued, or the connection was dropped.
cdef int send_straight(UwsLoop* l, UwsConn* c, int opcode, const uint8_t* data, size_t len_bytes) noexcept nogil
cdef int send_own(UwsLoop* l, UwsConn* c, int opcode, const uint8_t* data, size_t len_bytes) noexcept nogil
# ... and with the deflater's, which it lets go of.
cdef int send_deflated(UwsLoop* l, int32_t index, uint32_t generation, int opcode, int done,
                       const uint8_t* data, size_t len_bytes, const uint8_t* out, size_t n) noexcept nogil
# Lets go of the lock now and then, and is the last to hold it.
cdef int send_leave(UwsLoop* l, int32_t index, uint32_t generation, int status) noexcept nogil
cdef int send_overflow(UwsLoop* l, UwsConn* c) noexcept nogil
