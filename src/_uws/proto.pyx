# F3. See proto.pxd.

from libc.string cimport memcpy, memmove, memset

from _uws.deflate cimport deflate_wire_limit, inflate_own_run, inflater_run
from _uws.errs cimport UWS_E_FRAGMENTS, UWS_E_NOMEM, UWS_E_TOO_BIG, UWS_E_UTF8, UWS_OK
from _uws.frame cimport (
    UWS_MAX_CONTROL_BYTES,
    UWS_MAX_MASKED_HEAD_BYTES,
    UWS_OP_CLOSE,
    UWS_OP_CONTINUATION,
    UWS_OP_PING,
    UWS_OP_PONG,
    UWS_OP_TEXT,
    UWS_RSV1,
    UwsFrame,
    close_parse,
    frame_check,
    frame_decode,
)
from _uws.mask cimport mask_apply, mask_copy, mask_turn
from _uws.slab cimport slab_give, slab_grow, slab_take
from _uws.utf8 cimport utf8_feed

cdef enum:
    FIRST_BUF_BYTES = 256
    FIN = 0x80                # of UwsPartial.first, which has no RSV1
    RSV1 = 0x40
    OPCODE = 0x0F


cdef inline void _unlink(UwsPartial* part, UwsProtoEnv* env) noexcept nogil:
    if part.newer == part:
        env.stalest = NULL
        return
    part.older.newer = part.newer
    part.newer.older = part.older
    if env.stalest == part:
        env.stalest = part.newer


cdef inline void _link(UwsPartial* part, UwsProtoEnv* env) noexcept nogil:
    """As the one that has grown last."""
    cdef UwsPartial* stalest = env.stalest
    if stalest == NULL:
        part.newer = part.older = part
        env.stalest = part
        return
    part.newer = stalest
    part.older = stalest.older
    stalest.older.newer = part
    stalest.older = part


cdef void proto_renew(UwsProto* p, UwsProtoEnv* env) noexcept nogil:
    """See proto.pxd."""
    _unlink(p.part, env)
    _link(p.part, env)


cdef UwsPartial* _partial(UwsProto* p, UwsProtoEnv* env) noexcept nogil:
    """The connection's partial state, made when it is first needed. NULL: out of memory."""
    if p.part == NULL:
        p.part = <UwsPartial*>slab_take(env.slab, sizeof(UwsPartial), NULL)
        if p.part != NULL:
            memset(p.part, 0, sizeof(UwsPartial))
            p.part.owner = p
            env.partial_bytes += sizeof(UwsPartial)
            _link(p.part, env)
    return p.part


cdef void _drop_partial(UwsProto* p, UwsProtoEnv* env) noexcept nogil:
    cdef UwsPartial* part = p.part
    if part != NULL:
        if not (p.msg_opcode & UWS_P_STREAMED):
            _unlink(part, env)
            env.partial_bytes -= sizeof(UwsPartial) + part.cap_bytes
        slab_give(env.slab, part.buf)
        slab_give(env.slab, part)
        p.part = NULL


cdef void proto_reset(UwsProto* p, UwsProtoEnv* env) noexcept nogil:
    """Give back what the connection holds; it is as new afterwards, on the terms that it was opened with."""
    _drop_partial(p, env)
    p.flags &= UWS_P_TERMS
    p.msg_opcode = 0
    p.utf8 = 0


cdef inline bint _streams(const UwsProto* p, const UwsProtoEnv* env, uint8_t first) noexcept nogil:
    """Whether a data frame with this first byte is of a message that is streamed. A compressed one has to be whole."""
    if first & OPCODE == UWS_OP_CONTINUATION:
        return p.msg_opcode & UWS_P_STREAMED
    return env.stream and not (first & RSV1)


cdef inline uint64_t _max_message(const UwsProto* p, const UwsProtoEnv* env, uint8_t first) noexcept nogil:
    """How long the message that a data frame belongs to may be on the wire. first: its first byte."""
    if first & RSV1 or (p.flags & UWS_P_DEFLATED and not (first & OPCODE)):
        return deflate_wire_limit(env.max_message_bytes)
    return env.max_stream_bytes if _streams(p, env, first) else env.max_message_bytes


