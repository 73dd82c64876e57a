# F5. The shapes of a load generator: what it is to do, its connections, its counts. Declarations only; see
# loadlife, loadtraffic, loadrun for who does what, docs/loadgen.md for what it means.
#
# One UwsLoad is one thread's: nothing of it is locked. UwsLoadPlan is shared and never written while a thread runs.
# Others order (UwsLoad.orders) and watch (the words marked "atomic") without stopping it.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from _uws.client cimport UwsClient
from _uws.dial cimport UwsAddress
from _uws.entropy cimport UwsEntropy
from _uws.histogram cimport UwsHistogram
from _uws.opening cimport UwsOffer, UwsOpening
from _uws.poller cimport UwsPoller
from _uws.slab cimport UwsSlab

cdef enum UwsLoadMode:
    UWS_LOAD_ECHO = 1
    UWS_LOAD_IDLE = 2
    UWS_LOAD_HANDSHAKES = 3
    UWS_LOAD_BROADCAST = 4

# UwsLoad.orders, in this order; some may be left out.
cdef enum UwsLoadPhase:
    UWS_PHASE_RAMP = 0        # connect all of them, and hold them
    UWS_PHASE_WARM = 1        # load, not measured
    UWS_PHASE_MEASURE = 2
    UWS_PHASE_DRAIN = 3       # say nothing new, wait for what is due
    UWS_PHASE_CLOSE = 4       # closing handshakes
    UWS_PHASE_END = 5         # return

# What went wrong, as it is counted.
cdef enum UwsLoadError:
    UWS_LERR_CONNECT = 0      # by errno in errnos
    UWS_LERR_CONNECT_TIMEOUT = 1
    UWS_LERR_HANDSHAKE_TIMEOUT = 2
    UWS_LERR_HANDSHAKE_CUT = 3     # the connection ended during the handshake
    UWS_LERR_STATUS = 4       # by status in statuses
    UWS_LERR_HANDSHAKE = 5    # a 101 or a response that breaks the RFC's rules, by UwsFault in faults
    UWS_LERR_PROTOCOL = 6     # frames that do
    UWS_LERR_CLOSED = 7       # a close frame that we did not ask for, by code in codes
    UWS_LERR_CUT = 8          # the end of the stream, or RST, without a close frame
    UWS_LERR_WRONG_REPLY = 9
    UWS_LERR_UNASKED = 10     # a message that nobody asked for
    UWS_LERR_REPLY_TIMEOUT = 11
    UWS_LERR_MISSING = 12     # publications that never came, though later ones did
    UWS_LERR_CLOSE_TIMEOUT = 13
    UWS_LERR_NOMEM = 14
    UWS_LOAD_ERRORS = 15

cdef enum:
    UWS_LOAD_SCRATCH_BYTES = 262144   # what is received or sent at once
    UWS_LOAD_CODES = 64               # different close codes that are told apart
    UWS_LOAD_ERRNOS = 256
    UWS_LOAD_STATUSES = 600
    UWS_LOAD_STAMP_BYTES = 24         # at the beginning of each publication

cdef enum UwsLoadState:
    UWS_LS_NONE = 0           # not begun, or to begin again
    UWS_LS_CONNECTING = 1
    UWS_LS_UPGRADING = 2
    UWS_LS_OPEN = 3
    UWS_LS_CLOSING = 4        # our close frame is under way: the peer's, and then the end of the stream, are awaited
    UWS_LS_GONE = 5

# What each thread of a broadcast tells the first one, which publishes: words of its own (atomic).
cdef struct UwsLoadTold:
    uint64_t joined           # connections that were open when the load began, and one; 0: it has not begun
    uint64_t delivered        # publications that they got, ...
    uint64_t gone             # those of them that are gone since, ...
    uint64_t gone_delivered   # ... and what these had got
    uint64_t room[4]          # a cache line each

cdef struct UwsLoadPlan:
    uint8_t mode
    uint8_t opcode
    uint8_t any_reply         # count what comes, whatever it is
    uint8_t abort             # end with RST instead of a closing handshake
    uint8_t others_only       # a publisher does not get its own publications
    uint32_t size             # bytes of a message
    uint32_t pipelining       # messages outstanding per connection; publications per publisher
    uint32_t greeting         # first messages of each connection that are no replies
    double gap_ns             # open loop: from one message to the next, of all threads together; 0: closed loop
    double connect_gap_ns     # from one connection to the next, of all threads together; 0: at once
    uint32_t connecting       # handshakes under way at once, per thread
    uint32_t threads
    uint32_t publishers       # all of the first thread
    uint32_t run_id           # 24 bits: tells our publications from those of others
    uint64_t connect_timeout_ns
    uint64_t handshake_timeout_ns
    uint64_t reply_timeout_ns
    uint64_t close_timeout_ns
    uint8_t* request          # all of it but the key
    uint32_t request_len
    uint32_t key_at           # where in it the key goes
    uint8_t* payloads         # ring_count of them, end to end
    uint32_t ring_count       # a power of two
    UwsAddress* targets
    uint32_t n_targets
    UwsAddress* sources
    uint32_t n_sources        # 0: the kernel chooses
    UwsOffer offer
    UwsLoadTold* told         # of each thread

