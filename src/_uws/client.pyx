# F3. Sans-IO WebSocket client. See client.pxd.

from libc.string cimport memset

from _uws.errs cimport UWS_E_NOMEM, UWS_E_PROTOCOL, UWS_E_UTF8, UWS_MORE, UWS_OK
from _uws.frame cimport (
    UWS_OP_CLOSE,
    UWS_OP_CONTINUATION,
    UWS_OP_PING,
    UWS_OP_TEXT,
    UwsFrame,
    close_parse,
    frame_check,
    frame_decode,
)
from _uws.slab cimport slab_give, slab_take
from _uws.utf8 cimport utf8_feed


cdef void client_reset(UwsClient* c, UwsSlab* slab) noexcept nogil:
    """Give back what is kept; it is as new afterwards."""
    cdef uint8_t check_utf8 = c.check_utf8
    slab_give(slab, c.part)
    memset(c, 0, sizeof(UwsClient))
    c.check_utf8 = check_utf8


cdef UwsCut* _cut(UwsClient* c, UwsSlab* slab) noexcept nogil:
    if c.part == NULL:
        c.part = <UwsCut*>slab_take(slab, sizeof(UwsCut), NULL)
        if c.part != NULL:
            c.part.head_len = c.part.payload_len = 0
    return c.part


cdef inline int _fail(UwsClient* c, int status) noexcept nogil:
    c.done = True
    return status


cdef inline int _header(const UwsClient* c, const uint8_t* head, size_t len_bytes, UwsFrame* f) noexcept nogil:
    """Check and decode a header: its size, 0 if more is needed, or UWS_E_PROTOCOL."""
    cdef int n
    if len_bytes >= 2:
        # Section 5.1: the client closes where a frame is masked. All other rules are those on a client's frames, so
        # the bit is turned round for them.
        if frame_check(head[0], head[1] ^ 0x80, c.opcode != 0, 0) != UWS_OK:
            return UWS_E_PROTOCOL
    n = frame_decode(head, len_bytes, <uint64_t>-1, f)
    return n if n >= 0 else UWS_E_PROTOCOL


cdef int _control(UwsClient* c, int opcode, const uint8_t* payload, size_t len_bytes, UwsPiece* out) noexcept nogil:
    cdef int status
    out.data = payload
    out.len_bytes = len_bytes
    if opcode != UWS_OP_CLOSE:
        out.kind = UWS_PIECE_PING if opcode == UWS_OP_PING else UWS_PIECE_PONG
        return UWS_OK
    status = close_parse(payload, len_bytes, &out.code)
    c.done = True
    if status != UWS_OK:
        return status
    out.kind = UWS_PIECE_CLOSE
    if len_bytes >= 2:
        out.data = payload + 2
        out.len_bytes = len_bytes - 2
    return UWS_OK


cdef inline int _data(UwsClient* c, const uint8_t** data, size_t* len_bytes, UwsPiece* out) noexcept nogil:
    """What has come of the data frame that we are in."""
    cdef size_t some = len_bytes[0]
    cdef int status
    if some > c.left:
        some = <size_t>c.left
    out.kind = UWS_PIECE_DATA
    out.opcode = c.opcode
    out.first = not c.begun
    out.data = data[0]
    out.len_bytes = some
    c.left -= some
    c.begun = True
    data[0] += some
    len_bytes[0] -= some
    if c.check_utf8 and c.opcode == UWS_OP_TEXT:
        status = utf8_feed(&c.utf8, out.data, some)
        # Section 8.1; the message must not end within a character.
        if status != UWS_OK or (c.left == 0 and c.fin and c.utf8 != 0):
            return _fail(c, UWS_E_UTF8)
    out.last = c.left == 0 and c.fin
    if c.left == 0:
        c.in_frame = False
        if c.fin:
            c.opcode = 0
            c.begun = False
    return UWS_OK


