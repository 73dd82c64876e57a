# F5. The shapes of a loop and of its connections; only declarations. Everything here is under the loop's lock,
# but for what is marked otherwise. docs/architecture.md has the table of who writes what.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from _uws.deflate cimport UwsDeflate, UwsDeflater, UwsDeflateSettings
from _uws.intern cimport UwsIntern
from _uws.poller cimport UwsPoller
from _uws.proto cimport UwsEvent, UwsProto, UwsProtoEnv
from _uws.proxy cimport UwsNet
from _uws.slab cimport UwsSlab
from _uws.sock cimport UwsTransport, sockaddr_storage
from _uws.upgrade cimport UwsUpgrade, UwsUpgradeLimits
from _uws.wheel cimport UwsLink, UwsWheel

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    ctypedef unsigned long pthread_t
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_trylock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)
    int pthread_cond_signal(pthread_cond_t*)
    int pthread_cond_broadcast(pthread_cond_t*)

# A connection's states; life.pyx is the only file that changes them, and has the table of what follows what.
cdef enum UwsState:
    UWS_S_FREE = 0
    UWS_S_UPGRADING = 1       # the request head is coming in
    UWS_S_OPEN = 2
    UWS_S_CLOSE_SENT = 3      # our close frame is out (or queued), the peer's is awaited
    UWS_S_ENDING = 4          # it is over, but messages before the end are not delivered yet: replies still leave
    UWS_S_LINGER = 5          # nothing more to say: flush, FIN, drop what still comes in, until the peer's FIN
    UWS_S_DEAD = 6            # the transport is gone; the CLOSE event has not been consumed
    UWS_S_ASKING = 7          # the request is complete, and Python has been asked what to answer
    UWS_S_LEAVING = 8         # we end it, but messages that came before are not delivered yet: replies still leave

cdef enum UwsConnFlag:
    UWS_F_DIRTY = 1           # on the list of connections with something to flush
    UWS_F_OUT_ON = 2          # EPOLLOUT is asked for: the last send fell short
    UWS_F_IN_OFF = 4          # EPOLLIN is not asked for
    UWS_F_UNPOLLED = 8        # not in the epoll set at all
    UWS_F_PAUSED = 16         # its inbox is full: reading waits
    UWS_F_EOF = 32            # the peer's FIN, or an error that ended the transport
    UWS_F_BUSY = 64           # a thread runs a callback of it
    UWS_F_READY = 128         # on the list of connections with events in their inbox
    UWS_F_PENDING = 256       # some event of it has not been consumed
    UWS_F_CLOSE_OUT = 512     # the CLOSE event has been made
    UWS_F_CLOSE_DONE = 1024   # ... and consumed, or nobody wanted one
    UWS_F_SHUT = 2048         # FIN has been sent
    UWS_F_PINNED = 4096       # the slot owns a reference to its Conn
    UWS_F_COUNTED = 8192      # counted among the open connections
    UWS_F_GONE = 16384        # the transport failed: nothing can be sent any more
    UWS_F_PROXIED = 32768     # its PROXY header has been read

cdef enum UwsMark:
    UWS_M_MUTE = 1            # messages not delivered yet are dropped: the application closed, or a callback raised
    UWS_M_SAID = 2            # our close frame is queued or sent: nothing may follow it
    UWS_M_HEARD = 4           # the peer's close frame has come
    UWS_M_RESET = 16          # RST has been sent
    UWS_M_LISTEN = 8          # ... or is still looked for: a callback raised, and the peer keeps to the protocol
    UWS_M_PINGED = 32         # our ping is out, and nothing has come since
    UWS_M_EXTRA = 64          # it has a row in UwsLoop.extra
    UWS_M_STRANGER = 128      # upgraded, but not authenticated yet

