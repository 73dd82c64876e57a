# Window of the tests onto _uws.proto.
# Owns each input it hands down and the events that come back: allocations of exactly the size that the
# contract asks for, so that a sanitizer sees a step beyond either. For tests/engine/test_proto.py only.

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from _uws.deflate cimport (
    UwsDeflate,
    UwsDeflateSettings,
    UwsDeflateTerms,
    deflate_give,
    deflate_own,
    inflater_destroy,
)
from _uws.errs cimport UWS_E_DEFLATE, UWS_E_FRAGMENTS, UWS_E_PROTOCOL, UWS_E_TOO_BIG, UWS_E_UTF8, UWS_OK, err_close_code
from _uws.proto cimport (
    UWS_EV_CLOSE,
    UWS_EV_FRAGMENT,
    UWS_EV_MESSAGE,
    UWS_EV_PING,
    UWS_EV_PONG,
    UWS_EVF_FINAL,
    UWS_EVF_FIRST,
    UWS_EVF_OWNED,
    UWS_MIN_FRAME_BYTES,
    UWS_P_DONE,
    UWS_P_PEERS_KEPT,
    UWS_P_TERMS,
    UwsEvent,
    UwsPartial,
    UwsProto,
    UwsProtoEnv,
    proto_feed,
    proto_reset,
    proto_stalest,
)
from _uws.slab cimport UwsSlab, slab_block_bytes, slab_destroy, slab_give, slab_init, slab_used_bytes

from time import perf_counter_ns
from typing import NamedTuple

OK = UWS_OK
E_PROTOCOL = UWS_E_PROTOCOL
E_UTF8 = UWS_E_UTF8
E_TOO_BIG = UWS_E_TOO_BIG
E_FRAGMENTS = UWS_E_FRAGMENTS
E_DEFLATE = UWS_E_DEFLATE
KINDS = {UWS_EV_MESSAGE: "message", UWS_EV_PING: "ping", UWS_EV_PONG: "pong", UWS_EV_CLOSE: "close"}
FRAGMENTS = {
    UWS_EVF_FIRST: "first", 0: "more", UWS_EVF_FINAL: "final", UWS_EVF_FIRST | UWS_EVF_FINAL: "only",
}
PROTO_BYTES = sizeof(UwsProto)
PARTIAL_BYTES = sizeof(UwsPartial)


class Event(NamedTuple):
    """kind: of a fragment where in its message it is: "first", "more", "final", or "only" for all in one.
    place: "input", "owned" (a slab block), "scratch", or "nowhere": nobody may look at it."""

    kind: str
    opcode: int
    payload: bytes
    code: int
    reply: int | None
    place: str


def close_code(int status):
    return err_close_code(status)


cdef class Env:
    """What the connections of one loop share."""

    cdef UwsSlab slab
    cdef UwsProtoEnv env

    def __cinit__(self, uint64_t max_message_bytes=1 << 20, uint32_t max_fragments=1024, bint stream=False,
                  uint64_t max_stream_bytes=1 << 20):
        assert slab_init(&self.slab) == UWS_OK
        memset(&self.env, 0, sizeof(UwsProtoEnv))
        self.env.slab = &self.slab
        self.env.max_message_bytes = max_message_bytes
        self.env.max_fragments = max_fragments
        self.env.stream = stream
        self.env.max_stream_bytes = max_stream_bytes

    def __dealloc__(self):
        inflater_destroy(&self.env.inflater)
        slab_destroy(&self.slab)

    @property
    def stream(self):
        return self.env.stream != 0

    @stream.setter
    def stream(self, bint value):
        self.env.stream = value

    @property
    def inflated(self):
        """(messages, bytes as they came, bytes as they are)"""
        return self.env.inflated, self.env.inflated_from_bytes, self.env.inflated_bytes

    @property
    def work_bytes(self):
        return self.env.work_bytes

    @property
    def partial_bytes(self):
        return self.env.partial_bytes

    @property
    def live_blocks(self):
        return self.slab.live_blocks

    @property
    def used_bytes(self):
        return slab_used_bytes(&self.slab)


