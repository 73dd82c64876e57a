# See simpeer_shim.pxd. It shares no line with the engine: what one of them gets wrong the other does not.

from libc.stdlib cimport atoi
from libc.string cimport memcmp, memcpy, memset

from uws_shims.simdeflate_shim cimport PeerTerms, deflates, deflates_begin, inflates
from uws_shims.simkernel cimport SIM_EOF, SIM_NEVER, SIM_OPEN, SIM_RESET

cdef enum:
    FIN = 0x80
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10
    OURS = 64                     # added to a client's number: who the application is

cdef uint8_t OUT[16][PEER_OUT_BYTES]     # by client
cdef uint8_t IN[65536]
cdef uint8_t PLAIN[PEER_LONGEST_BYTES + 5]
cdef uint8_t SQUEEZED[PEER_OUT_BYTES]
cdef uint8_t HEARD[16][PEER_LONGEST_BYTES + 512]

cdef const char* WELL = (b"GET / HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
cdef const char* PLAINLY = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"
cdef const char* WRONGLY = (b"GET / HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            b"Sec-WebSocket-Version: 13\r\n\r\n")
cdef const uint8_t* SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
cdef const char* OFFERS[4]
OFFERS[:] = [
    b"",
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n",
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
    (b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
     b"server_max_window_bits=9; client_max_window_bits=10\r\n"),
]
# The RFC's own example, section 1.3.
cdef const char* ACCEPTS = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

cdef extern from "<stdio.h>" nogil:
    int snprintf(char*, size_t, const char*, ...)

cdef extern from "<string.h>" nogil:
    size_t strlen(const char*)
    void* memmem(const void*, size_t, const void*, size_t)


# ---- what is said, by number: both sides know it without asking each other

cdef inline uint32_t _mixed(int who, uint32_t number) noexcept nogil:
    cdef uint32_t x = (number + 1) * <uint32_t>2654435761 ^ (<uint32_t>who + 1) * <uint32_t>0x85EBCA6B
    x ^= x >> 15
    x *= <uint32_t>0x2C1B3C6D
    return x ^ x >> 13


cdef inline uint32_t _length(int who, uint32_t number, uint32_t longest_bytes) noexcept nogil:
    """Most are short, some lie around a border of the length forms."""
    cdef uint32_t x = _mixed(who, number), n
    if x & 7 < 4:
        n = (x >> 3) % 40
    elif x & 7 == 4:
        n = 120 + (x >> 3) % 12
    elif x & 7 < 7:
        n = (x >> 3) % 2000
    else:
        n = (x >> 3) % (PEER_LONGEST_BYTES + 1)
    return n if n <= longest_bytes else longest_bytes


cdef uint8_t said_opcode(int who, uint32_t number) noexcept nogil:
    return TEXT if _mixed(who, number) >> 31 else BINARY


cdef uint32_t said_bytes(int who, uint32_t number, uint32_t longest_bytes) noexcept nogil:
    return _length(who, number, longest_bytes)


cdef uint8_t said(int who, uint32_t number, uint32_t at) noexcept nogil:
    """Byte at of a client's message; ASCII, so that it may be text."""
    return <uint8_t>(at * 7 + number * 13 + <uint32_t>who * 29) & 0x7F


cdef uint32_t heard_bytes(int who, uint32_t number, uint32_t longest_bytes) noexcept nogil:
    return 4 + _length(who + OURS, number, longest_bytes)


cdef uint8_t heard_byte(int who, uint32_t number, uint32_t at) noexcept nogil:
    """The same of a message of the application's, which begins with its number."""
    if at < 4:
        return <uint8_t>(number >> (7 * at)) & 0x7F
    return said(who + OURS, number, at)


# ---- making one

cdef void peer_init(Peer* p, int id, const SimKernel* k, bint is_proxied) noexcept nogil:
    memset(p, 0, sizeof(Peer))
    p.id = id
    p.index = -1
    p.next_us = k.now() + k.below(30000 if k.below(4) else 500000)
    p.request = ASKS_WELL
    if k.mishap(16):
        p.request = <uint8_t>(1 + k.below(ASKS_HALF))
    if k.below(2):
        p.offers = <uint8_t>k.below(4)
    if is_proxied:
        p.header = <uint8_t>(NAMED_IN_TEXT + k.below(3))
        if k.mishap(16):
            p.header = NAMED_WRONGLY
            p.request = ASKS_UNNAMED
    p.is_eager = k.below(3) == 0
    p.answers_pings = not k.mishap(16)
    p.answers_close = not k.mishap(16)
    p.chats = 1 + k.below(8) if k.below(2) else 0
    p.splits = 1 + k.below(6) if k.below(2) else 0
    p.longest_bytes = PEER_LONGEST_BYTES if k.below(4) == 0 else 300
    p.messages = k.below(PEER_MESSAGES)
    p.gulp_bytes = p.bite_bytes = 65536
    if p.longest_bytes <= 300:
        # Byte by byte, or nearly.
        if k.below(4) == 0:
            p.gulp_bytes = 1 + k.below(3)
        if k.below(4) == 0:
            p.bite_bytes = 1 + k.below(200)
    p.finale = ENDS_CLOSING
    if k.mishap(2):
        p.finale = <uint8_t>(1 + k.below(ENDS_WRONG))
    p.stops_at = <uint32_t>-1
    if k.mishap(5):
        # At any byte, those of the request included.
        p.stops_at = k.below(260 if k.below(2) else 6000)
        if p.finale < ENDS_FIN or p.finale == ENDS_WRONG:
            p.finale = <uint8_t>(ENDS_FIN + k.below(3))
    p.pause_us = 200000 if k.mishap(6) else 3000
    p.abandons = k.mishap(16)
    p.stops_reading_at = <uint32_t>-1
    if k.mishap(4):
        p.stops_reading_at = k.below(4000)
        p.reads_on_us = k.now() + (SIM_NEVER // 2 if k.below(3) == 0 else k.below(20000000))


# ---- what it sends

cdef inline void _byte(Peer* p, uint8_t byte) noexcept nogil:
    OUT[p.id][p.out_len] = byte
    p.out_len += 1


cdef void _head(Peer* p, uint8_t first, uint64_t len_bytes, uint32_t key, bint masked) noexcept nogil:
    cdef int i
    _byte(p, first)
    if len_bytes < 126:
        _byte(p, <uint8_t>len_bytes | (0x80 if masked else 0))
    elif len_bytes < 65536:
        _byte(p, 0xFE if masked else 126)
        _byte(p, <uint8_t>(len_bytes >> 8))
        _byte(p, <uint8_t>len_bytes)
    else:
        _byte(p, 0xFF if masked else 127)
        for i in range(8):
            _byte(p, <uint8_t>(len_bytes >> (56 - 8 * i)))
    if masked:
        for i in range(4):
            _byte(p, <uint8_t>(key >> (8 * i)))


cdef void _control(Peer* p, uint8_t opcode, const uint8_t* data, uint32_t len_bytes, uint32_t key) noexcept nogil:
    cdef uint32_t i
    _head(p, FIN | opcode, len_bytes, key, True)
    for i in range(len_bytes):
        _byte(p, data[i] ^ <uint8_t>(key >> (8 * (i & 3))))


cdef void _ping(Peer* p, const SimKernel* k) noexcept nogil:
    """Each with its number, so that an answer tells which it is for."""
    cdef uint8_t payload[125]
    cdef uint32_t n = 4 + k.below(122), i
    for i in range(n):
        payload[i] = <uint8_t>(p.pings >> (8 * i)) if i < 4 else <uint8_t>(p.pings + i)
    p.pings += 1
    _control(p, PING, payload, n, k.below(0xFFFFFFFF))


cdef void _message(Peer* p, const SimKernel* k) noexcept nogil:
    cdef uint32_t number = p.composed, size = said_bytes(p.id, number, p.longest_bytes)
    cdef uint32_t parts = 1, part, at = 0, n, key, i
    cdef uint8_t first = said_opcode(p.id, number)
    cdef bint last
    for i in range(size):
        PLAIN[i] = said(p.id, number, i)
    if p.is_deflated and k.below(2):
        size = deflates(p.id, PLAIN, size, SQUEEZED, sizeof(SQUEEZED))
        if size == 0:
            k.fail("client %d: zlib does not compress", p.id)
        first |= 0x40
        p.deflated += 1
    else:
        memcpy(SQUEEZED, PLAIN, size)
    if p.splits and k.below(p.splits) == 0:
        parts = 2 + k.below(4)
    for part in range(parts):
        last = part == parts - 1
        n = size - at if last else k.below(size - at + 1)
        if last and p.abandons and number == p.messages - 1:
            return
        key = k.below(0xFFFFFFFF)
        _head(p, (FIN if last else 0) | (first if part == 0 else CONTINUATION), n, key, True)
        for i in range(n):
            _byte(p, SQUEEZED[at + i] ^ <uint8_t>(key >> (8 * (i & 3))))
        at += n
        if not last and p.chats and k.below(p.chats) == 0:
            _ping(p, k)
    p.end_of[number] = p.sent + p.out_len
    p.composed += 1


cdef void _wrong(Peer* p, const SimKernel* k) noexcept nogil:
    cdef uint32_t which = k.below(7), key = k.below(0xFFFFFFFF)
    cdef uint8_t code[2]
    p.said_wrong = 1
    k.trace("client %d breaks rule %u", p.id, which)
    if which == 0:
        _head(p, FIN | 3, 0, key, True)
    elif which == 1:
        _head(p, FIN | TEXT, 0, 0, False)
    elif which == 2:
        _head(p, FIN | TEXT, 1, key, True)
        _byte(p, 0xFF ^ <uint8_t>key)
    elif which == 3:
        _head(p, FIN | BINARY, <uint64_t>1 << 40, key, True)
    elif which == 4:
        _head(p, FIN | 0x20 | BINARY, 0, key, True)
    elif which == 5:
        _head(p, FIN | CONTINUATION, 0, key, True)
    else:
        code[0] = 1005 >> 8
        code[1] = 1005 & 0xFF
        _control(p, CLOSE, code, 2, key)


cdef void _close(Peer* p, const SimKernel* k, uint16_t code) noexcept nogil:
    cdef uint8_t body[2]
    cdef uint32_t key = k.below(0xFFFFFFFF)
    body[0] = <uint8_t>(code >> 8)
    body[1] = <uint8_t>code
    cdef uint32_t n = 2 if k.below(4) else 0
    _control(p, CLOSE, body, n, key)
    p.said_close = 1
    p.said_code = code if n else 1005
    p.before_close = p.composed
    k.trace("client %d says close behind %u messages", p.id, p.composed)


cdef void _four(Peer* p, int a, int b, int c, int d) noexcept nogil:
    _byte(p, <uint8_t>a)
    _byte(p, <uint8_t>b)
    _byte(p, <uint8_t>c)
    _byte(p, <uint8_t>d)


cdef void _name(Peer* p, const SimKernel* k) noexcept nogil:
    """Its PROXY header, as the protocol's specification has it."""
    cdef int port = p.id + 1000
    cdef uint32_t n
    if p.header == NAMED_WRONGLY:
        port = 99999
    if p.header == NAMED_IN_TEXT or (p.header == NAMED_WRONGLY and k.below(2)):
        p.out_len = <uint32_t>snprintf(<char*>OUT[p.id], 108, b"PROXY TCP4 192.0.2.%d 198.51.100.1 %d 443\r\n",
                                       p.id + 1, port)
    elif p.header == NAMED_AS_ITSELF or p.header == NAMED_IN_BYTES:
        memcpy(OUT[p.id], SIGNATURE, 12)
        p.out_len = 12
        _byte(p, 0x20 if p.header == NAMED_AS_ITSELF else 0x21)
        _byte(p, 0 if p.header == NAMED_AS_ITSELF else 0x11)
        # Behind the addresses a field that says nothing, or none.
        n = 3 + k.below(200) if k.below(2) else 0
        _byte(p, 0)
        _byte(p, <uint8_t>(n + (0 if p.header == NAMED_AS_ITSELF else 12)))
        if p.header == NAMED_IN_BYTES:
            _four(p, 192, 0, 2, p.id + 1)
            _four(p, 198, 51, 100, 1)
            _four(p, (p.id + 1000) >> 8, p.id + 1000, 443 >> 8, 443)
        if n != 0:
            _byte(p, 4)
            _byte(p, 0)
            _byte(p, <uint8_t>(n - 3))
            memset(OUT[p.id] + p.out_len, 0x2A, n - 3)
            p.out_len += n - 3


cdef void _request(Peer* p, const SimKernel* k) noexcept nogil:
    cdef const char* text = WELL
    cdef uint8_t* out
    cdef uint32_t n
    _name(p, k)
    out = OUT[p.id] + p.out_len
    p.asked = 1
    if p.request == ASKS_PLAINLY:
        text = PLAINLY
    elif p.request == ASKS_WRONGLY:
        text = WRONGLY
    n = <uint32_t>strlen(text)
    if p.request == ASKS_HALF:
        n -= 7
    memcpy(out, text, n)
    if p.request == ASKS_WELL and p.offers:
        # Before the empty line.
        memcpy(out + n - 2, OFFERS[p.offers], strlen(OFFERS[p.offers]))
        n += <uint32_t>strlen(OFFERS[p.offers])
        memcpy(out + n - 2, <const char*>b"\r\n", 2)
    if p.request == ASKS_NONSENSE:
        n = 200
        memset(out, 0x16, n)
    elif p.request == ASKS_AT_LENGTH:
        # It never comes to its end.
        n = 9016
        memset(out + 16, 0x61, n - 16)
    p.out_len += n


cdef void _compose(Peer* p, const SimKernel* k) noexcept nogil:
    """The next piece of the script, or nothing."""
    p.out_at = p.out_len = 0
    if not p.asked:
        _request(p, k)
        return
    if p.request != ASKS_WELL or p.said_close or p.said_wrong or p.finale_begun:
        return
    if not p.is_upgraded and not p.is_eager:
        return
    if p.heard_close:
        if p.answers_close:
            _close(p, k, 1000)
        return
    if p.ping_waits:
        p.ping_waits = 0
        if p.answers_pings:
            _control(p, PONG, p.ping, p.ping_len, k.below(0xFFFFFFFF))
            return
    if p.chats and k.below(4 * p.chats) == 0:
        _ping(p, k)
        return
    if p.composed < p.messages:
        _message(p, k)
        if p.out_len != 0 and p.composed == p.messages - 1 and p.abandons:
            # The rest of it never comes.
            p.messages = p.composed
            if p.finale == ENDS_CLOSING or p.finale == ENDS_WRONG:
                p.finale = ENDS_WAITING
        return
    if p.finale == ENDS_CLOSING:
        _close(p, k, <uint16_t>(1000 + k.below(2)))
    elif p.finale == ENDS_WRONG:
        _wrong(p, k)
    elif p.finale != ENDS_WAITING:
        p.finale_begun = 1


cdef void _stop(Peer* p, const SimKernel* k, uint8_t how) noexcept nogil:
    p.out_at = p.out_len = 0
    p.finale_begun = 1
    p.fin_at = p.sent
    if how == ENDS_FIN:
        p.has_fin = 1
        k.trace("client %d: FIN after %u bytes", p.id, p.sent)
        k.finish(p.id)
    elif how == ENDS_LEAVING:
        p.has_fin = p.has_left = 1
        k.trace("client %d: closed after %u bytes, with %u unread", p.id, p.sent, <uint32_t>k.unread(p.id))
        k.leave(p.id)
        p.phase = PEER_GONE
    else:
        p.has_reset = 1
        k.trace("client %d: RST after %u bytes", p.id, p.sent)
        k.reset(p.id)
        p.phase = PEER_GONE


cdef bint _write(Peer* p, const SimKernel* k) noexcept nogil:
    """Send some. False: there is nothing to be sent, or no room."""
    cdef uint32_t n, done
    if p.has_fin:
        return False
    if p.sent == p.stops_at:
        _stop(p, k, p.finale)
        return True
    if p.out_at == p.out_len:
        _compose(p, k)
        if p.out_len == 0:
            if p.finale_begun:
                _stop(p, k, p.finale)
                return True
            return False
    n = p.out_len - p.out_at
    if n > p.gulp_bytes:
        n = p.gulp_bytes
    if n > p.stops_at - p.sent:
        n = p.stops_at - p.sent
    done = <uint32_t>k.write(p.id, OUT[p.id] + p.out_at, n)
    p.out_at += done
    p.sent += done
    return done != 0


# ---- what it hears

cdef bint _says(const Peer* p, const char* what) noexcept nogil:
    return memmem(p.line, p.line_len, what, strlen(what)) != NULL


cdef uint8_t _bits(const Peer* p, const char* name) noexcept nogil:
    """What it says of a window; behind it there is an end of a line, at least."""
    cdef const char* found = <const char*>memmem(p.line, p.line_len, name, strlen(name))
    return 15 if found == NULL else <uint8_t>atoi(found + strlen(name))


cdef void _agree(Peer* p, const SimKernel* k) noexcept nogil:
    cdef PeerTerms terms
    if not p.offers:
        k.fail("client %d: an extension that it did not offer", p.id)
    terms.server_resets = _says(p, b"server_no_context_takeover")
    terms.client_resets = _says(p, b"client_no_context_takeover")
    terms.server_bits = _bits(p, b"server_max_window_bits=")
    terms.client_bits = _bits(p, b"client_max_window_bits=")
    if terms.server_bits < 8 or terms.server_bits > 15 or terms.client_bits < 8 or terms.client_bits > 15:
        k.fail("client %d: windows of %u and %u bits", p.id, terms.server_bits, terms.client_bits)
    if p.offers == 3 and (not terms.server_resets or terms.server_bits > 9 or terms.client_bits > 10):
        k.fail("client %d: other terms than it offered", p.id)
    if not deflates_begin(p.id, &terms):
        k.fail("client %d: zlib has no contexts of %u and %u bits", p.id, terms.server_bits, terms.client_bits)
    p.is_deflated = 1


cdef void _heard_head(Peer* p, const SimKernel* k) noexcept nogil:
    """A whole response."""
    if p.line_len < 13 or memcmp(p.line, <const char*>b"HTTP/1.1 ", 9) != 0:
        k.fail("client %d: that is no response", p.id)
    p.status = <uint16_t>((p.line[9] - 48) * 100 + (p.line[10] - 48) * 10 + (p.line[11] - 48))
    k.trace("client %d hears %u", p.id, p.status)
    if p.status != 101:
        if p.status < 200 or p.status > 599:
            k.fail("client %d: status %u", p.id, p.status)
        p.is_refused = 1
        p.head_len = 0
        return
    if p.request != ASKS_WELL:
        k.fail("client %d did not ask for a WebSocket and has one", p.id)
    if memmem(p.line, p.line_len, ACCEPTS, strlen(ACCEPTS)) == NULL:
        k.fail("client %d: the response does not accept its key", p.id)
    if _says(p, b"permessage-deflate"):
        _agree(p, k)
    p.is_upgraded = 1
    p.line_len = 0


cdef void _heard_frame(Peer* p, const SimKernel* k) noexcept nogil:
    """A frame's whole header is in the line (RFC 6455, section 5.2)."""
    cdef uint64_t n = p.line[1] & 0x7F
    cdef uint8_t opcode = p.line[0] & 15
    cdef int i
    p.first = p.line[0]
    if p.line[1] & 0x80:
        k.fail("client %d: a server does not mask", p.id)
    p.is_squeezed = p.line[0] & 0x40 and p.is_deflated and opcode < CLOSE
    if p.line[0] & (0x30 if p.is_squeezed else 0x70):
        k.fail("client %d: reserved bits in %02x", p.id, p.line[0])
    if opcode != TEXT and opcode != BINARY and opcode != CLOSE and opcode != PING and opcode != PONG:
        k.fail("client %d: opcode %u", p.id, opcode)
    if not (p.line[0] & FIN):
        k.fail("client %d: a message in fragments, which nobody sends", p.id)
    if p.head_len == 4:
        n = <uint64_t>p.line[2] << 8 | p.line[3]
        if n < 126:
            k.fail("client %d: a length in too many bytes", p.id)
    elif p.head_len == 10:
        n = 0
        for i in range(8):
            n = n << 8 | p.line[2 + i]
        if n < 65536:
            k.fail("client %d: a length in too many bytes", p.id)
    if opcode >= CLOSE and n > 125:
        k.fail("client %d: a control frame of %llu bytes", p.id, <unsigned long long>n)
    if n > PEER_LONGEST_BYTES + (100 if p.is_squeezed else 4):
        k.fail("client %d: a message of %llu bytes, which nobody sent", p.id, <unsigned long long>n)
    p.left = <uint32_t>n
    p.at = 0
    p.number = 0
    p.line_len = 0


cdef void _heard_number(Peer* p, const SimKernel* k, uint32_t answer_bytes) noexcept nogil:
    """The first four bytes of a message say which it is."""
    if p.number >= p.accepted:
        k.fail("client %d hears message %u, and %u were accepted", p.id, p.number, p.accepted)
    if p.number < p.heard:
        k.fail("client %d hears message %u after %u", p.id, p.number, p.heard - 1)
    if p.number > p.heard and not p.may_skip:
        k.fail("client %d: message %u is lost, here is %u", p.id, p.heard, p.number)
    p.skipped += p.number - p.heard
    p.heard = p.number + 1
    if p.left + p.at != heard_bytes(p.id, p.number, answer_bytes):
        k.fail("client %d: message %u has %u bytes", p.id, p.number, p.left + p.at)
    if p.first & 15 != said_opcode(p.id + OURS, p.number):
        k.fail("client %d: message %u as opcode %u", p.id, p.number, p.first & 15)


cdef void _stretch(Peer* p, const SimKernel* k, uint32_t answer_bytes) noexcept nogil:
    """A compressed message is there."""
    cdef uint32_t i, n = inflates(p.id, HEARD[p.id], p.at, PLAIN, sizeof(PLAIN))
    if n < 4:
        k.fail("client %d: message %u or a later one is broken: %u bytes make %u", p.id, p.heard, p.at, n)
    for i in range(4):
        p.number |= <uint32_t>PLAIN[i] << (7 * i)
    p.inflated += 1
    p.at = n
    _heard_number(p, k, answer_bytes)
    for i in range(4, n):
        if PLAIN[i] != heard_byte(p.id, p.number, i):
            k.fail("client %d: byte %u of message %u, which was compressed, is %u", p.id, i, p.number, PLAIN[i])


cdef void _heard_control(Peer* p, const SimKernel* k) noexcept nogil:
    """Its payload is in the line."""
    cdef uint8_t opcode = p.first & 15
    cdef uint32_t number, i
    if opcode == PING:
        p.ping_waits = 1
        p.ping_len = <uint8_t>p.line_len
        memcpy(p.ping, p.line, p.line_len)
    elif opcode == PONG:
        if p.line_len < 4:
            k.fail("client %d: a pong that nobody asked for", p.id)
        number = p.line[0] | <uint32_t>p.line[1] << 8 | <uint32_t>p.line[2] << 16 | <uint32_t>p.line[3] << 24
        if number >= p.pings or number < p.pongs:
            k.fail("client %d: a pong for ping %u of %u, after %u", p.id, number, p.pings, p.pongs)
        for i in range(4, p.line_len):
            if p.line[i] != <uint8_t>(number + i):
                k.fail("client %d: pong %u is not what the ping was", p.id, number)
        p.pongs = number + 1
    else:
        if p.line_len == 1:
            k.fail("client %d: half a close code", p.id)
        p.heard_close = 1
        p.close_code = 1005 if p.line_len == 0 else <uint16_t>(p.line[0] << 8 | p.line[1])
        k.trace("client %d hears close %u behind %u messages", p.id, p.close_code, p.heard)
        if p.line_len != 0 and (p.close_code < 1000 or p.close_code == 1004 or p.close_code == 1005
                                or p.close_code == 1006 or (p.close_code > 1014 and p.close_code < 3000)):
            k.fail("client %d: close code %u", p.id, p.close_code)
        # Who is not trusted any more gets nothing that has not begun.
        if not p.may_skip and p.heard != p.accepted and p.close_code != DISTRUSTED:
            k.fail("client %d: close before message %u of %u", p.id, p.heard, p.accepted)
    p.line_len = 0


cdef void _hear(Peer* p, const SimKernel* k, const uint8_t* data, uint32_t n, uint32_t answer_bytes) noexcept nogil:
    cdef uint32_t i = 0, need
    while i < n:
        if p.is_refused:
            return
        if not p.is_upgraded:
            if p.line_len == sizeof(p.line):
                k.fail("client %d: a head of more than %u bytes", p.id, p.line_len)
            p.line[p.line_len] = data[i]
            p.line_len += 1
            i += 1
            if p.line_len >= 4 and memcmp(p.line + p.line_len - 4, <const char*>b"\r\n\r\n", 4) == 0:
                _heard_head(p, k)
            continue
        if p.heard_close:
            k.fail("client %d hears %u bytes behind the close frame", p.id, n - i)
        if p.head_len == 0:
            p.line[p.line_len] = data[i]
            p.line_len += 1
            i += 1
            if p.line_len < 2:
                continue
            need = 2
            if p.line[1] & 0x7F == 126:
                need = 4
            elif p.line[1] & 0x7F == 127:
                need = 10
            if p.line_len < need:
                continue
            p.head_len = <uint8_t>need
            _heard_frame(p, k)
        elif p.first & 15 >= CLOSE:
            p.line[p.line_len] = data[i]
            p.line_len += 1
            p.left -= 1
            i += 1
        elif p.is_squeezed:
            HEARD[p.id][p.at] = data[i]
            p.at += 1
            p.left -= 1
            i += 1
            if p.left == 0:
                _stretch(p, k, answer_bytes)
        else:
            if p.at < 4:
                p.number |= <uint32_t>data[i] << (7 * p.at)
            p.at += 1
            p.left -= 1
            if p.at == 4:
                _heard_number(p, k, answer_bytes)
            elif p.at > 4 and data[i] != heard_byte(p.id, p.number, p.at - 1):
                k.fail("client %d: byte %u of message %u is %u", p.id, p.at - 1, p.number, data[i])
            i += 1
        if p.head_len != 0 and p.left == 0:
            p.head_len = 0
            if p.first & 15 >= CLOSE:
                _heard_control(p, k)
            elif p.at < 4:
                k.fail("client %d: a message of %u bytes, which nobody sent", p.id, p.at)


cdef bint _read(Peer* p, const SimKernel* k, uint32_t answer_bytes) noexcept nogil:
    cdef uint32_t n = p.bite_bytes
    if p.got >= p.stops_reading_at:
        if k.now() < p.reads_on_us:
            return False
    elif n > p.stops_reading_at - p.got:
        n = p.stops_reading_at - p.got
    if n > sizeof(IN):
        n = sizeof(IN)
    n = <uint32_t>k.read(p.id, IN, n)
    p.got += n
    _hear(p, k, IN, n, answer_bytes)
    return n != 0


# ---- and does

cdef bint peer_act(Peer* p, const SimKernel* k, uint32_t answer_bytes) noexcept nogil:
    """Do what is to be done next. answer_bytes: the longest message of the application's. False: there is nothing."""
    cdef bint done
    if p.phase == PEER_GONE or k.now() < p.next_us:
        return False
    if p.phase == PEER_TO_COME:
        p.phase = PEER_HERE
        k.connect(p.id)
        return True
    done = _read(p, k, answer_bytes)
    if not p.has_fin and _write(p, k):
        done = True
    if p.phase == PEER_HERE and k.unread(p.id) == 0 and k.ended(p.id) != SIM_OPEN:
        # The server has said all that it has to say.
        p.end = <uint8_t>k.ended(p.id)
        k.trace("client %d finds %s after %u bytes", p.id,
                <const char*>b"RST" if p.end == SIM_RESET else <const char*>b"FIN", p.got)
        if p.end == SIM_EOF:
            p.has_fin = 1
            if p.fin_at == 0:
                p.fin_at = p.sent
            k.leave(p.id)
        p.phase = PEER_GONE
        done = True
    if done:
        p.next_us = k.now() + k.below(p.pause_us)
    return done
