# Harnesses of the fuzz targets for all that is about frames: utf8, frame, deflate, proto, client.
# Each feeds one input whole, byte by byte and chopped, always in exact copies, and wants the same to be said. What was
# said goes to the oracles in tests/fuzz/targets.py, which alone imports this.

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memset

from _uws.client cimport (
    UWS_PIECE_CLOSE, UWS_PIECE_DATA, UwsClient, UwsPiece, client_next, client_reset,
)
from _uws.deflate cimport (
    UWS_DEFLATE_NO_GAIN, UwsDeflate, UwsDeflater, UwsDeflateSettings, UwsDeflateTerms, UwsInflater, deflate_give,
    deflate_own, deflate_own_forget, deflate_own_run, deflater_destroy, deflater_init, deflater_run, inflate_own_run,
    inflater_destroy, inflater_run,
)
from _uws.errs cimport UWS_E_DEFLATE, UWS_E_PROTOCOL, UWS_E_TOO_BIG, UWS_E_UTF8, UWS_MORE, UWS_OK, err_close_code
from _uws.frame cimport (
    UWS_CLOSE_FRAME_BYTES, UWS_MAX_MASKED_HEAD_BYTES, UwsFrame, close_frame, close_parse, frame_decode,
)
from _uws.proto cimport (
    UWS_EV_FRAGMENT, UWS_EVF_FINAL, UWS_EVF_FIRST, UWS_EVF_OWNED, UWS_MIN_FRAME_BYTES, UWS_P_DONE, UWS_P_PEERS_KEPT,
    UwsEvent, UwsProto, UwsProtoEnv, proto_feed, proto_reset,
)
from _uws.slab cimport UwsSlab, slab_give, slab_init, slab_take
from _uws.utf8 cimport utf8_feed
from uws_shims.fuzzing cimport (
    BYTEWISE, FEEDINGS, Cuts, Entry, Exact, Notes, cut, exact, note_event, note_failure, note_piece,
)

OK = UWS_OK
E_PROTOCOL = UWS_E_PROTOCOL
E_UTF8 = UWS_E_UTF8
E_TOO_BIG = UWS_E_TOO_BIG
E_DEFLATE = UWS_E_DEFLATE
FIRST = UWS_EVF_FIRST
FINAL = UWS_EVF_FINAL
FED = ("whole", "byte by byte", "chopped")

# What is wrong with a harness's run, beside what its parser says.
cdef enum Fault:
    NO_FAULT = 0
    TOO_MANY_EVENTS = 1
    NOT_DONE = 2              # something was said behind the end
    BLOCKS_LEFT = 3           # memory that nobody gave back
    TOO_MUCH_MEMORY = 4       # more than what came may take
    NOT_ALL_READ = 5

FAULTS = {
    <int>TOO_MANY_EVENTS: "more events than there is room for",
    <int>NOT_DONE: "something is said behind the end",
    <int>BLOCKS_LEFT: "memory that was not given back",
    <int>TOO_MUCH_MEMORY: "more memory than what came may take",
    <int>NOT_ALL_READ: "not all of the input was read",
}

# One for all inputs: its blocks have been used before, and hold what their last owner left there.
cdef UwsSlab slab
assert slab_init(&slab) == UWS_OK


def close_code(int status):
    return err_close_code(status)


cdef object _agreed(Notes* notes, int* faults):
    """What was said, the same however it was fed. The notes are given back."""
    cdef int how
    said = []
    for how in range(FEEDINGS):
        said.append(PyBytes_FromStringAndSize(<char*>notes[how].data, <Py_ssize_t>notes[how].len_bytes))
        free(notes[how].data)
    for how in range(FEEDINGS):
        if faults[how] != NO_FAULT:
            raise AssertionError(f"{FED[how]}: {FAULTS[faults[how]]}")
        if said[how] != said[0]:
            raise AssertionError(f"{FED[how]} it says {said[how].hex()}, whole {said[0].hex()}")
    return said[0]


def agreed(bytes whole, bytes bytewise, bytes chopped):
    """What three ways of feeding have come to, for those who want to see that it is compared."""
    cdef Notes[FEEDINGS] notes
    cdef int[FEEDINGS] faults
    cdef Entry entry
    cdef int how
    memset(notes, 0, sizeof(notes))
    memset(faults, 0, sizeof(faults))
    for how, said in enumerate((whole, bytewise, chopped)):
        memset(&entry, 0, sizeof(entry))
        note_piece(&notes[how], &entry, <const char*>said, len(said), True)
    return _agreed(notes, faults)[sizeof(Entry):]


