# F2. See deflate.pxd.
#
# A compressed message is raw deflate without the four bytes 00 00 FF FF with which a sync flush ends (RFC
# 7692, sections 7.2.1 and 7.2.2): the sender cuts them off, the receiver puts them back.

from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset, strlen

from _uws.errs cimport UWS_E_DEFLATE, UWS_E_NOMEM, UWS_E_TOO_BIG, UWS_OK
from _uws.http cimport C_LIST, C_SPACE, C_TOKEN, http_skip, http_skip_quoted
from _uws.slab cimport slab_block_bytes, slab_give, slab_grow, slab_take
from _uws.upgrade cimport upgrade_next_value


cdef extern from "malloc.h" nogil:
    size_t malloc_usable_size(void*)

cdef extern from "zlib_any.h" nogil:
    ctypedef struct uws_z_stream:
        const uint8_t* next_in
        uint32_t avail_in
        uint8_t* next_out
        uint32_t avail_out
        int data_type
    ctypedef void* (*uws_z_alloc)(void* opaque, unsigned int items, unsigned int size) noexcept nogil
    ctypedef void (*uws_z_free)(void* opaque, void* block) noexcept nogil
    cdef enum:
        Z_OK
        Z_STREAM_END
        Z_MEM_ERROR
        Z_BUF_ERROR
        Z_SYNC_FLUSH
        Z_DEFAULT_STRATEGY
        Z_RLE
    const char* UWS_Z_NAME
    void uws_z_prepare(uws_z_stream*, uws_z_alloc, uws_z_free, void*)
    int uws_deflate_init(uws_z_stream*, int level, int window_bits, int mem_level, int strategy)
    int uws_deflate_reset(uws_z_stream*)
    int uws_deflate(uws_z_stream*, int flush)
    void uws_deflate_end(uws_z_stream*)
    int uws_inflate_init(uws_z_stream*, int window_bits)
    int uws_inflate_reset(uws_z_stream*)
    int uws_inflate_go_on(uws_z_stream*)
    int uws_inflate(uws_z_stream*, int flush)
    void uws_inflate_end(uws_z_stream*)


cdef enum:
    # zlib makes no raw stream with a smaller window than this, and neither side needs one to read it.
    ZLIB_MIN_BITS = 9
    AT_BLOCK_END = 128                # of data_type after inflating
    FIRST_INFLATED_BYTES = 256
    LARGEST_CLASS_BYTES = 49152       # of the slab, but one: see _room()
    KEPT_BUF_BYTES = 262144
    FLUSH_BYTES = 16                  # what a sync flush may still want to write

cdef enum:
    OFFER_SERVER_RESETS = 1
    OFFER_CLIENT_RESETS = 2
    OFFER_SERVER_BITS = 4
    OFFER_CLIENT_BITS = 8


cdef const char* deflate_library() noexcept nogil:
    return UWS_Z_NAME


cdef bint deflate_valid(const UwsDeflateSettings* settings) noexcept nogil:
    """Are all settings within what UwsDeflateSettings says of them? Whoever takes them from outside has to ask."""
    return (-1 <= settings.level <= 9 and 1 <= settings.mem_level <= 9
            and ZLIB_MIN_BITS <= settings.server_bits <= UWS_DEFLATE_MAX_BITS
            and ZLIB_MIN_BITS <= settings.client_bits <= UWS_DEFLATE_MAX_BITS)


# ---- negotiation (RFC 7692, sections 5 and 7.1)

cdef struct _Offer:
    uint8_t seen              # OFFER_*
    uint8_t server_bits       # 8 to 15
    uint8_t client_bits       # 8 to 15; 0: client_max_window_bits without a value


cdef inline bint _is(const uint8_t* text, uint32_t len_bytes, const char* name) noexcept nogil:
    # Neither RFC says that these names may be written otherwise, and no client writes them so.
    return len_bytes == strlen(name) and memcmp(text, name, len_bytes) == 0


