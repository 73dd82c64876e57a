# F5. See send.pxd.

from _uws.deflate cimport UwsDeflate, deflate_own_forget, deflate_own_run
from _uws.errs cimport UWS_E_ARG, UWS_E_NOMEM, UWS_MORE, UWS_OK
from _uws.flush cimport conn_dirty, conn_flush
from _uws.frame cimport UWS_MAX_HEAD_BYTES, UWS_RSV1, frame_head
from _uws.keeper cimport keeper_tend
from _uws.life cimport conn_abort
from _uws.outq cimport outq_make_room, outq_put, outq_put_frame
from _uws.proto cimport UWS_P_OURS_KEPT
from _uws.slab cimport slab_give
from _uws.slot cimport conn_at, conn_index, conn_side, conn_takes, loop_foreign, side_count, tick_now
from _uws.sock cimport iovec
from _uws.state cimport (
    UWS_C_MEMORY,
    UWS_C_SLOW_READER,
    UWS_F_OUT_ON,
    UWS_M_EXTRA,
    UWS_OVERFLOW_CLOSE,
    UWS_OVERFLOW_DROP_OLDEST,
    pthread_mutex_unlock,
)
from _uws.tend cimport tend_queues


cdef int _level(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Whether the kernel left more in the queue than the high mark allows: UWS_OK or UWS_SEND_HIGH."""
    if c.side == NULL or c.side.out.bytes <= l.limits.high_bytes:
        return UWS_OK
    if not c.side.high:
        c.side.high = 1
        l.count.highs += 1
    return UWS_SEND_HIGH


cdef inline void _count(UwsLoop* l, UwsConn* c, size_t plain_bytes) noexcept nogil:
    l.count.messages_out += 1
    l.count.bytes_out += plain_bytes
    if l.limits.idle_timeout_ms != 0 and c.marks & UWS_M_EXTRA:
        l.extra[c - l.table].spoke = tick_now(l)


cdef int _put_rest(UwsLoop* l, UwsConn* c, const uint8_t* head, size_t head_len, const uint8_t* data, size_t len_bytes,
                   size_t n) noexcept nogil:
    """Queue what follows the first n bytes of a frame: UWS_OK or UWS_E_NOMEM."""
    if conn_side(l, c) == NULL:
        return UWS_E_NOMEM
    if n < head_len:
        if outq_put(&c.side.out, &l.slab, head + n, head_len - n) != UWS_OK:
            return UWS_E_NOMEM
        n = head_len
    return outq_put(&c.side.out, &l.slab, data + (n - head_len), len_bytes - (n - head_len))


cdef int send_straight(UwsLoop* l, UwsConn* c, int opcode, const uint8_t* data, size_t len_bytes) noexcept nogil:
    """Send one frame at once, from where it is; what the kernel does not take is queued."""
    cdef uint8_t head[UWS_MAX_HEAD_BYTES]
    cdef iovec parts[2]
    cdef size_t head_len = frame_head(head, opcode, 1, 0, len_bytes)
    cdef ssize_t n
    parts[0].iov_base = head
    parts[0].iov_len = head_len
    parts[1].iov_base = <void*>data
    parts[1].iov_len = len_bytes
    n = l.io.sendv(conn_index(l, c), parts, 2)
    if n <= 0:
        # It is full, or it is over: who flushes the queue finds out, and knows what is to be done.
        return send_frame(l, c, opcode, 0, data, len_bytes, len_bytes)
    _count(l, c, len_bytes)
    if <size_t>n == head_len + len_bytes:
        return UWS_OK
    if _put_rest(l, c, head, head_len, data, len_bytes, <size_t>n) != UWS_OK:
        # Half a frame cannot be taken back.
        conn_abort(l, c, UWS_C_MEMORY)
        return UWS_E_NOMEM
    conn_dirty(l, c)
    return UWS_SEND_FLUSH


cdef int send_frame(UwsLoop* l, UwsConn* c, int opcode, int rsv, const uint8_t* data, size_t len_bytes,
                    size_t plain_bytes) noexcept nogil:
    """Queue one frame: UWS_OK, UWS_SEND_FLUSH, UWS_SEND_HIGH or UWS_E_NOMEM. plain_bytes: of the message before it was
    compressed."""
    if conn_side(l, c) == NULL or outq_put_frame(&c.side.out, &l.slab, opcode, rsv, data, len_bytes) != UWS_OK:
        return UWS_E_NOMEM
    _count(l, c, plain_bytes)
    if rsv:
        l.count.deflated += 1
        l.count.deflated_from_bytes += plain_bytes
        l.count.deflated_bytes += len_bytes
    conn_dirty(l, c)
    if l.out_bytes > l.limits.max_out_bytes:
        return UWS_SEND_FLUSH
    if c.side.out.bytes < l.limits.cork_bytes:
        return UWS_OK
    return _level(l, c) if c.flags & UWS_F_OUT_ON else UWS_SEND_FLUSH


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


cdef int send_leave(UwsLoop* l, int32_t index, uint32_t generation, int status) noexcept nogil:
    """Let what was queued leave, if status says so, and let go of the lock. Returns the status as it is then; UWS_E_ARG
    where the connection was dropped."""
    cdef UwsConn* c = &l.table[index]
    if status == UWS_SEND_FLUSH:
        if not (c.flags & UWS_F_OUT_ON):
            conn_flush(l, c)
        if l.out_bytes > l.limits.max_out_bytes:
            if loop_foreign(l):
                keeper_tend(l)
            else:
                tend_queues(l)
        c = conn_at(l, index, generation)
        status = _level(l, c) if conn_takes(c) else UWS_E_ARG
    pthread_mutex_unlock(&l.lock)
    return status


cdef int send_overflow(UwsLoop* l, UwsConn* c) noexcept nogil:
    """c's queue is full, and its senders do not wait: do what was agreed on for that.

    UWS_OK: there is room after all. UWS_SEND_OLDER: there is, older messages were dropped. UWS_SEND_DROP: there is
    none, and the message is dropped. UWS_E_ARG: the connection is.
    """
    cdef uint32_t generation = c.generation
    # Perhaps it is only our own cork that is full; and whoever polls may be away while the kernel has room.
    conn_flush(l, c)
    if c.generation != generation:
        return UWS_E_ARG
    if c.side == NULL or c.side.out.bytes < l.limits.max_buffered_bytes:
        return UWS_OK
    if l.limits.overflow == UWS_OVERFLOW_CLOSE:
        l.count.overflow_closed += 1
        conn_abort(l, c, UWS_C_SLOW_READER)
        return UWS_E_ARG
    if l.limits.overflow == UWS_OVERFLOW_DROP_OLDEST:
        l.count.dropped_oldest += outq_make_room(&c.side.out, &l.slab, l.limits.max_buffered_bytes,
                                                 c.proto.flags & UWS_P_OURS_KEPT)
        side_count(l, c.side)
        if c.side.out.bytes < l.limits.max_buffered_bytes:
            return UWS_SEND_OLDER
    l.count.dropped_newest += 1
    return UWS_SEND_DROP


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
