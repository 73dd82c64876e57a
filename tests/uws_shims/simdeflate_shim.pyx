# See simdeflate_shim.pxd.

from libc.string cimport memcmp, memcpy

cdef extern from "zlib_any.h" nogil:
    ctypedef struct uws_z_stream:
        const uint8_t* next_in
        unsigned int avail_in
        uint8_t* next_out
        unsigned int avail_out
    int Z_OK
    int Z_BUF_ERROR
    int Z_SYNC_FLUSH
    int Z_DEFAULT_STRATEGY
    void uws_z_prepare(uws_z_stream*, void*, void*, void*)
    int uws_deflate_init(uws_z_stream*, int, int, int, int)
    int uws_inflate_init(uws_z_stream*, int)
    int uws_deflate(uws_z_stream*, int)
    int uws_inflate(uws_z_stream*, int)
    int uws_deflate_reset(uws_z_stream*)
    int uws_inflate_reset(uws_z_stream*)
    void uws_deflate_end(uws_z_stream*)
    void uws_inflate_end(uws_z_stream*)

cdef enum:
    CLIENTS = 16

# What a message's end is cut off from, section 7.2.1.
cdef const uint8_t* TAIL = b"\0\0\xff\xff"

cdef struct Contexts:
    bint is_there
    PeerTerms terms
    uws_z_stream ours
    uws_z_stream theirs

cdef Contexts CONTEXTS[CLIENTS]


cdef bint deflates_begin(int client, const PeerTerms* terms) noexcept nogil:
    cdef Contexts* it = &CONTEXTS[client]
    uws_z_prepare(&it.ours, NULL, NULL, NULL)
    uws_z_prepare(&it.theirs, NULL, NULL, NULL)
    it.terms = terms[0]
    # zlib makes no stream with a window of 256 bytes; level 0 keeps to any.
    if uws_deflate_init(&it.ours, 6 if terms.client_bits > 8 else 0, max(terms.client_bits, <uint8_t>9), 8,
                        Z_DEFAULT_STRATEGY) != Z_OK:
        return False
    if uws_inflate_init(&it.theirs, terms.server_bits) != Z_OK:
        uws_deflate_end(&it.ours)
        return False
    it.is_there = True
    return True


cdef void deflates_end() noexcept nogil:
    cdef int i
    for i in range(CLIENTS):
        if CONTEXTS[i].is_there:
            uws_deflate_end(&CONTEXTS[i].ours)
            uws_inflate_end(&CONTEXTS[i].theirs)
            CONTEXTS[i].is_there = False


cdef uint32_t deflates(int client, const uint8_t* data, uint32_t n, uint8_t* out, uint32_t cap) noexcept nogil:
    cdef uws_z_stream* z = &CONTEXTS[client].ours
    cdef uint32_t made
    if n == 0:
        # An empty block, section 7.2.3.6. zlib flushes nothing a second time.
        out[0] = 0
        return 1
    z.next_in = data
    z.avail_in = n
    z.next_out = out
    z.avail_out = cap
    if uws_deflate(z, Z_SYNC_FLUSH) != Z_OK or z.avail_in != 0 or z.avail_out == 0:
        return 0
    made = cap - z.avail_out
    if made < 4 or memcmp(out + made - 4, TAIL, 4) != 0:
        return 0
    if CONTEXTS[client].terms.client_resets and uws_deflate_reset(z) != Z_OK:
        return 0
    return made - 4


cdef uint32_t inflates(int client, uint8_t* data, uint32_t n, uint8_t* out, uint32_t cap) noexcept nogil:
    """data: with room for four bytes more."""
    cdef uws_z_stream* z = &CONTEXTS[client].theirs
    cdef int status
    memcpy(data + n, TAIL, 4)
    z.next_in = data
    z.avail_in = n + 4
    z.next_out = out
    z.avail_out = cap
    status = uws_inflate(z, Z_SYNC_FLUSH)
    if (status != Z_OK and status != Z_BUF_ERROR) or z.avail_in != 0 or z.avail_out == 0:
        return 0
    if CONTEXTS[client].terms.server_resets and uws_inflate_reset(z) != Z_OK:
        return 0
    return cap - z.avail_out
