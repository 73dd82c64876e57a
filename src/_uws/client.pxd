# F3. Sans-IO WebSocket client (RFC 6455, sections 5 to 7): bytes from a server in, pieces of messages out; the heads
# of the frames that a client sends. Opens no socket, and keeps of what came only a header or a control frame that
# was cut (UwsCut, from the slab): messages are collected, or looked at as they come, by whoever calls.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from _uws.frame cimport UWS_MAX_MASKED_HEAD_BYTES, frame_head
from _uws.slab cimport UwsSlab

cdef enum UwsPieceKind:
    UWS_PIECE_DATA = 1        # some of a message
    UWS_PIECE_PING = 2
    UWS_PIECE_PONG = 3
    UWS_PIECE_CLOSE = 4       # the last one

# One thing that a server said. data lies in what was handed in, or in the client's UwsCut: it is right until the
# next call.
cdef struct UwsPiece:
    uint8_t kind
    uint8_t opcode            # DATA: of the message, TEXT or BINARY
    uint8_t first             # DATA: the message begins with it
    uint8_t last              # ... ends with it
    uint16_t code             # CLOSE: 1005 if it has none
    const uint8_t* data       # CLOSE: the reason
    size_t len_bytes

# A header, or a control frame, whose end has not come yet. A size class of the slab.
cdef struct UwsCut:
    uint8_t head[14]
    uint8_t head_len
    uint8_t payload_len
    uint8_t payload[125]

# 24 bytes; all zero is a connection that was opened just now. What is cut is rare: idle or busy, part is NULL mostly.
cdef struct UwsClient:
    UwsCut* part
    uint64_t left             # payload bytes of the data frame that we are in
    uint8_t opcode            # of the message that we are in; 0: none
    uint8_t fin               # of the frame that we are in
    uint8_t in_frame
    uint8_t begun             # something of the message has been handed out
    uint8_t utf8              # utf8_feed's state
    uint8_t check_utf8        # whether text is validated here; whoever compares it with what is known need not ask
    uint8_t done              # a close frame came or a rule was broken: what follows is ignored

cdef int client_next(UwsClient* c, UwsSlab* slab, const uint8_t** data, size_t* len_bytes,
                     UwsPiece* out) noexcept nogil
cdef void client_reset(UwsClient* c, UwsSlab* slab) noexcept nogil


cdef inline size_t client_head(uint8_t* out, int opcode, int fin, uint64_t payload_len, uint32_t key) noexcept nogil:
    """Write the header of a frame from a client: masked (RFC 6455, section 5.3), the shortest length form.

    out: room for UWS_MAX_MASKED_HEAD_BYTES.
    key: unpredictable, and another one for each frame; as mask_copy() wants it.
    Returns its size: 6, 8 or 14.
    """
    cdef size_t n = frame_head(out, opcode, fin, 0, payload_len)
    out[1] |= 0x80
    memcpy(out + n, &key, 4)
    return n + 4
