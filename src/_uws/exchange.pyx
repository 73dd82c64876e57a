# F6. One request that Python is asked about: what it says, and the ways to answer it. Holds a handle, never a pointer
# to a slot; the engine keeps the deadline. Made by dispatch, used by the library from any thread.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from _uws.conn cimport Conn, conn_new
from _uws.errs cimport UWS_OK
from _uws.handshake cimport UWS_MAX_SUBPROTOCOL_BYTES, UwsAcceptance, conn_accept, conn_asking
from _uws.keeper cimport keeper_addresses
from _uws.life cimport conn_answer, conn_refuse
from _uws.lock cimport conn_lock, conn_unlock
from _uws.peer cimport RawEnds, UwsRemote, remote_make, remote_take
from _uws.slot cimport conn_at
from _uws.sock cimport sock_local
from _uws.state cimport UWS_F_PINNED, UWS_M_EXTRA, UWS_MAX_HTTP_STATUS, UwsConn, pthread_mutex_lock
from _uws.upgrade cimport UwsSpan

cdef enum:
    INTERNAL_SERVER_ERROR = -500


@cython.final
cdef class Exchange:
    """A request head and the connection that waits for its answer. See exchange.pyi."""

    def __init__(self):
        raise TypeError("exchanges are made by the loop")

    def __repr__(self):
        # Without the target: there may be a ticket in its query.
        kind = "upgrade" if self.is_upgrade else "GET"
        return f"<Exchange {kind} from {self.ends.remote_addr}{' pending' if self.pending else ''}>"

    @property
    def target(self):
        return self.head[self.span.off : self.span.off + self.span.len].decode("latin-1")

    @property
    def pending(self):
        conn_lock(self.l)
        cdef bint waits = conn_asking(self.l, self.index, self.generation) != NULL
        conn_unlock(self.l)
        return waits

    def accept(self, bytes subprotocol not None=b"", bytes headers not None=b"", about=None,
               int64_t auth_timeout_ms=0, int64_t expires_ms=0):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        cdef Conn conn = None
        cdef UwsAcceptance with_
        cdef bint done = False
        if not self.is_upgrade:
            raise ValueError("the request asks for no upgrade")
        if len(subprotocol) > UWS_MAX_SUBPROTOCOL_BYTES:
            raise ValueError(f"a subprotocol has at most {UWS_MAX_SUBPROTOCOL_BYTES} bytes")
        if not 0 <= auth_timeout_ms <= 0x7FFFFFFF or not 0 <= expires_ms <= 1 << 62:
            raise ValueError("auth_timeout_ms has 31 bits, expires_ms 62")
        with_.subprotocol = <const uint8_t*>PyBytes_AS_STRING(subprotocol)
        with_.subprotocol_len = len(subprotocol)
        with_.headers = <const uint8_t*>PyBytes_AS_STRING(headers)
        with_.headers_len = len(headers)
        with_.auth_timeout_ms = <uint32_t>auth_timeout_ms
        with_.expires_ms = <uint64_t>expires_ms
        with_.decided = True
        if about is not None:
            conn = conn_new(self.owner, l, self.index, self.generation)
            conn.about = about
            about.conn = conn
        conn_lock(l)
        c = conn_asking(l, self.index, self.generation)
        if c != NULL:
            if conn is not None:
                # Before the connection is open: its first callback has to find it. And not before it is certain that
                # this is the answer: a connection that was accepted by another has that one's Conn.
                c.conn = <void*>conn
            done = conn_accept(l, c, &with_)
            c = conn_at(l, self.index, self.generation)
            if conn is not None and c != NULL:
                if done:
                    # It keeps its Conn, as with data of the application's.
                    c.flags |= UWS_F_PINNED
                    Py_INCREF(conn)
                else:
                    c.conn = NULL
        if not done and conn is not None:
            conn.index = -1
        conn_unlock(l)
        return done

    def answer(self, int status, bytes response not None, bint is_dated=False):
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        cdef bint done = False
        if not 200 <= status <= UWS_MAX_HTTP_STATUS:
            raise ValueError(f"status {status} is none of an HTTP response")
        conn_lock(l)
        c = conn_asking(l, self.index, self.generation)
        if c != NULL:
            done = conn_answer(l, c, status, <const uint8_t*>PyBytes_AS_STRING(response), len(response), is_dated)
        conn_unlock(l)
        return done


cdef Exchange exchange_make(object owner, UwsLoop* l, int32_t index, uint32_t generation):
    """The request that waits in a connection's side block. None: it does not any more."""
    cdef UwsConn* c
    cdef Exchange exchange
    cdef size_t len_bytes = 0
    cdef UwsSpan target
    cdef UwsRemote remote
    cdef RawEnds ends = RawEnds.__new__(RawEnds)
    cdef bint is_upgrade = False, is_unnamed = False
    if l.limits.private_fds:
        with nogil:
            pthread_mutex_lock(&l.lock)
            keeper_addresses(l, index, generation, &remote.peer, &ends.local)
            conn_unlock(l)
    # No object is made under the lock: so the head is measured first and copied afterwards.
    conn_lock(l)
    c = conn_asking(l, index, generation)
    if c != NULL:
        len_bytes = c.side.upgrade.head_len
        target = c.side.upgrade.target
        is_upgrade = c.side.upgrade.status == UWS_OK
        remote_take(l, c, &remote)
        if not l.limits.private_fds:
            sock_local(index, &ends.local)
        # A proxy that passes bytes on and does not say whose vouches for none of them.
        is_unnamed = l.limits.proxy_protocol and not (c.marks & UWS_M_EXTRA and l.extra[index].peer != 0)
    conn_unlock(l)
    if len_bytes == 0:
        return None
    ends.is_secure = remote.is_secure
    ends.peer = remote.peer
    if remote.forwarded != 0 or is_unnamed:
        ends.client = remote_make(owner, l, &remote)
    if is_unnamed:
        memset(&ends.peer, 0, sizeof(ends.peer))
    cdef bytes head = PyBytes_FromStringAndSize(NULL, len_bytes)
    conn_lock(l)
    c = conn_asking(l, index, generation)
    if c != NULL:
        memcpy(PyBytes_AS_STRING(head), c.side.head, len_bytes)
    conn_unlock(l)
    if c == NULL:
        return None
    exchange = Exchange.__new__(Exchange)
    exchange.owner = owner
    exchange.l = l
    exchange.index = index
    exchange.generation = generation
    exchange.is_upgrade = is_upgrade
    exchange.head = head
    exchange.span = target
    exchange.ends = ends
    return exchange


cdef int exchange_fail(UwsLoop* l, int32_t index, uint32_t generation) except -1:
    """Answer 500, if there is no answer yet."""
    cdef UwsConn* c
    conn_lock(l)
    c = conn_asking(l, index, generation)
    if c != NULL:
        conn_refuse(l, c, INTERNAL_SERVER_ERROR)
    conn_unlock(l)
    return 0
