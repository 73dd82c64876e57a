# F5. See handshake.pxd.

from libc.string cimport memcmp, memcpy, memset

from _uws.deflate cimport UWS_DEFLATE_ANSWER_BYTES, UwsDeflateTerms, deflate_negotiate, deflate_own
from _uws.errs cimport UWS_E_HTTP_400, UWS_E_HTTP_403, UWS_E_HTTP_426, UWS_E_HTTP_503, UWS_MORE, UWS_OK
from _uws.flush cimport conn_dirty
from _uws.intern cimport intern_get, intern_take
from _uws.life cimport conn_answer, conn_ask, conn_eof, conn_refuse, conn_starve, conn_upgraded
from _uws.outq cimport outq_put
from _uws.post cimport post_event
from _uws.proto cimport UWS_EV_OPEN, UWS_EV_REQUEST, UWS_P_OURS_KEPT, UWS_P_PEERS_KEPT, UwsEvent
from _uws.proxy cimport UWS_A_NONE, UWS_A_UNIX, UwsProxy, proxy_collect, proxy_parse, proxy_trusts
from _uws.response cimport response_accept
from _uws.slab cimport slab_give, slab_grow, slab_take
from _uws.slot cimport conn_at, conn_extra, conn_index, conn_side, loop_foreign, side_give_request
from _uws.sock cimport sock_compose, sock_kind, sock_peer, sockaddr_storage
from _uws.state cimport (
    UWS_F_PROXIED,
    UWS_M_EXTRA,
    UWS_M_STRANGER,
    UWS_MAX_FORWARDED_BYTES,
    UWS_S_ASKING,
    UWS_S_OPEN,
    UWS_W_OPEN,
    UWS_W_REQUEST,
    UWS_W_ROUTE,
    UwsExtra,
    UwsSide,
)
from _uws.tend cimport conn_expires_in, conn_tended
from _uws.traffic cimport conn_frames
from _uws.upgrade cimport UwsSpan, UwsUpgrade, upgrade_init, upgrade_parse, upgrade_protocols, upgrade_target

cdef enum:
    RESPONSE_BYTES = 1024         # the 101 without the application's fields


cdef void conn_request(UwsLoop* l, UwsBatch* b, UwsConn* c, uint8_t* data, size_t len_bytes) noexcept nogil:
    """Go on with the request head. One that comes in one piece, as nearly all do, is parsed where it was received."""
    cdef UwsUpgrade whole
    cdef UwsUpgrade* u = &whole
    cdef UwsSide* side = c.side
    cdef uint8_t* head = data
    cdef size_t have = len_bytes, before = 0, rest
    cdef UwsAcceptance plain
    cdef ssize_t proxied
    cdef int status
    if l.limits.proxy_protocol and not (c.flags & UWS_F_PROXIED):
        proxied = _proxied(l, c, data, len_bytes)
        if proxied < 0 or <size_t>proxied == len_bytes:
            return
        data += proxied
        len_bytes -= <size_t>proxied
        side = c.side
        head = data
        have = len_bytes
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
        if u == &whole and not _keep_all(l, c, u, data, len_bytes):
            conn_eof(l, c, True)
        return
    if l.n_trusted != 0 and (status == UWS_OK or u.is_plain_get) and not _forwarded(l, c, u, head):
        conn_eof(l, c, True)
        return
    if status == UWS_OK and l.draining:
        # Whoever came in now would be asked to leave at once; elsewhere there is a server that stays.
        conn_refuse(l, c, UWS_E_HTTP_503)
    elif status == UWS_OK and not (l.want & UWS_W_REQUEST):
        # The head ended within what was received just now: what is behind it are the first frames.
        rest = u.head_len - before
        memset(&plain, 0, sizeof(plain))
        if not _accept(l, c, u, head, &plain):
            conn_eof(l, c, True)
        elif rest < len_bytes and c.state == UWS_S_OPEN:
            conn_frames(l, b, c, data + rest, len_bytes - rest)
    elif status == UWS_OK or (l.want & UWS_W_ROUTE and status == UWS_E_HTTP_426 and u.is_plain_get
                              and not _is_page(l, u, head)):
        if u == &whole and not _keep_all(l, c, u, data, len_bytes):
            conn_eof(l, c, True)
            return
        _ask(l, c)
    else:
        _refuse(l, c, u, head, status)


