# F2. The opening handshake (RFC 6455, section 4.2): HTTP/1.1 request head in, decision out.
# Owns nothing: UwsUpgrade is the caller's plain data, without pointers, so head and state may be moved.
# Used by the loop (F5), by core (F6) for the spans, and by the tests' shim.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy, memset, strlen

from _uws.errs cimport (
    UWS_E_ARG,
    UWS_E_HTTP_400,
    UWS_E_HTTP_405,
    UWS_E_HTTP_414,
    UWS_E_HTTP_426,
    UWS_E_HTTP_431,
    UWS_E_HTTP_505,
    UWS_E_HTTP_HEAD,
    UWS_E_HTTP_VERSION,
    UWS_MORE,
    UWS_OK,
)
from _uws.http cimport (
    C_BASE64,
    C_LIST,
    C_SPACE,
    C_TARGET,
    C_TOKEN,
    http_authority_end,
    http_check_authority,
    http_class,
    http_is,
    http_scheme_len,
    http_skip,
    http_skip_quoted,
    http_skip_value,
)


cdef enum:
    S_START
    S_START_LF
    S_METHOD
    S_TARGET
    S_VERSION
    S_VERSION_LF
    S_LINE
    S_NAME
    S_VALUE
    S_VALUE_LF
    S_END_LF

cdef enum:
    F_OTHER
    F_HOST
    F_ORIGIN
    F_UPGRADE
    F_CONNECTION
    F_CONTENT_LENGTH
    F_TRANSFER_ENCODING
    F_KEY
    F_VERSION
    F_PROTOCOL
    F_EXTENSIONS

cdef enum:
    SEEN_ABSOLUTE = 1            # the target's authority replaces Host
    SEEN_HOST = 2
    SEEN_ORIGIN = 4
    SEEN_CONTENT_LENGTH = 8
    SEEN_UPGRADE = 16            # Upgrade lists websocket
    SEEN_CONNECTION = 32         # Connection lists upgrade
    SEEN_KEY = 64
    SEEN_VERSION = 128
    SEEN_VERSION_13 = 256
    SEEN_PROTOCOL = 512
    SEEN_PROTOCOL_AGAIN = 1024
    SEEN_PROTOCOL_ELEMENT = 2048     # 1#token needs one in all its fields together
    SEEN_EXTENSIONS = 4096
    SEEN_EXTENSIONS_ELEMENT = 8192
    SEEN_WEBSOCKET = SEEN_KEY | SEEN_VERSION | SEEN_PROTOCOL | SEEN_EXTENSIONS


cdef inline uint8_t _field(const uint8_t* name, uint32_t len_bytes) noexcept nogil:
    if len_bytes == 4:
        return F_HOST if http_is(name, b"host", 4) else F_OTHER
    elif len_bytes == 6:
        return F_ORIGIN if http_is(name, b"origin", 6) else F_OTHER
    elif len_bytes == 7:
        return F_UPGRADE if http_is(name, b"upgrade", 7) else F_OTHER
    elif len_bytes == 10:
        return F_CONNECTION if http_is(name, b"connection", 10) else F_OTHER
    elif len_bytes == 14:
        return F_CONTENT_LENGTH if http_is(name, b"content-length", 14) else F_OTHER
    elif len_bytes == 17:
        if http_is(name, b"sec-websocket-key", 17):
            return F_KEY
        return F_TRANSFER_ENCODING if http_is(name, b"transfer-encoding", 17) else F_OTHER
    elif len_bytes == 21:
        return F_VERSION if http_is(name, b"sec-websocket-version", 21) else F_OTHER
    elif len_bytes == 22:
        return F_PROTOCOL if http_is(name, b"sec-websocket-protocol", 22) else F_OTHER
    elif len_bytes == 24:
        return F_EXTENSIONS if http_is(name, b"sec-websocket-extensions", 24) else F_OTHER
    return F_OTHER


cdef inline bint _is_get(const UwsUpgrade* u, const uint8_t* head) noexcept nogil:
    return u.method.len == 3 and memcmp(head + u.method.off, b"GET", 3) == 0