def planted(bytes mistake):
    """Make a mistake that a sanitizer has to see. Undefined without one: for tools/fuzz.py alone."""
    # Not known when this is compiled: gcc sees such mistakes by itself.
    cdef size_t n = len(mistake)
    cdef int most = 0x7FFFFFFF
    cdef uint8_t* block
    cdef Exact piece
    if mistake == b"piece":
        piece = exact(<const uint8_t*><const char*>mistake, n, 3)
        return piece.at[n]
    if mistake == b"overflow":
        return most + <int>n
    block = <uint8_t*>slab_take(&slab, n, NULL)
    if block == NULL:
        raise MemoryError
    memset(block, 0, n)
    if mistake == b"block":
        return block[n]
    slab_give(&slab, block)
    if mistake == b"given-back":
        return block[n - 1]
    raise AssertionError(mistake.decode())


def sizes(uint32_t seed, size_t len_bytes):
    """Into which pieces an input is cut, in each of the three ways."""
    cdef Cuts cuts
    cdef size_t left, size
    cdef int how
    found = []
    for how in range(FEEDINGS):
        cuts.how = how
        cuts.state = seed
        left = len_bytes
        pieces = []
        while left:
            size = cut(&cuts, left)
            pieces.append(size)
            left -= size
        found.append(pieces)
    return found


# ---- utf8

def utf8(bytes data, uint32_t seed):
    """The place of the byte that is refused; -1: none is, and the end is one of a character; -2: it is not."""
    cdef size_t n = len(data), left, size, at
    cdef const uint8_t* bytes_ = <const uint8_t*><const char*>data
    cdef const uint8_t* more = <const uint8_t*>b"a"
    cdef uint8_t[FEEDINGS] states
    cdef int[FEEDINGS] verdicts
    cdef Py_ssize_t refused = -1
    cdef Cuts cuts
    cdef Exact piece
    cdef int how
    for how in range(FEEDINGS):
        cuts.how = how
        cuts.state = seed
        states[how] = 0
        verdicts[how] = UWS_OK
        left = n
        while left:
            size = cut(&cuts, left)
            at = n - left
            piece = exact(bytes_ + at, size, seed & 15)
            verdicts[how] = utf8_feed(&states[how], piece.at, size)
            free(piece.base)
            left -= size
            if verdicts[how] != UWS_OK:
                if how == BYTEWISE:
                    refused = <Py_ssize_t>at
                if utf8_feed(&states[how], more, 1) == UWS_OK:
                    raise AssertionError("what was refused is taken again")
                break
        if verdicts[how] != verdicts[0] or (verdicts[0] == UWS_OK and states[how] != states[0]):
            raise AssertionError(f"{FED[how]}: {verdicts[how]}, {states[how]}; whole: {verdicts[0]}, {states[0]}")
    if refused >= 0:
        return refused
    return -1 if states[0] == 0 else -2


# ---- frame

def frame(bytes data, uint64_t max_payload_bytes):
    """(status, bytes that it took to say so, fields) of a header, from all its beginnings; status 0: it takes more."""
    cdef UwsFrame found, again
    cdef size_t n, took = 0, have = min(<size_t>len(data), <size_t>UWS_MAX_MASKED_HEAD_BYTES + 1)
    cdef int status = 0, repeated
    cdef Exact piece
    memset(&found, 0, sizeof(found))
    for n in range(have + 1):
        piece = exact(<const uint8_t*><const char*>data, n, 0)
        memset(&again, 0, sizeof(again))
        repeated = frame_decode(piece.at, n, max_payload_bytes, &again)
        free(piece.base)
        if status == 0:
            status = repeated
            found = again
            took = n
        elif repeated != status or memcmp(&again, &found, sizeof(found)) != 0:
            raise AssertionError(f"{n} bytes say {repeated}, {took} have said {status}")
    if status <= 0:
        return status, took, None
    key = (<uint8_t*>&found.mask_key)[:4]
    return status, took, (found.fin, found.rsv, found.opcode, found.masked, found.payload_len, key, found.header_len)


