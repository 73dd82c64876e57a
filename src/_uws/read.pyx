# F5. See read.pxd.

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy, memset

from _uws.errs cimport UWS_E_HTTP_426, UWS_MORE, UWS_OK, err_close_code
from _uws.frame cimport UWS_OP_PONG
from _uws.intern cimport intern_take
from _uws.life cimport conn_answered, conn_dirty, conn_end, conn_eof, conn_upgraded
from _uws.outq cimport outq_put, outq_put_frame
from _uws.post cimport post_event, post_lost
from _uws.proto cimport (
    UWS_EV_CLOSE,
    UWS_EV_MESSAGE,
    UWS_EV_OPEN,
    UWS_EV_PING,
    UWS_EVF_OWNED,
    UwsEvent,
    proto_feed,
)
from _uws.response cimport UWS_MAX_REFUSAL_BYTES, response_accept, response_refuse
from _uws.slab cimport slab_give, slab_grow, slab_take
from _uws.slot cimport conn_index, conn_side
from _uws.sock cimport UWS_SOCK_AGAIN
from _uws.state cimport (
    UWS_C_LOCAL,
    UWS_C_PEER,
    UWS_C_PROTOCOL,
    UWS_F_BUSY,
    UWS_F_GONE,
    UWS_F_READY,
    UWS_M_HEARD,
    UWS_M_LISTEN,
    UWS_READ_BYTES,
    UWS_S_CLOSE_SENT,
    UWS_S_LINGER,
    UWS_S_OPEN,
    UWS_S_UPGRADING,
    UWS_W_MESSAGE,
    UWS_W_OPEN,
    UwsSide,
)
from _uws.upgrade cimport (
    UwsSpan,
    UwsUpgrade,
    upgrade_init,
    upgrade_parse,
    upgrade_target,
)

cdef enum:
    BUSY_READ_BYTES = 8192
    PONG_BACKLOG_BYTES = 16384    # queued bytes above which only the last ping is answered (RFC 6455, section 5.5.3)


cdef void conn_read(UwsLoop* l, UwsBatch* b, UwsConn* c) noexcept nogil:
    """Receive once and deal with what came. b has room for it; the slot may be free afterwards."""
    cdef uint8_t* data = b.arena + b.used_bytes
    # One whose callbacks do not keep up is read in small bites: each of its messages may cost more than its bytes.
    cdef size_t want = BUSY_READ_BYTES if c.flags & (UWS_F_BUSY | UWS_F_READY) else UWS_READ_BYTES
    cdef ssize_t n = l.io.recv(conn_index(l, c), data, want)
    if n <= 0:
        if n != UWS_SOCK_AGAIN:
            conn_eof(l, c, n < 0)
        return
    l.count.bytes_in += <size_t>n
    if c.state == UWS_S_OPEN or c.state == UWS_S_CLOSE_SENT or c.marks & UWS_M_LISTEN:
        _frames(l, b, c, data, <size_t>n)
    elif c.state == UWS_S_UPGRADING:
        _request(l, b, c, data, <size_t>n)
    # Otherwise it is over, and what still comes is dropped.


# ---- frames

cdef void _pong(UwsLoop* l, UwsConn* c, const UwsEvent* ping) noexcept nogil:
    cdef UwsSide* side
    l.count.pings += 1
    if c.state != UWS_S_OPEN or c.flags & UWS_F_GONE:
        return
    side = conn_side(l, c)
    if side == NULL:
        return    # a ping that is not answered under want of memory is allowed to be the peer's problem
    if side.out.bytes > PONG_BACKLOG_BYTES:
        # A peer that pings and does not read gets one pong for all of its pings.
        side.pong_waits = 1
        side.pong_len = <uint8_t>ping.len_bytes
        memcpy(side.pong, ping.data, ping.len_bytes)
        l.count.pongs_put_off += 1
        return
    if outq_put_frame(&side.out, &l.slab, UWS_OP_PONG, ping.data, ping.len_bytes) == UWS_OK:
        conn_dirty(l, c)


cdef void _frames(UwsLoop* l, UwsBatch* b, UwsConn* c, uint8_t* data, size_t len_bytes) noexcept nogil:
    """Decode what came, answer what the protocol itself answers, and send the rest on its way."""
    cdef UwsEvent* event
    cdef int i, n = 0, status
    cdef uint16_t code
    status = proto_feed(&c.proto, &l.env, data, len_bytes, l.scratch, &n)
    for i in range(n):
        event = &l.scratch[i]
        if event.kind == UWS_EV_MESSAGE:
            l.count.messages_in += 1
            if c.state != UWS_S_OPEN or not (l.want & UWS_W_MESSAGE):
                if event.flags & UWS_EVF_OWNED:
                    slab_give(&l.slab, event.data)
            else:
                # An empty message of empty fragments has no payload anywhere.
                if event.len_bytes != 0 and not (event.flags & UWS_EVF_OWNED):
                    b.used_bytes = (<size_t>(event.data + event.len_bytes - b.arena) + 15) & ~<size_t>15
                if post_event(l, c, event) != UWS_OK:
                    post_lost(l, c, event)
                    conn_end(l, c, UWS_C_PROTOCOL, 1011, 1011, NULL, 0)
        elif event.kind == UWS_EV_PING:
            _pong(l, c, event)
        elif event.kind == UWS_EV_CLOSE:
            c.marks |= UWS_M_HEARD
            if c.state == UWS_S_LINGER:
                # The last word has been said on both sides: the end of this turn closes.
                if conn_side(l, c) != NULL:
                    conn_dirty(l, c)
                return
            conn_end(l, c, UWS_C_LOCAL if c.state == UWS_S_CLOSE_SENT else UWS_C_PEER, event.code, event.reply_code,
                     event.data, event.len_bytes)
    if status < 0:
        code = <uint16_t>err_close_code(status)
        conn_end(l, c, UWS_C_PROTOCOL, code, code, NULL, 0)


