# F2. Frames on the wire: decode and encode headers, the RFC's rules on them, the body of close frames.
# Owns nothing and keeps no state; F3 calls it (RFC 6455, sections 5 and 7.4).

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from _uws.errs cimport UWS_E_PROTOCOL, UWS_OK


cdef enum UwsOpcode:
    UWS_OP_CONTINUATION = 0x0
    UWS_OP_TEXT = 0x1
    UWS_OP_BINARY = 0x2
    UWS_OP_CLOSE = 0x8
    UWS_OP_PING = 0x9
    UWS_OP_PONG = 0xA


cdef enum:
    UWS_RSV1 = 4                      # as in UwsFrame.rsv, rsv_allowed and frame_head()
    UWS_RSV2 = 2
    UWS_RSV3 = 1
    UWS_MAX_CONTROL_BYTES = 125       # payload of a control frame (section 5.5)
    UWS_MAX_REASON_BYTES = 123        # what a close code leaves of it
    UWS_MAX_HEAD_BYTES = 10           # header of a frame that we send: unmasked
    UWS_MAX_MASKED_HEAD_BYTES = 14    # header of a frame that a client sends
    UWS_CLOSE_FRAME_BYTES = 127       # the longest close frame that we send


cdef struct UwsFrame:
    uint64_t payload_len
    uint32_t mask_key                 # as mask_apply() wants it; 0 if not masked
    uint8_t fin
    uint8_t rsv                       # UWS_RSV1 | UWS_RSV2 | UWS_RSV3
    uint8_t opcode
    uint8_t masked
    uint8_t header_len


# Decode one header: its size, 2..14; 0 if more is needed; UWS_E_PROTOCOL; UWS_E_TOO_BIG. A length that is
# refused is refused as soon as it is there, before the key is. max_payload_bytes is the limit for this frame:
# control frames are bounded by frame_check(), not by the message limit.
cdef int frame_decode(const uint8_t* data, size_t len_bytes, uint64_t max_payload_bytes,
                      UwsFrame* out) noexcept nogil


cdef inline int frame_check(uint8_t b0, uint8_t b1, int in_message, int rsv_allowed) noexcept nogil:
    """Apply the RFC's rules to the first two bytes of a client's frame.

    in_message: a message has begun and has not ended.
    rsv_allowed: reserved bits that an extension has claimed for the first frame of a message.
    Returns UWS_OK or UWS_E_PROTOCOL.
    """
    cdef unsigned int opcode = b0 & 0x0F
    cdef unsigned int open_ = in_message != 0
    cdef unsigned int control = opcode >> 3
    cdef unsigned int first = 0x0006 >> opcode & 1
    cdef unsigned int not_final = b0 >> 7 ^ 1
    cdef unsigned int reserved = b0 >> 4 & 7
    # One term a rule, no branches: an honest frame passes all of them.
    cdef unsigned int broken = (
        # 5.1: a client masks every frame; the server closes when one is not.
        (b1 >> 7 ^ 1)
        # 5.2: reserved bits are zero unless an extension gave them a meaning, and 7692 6.1 gives RSV1 one on
        # the first frame of a data message only, never on a continuation, never on a control frame.
        | (reserved & ~(<unsigned int>rsv_allowed & (0 - first)))
        # 5.2: opcodes 3 to 7 and 11 to 15 are reserved.
        | (0xF8F8 >> opcode & 1)
        # 5.4: a continuation continues something.
        | ((opcode == 0) & (open_ ^ 1))
        # 5.4: the frames of two messages are not interleaved.
        | (first & open_)
        # 5.5: control frames are not fragmented ...
        | (control & not_final)
        # 5.5: ... and carry at most 125 bytes: neither of the longer length forms.
        | (control & ((b1 & 0x7F) > UWS_MAX_CONTROL_BYTES))
    )
    return UWS_E_PROTOCOL if broken else UWS_OK


cdef inline size_t frame_head(uint8_t* out, int opcode, int fin, int rsv,
                              uint64_t payload_len) noexcept nogil:
    """Write the header of a frame from the server: not masked, the shortest length form.

    out: room for UWS_MAX_HEAD_BYTES.
    Returns its size: 2, 4 or 10.
    """
    cdef int i
    out[0] = <uint8_t>((0x80 if fin else 0) | (rsv & 7) << 4 | (opcode & 0x0F))
    if payload_len <= 125:
        out[1] = <uint8_t>payload_len
        return 2
    if payload_len <= 0xFFFF:
        out[1] = 126
        out[2] = <uint8_t>(payload_len >> 8)
        out[3] = <uint8_t>payload_len
        return 4
    out[1] = 127
    for i in range(8):
        out[2 + i] = <uint8_t>(payload_len >> (56 - 8 * i))
    return 10


# Whether a close frame that we receive may carry this code.
cdef int close_code_valid(uint32_t code) noexcept nogil

# Read the body of a close frame: UWS_OK and its code (1005 if it has none), UWS_E_PROTOCOL, UWS_E_UTF8.
cdef int close_parse(const uint8_t* body, size_t len_bytes, uint16_t* code) noexcept nogil

# Write a whole close frame into out (UWS_CLOSE_FRAME_BYTES) and return its size.
# Code 1005 gives an empty body. A reason that does not fit is cut where a character ends.
cdef size_t close_frame(uint8_t* out, uint16_t code, const uint8_t* reason, size_t reason_len) noexcept nogil