# Why a connection ended (UwsEvent.cause). unlimitedws.CloseCause has the same numbers.
cdef enum UwsCause:
    UWS_C_PEER = 1            # the peer's close frame came first
    UWS_C_LOCAL = 2           # conn.close()
    UWS_C_PROTOCOL = 3        # it broke the protocol
    UWS_C_LIMIT = 4           # it went above a limit
    UWS_C_CALLBACK = 5        # a callback raised
    UWS_C_LOST = 6            # FIN or RST without a close frame
    UWS_C_ABORT = 7           # conn.abort()
    UWS_C_SHUTDOWN = 8        # the server stops
    UWS_C_CLOSE_TIMEOUT = 9   # our close frame was not answered in time
    UWS_C_PING_TIMEOUT = 10   # our ping was not
    UWS_C_IDLE = 11           # no message for idle_timeout
    UWS_C_LIFETIME = 12       # older than max_lifetime
    UWS_C_SLOW_READER = 13    # what we had queued for it got nowhere
    UWS_C_UNAUTHENTICATED = 14    # it did not say in time who it is
    UWS_C_EXPIRED = 15        # its credential has
    UWS_C_REVOKED = 16        # server.disconnect()
    UWS_C_MEMORY = 17         # we have none for it
    UWS_C_DRAIN = 18          # the server drains
    UWS_CAUSES = 19

# One block of bytes to be sent; its bytes follow the struct.
cdef struct UwsChunk:
    UwsChunk* next
    size_t cap_bytes
    size_t begin
    size_t end
    size_t frame              # where some frame begins: from here to the end there are whole frames and nothing else

cdef struct UwsOutq:
    UwsChunk* head
    UwsChunk* tail
    size_t bytes

# One event that waits for its callback; data it does not own elsewhere follows the struct.
cdef struct UwsNote:
    UwsNote* next
    UwsEvent event

cdef struct UwsInbox:
    UwsNote* head
    UwsNote* tail
    size_t bytes              # payload bytes
    uint32_t count

# Whether what a connection sends is delivered. UwsSide.held
cdef enum UwsHeld:
    UWS_HELD_NOT = 0
    UWS_HELD_PAUSED = 1           # conn.pause(): neither read nor delivered, until its end
    UWS_HELD_SUSPENDED = 2        # a callback of it goes on elsewhere: nothing is delivered, its end neither
    UWS_HELD_RECALLED = 3         # ... and comes back: on_recall is to be called, before anything else

# What a connection owns only while it needs it. 256 bytes, a size class of the slab: the order keeps it to that.
cdef struct UwsSide:
    UwsOutq out
    UwsInbox inbox
    UwsUpgrade* upgrade       # while the request head is incomplete
    uint8_t* head             # its bytes so far
    size_t head_cap
    uint32_t head_len
    uint32_t stuck            # tick of the last progress, while the kernel takes no more
    size_t counted            # of out.bytes, in UwsLoop.out_bytes
    int32_t dirty_next
    int32_t ready_next
    int32_t slow_next         # while it is behind: who got on after it, and who before; -1: nobody
    int32_t slow_prev
    uint32_t waiters          # threads that wait for a message or for room
    uint32_t pong_at          # tick before which the pong that was put off may not leave; 0: any time
    uint16_t reply_code       # of the close frame that we owe; 0: none. It stays until on_close has been told
    uint8_t behind            # in the line of those whose queue waits for the kernel
    uint8_t high              # the queue has been above the high mark, and not down to the low one since
    uint8_t drain_due         # ... it is, and on_drain is to be called
    uint8_t held              # UwsHeld
    uint8_t is_cut            # what the kernel does not take at once is dropped, whole frames of it
    uint8_t is_drained        # when it was taken out of the epoll set, the kernel had nothing more of it
    uint8_t pong_waits        # a pong was put off: the queue does not drain, or there were too many pings
    uint8_t control_len
    uint8_t control[125]      # that pong's payload; at the end, while there is a reply_code, the peer's reason

# The slot: all that an idle connection costs us.
cdef struct UwsConn:
    UwsProto proto
    UwsSide* side
    void* conn                # borrowed PyObject*; read and written with the GIL and the lock held
    UwsLink link              # its timer
    uint32_t generation
    uint8_t state
    uint8_t marks             # UwsMark
    uint16_t flags
    uint32_t target           # id of the request target in the intern table; 0 is "/"

