# F6. The load generator as Python sees it: what it is to do, and one object for each thread that does it.
# Owns the memory of a UwsLoad. No Python runs per message: counts are read when a run is over, or now and then.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from _uws.atomic cimport atomic_acquire, atomic_read, atomic_write
from _uws.dial cimport UwsAddress
from _uws.errs cimport UWS_OK
from _uws.histogram cimport UWS_HISTOGRAM_COUNTS, UwsHistogram, histogram_value
from _uws.loadplan cimport (
    UWS_LERR_CLOSE_TIMEOUT,
    UWS_LERR_CLOSED,
    UWS_LERR_CONNECT,
    UWS_LERR_CONNECT_TIMEOUT,
    UWS_LERR_CUT,
    UWS_LERR_HANDSHAKE,
    UWS_LERR_HANDSHAKE_CUT,
    UWS_LERR_HANDSHAKE_TIMEOUT,
    UWS_LERR_MISSING,
    UWS_LERR_NOMEM,
    UWS_LERR_PROTOCOL,
    UWS_LERR_REPLY_TIMEOUT,
    UWS_LERR_STATUS,
    UWS_LERR_UNASKED,
    UWS_LERR_WRONG_REPLY,
    UWS_LOAD_BROADCAST,
    UWS_LOAD_CODES,
    UWS_LOAD_ECHO,
    UWS_LOAD_ERRNOS,
    UWS_LOAD_HANDSHAKES,
    UWS_LOAD_IDLE,
    UWS_LOAD_SCRATCH_BYTES,
    UWS_LOAD_STAMP_BYTES,
    UWS_LOAD_STATUSES,
    UWS_PHASE_CLOSE,
    UWS_PHASE_DRAIN,
    UWS_PHASE_END,
    UWS_PHASE_MEASURE,
    UWS_PHASE_RAMP,
    UWS_PHASE_WARM,
    UwsLoad,
    UwsLoadConn,
    UwsLoadPlan,
    UwsLoadTold,
)
from _uws.loadrun cimport load_run
from _uws.opening cimport (
    UWS_FAULT_ACCEPT,
    UWS_FAULT_EXTENSION,
    UWS_FAULT_HTTP,
    UWS_FAULT_SUBPROTOCOL,
    UWS_FAULT_TOO_LONG,
    UWS_FAULT_UPGRADE,
    UWS_OPENING_KEY_BYTES,
)
from _uws.slab cimport slab_destroy, slab_init
from _uws.sock cimport sockaddr_storage

RAMP = <int>UWS_PHASE_RAMP
WARM = <int>UWS_PHASE_WARM
MEASURE = <int>UWS_PHASE_MEASURE
DRAIN = <int>UWS_PHASE_DRAIN
CLOSE = <int>UWS_PHASE_CLOSE
END = <int>UWS_PHASE_END

STAMP_BYTES = <int>UWS_LOAD_STAMP_BYTES
KEY_BYTES = <int>UWS_OPENING_KEY_BYTES

cdef dict MODES = {
    "echo": <int>UWS_LOAD_ECHO,
    "idle": <int>UWS_LOAD_IDLE,
    "handshakes": <int>UWS_LOAD_HANDSHAKES,
    "broadcast": <int>UWS_LOAD_BROADCAST,
}
cdef dict ERRORS = {
    "connect": <int>UWS_LERR_CONNECT,
    "connect_timeout": <int>UWS_LERR_CONNECT_TIMEOUT,
    "handshake_timeout": <int>UWS_LERR_HANDSHAKE_TIMEOUT,
    "handshake_cut": <int>UWS_LERR_HANDSHAKE_CUT,
    "status": <int>UWS_LERR_STATUS,
    "handshake": <int>UWS_LERR_HANDSHAKE,
    "protocol": <int>UWS_LERR_PROTOCOL,
    "closed": <int>UWS_LERR_CLOSED,
    "cut": <int>UWS_LERR_CUT,
    "wrong_reply": <int>UWS_LERR_WRONG_REPLY,
    "unasked": <int>UWS_LERR_UNASKED,
    "reply_timeout": <int>UWS_LERR_REPLY_TIMEOUT,
    "missing": <int>UWS_LERR_MISSING,
    "close_timeout": <int>UWS_LERR_CLOSE_TIMEOUT,
    "no_memory": <int>UWS_LERR_NOMEM,
}
cdef dict FAULTS = {
    "http": <int>UWS_FAULT_HTTP,
    "too_long": <int>UWS_FAULT_TOO_LONG,
    "upgrade": <int>UWS_FAULT_UPGRADE,
    "accept": <int>UWS_FAULT_ACCEPT,
    "extension": <int>UWS_FAULT_EXTENSION,
    "subprotocol": <int>UWS_FAULT_SUBPROTOCOL,
}


