# F2. The opening handshake (RFC 6455, section 4.2): HTTP/1.1 request head in, decision and response out.
# Owns nothing: UwsUpgrade is the caller's plain data, without pointers, so head and state may be moved.
# Used by the loop (F5), by core (F6) for the spans, and by the tests' shim.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef enum:
    UWS_UPGRADE_KEY_BYTES = 24        # Sec-WebSocket-Key: the base64 of 16 bytes
    UWS_UPGRADE_ACCEPT_BYTES = 28     # Sec-WebSocket-Accept: the base64 of 20 bytes
    UWS_UPGRADE_MAX_PROTOCOLS = 64    # subprotocols offered; more gets 431


cdef struct UwsSpan:
    # A part of the request head, counted from the head's first byte: stays right when the buffer moves.
    uint32_t off
    uint32_t len


cdef struct UwsUpgradeLimits:
    uint32_t max_head_bytes    # first byte to the empty line's LF
    uint32_t max_fields
    uint32_t max_line_bytes    # request line or field line, without its CRLF


cdef struct UwsUpgrade:
    uint32_t pos               # next byte to look at
    uint32_t line_start
    uint32_t mark              # where the part being read began: target, version, field name, field value
    uint32_t head_len          # bytes of the head, its empty line included; 0 until the head is complete
    uint32_t looked            # bytes examined, re-reading included: shows that the work is linear
    int status                 # the answer, once there is one; UWS_MORE until then
    UwsSpan method
    UwsSpan target
    UwsSpan host               # of Host, or of the target if that is absolute (RFC 9112, section 3.2.2)
    UwsSpan origin             # len 0: none
    UwsSpan protocol           # value of the first Sec-WebSocket-Protocol; len 0: none or empty
    UwsSpan extensions         # value of the first Sec-WebSocket-Extensions; len 0: none or empty
    uint32_t fields
    uint16_t seen              # which fields were there and what they said; bits private to upgrade.pyx
    uint8_t state
    uint8_t field              # which of the fields that matter is being read
    uint8_t is_plain_get       # with UWS_E_HTTP_426: valid HTTP that never asked for a WebSocket
    uint8_t key[24]


cdef void upgrade_init(UwsUpgrade* u) noexcept nogil

cdef int upgrade_parse(UwsUpgrade* u, const uint8_t* head, size_t len_bytes,
                       const UwsUpgradeLimits* limits) noexcept nogil

cdef bint upgrade_next_value(const UwsUpgrade* u, const uint8_t* head, const char* name, uint32_t* begin,
                             uint32_t* end) noexcept nogil

# All subprotocols offered, in the client's order, in all their fields: how many.
cdef int upgrade_protocols(const UwsUpgrade* u, const uint8_t* head, UwsSpan* found) noexcept nogil

cdef int upgrade_target(const UwsUpgrade* u, const uint8_t* head,
                        UwsSpan* path, UwsSpan* query) noexcept nogil
