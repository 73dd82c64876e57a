# F6. Handing events over to Python: the hooks, and whose turn it is. Owns the hooks of a loop; core's Loop is one.
# Lock order: the GIL, then the loop's lock; nobody waits for the GIL with the lock held.

import sys

cimport cython
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint32_t

from _uws.atomic cimport atomic_read, atomic_write
from _uws.conn cimport Conn, Py_REFCNT, conn_attach, conn_detach, conn_is_blank, conn_make
from _uws.deliver cimport (
    UwsDelivery,
    deliver_begin,
    deliver_done,
    deliver_held,
    deliver_look,
    deliver_next,
    deliver_next_note,
)
from _uws.exchange cimport Exchange, exchange_fail, exchange_make
from _uws.frame cimport UWS_OP_TEXT
from _uws.life cimport conn_consumed, conn_goodbye, conn_raised
from _uws.lock cimport conn_lock, conn_unlock
from _uws.messages cimport event_fragment, event_goes_on, event_payload, event_text
from _uws.proto cimport (
    UWS_EV_CLOSE,
    UWS_EV_DRAIN,
    UWS_EV_FRAGMENT,
    UWS_EV_MESSAGE,
    UWS_EV_OPEN,
    UWS_EV_PONG,
    UWS_EV_RECALL,
    UWS_EV_REQUEST,
    UWS_EVF_FINAL,
    UwsEvent,
)
from _uws.slot cimport conn_at
from _uws.state cimport (
    UWS_CAUSES,
    UWS_F_PINNED,
    UWS_W_CLOSE,
    UWS_W_DRAIN,
    UWS_W_MESSAGE,
    UWS_W_OPEN,
    UWS_W_PONG,
    UWS_W_REQUEST,
    UWS_W_ROUTE,
    UWS_W_STREAM,
    UwsBatch,
    UwsConn,
    UwsLoop,
)

cdef enum:
    # What a hook gets beside the connection: nothing, a message, a fragment.
    AS_CALL = 0
    AS_MESSAGE = 1
    AS_FRAGMENT = 2


# (close code, reason, cause), by cause, for those for whom there is no memory to say more.
cdef tuple ENDS = tuple([(1006, "", cause) for cause in range(UWS_CAUSES)])


cdef str _name_of(const UwsEvent* event, int how):
    """The name of the hook that is called for an event."""
    if event.kind == UWS_EV_OPEN:
        return "on_connect"
    if event.kind == UWS_EV_PONG:
        return "on_pong"
    if event.kind == UWS_EV_DRAIN:
        return "on_drain"
    if how == AS_CALL:
        return "on_read"
    return "on_fragment" if how == AS_FRAGMENT else "on_message"


