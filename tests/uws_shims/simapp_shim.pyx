# See simapp_shim.pxd.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from _uws.deflate cimport deflater_run
from _uws.deliver cimport (
    UWS_WAITED,
    UwsDelivery,
    deliver_done,
    deliver_held,
    deliver_look,
    deliver_next,
    deliver_next_note,
    deliver_wait,
    deliver_wait_room,
)
from _uws.errs cimport UWS_E_ARG, UWS_E_HTTP_403, UWS_E_NOMEM, UWS_MORE, UWS_OK
from _uws.flush cimport conn_dirty, conn_flush
from _uws.frame cimport UWS_OP_PING
from _uws.handshake cimport UwsAcceptance, conn_accept, conn_asking, conn_peer
from _uws.hold cimport conn_hold, conn_recall, conn_release, conn_suspend
from _uws.life cimport conn_abort, conn_close, conn_consumed, conn_goodbye, conn_raised, conn_refuse
from _uws.outq cimport outq_put_frame
from _uws.proto cimport (
    UWS_EVF_FINAL,
    UWS_EVF_FIRST,
    UWS_EV_CLOSE,
    UWS_EV_DRAIN,
    UWS_EV_FRAGMENT,
    UWS_EV_MESSAGE,
    UWS_EV_OPEN,
    UWS_EV_PONG,
    UWS_EV_RECALL,
    UWS_EV_REQUEST,
    UWS_P_OURS_KEPT,
    UWS_P_WINDOW,
    UwsEvent,
)
from _uws.send cimport (
    UWS_SEND_DROP,
    UWS_SEND_FLUSH,
    UWS_STRAIGHT_BYTES,
    send_deflated,
    send_frame,
    send_leave,
    send_may_go_straight,
    send_overflow,
    send_own,
    send_straight,
)
from _uws.slot cimport conn_at, conn_side, conn_takes, conn_trim
from _uws.sock cimport sockaddr_storage
from _uws.state cimport (
    UWS_C_ABORT,
    UWS_C_CALLBACK,
    UWS_C_LIMIT,
    UWS_C_LOCAL,
    UWS_C_LOST,
    UWS_C_MEMORY,
    UWS_C_PEER,
    UWS_C_PROTOCOL,
    UWS_C_REVOKED,
    UWS_M_MUTE,
    UWS_OVERFLOW_BLOCK,
    UWS_OVERFLOW_DROP_OLDEST,
    UWS_S_OPEN,
    UWS_W_OPEN,
    UwsConn,
    pthread_mutex_lock,
    pthread_mutex_trylock,
    pthread_mutex_unlock,
)
from _uws.tend cimport conn_expires_in

from uws_shims.simpeer_shim cimport (
    ASKS_WELL,
    DISTRUSTED,
    NAMED_IN_BYTES,
    NAMED_IN_TEXT,
    PEER_LONGEST_BYTES,
    Peer,
    heard_byte,
    heard_bytes,
    said,
    said_bytes,
    said_opcode,
)
from uws_shims.simworld cimport World

cdef enum:
    OURS = 64                     # as in simpeer_shim: whom the application's messages are from
    MOST_SENT = 48                # messages to one client

cdef uint8_t MESSAGE[PEER_LONGEST_BYTES + 4]
cdef uint8_t APART[PEER_LONGEST_BYTES + 4]       # of who has the deflater


cdef Peer* _peer(World* w, int32_t index, uint32_t generation) noexcept nogil:
    """Whose connection it is. The descriptor is open, and so the same client's, until its last event is consumed."""
    cdef Peer* p = &w.peer[w.k.owner(index)]
    if p.index < 0:
        p.index = index
        p.generation = generation
    elif p.index != index or p.generation != generation:
        w.k.fail("client %d: events of two connections", p.id)
    return p


cdef uint32_t _write(World* w, Peer* p, uint8_t* out) noexcept nogil:
    """The next message to p, which gets its number."""
    cdef uint32_t number = p.accepted, n = heard_bytes(p.id, number, w.answer_bytes), i
    for i in range(n):
        out[i] = heard_byte(p.id, number, i)
    p.accepted += 1
    return n