cdef class Proto:
    """One connection, fed piece by piece; alone unless it is given an Env.

    window_bits: of permessage-deflate, as if it had been negotiated; 0: it was not.
    kept: as if it had been agreed upon that the client keeps its context, with a window of client_bits.
    """

    cdef UwsProto p
    cdef readonly Env room
    cdef UwsDeflate* own

    def __cinit__(self, Env room=None, int window_bits=0, bint kept=False, uint8_t client_bits=15, **limits):
        cdef UwsDeflateTerms terms
        cdef UwsDeflateSettings settings
        memset(&self.p, 0, sizeof(UwsProto))
        self.p.flags = <uint8_t>window_bits
        self.room = Env(**limits) if room is None else room
        self.own = NULL
        if kept:
            self.p.flags |= UWS_P_PEERS_KEPT
            memset(&terms, 0, sizeof(terms))
            memset(&settings, 0, sizeof(settings))
            terms.server_bits = 15
            terms.client_bits = client_bits
            self.own = deflate_own(&self.room.slab, &terms, &settings)
            if self.own == NULL:
                raise MemoryError

    def __dealloc__(self):
        proto_reset(&self.p, &self.room.env)
        deflate_give(self.own)

    def feed(self, bytes data):
        """(status, events). What an event owns is given back here, as its consumer would."""
        cdef size_t n = len(data)
        cdef size_t room = n // UWS_MIN_FRAME_BYTES + 1
        cdef uint8_t* copy = <uint8_t*>malloc(n if n else 1)
        cdef UwsEvent* out = <UwsEvent*>malloc(room * sizeof(UwsEvent))
        # Neither success nor failure may leave it as it was.
        cdef int n_out = -1
        cdef int status, i
        cdef UwsProtoEnv* env = &self.room.env
        if copy == NULL or out == NULL:
            free(copy)
            free(out)
            raise MemoryError
        try:
            memcpy(copy, <char*>data, n)
            env.own = self.own
            with nogil:
                status = proto_feed(&self.p, env, copy, n, out, &n_out)
            assert 0 <= n_out <= <int>room, (n_out, room)
            return status, [self._event(&out[i], copy, n) for i in range(n_out)]
        finally:
            free(copy)
            free(out)

    def time_ns(self, bytes data, size_t rounds):
        """Nanoseconds for feeding this so many times: whole binary messages, one event for each of them.

        They are unmasked where they lie, so every other round finds them masked and the rounds between do not:
        which is the same work.
        """
        cdef size_t n = len(data)
        cdef size_t room = n // UWS_MIN_FRAME_BYTES + 1
        cdef uint8_t* copy = <uint8_t*>malloc(n)
        cdef UwsEvent* out = <UwsEvent*>malloc(room * sizeof(UwsEvent))
        cdef UwsProtoEnv* env = &self.room.env
        cdef int n_out = 0
        cdef int status = UWS_OK
        cdef size_t _
        cdef uint64_t events = 0
        if copy == NULL or out == NULL:
            free(copy)
            free(out)
            raise MemoryError
        memcpy(copy, <char*>data, n)
        env.own = self.own
        started = perf_counter_ns()
        with nogil:
            for _ in range(rounds):
                status |= proto_feed(&self.p, env, copy, n, out, &n_out)
                events += <uint64_t>n_out
        elapsed = perf_counter_ns() - started
        free(copy)
        free(out)
        assert status == UWS_OK and self.is_new and events and events % rounds == 0, (status, events, rounds)
        return elapsed

    cdef object _event(self, UwsEvent* event, uint8_t* data, size_t n):
        cdef uintptr_t at = <uintptr_t>event.data
        cdef uintptr_t first = <uintptr_t>data
        cdef uintptr_t scratch = <uintptr_t>self.room.env.scratch
        cdef size_t size = event.len_bytes
        payload = b""
        if event.flags & UWS_EVF_OWNED:
            place = "owned"
            # slab_give() stops the process for what is no block of this slab.
            assert size <= slab_block_bytes(event.data)
        elif size == 0:
            place = "nowhere"
        elif first <= at and at - first <= n and size <= n - (at - first):
            place = "input"
        elif scratch <= at and at - scratch + size <= sizeof(self.room.env.scratch):
            place = "scratch"
        else:
            raise AssertionError("a payload outside the input and the scratch that is not the event's own")
        if size:
            payload = PyBytes_FromStringAndSize(<char*>event.data, size)
        if event.flags & UWS_EVF_OWNED:
            slab_give(&self.room.slab, event.data)
        reply = event.reply_code or None
        kind = FRAGMENTS[event.flags] if event.kind == UWS_EV_FRAGMENT else KINDS[event.kind]
        return Event(kind, event.opcode, payload, event.code, reply, place)

    def reset(self):
        """As at the end of a connection."""
        proto_reset(&self.p, &self.room.env)
        deflate_give(self.own)
        self.own = NULL

    @property
    def is_new(self):
        """Whether nothing of an earlier message is left in the slot's part, as in a slot that was never used."""
        cdef UwsProto new
        memset(&new, 0, sizeof(UwsProto))
        new.flags = self.p.flags & UWS_P_TERMS
        return memcmp(&new, &self.p, sizeof(UwsProto)) == 0

    @property
    def done(self):
        return (self.p.flags & UWS_P_DONE) != 0

    @property
    def is_stalest(self):
        return proto_stalest(&self.room.env) == &self.p

    @property
    def live_blocks(self):
        return self.room.live_blocks

    @property
    def used_bytes(self):
        return self.room.used_bytes