cdef bint _keep(UwsLoop* l, UwsSide* side, const uint8_t* data, size_t len_bytes) noexcept nogil:
    """Append to the bytes of the request head; read() sees to it that they are not many more than it may have."""
    cdef uint8_t* grown
    if side.head_cap - side.head_len < len_bytes:
        grown = <uint8_t*>slab_grow(&l.slab, side.head, side.head_len, side.head_len + len_bytes, &side.head_cap)
        if grown == NULL:
            return False
        side.head = grown
    memcpy(side.head + side.head_len, data, len_bytes)
    side.head_len += len_bytes
    return True


cdef bint _keep_all(UwsLoop* l, UwsConn* c, const UwsUpgrade* u, const uint8_t* data, size_t len_bytes) noexcept nogil:
    """Keep a request that was parsed where it was received. False: out of memory."""
    cdef UwsSide* side = conn_side(l, c)
    if side == NULL:
        return False
    side.upgrade = <UwsUpgrade*>slab_take(&l.slab, sizeof(UwsUpgrade), NULL)
    if side.upgrade == NULL:
        return False
    side.upgrade[0] = u[0]
    return _keep(l, side, data, len_bytes)


# ---- proxies

cdef ssize_t _proxied(UwsLoop* l, UwsConn* c, uint8_t* data, size_t len_bytes) noexcept nogil:
    """Read the PROXY header: how many of the bytes just received belong to it, or -1 if the request cannot be read yet,
    or never. The slot may be free then."""
    cdef UwsProxy proxy
    cdef UwsSide* side = c.side
    cdef const uint8_t* header = data
    cdef size_t have = len_bytes, before = 0
    cdef int status
    if side != NULL and side.head != NULL:
        before = side.head_len
        if not _keep(l, side, data, len_bytes):
            conn_eof(l, c, True)
            return -1
        header = side.head
        have = side.head_len
    elif not _trusted(l, c):
        # Anybody could say that he is anybody.
        conn_refuse(l, c, UWS_E_HTTP_403)
        return -1
    status = proxy_parse(header, have, &proxy)
    if status == UWS_MORE:
        if before == 0:
            side = conn_side(l, c)
            if side == NULL or not _keep(l, side, data, len_bytes):
                conn_eof(l, c, True)
        return -1
    if status != UWS_OK:
        conn_refuse(l, c, UWS_E_HTTP_400)
        return -1
    c.flags |= UWS_F_PROXIED
    if proxy.kind != UWS_A_NONE and not _set_peer(l, c, &proxy, header):
        conn_eof(l, c, True)
        return -1
    if before != 0:
        side_give_request(l, side)
    return <ssize_t>(proxy.len_bytes - before)


cdef bint _set_peer(UwsLoop* l, UwsConn* c, UwsProxy* proxy, const uint8_t* header) noexcept nogil:
    """Let c be known by the address that a PROXY header gave. False: out of memory."""
    cdef sockaddr_storage address
    cdef const uint8_t* addr = proxy.addr
    cdef size_t len_bytes = 16
    if proxy.kind == UWS_A_UNIX:
        addr = header + proxy.path_off
        len_bytes = proxy.path_len
    len_bytes = sock_compose(proxy.kind, addr, len_bytes, proxy.port, &address)
    (<uint8_t*>&address)[len_bytes] = proxy.is_secure
    conn_extra(l, c).peer = intern_take(&l.intern, <uint8_t*>&address, len_bytes + 1)
    return conn_extra(l, c).peer != 0


cdef bint _trusted(UwsLoop* l, UwsConn* c) noexcept nogil:
    """Is c's peer, as far as is known so far, one of the proxies that are believed?"""
    cdef sockaddr_storage address
    cdef const uint8_t* addr = NULL
    cdef int kind
    conn_peer(l, c, &address)
    kind = sock_kind(&address, &addr)
    return kind != UWS_A_NONE and proxy_trusts(l.trusted, l.n_trusted, kind, addr)