cdef int _bits(const uint8_t* value, uint32_t len_bytes) noexcept nogil:
    """8 to 15, decimal, without leading zeros (section 7.1.2); 0 if it is anything else. value may be
    quoted."""
    cdef uint8_t digits[2]
    cdef uint32_t n = 0, i = 0
    cdef bint quoted = len_bytes != 0 and value[0] == c'"'
    if quoted:
        i = 1
        len_bytes -= 1
    while i < len_bytes:
        if quoted and value[i] == c'\\':
            i += 1
        if n == 2 or not c'0' <= value[i] <= c'9':
            return 0
        digits[n] = value[i] - c'0'
        n += 1
        i += 1
    if n == 1 and digits[0] >= UWS_DEFLATE_MIN_BITS:
        return digits[0]
    if n == 2 and digits[0] == 1 and digits[1] <= UWS_DEFLATE_MAX_BITS - 10:
        return 10 + digits[1]
    return 0


cdef bint _parameter(_Offer* offer, const uint8_t* name, uint32_t name_len,
                     const uint8_t* value, uint32_t value_len) noexcept nogil:
    """Take one parameter of an offer down. False: the offer has to be declined (section 7.1). value_len 0: no
    value."""
    cdef uint8_t what
    cdef int bits = 0
    if _is(name, name_len, b"server_no_context_takeover"):
        what = OFFER_SERVER_RESETS
    elif _is(name, name_len, b"client_no_context_takeover"):
        what = OFFER_CLIENT_RESETS
    elif _is(name, name_len, b"server_max_window_bits"):
        what = OFFER_SERVER_BITS
    elif _is(name, name_len, b"client_max_window_bits"):
        what = OFFER_CLIENT_BITS
    else:
        return False
    if offer.seen & what:
        return False
    offer.seen |= what
    if what == OFFER_SERVER_RESETS or what == OFFER_CLIENT_RESETS:
        return value_len == 0
    if value_len != 0:
        bits = _bits(value, value_len)
    if what == OFFER_SERVER_BITS:
        offer.server_bits = <uint8_t>bits
        return bits != 0
    offer.client_bits = <uint8_t>bits
    return bits != 0 or value_len == 0


cdef bint _next_offer(const uint8_t* head, uint32_t* at, uint32_t end, _Offer* offer) noexcept nogil:
    """Find the next offer of permessage-deflate that need not be declined. False: there is none in this
    value, whose grammar upgrade_parse() has checked."""
    cdef uint32_t pos = at[0]
    cdef uint32_t name, name_end, value
    cdef bint good
    while True:
        pos = http_skip(head, pos, end, C_LIST)
        if pos >= end:
            return False
        name = pos
        pos = http_skip(head, pos, end, C_TOKEN)
        good = _is(head + name, pos - name, b"permessage-deflate")
        memset(offer, 0, sizeof(_Offer))
        while True:
            pos = http_skip(head, pos, end, C_SPACE)
            if pos >= end or head[pos] != c';':
                break
            name = http_skip(head, pos + 1, end, C_SPACE)
            name_end = http_skip(head, name, end, C_TOKEN)
            pos = http_skip(head, name_end, end, C_SPACE)
            value = pos
            if pos < end and head[pos] == c'=':
                value = http_skip(head, pos + 1, end, C_SPACE)
                if value < end and head[value] == c'"':
                    pos = http_skip_quoted(head, value, end)
                else:
                    pos = http_skip(head, value, end, C_TOKEN)
            good = good and _parameter(offer, head + name, name_end - name, head + value, pos - value)
        if good:
            at[0] = pos
            return True


cdef size_t _put(uint8_t* out, size_t len_bytes, const char* text, int bits) noexcept nogil:
    """Append text, and "=bits" unless that is 0; the new length."""
    cdef size_t n = strlen(text)
    memcpy(out + len_bytes, text, n)
    len_bytes += n
    if bits != 0:
        out[len_bytes] = c'='
        len_bytes += 1
        if bits >= 10:
            out[len_bytes] = c'1'
            len_bytes += 1
        out[len_bytes] = <uint8_t>(c'0' + bits % 10)
        len_bytes += 1
    return len_bytes


