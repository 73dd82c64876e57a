# F5. Load generator: connecting and upgrading. See loadopening.pxd.

from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from _uws.clock cimport clock_ns
from _uws.dial cimport UWS_DIAL_AGAIN, UwsAddress, dial_result, dial_start
from _uws.entropy cimport entropy_take
from _uws.errs cimport UWS_MORE, UWS_OK
from _uws.histogram cimport histogram_add
from _uws.loadlife cimport load_fail, load_measured, load_number, load_watch
from _uws.loadplan cimport (
    UWS_LERR_CONNECT,
    UWS_LERR_HANDSHAKE,
    UWS_LERR_HANDSHAKE_CUT,
    UWS_LERR_NOMEM,
    UWS_LERR_STATUS,
    UWS_LOAD_ERRNOS,
    UWS_LOAD_HANDSHAKES,
    UWS_LOAD_SCRATCH_BYTES,
    UWS_LOAD_STATUSES,
    UWS_LS_CONNECTING,
    UWS_LS_OPEN,
    UWS_LS_UPGRADING,
    UwsLoadOpening,
)
from _uws.loadtraffic cimport load_close, load_received
from _uws.opening cimport (
    UWS_FAULT_STATUS,
    UWS_OPENING_KEY_BYTES,
    UWS_OPENING_NONCE_BYTES,
    opening_key,
    opening_parse,
)
from _uws.poller cimport EPOLLIN, EPOLLOUT, UWS_TAG_CONN, poll_tag, poller_add
from _uws.slab cimport slab_give, slab_grow, slab_take
from _uws.sock cimport UWS_SOCK_AGAIN, sock_plain


cdef void _not_connected(UwsLoad* l, UwsLoadConn* c, int error) noexcept nogil:
    if 0 < error < UWS_LOAD_ERRNOS:
        l.errnos[error] += 1
    load_fail(l, c, UWS_LERR_CONNECT, True)


cdef int load_start(UwsLoad* l, UwsLoadConn* c) noexcept nogil:
    """Begin a connection. UWS_MORE: the server's backlog is full, and nothing has begun."""
    cdef uint32_t number = l.first + <uint32_t>load_number(l, c)
    cdef UwsAddress* source = NULL
    cdef int fd
    # Each source with each target, in turn: their ports are counted separately.
    if l.plan.n_sources:
        source = &l.plan.sources[number % l.plan.n_sources]
        number //= l.plan.n_sources
    fd = dial_start(&l.plan.targets[number % l.plan.n_targets], source)
    if fd == UWS_DIAL_AGAIN:
        return UWS_MORE
    l.count.started += 1
    l.n_pending += 1
    memset(c, 0, sizeof(UwsLoadConn))
    c.fd = fd
    c.state = UWS_LS_CONNECTING
    c.skip = l.plan.greeting
    c.since_ns = clock_ns()
    if fd < 0:
        _not_connected(l, c, errno)
        return UWS_OK
    c.side = slab_take(&l.slab, sizeof(UwsLoadOpening), NULL)
    if c.side == NULL:
        load_fail(l, c, UWS_LERR_NOMEM, True)
        return UWS_OK
    memset(c.side, 0, sizeof(UwsLoadOpening))
    c.wants_out = True
    if poller_add(&l.poller, fd, EPOLLIN | EPOLLOUT,
                  poll_tag(UWS_TAG_CONN, <uint32_t>load_number(l, c), 0)) != UWS_OK:
        _not_connected(l, c, errno)
    return UWS_OK


