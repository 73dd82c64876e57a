# F5. See outq.pxd.

from libc.string cimport memcpy

from _uws.errs cimport UWS_E_NOMEM, UWS_E_SYS, UWS_MORE, UWS_OK
from _uws.frame cimport UWS_MAX_HEAD_BYTES, frame_head
from _uws.slab cimport slab_give, slab_take
from _uws.sock cimport UWS_SOCK_AGAIN, iovec
from _uws.state cimport UwsChunk

cdef enum:
    FIRST_CHUNK_BYTES = 448       # with its header in a 512-byte class: one reply of most connections
    NEXT_CHUNK_BYTES = 16000
    MAX_PARTS = 64                # of one sendmsg


cdef inline uint8_t* _bytes(UwsChunk* c) noexcept nogil:
    return <uint8_t*>c + sizeof(UwsChunk)


cdef uint8_t* outq_room(UwsOutq* q, UwsSlab* slab, size_t len_bytes) noexcept nogil:
    """Room for len_bytes in one piece at the queue's end, counted as queued: the caller fills it at once.
    NULL: out of memory, the queue is as it was."""
    cdef UwsChunk* c = q.tail
    cdef uint8_t* at
    cdef size_t want, got = 0
    if c == NULL or c.cap_bytes - c.end < len_bytes:
        want = FIRST_CHUNK_BYTES if c == NULL else NEXT_CHUNK_BYTES
        if want < len_bytes:
            want = len_bytes
        if want > <size_t>-1 - sizeof(UwsChunk):
            return NULL
        c = <UwsChunk*>slab_take(slab, sizeof(UwsChunk) + want, &got)
        if c == NULL:
            return NULL
        c.next = NULL
        c.cap_bytes = got - sizeof(UwsChunk)
        c.begin = 0
        c.end = 0
        if q.tail == NULL:
            q.head = c
        else:
            q.tail.next = c
        q.tail = c
    at = _bytes(c) + c.end
    c.end += len_bytes
    q.bytes += len_bytes
    return at


cdef int outq_put(UwsOutq* q, UwsSlab* slab, const uint8_t* data, size_t len_bytes) noexcept nogil:
    """Queue a copy of data: UWS_OK or UWS_E_NOMEM."""
    cdef uint8_t* at = outq_room(q, slab, len_bytes)
    if at == NULL:
        return UWS_E_NOMEM
    memcpy(at, data, len_bytes)
    return UWS_OK


cdef int outq_put_frame(UwsOutq* q, UwsSlab* slab, int opcode, int rsv, const uint8_t* data,
                        size_t len_bytes) noexcept nogil:
    """Queue one whole frame, header and payload in one piece: UWS_OK or UWS_E_NOMEM. rsv: UWS_RSV1 for a compressed
    message."""
    cdef uint8_t head[UWS_MAX_HEAD_BYTES]
    cdef size_t head_len = frame_head(head, opcode, 1, rsv, len_bytes)
    cdef uint8_t* at = NULL
    if len_bytes <= <size_t>-1 - head_len:
        at = outq_room(q, slab, head_len + len_bytes)
    if at == NULL:
        return UWS_E_NOMEM
    memcpy(at, head, head_len)
    if len_bytes != 0:
        memcpy(at + head_len, data, len_bytes)
    return UWS_OK


cdef void _sent(UwsOutq* q, UwsSlab* slab, size_t n) noexcept nogil:
    """n bytes have left: give back the chunks that are empty now."""
    cdef UwsChunk* c
    cdef size_t have
    q.bytes -= n
    while q.head != NULL:
        c = q.head
        have = c.end - c.begin
        if have > n:
            c.begin += n
            return
        n -= have
        q.head = c.next
        slab_give(slab, c)
    q.tail = NULL


cdef int outq_flush(UwsOutq* q, UwsSlab* slab, const UwsTransport* io, int fd) noexcept nogil:
    """Send what is queued: UWS_OK when nothing is left, UWS_MORE when the socket's buffer is full, UWS_E_SYS when the
    connection is gone."""
    cdef iovec parts[MAX_PARTS]
    cdef UwsChunk* c
    cdef ssize_t n
    cdef size_t asked
    cdef int k
    while q.head != NULL:
        c = q.head
        if c.next == NULL:
            asked = c.end - c.begin
            n = io.send(fd, _bytes(c) + c.begin, asked)
        else:
            k = 0
            asked = 0
            while c != NULL and k < MAX_PARTS:
                parts[k].iov_base = _bytes(c) + c.begin
                parts[k].iov_len = c.end - c.begin
                asked += parts[k].iov_len
                k += 1
                c = c.next
            n = io.sendv(fd, parts, k)
        if n < 0:
            return UWS_MORE if n == UWS_SOCK_AGAIN else UWS_E_SYS
        _sent(q, slab, <size_t>n)
        if <size_t>n < asked:
            return UWS_MORE
    return UWS_OK


cdef void outq_drop(UwsOutq* q, UwsSlab* slab) noexcept nogil:
    """Give everything back unsent."""
    _sent(q, slab, q.bytes)