def close(bytes body):
    """(status, code) of a close frame's body; code None unless the status is OK."""
    cdef uint16_t code = 0
    cdef Exact piece = exact(<const uint8_t*><const char*>body, len(body), 0)
    cdef int status = close_parse(piece.at, len(body), &code)
    free(piece.base)
    return status, code if status == UWS_OK else None


def written_close(uint16_t code, bytes reason):
    """The close frame that we would send."""
    cdef Exact piece = exact(<const uint8_t*><const char*>reason, len(reason), 0)
    cdef uint8_t* out = <uint8_t*>malloc(UWS_CLOSE_FRAME_BYTES)
    if out == NULL:
        raise MemoryError
    size = close_frame(out, code, piece.at, len(reason))
    written = PyBytes_FromStringAndSize(<char*>out, size)
    free(out)
    free(piece.base)
    return written


# ---- proto

cdef void _note_event(Notes* notes, UwsEvent* event) noexcept nogil:
    cdef Entry entry
    entry.kind = event.kind
    entry.opcode = event.opcode
    entry.flags = event.flags & ~<uint8_t>UWS_EVF_OWNED
    entry.code = event.code
    entry.reply = event.reply_code
    if event.kind == UWS_EV_FRAGMENT:
        note_piece(notes, &entry, event.data, event.len_bytes, event.flags & UWS_EVF_FINAL)
    else:
        note_event(notes, &entry, event.data, event.len_bytes)
    if event.flags & UWS_EVF_OWNED:
        slab_give(&slab, event.data)


cdef int _feed_proto(const uint8_t* data, size_t len_bytes, Cuts* cuts, const UwsProtoEnv* limits, int terms,
                     UwsDeflate* own, int* result, Notes* notes) noexcept nogil:
    cdef UwsProto p
    cdef UwsProtoEnv env = limits[0]
    cdef UwsEvent* events
    cdef Exact piece
    cdef Entry end
    cdef size_t left = len_bytes, size, room
    cdef int status, i, n_out, fault = NO_FAULT
    cdef bint was_done
    memset(&p, 0, sizeof(p))
    p.flags = <uint8_t>terms
    env.slab = &slab
    env.own = own
    result[0] = UWS_OK
    while left and fault == NO_FAULT:
        size = cut(cuts, left)
        room = size // UWS_MIN_FRAME_BYTES + 1
        piece = exact(data + (len_bytes - left), size, cuts.state & 15)
        events = <UwsEvent*>malloc(room * sizeof(UwsEvent))
        n_out = -1
        was_done = (p.flags & UWS_P_DONE) != 0
        status = proto_feed(&p, &env, piece.at, size, events, &n_out)
        if was_done and (status != UWS_OK or n_out != 0):
            fault = NOT_DONE
        elif n_out < 0 or <size_t>n_out > room:
            fault = TOO_MANY_EVENTS
        else:
            for i in range(n_out):
                _note_event(notes, &events[i])
        if status != UWS_OK:
            result[0] = status
            note_failure(notes)
        left -= size
        # A buffer is doubled, and rounded up to its class.
        if env.partial_bytes > 4 * (len_bytes - left) + 8192:
            fault = TOO_MUCH_MEMORY
        free(events)
        free(piece.base)
    memset(&end, 0, sizeof(end))
    end.flags = p.flags & UWS_P_DONE
    end.code = <uint16_t>(-result[0])
    end.reply = <uint16_t>env.inflated
    note_event(notes, &end, NULL, 0)
    proto_reset(&p, &env)
    inflater_destroy(&env.inflater)
    if fault == NO_FAULT and (env.partial_bytes != 0 or env.stalest != NULL):
        fault = BLOCKS_LEFT
    return fault