cdef int _send_deflated(World* w, Peer* p, int window_bits) noexcept nogil:
    """As _deflated() of write does. The lock is held on entry, and not on return."""
    cdef const uint8_t* out = NULL
    cdef size_t made = 0
    cdef int opcode = said_opcode(p.id + OURS, p.accepted), status, done
    cdef uint32_t n
    pthread_mutex_unlock(&w.l.lock)
    if p.is_compressed or pthread_mutex_trylock(&w.l.deflate_lock) != 0:
        # Who has it is a caller of this.
        return UWS_E_ARG
    # Which of two threads is the first to queue its message is not known before; so only one may be at it.
    p.is_compressed = 1
    n = _write(w, p, APART)
    done = deflater_run(&w.l.deflater, window_bits, APART, n, &out, &made)
    pthread_mutex_lock(&w.l.lock)
    status = send_deflated(&w.l, p.index, p.generation, opcode, done, APART, n, out, made)
    p.is_compressed = 0
    if status == UWS_MORE or status == UWS_E_ARG:
        p.accepted -= 1
    elif status == UWS_E_NOMEM:
        p.may_skip = 1
    if send_leave(&w.l, p.index, p.generation, status) == UWS_MORE:
        return UWS_MORE
    return UWS_OK


cdef void app_send(World* w, Peer* p, UwsDelivery* d) noexcept nogil:
    """As write_message() does."""
    cdef UwsConn* c
    cdef uint32_t n, number
    cdef bint is_deflated
    cdef uint64_t deadline = 0
    cdef int status
    if p.accepted >= MOST_SENT:
        return
    while True:
        pthread_mutex_lock(&w.l.lock)
        c = conn_at(&w.l, p.index, p.generation)
        if not conn_takes(c):
            pthread_mutex_unlock(&w.l.lock)
            return
        if c.side != NULL and c.side.out.bytes >= w.l.limits.max_buffered_bytes:
            if w.l.limits.overflow != UWS_OVERFLOW_BLOCK:
                if w.l.limits.overflow == UWS_OVERFLOW_DROP_OLDEST:
                    p.may_skip = 1
                status = send_overflow(&w.l, c)
                pthread_mutex_unlock(&w.l.lock)
                if status == UWS_SEND_DROP or status == UWS_E_ARG:
                    return
                continue
            if d == NULL or deadline != 0:
                pthread_mutex_unlock(&w.l.lock)
                return
            deadline = w.k.now() + w.k.below(30000)
            conn_flush(&w.l, c)
            w.k.trace("  a send to client %d waits for room", p.id)
            status = deliver_wait_room(&w.l, p.index, p.generation, d.role, deadline)
            pthread_mutex_unlock(&w.l.lock)
            if status != UWS_WAITED:
                return
            continue
        if p.is_compressed:
            pthread_mutex_unlock(&w.l.lock)
            return
        is_deflated = c.proto.flags & UWS_P_WINDOW != 0 and w.k.below(2) != 0
        if is_deflated and not (c.proto.flags & UWS_P_OURS_KEPT):
            if _send_deflated(w, p, c.proto.flags & UWS_P_WINDOW) == UWS_MORE:
                continue
            return
        number = p.accepted
        n = _write(w, p, MESSAGE)
        if is_deflated:
            status = send_own(&w.l, c, said_opcode(p.id + OURS, number), MESSAGE, n)
        elif n >= UWS_STRAIGHT_BYTES and send_may_go_straight(&w.l, c) and (d == NULL or d.at == d.end):
            status = send_straight(&w.l, c, said_opcode(p.id + OURS, number), MESSAGE, n)
        else:
            status = send_frame(&w.l, c, said_opcode(p.id + OURS, number), 0, MESSAGE, n, n)
        if status == UWS_E_NOMEM:
            # Perhaps some of it has left, and the connection has ended: its number is not given out again.
            p.may_skip = 1
        if status == UWS_SEND_FLUSH:
            send_leave(&w.l, p.index, p.generation, status)
        else:
            pthread_mutex_unlock(&w.l.lock)
        return


