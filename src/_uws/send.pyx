# F5. See send.pxd.

from _uws.deflate cimport UwsDeflate, deflate_own_forget, deflate_own_run
from _uws.errs cimport UWS_E_ARG, UWS_E_NOMEM, UWS_MORE, UWS_OK
from _uws.frame cimport UWS_RSV1
from _uws.life cimport conn_dirty, conn_flush
from _uws.outq cimport outq_put_frame
from _uws.slab cimport slab_give
from _uws.slot cimport conn_at, conn_side, conn_takes, tick_now
from _uws.state cimport UWS_F_OUT_ON, UWS_M_EXTRA, pthread_mutex_unlock

cdef enum:
    CORK_BYTES = 65536            # queued bytes of one connection that do not wait for the end of the turn


cdef int send_frame(UwsLoop* l, UwsConn* c, int opcode, int rsv, const uint8_t* data, size_t len_bytes,
                    size_t plain_bytes) noexcept nogil:
    """Queue one frame: UWS_OK, UWS_SEND_FLUSH or UWS_E_NOMEM. plain_bytes: of the message before it was compressed."""
    if conn_side(l, c) == NULL or outq_put_frame(&c.side.out, &l.slab, opcode, rsv, data, len_bytes) != UWS_OK:
        return UWS_E_NOMEM
    l.count.messages_out += 1
    l.count.bytes_out += plain_bytes
    if l.limits.idle_timeout_ms != 0 and c.marks & UWS_M_EXTRA:
        l.extra[c - l.table].spoke = tick_now(l)
    if rsv:
        l.count.deflated += 1
        l.count.deflated_from_bytes += plain_bytes
        l.count.deflated_bytes += len_bytes
    conn_dirty(l, c)
    return UWS_OK if c.side.out.bytes < CORK_BYTES or c.flags & UWS_F_OUT_ON else UWS_SEND_FLUSH


cdef int send_own(UwsLoop* l, UwsConn* c, int opcode, const uint8_t* data, size_t len_bytes) noexcept nogil:
    """Compress in the connection's own context, which the client's follows: no other message of it may come between
    this and the queueing. As send_frame()."""
    cdef UwsDeflate* own = l.extra[c - l.table].deflate
    cdef uint8_t* out = NULL
    cdef size_t n = 0
    cdef int status
    if own == NULL or deflate_own_run(own, data, len_bytes, &out, &n) != UWS_OK:
        # Without memory for that: as it is, which is always allowed.
        return send_frame(l, c, opcode, 0, data, len_bytes, len_bytes)
    status = send_frame(l, c, opcode, UWS_RSV1, out, n, len_bytes)
    slab_give(&l.slab, out)
    if status == UWS_E_NOMEM:
        deflate_own_forget(own)
    return status


cdef void send_leave(UwsLoop* l, int32_t index, int status) noexcept nogil:
    """Let what was queued leave, if it says so, and let go of the lock."""
    if status == UWS_SEND_FLUSH:
        conn_flush(l, &l.table[index])
    pthread_mutex_unlock(&l.lock)


cdef int send_deflated(UwsLoop* l, int32_t index, uint32_t generation, int opcode, int done,
                       const uint8_t* data, size_t len_bytes, const uint8_t* out, size_t n) noexcept nogil:
    """Queue what deflater_run() made of data, or data itself if it made nothing (done), and let go of the deflater.

    As send_frame(); UWS_E_ARG if the connection is gone meanwhile, UWS_MORE if its queue is full.
    """
    cdef UwsConn* c = conn_at(l, index, generation)
    cdef int status
    if not conn_takes(c):
        status = UWS_E_ARG
    elif c.side != NULL and c.side.out.bytes >= l.limits.max_buffered_bytes:
        status = UWS_MORE
    elif done == UWS_OK:
        status = send_frame(l, c, opcode, UWS_RSV1, out, n, len_bytes)
    else:
        status = send_frame(l, c, opcode, 0, data, len_bytes, len_bytes)
    pthread_mutex_unlock(&l.deflate_lock)
    return status
