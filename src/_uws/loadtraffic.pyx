# F5. Load generator: messages and control frames out, replies in. See loadtraffic.pxd.

from libc.stdint cimport uint32_t
from libc.string cimport memcmp, memcpy

from _uws.client cimport (
    UWS_PIECE_CLOSE,
    UWS_PIECE_DATA,
    UWS_PIECE_PING,
    UwsPiece,
    client_head,
    client_next,
)
from _uws.clock cimport clock_ns
from _uws.entropy cimport entropy_key
from _uws.errs cimport UWS_E_NOMEM, UWS_MORE, UWS_OK
from _uws.frame cimport UWS_MAX_MASKED_HEAD_BYTES, UWS_OP_CLOSE, UWS_OP_PONG
from _uws.histogram cimport histogram_add
from _uws.loadlife cimport (
    load_closed,
    load_count_code,
    load_due,
    load_fail,
    load_measured,
    load_number,
    load_watch,
)
from _uws.loadplan cimport (
    UWS_LERR_CLOSED,
    UWS_LERR_CUT,
    UWS_LERR_MISSING,
    UWS_LERR_NOMEM,
    UWS_LERR_PROTOCOL,
    UWS_LERR_UNASKED,
    UWS_LERR_WRONG_REPLY,
    UWS_LOAD_BROADCAST,
    UWS_LOAD_ECHO,
    UWS_LOAD_SCRATCH_BYTES,
    UWS_LOAD_STAMP_BYTES,
    UWS_LS_CLOSING,
    UWS_LS_OPEN,
    UWS_PHASE_MEASURE,
    UWS_PHASE_WARM,
    UwsLoadControl,
    UwsLoadPlan,
)
from _uws.mask cimport mask_copy
from _uws.slab cimport slab_give, slab_take
from _uws.sock cimport UWS_SOCK_AGAIN, sock_plain

cdef enum:
    BAD = 0xFFFFFFFF              # UwsLoadConn.got: what comes is not the reply that it should be
    PARTS = 4                     # fields of a publication's stamp


# ---- what a message is

cdef inline const uint8_t* _payload(const UwsLoad* l, const UwsLoadConn* c, uint64_t m) noexcept nogil:
    """Message m of a connection. Neighbours differ, in time and in number: a reply that is late, lost, doubled or
    somebody else's is found."""
    cdef uint64_t at = (<uint64_t>(l.first + load_number(l, c)) * 7 + m) & (l.plan.ring_count - 1)
    return l.plan.payloads + at * l.plan.size


cdef inline void _put_digits(uint8_t* out, int count, uint64_t value) noexcept nogil:
    """Six bits a character, all of them of ASCII: a publication may be a text as well as not."""
    cdef int i
    for i in range(count):
        out[i] = <uint8_t>(c'0' + (value >> 6 * (count - 1 - i) & 63))


cdef inline uint64_t _digits(const uint8_t* text, int count) noexcept nogil:
    """What was written so; 1 << 63 where there is another character."""
    cdef uint64_t value = 0
    cdef unsigned int digit, odd = 0
    cdef int i
    for i in range(count):
        digit = <unsigned int>text[i] - c'0'
        odd |= digit
        value = value << 6 | (digit & 63)
    return value if odd < 64 else <uint64_t>1 << 63


cdef inline void _put_stamp(const UwsLoad* l, const UwsLoadConn* c, uint64_t m, uint8_t* out) noexcept nogil:
    """The beginning of a publication: whose run, which publisher, which publication, when."""
    _put_digits(out, 4, l.plan.run_id)
    _put_digits(out + 4, 4, <uint64_t>load_number(l, c))
    _put_digits(out + 8, 8, m)
    # 48 bits of nanoseconds: the difference of two of them is right for three days.
    _put_digits(out + 16, 8, load_due(l, c, m) & ((<uint64_t>1 << 48) - 1))


# ---- out

cdef size_t _render(const UwsLoad* l, const UwsLoadConn* c, uint64_t m, uint32_t key, size_t pos, uint8_t* out,
                    size_t cap) noexcept nogil:
    """Write the frame of message m from its byte pos on, as much as fits. Returns how much that is."""
    cdef uint8_t[UWS_MAX_MASKED_HEAD_BYTES] head
    cdef uint8_t[UWS_LOAD_STAMP_BYTES] stamp
    cdef const uint8_t* payload = _payload(l, c, m)
    cdef size_t head_len = client_head(head, l.plan.opcode, True, l.plan.size, key)
    cdef size_t done = 0, at, n
    if pos < head_len:
        done = head_len - pos
        if done > cap:
            done = cap
        memcpy(out, head + pos, done)
        if done == cap:
            return done
    at = pos + done - head_len
    if l.plan.mode == UWS_LOAD_BROADCAST and at < UWS_LOAD_STAMP_BYTES:
        _put_stamp(l, c, m, stamp)
        n = UWS_LOAD_STAMP_BYTES - at
        if n > cap - done:
            n = cap - done
        mask_copy(out + done, stamp + at, n, key, at)
        done += n
        at += n
    n = l.plan.size - at
    if n > cap - done:
        n = cap - done
    mask_copy(out + done, payload + at, n, key, at)
    return done + n


