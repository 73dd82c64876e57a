# F6. The messages of a connection: reading them in its callbacks, writing them, as in Go.
# Owns nothing; used by dispatch, which has them delivered, and by the library.

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from _uws.clock cimport clock_us
from _uws.conn cimport Conn, conn_runs_here, conn_write
from _uws.deliver cimport UWS_WAITED, UWS_WAITED_CLOSED, UWS_WAITED_NOMEM, deliver_wait
from _uws.errs cimport UWS_OK
from _uws.frame cimport UWS_OP_BINARY, UWS_OP_CLOSE, UWS_OP_PING, UWS_OP_PONG, UWS_OP_TEXT, close_parse
from _uws.lock cimport conn_lock, conn_unlock
from _uws.proto cimport UWS_EV_FRAGMENT, UWS_EVF_FINAL, UWS_EVF_FIRST, UwsEvent
from _uws.state cimport UWS_C_LIMIT, UwsLoop, pthread_mutex_lock
from _uws.write cimport COMPRESS_LONG, COMPRESS_NEVER, write_io_timeout

cdef object OP_TEXT
cdef object OP_BINARY
cdef object SENT_OK


cdef object event_fragment(const UwsEvent* event):
    cdef int flags = event.flags if event.kind == UWS_EV_FRAGMENT else UWS_EVF_FIRST | UWS_EVF_FINAL
    return Fragment(
        OP_TEXT if event.opcode == UWS_OP_TEXT else OP_BINARY,
        event_payload(event),
        (flags & UWS_EVF_FIRST) != 0,
        (flags & UWS_EVF_FINAL) != 0,
    )


cdef int _check_reader(Conn conn) except -1:
    if not conn_runs_here(conn):
        raise RuntimeError("messages are read in a callback of their connection, by the thread that runs it")
    return 0


cdef int _next_piece(Conn conn, uint64_t timeout_us) except -1:
    """Let conn.delivery.event be what came next, and wait for it if need be."""
    cdef UwsLoop* l = conn.l
    cdef int waited
    with nogil:
        pthread_mutex_lock(&l.lock)
        waited = deliver_wait(l, conn.delivery, timeout_us)
        conn_unlock(l)
    if waited == UWS_WAITED_CLOSED:
        raise conn._gone()
    if waited == UWS_WAITED_NOMEM:
        raise MemoryError
    if waited != UWS_WAITED:
        raise TimeoutError("nothing further came within the I/O timeout")
    return 0


cdef int _next_message(Conn conn, uint64_t timeout_us) except -1:
    """Let conn.delivery.event be the message to read, or the beginning of it."""
    cdef uint64_t until, now
    _check_reader(conn)
    conn.reading += 1
    if conn.unread:
        conn.unread = False
        return 0
    until = clock_us() + timeout_us
    while True:
        _next_piece(conn, timeout_us)
        if not event_goes_on(conn.delivery.event):
            return 0
        # The rest of one that was left before its end.
        now = clock_us()
        timeout_us = until - now if until > now else 0


cdef bytes _whole(Conn conn):
    """The bytes of the message that has been begun; of one that is streamed all its pieces, waiting for each."""
    cdef UwsEvent* event = conn.delivery.event
    cdef uint64_t room
    cdef list pieces
    if event.kind != UWS_EV_FRAGMENT:
        return event_payload(event)
    # While the bytes of a stranger are decoded, under the lock, it is his limit.
    conn_lock(conn.l)
    room = conn.l.env.max_message_bytes
    conn_unlock(conn.l)
    if event.flags & UWS_EVF_FINAL and event.len_bytes <= room:
        return event_payload(event)
    pieces = []
    while True:
        if event.len_bytes > room:
            conn._end(UWS_C_LIMIT, 1009, "")
            raise conn._gone()
        room -= event.len_bytes
        pieces.append(event_payload(event))
        if event.flags & UWS_EVF_FINAL:
            return b"".join(pieces)
        _next_piece(conn, write_io_timeout(conn.l))
        event = conn.delivery.event


def read_client_data(Conn conn not None):
    """Read the message on_read was called for; called again, wait for the next one. See conn.pyi."""
    cdef object op
    _next_message(conn, write_io_timeout(conn.l))
    op = OP_TEXT if conn.delivery.event.opcode == UWS_OP_TEXT else OP_BINARY
    return (_whole(conn), op)


cdef int _next_of(Conn conn, int opcode) except -1:
    """The next message of one kind; those of the other are dropped. One timeout for all of it."""
    cdef uint64_t left = write_io_timeout(conn.l)
    cdef uint64_t end = clock_us() + left, now
    while True:
        _next_message(conn, left)
        if conn.delivery.event.opcode == opcode:
            return 0
        now = clock_us()
        left = end - now if end > now else 0


def read_client_text(Conn conn not None):
    """Read the next text message. See conn.pyi."""
    _next_of(conn, UWS_OP_TEXT)
    if conn.delivery.event.kind != UWS_EV_FRAGMENT:
        return event_text(conn.delivery.event)
    return _whole(conn).decode()


def read_client_binary(Conn conn not None):
    """Read the next binary message. See conn.pyi."""
    _next_of(conn, UWS_OP_BINARY)
    return _whole(conn)


def begin_message(Conn conn not None):
    """Begin to read a message piece by piece. See conn.pyi."""
    _next_message(conn, write_io_timeout(conn.l))
    return conn.reading, event_fragment(conn.delivery.event)


def next_fragment(Conn conn not None, uint32_t reading):
    """Go on with it. See conn.pyi."""
    _check_reader(conn)
    if reading != conn.reading or conn.unread:
        raise RuntimeError("the connection has gone on to another message")
    _next_piece(conn, write_io_timeout(conn.l))
    return event_fragment(conn.delivery.event)


def write_server_message(Conn conn not None, int op, msg):
    """Send one message with the opcode given. See conn.pyi."""
    cdef bytes body
    cdef uint16_t code = 0
    if op == UWS_OP_TEXT:
        return conn_write(conn, op, msg, True, COMPRESS_LONG)
    if op == UWS_OP_BINARY:
        return conn_write(conn, op, msg, False, COMPRESS_LONG)
    if op == UWS_OP_PING or op == UWS_OP_PONG:
        return conn_write(conn, op, msg, False, COMPRESS_NEVER)
    if op == UWS_OP_CLOSE:
        body = msg.encode() if isinstance(msg, str) else memoryview(msg).tobytes()
        if close_parse(<const uint8_t*>PyBytes_AS_STRING(body), len(body), &code) != UWS_OK:
            raise ValueError("malformed body of a close frame (RFC 6455, section 5.5.1)")
        if not conn.is_open:
            raise conn._gone()
        if code == 1005:
            conn.close()
        else:
            conn.close(code, body[2:].decode())
        return SENT_OK
    raise ValueError(f"opcode {op} is no message and no control frame")


def write_server_text(Conn conn not None, msg):
    """Send one text message. See conn.pyi."""
    return conn_write(conn, UWS_OP_TEXT, msg, True, COMPRESS_LONG)


def write_server_binary(Conn conn not None, msg):
    """Send one binary message. See conn.pyi."""
    return conn_write(conn, UWS_OP_BINARY, msg, False, COMPRESS_LONG)


# At the end, as in conn.
from unlimitedws.fragment import Fragment
from unlimitedws.opcode import OpCode
from unlimitedws.sent import Sent

OP_TEXT = OpCode.TEXT
OP_BINARY = OpCode.BINARY
SENT_OK = Sent.OK
