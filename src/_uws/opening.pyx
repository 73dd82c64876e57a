# F2. The opening handshake as the client sees it. See opening.pxd.

from libc.string cimport memchr, memcmp

from _uws.errs cimport UWS_E_PROTOCOL, UWS_MORE, UWS_OK
from _uws.http cimport C_LIST, C_SPACE, C_TOKEN, http_is, http_is_all, http_skip, http_skip_value

cdef extern from "sha1.h" nogil:
    void uws_accept_key(const uint8_t* key, uint8_t* out) noexcept

cdef enum:
    STATUS_LINE_BYTES = 12            # "HTTP/1.1 101", what has to be there of it
    SAW_UPGRADE = 1
    SAW_CONNECTION = 2
    SAW_ACCEPT = 4
    SAW_PROTOCOL = 8


cdef void opening_key(const uint8_t* nonce, uint8_t* key) noexcept nogil:
    """Write the 24 characters of Sec-WebSocket-Key for the 16 bytes of a nonce."""
    cdef const char* alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    cdef uint32_t three
    cdef int i
    for i in range(5):
        three = <uint32_t>nonce[3 * i] << 16 | <uint32_t>nonce[3 * i + 1] << 8 | nonce[3 * i + 2]
        key[4 * i] = <uint8_t>alphabet[three >> 18]
        key[4 * i + 1] = <uint8_t>alphabet[three >> 12 & 63]
        key[4 * i + 2] = <uint8_t>alphabet[three >> 6 & 63]
        key[4 * i + 3] = <uint8_t>alphabet[three & 63]
    key[20] = <uint8_t>alphabet[nonce[15] >> 2]
    key[21] = <uint8_t>alphabet[(nonce[15] & 3) << 4]
    key[22] = key[23] = c'='


cdef int _fault(UwsOpening* o, int fault) noexcept nogil:
    o.fault = <uint8_t>fault
    return UWS_E_PROTOCOL


cdef inline bint _is_digit(uint8_t byte) noexcept nogil:
    return c'0' <= byte <= c'9'


cdef int _status_line(UwsOpening* o, const uint8_t* head, size_t len_bytes) noexcept nogil:
    """HTTP-version SP status-code (RFC 9112, section 4). The reason phrase is for nobody to read."""
    cdef const char* version = b"HTTP/1."
    cdef size_t some = 7 if len_bytes > 7 else len_bytes
    # What is no HTTP is refused at its first byte: such a server may wait for us as long as we for it.
    if memcmp(head, version, some) != 0:
        return _fault(o, UWS_FAULT_HTTP)
    if len_bytes <= STATUS_LINE_BYTES:
        return UWS_MORE
    if not (_is_digit(head[7]) and head[8] == c' ' and c'1' <= head[9] <= c'5' and _is_digit(head[10])
            and _is_digit(head[11]) and (head[12] == c' ' or head[12] == c'\r')):
        return _fault(o, UWS_FAULT_HTTP)
    o.http_status = <uint16_t>(100 * (head[9] - c'0') + 10 * (head[10] - c'0') + head[11] - c'0')
    # An HTTP/1.0 server cannot upgrade (RFC 9110, section 7.8).
    if o.http_status == 101 and head[7] == c'0':
        return _fault(o, UWS_FAULT_HTTP)
    return UWS_OK


cdef int _head_end(UwsOpening* o, const uint8_t* head, size_t len_bytes, uint32_t max_bytes) noexcept nogil:
    """Look for the empty line, from where the last look ended."""
    cdef const uint8_t* found
    cdef size_t pos = o.pos, end = len_bytes if len_bytes < max_bytes else max_bytes
    while end - pos >= 4:
        found = <const uint8_t*>memchr(head + pos, c'\r', end - pos - 3)
        if found == NULL:
            pos = end - 3
            break
        pos = <size_t>(found - head)
        if memcmp(found, b"\r\n\r\n", 4) == 0:
            o.head_len = <uint32_t>(pos + 4)
            return UWS_OK
        pos += 1
    o.pos = <uint32_t>pos
    return UWS_MORE if len_bytes < max_bytes else _fault(o, UWS_FAULT_TOO_LONG)


cdef bint _lists(const uint8_t* text, uint32_t pos, uint32_t end, const uint8_t* wanted, uint32_t len_bytes,
                 bint any_case) noexcept nogil:
    """Whether a list of tokens (RFC 9110, section 5.6.1) has one. any_case: wanted is in lower case then."""
    cdef uint32_t begin
    while pos < end:
        pos = http_skip(text, pos, end, C_LIST)
        begin = pos
        pos = http_skip(text, pos, end, C_TOKEN)
        if pos - begin == len_bytes and len_bytes != 0:
            if any_case:
                if http_is(text + begin, <const char*>wanted, len_bytes):
                    return True
            elif memcmp(text + begin, wanted, len_bytes) == 0:
                return True
        if pos == begin:
            # Neither a token nor what stands between two of them.
            if pos < end:
                pos += 1
    return False