cdef int _judge_target(UwsUpgrade* u, const uint8_t* head) noexcept nogil:
    """A GET's target: origin-form or absolute-form (RFC 9112, section 3.2). Others get 405 with any."""
    cdef uint32_t begin = u.target.off
    cdef uint32_t end = begin + u.target.len
    cdef uint32_t scheme = 0
    if head[begin] == c'/' or not _is_get(u, head):
        return UWS_MORE
    scheme = http_scheme_len(head + begin, u.target.len)
    u.looked += u.target.len
    if scheme == 0:
        return UWS_E_HTTP_400
    begin += scheme
    end = http_authority_end(head, begin, end)
    if http_check_authority(head, begin, end) != UWS_OK:
        return UWS_E_HTTP_400
    u.host.off = begin
    u.host.len = end - begin
    u.seen |= SEEN_ABSOLUTE
    return UWS_MORE


cdef int _judge_request_line(UwsUpgrade* u, const uint8_t* head) noexcept nogil:
    """Version before method: HTTP/2's preface (PRI * HTTP/2.0) is told about the version, not about PRI."""
    # A higher minor version is to be treated as the highest we know (RFC 9110, section 2.5).
    if head[u.mark + 5] != c'1' or head[u.mark + 7] == c'0':
        return UWS_E_HTTP_505
    if _is_get(u, head):
        return UWS_MORE
    if u.method.len == 4 and memcmp(head + u.method.off, b"HEAD", 4) == 0:
        return UWS_E_HTTP_HEAD
    return UWS_E_HTTP_405


cdef int _judge_tokens(UwsUpgrade* u, const uint8_t* head, uint32_t pos, uint32_t end) noexcept nogil:
    """A list of tokens, of token [ "/" token ] for Upgrade; empty elements do not count (RFC 9110, 5.6.1)."""
    cdef uint32_t begin, len_bytes
    while True:
        pos = http_skip(head, pos, end, C_LIST)
        if pos == end:
            return UWS_MORE
        begin = pos
        pos = http_skip(head, pos, end, C_TOKEN)
        len_bytes = pos - begin
        if len_bytes == 0:
            return UWS_E_HTTP_400
        if u.field == F_PROTOCOL:
            u.seen |= SEEN_PROTOCOL_ELEMENT
        elif u.field == F_CONNECTION:
            if len_bytes == 7 and http_is(head + begin, b"upgrade", 7):
                u.seen |= SEEN_CONNECTION
        elif pos < end and head[pos] == c'/':
            begin = pos + 1
            pos = http_skip(head, begin, end, C_TOKEN)
            if pos == begin:
                return UWS_E_HTTP_400
        elif len_bytes == 9 and http_is(head + begin, b"websocket", 9):
            u.seen |= SEEN_UPGRADE
        pos = http_skip(head, pos, end, C_SPACE)
        if pos < end and head[pos] != c',':
            return UWS_E_HTTP_400


cdef int _judge_extensions(UwsUpgrade* u, const uint8_t* head, uint32_t pos, uint32_t end) noexcept nogil:
    """extension-list (RFC 6455, section 9.1). What the extensions mean is for the one who negotiates them."""
    cdef uint32_t begin
    while True:
        pos = http_skip(head, pos, end, C_LIST)
        if pos == end:
            return UWS_MORE
        begin = pos
        pos = http_skip(head, pos, end, C_TOKEN)
        if pos == begin:
            return UWS_E_HTTP_400
        u.seen |= SEEN_EXTENSIONS_ELEMENT
        while True:
            pos = http_skip(head, pos, end, C_SPACE)
            if pos == end or head[pos] == c',':
                break
            if head[pos] != c';':
                return UWS_E_HTTP_400
            begin = http_skip(head, pos + 1, end, C_SPACE)
            pos = http_skip(head, begin, end, C_TOKEN)
            if pos == begin:
                return UWS_E_HTTP_400
            pos = http_skip(head, pos, end, C_SPACE)
            if pos == end or head[pos] != c'=':
                continue
            begin = http_skip(head, pos + 1, end, C_SPACE)
            if begin < end and head[begin] == c'"':
                pos = http_skip_quoted(head, begin, end)
            else:
                pos = http_skip(head, begin, end, C_TOKEN)
            if pos == begin:
                return UWS_E_HTTP_400


