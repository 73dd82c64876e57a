# F2. What proxies say of their clients. See proxy.pxd; the PROXY protocol is specified in HAProxy's
# doc/proxy-protocol.txt.

from libc.string cimport memchr, memcmp, memcpy, memmove, memset

from _uws.errs cimport UWS_E_ARG, UWS_MORE, UWS_OK
from _uws.http cimport C_SPACE, http_class, http_is

cdef extern from "arpa/inet.h" nogil:
    cdef enum:
        AF_INET
        AF_INET6
        INET6_ADDRSTRLEN
    int inet_pton(int, const char*, void*)

cdef enum:
    SIGNATURE_BYTES = 12
    FIXED_BYTES = 16              # version 2, up to its length
    PREFIX_BYTES = 6              # "PROXY "
    ADDRESS_PORT_BYTES = 5
    TLV_BYTES = 3
    TLV_CRC32C = 0x03
    TLV_SSL = 0x20
    CRC_BYTES = 4
    SSL_BYTES = 5                 # what every SSL TLV begins with
    CLIENT_SSL = 0x01
    UNIX_PATH_BYTES = 108

# CRC-32C (Castagnoli), reflected, by half bytes.
cdef uint32_t[16] crc_table


cdef void _fill_crc_table() noexcept nogil:
    cdef uint32_t polynomial = 0x82F63B78, crc
    cdef int i, _
    for i in range(16):
        crc = <uint32_t>i
        for _ in range(4):
            crc = crc >> 1 ^ (polynomial if crc & 1 else 0)
        crc_table[i] = crc


_fill_crc_table()


cdef int proxy_parse(const uint8_t* data, size_t len_bytes, UwsProxy* out) noexcept nogil:
    """Parse a PROXY header of version 1 or 2.

    data, len_bytes: what has come on the connection so far, from its first byte on.
    out: its len_bytes is the header's; valid with UWS_OK only.
    Returns UWS_OK; UWS_MORE: it is not complete; UWS_E_ARG: it is none, or one that may not be.
        A byte that cannot be is refused when it is there, whatever is still to come.
    """
    memset(out, 0, sizeof(UwsProxy))
    if len_bytes == 0:
        return UWS_MORE
    return _parse_line(data, len_bytes, out) if data[0] == c'P' else _parse_binary(data, len_bytes, out)


# ---- version 1, a line of text

cdef int _parse_line(const uint8_t* data, size_t len_bytes, UwsProxy* out) noexcept nogil:
    cdef const uint8_t* end
    cdef size_t n = len_bytes if len_bytes < UWS_PROXY_LINE_BYTES else UWS_PROXY_LINE_BYTES
    if memcmp(data, b"PROXY ", n if n < PREFIX_BYTES else PREFIX_BYTES) != 0:
        return UWS_E_ARG
    end = <const uint8_t*>memchr(data, c'\r', n)
    if memchr(data, c'\n', n if end == NULL else <size_t>(end - data)) != NULL:
        return UWS_E_ARG
    if end == NULL or end == data + n - 1:
        return UWS_E_ARG if n == UWS_PROXY_LINE_BYTES else UWS_MORE
    if end[1] != c'\n':
        return UWS_E_ARG
    out.len_bytes = <uint32_t>(end + 2 - data)
    return _parse_words(data + PREFIX_BYTES, <size_t>(end - data) - PREFIX_BYTES, out)


cdef int _parse_words(const uint8_t* text, size_t len_bytes, UwsProxy* out) noexcept nogil:
    """What is between "PROXY " and the line's end."""
    cdef uint8_t unused[16]
    cdef uint16_t port
    cdef size_t at = 5
    if len_bytes >= 7 and memcmp(text, b"UNKNOWN", 7) == 0 and (len_bytes == 7 or text[7] == c' '):
        # Whatever else is said of such a client is to be ignored.
        return UWS_OK
    if len_bytes < at or (memcmp(text, b"TCP4 ", at) != 0 and memcmp(text, b"TCP6 ", at) != 0):
        return UWS_E_ARG
    out.kind = UWS_A_INET if text[3] == c'4' else UWS_A_INET6
    if not (_read_ip(text, len_bytes, &at, out.kind, out.addr) and _read_ip(text, len_bytes, &at, out.kind, unused)
            and _read_port(text, len_bytes, &at, &out.port) and _read_port(text, len_bytes, &at, &port)):
        return UWS_E_ARG
    # Each word has to be followed by one space, the last one by nothing.
    return UWS_OK if at == len_bytes + 1 else UWS_E_ARG


