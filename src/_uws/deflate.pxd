# F2. permessage-deflate (RFC 7692): negotiation, compressing a message, bounded inflating of one. Owns zlib's
# contexts and one buffer; takes no lock: whoever calls sees to it that a context has one user at a time.
# Called by proto (inflating), the loop (negotiating, owning contexts), core (compressing).

from libc.stddef cimport size_t
from libc.stdint cimport int8_t, uint8_t, uint32_t, uint64_t

from _uws.slab cimport UwsSlab
from _uws.upgrade cimport UwsUpgrade


cdef enum:
    UWS_DEFLATE_MIN_BITS = 8
    UWS_DEFLATE_MAX_BITS = 15
    UWS_DEFLATE_ANSWER_BYTES = 128    # no answer of deflate_negotiate() is longer
    UWS_INFLATE_SLACK_BYTES = 65536   # memory that inflating takes beyond the limit, at most

# What deflating came to, beside UWS_OK and UWS_E_*.
cdef enum:
    UWS_DEFLATE_NO_GAIN = 1           # compressed it is not smaller: better sent as it is

cdef struct UwsDeflateSettings:
    uint8_t enabled
    int8_t level                      # 0 to 9, -1 for zlib's default
    uint8_t mem_level                 # 1 to 9
    uint8_t server_bits               # the largest windows, 9 to 15
    uint8_t client_bits
    uint8_t server_takeover           # contexts may live from message to message
    uint8_t client_takeover
    uint32_t threshold_bytes          # shorter messages are not worth it

# What was agreed upon with one client.
cdef struct UwsDeflateTerms:
    uint8_t accepted
    uint8_t server_bits               # 8 to 15
    uint8_t client_bits
    uint8_t server_takeover
    uint8_t client_takeover

# Compresses messages whose context is not kept: one for all connections of a loop, a context for each size of
# window that some client asked for, made when first used. Memory comes from malloc.
cdef struct UwsDeflater:
    void* contexts[16]                # by window bits
    uint8_t* buf                      # the message compressed last
    size_t cap_bytes
    size_t held_bytes                 # of the contexts, as malloc rounds them up
    int8_t level
    uint8_t mem_level

# Inflates messages whose context is not kept: one for all connections of a loop.
cdef struct UwsInflater:
    void* context
    size_t held_bytes

# The contexts of one connection that keeps them, each made when it is first used. All of it comes from the
# slab.
cdef struct UwsDeflate:
    UwsSlab* slab
    void* deflater
    void* inflater
    int8_t level
    uint8_t mem_level
    uint8_t server_bits
    uint8_t client_bits


cdef bint deflate_valid(const UwsDeflateSettings* settings) noexcept nogil

cdef size_t deflate_negotiate(const UwsUpgrade* u, const uint8_t* head, const UwsDeflateSettings* settings,
                              UwsDeflateTerms* out_terms, uint8_t* out, size_t cap) noexcept nogil

# The library that was built in, and its version.
cdef const char* deflate_library() noexcept nogil

cdef void deflater_init(UwsDeflater* d, const UwsDeflateSettings* settings) noexcept nogil
cdef void deflater_destroy(UwsDeflater* d) noexcept nogil
cdef int deflater_run(UwsDeflater* d, int window_bits, const uint8_t* data, size_t len_bytes,
                      const uint8_t** out, size_t* out_len) noexcept nogil

cdef void inflater_destroy(UwsInflater* i) noexcept nogil
cdef int inflater_run(UwsInflater* i, UwsSlab* slab, const uint8_t* data, size_t len_bytes,
                      uint64_t limit_bytes, uint8_t** take_out, size_t* out_len) noexcept nogil

cdef UwsDeflate* deflate_own(UwsSlab* slab, const UwsDeflateTerms* terms,
                             const UwsDeflateSettings* settings) noexcept nogil
cdef void deflate_give(UwsDeflate* own) noexcept nogil
cdef int deflate_own_run(UwsDeflate* own, const uint8_t* data, size_t len_bytes,
                         uint8_t** take_out, size_t* out_len) noexcept nogil
cdef void deflate_own_forget(UwsDeflate* own) noexcept nogil
cdef int inflate_own_run(UwsDeflate* own, const uint8_t* data, size_t len_bytes, uint64_t limit_bytes,
                         uint8_t** take_out, size_t* out_len) noexcept nogil


cdef inline uint64_t deflate_wire_limit(uint64_t limit_bytes) noexcept nogil:
    """How long a message of limit_bytes may be on the wire, compressed.

    The worst that an encoder does to bytes that it cannot compress is to code all of them with fixed Huffman
    codes: 9 bits for 8, and a few bytes for each of its blocks and flushes.
    """
    return limit_bytes + (limit_bytes >> 3) + 1024