cdef int _judge_key(UwsUpgrade* u, const uint8_t* value, uint32_t len_bytes) noexcept nogil:
    """The base64 of 16 bytes (RFC 6455, section 4.2.1): 22 characters and "==".

    The last character carries four bits too many. RFC 4648, section 3.5, leaves open whether they must be 0;
    peers do not look, and the answer is made of the characters, so nothing hangs on what they encode.
    """
    if u.seen & SEEN_KEY or len_bytes != UWS_UPGRADE_KEY_BYTES:
        return UWS_E_HTTP_400
    if http_skip(value, 0, 22, C_BASE64) != 22 or value[22] != c'=' or value[23] != c'=':
        return UWS_E_HTTP_400
    memcpy(u.key, value, UWS_UPGRADE_KEY_BYTES)
    u.seen |= SEEN_KEY
    return UWS_MORE


cdef int _judge_version(UwsUpgrade* u, const uint8_t* value, uint32_t len_bytes) noexcept nogil:
    """0 to 255 without leading zeros (RFC 6455, section 4.3); whether it is 13 is asked at the head's end."""
    cdef uint32_t number = 0
    cdef uint32_t i
    if u.seen & SEEN_VERSION or not 1 <= len_bytes <= 3 or (value[0] == c'0' and len_bytes > 1):
        return UWS_E_HTTP_400
    for i in range(len_bytes):
        if not c'0' <= value[i] <= c'9':
            return UWS_E_HTTP_400
        number = number * 10 + value[i] - c'0'
    if number > 255:
        return UWS_E_HTTP_400
    u.seen |= SEEN_VERSION
    if number == 13:
        u.seen |= SEEN_VERSION_13
    return UWS_MORE


cdef int _judge_field(UwsUpgrade* u, const uint8_t* head, uint32_t begin, uint32_t end) noexcept nogil:
    """A field that matters, at the end of its line: what is wrong now and no later field could put right."""
    begin = http_skip(head, begin, end, C_SPACE)
    while end > begin and http_class[head[end - 1]] & C_SPACE:
        end -= 1
    u.looked += end - begin
    if u.field == F_HOST:
        if u.seen & SEEN_HOST or http_check_authority(head, begin, end) != UWS_OK:
            return UWS_E_HTTP_400
        u.seen |= SEEN_HOST
        if not u.seen & SEEN_ABSOLUTE:
            u.host.off = begin
            u.host.len = end - begin
    elif u.field == F_ORIGIN:
        # A browser sends one (RFC 6454, section 7.3). Of two, a check might see one and a hook the other.
        if u.seen & SEEN_ORIGIN:
            return UWS_E_HTTP_400
        u.seen |= SEEN_ORIGIN
        u.origin.off = begin
        u.origin.len = end - begin
    elif u.field == F_CONTENT_LENGTH:
        # Content would be read as frames, so there must be none; and no doubt about that.
        if u.seen & SEEN_CONTENT_LENGTH or end - begin != 1 or head[begin] != c'0':
            return UWS_E_HTTP_400
        u.seen |= SEEN_CONTENT_LENGTH
    elif u.field == F_TRANSFER_ENCODING:
        return UWS_E_HTTP_400
    elif u.field == F_KEY:
        return _judge_key(u, head + begin, end - begin)
    elif u.field == F_VERSION:
        return _judge_version(u, head + begin, end - begin)
    elif u.field == F_EXTENSIONS:
        if not u.seen & SEEN_EXTENSIONS:
            u.seen |= SEEN_EXTENSIONS
            u.extensions.off = begin
            u.extensions.len = end - begin
        return _judge_extensions(u, head, begin, end)
    elif u.field == F_PROTOCOL:
        if u.seen & SEEN_PROTOCOL:
            u.seen |= SEEN_PROTOCOL_AGAIN
        else:
            u.seen |= SEEN_PROTOCOL
            u.protocol.off = begin
            u.protocol.len = end - begin
        return _judge_tokens(u, head, begin, end)
    else:
        return _judge_tokens(u, head, begin, end)
    return UWS_MORE


cdef int _collect_protocols(const uint8_t* head, uint32_t pos, uint32_t end, UwsSpan* found,
                            uint32_t* count) noexcept nogil:
    """Add a value's subprotocols to those found; its grammar has been checked."""
    cdef uint32_t i
    cdef UwsSpan one
    while True:
        one.off = http_skip(head, pos, end, C_LIST)
        if one.off == end:
            return UWS_MORE
        pos = http_skip(head, one.off, end, C_TOKEN)
        one.len = pos - one.off
        for i in range(count[0]):
            if found[i].len == one.len and memcmp(head + found[i].off, head + one.off, one.len) == 0:
                return UWS_E_HTTP_400
        # Each is compared with all before it: unbounded, a head full of short ones would cost milliseconds.
        if count[0] == UWS_UPGRADE_MAX_PROTOCOLS:
            return UWS_E_HTTP_431
        found[count[0]] = one
        count[0] += 1