cdef size_t _word(const uint8_t* text, size_t len_bytes, size_t* at) noexcept nogil:
    """The length of the word that begins at at, which then is behind the space after it. 0: there is none."""
    cdef size_t begin = at[0], end
    if begin > len_bytes:
        return 0
    end = begin
    while end < len_bytes and text[end] != c' ':
        end += 1
    at[0] = end + 1
    return end - begin


cdef bint _read_ip(const uint8_t* text, size_t len_bytes, size_t* at, int kind, uint8_t* addr) noexcept nogil:
    cdef char word[INET6_ADDRSTRLEN]
    cdef const uint8_t* begin = text + at[0]
    cdef size_t n = _word(text, len_bytes, at)
    if n == 0 or n >= INET6_ADDRSTRLEN or memchr(begin, 0, n) != NULL:
        return False
    memcpy(word, begin, n)
    word[n] = 0
    # It refuses leading zeroes, as the specification wants.
    return inet_pton(AF_INET if kind == UWS_A_INET else AF_INET6, word, addr) == 1


cdef bint _read_port(const uint8_t* text, size_t len_bytes, size_t* at, uint16_t* port) noexcept nogil:
    cdef const uint8_t* digit = text + at[0]
    cdef size_t i, n = _word(text, len_bytes, at)
    cdef uint32_t number = 0
    if n == 0 or n > ADDRESS_PORT_BYTES or (digit[0] == c'0' and n > 1):
        return False
    for i in range(n):
        if not c'0' <= digit[i] <= c'9':
            return False
        number = number * 10 + digit[i] - c'0'
    port[0] = <uint16_t>number
    return number <= 0xFFFF


# ---- version 2, binary

cdef int _parse_binary(const uint8_t* data, size_t len_bytes, UwsProxy* out) noexcept nogil:
    cdef size_t total, block
    cdef bint is_local
    if memcmp(data, b"\r\n\r\n\0\r\nQUIT\n", len_bytes if len_bytes < SIGNATURE_BYTES else SIGNATURE_BYTES) != 0:
        return UWS_E_ARG
    if len_bytes <= SIGNATURE_BYTES:
        return UWS_MORE
    if data[12] != 0x20 and data[12] != 0x21:
        return UWS_E_ARG
    # The proxy's own connection, to see whether we live: the family is to be ignored, however odd.
    is_local = data[12] == 0x20
    if len_bytes > 13 and not is_local and (data[13] >> 4 > 3 or data[13] & 15 > 2):
        return UWS_E_ARG
    if len_bytes < FIXED_BYTES:
        return UWS_MORE
    total = FIXED_BYTES + (<size_t>data[14] << 8 | data[15])
    block = 0 if is_local else _address_bytes(data[13])
    if total > UWS_PROXY_MAX_BYTES or total - FIXED_BYTES < block:
        return UWS_E_ARG
    if len_bytes < total:
        return UWS_MORE
    out.len_bytes = <uint32_t>total
    if block == 0:
        return UWS_OK
    _take_address(data, out)
    return _parse_tlvs(data, FIXED_BYTES + block, total, out)


cdef size_t _address_bytes(uint8_t family) noexcept nogil:
    """Of the address block; 0 where family or protocol is unspecified, and nothing of the block is to be believed."""
    if family >> 4 == 0 or family & 15 == 0:
        return 0
    if family >> 4 == 1:
        return 2 * 4 + 2 * 2
    return 2 * 16 + 2 * 2 if family >> 4 == 2 else 2 * UNIX_PATH_BYTES


cdef void _take_address(const uint8_t* data, UwsProxy* out) noexcept nogil:
    cdef const uint8_t* source = data + FIXED_BYTES
    cdef const uint8_t* end
    cdef int n
    if data[13] >> 4 == 3:
        out.kind = UWS_A_UNIX
        out.path_off = FIXED_BYTES
        # An abstract name begins with a zero byte.
        end = <const uint8_t*>memchr(source + 1, 0, UNIX_PATH_BYTES - 1)
        out.path_len = UNIX_PATH_BYTES if end == NULL else <uint32_t>(end - source)
        if out.path_len == 1 and source[0] == 0:
            out.path_len = 0
        return
    out.kind = UWS_A_INET if data[13] >> 4 == 1 else UWS_A_INET6
    n = 4 if out.kind == UWS_A_INET else 16
    memcpy(out.addr, source, n)
    out.port = <uint16_t>(source[2 * n] << 8 | source[2 * n + 1])


