# F5. Load generator: the ends of connections, and what is counted about them. See loadlife.pxd.

from _uws.atomic cimport atomic_release, atomic_write
from _uws.client cimport client_reset
from _uws.dial cimport dial_end
from _uws.loadplan cimport (
    UWS_LERR_CLOSE_TIMEOUT,
    UWS_LERR_CONNECT_TIMEOUT,
    UWS_LERR_HANDSHAKE_TIMEOUT,
    UWS_LERR_REPLY_TIMEOUT,
    UWS_LOAD_BROADCAST,
    UWS_LOAD_CODES,
    UWS_LOAD_ECHO,
    UWS_LOAD_HANDSHAKES,
    UWS_LS_CLOSING,
    UWS_LS_CONNECTING,
    UWS_LS_GONE,
    UWS_LS_NONE,
    UWS_LS_OPEN,
    UWS_LS_UPGRADING,
    UWS_PHASE_RAMP,
    UwsLoadOpening,
    UwsLoadTold,
)
from _uws.poller cimport EPOLLIN, EPOLLOUT, UWS_TAG_CONN, poll_tag, poller_change
from _uws.slab cimport slab_give


cdef void load_watch(UwsLoad* l, UwsLoadConn* c, int out) noexcept nogil:
    """Ask to be told when the socket takes more, or no longer."""
    if c.wants_out == out:
        return
    c.wants_out = <unsigned char>out
    # It cannot fail: the descriptor is registered, and ours.
    poller_change(&l.poller, c.fd, EPOLLIN | EPOLLOUT if out else EPOLLIN,
                  poll_tag(UWS_TAG_CONN, <uint32_t>load_number(l, c), 0))


cdef void load_count_code(UwsLoad* l, uint16_t code) noexcept nogil:
    cdef int i
    for i in range(UWS_LOAD_CODES):
        if l.codes[i].n == 0 or l.codes[i].code == code:
            l.codes[i].code = code
            l.codes[i].n += 1
            return
    l.other_codes += 1


cdef void _leave(UwsLoad* l, UwsLoadConn* c, int reset) noexcept nogil:
    """Close the socket and give back what the connection has. Its place may be taken anew where that is the work."""
    cdef UwsLoadOpening* opening
    cdef UwsLoadTold* told
    if c.state == UWS_LS_OPEN:
        l.n_open -= 1
        if l.plan.mode == UWS_LOAD_ECHO:
            l.outstanding -= c.queued - c.replied
    elif c.state == UWS_LS_CLOSING:
        l.n_closing -= 1
    elif c.state == UWS_LS_CONNECTING or c.state == UWS_LS_UPGRADING:
        l.n_pending -= 1
        opening = <UwsLoadOpening*>c.side
        if opening != NULL:
            slab_give(&l.slab, opening.head)
    if c.state == UWS_LS_OPEN and l.plan.mode == UWS_LOAD_BROADCAST and l.phase > UWS_PHASE_RAMP:
        told = &l.plan.told[l.index]
        # In this order: who reads between the two finds more missing than there is, and waits.
        atomic_write(&told.gone_delivered, told.gone_delivered + c.replied)
        atomic_release(&told.gone, told.gone + 1)
    slab_give(&l.slab, c.side)
    slab_give(&l.slab, c.partial)
    c.side = NULL
    c.partial = NULL
    client_reset(&c.client, &l.slab)
    if c.fd >= 0:
        dial_end(c.fd, reset)
    c.fd = -1
    c.wants_out = False
    c.state = UWS_LS_NONE if l.plan.mode == UWS_LOAD_HANDSHAKES else UWS_LS_GONE


cdef void load_fail(UwsLoad* l, UwsLoadConn* c, int error, int reset) noexcept nogil:
    """A connection that ends as it should not, or does not come to be. Nothing, where it has ended.

    error: UwsLoadError. reset: with RST; otherwise what was sent last still arrives.
    """
    if c.state == UWS_LS_GONE or c.state == UWS_LS_NONE:
        return
    l.errors[error] += 1
    l.count.failed += 1
    _leave(l, c, reset)
    # It begins again after a while: a server that is not there is not to be asked a million times a second.
    c.since_ns = l.now_ns


cdef void load_closed(UwsLoad* l, UwsLoadConn* c, int reset) noexcept nogil:
    """A connection that ends as it should."""
    l.count.closed += 1
    _leave(l, c, reset)
    c.since_ns = 0


cdef void load_expire(UwsLoad* l, UwsLoadConn* c, uint64_t now_ns) noexcept nogil:
    """End a connection whose patience with the server is over."""
    cdef uint64_t due
    # What began in this turn began later than the turn.
    cdef uint64_t waited = now_ns - c.since_ns if now_ns > c.since_ns else 0
    if c.state == UWS_LS_CONNECTING:
        if waited > l.plan.connect_timeout_ns:
            load_fail(l, c, UWS_LERR_CONNECT_TIMEOUT, True)
    elif c.state == UWS_LS_UPGRADING:
        if waited > l.plan.handshake_timeout_ns:
            load_fail(l, c, UWS_LERR_HANDSHAKE_TIMEOUT, True)
    elif c.state == UWS_LS_CLOSING:
        if waited > l.plan.close_timeout_ns:
            load_fail(l, c, UWS_LERR_CLOSE_TIMEOUT, True)
    elif c.state == UWS_LS_OPEN and l.plan.mode == UWS_LOAD_ECHO and c.replied < c.queued:
        due = load_due(l, c, c.replied)
        if now_ns > due and now_ns - due > l.plan.reply_timeout_ns:
            load_fail(l, c, UWS_LERR_REPLY_TIMEOUT, True)