# ---- the request

cdef void _request(UwsLoop* l, UwsBatch* b, UwsConn* c, uint8_t* data, size_t len_bytes) noexcept nogil:
    """Go on with the request head. One that comes in one piece, as nearly all do, is parsed where it was received."""
    cdef UwsUpgrade whole
    cdef UwsUpgrade* u = &whole
    cdef UwsSide* side = c.side
    cdef uint8_t* head = data
    cdef size_t have = len_bytes, before = 0, rest
    cdef int status
    if side != NULL and side.upgrade != NULL:
        u = side.upgrade
        before = side.head_len
        if not _keep(l, side, data, len_bytes):
            conn_eof(l, c, True)
            return
        head = side.head
        have = side.head_len
    else:
        upgrade_init(u)
    status = upgrade_parse(u, head, have, &l.limits.upgrade)
    if status == UWS_MORE:
        if u == &whole:
            side = conn_side(l, c)
            if side != NULL:
                side.upgrade = <UwsUpgrade*>slab_take(&l.slab, sizeof(UwsUpgrade), NULL)
            if side == NULL or side.upgrade == NULL or not _keep(l, side, data, len_bytes):
                conn_eof(l, c, True)
                return
            side.upgrade[0] = whole
        return
    if status != UWS_OK:
        _answer(l, c, u, head, status)
        return
    # The head ended within what was received just now: what is behind it are the first frames.
    rest = u.head_len - before
    if not _accept(l, c, u, head):
        conn_eof(l, c, True)
        return
    conn_upgraded(l, c)
    _opened(l, c)
    if rest < len_bytes:
        _frames(l, b, c, data + rest, len_bytes - rest)


cdef bint _keep(UwsLoop* l, UwsSide* side, const uint8_t* data, size_t len_bytes) noexcept nogil:
    """Append to the bytes of the request head, at most one byte more than it may have: the parser refuses that one."""
    cdef size_t room = <size_t>l.limits.upgrade.max_head_bytes + 1 - side.head_len
    cdef uint8_t* grown
    if len_bytes > room:
        len_bytes = room
    if side.head_cap - side.head_len < len_bytes:
        grown = <uint8_t*>slab_grow(&l.slab, side.head, side.head_len, side.head_len + len_bytes, &side.head_cap)
        if grown == NULL:
            return False
        side.head = grown
    memcpy(side.head + side.head_len, data, len_bytes)
    side.head_len += len_bytes
    return True


cdef bint _accept(UwsLoop* l, UwsConn* c, const UwsUpgrade* u, const uint8_t* head) noexcept nogil:
    """Queue the 101 and remember the target. False: out of memory."""
    cdef uint8_t response[256]
    cdef size_t n = response_accept(response, sizeof(response), u, NULL, 0, NULL, 0)
    cdef UwsSide* side = conn_side(l, c)
    cdef const uint8_t* target = head + u.target.off
    if side == NULL or n == 0 or outq_put(&side.out, &l.slab, response, n) != UWS_OK:
        return False
    if not (u.target.len == 1 and target[0] == 47):
        c.target = intern_take(&l.intern, target, u.target.len)
        if c.target == 0:
            return False
    l.count.upgraded += 1
    conn_dirty(l, c)
    return True


cdef void _opened(UwsLoop* l, UwsConn* c) noexcept nogil:
    cdef UwsEvent event
    if l.want & UWS_W_OPEN:
        memset(&event, 0, sizeof(event))
        event.kind = UWS_EV_OPEN
        if post_event(l, c, &event) != UWS_OK:
            conn_end(l, c, UWS_C_PROTOCOL, 1011, 1011, NULL, 0)


cdef void _answer(UwsLoop* l, UwsConn* c, const UwsUpgrade* u, const uint8_t* head, int status) noexcept nogil:
    """Queue the response to a request that is no upgrade: the page at "/", or a refusal."""
    cdef uint8_t response[UWS_MAX_REFUSAL_BYTES]
    cdef const uint8_t* body = response
    cdef size_t n
    cdef UwsSpan path, query
    cdef UwsSide* side
    if status == UWS_E_HTTP_426 and u.is_plain_get and l.page != NULL \
            and upgrade_target(u, head, &path, &query) == UWS_OK and path.len == 1:
        body = l.page
        n = l.page_len
    else:
        n = response_refuse(response, sizeof(response), status)
        l.count.refused += 1
    side = conn_side(l, c)
    if side == NULL or outq_put(&side.out, &l.slab, body, n) != UWS_OK:
        conn_eof(l, c, True)
        return
    conn_answered(l, c)
    conn_dirty(l, c)