cdef int _parse_tlvs(const uint8_t* data, size_t at, size_t total, UwsProxy* out) noexcept nogil:
    """What follows the addresses: only checked for its form, but for the checksum and whether the client speaks TLS."""
    cdef size_t n, crc_at = 0
    while at < total:
        if total - at < TLV_BYTES:
            return UWS_E_ARG
        n = <size_t>data[at + 1] << 8 | data[at + 2]
        if total - at - TLV_BYTES < n:
            return UWS_E_ARG
        if data[at] == TLV_CRC32C:
            if n != CRC_BYTES or crc_at != 0:
                return UWS_E_ARG
            crc_at = at + TLV_BYTES
        elif data[at] == TLV_SSL:
            if n < SSL_BYTES:
                return UWS_E_ARG
            out.is_secure = data[at + TLV_BYTES] & CLIENT_SSL
        at += TLV_BYTES + n
    return UWS_OK if crc_at == 0 or _crc_matches(data, total, crc_at) else UWS_E_ARG


cdef bint _crc_matches(const uint8_t* data, size_t total, size_t crc_at) noexcept nogil:
    """The checksum is that of the header with zeroes in its place."""
    cdef uint32_t crc = 0xFFFFFFFF, said
    cdef size_t i
    for i in range(total):
        if not crc_at <= i < crc_at + CRC_BYTES:
            crc ^= data[i]
        crc = crc >> 4 ^ crc_table[crc & 15]
        crc = crc >> 4 ^ crc_table[crc & 15]
    said = <uint32_t>data[crc_at] << 24 | data[crc_at + 1] << 16 | data[crc_at + 2] << 8 | data[crc_at + 3]
    return said == ~crc


# ---- whom to believe

cdef bint proxy_trusts(const UwsNet* nets, int n, int kind, const uint8_t* addr) noexcept nogil:
    """Is an address within one of the networks? An IPv4 address in IPv6's clothes is an IPv4 address."""
    cdef const uint8_t* mapped = <const uint8_t*>b"\0\0\0\0\0\0\0\0\0\0\xff\xff"
    cdef int i, whole
    if kind == UWS_A_INET6 and memcmp(addr, mapped, 12) == 0:
        kind = UWS_A_INET
        addr += 12
    for i in range(n):
        if nets[i].kind != kind:
            continue
        whole = nets[i].bits >> 3
        if kind == UWS_A_UNIX:
            return True
        if memcmp(addr, nets[i].addr, whole) == 0 and (
                nets[i].bits & 7 == 0 or (addr[whole] ^ nets[i].addr[whole]) >> (8 - (nets[i].bits & 7)) == 0):
            return True
    return False


cdef size_t proxy_collect(const uint8_t* head, size_t head_len, const uint8_t* name, size_t name_len,
                          uint8_t* out, size_t cap) noexcept nogil:
    """Write the values of all fields of one name, joined with ", " in their order (RFC 9110, section 5.3).

    head: a whole request head that is valid.
    name: in lower case, of letters and '-'.
    cap: at least 2. Of more than that the right end is kept, behind a zero byte: the last hops are those to be
        believed.
    Returns the bytes written; 0 if there is no such field, or only empty ones.
    """
    cdef size_t room = cap, begin, end = head_len, first, last, n
    while end != 0:
        # The line that ends before end; the head is walked from its last line to its first.
        begin = end - 1
        while begin != 0 and head[begin - 1] != c'\n':
            begin -= 1
        if end - begin > name_len and head[begin + name_len] == c':' \
                and http_is(head + begin, <const char*>name, <uint32_t>name_len):
            first = begin + name_len + 1
            last = end - 2
            while first < last and http_class[head[first]] & C_SPACE:
                first += 1
            while last > first and http_class[head[last - 1]] & C_SPACE:
                last -= 1
            n = last - first
            if n != 0 and room != cap:
                if room < 2:
                    return _cut(out, cap)
                room -= 2
                memcpy(out + room, b", ", 2)
            if n > room:
                memcpy(out, head + last - room, room)
                return _cut(out, cap)
            room -= n
            memcpy(out + room, head + first, n)
        end = begin
    memmove(out, out + room, cap - room)
    return cap - room


cdef inline size_t _cut(uint8_t* out, size_t cap) noexcept nogil:
    out[0] = 0
    return cap