cdef void _ping(World* w, Peer* p) noexcept nogil:
    cdef UwsConn* c
    pthread_mutex_lock(&w.l.lock)
    c = conn_at(&w.l, p.index, p.generation)
    if conn_takes(c) and conn_side(&w.l, c) != NULL \
            and outq_put_frame(&c.side.out, &w.l.slab, UWS_OP_PING, 0, <const uint8_t*>b"there?", 6) == UWS_OK:
        conn_dirty(&w.l, c)
    pthread_mutex_unlock(&w.l.lock)


cdef void _expire(World* w, Peer* p) noexcept nogil:
    """Its credential is good for so long from now."""
    cdef UwsConn* c
    pthread_mutex_lock(&w.l.lock)
    c = conn_at(&w.l, p.index, p.generation)
    if conn_takes(c):
        conn_expires_in(&w.l, c, w.k.below(2000))
    pthread_mutex_unlock(&w.l.lock)


cdef void _end(World* w, Peer* p, int how) noexcept nogil:
    """conn.close(), conn.abort(), a callback that raises, or server.disconnect()."""
    cdef UwsConn* c
    pthread_mutex_lock(&w.l.lock)
    c = conn_at(&w.l, p.index, p.generation)
    if c != NULL:
        p.is_ended = 1
        if how == 0:
            w.k.trace("  close of client %d", p.id)
            conn_close(&w.l, c, UWS_C_LOCAL, 1000, <const uint8_t*>b"bye", 3)
        elif how == 1:
            w.k.trace("  abort of client %d", p.id)
            conn_abort(&w.l, c, UWS_C_ABORT)
        elif how == 2:
            w.k.trace("  a callback of client %d raises", p.id)
            conn_raised(&w.l, c)
        else:
            w.k.trace("  client %d is disconnected", p.id)
            if not conn_takes(c):
                # Its close frame says why it was closed before, and what it has not got of the queue it does not get.
                p.may_skip = 1
            conn_close(&w.l, c, UWS_C_REVOKED, DISTRUSTED, NULL, 0)
    pthread_mutex_unlock(&w.l.lock)


cdef void _hold(World* w, Peer* p) noexcept nogil:
    cdef UwsConn* c
    if p.suspended:
        return
    pthread_mutex_lock(&w.l.lock)
    c = conn_at(&w.l, p.index, p.generation)
    if c != NULL and conn_hold(&w.l, c) == UWS_OK:
        w.k.trace("  client %d is paused", p.id)
        p.resumes_us = w.k.now() + 1 + w.k.below(400000)
    pthread_mutex_unlock(&w.l.lock)


cdef void _suspend(World* w, Peer* p) noexcept nogil:
    """The callback goes on elsewhere."""
    cdef UwsConn* c
    pthread_mutex_lock(&w.l.lock)
    c = conn_at(&w.l, p.index, p.generation)
    if c != NULL and conn_suspend(&w.l, c) == UWS_OK:
        w.k.trace("  client %d is suspended", p.id)
        p.suspended = 1
        p.resumes_us = w.k.now() + 1 + w.k.below(2000000)
    pthread_mutex_unlock(&w.l.lock)


cdef void app_resume(World* w, Peer* p) noexcept nogil:
    cdef UwsConn* c
    pthread_mutex_lock(&w.l.lock)
    p.resumes_us = 0
    c = conn_at(&w.l, p.index, p.generation)
    if p.suspended:
        w.k.trace("  client %d is recalled", p.id)
        if c == NULL or not conn_recall(&w.l, c):
            w.k.fail("client %d is suspended, and cannot be recalled", p.id)
    elif c != NULL:
        conn_release(&w.l, c)
        conn_trim(&w.l, c)
    pthread_mutex_unlock(&w.l.lock)