cdef bint _send_control(UwsLoad* l, UwsLoadConn* c) noexcept nogil:
    """Send the control frames that wait. False: the kernel takes no more, or the connection is gone."""
    cdef UwsLoadControl* control = <UwsLoadControl*>c.side
    cdef ssize_t n
    while control != NULL:
        n = sock_plain().send(c.fd, control.first + control.pos, control.first_len - control.pos)
        if n < 0:
            if n != UWS_SOCK_AGAIN:
                load_fail(l, c, UWS_LERR_CUT, True)
            return False
        control.pos += <uint8_t>n
        if control.pos < control.first_len:
            return False
        if control.second_len == 0:
            slab_give(&l.slab, control)
            c.side = NULL
            return True
        memcpy(control.first, control.second, control.second_len)
        control.first_len = control.second_len
        control.second_len = control.pos = 0
    return True


cdef void load_send(UwsLoad* l, UwsLoadConn* c) noexcept nogil:
    """Send what is queued, as far as the kernel takes it. c may be gone afterwards.

    A frame that was cut is made again with the key that its beginning had; so nothing is kept of what waits but that
    key, and each frame that is begun has a fresh one.
    """
    cdef uint8_t[UWS_MAX_MASKED_HEAD_BYTES] head
    cdef size_t head_len = client_head(head, l.plan.opcode, True, l.plan.size, 0)
    cdef size_t frame = head_len + l.plan.size
    cdef size_t n, reached, whole
    cdef uint64_t m
    cdef ssize_t sent
    while True:
        if c.send_pos == 0 and not _send_control(l, c):
            break
        if c.sent == c.queued:
            load_watch(l, c, False)
            return
        if c.send_pos == 0:
            c.send_key = entropy_key(&l.entropy)
        n = _render(l, c, c.sent, c.send_key, c.send_pos, l.scratch, UWS_LOAD_SCRATCH_BYTES)
        m = c.sent + 1
        while m < c.queued and UWS_LOAD_SCRATCH_BYTES - n >= frame:
            n += _render(l, c, m, entropy_key(&l.entropy), 0, l.scratch + n, frame)
            m += 1
        sent = sock_plain().send(c.fd, l.scratch, n)
        if sent < 0:
            if sent != UWS_SOCK_AGAIN:
                load_fail(l, c, UWS_LERR_CUT, True)
            break
        reached = c.send_pos + <size_t>sent
        whole = reached // frame
        if whole != 0 and reached % frame != 0:
            memcpy(&c.send_key, l.scratch + whole * frame - c.send_pos + head_len - 4, 4)
        c.send_pos = <uint32_t>(reached % frame)
        c.sent += whole
        l.count.sent += whole
        if <size_t>sent < n:
            break
    if c.state == UWS_LS_OPEN or c.state == UWS_LS_CLOSING:
        load_watch(l, c, True)


cdef void load_queue(UwsLoad* l, UwsLoadConn* c, uint64_t count, uint64_t now_ns) noexcept nogil:
    """Have count more messages leave. now_ns: what a closed loop notes as the time when they did."""
    cdef bint idle = c.queued == c.sent
    cdef uint64_t* stamps
    cdef uint64_t i
    if l.plan.gap_ns == 0:
        stamps = l.stamps + <uint64_t>load_number(l, c) * l.stamp_count
        for i in range(c.queued, c.queued + count):
            stamps[i & (l.stamp_count - 1)] = now_ns
    c.queued += count
    if l.plan.mode == UWS_LOAD_ECHO:
        l.outstanding += count
    # Where messages wait already, EPOLLOUT tells when they are of any use.
    if idle:
        load_send(l, c)