cdef bint conn_peer(UwsLoop* l, UwsConn* c, sockaddr_storage* out) noexcept nogil:
    """c's peer: whom a PROXY header named, or who is at the other end of the socket. Whether it speaks TLS, as far as a
    PROXY header said.

    Other threads than the keeper of a loop's own table find in out what they have put there: what it has told them."""
    cdef const uint8_t* text
    cdef size_t len_bytes = 0
    if c.marks & UWS_M_EXTRA and l.extra[conn_index(l, c)].peer != 0:
        memset(out, 0, sizeof(sockaddr_storage))
        text = intern_get(&l.intern, l.extra[conn_index(l, c)].peer, &len_bytes)
        memcpy(out, text, len_bytes - 1)
        return text[len_bytes - 1]
    if not loop_foreign(l):
        sock_peer(conn_index(l, c), out)
    return False


cdef bint _forwarded(UwsLoop* l, UwsConn* c, const UwsUpgrade* u, const uint8_t* head) noexcept nogil:
    """Keep what a trusted proxy says of its client, for when it is asked for. False: out of memory."""
    cdef uint8_t[UWS_MAX_FORWARDED_BYTES] value
    cdef size_t len_bytes
    if not _trusted(l, c):
        return True
    if l.limits.proxy_protocol and not (c.marks & UWS_M_EXTRA and l.extra[conn_index(l, c)].peer != 0):
        # It passes on whose bytes they are, and did not say: then it does not look at their fields either.
        return True
    len_bytes = proxy_collect(head, u.head_len, l.forwarded, l.forwarded_len, value, sizeof(value))
    if len_bytes != 0:
        conn_extra(l, c).forwarded = intern_take(&l.intern, value, len_bytes)
        return conn_extra(l, c).forwarded != 0
    return True


# ---- without Python

cdef size_t _choose(UwsLoop* l, const UwsUpgrade* u, const uint8_t* head, const uint8_t** chosen) noexcept nogil:
    """The first of our subprotocols that the client offers (RFC 6455, section 4.2.2, item 5): its length, or 0."""
    cdef UwsSpan[64] offered
    cdef const uint8_t* ours
    cdef size_t len_bytes = 0
    cdef int i, k, n
    if l.n_subprotocols == 0:
        return 0
    # Several fields are one list (RFC 6455, section 11.3.4), and the first of them may be empty.
    n = upgrade_protocols(u, head, offered)
    for i in range(l.n_subprotocols):
        ours = intern_get(&l.intern, l.subprotocol[i], &len_bytes)
        for k in range(n):
            if offered[k].len == len_bytes and memcmp(head + offered[k].off, ours, len_bytes) == 0:
                chosen[0] = ours
                return len_bytes
    return 0


cdef bint _is_page(UwsLoop* l, const UwsUpgrade* u, const uint8_t* head) noexcept nogil:
    cdef UwsSpan path, query
    return l.page != NULL and upgrade_target(u, head, &path, &query) == UWS_OK and path.len == 1


cdef bint _agree(UwsLoop* l, UwsConn* c, const UwsDeflateTerms* terms) noexcept nogil:
    """Remember what was agreed on about compression. False: out of memory."""
    cdef UwsExtra* extra
    c.proto.flags = terms.server_bits
    if terms.server_takeover:
        c.proto.flags |= UWS_P_OURS_KEPT
    if terms.client_takeover:
        c.proto.flags |= UWS_P_PEERS_KEPT
    if not (terms.server_takeover or terms.client_takeover):
        return True
    extra = conn_extra(l, c)
    extra.deflate = deflate_own(&l.slab, terms, &l.limits.deflate)
    return extra.deflate != NULL