cdef void app_answer(World* w, Peer* p) noexcept nogil:
    """A request that waits is answered."""
    cdef UwsConn* c
    cdef UwsAcceptance accepted
    memset(&accepted, 0, sizeof(accepted))
    pthread_mutex_lock(&w.l.lock)
    p.asks = 0
    c = conn_asking(&w.l, p.index, p.generation)
    if c != NULL:
        if c.side.upgrade.status == UWS_OK and not w.k.mishap(6):
            accepted.decided = True
            if w.k.below(8) == 0:
                accepted.expires_ms = 1 + w.k.below(3000)
            conn_accept(&w.l, c, &accepted)
        else:
            conn_refuse(&w.l, c, UWS_E_HTTP_403)
    pthread_mutex_unlock(&w.l.lock)


cdef void _receive(World* w, Peer* p, UwsDelivery* d) noexcept nogil:
    """A callback reads the next message itself."""
    cdef int status
    pthread_mutex_lock(&w.l.lock)
    w.k.trace("  a callback of client %d reads on", p.id)
    p.awaited = 1
    status = deliver_wait(&w.l, d, w.k.below(20000) if w.k.below(2) else 0)
    p.awaited = 0
    pthread_mutex_unlock(&w.l.lock)
    if status == UWS_WAITED:
        _told(w, p, d.event)


cdef void app_act(World* w, Peer* p, UwsDelivery* d) noexcept nogil:
    """Something out of the ordinary; d: by a callback of it."""
    cdef uint32_t which = w.k.below(14), _
    if which == 0:
        _end(w, p, 0)
    elif which == 1:
        _end(w, p, 1)
    elif which == 2 and d != NULL:
        _end(w, p, 2)
    elif which < 5:
        _hold(w, p)
    elif which == 5 and not p.suspended:
        app_resume(w, p)
    elif which == 6:
        _ping(w, p)
    elif which == 12:
        _expire(w, p)
    elif which == 13:
        _end(w, p, 3)
    elif which == 11 and d != NULL and not p.suspended:
        _suspend(w, p)
    elif which < 9 and d != NULL:
        _receive(w, p, d)
    else:
        for _ in range(1 + w.k.below(8)):
            app_send(w, p, d)


cdef void _told(World* w, Peer* p, const UwsEvent* event) noexcept nogil:
    """The application gets a message of p, or a piece of one: is it the next, and all of it?"""
    cdef uint32_t size = said_bytes(p.id, p.told, p.longest_bytes), i
    cdef bint first = event.kind == UWS_EV_MESSAGE or event.flags & UWS_EVF_FIRST != 0
    cdef bint last = event.kind == UWS_EV_MESSAGE or event.flags & UWS_EVF_FINAL != 0
    if p.opens == 0 or p.closes != 0:
        w.k.fail("client %d: a message before on_connect, or after on_close", p.id)
    if first == p.told_begun:
        w.k.fail("client %d: message %u begins %s", p.id, p.told,
                 <const char*>b"twice" if first else <const char*>b"in its middle")
    p.told_begun = 1
    if event.opcode != said_opcode(p.id, p.told):
        w.k.fail("client %d: message %u comes as opcode %u", p.id, p.told, event.opcode)
    if event.len_bytes > size - p.told_at:
        w.k.fail("client %d: %u bytes of message %u, which has %u", p.id, p.told_at + <uint32_t>event.len_bytes, p.told,
                 size)
    for i in range(<uint32_t>event.len_bytes):
        if event.data[i] != said(p.id, p.told, p.told_at + i):
            w.k.fail("client %d: byte %u of message %u is %u", p.id, p.told_at + i, p.told, event.data[i])
    p.told_at += <uint32_t>event.len_bytes
    if not last:
        return
    if p.told_at != size:
        w.k.fail("client %d: message %u ends after %u bytes of %u", p.id, p.told, p.told_at, size)
    if p.told >= p.composed or p.end_of[p.told] > p.sent:
        w.k.fail("client %d: message %u comes before it was sent", p.id, p.told)
    p.told += 1
    p.told_at = p.told_begun = 0