# What some connections have for as long as they live: a row beside their slot (UWS_M_EXTRA), in a table of which only
# the rows in use take memory. Ticks are the wheel's; 0 is none.
cdef struct UwsExtra:
    UwsDeflate* deflate       # its own compression contexts; NULL: none is kept
    uint64_t expires_ms       # clock_ms at which its credential does, or a stranger has to be known: may be years ahead
    uint32_t ends             # tick of max_lifetime; while draining, of its leaving; then of its end, however it reads
    uint32_t spoke            # ... of its last message either way, where idle_timeout is set
    uint32_t subprotocol      # ids in the intern table: the subprotocol agreed on,
    uint32_t peer             # the address that a PROXY header gave: a sockaddr, and a byte that is 1 for TLS;
    uint32_t forwarded        # the field in which trusted proxies name their clients, all of its lines
    uint8_t blocks            # its callbacks block: quick deliveries in a row that are missing until they do not
    uint8_t heavy             # to inflate what it sent last took long

# A poller's events on their way to the callbacks. The thread that polls fills it; spans are taken under the lock.
cdef struct UwsBatch:
    UwsEvent* events
    int n
    int taken
    uint8_t* arena            # the payloads
    size_t used_bytes
    size_t owned_bytes        # of payloads that are blocks of their own
    UwsBatch* next            # of the loop's
    void* stack               # of the thread that it belongs to; NULL: it is not one of ours
    size_t stack_bytes
    uint64_t blamed_us        # when its runner's delivery began to keep the role from others; 0: it does not

cdef enum:
    UWS_BATCH_EVENTS = 16384
    UWS_BATCH_RESERVE = 512   # room that reading leaves for events of other threads
    UWS_ARENA_BYTES = 262144
    UWS_BATCH_OWNED_BYTES = 4194304
    UWS_READ_BYTES = 65536    # of one connection in one turn
    UWS_HEAVY_BYTES = 262144  # to inflate them, half a millisecond, is long for all who wait
    UWS_SCRATCH_EVENTS = 10924    # what they can hold: 65536 / UWS_MIN_FRAME_BYTES, and one
    UWS_ARENA_PAD = 64
    UWS_MAX_LISTENERS = 16
    UWS_MAX_SUBPROTOCOLS = 32
    UWS_MAX_FORWARDED_BYTES = 1024    # of the field that is kept; the right end of more
    UWS_FLOODED_TICKS = 4     # after which a connection that is not read for others' sake is looked at
    UWS_PING_WINDOW = 64      # ticks in which max_pings are answered, about a second; a power of two
    UWS_MAX_HTTP_STATUS = 599

cdef enum UwsWant:
    UWS_W_OPEN = 1
    UWS_W_MESSAGE = 2
    UWS_W_CLOSE = 4
    UWS_W_REQUEST = 8         # what to answer a valid upgrade request
    UWS_W_ROUTE = 16          # ... and a plain GET
    UWS_W_STREAM = 32         # messages while they arrive
    UWS_W_DRAIN = 64          # to be told that a queue above the high mark has drained
    UWS_W_PONG = 128

# What happens to a message for which a queue has no room (UwsLimits.overflow).
cdef enum UwsOverflow:
    UWS_OVERFLOW_BLOCK = 0    # the sender waits
    UWS_OVERFLOW_CLOSE = 1    # the connection is dropped
    UWS_OVERFLOW_DROP_NEWEST = 2  # the message is
    UWS_OVERFLOW_DROP_OLDEST = 3  # older ones are, that have not begun to leave

cdef enum UwsOwner:
    UWS_O_NONE = 0
    UWS_O_RUNNER = 1          # a thread that also runs callbacks
    UWS_O_DOG = 2             # the watchdog: it polls while every runner is away
    UWS_O_GUEST = 3           # an event loop of others, which calls whenever the epoll descriptor is readable

cdef enum:
    UWS_ROLE_NEW = 1          # away_seq of no time away: what a loop and a runner begin with

# What others have told the keeper of a loop with a descriptor table of its own (UwsLoop.told).
cdef enum UwsTold:
    UWS_TOLD_LEAVE = 1        # accept_leave(),
    UWS_TOLD_LOOK = 2         # accept_look(),
    UWS_TOLD_SHARED = 4       # accept_leave_shared(): to be done in its place
    UWS_TOLD_DRAIN = 8        # the loop drains: give everybody his turn
    UWS_TOLD_STOP = 16        # it stops: tell everybody
    UWS_TOLD_TEND = 32        # all queues together hold too much
    UWS_TOLD_SWEEP = 64       # there was no memory to say whose descriptor it is about: look at all