def proto(bytes data, uint32_t seed, int window_bits=0, bint kept=False, uint8_t client_bits=15, bint stream=False,
          uint64_t max_message_bytes=1 << 20, uint64_t max_stream_bytes=1 << 20, uint32_t max_fragments=1024):
    """(status, notes). As in proto_shim.Proto: window_bits 0: no compression; kept: the client keeps its context."""
    cdef Notes[FEEDINGS] notes
    cdef int[FEEDINGS] faults
    cdef int status = UWS_OK, terms = window_bits, how
    cdef const uint8_t* at = <const uint8_t*><const char*>data
    cdef size_t n = len(data)
    cdef UwsProtoEnv limits
    cdef UwsDeflateTerms agreed
    cdef UwsDeflateSettings settings
    cdef UwsDeflate* own = NULL
    cdef Cuts cuts
    memset(notes, 0, sizeof(notes))
    memset(&limits, 0, sizeof(limits))
    memset(&agreed, 0, sizeof(agreed))
    memset(&settings, 0, sizeof(settings))
    limits.max_message_bytes = max_message_bytes
    limits.max_stream_bytes = max_stream_bytes
    limits.max_fragments = max_fragments
    limits.stream = stream
    agreed.server_bits = 15
    agreed.client_bits = client_bits
    if kept:
        terms |= UWS_P_PEERS_KEPT
    for how in range(FEEDINGS):
        cuts.how = how
        cuts.state = seed
        if kept:
            own = deflate_own(&slab, &agreed, &settings)
            if own == NULL:
                raise MemoryError
        with nogil:
            faults[how] = _feed_proto(at, n, &cuts, &limits, terms, own, &status, &notes[how])
        deflate_give(own)
        own = NULL
        if faults[how] == NO_FAULT and slab.live_blocks != 0:
            faults[how] = BLOCKS_LEFT
    return status, _agreed(notes, faults)


# ---- client

cdef int _feed_client(const uint8_t* data, size_t len_bytes, Cuts* cuts, bint check_utf8, int* result,
                      Notes* notes) noexcept nogil:
    cdef UwsClient c
    cdef UwsPiece said
    cdef Exact piece
    cdef Entry entry
    cdef const uint8_t* at
    cdef size_t left = len_bytes, size, rest
    cdef int status, fault = NO_FAULT
    memset(&c, 0, sizeof(c))
    c.check_utf8 = check_utf8
    result[0] = UWS_OK
    while left and fault == NO_FAULT:
        size = cut(cuts, left)
        piece = exact(data + (len_bytes - left), size, cuts.state & 15)
        at = piece.at
        rest = size
        while True:
            memset(&said, 0, sizeof(said))
            status = client_next(&c, &slab, &at, &rest, &said)
            if status != UWS_OK:
                break
            memset(&entry, 0, sizeof(entry))
            entry.kind = said.kind
            if said.kind == UWS_PIECE_DATA:
                entry.opcode = said.opcode
                entry.flags = (UWS_EVF_FIRST if said.first else 0) | (UWS_EVF_FINAL if said.last else 0)
                note_piece(notes, &entry, said.data, said.len_bytes, said.last)
            else:
                if said.kind == UWS_PIECE_CLOSE:
                    entry.code = said.code
                note_event(notes, &entry, said.data, said.len_bytes)
        if status == UWS_MORE:
            if rest != 0:
                fault = NOT_ALL_READ
        elif result[0] != UWS_OK:
            fault = NOT_DONE
        else:
            result[0] = status
            note_failure(notes)
        left -= size
        free(piece.base)
    memset(&entry, 0, sizeof(entry))
    entry.flags = c.done
    entry.code = <uint16_t>(-result[0])
    note_event(notes, &entry, NULL, 0)
    client_reset(&c, &slab)
    if fault == NO_FAULT and slab.live_blocks != 0:
        fault = BLOCKS_LEFT
    return fault


def client(bytes data, uint32_t seed, bint check_utf8):
    """(status, notes) of what a server sends."""
    cdef Notes[FEEDINGS] notes
    cdef int[FEEDINGS] faults
    cdef int status = UWS_OK, how
    cdef const uint8_t* at = <const uint8_t*><const char*>data
    cdef size_t n = len(data)
    cdef Cuts cuts
    memset(notes, 0, sizeof(notes))
    for how in range(FEEDINGS):
        cuts.how = how
        cuts.state = seed
        with nogil:
            faults[how] = _feed_client(at, n, &cuts, check_utf8, &status, &notes[how])
    return status, _agreed(notes, faults)


# ---- deflate

cdef object _taken(uint8_t* block, size_t len_bytes):
    message = PyBytes_FromStringAndSize(<char*>block, <Py_ssize_t>len_bytes) if block != NULL else b""
    slab_give(&slab, block)
    return message