cdef uint32_t _said_by(const Peer* p, uint32_t sent) noexcept nogil:
    """How many messages the first bytes that it sent hold."""
    cdef uint32_t n = 0
    while n < p.composed and p.end_of[n] <= sent:
        n += 1
    return n


cdef inline bint _is_failed(int cause) noexcept nogil:
    """Has the connection been failed, with a code of ours?"""
    return cause == UWS_C_PROTOCOL or cause == UWS_C_LIMIT or cause == UWS_C_CALLBACK or cause == UWS_C_MEMORY


cdef void _told_end(World* w, Peer* p, const UwsEvent* event, const UwsConn* c) noexcept nogil:
    """on_close: once, and for a reason that is one."""
    cdef bint ours = c.marks & UWS_M_MUTE or w.is_scarce
    cdef uint32_t whole
    w.k.trace("  on_close of client %d: code %u, cause %u, %u messages", p.id, event.code, event.cause, p.told)
    if p.opens == 0 and w.l.want & UWS_W_OPEN and not w.is_scarce:
        w.k.fail("client %d: on_close without on_connect", p.id)
    if p.closes != 0:
        w.k.fail("client %d: a second on_close", p.id)
    if p.suspended:
        w.k.fail("client %d: on_close while it is suspended", p.id)
    p.closes = 1
    p.cause = event.cause
    w.totals.causes[event.cause] += 1
    if event.cause == UWS_C_PROTOCOL and not p.said_wrong:
        w.k.fail("client %d broke no rule, and is told %u", p.id, event.code)
    if event.code != 1006 and not _is_failed(event.cause) and (not p.said_close or event.code != p.said_code):
        w.k.fail("client %d: told %u, where it has said %u", p.id, event.code, p.said_code)
    if event.cause == UWS_C_LIMIT and not p.said_wrong and w.l.limits.max_partial_bytes > 1 << 20:
        w.k.fail("client %d went above no limit, and is told %u", p.id, event.code)
    if event.cause == UWS_C_PEER:
        if not p.said_close:
            w.k.fail("client %d never said close", p.id)
        if not ours and p.told != p.before_close:
            w.k.fail("client %d: %u messages of %u before its close frame", p.id, p.told, p.before_close)
    elif event.cause == UWS_C_LOST and w.weather.no_watch == 0 and not ours:
        if not p.has_fin and not p.has_reset:
            w.k.fail("client %d is there, and taken for lost", p.id)
        whole = _said_by(p, p.fin_at)
        if p.told != whole:
            w.k.fail("client %d: %u messages of %u before its end", p.id, p.told, whole)


cdef void _closed(World* w, UwsDelivery* d, UwsEvent* event) noexcept nogil:
    """As Dispatch._closed() does."""
    cdef Peer* p = _peer(w, d.index, d.generation)
    cdef UwsConn* c
    pthread_mutex_lock(&w.l.lock)
    c = conn_at(&w.l, d.index, d.generation)
    if c == NULL:
        w.k.fail("client %d: the slot is free before on_close", p.id)
    _told_end(w, p, event, c)
    conn_goodbye(&w.l, c)
    pthread_mutex_unlock(&w.l.lock)
    if w.k.mishap(w.oddness):
        app_act(w, p, NULL)
    pthread_mutex_lock(&w.l.lock)
    c = conn_at(&w.l, d.index, d.generation)
    if c != NULL:
        conn_goodbye(&w.l, c)
        conn_consumed(&w.l, c)
    pthread_mutex_unlock(&w.l.lock)


cdef void _check_name(World* w, Peer* p) noexcept nogil:
    """It is known by what the PROXY header said, or else by the other end of its socket."""
    cdef sockaddr_storage address
    cdef const uint8_t* text = <const uint8_t*>&address
    cdef bint is_named = p.header == NAMED_IN_TEXT or p.header == NAMED_IN_BYTES
    cdef UwsConn* c
    pthread_mutex_lock(&w.l.lock)
    c = conn_at(&w.l, p.index, p.generation)
    if c != NULL and c.state == UWS_S_OPEN:
        conn_peer(&w.l, c, &address)
        # Port and address of IPv4, in network byte order.
        if (text[2] << 8 | text[3]) != (p.id + 1000 if is_named else 0) \
                or text[4] != (192 if is_named else 127) or text[7] != (p.id + 1 if is_named else 1):
            w.k.fail("client %d, named by a header of kind %u, is %u.%u.%u.%u, port %u", p.id, p.header, text[4],
                     text[5], text[6], text[7], text[2] << 8 | text[3])
    pthread_mutex_unlock(&w.l.lock)


