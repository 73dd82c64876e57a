# F2. Frames on the wire: decode headers, read and write close frames. The hot rest is inline in frame.pxd.
# Owns nothing and keeps no state; F3 calls it (RFC 6455, sections 5 and 7.4).

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from _uws.errs cimport UWS_E_PROTOCOL, UWS_E_TOO_BIG, UWS_E_UTF8, UWS_OK
from _uws.mask cimport mask_key
from _uws.utf8 cimport utf8_feed


cdef int frame_decode(const uint8_t* data, size_t len_bytes, uint64_t max_payload_bytes,
                      UwsFrame* out) noexcept nogil:
    """Decode one frame header (RFC 6455, section 5.2).

    data, len_bytes: readable bytes; the payload need not be among them.
    max_payload_bytes: of this frame; compared as uint64 before any cast.
    out: written on success only; borrows nothing from data.
    Returns the header's size, 2..14 bytes; 0 if more is needed;
        UWS_E_PROTOCOL (1002) if the length has its top bit set or is not minimal;
        UWS_E_TOO_BIG (1009) if it exceeds the limit.
    Which bits and opcodes are in order is frame_check()'s to say, as soon as two bytes are there.
    """
    cdef uint64_t payload_len
    cdef size_t header_len = 2
    cdef size_t i
    cdef uint32_t key = 0
    if len_bytes < 2:
        return 0
    payload_len = data[1] & 0x7F
    if payload_len == 126:
        header_len = 4
        if len_bytes < header_len:
            return 0
        payload_len = <uint64_t>data[2] << 8 | data[3]
        if payload_len < 126:
            return UWS_E_PROTOCOL
    elif payload_len == 127:
        # The top bit is in the first of the eight: no need to wait for the others.
        if len_bytes > 2 and data[2] & 0x80:
            return UWS_E_PROTOCOL
        header_len = 10
        if len_bytes < header_len:
            return 0
        payload_len = 0
        for i in range(2, 10):
            payload_len = payload_len << 8 | data[i]
        if payload_len <= 0xFFFF:
            return UWS_E_PROTOCOL
    if payload_len > max_payload_bytes:
        return UWS_E_TOO_BIG
    if data[1] & 0x80:
        if len_bytes - header_len < 4:
            return 0
        key = mask_key(data + header_len)
        header_len += 4
    out.payload_len = payload_len
    out.mask_key = key
    out.fin = data[0] >> 7
    out.rsv = data[0] >> 4 & 7
    out.opcode = data[0] & 0x0F
    out.masked = data[1] >> 7
    out.header_len = <uint8_t>header_len
    return <int>header_len


cdef int close_code_valid(uint32_t code) noexcept nogil:
    """Whether a close frame that we receive may carry this code."""
    # 1000-1003, 1007-1011: RFC 6455, section 7.4.1. 1012-1014 (restart, try again later, bad gateway) stand
    # only in IANA's registry of close codes, which that section lets grow. 1004 is reserved; 1005, 1006 and
    # 1015 name what never is on the wire. 3000-3999 are registered by libraries, 4000-4999 anybody's (section
    # 7.4.2).
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


cdef int close_parse(const uint8_t* body, size_t len_bytes, uint16_t* code) noexcept nogil:
    """Read the body of a close frame (RFC 6455, sections 5.5.1 and 7.1.5).

    code: written on success only; 1005 if the body is empty.
    Returns UWS_OK; UWS_E_PROTOCOL for one byte, more than 125, or a code that must not be sent;
        UWS_E_UTF8 for a reason that is no UTF-8.
    """
    cdef uint32_t said
    cdef uint8_t state = 0
    if len_bytes == 0:
        code[0] = 1005
        return UWS_OK
    if len_bytes == 1 or len_bytes > UWS_MAX_CONTROL_BYTES:
        return UWS_E_PROTOCOL
    said = <uint32_t>body[0] << 8 | body[1]
    if not close_code_valid(said):
        return UWS_E_PROTOCOL
    if utf8_feed(&state, body + 2, len_bytes - 2) != UWS_OK or state != 0:
        return UWS_E_UTF8
    code[0] = <uint16_t>said
    return UWS_OK


cdef size_t close_frame(uint8_t* out, uint16_t code, const uint8_t* reason, size_t reason_len) noexcept nogil:
    """Write a whole close frame, not masked (RFC 6455, section 5.5.1).

    out: room for UWS_CLOSE_FRAME_BYTES.
    code: 1005 stands for "no code": the body is empty then, and the reason is not sent.
    reason: valid UTF-8; may be NULL if reason_len is 0. Cut where a character ends if it exceeds 123 bytes.
    Returns the frame's size.
    """
    cdef size_t head
    if code == 1005:
        return frame_head(out, UWS_OP_CLOSE, 1, 0, 0)
    if reason_len > UWS_MAX_REASON_BYTES:
        reason_len = UWS_MAX_REASON_BYTES
        # reason[reason_len] is the first byte that stays behind: while it continues a character, that one
        # goes too.
        while reason_len and reason[reason_len] & 0xC0 == 0x80:
            reason_len -= 1
    head = frame_head(out, UWS_OP_CLOSE, 1, 0, 2 + reason_len)
    out[head] = <uint8_t>(code >> 8)
    out[head + 1] = <uint8_t>code
    if reason_len:
        memcpy(out + head + 2, reason, reason_len)
    return head + 2 + reason_len