cdef bint upgrade_next_value(const UwsUpgrade* u, const uint8_t* head, const char* name, uint32_t* begin,
                             uint32_t* end) noexcept nogil:
    """Find the next field of one name.

    u, head: a head that is complete, the lines of which are valid.
    name: in lower case.
    begin, end: a field's value, of which begin does not matter; then that of the next one of that name.
    Returns False if there is none.
    """
    cdef uint32_t pos = end[0], name_len = <uint32_t>strlen(name), name_end, line_end
    cdef const uint8_t* mark
    while True:
        # LF ends each line, and all but the last hold a colon.
        mark = <const uint8_t*>memchr(head + pos, c'\n', u.head_len - pos)
        pos = <uint32_t>(mark - head) + 1
        if head[pos] == c'\r':
            return False
        mark = <const uint8_t*>memchr(head + pos, c'\n', u.head_len - pos)
        line_end = <uint32_t>(mark - head) - 1
        name_end = http_skip(head, pos, line_end, C_TOKEN)
        if name_end - pos == name_len and http_is(head + pos, name, name_len):
            begin[0] = name_end + 1
            end[0] = line_end
            return True
        pos = line_end


cdef int _all_protocols(const UwsUpgrade* u, const uint8_t* head, UwsSpan* found, uint32_t* count) noexcept nogil:
    """Collect them from all their fields. The head is complete, and its lines are valid."""
    cdef uint32_t begin = u.protocol.off
    cdef uint32_t end = begin + u.protocol.len
    cdef int status = _collect_protocols(head, begin, end, found, count)
    while status == UWS_MORE and u.seen & SEEN_PROTOCOL_AGAIN \
            and upgrade_next_value(u, head, b"sec-websocket-protocol", &begin, &end):
        status = _collect_protocols(head, begin, end, found, count)
    return status


cdef int _judge_protocols(UwsUpgrade* u, const uint8_t* head) noexcept nogil:
    """No subprotocol is offered twice (RFC 6455, section 4.1, item 10), in all its fields together."""
    cdef UwsSpan[UWS_UPGRADE_MAX_PROTOCOLS] found
    cdef uint32_t count = 0
    u.looked += u.protocol.len
    if u.seen & SEEN_PROTOCOL_AGAIN:
        u.looked += u.head_len - u.protocol.off - u.protocol.len
    return _all_protocols(u, head, found, &count)


cdef int upgrade_protocols(const UwsUpgrade* u, const uint8_t* head, UwsSpan* found) noexcept nogil:
    """The subprotocols of a request that was accepted.

    found: room for UWS_UPGRADE_MAX_PROTOCOLS.
    """
    cdef uint32_t count = 0
    if u.seen & SEEN_PROTOCOL:
        _all_protocols(u, head, found, &count)
    return <int>count


cdef int _judge_head(UwsUpgrade* u, const uint8_t* head) noexcept nogil:
    """What can only be said of the whole head, in an order that does not depend on that of the fields."""
    cdef int status
    if not u.seen & SEEN_HOST:
        return UWS_E_HTTP_400
    if not u.seen & SEEN_UPGRADE:
        # With a Sec-WebSocket-* field it was meant as an upgrade, and lost its Upgrade on the way (a proxy):
        # a page would hide that.
        u.is_plain_get = not u.seen & SEEN_WEBSOCKET
        return UWS_E_HTTP_426
    if not u.seen & SEEN_CONNECTION:
        return UWS_E_HTTP_400
    # Before the key, which the protocol's drafts (version 0, or none) did not have.
    if not u.seen & SEEN_VERSION_13:
        return UWS_E_HTTP_VERSION
    if not u.seen & SEEN_KEY:
        return UWS_E_HTTP_400
    if u.seen & SEEN_EXTENSIONS and not u.seen & SEEN_EXTENSIONS_ELEMENT:
        return UWS_E_HTTP_400
    if u.seen & SEEN_PROTOCOL:
        if not u.seen & SEEN_PROTOCOL_ELEMENT:
            return UWS_E_HTTP_400
        status = _judge_protocols(u, head)
        if status != UWS_MORE:
            return status
    return UWS_OK