cdef inline void _begin(UwsClient* c, const UwsFrame* f) noexcept nogil:
    if f.opcode != UWS_OP_CONTINUATION:
        c.opcode = f.opcode
        c.begun = False
        c.utf8 = 0
    c.fin = f.fin
    c.left = f.payload_len
    c.in_frame = True


cdef int _continue(UwsClient* c, const uint8_t** data, size_t* len_bytes, UwsFrame* f) noexcept nogil:
    """Go on with a header or a control frame that was cut. UWS_OK: c.part has all of it; f is its header."""
    cdef UwsCut* part = c.part
    cdef size_t some
    cdef int n
    while True:
        n = _header(c, part.head, part.head_len, f)
        if n < 0:
            return _fail(c, UWS_E_PROTOCOL)
        if n > 0:
            break
        if len_bytes[0] == 0:
            return UWS_MORE
        # Byte by byte: at most nine of them, and no byte of the payload may come along.
        part.head[part.head_len] = data[0][0]
        part.head_len += 1
        data[0] += 1
        len_bytes[0] -= 1
    if not f.opcode & 8:
        return UWS_OK
    some = f.payload_len - part.payload_len
    if some > len_bytes[0]:
        some = len_bytes[0]
    memcpy(part.payload + part.payload_len, data[0], some)
    part.payload_len += <uint8_t>some
    data[0] += some
    len_bytes[0] -= some
    return UWS_OK if part.payload_len == f.payload_len else UWS_MORE


cdef int client_next(UwsClient* c, UwsSlab* slab, const uint8_t** data, size_t* len_bytes,
                     UwsPiece* out) noexcept nogil:
    """Take the next piece out of what came.

    data, len_bytes: what has come and was not looked at yet; moved over what was taken.
    slab: for what is cut; the same one for all of a connection's life.
    out: written where UWS_OK is returned.
    Returns UWS_OK: there may be more pieces; UWS_MORE: all of data was taken; UWS_E_PROTOCOL (1002),
        UWS_E_UTF8 (1007), UWS_E_NOMEM (1011): the connection fails with that code. After a close frame or a failure
        it is UWS_MORE for good.
    """
    cdef UwsFrame f
    cdef UwsCut* part
    cdef const uint8_t* payload
    cdef int n, status
    if c.done:
        data[0] += len_bytes[0]
        len_bytes[0] = 0
        return UWS_MORE
    if c.in_frame:
        return _data(c, data, len_bytes, out) if len_bytes[0] else UWS_MORE
    if c.part != NULL and c.part.head_len == 0:
        # What was in it has been handed out.
        slab_give(slab, c.part)
        c.part = NULL
    if c.part != NULL:
        status = _continue(c, data, len_bytes, &f)
        if status != UWS_OK:
            return status
        # The block stays until the next call: a control frame's payload lies in it.
        c.part.head_len = 0
        if f.opcode & 8:
            return _control(c, f.opcode, c.part.payload, c.part.payload_len, out)
        _begin(c, &f)
        if f.payload_len == 0 or len_bytes[0]:
            return _data(c, data, len_bytes, out)
        return UWS_MORE
    if len_bytes[0] == 0:
        return UWS_MORE
    n = _header(c, data[0], len_bytes[0], &f)
    if n < 0:
        return _fail(c, UWS_E_PROTOCOL)
    if n == 0 or (f.opcode & 8 and len_bytes[0] - n < f.payload_len):
        part = _cut(c, slab)
        if part == NULL:
            return _fail(c, UWS_E_NOMEM)
        return _continue(c, data, len_bytes, &f)
    data[0] += n
    len_bytes[0] -= n
    if f.opcode & 8:
        payload = data[0]
        data[0] += f.payload_len
        len_bytes[0] -= f.payload_len
        return _control(c, f.opcode, payload, f.payload_len, out)
    _begin(c, &f)
    if f.payload_len == 0 or len_bytes[0]:
        return _data(c, data, len_bytes, out)
    return UWS_MORE