cdef size_t _answer(const _Offer* offer, const UwsDeflateSettings* s, UwsDeflateTerms* t,
                    uint8_t* out) noexcept nogil:
    """Settle the terms of an offer, and write them down for the client. There is none that cannot be met."""
    cdef size_t n
    t.accepted = 1
    t.server_takeover = s.server_takeover and not (offer.seen & OFFER_SERVER_RESETS)
    t.client_takeover = s.client_takeover and not (offer.seen & OFFER_CLIENT_RESETS)
    t.server_bits = s.server_bits
    if offer.seen & OFFER_SERVER_BITS and offer.server_bits < t.server_bits:
        t.server_bits = offer.server_bits
    t.client_bits = UWS_DEFLATE_MAX_BITS
    if offer.seen & OFFER_CLIENT_BITS:
        t.client_bits = s.client_bits
        if offer.client_bits != 0 and offer.client_bits < t.client_bits:
            t.client_bits = offer.client_bits
    elif s.client_bits < UWS_DEFLATE_MAX_BITS:
        # This client cannot be told to keep to a smaller window (section 7.1.2.2). What the setting bounds is
        # what a connection costs us: so its context is not kept, and costs nothing.
        t.client_takeover = 0
    n = _put(out, 0, b"permessage-deflate", 0)
    if not t.server_takeover:
        n = _put(out, n, b"; server_no_context_takeover", 0)
    if not t.client_takeover:
        n = _put(out, n, b"; client_no_context_takeover", 0)
    if offer.seen & OFFER_SERVER_BITS or t.server_bits < UWS_DEFLATE_MAX_BITS:
        n = _put(out, n, b"; server_max_window_bits", t.server_bits)
    if t.client_bits < UWS_DEFLATE_MAX_BITS:
        n = _put(out, n, b"; client_max_window_bits", t.client_bits)
    return n


cdef size_t deflate_negotiate(const UwsUpgrade* u, const uint8_t* head, const UwsDeflateSettings* settings,
                              UwsDeflateTerms* out_terms, uint8_t* out, size_t cap) noexcept nogil:
    """Choose among the client's offers of permessage-deflate (RFC 7692, section 7.1): the first that can be
    accepted, in the order of all Sec-WebSocket-Extensions fields (RFC 6455, section 9.1).

    u, head: a request for which upgrade_parse() returned UWS_OK, so that the fields' grammar is known to be
    right.
    settings: our own upper bounds. A client that cannot be told its window keeps no context where ours is
    below 15.
    out_terms: written in any case.
    out: the value of the response's Sec-WebSocket-Extensions; UWS_DEFLATE_ANSWER_BYTES are enough for each.
    Returns its length; 0: no extension.
    """
    cdef uint32_t pos = u.extensions.off
    cdef uint32_t end = pos + u.extensions.len
    cdef _Offer offer
    memset(out_terms, 0, sizeof(UwsDeflateTerms))
    if not settings.enabled or pos == 0 or cap < UWS_DEFLATE_ANSWER_BYTES:
        return 0
    while True:
        if _next_offer(head, &pos, end, &offer):
            return _answer(&offer, settings, out_terms, out)
        if not upgrade_next_value(u, head, b"sec-websocket-extensions", &pos, &end):
            return 0


# ---- zlib's contexts

cdef void* _slab_alloc(void* opaque, unsigned int items, unsigned int size) noexcept nogil:
    cdef UwsSlab* slab = <UwsSlab*>opaque
    cdef size_t got_bytes
    cdef void* block
    if size != 0 and items > <size_t>-1 // size:
        return NULL
    block = slab_take(slab, <size_t>items * size, &got_bytes)
    if block != NULL:
        slab.context_bytes += got_bytes
    return block


