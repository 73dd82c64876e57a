# F3. Sans-IO WebSocket connection (RFC 6455, sections 5 to 7): bytes in, events out. Opens no socket, reads no clock.
# Owns the partial state of a frame or message that is cut by the end of the input (UwsPartial, from the slab).
# Called by the loop, by tests byte by byte, and by fuzzers.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from _uws.slab cimport UwsSlab

cdef enum UwsEventKind:
    UWS_EV_OPEN = 1           # the upgrade is done
    UWS_EV_MESSAGE = 2        # one whole message
    UWS_EV_CLOSE = 3          # the connection ends: the last event of a connection
    UWS_EV_PING = 4           # only between proto and the loop, which answers it
    UWS_EV_PONG = 5

cdef enum UwsEventFlag:
    UWS_EVF_OWNED = 1         # data is a slab block: whoever consumes the event gives it back

cdef enum UwsPhase:
    UWS_P_OPEN = 0
    UWS_P_DONE = 1            # a close frame came in or the protocol was broken: input is ignored

cdef struct UwsEvent:
    uint8_t kind
    uint8_t opcode            # MESSAGE: TEXT or BINARY
    uint8_t flags
    uint8_t cause             # CLOSE: UwsCause, set by the loop
    uint16_t code             # CLOSE: close code (1005: none given)
    uint16_t reply_code       # CLOSE: the code that we answer with
    int32_t index             # the slot; set by the loop
    uint32_t generation
    uint8_t* data             # payload, or the reason of a close
    size_t len_bytes

cdef struct UwsPartial:
    uint8_t* buf              # the message so far, from the slab; NULL: nothing yet
    size_t len_bytes
    size_t cap_bytes
    uint64_t frame_left       # payload bytes of the current frame still to come
    uint32_t mask_key
    uint32_t phase            # bytes of the current payload consumed, for the mask (mod 4 matters)
    uint8_t in_frame
    uint8_t opcode            # of the current frame
    uint8_t fin
    uint8_t head_len          # bytes of a cut header in head
    uint8_t ctl_len
    uint8_t head[14]
    uint8_t ctl[125]

# 16 bytes, in the connection's slot; all zero is an open connection with nothing pending.
cdef struct UwsProto:
    UwsPartial* part          # NULL between messages
    uint32_t fragments        # frames of the message so far
    uint8_t phase
    uint8_t msg_opcode        # of the fragmented message we are inside of; 0 outside
    uint8_t utf8              # utf8_feed's state
    uint8_t spare

cdef struct UwsProtoEnv:
    UwsSlab* slab
    uint64_t max_message_bytes
    uint32_t max_fragments
    uint8_t scratch[125]      # payload of a control frame that came in pieces

cdef enum:
    # The shortest masked frame is 6 bytes: no input can make more events than this.
    UWS_MIN_FRAME_BYTES = 6

cdef int proto_feed(UwsProto* p, UwsProtoEnv* env, uint8_t* data, size_t len_bytes,
                    UwsEvent* out, int* n_out) noexcept nogil
cdef void proto_reset(UwsProto* p, UwsProtoEnv* env) noexcept nogil