cdef void _control(UwsLoad* l, UwsLoadConn* c, int opcode, const uint8_t* payload, size_t len_bytes) noexcept nogil:
    """Send a control frame: at once, or when the data frame under way has ended. One that was not begun gives way: of
    several pings the last is answered (RFC 6455, section 5.5.3), and nothing follows a close frame."""
    cdef UwsLoadControl* control = <UwsLoadControl*>c.side
    cdef uint32_t key = entropy_key(&l.entropy)
    cdef uint8_t* out
    cdef size_t n
    if c.ours_sent:
        return
    if control == NULL:
        control = <UwsLoadControl*>slab_take(&l.slab, sizeof(UwsLoadControl), NULL)
        if control == NULL:
            load_fail(l, c, UWS_LERR_NOMEM, True)
            return
        control.pos = control.second_len = 0
        c.side = control
    out = &control.first[0] if control.pos == 0 else &control.second[0]
    n = client_head(out, opcode, True, len_bytes, key)
    mask_copy(out + n, payload, len_bytes, key, 0)
    n += len_bytes
    if control.pos == 0:
        control.first_len = <uint8_t>n
    else:
        control.second_len = <uint8_t>n
    c.ours_sent = opcode == UWS_OP_CLOSE
    if c.send_pos == 0:
        load_send(l, c)


cdef void load_close(UwsLoad* l, UwsLoadConn* c) noexcept nogil:
    """Begin the closing handshake of an open connection, or do without one if the plan says so."""
    cdef uint8_t[2] code
    if l.plan.abort:
        load_closed(l, c, True)
        return
    if l.plan.mode == UWS_LOAD_ECHO:
        l.outstanding -= c.queued - c.replied
    # A frame that was begun is finished; the others do not leave.
    c.queued = c.sent + (c.send_pos != 0)
    l.n_open -= 1
    l.n_closing += 1
    c.state = UWS_LS_CLOSING
    c.since_ns = l.now_ns
    code[0] = 1000 >> 8
    code[1] = 1000 & 0xFF
    _control(l, c, UWS_OP_CLOSE, code, 2)


# ---- in

cdef inline void _latency(UwsLoad* l, uint64_t due_ns) noexcept nogil:
    if load_measured(l, due_ns):
        histogram_add(&l.latency, l.now_ns - due_ns if l.now_ns > due_ns else 0)


cdef inline bint _reply(UwsLoad* l, UwsLoadConn* c, const UwsPiece* piece) noexcept nogil:
    """Some of a reply. True: one that was due is whole."""
    cdef bint right
    if c.replied == c.queued:
        if piece.last:
            l.errors[<int>UWS_LERR_UNASKED] += 1
        return False
    if not l.plan.any_reply and c.got != BAD:
        right = piece.opcode == l.plan.opcode and piece.len_bytes <= l.plan.size - c.got
        if right:
            right = memcmp(piece.data, _payload(l, c, c.replied) + c.got, piece.len_bytes) == 0
            c.got += <uint32_t>piece.len_bytes
        if not right or (piece.last and c.got != l.plan.size):
            # One error a message, however many pieces it comes in.
            l.errors[<int>UWS_LERR_WRONG_REPLY] += 1
            c.got = BAD
    if not piece.last:
        return False
    c.got = 0
    _latency(l, load_due(l, c, c.replied))
    c.replied += 1
    l.outstanding -= 1
    return True


cdef void _publication(UwsLoad* l, UwsLoadConn* c, const uint8_t* data, size_t len_bytes, int opcode) noexcept nogil:
    """A whole message that should be a publication."""
    cdef const UwsLoadPlan* p = l.plan
    cdef uint64_t publisher, m, stamp
    cdef uint32_t* seq
    if len_bytes != p.size or opcode != p.opcode or _digits(data, 4) != p.run_id:
        l.errors[<int>UWS_LERR_WRONG_REPLY] += 1
        return
    publisher = _digits(data + 4, 4)
    m = _digits(data + 8, 8)
    stamp = _digits(data + 16, 8)
    if publisher >= p.publishers or m >> 32 or stamp >> 48 or memcmp(
            data + UWS_LOAD_STAMP_BYTES, p.payloads + ((publisher * 7 + m) & (p.ring_count - 1)) * p.size
            + UWS_LOAD_STAMP_BYTES, p.size - UWS_LOAD_STAMP_BYTES) != 0:
        l.errors[<int>UWS_LERR_WRONG_REPLY] += 1
        return
    seq = l.seqs + <uint64_t>load_number(l, c) * p.publishers + publisher
    if m < seq[0]:
        # One that had come, or that was overtaken by a later one.
        l.errors[<int>UWS_LERR_WRONG_REPLY] += 1
        return
    l.errors[<int>UWS_LERR_MISSING] += m - seq[0]
    seq[0] = <uint32_t>m + 1
    c.replied += 1
    l.count.replies += 1
    # What the stamp leaves out of the time is the same now as then.
    _latency(l, l.now_ns - (l.now_ns - stamp & ((<uint64_t>1 << 48) - 1)))