# Somebody waits for the addresses of a connection. It is on his stack.
cdef struct UwsAsk:
    UwsAsk* next
    int32_t index
    uint32_t generation
    sockaddr_storage* peer
    sockaddr_storage* local
    bint done

cdef struct UwsLimits:
    UwsUpgradeLimits upgrade
    uint32_t handshake_timeout_ms
    uint32_t request_timeout_ms   # for Python to decide
    uint32_t close_timeout_ms
    uint32_t ping_interval_ms     # of silence; this and the times below: 0 is never
    uint32_t ping_timeout_ms
    uint32_t send_timeout_ms      # without progress of what is queued
    uint32_t idle_timeout_ms
    uint32_t max_lifetime_ms
    uint32_t max_pings            # of one connection in a second that are all answered; 0: no limit
    size_t max_partial_bytes      # incomplete messages of all connections
    size_t max_buffered_bytes
    size_t max_out_bytes          # of all connections
    size_t high_bytes             # of one: above it the sender is told to wait,
    size_t low_bytes              # ... and from here on that it may go on
    size_t cork_bytes             # that do not wait for the end of the turn
    uint32_t overflow             # UwsOverflow
    size_t max_inbox_bytes
    uint32_t max_inbox_messages
    size_t max_inbox_total_bytes
    uint32_t max_connections
    uint32_t cooldown_us
    uint32_t schedule_timeout_us
    uint32_t io_timeout_us
    uint32_t jobs             # connections with undelivered events before accepting pauses; 0: no limit
    uint8_t proxy_protocol    # every connection begins with a PROXY header
    uint8_t private_fds       # the loop's descriptors are in a table of its own
    UwsDeflateSettings deflate

cdef struct UwsCounters:
    uint64_t accepted
    uint64_t turned_away      # refused for want of descriptors or above max_connections
    uint64_t upgraded
    uint64_t refused          # requests answered with 4xx or 5xx
    uint64_t messages_in
    uint64_t messages_out
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t pings
    uint64_t pings_out
    uint64_t pongs_put_off
    uint64_t half_closed      # peers that sent FIN without a close frame
    uint64_t closed
    uint64_t timeouts         # handshakes and close handshakes past their deadline
    uint64_t takeovers        # the watchdog took the role of a poller that was away
    uint64_t pauses           # connections not read because their inbox was full
    uint64_t cooldowns        # accepting paused because the pool was full
    uint64_t wakeups          # writes to the eventfd
    uint64_t holds            # conn.pause()
    uint64_t highs            # queues that went above the high mark,
    uint64_t drained          # ... and came down to the low one
    uint64_t dropped_newest   # messages for which a queue had no room
    uint64_t dropped_oldest   # ... that made room for newer ones
    uint64_t overflow_closed  # connections dropped because their queue was full,
    uint64_t overload_closed  # ... because all queues together held too much, and theirs got on least
    uint64_t deflated         # messages sent compressed,
    uint64_t deflated_from_bytes  # their bytes as they are
    uint64_t deflated_bytes   # ... and as they went