cdef int _addresses(list packed, UwsAddress* out) except -1:
    cdef bytes one
    cdef int i
    for i in range(len(packed)):
        one = packed[i]
        if not 2 < len(one) <= sizeof(sockaddr_storage):
            raise ValueError(f"{one!r} is no socket's address")
        memcpy(&out[i].at, PyBytes_AS_STRING(one), len(one))
        out[i].len_bytes = len(one)
    return 0


@cython.final
cdef class Plan:
    """What a load is to be. See load.pyi."""

    def __cinit__(self, str mode, *, int threads, bytes request, int key_at, list targets, list sources, bytes payloads,
                  size_t size, bint text, size_t pipelining, double rate, double connect_rate,
                  int connecting, int publishers, bint others_only, bytes protocols, bint any_reply, bint abort,
                  int greeting, int max_head_bytes, double connect_timeout, double handshake_timeout,
                  double reply_timeout, double close_timeout, int run_id):
        cdef UwsLoadPlan* p = &self.p
        cdef size_t ring = len(payloads) // size if size else 1
        memset(p, 0, sizeof(UwsLoadPlan))
        if not targets or threads < 1 or connecting < 1 or pipelining < 1:
            raise ValueError("no target, no thread, or nothing under way")
        if not 0 <= key_at <= len(request) - KEY_BYTES or not 0 < len(request) <= 65536:
            raise ValueError("the key lies outside of the request, or that is longer than 64 KiB")
        if size > 1 << 30 or len(payloads) != ring * size or ring & (ring - 1) or ring == 0:
            raise ValueError("payloads are a power of two of messages, of at most 1 GiB each")
        if mode == "broadcast" and size < STAMP_BYTES:
            raise ValueError(f"a publication has at least {STAMP_BYTES} bytes")
        if min(connect_timeout, handshake_timeout, reply_timeout, close_timeout) < 0 or rate < 0 or connect_rate < 0:
            raise ValueError("a time or a rate is negative")
        p.mode = MODES[mode]
        p.opcode = 1 if text else 2
        p.threads = threads
        p.size = size
        p.ring_count = ring
        p.pipelining = pipelining
        p.gap_ns = 1e9 / rate if rate else 0
        p.connect_gap_ns = 1e9 / connect_rate if connect_rate else 0
        p.connecting = connecting
        p.publishers = publishers
        p.others_only = others_only
        p.any_reply = any_reply
        p.abort = abort
        p.greeting = greeting
        p.run_id = run_id & 0xFFFFFF
        p.connect_timeout_ns = <uint64_t>(connect_timeout * 1e9)
        p.handshake_timeout_ns = <uint64_t>(handshake_timeout * 1e9)
        p.reply_timeout_ns = <uint64_t>(reply_timeout * 1e9)
        p.close_timeout_ns = <uint64_t>(close_timeout * 1e9)
        self.kept = (request, payloads, protocols)
        p.request = <uint8_t*>PyBytes_AS_STRING(request)
        p.request_len = len(request)
        p.key_at = key_at
        p.payloads = <uint8_t*>PyBytes_AS_STRING(payloads)
        p.offer.protocols = <const uint8_t*>PyBytes_AS_STRING(protocols)
        p.offer.protocols_len = len(protocols)
        p.offer.max_head_bytes = max_head_bytes
        p.targets = <UwsAddress*>PyMem_RawCalloc(len(targets), sizeof(UwsAddress))
        p.sources = <UwsAddress*>PyMem_RawCalloc(len(sources) or 1, sizeof(UwsAddress))
        p.told = <UwsLoadTold*>PyMem_RawCalloc(threads, sizeof(UwsLoadTold))
        if p.targets == NULL or p.sources == NULL or p.told == NULL:
            raise MemoryError
        _addresses(targets, p.targets)
        _addresses(sources, p.sources)
        p.n_targets = len(targets)
        p.n_sources = len(sources)

    def __dealloc__(self):
        PyMem_RawFree(self.p.targets)
        PyMem_RawFree(self.p.sources)
        PyMem_RawFree(self.p.told)


