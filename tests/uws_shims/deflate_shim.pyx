# Window of the tests onto _uws.deflate. Owns the slab that contexts and messages come from, and a copy of
# each input of exactly its size, so that a sanitizer sees a read beyond it. For tests/engine/test_deflate.py
# and test_proto.py only.

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from _uws.deflate cimport (
    UWS_DEFLATE_ANSWER_BYTES,
    UWS_DEFLATE_NO_GAIN,
    UWS_INFLATE_SLACK_BYTES,
    UwsDeflate,
    UwsDeflater,
    UwsDeflateSettings,
    UwsDeflateTerms,
    UwsInflater,
    deflate_give,
    deflate_library,
    deflate_negotiate,
    deflate_own,
    deflate_own_run,
    deflate_wire_limit,
    deflater_destroy,
    deflater_init,
    deflater_run,
    inflate_own_run,
    inflater_destroy,
    inflater_run,
)
from _uws.errs cimport UWS_E_DEFLATE, UWS_E_NOMEM, UWS_E_TOO_BIG, UWS_OK, err_close_code
from _uws.slab cimport UwsSlab, slab_block_bytes, slab_destroy, slab_give, slab_init, slab_used_bytes
from _uws.upgrade cimport UwsUpgrade, UwsUpgradeLimits, upgrade_init, upgrade_parse

from time import perf_counter_ns

OK = UWS_OK
NO_GAIN = UWS_DEFLATE_NO_GAIN
E_DEFLATE = UWS_E_DEFLATE
E_TOO_BIG = UWS_E_TOO_BIG
E_NOMEM = UWS_E_NOMEM
SLACK_BYTES = UWS_INFLATE_SLACK_BYTES
ANSWER_BYTES = UWS_DEFLATE_ANSWER_BYTES


def library():
    return deflate_library().decode()


def close_code(int status):
    return err_close_code(status)


def wire_limit(uint64_t limit_bytes):
    return deflate_wire_limit(limit_bytes)


cdef UwsDeflateSettings _settings(dict given):
    cdef UwsDeflateSettings s
    memset(&s, 0, sizeof(s))
    s.enabled = given.pop("enabled", True)
    s.level = given.pop("level", 1)
    s.mem_level = given.pop("mem_level", 8)
    s.server_bits = given.pop("server_bits", 15)
    s.client_bits = given.pop("client_bits", 15)
    s.server_takeover = given.pop("server_takeover", False)
    s.client_takeover = given.pop("client_takeover", False)
    s.threshold_bytes = given.pop("threshold_bytes", 1024)
    assert not given, given
    return s


def negotiate(bytes head, size_t cap=UWS_DEFLATE_ANSWER_BYTES, **settings):
    """(answer, (server bits, client bits, server takeover, client takeover)); None if the request is
    refused."""
    cdef UwsDeflateSettings s = _settings(settings)
    cdef UwsDeflateTerms terms
    cdef UwsUpgrade u
    cdef UwsUpgradeLimits limits
    cdef size_t n = len(head)
    cdef uint8_t* copy = <uint8_t*>malloc(n if n else 1)
    cdef uint8_t* out = <uint8_t*>malloc(cap if cap else 1)
    if copy == NULL or out == NULL:
        free(copy)
        free(out)
        raise MemoryError
    limits.max_head_bytes = 16384
    limits.max_fields = 100
    limits.max_line_bytes = 8192
    try:
        memcpy(copy, <char*>head, n)
        upgrade_init(&u)
        if upgrade_parse(&u, copy, n, &limits) != UWS_OK:
            return None
        memset(&terms, 0xAA, sizeof(terms))
        n = deflate_negotiate(&u, copy, &s, &terms, out, cap)
        assert n <= cap
        assert terms.accepted == (n != 0)
        kept = (terms.server_bits, terms.client_bits, terms.server_takeover, terms.client_takeover)
        return PyBytes_FromStringAndSize(<char*>out, n).decode(), kept
    finally:
        free(copy)
        free(out)


cdef class Room:
    """A slab, and who shares it."""

    cdef UwsSlab slab

    def __cinit__(self):
        assert slab_init(&self.slab) == UWS_OK

    def __dealloc__(self):
        slab_destroy(&self.slab)

    @property
    def live_blocks(self):
        return self.slab.live_blocks

    @property
    def used_bytes(self):
        return slab_used_bytes(&self.slab)

    @property
    def held_bytes(self):
        return self.slab.held_bytes


cdef object _taken(UwsSlab* slab, uint8_t* block, size_t n):
    """The content of a block, which is given back, and its size."""
    cdef size_t size
    if block == NULL:
        assert n == 0
        return b"", 0
    size = slab_block_bytes(block)
    assert n <= size
    try:
        return PyBytes_FromStringAndSize(<char*>block, n), size
    finally:
        slab_give(slab, block)