cdef UwsDeflate* _own(uint8_t server_bits, uint8_t client_bits, int level, int mem_level) except NULL:
    cdef UwsDeflateTerms terms
    cdef UwsDeflateSettings settings
    cdef UwsDeflate* own
    memset(&terms, 0, sizeof(terms))
    memset(&settings, 0, sizeof(settings))
    terms.server_bits = server_bits
    terms.client_bits = client_bits
    settings.level = <signed char>level
    settings.mem_level = <uint8_t>mem_level
    own = deflate_own(&slab, &terms, &settings)
    if own == NULL:
        raise MemoryError
    return own


def _no_block_left():
    if slab.live_blocks != 0 or slab.context_bytes != 0:
        raise AssertionError(FAULTS[BLOCKS_LEFT])


def inflate(bytes data, uint64_t limit_bytes):
    """(status, message). Said three times: by a new inflater, by the same again, and by a connection's own."""
    cdef UwsInflater inflater
    cdef UwsDeflate* own
    cdef uint8_t* out
    cdef size_t n = 0
    cdef Exact piece
    said = []
    memset(&inflater, 0, sizeof(inflater))
    own = _own(15, 15, 1, 8)
    for run in range(3):
        out = NULL
        piece = exact(<const uint8_t*><const char*>data, len(data), 0)
        if run < 2:
            status = inflater_run(&inflater, &slab, piece.at, len(data), limit_bytes, &out, &n)
        else:
            status = inflate_own_run(own, piece.at, len(data), limit_bytes, &out, &n)
        free(piece.base)
        said.append((status, _taken(out, n)))
    inflater_destroy(&inflater)
    deflate_give(own)
    _no_block_left()
    if inflater.held_bytes != 0:
        raise AssertionError(f"{inflater.held_bytes} bytes are still counted")
    if not said[0] == said[1] == said[2]:
        raise AssertionError(f"a new inflater, the same again, a connection's own: {said}")
    return said[0]


def inflate_in_turn(list messages, uint64_t limit_bytes, uint8_t client_bits):
    """(status, message) of each, up to the first that fails, for a client that keeps its context."""
    cdef UwsDeflate* own = _own(15, client_bits, 1, 8)
    cdef uint8_t* out
    cdef size_t n = 0
    cdef Exact piece
    said = []
    for message in messages:
        out = NULL
        piece = exact(<const uint8_t*><const char*>message, len(message), 0)
        status = inflate_own_run(own, piece.at, len(message), limit_bytes, &out, &n)
        free(piece.base)
        said.append((status, _taken(out, n)))
        if status != UWS_OK:
            break
    deflate_give(own)
    _no_block_left()
    return said


def deflate(bytes data, int window_bits, int level, int mem_level):
    """(without a context, with one, the same again, with it forgotten): the message compressed; None: better sent as
    it is."""
    cdef UwsDeflateSettings settings
    cdef UwsDeflater deflater
    cdef UwsDeflate* own
    cdef const uint8_t* borrowed = NULL
    cdef uint8_t* out
    cdef size_t n = 0
    cdef Exact piece
    memset(&settings, 0, sizeof(settings))
    settings.level = <signed char>level
    settings.mem_level = <uint8_t>mem_level
    deflater_init(&deflater, &settings)
    own = _own(<uint8_t>window_bits, 15, level, mem_level)
    said = []
    for run in range(4):
        out = NULL
        piece = exact(<const uint8_t*><const char*>data, len(data), 0)
        if run == 3:
            deflate_own_forget(own)
        if run == 0:
            status = deflater_run(&deflater, window_bits, piece.at, len(data), &borrowed, &n)
        else:
            status = deflate_own_run(own, piece.at, len(data), &out, &n)
        free(piece.base)
        if status == UWS_DEFLATE_NO_GAIN:
            said.append(None)
        elif status != UWS_OK:
            raise AssertionError(f"deflating: {status}")
        elif run == 0:
            said.append(PyBytes_FromStringAndSize(<const char*>borrowed, n))
        else:
            said.append(_taken(out, n))
    deflater_destroy(&deflater)
    deflate_give(own)
    _no_block_left()
    if deflater.held_bytes != 0:
        raise AssertionError(f"{deflater.held_bytes} bytes are still counted")
    return tuple(said)
