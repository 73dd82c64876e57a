# F1. The grammar of HTTP as far as bytes go (RFC 9110, 9112): classes of bytes, tokens, values, authorities.
# Owns one table, filled when the module is imported and never written again; leaves that keep no state.
# Used by upgrade (F2), and by whoever reads a field's value.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from _uws.errs cimport UWS_E_HTTP_400, UWS_OK


cdef void _fill_class(uint8_t cls, const char* members, int first, int last) noexcept nogil:
    cdef int byte
    for byte in range(first, last + 1):
        http_class[byte] |= cls
    while members[0]:
        http_class[<uint8_t>members[0]] |= cls
        members += 1


cdef void _fill_classes() noexcept nogil:
    cdef int byte
    cdef uint8_t alphanumeric = C_TOKEN | C_HOST | C_BASE64
    _fill_class(alphanumeric, b"", c'0', c'9')
    _fill_class(alphanumeric, b"", c'A', c'Z')
    _fill_class(alphanumeric, b"", c'a', c'z')
    _fill_class(C_TOKEN, b"!#$%&'*+-.^_`|~", 0, -1)
    _fill_class(C_HOST, b"-._~!$&'()*+,;=", 0, -1)
    _fill_class(C_BASE64, b"+/", 0, -1)
    _fill_class(C_IPV6, b"abcdefABCDEF:.", c'0', c'9')
    _fill_class(C_SPACE, b" \t", 0, -1)
    _fill_class(C_LIST, b" \t,", 0, -1)
    _fill_class(C_VALUE, b"\t", 0x20, 0x7E)
    _fill_class(C_VALUE, b"", 0x80, 0xFF)
    # Browsers leave some bytes of a query as they are that RFC 3986 wants encoded (the URL standard's query
    # percent-encode set). They mean nothing to us, so only those are refused that no browser sends.
    for byte in range(0x21, 0x7F):
        if byte != c'"' and byte != c'#' and byte != c'<' and byte != c'>':
            http_class[byte] |= C_TARGET


_fill_classes()


cdef inline bint _is_hex(uint8_t byte) noexcept nogil:
    return c'0' <= byte <= c'9' or c'a' <= (byte | 0x20) <= c'f'


cdef int http_check_authority(const uint8_t* text, uint32_t pos, uint32_t end) noexcept nogil:
    """uri-host [ ":" port ] (RFC 9110, section 7.2), not empty, without user information (section 4.2.4)."""
    cdef uint32_t begin = pos
    cdef uint32_t port = 0
    if pos < end and text[pos] == c'[':
        begin = pos + 1
        pos = http_skip(text, begin, end, C_IPV6)
        if pos == begin or pos == end or text[pos] != c']':
            return UWS_E_HTTP_400
        pos += 1
    else:
        while pos < end:
            if http_class[text[pos]] & C_HOST:
                pos += 1
            elif text[pos] == c'%' and end - pos > 2 and _is_hex(text[pos + 1]) and _is_hex(text[pos + 2]):
                pos += 3
            else:
                break
        if pos == begin:
            return UWS_E_HTTP_400
    if pos == end:
        return UWS_OK
    if text[pos] != c':':
        return UWS_E_HTTP_400
    pos += 1
    while pos < end:
        if not c'0' <= text[pos] <= c'9':
            return UWS_E_HTTP_400
        port = port * 10 + text[pos] - c'0'
        if port > 65535:
            return UWS_E_HTTP_400
        pos += 1
    return UWS_OK


cdef uint32_t http_scheme_len(const uint8_t* target, uint32_t len_bytes) noexcept nogil:
    """Bytes of the scheme and its "://" in a target of absolute-form; 0 if it is none that we serve."""
    if len_bytes >= 5 and http_is(target, b"ws://", 5):
        return 5
    if len_bytes >= 6 and http_is(target, b"wss://", 6):
        return 6
    if len_bytes >= 7 and http_is(target, b"http://", 7):
        return 7
    if len_bytes >= 8 and http_is(target, b"https://", 8):
        return 8
    return 0


cdef uint32_t http_authority_end(const uint8_t* text, uint32_t pos, uint32_t end) noexcept nogil:
    while pos < end and text[pos] != c'/' and text[pos] != c'?':
        pos += 1
    return pos


cdef uint32_t http_skip_quoted(const uint8_t* text, uint32_t begin, uint32_t end) noexcept nogil:
    """A quoted-string that unescaped is a token (RFC 6455, section 9.1); returns begin if it is not one."""
    cdef uint32_t pos = begin + 1
    cdef bint is_empty = True
    while pos < end:
        if text[pos] == c'"':
            return begin if is_empty else pos + 1
        if text[pos] == c'\\':
            pos += 1
        if pos == end or not http_class[text[pos]] & C_TOKEN:
            return begin
        is_empty = False
        pos += 1
    return begin


cdef bint http_is_all(const uint8_t* text, size_t len_bytes, uint8_t cls) noexcept nogil:
    cdef size_t i
    for i in range(len_bytes):
        if not http_class[text[i]] & cls:
            return False
    return True