cdef int _field(UwsOpening* o, const uint8_t* head, uint32_t name, uint32_t name_len, uint32_t value, uint32_t end,
                const uint8_t* accept, const UwsOffer* offer, int* seen) noexcept nogil:
    cdef const uint8_t* text = head + name
    cdef bint first
    if name_len == 7 and http_is(text, b"upgrade", 7):
        if end - value != 9 or not http_is(head + value, b"websocket", 9):
            return _fault(o, UWS_FAULT_UPGRADE)
        seen[0] |= SAW_UPGRADE
    elif name_len == 10 and http_is(text, b"connection", 10):
        if _lists(head, value, end, b"upgrade", 7, True):
            seen[0] |= SAW_CONNECTION
    elif name_len == 20 and http_is(text, b"sec-websocket-accept", 20):
        first = not seen[0] & SAW_ACCEPT
        seen[0] |= SAW_ACCEPT
        if not first or end - value != UWS_OPENING_ACCEPT_BYTES \
                or memcmp(head + value, accept, UWS_OPENING_ACCEPT_BYTES) != 0:
            return _fault(o, UWS_FAULT_ACCEPT)
    elif name_len == 24 and http_is(text, b"sec-websocket-extensions", 24):
        # None is offered, so there is none that could be accepted.
        if end != value:
            return _fault(o, UWS_FAULT_EXTENSION)
    elif name_len == 22 and http_is(text, b"sec-websocket-protocol", 22):
        first = not seen[0] & SAW_PROTOCOL
        seen[0] |= SAW_PROTOCOL
        if not first or not http_is_all(head + value, end - value, C_TOKEN) \
                or not _lists(offer.protocols, 0, <uint32_t>offer.protocols_len, head + value, end - value, False):
            return _fault(o, UWS_FAULT_SUBPROTOCOL)
        o.protocol_off = value
        o.protocol_len = end - value
    return UWS_OK


cdef int opening_parse(UwsOpening* o, const uint8_t* head, size_t len_bytes, const uint8_t* key,
                       const UwsOffer* offer) noexcept nogil:
    """Read the server's response (RFC 6455, section 4.1, "Once the client's opening handshake has been sent").

    o: all zero before the first call.
    head, len_bytes: all that has come, from the response's first byte on; each byte is looked for the head's end once.
    key: the 24 characters that were sent.
    Returns UWS_OK: the connection is open, and what is behind o.head_len bytes are frames; UWS_MORE;
        UWS_E_PROTOCOL: o.fault says which rule was broken.
    """
    cdef uint8_t[UWS_OPENING_ACCEPT_BYTES] accept
    cdef uint32_t pos, name, name_len, value, end, line_end
    cdef int status, seen = 0
    if o.http_status == 0:
        status = _status_line(o, head, len_bytes)
        if status != UWS_OK:
            return status
    status = _head_end(o, head, len_bytes, offer.max_head_bytes)
    if status != UWS_OK:
        return status
    if o.http_status != 101:
        return _fault(o, UWS_FAULT_STATUS)
    uws_accept_key(key, accept)
    # The last line's CRLF is the first half of the head's end.
    line_end = http_skip_value(head, STATUS_LINE_BYTES, o.head_len - 2)
    while True:
        if head[line_end] != c'\r' or head[line_end + 1] != c'\n':
            return _fault(o, UWS_FAULT_HTTP)
        pos = line_end + 2
        if pos == o.head_len - 2:
            break
        name = pos
        pos = http_skip(head, pos, o.head_len - 2, C_TOKEN)
        name_len = pos - name
        # No name also where a line begins with a blank: folding is obsolete (RFC 9112, section 5.2).
        if name_len == 0 or head[pos] != c':':
            return _fault(o, UWS_FAULT_HTTP)
        value = http_skip(head, pos + 1, o.head_len - 2, C_SPACE)
        line_end = http_skip_value(head, value, o.head_len - 2)
        end = line_end
        while end > value and http_is_all(head + end - 1, 1, C_SPACE):
            end -= 1
        status = _field(o, head, name, name_len, value, end, accept, offer, &seen)
        if status != UWS_OK:
            return status
    if not seen & SAW_UPGRADE or not seen & SAW_CONNECTION:
        return _fault(o, UWS_FAULT_UPGRADE)
    if not seen & SAW_ACCEPT:
        return _fault(o, UWS_FAULT_ACCEPT)
    return UWS_OK