cdef class Deflater:
    """Compresses with contexts that are not kept."""

    cdef UwsDeflater d

    def __cinit__(self, **settings):
        cdef UwsDeflateSettings s = _settings(settings)
        deflater_init(&self.d, &s)

    def __dealloc__(self):
        deflater_destroy(&self.d)

    def run(self, bytes data, int window_bits=15):
        """The compressed message; None if it is not smaller."""
        cdef size_t n = len(data)
        cdef uint8_t* copy = <uint8_t*>malloc(n if n else 1)
        cdef const uint8_t* out = NULL
        cdef size_t out_len = 0
        cdef int status
        memcpy(copy, <char*>data, n)
        with nogil:
            status = deflater_run(&self.d, window_bits, copy, n, &out, &out_len)
        free(copy)
        if status == UWS_DEFLATE_NO_GAIN:
            return None
        assert status == UWS_OK
        return PyBytes_FromStringAndSize(<char*>out, out_len)

    def time_ns(self, bytes data, size_t rounds, int window_bits=15):
        """Nanoseconds for compressing this so many times."""
        cdef const uint8_t* p = <const uint8_t*><char*>data
        cdef size_t n = len(data)
        cdef const uint8_t* out = NULL
        cdef size_t out_len = 0
        cdef size_t _
        cdef int status = UWS_OK
        started = perf_counter_ns()
        with nogil:
            for _ in range(rounds):
                status |= deflater_run(&self.d, window_bits, p, n, &out, &out_len)
        elapsed = perf_counter_ns() - started
        assert status == UWS_OK and 0 < out_len < n
        return elapsed

    @property
    def buffer_bytes(self):
        return self.d.cap_bytes

    @property
    def contexts(self):
        return [bits for bits in range(16) if self.d.contexts[bits] != NULL]


cdef class Inflater:
    """Inflates without a context that is kept."""

    cdef UwsInflater i
    cdef readonly Room room
    cdef readonly size_t block_bytes

    def __cinit__(self, Room room=None):
        self.room = room or Room()
        self.i.context = NULL

    def __dealloc__(self):
        inflater_destroy(&self.i)

    def time_ns(self, bytes data, size_t rounds, uint64_t limit=1 << 20):
        """Nanoseconds for inflating this so many times."""
        cdef const uint8_t* p = <const uint8_t*><char*>data
        cdef size_t n = len(data)
        cdef uint8_t* out = NULL
        cdef size_t out_len = 0
        cdef size_t _
        cdef int status = UWS_OK
        started = perf_counter_ns()
        with nogil:
            for _ in range(rounds):
                status |= inflater_run(&self.i, &self.room.slab, p, n, limit, &out, &out_len)
                slab_give(&self.room.slab, out)
        elapsed = perf_counter_ns() - started
        assert status == UWS_OK and out_len > n
        return elapsed

    def run(self, bytes data, uint64_t limit=1 << 20):
        """(status, message)"""
        cdef size_t n = len(data)
        cdef uint8_t* copy = <uint8_t*>malloc(n if n else 1)
        cdef uint8_t* out = <uint8_t*>1
        cdef size_t out_len = 1
        cdef int status
        memcpy(copy, <char*>data, n)
        with nogil:
            status = inflater_run(&self.i, &self.room.slab, copy, n, limit, &out, &out_len)
        free(copy)
        assert status == UWS_OK or out == NULL
        message, self.block_bytes = _taken(&self.room.slab, out, out_len)
        return status, message


cdef class Own:
    """The contexts of one connection."""

    cdef UwsDeflate* own
    cdef readonly Room room

    def __cinit__(self, Room room=None, **settings):
        cdef UwsDeflateSettings s = _settings(settings)
        cdef UwsDeflateTerms terms
        memset(&terms, 0, sizeof(terms))
        terms.server_bits = s.server_bits
        terms.client_bits = s.client_bits
        self.room = room or Room()
        self.own = deflate_own(&self.room.slab, &terms, &s)
        if self.own == NULL:
            raise MemoryError

    def give(self):
        deflate_give(self.own)
        self.own = NULL

    def __dealloc__(self):
        deflate_give(self.own)

    def deflate(self, bytes data):
        """The compressed message; None for an empty one."""
        cdef size_t n = len(data)
        cdef uint8_t* copy = <uint8_t*>malloc(n if n else 1)
        cdef uint8_t* out = NULL
        cdef size_t out_len = 0
        cdef int status
        memcpy(copy, <char*>data, n)
        with nogil:
            status = deflate_own_run(self.own, copy, n, &out, &out_len)
        free(copy)
        if status == UWS_DEFLATE_NO_GAIN:
            return None
        assert status == UWS_OK, status
        return _taken(&self.room.slab, out, out_len)[0]

    def inflate(self, bytes data, uint64_t limit=1 << 20):
        """(status, message)"""
        cdef size_t n = len(data)
        cdef uint8_t* copy = <uint8_t*>malloc(n if n else 1)
        cdef uint8_t* out = <uint8_t*>1
        cdef size_t out_len = 1
        cdef int status
        memcpy(copy, <char*>data, n)
        with nogil:
            status = inflate_own_run(self.own, copy, n, limit, &out, &out_len)
        free(copy)
        return status, _taken(&self.room.slab, out, out_len)[0]