cdef inline bint _is_version_byte(uint8_t byte, uint32_t at) noexcept nogil:
    cdef const char* version = b"HTTP/n.n"
    return c'0' <= byte <= c'9' if version[at] == c'n' else byte == <uint8_t>version[at]


cdef inline int _step(UwsUpgrade* u, const uint8_t* head, uint32_t end,
                      const UwsUpgradeLimits* limits) noexcept nogil:
    """Read the part that u.pos is in, as far as it is there. u.pos < end.

    Returns UWS_MORE if it went well; the next part may begin at u.pos, or end may have been reached.
    """
    cdef uint32_t begin = u.pos
    cdef uint32_t pos = begin
    cdef uint32_t room = limits.max_line_bytes
    cdef uint32_t stop = end
    # Of the rest of the line only so much is read as a line may have. Nothing wraps: line_start <= pos < end,
    # and a limit that was lowered meanwhile does not put stop before pos.
    if end - u.line_start > room:
        stop = u.line_start + room
        if stop < pos:
            stop = pos

    if u.state == S_VALUE:
        pos = http_skip_value(head, pos, stop)
        u.pos = pos
        u.looked += pos - begin
        if pos == end:
            return UWS_MORE
        if head[pos] == c'\r':
            u.pos += 1
            u.state = S_VALUE_LF
            return UWS_MORE
        return UWS_E_HTTP_431 if pos == stop else UWS_E_HTTP_400

    elif u.state == S_VALUE_LF:
        if head[pos] != c'\n':
            return UWS_E_HTTP_400
        u.pos = pos + 1
        u.line_start = pos + 1
        u.looked += 1
        u.state = S_LINE
        if u.field != F_OTHER:
            return _judge_field(u, head, u.mark, pos - 1)
        return UWS_MORE

    elif u.state == S_LINE:
        if head[pos] == c'\r':
            u.pos = pos + 1
            u.state = S_END_LF
            return UWS_MORE
        # A line that begins with a space would continue the one before (obs-fold; RFC 9112, section 5.2).
        if not http_class[head[pos]] & C_TOKEN:
            return UWS_E_HTTP_400
        if u.fields >= limits.max_fields:
            return UWS_E_HTTP_431
        u.fields += 1
        u.mark = pos
        u.state = S_NAME
        return UWS_MORE

    elif u.state == S_NAME:
        pos = http_skip(head, pos, stop, C_TOKEN)
        u.pos = pos
        u.looked += pos - begin
        if pos == end:
            return UWS_MORE
        if pos == stop and head[pos] != c'\r':
            return UWS_E_HTTP_431
        if head[pos] != c':':
            return UWS_E_HTTP_400
        u.field = _field(head + u.mark, pos - u.mark)
        u.pos = pos + 1
        u.mark = pos + 1
        u.state = S_VALUE
        return UWS_MORE

    elif u.state == S_START:
        # One empty line is forgiven (RFC 9112, section 2.2).
        if head[pos] == c'\r':
            u.pos = pos + 1
            u.state = S_START_LF
            return UWS_MORE
        u.line_start = pos
        u.method.off = pos
        u.state = S_METHOD
        return UWS_MORE

    elif u.state == S_START_LF:
        if head[pos] != c'\n':
            return UWS_E_HTTP_400
        u.pos = pos + 1
        u.line_start = pos + 1
        u.method.off = pos + 1
        u.state = S_METHOD
        return UWS_MORE

    elif u.state == S_METHOD:
        pos = http_skip(head, pos, stop, C_TOKEN)
        u.pos = pos
        u.looked += pos - begin
        if pos == end:
            return UWS_MORE
        if pos == stop and head[pos] != c'\r':
            return UWS_E_HTTP_414
        if head[pos] != c' ' or pos == u.method.off:
            return UWS_E_HTTP_400
        u.method.len = pos - u.method.off
        u.target.off = pos + 1
        u.pos = pos + 1
        u.state = S_TARGET
        return UWS_MORE

    elif u.state == S_TARGET:
        pos = http_skip(head, pos, stop, C_TARGET)
        u.pos = pos
        u.looked += pos - begin
        if pos == end:
            return UWS_MORE
        if pos == stop and head[pos] != c'\r':
            return UWS_E_HTTP_414
        if head[pos] != c' ' or pos == u.target.off:
            return UWS_E_HTTP_400
        u.target.len = pos - u.target.off
        u.pos = pos + 1
        u.mark = pos + 1
        u.state = S_VERSION
        return _judge_target(u, head)

    elif u.state == S_VERSION:
        while pos < stop and pos - u.mark < 8 and _is_version_byte(head[pos], pos - u.mark):
            pos += 1
        u.pos = pos
        u.looked += pos - begin
        if pos == end:
            return UWS_MORE
        if pos == stop and head[pos] != c'\r':
            return UWS_E_HTTP_414
        if head[pos] != c'\r' or pos - u.mark != 8:
            return UWS_E_HTTP_400
        u.pos = pos + 1
        u.state = S_VERSION_LF
        return UWS_MORE

    elif u.state == S_VERSION_LF:
        if head[pos] != c'\n':
            return UWS_E_HTTP_400
        u.pos = pos + 1
        u.line_start = pos + 1
        u.state = S_LINE
        return _judge_request_line(u, head)

    # S_END_LF
    if head[pos] != c'\n':
        return UWS_E_HTTP_400
    u.pos = pos + 1
    u.head_len = pos + 1
    return _judge_head(u, head)


