# F6. The kernels of F1 and F2 for Python: frame headers, masking, UTF-8, close codes; for `unlimitedws.ws`.
# Owns nothing and knows no connection. Whoever has bytes may call it, from any thread.

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from _uws.errs cimport UWS_OK
from _uws.frame cimport UWS_MAX_HEAD_BYTES, UwsFrame, close_code_valid, frame_decode, frame_head
from _uws.mask cimport mask_apply, mask_copy, mask_key
from _uws.utf8 cimport utf8_feed

cdef enum:
    # Above it others may compute meanwhile. It takes some 20 us; getting the GIL back from a busy thread may take
    # 5 ms.
    ALONE_BYTES = 262144


cdef uint32_t _key(object key) except? 0:
    """The four bytes of a key, from any buffer."""
    cdef Py_buffer view
    cdef uint32_t value
    PyObject_GetBuffer(key, &view, PyBUF_SIMPLE)
    try:
        if view.len != 4:
            raise ValueError(f"a masking key has 4 bytes, not {view.len}")
        value = mask_key(<const uint8_t*>view.buf)
    finally:
        PyBuffer_Release(&view)
    return value


cdef inline size_t _phase(object offset) except? 0:
    # An int of any size: the key repeats every four bytes.
    return <size_t>(offset & 3)


def decode_header(data, Py_ssize_t offset=0):
    """Decode the header at offset. See wire.pyi."""
    cdef Py_buffer view
    cdef UwsFrame f
    cdef int size
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if not 0 <= offset <= view.len:
            raise ValueError(f"offset {offset} is not within the {view.len} bytes")
        size = frame_decode(<const uint8_t*>view.buf + offset, <size_t>(view.len - offset), <uint64_t>-1, &f)
    finally:
        PyBuffer_Release(&view)
    if size == 0:
        return None
    if size < 0:
        # Without a limit of ours this is all that a header by itself can do wrong.
        raise ProtocolError(1002, "a length that is not written in the shortest form, or is 2**63 and more")
    return (
        f.opcode, f.payload_len, f.fin != 0, f.rsv, (<const char*>&f.mask_key)[:4] if f.masked else None
    )


def encode_header(int opcode, length, bint fin, int rsv, key):
    """Encode a header. See wire.pyi."""
    cdef uint8_t[UWS_MAX_HEAD_BYTES + 4] out
    cdef size_t size
    cdef uint32_t word
    if not 0 <= opcode <= 15:
        raise ValueError(f"an opcode has 4 bits: {opcode}")
    if not 0 <= rsv <= 7:
        raise ValueError(f"the reserved bits are 3: {rsv}")
    if not 0 <= length < 1 << 63:
        raise ValueError(f"a length is from 0 to 2**63 - 1: {length}")
    size = frame_head(out, opcode, fin, rsv, length)
    if key is not None:
        word = _key(key)
        out[1] |= 0x80
        out[size] = (<uint8_t*>&word)[0]
        out[size + 1] = (<uint8_t*>&word)[1]
        out[size + 2] = (<uint8_t*>&word)[2]
        out[size + 3] = (<uint8_t*>&word)[3]
        size += 4
    return (<char*>out)[:size]


def masked(data, key, offset=0):
    """Return a masked copy. See wire.pyi."""
    cdef uint32_t word = _key(key)
    cdef size_t phase = _phase(offset), n
    cdef Py_buffer view
    cdef bytes out
    cdef uint8_t* to
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        n = <size_t>view.len
        out = PyBytes_FromStringAndSize(NULL, view.len)
        to = <uint8_t*>PyBytes_AS_STRING(out)
        if n <= ALONE_BYTES:
            mask_copy(to, <const uint8_t*>view.buf, n, word, phase)
        else:
            with nogil:
                mask_copy(to, <const uint8_t*>view.buf, n, word, phase)
    finally:
        PyBuffer_Release(&view)
    return out


def mask_in_place(data, key, offset=0):
    """Mask a writable buffer. See wire.pyi."""
    cdef uint32_t word = _key(key)
    cdef size_t phase = _phase(offset), n
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_WRITABLE)
    try:
        n = <size_t>view.len
        if n <= ALONE_BYTES:
            mask_apply(<uint8_t*>view.buf, n, word, phase)
        else:
            with nogil:
                mask_apply(<uint8_t*>view.buf, n, word, phase)
    finally:
        PyBuffer_Release(&view)


def is_utf8(data):
    """Whether data is UTF-8. See wire.pyi."""
    cdef Py_buffer view
    cdef uint8_t state = 0
    cdef int status
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        status = utf8_feed(&state, <const uint8_t*>view.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)
    return status == UWS_OK and state == 0


def may_close_with(code):
    """Whether a close frame may carry this code. See wire.pyi."""
    return 0 <= code <= 0xFFFF and close_code_valid(code) != 0


# At the end, when every name of this module is there: the package `unlimitedws` takes them from here.
from unlimitedws.errors import ProtocolError