cdef inline uint64_t _max_payload(const UwsProto* p, const UwsProtoEnv* env, uint8_t first) noexcept nogil:
    """A control frame's limit is the RFC's (section 5.5), not the option's."""
    return UWS_MAX_CONTROL_BYTES if first & 8 else _max_message(p, env, first)


cdef int _control(UwsProto* p, int opcode, uint8_t* payload, size_t len_bytes, UwsEvent* ev) noexcept nogil:
    """A whole control frame (RFC 6455, section 5.5): fill one event. payload is unmasked."""
    cdef int status
    memset(ev, 0, sizeof(UwsEvent))
    ev.data = payload
    ev.len_bytes = len_bytes
    if opcode == UWS_OP_PING:
        ev.kind = UWS_EV_PING
        return UWS_OK
    if opcode == UWS_OP_PONG:
        ev.kind = UWS_EV_PONG
        return UWS_OK
    status = close_parse(payload, len_bytes, &ev.code)
    if status != UWS_OK:
        return status
    p.flags |= UWS_P_DONE
    ev.kind = UWS_EV_CLOSE
    # Section 5.5.1: the endpoint typically echoes the status code that it received.
    ev.reply_code = ev.code
    if len_bytes >= 2:
        ev.data = payload + 2
        ev.len_bytes = len_bytes - 2
    return UWS_OK


cdef inline void _message(UwsEvent* ev, int opcode, uint8_t* data, size_t len_bytes, int flags) noexcept nogil:
    memset(ev, 0, sizeof(UwsEvent))
    ev.kind = UWS_EV_MESSAGE
    ev.opcode = <uint8_t>opcode
    ev.flags = <uint8_t>flags
    ev.data = data
    ev.len_bytes = len_bytes


cdef int _inflate(UwsProto* p, UwsProtoEnv* env, int opcode, const uint8_t* data, size_t len_bytes,
                  UwsEvent* ev) noexcept nogil:
    """A whole compressed message (RFC 7692, section 7.2.2): fill one event, which owns what data says."""
    cdef uint8_t* message = NULL
    cdef size_t n = 0
    cdef uint8_t state = 0
    cdef int status
    if p.flags & UWS_P_PEERS_KEPT:
        if env.own == NULL:
            return UWS_E_NOMEM
        status = inflate_own_run(env.own, data, len_bytes, env.max_message_bytes, &message, &n)
    else:
        status = inflater_run(&env.inflater, env.slab, data, len_bytes, env.max_message_bytes, &message, &n)
    env.work_bytes += len_bytes
    if status != UWS_OK:
        env.work_bytes += env.max_message_bytes
        return status
    if opcode == UWS_OP_TEXT and (utf8_feed(&state, message, n) != UWS_OK or state != 0):
        slab_give(env.slab, message)
        return UWS_E_UTF8
    env.inflated += 1
    env.inflated_from_bytes += len_bytes
    env.inflated_bytes += n
    _message(ev, opcode, message, n, UWS_EVF_OWNED if message != NULL else 0)
    return UWS_OK


cdef int _append(UwsPartial* part, UwsProtoEnv* env, const uint8_t* data, size_t len_bytes) noexcept nogil:
    """Unmask len_bytes of the current frame onto the end of the message. Memory follows what has arrived,
    never what was declared: at most twice the bytes received."""
    cdef size_t want, before = part.cap_bytes
    cdef uint8_t* grown
    if part.cap_bytes - part.len_bytes < len_bytes:
        want = part.len_bytes + len_bytes
        if part.buf == NULL:
            # A frame that was declared small gets just its size.
            if part.first & FIN and part.frame_left <= FIRST_BUF_BYTES:
                want = <size_t>part.frame_left
        elif want < part.cap_bytes + part.cap_bytes:
            want = part.cap_bytes + part.cap_bytes
        grown = <uint8_t*>slab_grow(env.slab, part.buf, part.len_bytes, want, &part.cap_bytes)
        if grown == NULL:
            return UWS_E_NOMEM
        part.buf = grown
        env.partial_bytes += part.cap_bytes - before
    mask_copy(part.buf + part.len_bytes, data, len_bytes, part.mask_key, 0)
    part.len_bytes += len_bytes
    _unlink(part, env)
    _link(part, env)
    return UWS_OK