cdef struct UwsLoop:
    pthread_mutex_t lock
    pthread_mutex_t deflate_lock  # over deflater alone; taken before lock, never while it is held
    UwsDeflater deflater
    UwsPoller poller
    UwsSlab slab
    UwsIntern intern
    UwsWheel wheel
    UwsProtoEnv env
    UwsLimits limits
    const UwsTransport* io
    UwsConn* table
    uint32_t table_cap        # slots; indexed by descriptor
    uint32_t table_top        # highest slot ever used + 1
    uint64_t now_ms           # of this turn
    uint64_t start_ms
    UwsCounters count
    uint64_t closed_by[19]    # UwsCause
    uint64_t answered[600]    # requests by HTTP status
    uint32_t tick             # of this turn: now_ms, as the wheel counts
    uint64_t rng              # for jitter
    UwsExtra* extra
    uint32_t n_conns          # slots that are not free
    uint32_t* crowd           # the same for all loops of the server, atomic; NULL: there is only this one
    uint32_t n_open           # upgraded and not closed yet
    uint32_t want             # UwsWant: what Python has hooks for
    UwsEvent* scratch         # what proto_feed writes
    uint64_t inflating        # bytes that were looked at and written for it since the last poll
    uint32_t n_put_off        # the first of poller.ready: to be read when the others have been,
    uint32_t put_off_at       # ... the slot whose turn it is

    # sending
    int32_t dirty_head        # those that have something to flush, as they were enlisted
    int32_t dirty_tail
    size_t out_bytes          # queued for all connections
    int32_t slow_head         # those whose queue waits for the kernel, the one that has not got on for longest first
    int32_t slow_tail
    # delivering
    UwsBatch* batch           # where new events go; NULL: to the inboxes
    int32_t ready_head
    int32_t ready_tail
    int32_t apart_head        # those of them whose callbacks block, where that is another runner's business than
    int32_t apart_tail        # the poller's: post_apart()
    uint32_t n_ready          # on both lists
    uint32_t n_apart
    uint32_t blockers         # connections with UwsExtra.blocks
    size_t inbox_bytes        # of all connections
    size_t inbox_count
    uint64_t taken_seq        # spans taken so far: the watchdog's sign of progress
    uint64_t orders           # times that a connection was muted, held or let go on; also read without the lock

    # listening
    int listener[16]
    uint8_t shared[16]        # the listener is: other processes accept from it too
    int n_listeners
    uint32_t listen_for       # what epoll is asked for a listener: with EPOLLEXCLUSIVE where others accept from it too
    int spare_fd
    uint8_t accepting
    uint64_t accept_at_ms     # accepting pauses until then; 0: it does not
    uint64_t ease_at_ms       # what memory the slab has too much goes back then; 0: it has not
    uint8_t* page             # body and head of the page at "/"; NULL: none
    size_t page_len
    UwsNet trusted[64]        # the proxies that are believed
    int n_trusted
    uint8_t forwarded[32]     # the field, in lower case, in which they name their clients
    size_t forwarded_len
    uint32_t subprotocol[32]  # ids in the intern table, the one we like best first
    int n_subprotocols

    # who polls
    uint8_t owner
    uint8_t away              # the owner runs callbacks
    uint8_t polling           # the owner waits in epoll
    uint8_t woken             # the eventfd has been written since
    uint8_t role_wanted       # runners that wait for the watchdog to give the role up
    uint8_t yield_now         # the owner knows that it is going to block
    uint8_t dog_asleep
    uint8_t dog_quit
    uint8_t dog_alive
    int dog_error             # why it is not: errno
    uint8_t rung              # bell_fd has been written since the guest came last
    int bell_fd               # an eventfd that calls a guest whose role the watchdog has taken; -1: there is no guest
    UwsBatch* guest           # the guest's batch; NULL: there is none
    UwsBatch* batches         # of all threads that are in the loop
    uint64_t away_seq
    uint32_t lanes            # runners that get on at the same time: 1 where there is a GIL; set before the first runs
    uint32_t gil_waiters      # runners that wait for the GIL
    uint32_t runners          # threads in run()
    uint32_t parked
    uint32_t arriving         # ... that have begun, and have neither parked nor gone to work yet
    uint32_t wake_parked      # parked runners that were told to go on
    pthread_cond_t park_cond  # those who are parked, and nobody else: one is called without waking all
    pthread_cond_t runner_cond
    pthread_cond_t dog_cond
    pthread_cond_t wait_cond
    pthread_t dog

    # where it has a descriptor table of its own
    pthread_t keeper          # whose table it is: the watchdog, which has the role for good; 0: not yet, or no more
    uint8_t told              # UwsTold
    uint8_t kept              # the keeper is at work
    uint8_t is_full           # accepting rests until one of its own connections has gone
    uint32_t seats            # connections that its table has room for; 0: as many as the process's
    uint32_t rounds           # times that everything queued has been offered to the kernel
    uint32_t waiting          # threads that wait for the keeper
    UwsAsk* asks

    # draining, then stopping
    uint8_t draining
    uint16_t drain_code       # what those who leave are told
    uint64_t drain_at_ms      # whoever is there then leaves at once, and the loop stops,
    uint64_t drain_stop_ms    # ... with this for a timeout
    uint8_t drain_jitter
    uint8_t stopping
    uint8_t finished
    uint8_t forked            # this is a child process: the connections are the parent's
    UwsLoop* next_loop        # of all loops of the process; under the GIL
    uint64_t stop_at_ms       # what is left then is dropped
    uint16_t stop_code        # what those who are there are told
    uint8_t stop_reason_len
    uint8_t stop_reason[123]