cdef void load_connected(UwsLoad* l, UwsLoadConn* c) noexcept nogil:
    """The socket is connected, or could not be: send the request."""
    cdef UwsLoadOpening* o = <UwsLoadOpening*>c.side
    cdef uint8_t[UWS_OPENING_NONCE_BYTES] nonce
    cdef int error = dial_result(c.fd)
    if error != 0:
        _not_connected(l, c, error)
        return
    entropy_take(&l.entropy, nonce, UWS_OPENING_NONCE_BYTES)
    opening_key(nonce, o.key)
    # The request but for its key is the same for all; this thread's copy of it has one key after the other.
    memcpy(l.request + l.plan.key_at, o.key, UWS_OPENING_KEY_BYTES)
    # A socket that nothing was sent on takes some hundred KiB: more than a request may have.
    if sock_plain().send(c.fd, l.request, l.plan.request_len) != <ssize_t>l.plan.request_len:
        load_fail(l, c, UWS_LERR_HANDSHAKE_CUT, True)
        return
    c.state = UWS_LS_UPGRADING
    load_watch(l, c, False)


cdef bint _keep(UwsLoad* l, UwsLoadOpening* o, size_t len_bytes) noexcept nogil:
    """Append what was received to the head so far. False: out of memory."""
    cdef uint8_t* grown
    cdef size_t cap = 0
    if o.cap_bytes - o.len_bytes < len_bytes:
        grown = <uint8_t*>slab_grow(&l.slab, o.head, o.len_bytes, o.len_bytes + len_bytes, &cap)
        if grown == NULL:
            return False
        o.head = grown
        o.cap_bytes = <uint32_t>cap
    memcpy(o.head + o.len_bytes, l.inbuf, len_bytes)
    o.len_bytes += <uint32_t>len_bytes
    return True


cdef void load_upgrading(UwsLoad* l, UwsLoadConn* c) noexcept nogil:
    """Read the response to the request."""
    cdef UwsLoadOpening* o = <UwsLoadOpening*>c.side
    cdef const uint8_t* head = l.inbuf
    cdef uint8_t* kept
    cdef size_t have, rest
    cdef int status
    cdef ssize_t n = sock_plain().recv(c.fd, l.inbuf, UWS_LOAD_SCRATCH_BYTES)
    if n == UWS_SOCK_AGAIN:
        return
    l.now_ns = clock_ns()
    if n <= 0:
        if o.opening.http_status > 101 and n == 0:
            # A response without the end of its head says what it has to say in its first line.
            _refused(l, c)
        else:
            load_fail(l, c, UWS_LERR_HANDSHAKE_CUT, True)
        return
    have = <size_t>n
    if o.len_bytes:
        if not _keep(l, o, have):
            load_fail(l, c, UWS_LERR_NOMEM, True)
            return
        head = o.head
        have = o.len_bytes
    status = opening_parse(&o.opening, head, have, o.key, &l.plan.offer)
    if status == UWS_MORE:
        if o.len_bytes == 0 and not _keep(l, o, have):
            load_fail(l, c, UWS_LERR_NOMEM, True)
        return
    if status != UWS_OK:
        _refused(l, c)
        return
    if l.plan.mode != UWS_LOAD_HANDSHAKES or load_measured(l, c.since_ns):
        histogram_add(&l.opening, l.now_ns - c.since_ns)
    rest = have - o.opening.head_len
    kept = o.head
    slab_give(&l.slab, o)
    c.side = NULL
    c.state = UWS_LS_OPEN
    l.n_pending -= 1
    l.n_open += 1
    l.count.upgraded += 1
    if rest:
        load_received(l, c, head + have - rest, rest)
    slab_give(&l.slab, kept)
    if c.state == UWS_LS_OPEN and l.plan.mode == UWS_LOAD_HANDSHAKES:
        load_close(l, c)


cdef void _refused(UwsLoad* l, UwsLoadConn* c) noexcept nogil:
    cdef UwsLoadOpening* o = <UwsLoadOpening*>c.side
    if o.opening.fault == UWS_FAULT_STATUS or o.opening.fault == 0:
        if o.opening.http_status < UWS_LOAD_STATUSES:
            l.statuses[o.opening.http_status] += 1
        load_fail(l, c, UWS_LERR_STATUS, True)
        return
    l.faults[o.opening.fault] += 1
    load_fail(l, c, UWS_LERR_HANDSHAKE, True)