cdef UwsEvent* _piece(UwsProto* p, uint8_t* data, size_t len_bytes, UwsEvent* out, int* n_out) noexcept nogil:
    """Bytes of a streamed message leave; the event that they leave with. All that one input has of a message leaves
    together. Only a control frame between two frames parts them: its payload stays where it is until it is read."""
    cdef UwsEvent* event
    if n_out[0] != 0:
        event = &out[n_out[0] - 1]
        if event.kind == UWS_EV_FRAGMENT and not (event.flags & UWS_EVF_FINAL):
            if len_bytes != 0:
                # Over the header between the two.
                memmove(event.data + event.len_bytes, data, len_bytes)
                event.len_bytes += len_bytes
            return event
    event = &out[n_out[0]]
    n_out[0] += 1
    _message(event, p.msg_opcode & OPCODE, data, len_bytes, 0 if p.msg_opcode & UWS_P_BEGUN else UWS_EVF_FIRST)
    event.kind = UWS_EV_FRAGMENT
    p.msg_opcode |= UWS_P_BEGUN
    return event


cdef int _begin_data(UwsProto* p, UwsProtoEnv* env, const UwsFrame* f, uint8_t first) noexcept nogil:
    """Account for the header of a data frame: limits of the message (RFC 6455, section 10.4)."""
    cdef uint64_t so_far = 0
    cdef uint32_t fragments = 0
    if f.opcode == UWS_OP_CONTINUATION:
        # Inside of a message there is a partial state.
        so_far = p.part.len_bytes
        fragments = p.part.fragments
    if f.payload_len > _max_message(p, env, first) - so_far:
        return UWS_E_TOO_BIG
    # A streamed message may have any number: they cost what messages of their size cost, and leave nothing behind.
    if fragments >= env.max_fragments and not _streams(p, env, first):
        return UWS_E_FRAGMENTS
    return UWS_OK


cdef int _end_frame(UwsProto* p, UwsProtoEnv* env, UwsEvent* out, int* n_out) noexcept nogil:
    """The current frame's payload is whole (partial path)."""
    cdef UwsPartial* part = p.part
    cdef int status, opcode = part.first & OPCODE
    part.in_frame = 0
    if opcode >= UWS_OP_CLOSE:
        # Only the first frame of an input can complete one that was cut before, so one scratch is enough; the
        # partial block itself may be reused by a frame that the end of this input cuts.
        memcpy(env.scratch, part.room, part.room_len)
        status = _control(p, opcode, env.scratch, part.room_len, &out[n_out[0]])
        if status == UWS_OK:
            n_out[0] += 1
        part.room_len = 0
        return status
    if not part.first & FIN:
        return UWS_OK
    if p.utf8 != 0:
        return UWS_E_UTF8
    if p.msg_opcode & UWS_P_STREAMED:
        _piece(p, NULL, 0, out, n_out).flags |= UWS_EVF_FINAL
        # Back among those that keep what they are in the middle of: a header, perhaps.
        env.partial_bytes += sizeof(UwsPartial)
        _link(part, env)
    else:
        if p.flags & UWS_P_DEFLATED:
            status = _inflate(p, env, p.msg_opcode, part.buf, part.len_bytes, &out[n_out[0]])
            if status != UWS_OK:
                return status
            slab_give(env.slab, part.buf)
        else:
            _message(&out[n_out[0]], p.msg_opcode, part.buf, part.len_bytes,
                     UWS_EVF_OWNED if part.buf != NULL else 0)
        n_out[0] += 1
        env.partial_bytes -= part.cap_bytes
    part.buf = NULL
    part.len_bytes = 0
    part.cap_bytes = 0
    p.msg_opcode = 0
    p.flags &= ~UWS_P_DEFLATED
    return UWS_OK


