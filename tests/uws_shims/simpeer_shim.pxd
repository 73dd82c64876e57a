# A client of the simulation: a script of what it sends and how it reads, and a decoder of its own for what comes.
# Owned by sim_shim, which writes down in it what the application has been told and has sent.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from uws_shims.simkernel cimport SimKernel

cdef enum:
    PEER_MESSAGES = 32            # at most
    PEER_LONGEST_BYTES = 20000
    PEER_OUT_BYTES = 65536        # of what it has composed and not sent: one message with its pings
    DISTRUSTED = 3000             # close code of a credential's end

cdef enum PeerPhase:
    PEER_TO_COME = 0
    PEER_HERE = 1
    PEER_GONE = 2

# How it begins.
cdef enum PeerRequest:
    ASKS_WELL = 0
    ASKS_PLAINLY = 1              # a GET that is no upgrade
    ASKS_WRONGLY = 2              # no key
    ASKS_NONSENSE = 3
    ASKS_AT_LENGTH = 4            # a head above the limit
    ASKS_HALF = 5                 # and says no more
    ASKS_UNNAMED = 6              # well, but without the PROXY header, or with a broken one

# The PROXY header before it.
cdef enum PeerHeader:
    NAMED_NOT = 0
    NAMED_IN_TEXT = 1             # version 1
    NAMED_IN_BYTES = 2            # version 2, perhaps with fields behind the address
    NAMED_AS_ITSELF = 3           # version 2: the proxy speaks for itself
    NAMED_WRONGLY = 4

# How it ends when its messages are sent.
cdef enum PeerFinale:
    ENDS_CLOSING = 0              # with a close frame
    ENDS_WAITING = 1              # not at all: that is for the server
    ENDS_FIN = 2                  # still reading
    ENDS_LEAVING = 3
    ENDS_RESET = 4
    ENDS_WRONG = 5                # with a frame that breaks the protocol

cdef struct Peer:
    int id
    uint8_t phase
    uint64_t next_us              # before that it does nothing
    # the script
    uint8_t request
    uint8_t header                # PeerHeader
    uint8_t offers                # permessage-deflate, one of four ways; 0: it does not
    uint8_t finale
    uint8_t is_eager              # does not wait for the 101
    uint8_t answers_pings
    uint8_t answers_close
    uint8_t chats                 # pings and pongs between its messages: one in so many; 0: none
    uint8_t splits                # messages in several frames: the same
    uint8_t abandons              # its last message never ends
    uint32_t messages
    uint32_t longest_bytes
    uint32_t stops_at             # bytes after which it ends, in the middle of whatever that is
    uint32_t gulp_bytes           # written at a time
    uint32_t bite_bytes           # read at a time
    uint32_t pause_us             # between two of its doings, at most
    uint32_t stops_reading_at     # bytes read, after which it rests
    uint64_t reads_on_us
    # sending
    uint32_t out_at
    uint32_t out_len
    uint32_t sent                 # bytes so far
    uint32_t composed             # messages
    uint32_t end_of[PEER_MESSAGES]    # their ends: bytes sent before
    uint32_t fin_at               # bytes sent before FIN
    uint32_t pings
    uint8_t asked
    uint8_t finale_begun
    uint8_t said_close
    uint16_t said_code
    uint32_t before_close         # messages
    uint8_t said_wrong
    uint8_t has_fin
    uint8_t has_left
    uint8_t has_reset
    uint8_t ping_waits
    uint8_t ping_len
    uint8_t ping[125]
    # receiving
    uint32_t got                  # bytes so far
    uint8_t is_upgraded
    uint8_t is_refused
    uint8_t is_deflated           # permessage-deflate was agreed on
    uint8_t is_squeezed           # the message that is heard
    uint32_t deflated             # messages sent compressed,
    uint32_t inflated             # ... and heard
    uint8_t heard_close
    uint16_t status
    uint16_t close_code
    uint32_t line_len
    uint8_t line[1024]            # of the head; then of the frame's header and of control frames
    uint8_t head_len              # of the frame's header; 0: it is not complete
    uint8_t first
    uint32_t left                 # of its payload
    uint32_t at
    uint32_t number
    uint32_t heard                # messages: the number of the next
    uint32_t skipped
    uint32_t pongs
    uint8_t end                   # SimEnd
    # the application
    int32_t index                 # its connection; -1: none
    uint32_t generation
    uint8_t opens
    uint8_t closes
    uint8_t is_ended              # by the application: the rest is dropped
    uint8_t asks                  # a request waits for an answer
    uint8_t awaited               # a callback waits for its next message
    uint8_t cause
    uint32_t told                 # messages
    uint32_t told_at              # of a streamed one
    uint8_t told_begun
    uint32_t accepted             # messages from the application
    uint8_t is_compressed         # one of them, which has its number and is not queued yet
    uint8_t may_skip              # the oldest of them may have been dropped
    uint8_t suspended             # a callback of it has gone on elsewhere, and on_recall has not been called
    uint64_t resumes_us           # conn.pause() until then, or that callback comes back; 0: it is not

cdef uint8_t said(int who, uint32_t number, uint32_t at) noexcept nogil
cdef uint32_t said_bytes(int who, uint32_t number, uint32_t longest_bytes) noexcept nogil
cdef uint8_t said_opcode(int who, uint32_t number) noexcept nogil
cdef uint8_t heard_byte(int who, uint32_t number, uint32_t at) noexcept nogil
cdef uint32_t heard_bytes(int who, uint32_t number, uint32_t longest_bytes) noexcept nogil

# is_proxied: a PROXY header is asked for. It says that the client is 192.0.2.(id + 1), port id + 1000.
cdef void peer_init(Peer* p, int id, const SimKernel* k, bint is_proxied) noexcept nogil
cdef bint peer_act(Peer* p, const SimKernel* k, uint32_t answer_bytes) noexcept nogil