cdef void upgrade_init(UwsUpgrade* u) noexcept nogil:
    memset(u, 0, sizeof(UwsUpgrade))
    u.state = S_START
    u.status = UWS_MORE


cdef int upgrade_parse(UwsUpgrade* u, const uint8_t* head, size_t len_bytes,
                       const UwsUpgradeLimits* limits) noexcept nogil:
    """Read on in a request head and decide about it (RFC 6455, section 4.2.1; RFC 9112).

    u: from upgrade_init(), or as the last call left it. Spans count from head's first byte.
    head, len_bytes: all bytes received so far, from the first; they may have moved since the last call. NULL
        is fine where there are none. Bytes behind the head are not looked at: they belong to the frames.
    limits: the same at every call. A head that is exactly as large as they allow passes.
    Returns UWS_OK: a valid upgrade, frames begin at u.head_len;
        UWS_MORE: nothing wrong so far;
        UWS_E_HTTP_*: refused, for upgrade_refuse(). With UWS_E_HTTP_426, u.is_plain_get tells a complete
        request that is ordinary HTTP and could be answered as such;
        UWS_E_ARG if len_bytes is less than what was already read.
    An answer other than UWS_MORE is final: later calls repeat it.
    """
    cdef uint32_t end = limits.max_head_bytes
    cdef int status = u.status
    if len_bytes < u.pos:
        return UWS_E_ARG
    if len_bytes < end:
        end = <uint32_t>len_bytes
    while status == UWS_MORE and u.pos < end:
        status = _step(u, head, end, limits)
    # With no room for even one byte more, an incomplete head is already too large.
    if status == UWS_MORE and u.pos >= limits.max_head_bytes:
        status = UWS_E_HTTP_414 if u.state <= S_VERSION_LF else UWS_E_HTTP_431
    u.status = status
    return status


cdef int upgrade_target(const UwsUpgrade* u, const uint8_t* head,
                        UwsSpan* path, UwsSpan* query) noexcept nogil:
    """Split the target of a GET into path and query, both as sent: percent-encoding stays.

    u: its target has been read: UWS_OK, or UWS_E_HTTP_426 with is_plain_get.
    path: begins with a slash. query: without its '?'; len 0 if there is none.
    Returns UWS_OK, or UWS_E_ARG if there is no such target.
    """
    cdef uint32_t pos = u.target.off
    cdef uint32_t end = pos + u.target.len
    cdef uint32_t scheme = 0
    cdef const uint8_t* mark
    if u.target.len == 0:
        return UWS_E_ARG
    if head[pos] != c'/':
        scheme = http_scheme_len(head + pos, u.target.len)
        if scheme == 0:
            return UWS_E_ARG
        pos = http_authority_end(head, pos + scheme, end)
    mark = <const uint8_t*>memchr(head + pos, c'?', end - pos) if pos < end else NULL
    path.off = pos
    path.len = (end if mark == NULL else <uint32_t>(mark - head)) - pos
    query.off = path.off + path.len
    query.len = 0
    if mark != NULL:
        query.off += 1
        query.len = end - query.off
    if path.len == 0:
        # Behind an authority an empty path means "/" (RFC 9112, section 3.2.1). A span can only name what is
        # there: the second slash of "://".
        path.off = u.target.off + scheme - 1
        path.len = 1
    return UWS_OK