cdef int _payload(UwsProto* p, UwsProtoEnv* env, uint8_t* data, size_t len_bytes, size_t* used,
                  UwsEvent* out, int* n_out) noexcept nogil:
    """Consume payload bytes of a frame whose header has been read into the partial block."""
    cdef UwsPartial* part = p.part
    cdef size_t n = len_bytes
    cdef size_t start
    cdef int status
    if part.frame_left < n:
        n = <size_t>part.frame_left
    if n != 0:
        if part.first & OPCODE >= UWS_OP_CLOSE:
            mask_copy(part.room + part.room_len, data, n, part.mask_key, 0)
            part.room_len += <uint8_t>n
        elif p.msg_opcode & UWS_P_STREAMED:
            mask_apply(data, n, part.mask_key, 0)
            if p.msg_opcode & OPCODE == UWS_OP_TEXT:
                status = utf8_feed(&p.utf8, data, n)
                if status != UWS_OK:
                    return status
            _piece(p, data, n, out, n_out)
            part.len_bytes += n
        else:
            start = part.len_bytes
            status = _append(part, env, data, n)
            if status != UWS_OK:
                return status
            if p.msg_opcode == UWS_OP_TEXT and not (p.flags & UWS_P_DEFLATED):
                status = utf8_feed(&p.utf8, part.buf + start, n)
                if status != UWS_OK:
                    return status
        part.frame_left -= n
        part.mask_key = mask_turn(part.mask_key, n)
    used[0] = n
    if part.frame_left == 0:
        return _end_frame(p, env, out, n_out)
    return UWS_OK


cdef int _begin_partial(UwsProto* p, UwsProtoEnv* env, const UwsFrame* f) noexcept nogil:
    """Move the current frame's header into the partial block: its payload comes in pieces."""
    cdef UwsPartial* part = _partial(p, env)
    if part == NULL:
        return UWS_E_NOMEM
    part.in_frame = 1
    part.first = <uint8_t>(FIN if f.fin else 0) | f.opcode
    part.frame_left = f.payload_len
    part.mask_key = f.mask_key
    part.room_len = 0
    if f.opcode >= UWS_OP_CLOSE:
        return UWS_OK
    if f.opcode != UWS_OP_CONTINUATION:
        p.msg_opcode = f.opcode
        p.flags &= ~UWS_P_DEFLATED
        if f.rsv & UWS_RSV1:
            p.flags |= UWS_P_DEFLATED
        elif env.stream:
            # It keeps nothing, so it is nobody to be ended for what he keeps.
            p.msg_opcode |= UWS_P_STREAMED
            _unlink(part, env)
            env.partial_bytes -= sizeof(UwsPartial)
        part.fragments = 0
    part.fragments += 1
    return UWS_OK


cdef int _cut_head(UwsProto* p, UwsProtoEnv* env, const uint8_t* data, size_t len_bytes) noexcept nogil:
    """The input ends inside a header: keep its bytes. The rules that need two bytes were checked before."""
    cdef UwsPartial* part = _partial(p, env)
    if part == NULL:
        return UWS_E_NOMEM
    memcpy(part.room + part.room_len, data, len_bytes)
    part.room_len += <uint8_t>len_bytes
    return UWS_OK


