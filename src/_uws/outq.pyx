# F5. See outq.pxd.

from libc.string cimport memcpy, memmove

from _uws.errs cimport UWS_E_NOMEM, UWS_E_SYS, UWS_MORE, UWS_OK
from _uws.frame cimport UWS_MAX_HEAD_BYTES, UWS_OP_BINARY, UWS_OP_CLOSE, UWS_OP_TEXT, frame_head
from _uws.slab cimport slab_give, slab_take
from _uws.sock cimport UWS_SOCK_AGAIN, iovec
from _uws.state cimport UwsChunk

cdef enum:
    FIRST_CHUNK_BYTES = 448       # with its header in a 512-byte class: one reply of most connections
    MAX_CHUNK_BYTES = 16000       # each is four times the one before it, up to this
    MAX_PARTS = 64                # of one sendmsg
    # Of the first byte of a frame.
    FIN = 0x80
    RSV1 = 0x40
    # Which frames of which nothing has left may go.
    MESSAGES = 0
    PLAIN_MESSAGES = 1
    ALL_BUT_CLOSE = 2


cdef inline uint8_t* _bytes(UwsChunk* c) noexcept nogil:
    return <uint8_t*>c + sizeof(UwsChunk)


cdef uint8_t* outq_room(UwsOutq* q, UwsSlab* slab, size_t len_bytes) noexcept nogil:
    """Room for len_bytes in one piece at the queue's end, counted as queued: the caller fills it at once.
    NULL: out of memory, the queue is as it was."""
    cdef UwsChunk* c = q.tail
    cdef uint8_t* at
    cdef size_t want, got = 0
    if c == NULL or c.cap_bytes - c.end < len_bytes:
        want = FIRST_CHUNK_BYTES if c == NULL else min(4 * c.cap_bytes, <size_t>MAX_CHUNK_BYTES)
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
        c.frame = 0
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
    """Queue a copy of data, whatever it is: UWS_OK or UWS_E_NOMEM. It stays until it has left."""
    cdef uint8_t* at = outq_room(q, slab, len_bytes)
    if at == NULL:
        return UWS_E_NOMEM
    memcpy(at, data, len_bytes)
    q.tail.frame = q.tail.end
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


# ---- making room

cdef inline size_t _frame_bytes(const uint8_t* frame) noexcept nogil:
    """Size of a frame of ours: none is masked (RFC 6455, section 5.2)."""
    cdef size_t n = frame[1]
    cdef int i
    if n < 126:
        return 2 + n
    if n == 126:
        return 4 + (<size_t>frame[2] << 8 | frame[3])
    n = 0
    for i in range(2, 10):
        n = n << 8 | frame[i]
    return 10 + n


cdef inline bint _may_go(const uint8_t* frame, int which) noexcept nogil:
    """Is it a whole message, which the peer can do without? Its control frames are not ours to drop, and a message
    compressed in a context that is kept is needed to understand the next. Or, of a connection that is closed, is it
    anything before our close frame?"""
    cdef uint8_t opcode = frame[0] & 15
    if which == ALL_BUT_CLOSE:
        return opcode != UWS_OP_CLOSE
    return (frame[0] & FIN and (opcode == UWS_OP_TEXT or opcode == UWS_OP_BINARY)
            and not (which == PLAIN_MESSAGES and frame[0] & RSV1))


cdef size_t _cut(UwsOutq* q, UwsChunk* c, size_t first, size_t stop) noexcept nogil:
    """Take the bytes from first to stop out of a chunk, and move up what is less: what is before them or what is
    behind. Returns where what was behind them begins now."""
    cdef size_t gap = stop - first
    q.bytes -= gap
    if first - c.begin <= c.end - stop:
        memmove(_bytes(c) + c.begin + gap, _bytes(c) + c.begin, first - c.begin)
        c.begin += gap
        c.frame += gap
        return stop
    memmove(_bytes(c) + first, _bytes(c) + stop, c.end - stop)
    c.end -= gap
    return first


cdef inline void _pass_begun(UwsChunk* c) noexcept nogil:
    """Let c.frame be past the frame whose beginning has left, if there is one. A frame lies in one chunk."""
    while c.frame < c.begin:
        c.frame += _frame_bytes(_bytes(c) + c.frame)


cdef bint _can_make_room(UwsOutq* q, size_t below_bytes, int which) noexcept nogil:
    """Is there enough that may go?"""
    cdef size_t n, at, left = q.bytes
    cdef UwsChunk* c = q.head
    while c != NULL and left >= below_bytes:
        # One that is passed over is not looked at again.
        _pass_begun(c)
        at = c.frame
        while at < c.end and left >= below_bytes:
            n = _frame_bytes(_bytes(c) + at)
            if _may_go(_bytes(c) + at, which):
                left -= n
            at += n
        c = c.next
    return left < below_bytes


cdef uint32_t _thin(UwsOutq* q, UwsSlab* slab, size_t below_bytes, int which) noexcept nogil:
    """Drop frames that may go, the oldest first, until fewer than below_bytes are queued or there is none left. Returns
    how many were dropped."""
    cdef UwsChunk* before = NULL
    cdef UwsChunk* c = q.head
    cdef UwsChunk* next_chunk
    cdef size_t first, stop
    cdef uint32_t dropped = 0
    while c != NULL and q.bytes >= below_bytes:
        _pass_begun(c)
        first = c.frame
        while first < c.end and q.bytes >= below_bytes:
            stop = first
            while stop < c.end and q.bytes - (stop - first) >= below_bytes \
                    and _may_go(_bytes(c) + stop, which):
                stop += _frame_bytes(_bytes(c) + stop)
                dropped += 1
            if stop != first:
                first = _cut(q, c, first, stop)
            else:
                first += _frame_bytes(_bytes(c) + first)
        next_chunk = c.next
        if c.begin == c.end:
            if before == NULL:
                q.head = next_chunk
            else:
                before.next = next_chunk
            if next_chunk == NULL:
                q.tail = before
            slab_give(slab, c)
        else:
            before = c
        c = next_chunk
    return dropped


cdef uint32_t outq_make_room(UwsOutq* q, UwsSlab* slab, size_t below_bytes, bint keep_deflated) noexcept nogil:
    """Drop messages of which nothing has left, the oldest first and no more than it takes, so that fewer than
    below_bytes are queued. Where that cannot be, nothing is dropped.

    keep_deflated: a compressed message may not go, because the next ones build on it.
    Returns how many were dropped.
    """
    cdef int which = PLAIN_MESSAGES if keep_deflated else MESSAGES
    return _thin(q, slab, below_bytes, which) if _can_make_room(q, below_bytes, which) else 0


cdef void outq_cut(UwsOutq* q, UwsSlab* slab) noexcept nogil:
    """Drop every frame of which nothing has left, but for a close frame. What is no frame stays: a response, and the
    rest of a frame that left from where it was."""
    _thin(q, slab, 0, ALL_BUT_CLOSE)


cdef void outq_drop(UwsOutq* q, UwsSlab* slab) noexcept nogil:
    """Give everything back unsent."""
    _sent(q, slab, q.bytes)
