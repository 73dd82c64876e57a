# F3. Sans-IO WebSocket connection (RFC 6455, sections 5 to 7; RFC 7692): bytes in, events out. Opens no socket.
# Owns the partial state of a frame or message that is cut by the end of the input (UwsPartial, from the slab).
# Called by the loop, by tests byte by byte, and by fuzzers.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from _uws.deflate cimport UwsDeflate, UwsInflater
from _uws.slab cimport UwsSlab

cdef enum UwsEventKind:
    UWS_EV_OPEN = 1           # the upgrade is done
    UWS_EV_MESSAGE = 2        # one whole message
    UWS_EV_CLOSE = 3          # the connection ends: the last event of a connection
    UWS_EV_PING = 4           # only between proto and the loop, which answers it
    UWS_EV_PONG = 5
    UWS_EV_REQUEST = 6        # the loop's: a request waits for Python's answer
    UWS_EV_FRAGMENT = 7       # bytes of a message that is streamed: what came of it, not a frame as it was cut
    # The loop's, from here on: they bring nothing, and do not line up behind messages.
    UWS_EV_DRAIN = 8          # the send queue has drained
    UWS_EV_RECALL = 9         # a callback that went on elsewhere comes back, before anything else

cdef enum UwsEventFlag:
    UWS_EVF_OWNED = 1         # data is a slab block: whoever consumes the event gives it back
    UWS_EVF_FIRST = 16        # FRAGMENT: the message begins with it
    UWS_EVF_FINAL = 32        # ... ends with it

# UwsProto.msg_opcode, beside the opcode.
cdef enum UwsMessageFlag:
    UWS_P_STREAMED = 0x10     # its bytes leave as they come, and nothing of it is kept
    UWS_P_BEGUN = 0x20        # ... some have left

# UwsProto.flags. The terms are set once, when the connection is upgraded; all zero: nothing was negotiated.
cdef enum UwsProtoFlag:
    UWS_P_WINDOW = 0x0F       # permessage-deflate: the window bits of our deflater; 0: it was not negotiated
    UWS_P_OURS_KEPT = 0x10    # our context lives from message to message
    UWS_P_PEERS_KEPT = 0x20   # the client's does
    UWS_P_TERMS = 0x3F
    UWS_P_DEFLATED = 0x40     # the message that we are inside of is compressed (RSV1 on its first frame)
    UWS_P_DONE = 0x80         # a close frame came in or the protocol was broken: input is ignored

cdef struct UwsEvent:
    uint8_t kind
    uint8_t opcode            # MESSAGE, FRAGMENT: TEXT or BINARY
    uint8_t flags
    uint8_t cause             # CLOSE: UwsCause, set by the loop
    uint16_t code             # CLOSE: close code (1005: none given)
    uint16_t reply_code       # CLOSE: the code that we answer with
    int32_t index             # the slot; set by the loop
    uint32_t generation
    uint8_t* data             # payload, or the reason of a close
    size_t len_bytes

# 192 bytes, a size class of the slab.
cdef struct UwsPartial:
    UwsProto* owner
    UwsPartial* newer         # ring of all that keep a message, by when they last grew; behind the newest: the stalest
    UwsPartial* older
    uint8_t* buf              # the message so far, from the slab; NULL: nothing yet
    size_t len_bytes          # of the message so far, kept or streamed
    size_t cap_bytes
    uint64_t frame_left       # payload bytes of the current frame still to come
    uint32_t mask_key         # turned to where the current payload goes on
    uint32_t fragments        # frames of the message so far
    uint8_t in_frame
    uint8_t first             # the current frame's first byte: FIN and opcode
    uint8_t room_len
    uint8_t room[125]         # in a frame: payload of a control frame; between two: a header that was cut

# 16 bytes, in the connection's slot; all zero is an open connection, nothing negotiated and nothing pending.
cdef struct UwsProto:
    UwsPartial* part          # NULL between messages
    uint32_t heard            # the loop's: when input last came
    uint8_t flags             # UwsProtoFlag
    uint8_t msg_opcode        # of the fragmented message we are inside of, and UwsMessageFlag; 0 outside
    uint8_t utf8              # utf8_feed's state
    uint8_t spare             # the loop's

cdef struct UwsProtoEnv:
    UwsSlab* slab
    uint64_t max_message_bytes
    uint64_t max_stream_bytes  # of a message that is streamed, instead
    uint32_t max_fragments    # of one that is not
    uint8_t stream            # messages that begin now are streamed, but for compressed ones
    size_t partial_bytes      # of all incomplete frames and messages, as the slab rounds them up
    UwsPartial* stalest       # the one that has not grown for longest; NULL: there are none
    UwsInflater inflater      # for messages whose sender keeps no context
    UwsDeflate* own           # the contexts of the connection that is fed; NULL: it keeps none
    uint64_t work_bytes       # what inflating had to look at, with what it wrote in vain; the caller resets it
    uint64_t inflated         # messages so far, their bytes as they came and as they are
    uint64_t inflated_from_bytes
    uint64_t inflated_bytes
    uint8_t scratch[125]      # payload of a control frame that came in pieces

cdef enum:
    # The shortest masked frame is 6 bytes: no input can make more events than this.
    UWS_MIN_FRAME_BYTES = 6

cdef int proto_feed(UwsProto* p, UwsProtoEnv* env, uint8_t* data, size_t len_bytes,
                    UwsEvent* out, int* n_out) noexcept nogil
cdef void proto_reset(UwsProto* p, UwsProtoEnv* env) noexcept nogil

# The incomplete message of p, which is in the ring, counts as one that has just grown.
cdef void proto_renew(UwsProto* p, UwsProtoEnv* env) noexcept nogil

# Whose incomplete message has not grown for longest; NULL: nobody's is incomplete. Nothing is refused here
# for what all of them hold together (env.partial_bytes): whoever sets a budget ends these until it is kept.
cdef inline UwsProto* proto_stalest(const UwsProtoEnv* env) noexcept nogil:
    return env.stalest.owner if env.stalest != NULL else NULL