cdef int proto_feed(UwsProto* p, UwsProtoEnv* env, uint8_t* data, size_t len_bytes,
                    UwsEvent* out, int* n_out) noexcept nogil:
    """Decode all of data, which is unmasked in place.

    env: env.own is this connection's, where UWS_P_PEERS_KEPT is among its terms.
    out: room for len_bytes / UWS_MIN_FRAME_BYTES + 1 events. MESSAGE events point into data, or own a slab
        block (UWS_EVF_OWNED). FRAGMENT events point into data. Control events point into data or into
        env.scratch: read them before the next call.
    n_out: events written; set whether the call succeeds or not: what came before an error is valid.
    Returns UWS_OK; or a negative status with which the connection fails (RFC 6455, section 7.1.7): the caller
        sends the close frame. After an error or a CLOSE event all input is ignored.
    """
    cdef UwsFrame f
    cdef UwsPartial* part
    cdef size_t pos = 0, take, used = 0
    cdef int head, status
    cdef uint8_t joined[UWS_MAX_MASKED_HEAD_BYTES]
    cdef int rsv = UWS_RSV1 if p.flags & UWS_P_WINDOW else 0
    n_out[0] = 0
    while pos < len_bytes and not (p.flags & UWS_P_DONE):
        part = p.part
        if part != NULL and part.in_frame:
            status = _payload(p, env, data + pos, len_bytes - pos, &used, out, n_out)
            if status != UWS_OK:
                break
            pos += used
            continue

        if part != NULL and part.room_len != 0:
            # A header that began in an earlier piece: join it with what is here.
            take = UWS_MAX_MASKED_HEAD_BYTES - part.room_len
            if len_bytes - pos < take:
                take = len_bytes - pos
            memcpy(joined, part.room, part.room_len)
            memcpy(joined + part.room_len, data + pos, take)
            take += part.room_len
            status = frame_check(joined[0], joined[1], p.msg_opcode != 0, rsv)
            if status != UWS_OK:
                break
            head = frame_decode(joined, take, _max_payload(p, env, joined[0]), &f)
            if head == 0:
                status = _cut_head(p, env, data + pos, len_bytes - pos)
                if status != UWS_OK:
                    break
                return UWS_OK
            if head < 0:
                status = head
                break
            pos += <size_t>head - part.room_len
            part.room_len = 0
        else:
            if len_bytes - pos >= 2:
                status = frame_check(data[pos], data[pos + 1], p.msg_opcode != 0, rsv)
                if status != UWS_OK:
                    break
                head = frame_decode(data + pos, len_bytes - pos, _max_payload(p, env, data[pos]), &f)
                if head < 0:
                    status = head
                    break
            else:
                head = 0
            if head == 0:
                status = _cut_head(p, env, data + pos, len_bytes - pos)
                if status != UWS_OK:
                    break
                return UWS_OK
            pos += <size_t>head

        if f.opcode < UWS_OP_CLOSE:
            status = _begin_data(p, env, &f, <uint8_t>(f.rsv << 4 | f.opcode))
            if status != UWS_OK:
                break
        if f.payload_len <= len_bytes - pos and (f.opcode >= UWS_OP_CLOSE or (f.fin and p.msg_opcode == 0)):
            # The common case: the whole frame is here and is a message of its own, or a control frame.
            mask_apply(data + pos, <size_t>f.payload_len, f.mask_key, 0)
            if f.opcode >= UWS_OP_CLOSE:
                status = _control(p, f.opcode, data + pos, <size_t>f.payload_len, &out[n_out[0]])
                if status != UWS_OK:
                    break
            elif f.rsv & UWS_RSV1:
                status = _inflate(p, env, f.opcode, data + pos, <size_t>f.payload_len, &out[n_out[0]])
                if status != UWS_OK:
                    break
            else:
                if f.opcode == UWS_OP_TEXT:
                    status = utf8_feed(&p.utf8, data + pos, <size_t>f.payload_len)
                    if status == UWS_OK and p.utf8 != 0:
                        status = UWS_E_UTF8
                    if status != UWS_OK:
                        break
                _message(&out[n_out[0]], f.opcode, data + pos, <size_t>f.payload_len, 0)
                if env.stream and not (f.rsv & UWS_RSV1):
                    out[n_out[0]].kind = UWS_EV_FRAGMENT
                    out[n_out[0]].flags = UWS_EVF_FIRST | UWS_EVF_FINAL
            n_out[0] += 1
            pos += <size_t>f.payload_len
            continue

        status = _begin_partial(p, env, &f)
        if status != UWS_OK:
            break
        if f.payload_len == 0:
            status = _end_frame(p, env, out, n_out)
            if status != UWS_OK:
                break
    else:
        part = p.part
        if part != NULL and not part.in_frame and part.room_len == 0 and p.msg_opcode == 0:
            _drop_partial(p, env)
        return UWS_OK
    p.flags |= UWS_P_DONE
    return status
