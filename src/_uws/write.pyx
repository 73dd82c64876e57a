# F6. See write.pxd.

from _uws.clock cimport clock_us
from _uws.deflate cimport deflater_run
from _uws.deliver cimport UWS_WAITED, UWS_WAITED_CLOSED, deliver_wait_room
from _uws.errs cimport UWS_E_ARG, UWS_E_NOMEM, UWS_MORE
from _uws.flush cimport conn_flush
from _uws.lock cimport conn_lock, conn_unlock
from _uws.proto cimport UWS_P_OURS_KEPT, UWS_P_WINDOW
from _uws.send cimport (
    UWS_SEND_DROP,
    UWS_SEND_FLUSH,
    UWS_SEND_HIGH,
    UWS_SEND_OLDER,
    UWS_STRAIGHT_BYTES,
    send_deflated,
    send_frame,
    send_leave,
    send_may_go_straight,
    send_overflow,
    send_own,
    send_straight,
)
from _uws.slot cimport conn_at, conn_takes
from _uws.state cimport UWS_F_OUT_ON, UWS_OVERFLOW_BLOCK, UwsConn, pthread_mutex_lock, pthread_mutex_trylock

cdef enum:
    GIL_BYTES = 8192              # a longer message is compressed without the GIL: it takes 0.1 ms and more
    KERNEL_GIL_BYTES = 65536      # a longer one is handed to the kernel without it: that takes 20 us and more


cdef int _wait_room(UwsLoop* l, int32_t index, uint32_t generation, UwsDelivery* running,
                    uint64_t deadline_us) noexcept:
    """Wait until the send queue has room: WRITE_OK, WRITE_GONE or WRITE_LATE. The lock is held on entry, not on
    return."""
    cdef UwsConn* c = conn_at(l, index, generation)
    cdef int waited
    with nogil:
        if not (c.flags & UWS_F_OUT_ON):
            # Perhaps it is only our own cork that is full.
            conn_flush(l, c)
        waited = deliver_wait_room(l, index, generation, running.role if running != NULL else 0, deadline_us)
        conn_unlock(l)
    if waited == UWS_WAITED_CLOSED:
        return WRITE_GONE
    return WRITE_OK if waited == UWS_WAITED else WRITE_LATE


cdef int _deflated(UwsLoop* l, int32_t index, uint32_t generation, int opcode, const uint8_t* data, size_t len_bytes,
                   int window_bits) noexcept:
    """Compress in a context that is not kept, and queue: as send_deflated(). The lock is held on entry, and let go of
    meanwhile: who compresses holds up others who do, and nobody else. It is not held on return."""
    cdef const uint8_t* out = NULL
    cdef size_t n = 0
    cdef int status, done
    conn_unlock(l)
    if len_bytes > GIL_BYTES or pthread_mutex_trylock(&l.deflate_lock) != 0:
        with nogil:
            pthread_mutex_lock(&l.deflate_lock)
            done = deflater_run(&l.deflater, window_bits, data, len_bytes, &out, &n)
            pthread_mutex_lock(&l.lock)
            status = send_deflated(l, index, generation, opcode, done, data, len_bytes, out, n)
            status = send_leave(l, index, generation, status)
        return status
    done = deflater_run(&l.deflater, window_bits, data, len_bytes, &out, &n)
    if pthread_mutex_trylock(&l.lock) == 0:
        status = send_deflated(l, index, generation, opcode, done, data, len_bytes, out, n)
        if status != UWS_SEND_FLUSH:
            conn_unlock(l)
            return status
        with nogil:
            status = send_leave(l, index, generation, status)
        return status
    with nogil:
        pthread_mutex_lock(&l.lock)
        status = send_deflated(l, index, generation, opcode, done, data, len_bytes, out, n)
        status = send_leave(l, index, generation, status)
    return status


cdef int write_message(UwsLoop* l, int32_t index, uint32_t generation, UwsDelivery* running, int opcode,
                       const uint8_t* data, size_t len_bytes, int compress) noexcept:
    cdef UwsConn* c
    cdef uint64_t deadline_us = 0
    cdef int status, sent = WRITE_OK
    while True:
        c = conn_at(l, index, generation)
        if not conn_takes(c):
            conn_unlock(l)
            return WRITE_GONE
        if c.side != NULL and c.side.out.bytes >= l.limits.max_buffered_bytes:
            # The room may be gone again by the time that it is our turn: others send too.
            if l.limits.overflow == UWS_OVERFLOW_BLOCK:
                if deadline_us == 0:
                    deadline_us = clock_us() + write_io_timeout(l)
                status = _wait_room(l, index, generation, running, deadline_us)
                if status != WRITE_OK:
                    return status
            else:
                with nogil:
                    status = send_overflow(l, c)
                    conn_unlock(l)
                if status == UWS_SEND_DROP:
                    return WRITE_DROPPED
                if status == UWS_E_ARG:
                    return WRITE_GONE
                if status == UWS_SEND_OLDER:
                    sent = WRITE_DROPPED_OLDER
            conn_lock(l)
            continue
        if compress != COMPRESS_NEVER and c.proto.flags & UWS_P_WINDOW and len_bytes != 0 \
                and (compress == COMPRESS_ALWAYS or len_bytes >= l.limits.deflate.threshold_bytes):
            if not (c.proto.flags & UWS_P_OURS_KEPT):
                status = _deflated(l, index, generation, opcode, data, len_bytes, c.proto.flags & UWS_P_WINDOW)
                if status == UWS_MORE:
                    conn_lock(l)
                    continue
                break
            if len_bytes > GIL_BYTES:
                with nogil:
                    status = send_leave(l, index, generation, send_own(l, c, opcode, data, len_bytes))
                break
            status = send_own(l, c, opcode, data, len_bytes)
        # Replies to messages that came together leave together. One that goes straight is none of them, or the last.
        elif len_bytes >= UWS_STRAIGHT_BYTES and send_may_go_straight(l, c) \
                and (running == NULL or running.at == running.end):
            if len_bytes > KERNEL_GIL_BYTES:
                with nogil:
                    status = send_leave(l, index, generation, send_straight(l, c, opcode, data, len_bytes))
                break
            status = send_straight(l, c, opcode, data, len_bytes)
        else:
            status = send_frame(l, c, opcode, 0, data, len_bytes, len_bytes)
        if status != UWS_SEND_FLUSH:
            conn_unlock(l)
            break
        # Much at once: others may compute while the kernel copies it.
        with nogil:
            status = send_leave(l, index, generation, status)
        break
    if status == UWS_E_NOMEM:
        return WRITE_NOMEM
    if status == UWS_E_ARG:
        return WRITE_GONE
    return WRITE_HIGH if status == UWS_SEND_HIGH and sent == WRITE_OK else sent