cdef class Dispatch:
    """The hooks of a loop, and their calling. See dispatch.pyi."""

    def set_hook(self, str name, func):
        cdef object _before
        with cython.critical_section(self):
            if name == "on_connect":
                _before, self.on_connect = self.on_connect, func
            elif name == "on_read":
                _before, self.on_read = self.on_read, func
            elif name == "on_message":
                _before, self.on_message = self.on_message, func
            elif name == "on_fragment":
                _before, self.on_fragment = self.on_fragment, func
            elif name == "on_close":
                _before, self.on_close = self.on_close, func
            elif name == "on_pong":
                _before, self.on_pong = self.on_pong, func
            elif name == "on_drain":
                _before, self.on_drain = self.on_drain, func
            elif name == "on_recall":
                _before, self.on_recall = self.on_recall, func
            elif name == "on_request":
                _before, self.on_request = self.on_request, func
            elif name == "on_route":
                _before, self.on_route = self.on_route, func
            else:
                raise ValueError(f"there is no hook named {name!r}")
            # Waiting for the lock may let others in between; with it nobody comes.
            conn_lock(self.l)
            self.l.want = self._wanted()
            conn_unlock(self.l)

    cdef uint32_t _wanted(self) noexcept:
        """What the engine has to tell of, for the hooks there are."""
        cdef uint32_t want = 0
        if self.on_connect is not None:
            want |= UWS_W_OPEN
        if self.on_read is not None or self.on_message is not None or self.on_fragment is not None:
            want |= UWS_W_MESSAGE
        # on_message takes nothing but whole messages.
        if self.on_fragment is not None or (self.streaming and self.on_message is None):
            want |= UWS_W_STREAM
        if self.on_close is not None:
            want |= UWS_W_CLOSE
        if self.on_pong is not None:
            want |= UWS_W_PONG
        if self.on_drain is not None:
            want |= UWS_W_DRAIN
        if self.on_request is not None:
            want |= UWS_W_REQUEST
        if self.on_route is not None:
            want |= UWS_W_ROUTE
        return want

    cdef int _forget(self) except -1:
        """It calls nobody any more: a Conn that somebody keeps need not keep what the hooks hold."""
        cdef tuple _hooks
        with cython.critical_section(self):
            # What goes with them is called when this is done.
            _hooks = (self.on_connect, self.on_read, self.on_message, self.on_fragment, self.on_close,
                      self.on_request, self.on_route, self.on_drain, self.on_recall, self.on_pong, self.failed)
            self.on_connect = self.on_read = self.on_message = self.on_fragment = self.on_close = None
            self.on_request = self.on_route = self.on_drain = self.on_recall = self.on_pong = None
            self.failed = None
        return 0

    cdef int _deliver(self, UwsBatch* b, uint64_t role) except -1:
        """Run the callbacks of all that waits. The GIL is held, the lock is not."""
        cdef UwsLoop* l = self.l
        cdef UwsDelivery d
        cdef Conn conn = None, spare = None
        cdef void* known
        cdef bint lent, done
        d.role = role
        conn_lock(l)
        while deliver_begin(l, b, &d):
            known = l.table[d.index].conn
            lent = spare is not None and known == NULL and d.batch != NULL \
                and d.batch.events[d.at].kind == UWS_EV_MESSAGE
            if lent:
                conn_attach(spare, &l.table[d.index], d.index, d.generation)
            conn_unlock(l)
            # The last one's may go only now: dropping it takes the lock.
            if lent:
                conn = spare
                spare = None
            else:
                conn = <Conn>known if known != NULL else None
            done = False
            try:
                self._callbacks(&d, conn)
                done = True
            finally:
                if not done or spare is not None or not conn_is_blank(conn):
                    conn = None
                conn_lock(l)
                if conn is not None and conn_detach(conn, conn_at(l, d.index, d.generation)):
                    # Nobody has kept it: the next connection may have it.
                    spare = conn
                    conn = None
                deliver_done(l, &d)
                if not done:
                    # What comes out of here, if anything ever does, is not to leave the loop locked.
                    conn_unlock(l)
        conn_unlock(l)
        return 0

    cdef int _callbacks(self, UwsDelivery* d, Conn conn) except -1:
        """The callbacks of one connection's events. Exceptions end here."""
        cdef UwsLoop* l = self.l
        cdef UwsEvent* event
        cdef object hook
        cdef int how = AS_CALL
        cdef bint asked = False, held
        cdef void* known
        while not l.forked:
            # In a child process that a callback has made, what is left of it is the parent's.
            if atomic_read(&l.orders) != d.orders:
                # Perhaps for this connection, by the callback that has just returned or by any thread.
                conn_lock(l)
                deliver_look(l, d)
                conn_unlock(l)
            if d.is_held and d.batch != NULL:
                conn_lock(l)
                held = deliver_held(l, d)
                conn_unlock(l)
                if held:
                    break
            event = deliver_next(d)
            if event == NULL:
                if d.batch != NULL:
                    break
                conn_lock(l)
                event = deliver_next_note(l, d)
                conn_unlock(l)
                if event == NULL:
                    break
            if event.kind == UWS_EV_REQUEST:
                self._asked(d)
                asked = True
                continue
            if asked and conn is None:
                # Whoever accepts it gives it a Conn that knows who it is, on any thread and at any time before this.
                conn_lock(l)
                known = l.table[d.index].conn
                conn_unlock(l)
                conn = <Conn>known if known != NULL else None
            if event.kind == UWS_EV_CLOSE:
                self._closed(d, conn)
                return 0
            if d.is_muted and event.kind != UWS_EV_OPEN and event.kind != UWS_EV_RECALL:
                # What it sent is dropped. That it is there is told all the same: on_close comes for each that was. And
                # what was begun comes to its end.
                continue
            hook = self._hook_for(event, &how)
            if hook is None:
                continue
            try:
                # Here, too: without memory for a Conn one connection ends, and not its runner with all the others.
                if conn is None:
                    conn = conn_make(self, l, d.index, d.generation)
                if conn.delivery == NULL:
                    conn.delivery = d
                    atomic_write(&conn.thread, PyThread_get_thread_ident())
                conn.unread = False
                if event.kind == UWS_EV_OPEN or event.kind >= UWS_EV_DRAIN:
                    hook(conn)
                elif event.kind == UWS_EV_PONG:
                    hook(conn, event_payload(event))
                elif how == AS_FRAGMENT:
                    hook(conn, event_fragment(event))
                elif how == AS_MESSAGE:
                    hook(conn, event_text(event) if event.opcode == UWS_OP_TEXT else event_payload(event))
                else:
                    conn.unread = True
                    hook(conn)
            except BaseException:
                self._fail(d, conn, _name_of(event, how))
        if conn is not None:
            atomic_write(&conn.thread, 0)
            conn.delivery = NULL
            conn.unread = False
        return 0

    @cython.critical_section
    cdef object _hook_for(self, const UwsEvent* event, int* how):
        """The hook for an event, and what it is given; None: nobody's. For a message, or a piece of one that is
        streamed, it depends on several hooks; they are those of one moment."""
        how[0] = AS_CALL
        if event.kind == UWS_EV_OPEN:
            return self.on_connect
        if event.kind == UWS_EV_CLOSE:
            return self.on_close
        if event.kind == UWS_EV_PONG:
            return self.on_pong
        if event.kind >= UWS_EV_DRAIN:
            if event.kind == UWS_EV_DRAIN:
                return self.on_drain
            # The rest of a callback for a message.
            if self.on_fragment is not None:
                how[0] = AS_FRAGMENT
            elif self.on_message is not None:
                how[0] = AS_MESSAGE
            return self.on_recall
        if self.on_fragment is not None:
            how[0] = AS_FRAGMENT
            return self.on_fragment
        if event_goes_on(event):
            # on_read has returned, and left the rest of it.
            return None
        if self.on_message is None:
            return self.on_read
        if event.kind == UWS_EV_FRAGMENT and not (event.flags & UWS_EVF_FINAL):
            # It began before on_message was set.
            return None
        how[0] = AS_MESSAGE
        return self.on_message

    @cython.critical_section
    cdef object _asking_hook(self, bint is_upgrade):
        return self.on_request if is_upgrade else self.on_route

    cdef int _asked(self, UwsDelivery* d) except -1:
        """A request waits for its answer. Who is asked answers it, now or later; the engine watches the deadline."""
        cdef UwsLoop* l = self.l
        cdef Exchange exchange
        try:
            exchange = exchange_make(self, l, d.index, d.generation)
            if exchange is None:
                return 0
            hook = self._asking_hook(exchange.is_upgrade)
            if hook is not None:
                hook(exchange)
            elif exchange.is_upgrade:
                # It has been taken away since: as if it had never been there.
                exchange.accept()
            else:
                exchange_fail(l, d.index, d.generation)
        except BaseException:
            self._report(None, "on_request")
            exchange_fail(l, d.index, d.generation)
        return 0

    cdef void _report(self, Conn conn, str hook) noexcept:
        # What reporting itself raises goes to sys.unraisablehook: nobody else is left to tell.
        self.failed(conn, sys.exc_info()[1], hook)

    cdef int _fail(self, const UwsDelivery* d, Conn conn, str hook) except -1:
        """The exception being handled came out of a callback, or there was no memory to call it: report it, close the
        connection with 1011. conn is None where there was none for a Conn."""
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        self._report(conn, hook)
        conn_lock(l)
        c = conn_at(l, d.index, d.generation)
        if c != NULL:
            conn_raised(l, c)
        conn_unlock(l)
        return 0

    cdef int _closed(self, UwsDelivery* d, Conn conn) except -1:
        """The last event of a connection. Whatever telling of it may raise, the slot goes back."""
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        try:
            self._tell_end(d, conn)
        except BaseException:
            # There was no memory for a Conn to tell of it, or for what a Conn that somebody holds is to remember.
            self._report(conn, "on_close")
        finally:
            if conn is not None:
                conn.delivery = NULL
            conn_lock(l)
            c = conn_at(l, d.index, d.generation)
            if c != NULL:
                # Where there was no memory to tell anybody.
                conn_goodbye(l, c)
                conn_consumed(l, c)
            conn_unlock(l)
        return 0

    cdef int _tell_end(self, UwsDelivery* d, Conn conn) except -1:
        """Tell its Conn, say goodbye to the peer, run on_close."""
        cdef UwsLoop* l = self.l
        cdef UwsConn* c
        cdef UwsEvent* event = d.event
        cdef bint pinned = False
        cdef int how
        cdef object hook = self._hook_for(event, &how)
        cdef object about = None
        if conn is None and hook is not None:
            conn = conn_make(self, l, d.index, d.generation)
        if conn is not None:
            try:
                conn._ended((event.code, event_text(event), event.cause))
            except MemoryError:
                # It knows why, if not in which words.
                conn._ended(<tuple>ENDS[event.cause])
            conn.delivery = d
            atomic_write(&conn.thread, PyThread_get_thread_ident())
            conn.unread = False
        conn_lock(l)
        c = conn_at(l, d.index, d.generation)
        if c != NULL:
            conn_goodbye(l, c)
            c.conn = NULL
            pinned = (c.flags & UWS_F_PINNED) != 0
            c.flags &= ~UWS_F_PINNED
        conn_unlock(l)
        if hook is not None:
            try:
                hook(conn)
            except BaseException:
                self._fail(d, conn, "on_close")
        if conn is None:
            return 0
        about = conn._about
        if about is not None:
            try:
                about.closed(conn)
            except BaseException:
                self._report(conn, "on_close")
        atomic_write(&conn.thread, 0)
        conn.delivery = NULL
        try:
            if Py_REFCNT(<PyObject*>conn) > 1 + pinned:
                # Somebody may hold it.
                conn._remember()
        finally:
            conn_lock(l)
            conn.index = -1
            conn_unlock(l)
            if pinned:
                Py_DECREF(conn)
        return 0
