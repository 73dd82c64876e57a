# F5. See read.pxd.

from libc.stdint cimport uint8_t

from _uws.handshake cimport conn_request
from _uws.hold cimport conn_rest
from _uws.life cimport conn_eof
from _uws.post cimport post_flooded
from _uws.proto cimport UWS_P_WINDOW
from _uws.proxy cimport UWS_PROXY_MAX_BYTES
from _uws.slot cimport conn_heavy, conn_index
from _uws.sock cimport UWS_SOCK_AGAIN
from _uws.state cimport (
    UWS_F_BUSY,
    UWS_F_PROXIED,
    UWS_F_READY,
    UWS_FLOODED_TICKS,
    UWS_M_LISTEN,
    UWS_M_PINGED,
    UWS_PING_WINDOW,
    UWS_READ_BYTES,
    UWS_S_CLOSE_SENT,
    UWS_S_LEAVING,
    UWS_S_OPEN,
    UWS_S_UPGRADING,
)
from _uws.traffic cimport conn_frames

cdef enum:
    BUSY_READ_BYTES = 8192
    # Of anybody while all inboxes are full: a ping and its answer fit, a message waits in the kernel.
    FLOODED_READ_BYTES = 1024
    # Of a connection whose messages may be a thousand times what they come as: to inflate four of 1 MiB takes 10 ms,
    # for which everybody else waits. Where the last was of that kind, one at a time.
    DEFLATED_READ_BYTES = 4096
    HEAVY_READ_BYTES = 1024


cdef inline size_t _want(const UwsLoop* l, const UwsConn* c) noexcept nogil:
    cdef size_t room
    if c.state == UWS_S_UPGRADING:
        # One byte more than a head may have, so that the parser refuses it. What came behind a head has to be kept
        # while Python decides: that is bounded by this, too.
        room = <size_t>l.limits.upgrade.max_head_bytes + 1
        if l.limits.proxy_protocol and not (c.flags & UWS_F_PROXIED):
            room += UWS_PROXY_MAX_BYTES
        if c.side != NULL:
            room -= c.side.head_len
        return room if room < UWS_READ_BYTES else UWS_READ_BYTES
    if post_flooded(l):
        return FLOODED_READ_BYTES
    if c.proto.flags & UWS_P_WINDOW:
        return HEAVY_READ_BYTES if conn_heavy(l, c) else DEFLATED_READ_BYTES
    # One whose callbacks do not keep up is read in small bites: each of its messages may cost more than its bytes.
    if c.flags & (UWS_F_BUSY | UWS_F_READY):
        return BUSY_READ_BYTES
    return UWS_READ_BYTES


cdef inline bint _would_grow(const UwsConn* c) noexcept nogil:
    """May what c sends become much more than is read of it, while all inboxes are full? There may be very many of its
    kind. Others are read on as long as they have nothing waiting: their pings are to be answered."""
    if c.proto.flags & UWS_P_WINDOW:
        return True
    # In the middle of a message no ping is answered anyway, but for those between its fragments. Where a callback waits
    # for the message it is not for this to keep it waiting.
    return c.proto.part != NULL and c.proto.part.buf != NULL and not (c.flags & UWS_F_BUSY)


cdef void conn_read(UwsLoop* l, UwsBatch* b, UwsConn* c) noexcept nogil:
    """Receive once and deal with what came. b has room for it; the slot may be free afterwards."""
    cdef uint8_t* data = b.arena + b.used_bytes
    cdef ssize_t n
    if (c.state == UWS_S_OPEN or c.state == UWS_S_LEAVING) and post_flooded(l) and _would_grow(c):
        conn_rest(l, c, UWS_FLOODED_TICKS)
        return
    n = l.io.recv(conn_index(l, c), data, _want(l, c))
    if n <= 0:
        if n != UWS_SOCK_AGAIN:
            conn_eof(l, c, n < 0)
        return
    l.count.bytes_in += <size_t>n
    if c.state == UWS_S_UPGRADING:
        conn_request(l, b, c, data, <size_t>n)
        return
    if c.state == UWS_S_OPEN:
        if (l.tick ^ c.proto.heard) >= UWS_PING_WINDOW:
            c.proto.spare = 0    # a new second of pings
        c.proto.heard = l.tick
        c.marks &= ~UWS_M_PINGED
        conn_frames(l, b, c, data, <size_t>n)
    elif c.state == UWS_S_LEAVING or c.state == UWS_S_CLOSE_SENT or c.marks & UWS_M_LISTEN:
        conn_frames(l, b, c, data, <size_t>n)
    # Otherwise it is over, and what still comes is dropped.