cdef void _published(UwsLoad* l, UwsLoadConn* c, const UwsPiece* piece) noexcept nogil:
    """Some of a publication. One that is cut is looked into when all of it is there."""
    cdef size_t some = piece.len_bytes
    if piece.first:
        c.got = 0
        if piece.last:
            _publication(l, c, piece.data, some, piece.opcode)
            return
    if some > l.plan.size - c.got:
        # Too long: it is none of ours, and needs not be kept.
        some = l.plan.size - c.got
    if c.partial == NULL:
        c.partial = <uint8_t*>slab_take(&l.slab, l.plan.size, NULL)
        if c.partial == NULL:
            load_fail(l, c, UWS_LERR_NOMEM, True)
            return
    memcpy(c.partial + c.got, piece.data, some)
    c.got += <uint32_t>some
    if piece.last:
        _publication(l, c, c.partial, c.got if some == piece.len_bytes else 0, piece.opcode)
        slab_give(&l.slab, c.partial)
        c.partial = NULL


cdef uint64_t _message(UwsLoad* l, UwsLoadConn* c, const UwsPiece* piece) noexcept nogil:
    """Some of a message. Returns 1 where it was the end of a reply that was due."""
    l.count.bytes += piece.len_bytes
    if c.state != UWS_LS_OPEN:
        # Our close frame is out: what was under way before is of no interest.
        return 0
    if c.skip:
        c.skip -= piece.last
        return 0
    if l.plan.mode == UWS_LOAD_ECHO:
        return _reply(l, c, piece)
    if l.plan.mode == UWS_LOAD_BROADCAST:
        _published(l, c, piece)
    else:
        # Who only holds connections takes what a server has to say.
        l.count.replies += piece.last
    return 0


cdef void _their_close(UwsLoad* l, UwsLoadConn* c, const UwsPiece* piece) noexcept nogil:
    cdef uint8_t[UWS_MAX_MASKED_HEAD_BYTES + 2] answer
    cdef uint8_t[2] code
    cdef uint32_t key
    cdef size_t n, code_len = 0 if piece.code == 1005 else 2
    c.theirs_come = True
    if c.state != UWS_LS_OPEN:
        return
    load_count_code(l, piece.code)
    if c.send_pos == 0 and (c.side == NULL or (<UwsLoadControl*>c.side).pos == 0):
        # It is answered (section 5.5.1), where no frame is under way; whether that arrives changes nothing any more.
        key = entropy_key(&l.entropy)
        code[0] = <uint8_t>(piece.code >> 8)
        code[1] = <uint8_t>piece.code
        n = client_head(answer, UWS_OP_CLOSE, True, code_len, key)
        mask_copy(answer + n, code, code_len, key, 0)
        sock_plain().send(c.fd, answer, n + code_len)
    load_fail(l, c, UWS_LERR_CLOSED, False)


cdef void load_received(UwsLoad* l, UwsLoadConn* c, const uint8_t* data, size_t len_bytes) noexcept nogil:
    """Read what came on an open connection, answer it, and in a closed loop send what it gives leave to.
    c may be gone afterwards."""
    cdef UwsPiece piece
    cdef uint64_t done = 0
    cdef int status = UWS_OK
    while True:
        status = client_next(&c.client, &l.slab, &data, &len_bytes, &piece)
        if status != UWS_OK:
            break
        if piece.kind == UWS_PIECE_DATA:
            done += _message(l, c, &piece)
        elif piece.kind == UWS_PIECE_PING:
            l.count.pings += 1
            _control(l, c, UWS_OP_PONG, piece.data, piece.len_bytes)
        elif piece.kind == UWS_PIECE_CLOSE:
            _their_close(l, c, &piece)
        if c.fd < 0:
            return
    if status != UWS_MORE:
        load_fail(l, c, UWS_LERR_NOMEM if status == UWS_E_NOMEM else UWS_LERR_PROTOCOL, True)
        return
    if done != 0:
        l.count.replies += done
        if l.plan.gap_ns == 0 and (l.phase == UWS_PHASE_WARM or l.phase == UWS_PHASE_MEASURE):
            load_queue(l, c, done, l.now_ns)


cdef void load_readable(UwsLoad* l, UwsLoadConn* c) noexcept nogil:
    """Take what has come on a connection that is open or closing."""
    cdef ssize_t n = sock_plain().recv(c.fd, l.inbuf, UWS_LOAD_SCRATCH_BYTES)
    if n == UWS_SOCK_AGAIN:
        return
    # Once for all that came together: a reply has come when we have it.
    l.now_ns = clock_ns()
    if n > 0:
        load_received(l, c, l.inbuf, <size_t>n)
    elif c.theirs_come and c.ours_sent:
        # Both have said that they have nothing more to say. The server ended the stream first, as it should (7.1.1).
        load_closed(l, c, False)
    else:
        load_fail(l, c, UWS_LERR_CUT, True)