cdef bint _accept(UwsLoop* l, UwsConn* c, const UwsUpgrade* u, const uint8_t* head,
                  const UwsAcceptance* with_) noexcept nogil:
    """Queue the 101, remember what the request leaves behind, and open. False: out of memory."""
    cdef uint8_t response[RESPONSE_BYTES]
    cdef const uint8_t* subprotocol = with_.subprotocol
    cdef size_t subprotocol_len = with_.subprotocol_len
    cdef const uint8_t* target = head + u.target.off
    cdef UwsSide* side = conn_side(l, c)
    cdef UwsExtra* extra
    cdef UwsEvent event
    cdef uint8_t extensions[UWS_DEFLATE_ANSWER_BYTES]
    cdef UwsDeflateTerms terms
    cdef uint64_t expires_ms = with_.expires_ms
    cdef size_t n, extensions_len
    if not with_.decided:
        subprotocol_len = _choose(l, u, head, &subprotocol)
    extensions_len = deflate_negotiate(u, head, &l.limits.deflate, &terms, extensions, sizeof(extensions))
    n = response_accept(response, sizeof(response), u, subprotocol, subprotocol_len, extensions, extensions_len,
                        with_.headers_len != 0)
    if side == NULL or n == 0 or outq_put(&side.out, &l.slab, response, n) != UWS_OK:
        return False
    if with_.headers_len != 0 and (outq_put(&side.out, &l.slab, with_.headers, with_.headers_len) != UWS_OK
                                   or outq_put(&side.out, &l.slab, <const uint8_t*>b"\r\n", 2) != UWS_OK):
        return False
    if subprotocol_len != 0:
        extra = conn_extra(l, c)
        extra.subprotocol = intern_take(&l.intern, subprotocol, subprotocol_len)
        if extra.subprotocol == 0:
            return False
    if terms.accepted and not _agree(l, c, &terms):
        return False
    if not (u.target.len == 1 and target[0] == 47):
        c.target = intern_take(&l.intern, target, u.target.len)
        if c.target == 0:
            return False
    l.count.upgraded += 1
    conn_upgraded(l, c)
    conn_dirty(l, c)
    if with_.auth_timeout_ms != 0:
        c.marks |= UWS_M_STRANGER
        if expires_ms == 0 or expires_ms > with_.auth_timeout_ms:
            expires_ms = with_.auth_timeout_ms
    if expires_ms != 0:
        conn_expires_in(l, c, expires_ms)
    conn_tended(l, c)
    if l.want & UWS_W_OPEN:
        memset(&event, 0, sizeof(event))
        event.kind = UWS_EV_OPEN
        if post_event(l, c, &event) != UWS_OK:
            conn_starve(l, c)
    return True


cdef void _refuse(UwsLoop* l, UwsConn* c, const UwsUpgrade* u, const uint8_t* head, int status) noexcept nogil:
    """Queue the response to a request that is no upgrade: the page at "/", or a refusal."""
    if status == UWS_E_HTTP_426 and u.is_plain_get and _is_page(l, u, head):
        conn_answer(l, c, 200, l.page, l.page_len, False)
    else:
        conn_refuse(l, c, status)


# ---- with Python

cdef void _ask(UwsLoop* l, UwsConn* c) noexcept nogil:
    cdef UwsEvent event
    memset(&event, 0, sizeof(event))
    event.kind = UWS_EV_REQUEST
    conn_ask(l, c)
    if post_event(l, c, &event) != UWS_OK:
        conn_refuse(l, c, UWS_E_HTTP_503)


cdef UwsConn* conn_asking(UwsLoop* l, int32_t index, uint32_t generation) noexcept nogil:
    """The connection whose request a handle means, if it still waits for its answer; NULL if not."""
    cdef UwsConn* c = conn_at(l, index, generation)
    # Where the loop stops it is dropped, if the keeper has not come to it yet.
    return c if c != NULL and c.state == UWS_S_ASKING and not l.stopping else NULL


cdef bint conn_accept(UwsLoop* l, UwsConn* c, const UwsAcceptance* with_) noexcept nogil:
    """ASKING -> OPEN as Python wants it; c waits for its answer. False: out of memory, it has ended."""
    cdef UwsSide* side = c.side
    cdef UwsUpgrade* u = side.upgrade
    cdef uint8_t* head = side.head
    cdef size_t len_bytes = side.head_len, begin = u.head_len
    # The first frames may be behind the head: it outlives the state that it belonged to.
    side.head = NULL
    side.upgrade = NULL
    cdef bint done = _accept(l, c, u, head, with_)
    if not done:
        conn_eof(l, c, True)
    elif begin < len_bytes and c.state == UWS_S_OPEN:
        conn_frames(l, NULL, c, head + begin, len_bytes - begin)
    slab_give(&l.slab, u)
    slab_give(&l.slab, head)
    return done