cdef void _slab_free(void* opaque, void* block) noexcept nogil:
    cdef UwsSlab* slab = <UwsSlab*>opaque
    if block != NULL:
        slab.context_bytes -= slab_block_bytes(block)
        slab_give(slab, block)


cdef void* _heap_alloc(void* opaque, unsigned int items, unsigned int size) noexcept nogil:
    cdef void* block
    if size != 0 and items > <size_t>-1 // size:
        return NULL
    block = malloc(<size_t>items * size)
    (<size_t*>opaque)[0] += malloc_usable_size(block)
    return block


cdef void _heap_free(void* opaque, void* block) noexcept nogil:
    (<size_t*>opaque)[0] -= malloc_usable_size(block)
    free(block)


cdef uws_z_stream* _new_stream(UwsSlab* slab, size_t* held_bytes) noexcept nogil:
    """A stream whose memory comes from the slab; or from malloc, where there is none, and is counted in held_bytes."""
    cdef uws_z_stream* z
    if slab != NULL:
        z = <uws_z_stream*>_slab_alloc(slab, 1, sizeof(uws_z_stream))
        if z != NULL:
            uws_z_prepare(z, _slab_alloc, _slab_free, slab)
    else:
        z = <uws_z_stream*>_heap_alloc(held_bytes, 1, sizeof(uws_z_stream))
        if z != NULL:
            uws_z_prepare(z, _heap_alloc, _heap_free, held_bytes)
    return z


cdef void _free_stream(UwsSlab* slab, size_t* held_bytes, void* z) noexcept nogil:
    if slab != NULL:
        _slab_free(slab, z)
    else:
        _heap_free(held_bytes, z)


cdef uws_z_stream* _new_deflater(UwsSlab* slab, size_t* held_bytes, int level, int mem_level,
                                 int window_bits) noexcept nogil:
    cdef uws_z_stream* z = _new_stream(slab, held_bytes)
    cdef int strategy = Z_DEFAULT_STRATEGY
    if window_bits < ZLIB_MIN_BITS:
        # zlib has no raw window of 8 bits. Run-length encoding finds matches at distance 1 only (zlib.h says
        # so), which is within any window.
        window_bits = ZLIB_MIN_BITS
        strategy = Z_RLE
    if z != NULL and uws_deflate_init(z, level, window_bits, mem_level, strategy) != Z_OK:
        _free_stream(slab, held_bytes, z)
        z = NULL
    return z


cdef uws_z_stream* _new_inflater(UwsSlab* slab, size_t* held_bytes, int window_bits) noexcept nogil:
    cdef uws_z_stream* z = _new_stream(slab, held_bytes)
    # A client that agrees to 8 bits may have a zlib of old, which made that 9 without saying so.
    if z != NULL and uws_inflate_init(z, max(window_bits, ZLIB_MIN_BITS)) != Z_OK:
        _free_stream(slab, held_bytes, z)
        z = NULL
    return z


# ---- inflating

cdef size_t _room(size_t have, uint64_t limit_bytes) noexcept nogil:
    """How large the output shall be after have bytes were not enough."""
    cdef uint64_t want = <uint64_t>have + have
    # While a block moves to another size class both are there. From the largest class but one it goes
    # straight to a mapping, which grows without a copy: so what is held never exceeds the limit by more than
    # a class.
    if LARGEST_CLASS_BYTES < want <= UWS_INFLATE_SLACK_BYTES < limit_bytes:
        want = UWS_INFLATE_SLACK_BYTES + 1
    return <size_t>min(want, limit_bytes)


