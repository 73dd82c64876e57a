# F2. The opening handshake as the client sees it (RFC 6455, section 4.1): key out, the server's response in.
# Owns nothing: UwsOpening is the caller's plain data, without pointers, so head and state may be moved.
# Used by the client's connections (F5) and by the tests' shim.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef enum:
    UWS_OPENING_NONCE_BYTES = 16
    UWS_OPENING_KEY_BYTES = 24        # its base64
    UWS_OPENING_ACCEPT_BYTES = 28

# What is wrong with a response: UwsOpening.fault.
cdef enum UwsFault:
    UWS_FAULT_NONE = 0
    UWS_FAULT_HTTP = 1                # not a response of HTTP/1
    UWS_FAULT_TOO_LONG = 2
    UWS_FAULT_STATUS = 3              # another status than 101: UwsOpening.http_status
    UWS_FAULT_UPGRADE = 4             # 101, but Upgrade or Connection do not say so
    UWS_FAULT_ACCEPT = 5
    UWS_FAULT_EXTENSION = 6           # one that was not offered
    UWS_FAULT_SUBPROTOCOL = 7         # one that was not offered

cdef struct UwsOpening:
    uint32_t pos                      # bytes looked at for the end of the head
    uint32_t head_len                 # its empty line included; 0 until the head is complete
    uint16_t http_status              # 0 until the first line is complete
    uint8_t fault
    uint32_t protocol_off             # the subprotocol, within the head
    uint32_t protocol_len             # 0: none was chosen

# What the client asked for. Borrowed.
cdef struct UwsOffer:
    const uint8_t* protocols          # value of Sec-WebSocket-Protocol; NULL and 0 if none was sent
    size_t protocols_len
    uint32_t max_head_bytes


# The base64 of a nonce: Sec-WebSocket-Key.
cdef void opening_key(const uint8_t* nonce, uint8_t* key) noexcept nogil

cdef int opening_parse(UwsOpening* o, const uint8_t* head, size_t len_bytes, const uint8_t* key,
                       const UwsOffer* offer) noexcept nogil