# While a connection is made. From the slab.
cdef struct UwsLoadOpening:
    UwsOpening opening
    uint8_t key[24]
    uint32_t len_bytes        # of head
    uint32_t cap_bytes
    uint8_t* head             # of the response, if it came in pieces

# Control frames that wait for the end of a data frame, or whose end the kernel did not take. From the slab.
cdef struct UwsLoadControl:
    uint8_t pos               # bytes of the first that were sent
    uint8_t first_len
    uint8_t second_len        # 0: there is no other
    uint8_t first[131]
    uint8_t second[131]

cdef struct UwsLoadConn:
    int32_t fd                # -1: none
    uint8_t state
    uint8_t wants_out
    uint8_t ours_sent         # our close frame is queued
    uint8_t theirs_come
    uint32_t skip             # messages of the greeting still to come
    uint32_t got              # bytes of the reply that is coming
    UwsClient client
    uint64_t queued           # messages so far: to be sent, ...
    uint64_t sent             # ... sent as a whole, ...
    uint64_t replied          # ... and answered. In a broadcast: received
    uint32_t send_pos         # bytes of the current frame that were sent, ...
    uint32_t send_key         # ... and its key
    uint64_t since_ns         # when the state began
    void* side                # UwsLoadOpening while it is made, UwsLoadControl afterwards
    uint8_t* partial          # broadcast: a publication that was cut, plan.size bytes of the slab

cdef struct UwsLoadCode:
    uint16_t code
    uint64_t n

cdef struct UwsLoadCounts:
    uint64_t started          # connections begun
    uint64_t upgraded
    uint64_t closed           # in good order, by us
    uint64_t failed           # connections that did not get open, or did not stay so
    uint64_t sent             # messages
    uint64_t replies
    uint64_t bytes            # of their payloads
    uint64_t pings            # answered

# The words that others read: written once a turn, each by itself (atomic).
cdef struct UwsLoadShown:
    uint64_t phase            # that the thread is in
    uint64_t open
    uint64_t closing
    uint64_t settled          # connections of the plan that are open, or will not be
    uint64_t outstanding      # messages without a reply, publications that somebody has not got yet, once for each
    uint64_t started
    uint64_t upgraded
    uint64_t failed
    uint64_t replies
    uint64_t errors

cdef struct UwsLoad:
    UwsLoadPlan* plan
    uint32_t index            # of this thread
    uint32_t n                # connections
    uint32_t first            # number of the first of them among all threads'
    uint64_t orders           # atomic, written by others: the phase that is wanted
    uint64_t phase
    uint32_t n_open
    uint32_t n_pending        # connecting or upgrading
    uint32_t n_closing
    uint32_t n_begun          # conns below this one were begun
    uint32_t n_asked          # conns below this one were asked to close
    uint32_t cursor           # next one to be looked at for a timeout, ...
    uint64_t looked_ns        # ... and when that was done last
    uint64_t shown_ns         # when others were told last
    uint64_t now_ns           # as of this turn, or the last reply
    uint64_t ramp_ns          # when the ramp began, ...
    uint64_t ramped_ns        # ... and when all connections were open, or would not be; 0: not yet
    uint64_t load_ns          # when the load began
    uint64_t next             # messages that were due so far, of this thread
    uint32_t takers           # connections that send in turn, the first ones
    double step_ns            # from one of this thread's messages to the next, ...
    double offset_ns          # ... and to its first one
    uint64_t published        # broadcast: by this thread
    uint64_t outstanding
    uint64_t begin_ns         # of what is measured
    uint64_t end_ns           # 0: not yet
    uint64_t begin_cpu_ns     # of this thread
    uint64_t end_cpu_ns
    UwsLoadCounts count
    UwsLoadCounts at_begin
    UwsLoadCounts at_end
    UwsLoadShown shown
    uint64_t errors[15]
    uint64_t errnos[256]
    uint64_t statuses[600]
    uint64_t faults[8]
    UwsLoadCode codes[64]
    uint64_t other_codes
    UwsHistogram latency
    UwsHistogram opening      # from connect() to the end of the handshake
    UwsLoadConn* conns
    uint64_t* stamps          # closed loop: when each outstanding message was sent; stamp_count per connection
    uint64_t stamp_count      # a power of two: pipelining or more
    uint32_t* seqs            # broadcast: next publication of each publisher; publishers per connection
    UwsSlab slab
    UwsPoller poller
    UwsEntropy entropy
    uint8_t* request          # the plan's, and this thread's keys in it
    uint8_t* scratch          # what is sent
    uint8_t* inbuf            # what was received