cdef int _inflate(uws_z_stream* z, UwsSlab* slab, const uint8_t* data, size_t len_bytes, uint64_t limit_bytes,
                  uint8_t** take_out, size_t* out_len) noexcept nogil:
    """Inflate one message (RFC 7692, section 7.2.2); see inflater_run()."""
    cdef uint8_t tail[4]
    cdef uint8_t extra
    cdef uint8_t* buf = NULL
    cdef uint8_t* grown
    cdef size_t cap_bytes = 0, have = 0, room, n
    cdef size_t left = len_bytes
    cdef bint in_tail = False, is_drained = True, at_limit
    cdef int status = UWS_OK, got
    tail[0] = tail[1] = 0
    tail[2] = tail[3] = 0xFF
    take_out[0] = NULL
    out_len[0] = 0
    if len_bytes == 0:
        # Strictly a message has a byte at least (section 7.2.3.6), but a zlib that is flushed twice gives
        # none.
        return UWS_OK
    z.next_in = data
    z.avail_in = 0
    while True:
        if z.avail_in == 0:
            if left != 0:
                n = min(left, <size_t>0x40000000)
                z.avail_in = <uint32_t>n
                left -= n
            elif is_drained and not in_tail:
                # Before all is written zlib has yet to see in what it holds whether a final block ends there.
                in_tail = True
                z.next_in = tail
                z.avail_in = 4
        at_limit = have == limit_bytes
        if not at_limit and have == cap_bytes:
            # Four times the input is what text comes to.
            room = _room(have if have != 0 else 2 * len_bytes + FIRST_INFLATED_BYTES // 2, limit_bytes)
            grown = <uint8_t*>slab_grow(slab, buf, have, room, &cap_bytes)
            if grown == NULL:
                status = UWS_E_NOMEM
                break
            buf = grown
            cap_bytes = <size_t>min(<uint64_t>cap_bytes, limit_bytes)
        # At the limit one byte more tells whether there is more to come.
        room = 1 if at_limit else min(cap_bytes - have, <size_t>0x40000000)
        z.next_out = &extra if at_limit else buf + have
        z.avail_out = <uint32_t>room
        got = uws_inflate(z, Z_SYNC_FLUSH)
        room -= z.avail_out
        is_drained = z.avail_out != 0
        if at_limit and room != 0:
            status = UWS_E_TOO_BIG
            break
        have += room
        if got == Z_STREAM_END:
            # A block with BFINAL (section 7.2.3.4). What follows goes on in the same window; if nothing does,
            # the sender has spared the byte behind which the four that we append would make sense.
            uws_inflate_go_on(z)
            if in_tail:
                status = UWS_E_DEFLATE
                break
            if z.avail_in == 0 and left == 0:
                break
        elif got == Z_OK or got == Z_BUF_ERROR:
            if in_tail and z.avail_in == 0 and z.avail_out != 0:
                # All is read and all is written. It has to end where a block does: a message cut short does
                # not.
                if not (z.data_type & AT_BLOCK_END):
                    status = UWS_E_DEFLATE
                break
        else:
            status = UWS_E_NOMEM if got == Z_MEM_ERROR else UWS_E_DEFLATE
            break
    if status != UWS_OK or have == 0:
        slab_give(slab, buf)
        return status
    take_out[0] = buf
    out_len[0] = have
    return UWS_OK


cdef int inflater_run(UwsInflater* i, UwsSlab* slab, const uint8_t* data, size_t len_bytes,
                      uint64_t limit_bytes, uint8_t** take_out, size_t* out_len) noexcept nogil:
    """Inflate one message whose sender began with an empty window.

    Several blocks are fine, final ones among them, and the message goes on behind those.
    limit_bytes: of the message. No more than this and UWS_INFLATE_SLACK_BYTES is ever taken for it.
    take_out: a slab block that is the caller's, or NULL for an empty message. Written in any case.
    Returns UWS_OK, UWS_E_TOO_BIG, UWS_E_NOMEM; UWS_E_DEFLATE if it is no deflate data or does not end where a
        block does.
    """
    take_out[0] = NULL
    out_len[0] = 0
    if i.context == NULL:
        i.context = _new_inflater(NULL, &i.held_bytes, UWS_DEFLATE_MAX_BITS)
        if i.context == NULL:
            return UWS_E_NOMEM
    elif uws_inflate_reset(<uws_z_stream*>i.context) != Z_OK:
        return UWS_E_NOMEM
    return _inflate(<uws_z_stream*>i.context, slab, data, len_bytes, limit_bytes, take_out, out_len)


cdef int inflate_own_run(UwsDeflate* own, const uint8_t* data, size_t len_bytes, uint64_t limit_bytes,
                         uint8_t** take_out, size_t* out_len) noexcept nogil:
    """As inflater_run(), for a client that keeps its window from message to message. After anything but
    UWS_OK the two
    windows are not the same any more: the connection has to end."""
    take_out[0] = NULL
    out_len[0] = 0
    if own.inflater == NULL:
        own.inflater = _new_inflater(own.slab, NULL, own.client_bits)
        if own.inflater == NULL:
            return UWS_E_NOMEM
    return _inflate(<uws_z_stream*>own.inflater, own.slab, data, len_bytes, limit_bytes, take_out, out_len)


cdef void inflater_destroy(UwsInflater* i) noexcept nogil:
    if i.context != NULL:
        uws_inflate_end(<uws_z_stream*>i.context)
        _free_stream(NULL, &i.held_bytes, i.context)
        i.context = NULL


# ---- deflating

cdef bint _deflate(uws_z_stream* z, const uint8_t* data, size_t len_bytes, uint8_t* out, size_t cap_bytes,
                   size_t* out_len) noexcept nogil:
    """Compress one message (RFC 7692, section 7.2.1), not empty. False: out is too small for it, and z is of
    no use but to be reset."""
    cdef size_t left = len_bytes, have = 0, n
    cdef bint is_last = False
    z.next_in = data
    z.avail_in = 0
    while True:
        if z.avail_in == 0 and left != 0:
            n = min(left, <size_t>0x40000000)
            z.avail_in = <uint32_t>n
            left -= n
            is_last = left == 0
        n = min(cap_bytes - have, <size_t>0x40000000)
        if n == 0:
            return False
        z.next_out = out + have
        z.avail_out = <uint32_t>n
        # Z_BUF_ERROR says that nothing was left to do, which is what avail_out says too.
        uws_deflate(z, Z_SYNC_FLUSH if is_last else 0)
        have += n - z.avail_out
        if is_last and z.avail_out != 0:
            break
    if have < 4 or memcmp(out + have - 4, b"\x00\x00\xff\xff", 4) != 0:
        return False
    out_len[0] = have - 4
    return True


cdef void deflater_init(UwsDeflater* d, const UwsDeflateSettings* settings) noexcept nogil:
    memset(d, 0, sizeof(UwsDeflater))
    d.level = settings.level
    d.mem_level = settings.mem_level


cdef void deflater_destroy(UwsDeflater* d) noexcept nogil:
    cdef int bits
    for bits in range(16):
        if d.contexts[bits] != NULL:
            uws_deflate_end(<uws_z_stream*>d.contexts[bits])
            _free_stream(NULL, &d.held_bytes, d.contexts[bits])
            d.contexts[bits] = NULL
    free(d.buf)
    d.buf = NULL
    d.cap_bytes = 0


cdef int deflater_run(UwsDeflater* d, int window_bits, const uint8_t* data, size_t len_bytes,
                      const uint8_t** out, size_t* out_len) noexcept nogil:
    """Compress one message with an empty window.

    window_bits: 8 to 15, as negotiated.
    out: d's, until the next call. Written on success only.
    Returns UWS_OK, UWS_DEFLATE_NO_GAIN, UWS_E_NOMEM.
    """
    # What does not become smaller is found out at the end of this room, not of a larger one.
    cdef size_t want = len_bytes + FLUSH_BYTES
    cdef uws_z_stream* z
    cdef uint8_t* buf
    if len_bytes == 0 or want < len_bytes:
        return UWS_DEFLATE_NO_GAIN
    if d.cap_bytes < want or (d.cap_bytes > KEPT_BUF_BYTES and want <= KEPT_BUF_BYTES):
        buf = <uint8_t*>malloc(max(want, <size_t>4096))
        if buf == NULL:
            return UWS_E_NOMEM
        free(d.buf)
        d.buf = buf
        d.cap_bytes = max(want, <size_t>4096)
    z = <uws_z_stream*>d.contexts[window_bits]
    if z == NULL:
        z = _new_deflater(NULL, &d.held_bytes, d.level, d.mem_level, window_bits)
        if z == NULL:
            return UWS_E_NOMEM
        d.contexts[window_bits] = z
    elif uws_deflate_reset(z) != Z_OK:
        return UWS_E_NOMEM
    if not _deflate(z, data, len_bytes, d.buf, want, out_len) or out_len[0] >= len_bytes:
        return UWS_DEFLATE_NO_GAIN
    out[0] = d.buf
    return UWS_OK


cdef int deflate_own_run(UwsDeflate* own, const uint8_t* data, size_t len_bytes,
                         uint8_t** take_out, size_t* out_len) noexcept nogil:
    """Compress one message in the connection's own window, which the client's follows: it has to be sent, and
    in the order of these calls, however large it became.

    take_out: a slab block that is the caller's. Written on success only.
    Returns UWS_OK, UWS_DEFLATE_NO_GAIN for an empty message (the window is as it was), UWS_E_NOMEM. After
        UWS_E_NOMEM the next message begins with an empty window, which is always in order.
    """
    # The worst that zlib makes of a message, with little memory, is one eighth more and some (its
    # deflateBound()).
    cdef size_t want = len_bytes + (len_bytes >> 2) + 1024
    cdef uws_z_stream* z = <uws_z_stream*>own.deflater
    cdef uint8_t* buf
    if len_bytes == 0:
        return UWS_DEFLATE_NO_GAIN
    if want < len_bytes:
        return UWS_E_NOMEM
    if z == NULL:
        z = _new_deflater(own.slab, NULL, own.level, own.mem_level, own.server_bits)
        if z == NULL:
            return UWS_E_NOMEM
        own.deflater = z
    buf = <uint8_t*>slab_take(own.slab, want, NULL)
    if buf == NULL:
        return UWS_E_NOMEM
    if not _deflate(z, data, len_bytes, buf, want, out_len):
        slab_give(own.slab, buf)
        uws_deflate_reset(z)
        return UWS_E_NOMEM
    take_out[0] = buf
    return UWS_OK


cdef void deflate_own_forget(UwsDeflate* own) noexcept nogil:
    """The message compressed last is not sent: the next one begins with an empty window, which is always in order."""
    if own.deflater != NULL:
        uws_deflate_reset(<uws_z_stream*>own.deflater)


# ---- a connection's own contexts

cdef UwsDeflate* deflate_own(UwsSlab* slab, const UwsDeflateTerms* terms,
                             const UwsDeflateSettings* settings) noexcept nogil:
    """For a connection that keeps a context on either side. It costs this struct until a message is
    compressed. NULL: out of memory."""
    cdef UwsDeflate* own = <UwsDeflate*>_slab_alloc(slab, 1, sizeof(UwsDeflate))
    if own != NULL:
        memset(own, 0, sizeof(UwsDeflate))
        own.slab = slab
        own.level = settings.level
        own.mem_level = settings.mem_level
        own.server_bits = terms.server_bits
        own.client_bits = terms.client_bits
    return own


cdef void deflate_give(UwsDeflate* own) noexcept nogil:
    """Give all of it back; NULL is nothing."""
    if own == NULL:
        return
    if own.deflater != NULL:
        uws_deflate_end(<uws_z_stream*>own.deflater)
        _free_stream(own.slab, NULL, own.deflater)
    if own.inflater != NULL:
        uws_inflate_end(<uws_z_stream*>own.inflater)
        _free_stream(own.slab, NULL, own.inflater)
    _slab_free(own.slab, own)
