"""Window on _uws.frame."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from time import perf_counter_ns

from _uws.errs cimport UWS_E_PROTOCOL, UWS_E_TOO_BIG, UWS_E_UTF8, UWS_OK
from _uws.frame cimport (
    UWS_CLOSE_FRAME_BYTES, UWS_MAX_HEAD_BYTES, UwsFrame, close_code_valid, close_frame, close_parse,
    frame_check, frame_decode, frame_head,
)

OK = UWS_OK
E_PROTOCOL = UWS_E_PROTOCOL
E_UTF8 = UWS_E_UTF8
E_TOO_BIG = UWS_E_TOO_BIG


def decode(const unsigned char[::1] data, uint64_t max_payload_bytes=<uint64_t>-1):
    """(status, fields), fields None unless the header is whole; out is written on success only."""
    cdef UwsFrame out
    out.payload_len = 0xABCD
    out.mask_key = 0xABCD
    out.fin = out.rsv = out.opcode = out.masked = out.header_len = 0xAB
    status = frame_decode(&data[0] if data.shape[0] else NULL, <size_t>data.shape[0], max_payload_bytes, &out)
    if status <= 0:
        assert out.payload_len == 0xABCD and out.mask_key == 0xABCD
        assert out.fin == out.rsv == out.opcode == out.masked == out.header_len == 0xAB
        return status, None
    key = (<uint8_t*>&out.mask_key)[:4]
    return status, (out.fin, out.rsv, out.opcode, out.masked, out.payload_len, key, out.header_len)


def check(int b0, int b1, int in_message, int rsv_allowed):
    return frame_check(<uint8_t>b0, <uint8_t>b1, in_message, rsv_allowed)


def check_all(int b0, int in_message, int rsv_allowed):
    """The verdict for every second byte: 1 where the frame is in order."""
    cdef int b1
    out = bytearray(256)
    for b1 in range(256):
        status = frame_check(<uint8_t>b0, <uint8_t>b1, in_message, rsv_allowed)
        assert status in (UWS_OK, UWS_E_PROTOCOL)
        out[b1] = 1 if status == UWS_OK else 0
    return bytes(out)


def head(int opcode, int fin, int rsv, uint64_t payload_len):
    cdef uint8_t[UWS_MAX_HEAD_BYTES + 2] out
    out[UWS_MAX_HEAD_BYTES] = out[UWS_MAX_HEAD_BYTES + 1] = 0xA5
    size = frame_head(out, opcode, fin, rsv, payload_len)
    assert out[UWS_MAX_HEAD_BYTES] == out[UWS_MAX_HEAD_BYTES + 1] == 0xA5
    return out[:size]


def code_valid(uint32_t code):
    return close_code_valid(code) != 0


def parse_close(const unsigned char[::1] body):
    """(status, code), code None unless the status is OK"""
    cdef uint16_t code = 0xABCD
    status = close_parse(&body[0] if body.shape[0] else NULL, <size_t>body.shape[0], &code)
    if status != UWS_OK:
        assert code == 0xABCD
        return status, None
    return status, code


def write_close(uint16_t code, const unsigned char[::1] reason):
    cdef uint8_t[UWS_CLOSE_FRAME_BYTES + 2] out
    out[UWS_CLOSE_FRAME_BYTES] = out[UWS_CLOSE_FRAME_BYTES + 1] = 0xA5
    size = close_frame(out, code, &reason[0] if reason.shape[0] else NULL, <size_t>reason.shape[0])
    assert out[UWS_CLOSE_FRAME_BYTES] == out[UWS_CLOSE_FRAME_BYTES + 1] == 0xA5
    return out[:size]


def time_ns(const unsigned char[::1] header, size_t rounds):
    """Nanoseconds for this many decoded headers, each with the rules applied to it."""
    cdef UwsFrame out
    cdef size_t _
    cdef int status = 0
    cdef const uint8_t* data = &header[0]
    cdef size_t n = <size_t>header.shape[0]
    started = perf_counter_ns()
    with nogil:
        for _ in range(rounds):
            status |= frame_decode(data, n, <uint64_t>-1, &out) <= 0
            status |= frame_check(data[0], data[1], 0, 0)
    elapsed = perf_counter_ns() - started
    assert status == 0
    return elapsed