cdef void _callback(World* w, UwsDelivery* d, UwsEvent* event) noexcept nogil:
    cdef Peer* p = _peer(w, d.index, d.generation)
    if not p.opens:
        _check_name(w, p)
    if p.closes:
        w.k.fail("client %d: event %u after on_close", p.id, event.kind)
    if event.kind == UWS_EV_RECALL:
        if not p.suspended or p.resumes_us != 0:
            w.k.fail("client %d: on_recall, and nobody has recalled it", p.id)
        w.k.trace("  on_recall of client %d", p.id)
        p.suspended = 0
    elif p.suspended and event.kind != UWS_EV_DRAIN:
        w.k.fail("client %d: event %u while it is suspended", p.id, event.kind)
    if not (w.l.want & UWS_W_OPEN):
        # Nobody tells.
        p.opens = 1
    if event.kind == UWS_EV_OPEN:
        if p.opens or p.request != ASKS_WELL:
            w.k.fail("client %d: on_connect, the %u. of a request of kind %u", p.id, p.opens + 1, p.request)
        w.k.trace("  on_connect of client %d", p.id)
        p.opens = 1
        if w.k.below(3) == 0:
            app_send(w, p, d)
    elif event.kind == UWS_EV_MESSAGE or event.kind == UWS_EV_FRAGMENT:
        _told(w, p, event)
        if w.k.below(3):
            app_send(w, p, d)
    elif event.kind == UWS_EV_DRAIN:
        w.k.trace("  on_drain of client %d", p.id)
        app_send(w, p, d)
    elif event.kind != UWS_EV_PONG and event.kind != UWS_EV_RECALL:
        w.k.fail("client %d: event %u", p.id, event.kind)
    if w.k.mishap(w.oddness):
        app_act(w, p, d)
    if w.k.mishap(w.takeovers):
        w.stand_in()


cdef bint app_step(World* w, UwsDelivery* d) noexcept nogil:
    """One callback of a delivery, as Dispatch._callbacks() does. False: there is none left, and it is done."""
    cdef UwsEvent* event = NULL
    cdef Peer* p
    cdef bint held = False
    if w.l.orders != d.orders:
        pthread_mutex_lock(&w.l.lock)
        deliver_look(&w.l, d)
        pthread_mutex_unlock(&w.l.lock)
    if d.is_held and d.batch != NULL:
        pthread_mutex_lock(&w.l.lock)
        held = deliver_held(&w.l, d)
        pthread_mutex_unlock(&w.l.lock)
    if not held:
        event = deliver_next(d)
        if event == NULL and d.batch == NULL:
            pthread_mutex_lock(&w.l.lock)
            event = deliver_next_note(&w.l, d)
            pthread_mutex_unlock(&w.l.lock)
    if event == NULL:
        pthread_mutex_lock(&w.l.lock)
        deliver_done(&w.l, d)
        pthread_mutex_unlock(&w.l.lock)
        return False
    if event.kind == UWS_EV_REQUEST:
        p = _peer(w, d.index, d.generation)
        w.k.trace("  client %d asks", p.id)
        p.asks = 1
        if w.k.below(2):
            app_answer(w, p)
    elif event.kind == UWS_EV_CLOSE:
        _closed(w, d, event)
        pthread_mutex_lock(&w.l.lock)
        deliver_done(&w.l, d)
        pthread_mutex_unlock(&w.l.lock)
        return False
    elif event.kind == UWS_EV_OPEN or event.kind == UWS_EV_RECALL or not d.is_muted:
        _callback(w, d, event)
    return True