@cython.final
cdef class Load:
    """One thread's share of a load. See load.pyi."""

    def __cinit__(self, Plan plan not None, uint32_t index, uint32_t connections, uint32_t first):
        cdef UwsLoad* l
        cdef UwsLoadPlan* p = &plan.p
        cdef size_t i
        if index >= p.threads:
            raise ValueError(f"there is no thread {index}")
        if p.mode == UWS_LOAD_BROADCAST and index == 0 and p.publishers > connections:
            raise ValueError("the first thread has all publishers, and fewer connections")
        self.plan = plan
        self.l = l = <UwsLoad*>PyMem_RawCalloc(1, sizeof(UwsLoad))
        if l == NULL:
            raise MemoryError
        l.plan = p
        l.index = index
        l.n = connections
        l.first = first
        l.takers = connections
        l.step_ns = p.gap_ns * p.threads
        l.offset_ns = p.gap_ns * index
        if p.mode == UWS_LOAD_BROADCAST:
            l.takers = p.publishers if index == 0 else 0
            l.step_ns = p.gap_ns
        elif p.mode != UWS_LOAD_ECHO:
            l.takers = 0
        if slab_init(&l.slab) != UWS_OK:
            raise MemoryError
        l.conns = <UwsLoadConn*>PyMem_RawCalloc(connections or 1, sizeof(UwsLoadConn))
        l.request = <uint8_t*>PyMem_RawCalloc(1, p.request_len)
        l.scratch = <uint8_t*>PyMem_RawCalloc(1, UWS_LOAD_SCRATCH_BYTES)
        l.inbuf = <uint8_t*>PyMem_RawCalloc(1, UWS_LOAD_SCRATCH_BYTES)
        l.stamp_count = 1
        while l.stamp_count < p.pipelining:
            l.stamp_count *= 2
        l.stamps = <uint64_t*>PyMem_RawCalloc(l.takers * l.stamp_count if p.gap_ns == 0 and l.takers else 1, 8)
        l.seqs = <uint32_t*>PyMem_RawCalloc(
            connections * <size_t>p.publishers if p.mode == UWS_LOAD_BROADCAST and connections else 1, 4)
        if l.conns == NULL or l.request == NULL or l.scratch == NULL or l.inbuf == NULL or l.stamps == NULL \
                or l.seqs == NULL:
            raise MemoryError
        memcpy(l.request, p.request, p.request_len)
        for i in range(connections):
            l.conns[i].fd = -1

    def __dealloc__(self):
        cdef UwsLoad* l = self.l
        if l != NULL:
            slab_destroy(&l.slab)
            PyMem_RawFree(l.conns)
            PyMem_RawFree(l.request)
            PyMem_RawFree(l.scratch)
            PyMem_RawFree(l.inbuf)
            PyMem_RawFree(l.stamps)
            PyMem_RawFree(l.seqs)
            PyMem_RawFree(l)

    def run(self, bint private_table=False, bint required=True):
        cdef int status, error
        if self.started:
            raise RuntimeError("a load runs once")
        self.started = True
        with nogil:
            status = load_run(self.l, private_table, required)
            error = errno
        if status != UWS_OK:
            raise OSError(error, "no table of descriptors, or no epoll, for a thread of the load")

    def order(self, int phase):
        if not 0 <= phase <= END or <uint64_t>phase < atomic_read(&self.l.orders):
            raise ValueError(f"{phase} is no phase, or is over")
        atomic_write(&self.l.orders, <uint64_t>phase)

    def shown(self):
        cdef UwsLoad* l = self.l
        # Before the counts: see _show() of loadrun.
        phase = atomic_acquire(&l.shown.phase)
        return {
            "phase": phase,
            "open": atomic_read(&l.shown.open),
            "closing": atomic_read(&l.shown.closing),
            "settled": atomic_read(&l.shown.settled),
            "outstanding": atomic_read(&l.shown.outstanding),
            "started": atomic_read(&l.shown.started),
            "upgraded": atomic_read(&l.shown.upgraded),
            "failed": atomic_read(&l.shown.failed),
            "replies": atomic_read(&l.shown.replies),
            "errors": atomic_read(&l.shown.errors),
        }

    def figures(self):
        cdef UwsLoad* l = self.l
        cdef int i
        return {
            "connections": l.n,
            "seconds": (l.end_ns - l.begin_ns) / 1e9 if l.end_ns else 0.0,
            "ramp_seconds": (l.ramped_ns - l.ramp_ns) / 1e9 if l.ramped_ns else 0.0,
            "cpu_seconds": (l.end_cpu_ns - l.begin_cpu_ns) / 1e9 if l.end_ns else 0.0,
            "published": l.published,
            "total": l.count,
            "at_begin": l.at_begin,
            "at_end": l.at_end,
            "errors": {name: l.errors[<int>number] for name, number in ERRORS.items() if l.errors[<int>number]},
            "errnos": {i: l.errnos[i] for i in range(UWS_LOAD_ERRNOS) if l.errnos[i]},
            "statuses": {i: l.statuses[i] for i in range(UWS_LOAD_STATUSES) if l.statuses[i]},
            "faults": {name: l.faults[<int>number] for name, number in FAULTS.items() if l.faults[<int>number]},
            "codes": {l.codes[i].code: l.codes[i].n for i in range(UWS_LOAD_CODES) if l.codes[i].n},
            "other_codes": l.other_codes,
        }

    def latency(self):
        return _counts(&self.l.latency)

    def opening(self):
        return _counts(&self.l.opening)


cdef tuple _counts(UwsHistogram* h):
    """(longest, [(shortest duration of a bucket, count)]), in ns."""
    cdef uint32_t i
    cdef list found = []
    for i in range(UWS_HISTOGRAM_COUNTS):
        if h.counts[i]:
            found.append((histogram_value(i), h.counts[i]))
    return h.max_ns, found
