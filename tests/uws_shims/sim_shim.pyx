# The simulation: one loop of the engine, its network and its clock (tests/simulation/kernel.h), clients
# (simpeer_shim), an application (simapp_shim), and what has to hold (simrules_shim). One thread acts as all threads
# there are: where the engine waits, or lets go of its lock, others have their turn. The other runner has a stack of its
# own, so that the poller may sleep while it waits in a callback, and the other way round. Driven by
# tests/simulation/simulate.py.

from libc.errno cimport ETIMEDOUT
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from _uws.deliver cimport UwsDelivery, deliver_begin
from _uws.drain cimport loop_drain, loop_stop
from _uws.errs cimport UWS_OK
from _uws.loop cimport batch_init, loop_destroy, loop_init, loop_listen, loop_turn
from _uws.post cimport post_spill
from _uws.proxy cimport UWS_A_INET
from _uws.role cimport UWS_WORK_STOP, role_work
from _uws.state cimport (
    UWS_O_DOG,
    UWS_O_NONE,
    UWS_O_RUNNER,
    UWS_ROLE_NEW,
    UWS_W_CLOSE,
    UWS_W_DRAIN,
    UWS_W_MESSAGE,
    UWS_W_OPEN,
    UWS_W_PONG,
    UWS_W_REQUEST,
    UWS_W_ROUTE,
    UWS_W_STREAM,
    UwsBatch,
    UwsLimits,
    UwsLoop,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)

from uws_shims.scarce_shim cimport scarce_set
from uws_shims.simapp_shim cimport app_act, app_answer, app_resume, app_send, app_step
from uws_shims.simdeflate_shim cimport deflates_end
from uws_shims.simkernel cimport SIM_BASE, SIM_FDS, SIM_NEVER, SimHooks, SimKernel, SimWeather
from uws_shims.simpeer_shim cimport PEER_GONE, PEER_LONGEST_BYTES, Peer, peer_act, peer_init
from uws_shims.simrules_shim cimport rules_asleep, rules_between_turns, rules_over
from uws_shims.simworld cimport PEERS, World

cdef extern from "<dlfcn.h>" nogil:
    void* RTLD_DEFAULT
    void* dlsym(void*, const char*)

cdef extern from "<ucontext.h>" nogil:
    ctypedef struct stack_t:
        void* ss_sp
        size_t ss_size
    ctypedef struct ucontext_t:
        stack_t uc_stack
        ucontext_t* uc_link
    int getcontext(ucontext_t*)
    void makecontext(ucontext_t*, void (*)() noexcept nogil, int)
    int swapcontext(ucontext_t*, const ucontext_t*)

cdef enum:
    STACK_BYTES = 1 << 18
    MOST_LOCKS = 3000000          # takings of the lock, after which a run is taken to be caught in a circle
    MAX_MESSAGE_BYTES = 65536

cdef World W
cdef UwsLoop* L = &W.l
cdef const SimKernel* K
cdef ucontext_t HERE, OTHER
cdef uint8_t STACK[STACK_BYTES]


cdef inline uint32_t _below(uint32_t n) noexcept nogil:
    return K.below(n)


cdef inline uint32_t _one_of(uint32_t a, uint32_t b, uint32_t c) noexcept nogil:
    cdef uint32_t which = K.below(3)
    return a if which == 0 else b if which == 1 else c


# ---- who comes in between

cdef void _stop() noexcept nogil:
    cdef uint32_t over_ms = _below(1000), timeout_ms = _one_of(0, 100, 3000), which = _below(6)
    W.has_stopped = True
    pthread_mutex_lock(&L.lock)
    if which < 2:
        K.trace("drain over %u ms, then stop in %u", over_ms, timeout_ms)
        loop_drain(L, over_ms, 1012, which == 0, timeout_ms)
    else:
        K.trace("stop in %u ms", timeout_ms)
        loop_stop(L, 1001, <const uint8_t*>b"over", 4, timeout_ms)
    pthread_mutex_unlock(&L.lock)


cdef void _other() noexcept nogil:
    """The other runner, on its stack: it lets others go on after each step, and wherever it waits."""
    while True:
        W.other_at_work = app_step(&W, &W.theirs)
        swapcontext(&OTHER, &HERE)


cdef void _give_stack() noexcept nogil:
    getcontext(&OTHER)
    OTHER.uc_stack.ss_sp = STACK
    OTHER.uc_stack.ss_size = STACK_BYTES
    OTHER.uc_link = NULL
    makecontext(&OTHER, _other, 0)


cdef void _other_goes_on() noexcept nogil:
    W.is_other = True
    swapcontext(&HERE, &OTHER)
    W.is_other = False


cdef void _others() noexcept nogil:
    """One step of some other thread."""
    cdef uint32_t which = _below(8)
    cdef Peer* p = &W.peer[_below(W.n_peers)]
    W.is_others_turn = True
    if K.now() >= W.stops_us and not W.has_stopped:
        _stop()
    elif W.other_at_work and which < 4:
        _other_goes_on()
    elif L.runners > 1 and which < 4:
        W.theirs.role = 0
        pthread_mutex_lock(&L.lock)
        W.other_at_work = deliver_begin(L, &W.other, &W.theirs)
        pthread_mutex_unlock(&L.lock)
    elif p.asks:
        app_answer(&W, p)
    elif p.resumes_us != 0 and K.now() >= p.resumes_us:
        app_resume(&W, p)
    elif p.opens and not p.closes:
        if K.mishap(W.oddness):
            app_act(&W, p, NULL)
        elif _below(4) == 0:
            app_send(&W, p, NULL)
    W.is_others_turn = False


cdef void _stand_in() noexcept nogil:
    """The watchdog takes the role from the runner whose callback this is, polls for a while and leaves it to whoever
    wants it, as _stand_in() of role.pyx does."""
    cdef uint32_t _
    if W.is_others_turn or W.has_stand_in or L.owner != UWS_O_RUNNER or not L.away:
        return
    W.has_stand_in = True
    pthread_mutex_lock(&L.lock)
    K.trace("the watchdog takes the role")
    L.batch.blamed_us = K.now() - _below(2 * L.limits.schedule_timeout_us)
    L.owner = UWS_O_DOG
    L.away = L.yield_now = 0
    L.count.takeovers += 1
    post_spill(L)
    L.batch = &W.dog
    for _ in range(1 + _below(4)):
        loop_turn(L, &W.dog)
        post_spill(L)
    L.owner = UWS_O_NONE
    L.batch = NULL
    pthread_mutex_unlock(&L.lock)
    W.has_stand_in = False


cdef void _before_lock() noexcept nogil:
    W.locks += 1
    if W.locks > MOST_LOCKS:
        K.fail("it goes round in circles")
    if not W.is_others_turn and K.mishap(W.preempts):
        _others()


cdef int _wait(uint64_t until_us) noexcept nogil:
    """A callback waits for a message, or for room."""
    if until_us == SIM_NEVER:
        K.fail("a runner parks, and nobody is there to call it")
    if W.is_other:
        # It may be woken for nothing, as by a real condition.
        swapcontext(&OTHER, &HERE)
        return ETIMEDOUT if K.now() >= until_us else 0
    if W.is_others_turn or W.has_stand_in or W.waits != 0:
        # Whoever it waits for is a caller of this.
        K.advance(until_us)
        return ETIMEDOUT
    W.waits += 1
    if _below(2):
        _stand_in()
    else:
        _someone()
        _others()
    W.waits -= 1
    if K.now() >= until_us:
        return ETIMEDOUT
    K.advance(K.now() + 1 + _below(5000))
    return 0


cdef bint _someone() noexcept nogil:
    """Some client does something. False: none has anything to do."""
    cdef int i, start = <int>_below(W.n_peers)
    for i in range(W.n_peers):
        if peer_act(&W.peer[(start + i) % W.n_peers], K, W.answer_bytes):
            return True
    return False


cdef uint64_t _next(uint64_t until_us) noexcept nogil:
    """When something happens by itself."""
    cdef uint64_t now = K.now(), at = K.next_arrival()
    cdef const Peer* p
    cdef bint all_gone = True
    cdef int i
    if at < until_us:
        until_us = at
    for i in range(W.n_peers):
        p = &W.peer[i]
        if p.phase != PEER_GONE:
            all_gone = False
            if p.next_us > now and p.next_us < until_us:
                until_us = p.next_us
            if p.got >= p.stops_reading_at and p.reads_on_us > now and p.reads_on_us < until_us \
                    and p.reads_on_us < SIM_NEVER // 2:
                until_us = p.reads_on_us
        if p.resumes_us != 0 and p.resumes_us < until_us:
            until_us = p.resumes_us if p.resumes_us > now else now + 1000
        if p.asks and now + 1000 < until_us:
            until_us = now + 1000
    if (W.other_at_work or L.n_apart != 0) and now + 1000 < until_us:
        until_us = now + 1000
    if not W.has_stopped:
        if all_gone and L.n_conns == 0:
            W.stops_us = now
        if W.stops_us < until_us:
            until_us = W.stops_us if W.stops_us > now else now + 1
    return until_us


cdef void _sleep(uint64_t until_us) noexcept nogil:
    cdef uint64_t next_us, asked_us = until_us
    if W.is_others_turn:
        # By one who waits for another's callback: it is for that to return.
        return
    if W.has_stand_in and until_us > K.now() + 20000:
        until_us = K.now() + 1 + _below(20000)
    while not K.is_ready():
        if _someone():
            continue
        if _below(3) == 0:
            _others()
            continue
        next_us = _next(until_us)
        rules_asleep(&W, asked_us)
        if next_us == SIM_NEVER:
            K.fail("it sleeps for ever, with %u connections", L.n_conns)
        K.advance(next_us)
        if K.now() >= until_us:
            return
        if K.mishap(W.jumps):
            K.trace("the clock jumps")
            K.advance(K.now() + _below(120000000))
            return


# ---- a run

cdef uint32_t _now_and_then(uint32_t one_in) noexcept nogil:
    """In one run of three there is such a thing at all."""
    return one_in if _below(3) == 0 else 0


cdef void _make_weather() noexcept nogil:
    cdef SimWeather* w = &W.weather
    memset(w, 0, sizeof(SimWeather))
    w.interrupted = _now_and_then(20)
    w.not_yet = _now_and_then(10)
    w.no_buffers = _now_and_then(20)
    w.cut_short = _now_and_then(2)
    w.no_descriptor = _now_and_then(4)
    w.gone_again = _now_and_then(4)
    w.no_watch = 30 if _below(10) == 0 else 0
    w.segment_bytes = _one_of(1500, 65536, 1 + _below(200))
    w.latency_us = _one_of(200, 5000, 80000)
    w.send_bytes = _one_of(65536, 8192, 256 + _below(3000))
    w.window_bytes = _one_of(65536, 65536, 1 + _below(8192))
    K.set_weather(w)
    W.preempts = 5 + _below(30) if _below(2) else 0
    W.oddness = 8 + _below(60) if _below(3) else 400
    W.takeovers = _now_and_then(8)
    W.jumps = _now_and_then(20)
    W.is_scarce = _below(6) == 0
    if W.is_scarce:
        scarce_set(K.mishap, 20 + _below(100))


cdef void _make_limits(UwsLimits* limits) noexcept nogil:
    memset(limits, 0, sizeof(UwsLimits))
    limits.upgrade.max_head_bytes = 8192
    limits.upgrade.max_fields = 100
    limits.upgrade.max_line_bytes = 4096
    limits.handshake_timeout_ms = _one_of(10000, 2000, 100)
    limits.request_timeout_ms = _one_of(5000, 500, 20)
    limits.close_timeout_ms = _one_of(10000, 1000, 100)
    limits.ping_interval_ms = _one_of(0, 1000, 100)
    limits.ping_timeout_ms = _one_of(1000, 500, 100)
    limits.send_timeout_ms = _one_of(0, 2000, 200)
    limits.idle_timeout_ms = _one_of(0, 0, 400)
    limits.max_lifetime_ms = _one_of(0, 0, 700)
    limits.max_pings = _one_of(0, 100, 2)
    limits.max_partial_bytes = _one_of(1 << 26, 1 << 26, 8192)
    limits.max_buffered_bytes = _one_of(1 << 20, 16384, 1 + _below(2000))
    limits.high_bytes = _one_of(1 << 16, 4096, 1 + _below(500))
    limits.low_bytes = limits.high_bytes // 4
    limits.cork_bytes = min(<size_t>65536, limits.high_bytes + 1)
    limits.overflow = _below(4)
    limits.max_out_bytes = _one_of(1 << 28, 1 << 28, 20000)
    limits.max_inbox_bytes = _one_of(1 << 20, 4096, 1 + _below(400))
    limits.max_inbox_messages = _one_of(1000, 8, 1)
    limits.max_inbox_total_bytes = _one_of(1 << 26, 1 << 26, 2048)
    limits.max_connections = _one_of(0, 0, 1 + _below(PEERS))
    limits.schedule_timeout_us = 1000
    limits.cooldown_us = 5000
    limits.io_timeout_us = 10000000
    limits.jobs = _one_of(0, 0, 1 + _below(3))
    limits.proxy_protocol = _below(6) == 0
    if _below(3) == 0:
        limits.deflate.enabled = 1
        limits.deflate.level = 1 + _below(9)
        limits.deflate.mem_level = 1 + _below(9)
        limits.deflate.server_bits = 9 + _below(7)
        limits.deflate.client_bits = 9 + _below(7)
        limits.deflate.server_takeover = _below(2)
        limits.deflate.client_takeover = _below(2)


cdef void _empty(UwsBatch* b) noexcept nogil:
    b.n = b.taken = 0
    b.used_bytes = b.owned_bytes = 0
    b.blamed_us = 0


cdef void _run(uint64_t seed, const uint32_t* spared, size_t n_spared, bint is_traced) noexcept nogil:
    cdef UwsLimits limits
    cdef SimHooks hooks
    cdef UwsDelivery d
    cdef uint64_t role = UWS_ROLE_NEW, began
    cdef int i, work
    hooks.lock = _before_lock
    hooks.sleep = _sleep
    hooks.wait = _wait
    W.stand_in = _stand_in
    W.is_others_turn = True
    W.has_stand_in = W.has_stopped = W.other_at_work = False
    W.locks = W.waits = 0
    _empty(&W.own)
    _empty(&W.dog)
    _empty(&W.other)
    K.begin(seed, &hooks, &L.lock, spared, n_spared, is_traced)
    began = K.now()
    _make_limits(&limits)
    if loop_init(L, &limits, MAX_MESSAGE_BYTES, 1000, SIM_BASE + SIM_FDS) != UWS_OK:
        K.fail("loop_init")
    L.env.max_stream_bytes = MAX_MESSAGE_BYTES
    # The simulated sockets' other ends are all on 127.0.0.1.
    L.n_trusted = 1
    L.trusted[0].kind = UWS_A_INET
    L.trusted[0].bits = 8
    L.trusted[0].addr[0] = 127
    L.runners = _one_of(1, 2, 3)
    L.arriving = 1
    L.want = UWS_W_OPEN | UWS_W_MESSAGE | UWS_W_CLOSE | UWS_W_DRAIN
    if _below(4) == 0:
        # Not every application asks for all of it. Without on_close a connection may end, and its slot go, at once.
        L.want &= ~_one_of(UWS_W_CLOSE, UWS_W_OPEN | UWS_W_CLOSE, UWS_W_OPEN | UWS_W_DRAIN)
    L.want |= _one_of(0, UWS_W_PONG, UWS_W_STREAM)
    L.want |= _one_of(0, UWS_W_REQUEST, UWS_W_REQUEST | UWS_W_ROUTE)
    pthread_mutex_lock(&L.lock)
    if loop_listen(L, K.listen(), False, _below(2)) != UWS_OK:
        K.fail("loop_listen")
    pthread_mutex_unlock(&L.lock)
    # Of adding the listener nobody would be told.
    _make_weather()
    W.answer_bytes = _one_of(100, 100, PEER_LONGEST_BYTES)
    W.n_peers = 1 + <int>_below(PEERS)
    for i in range(W.n_peers):
        peer_init(&W.peer[i], i, K, limits.proxy_protocol)
    i = <int>_below(3)
    W.stops_us = K.now() + (_below(200000) if i == 0 else _below(2000000) if i == 1 else 8000000)
    W.is_others_turn = False
    while True:
        work = role_work(L, &W.own, &role)
        if work == UWS_WORK_STOP:
            break
        d.role = role
        pthread_mutex_lock(&L.lock)
        L.gil_waiters -= 1
        while deliver_begin(L, &W.own, &d):
            pthread_mutex_unlock(&L.lock)
            while app_step(&W, &d):
                pass
            pthread_mutex_lock(&L.lock)
        pthread_mutex_unlock(&L.lock)
        rules_between_turns(&W)
    W.is_others_turn = True
    while W.other_at_work:
        _other_goes_on()
    rules_over(&W)
    W.totals.mishaps += K.mishaps()
    W.totals.takeovers += L.count.takeovers
    W.totals.pauses += L.count.pauses
    W.totals.virtual_us += K.now() - began
    scarce_set(NULL, 0)
    deflates_end()
    loop_destroy(L)
    K.end()


def simulate(uint64_t first, uint64_t count, spared=(), bint trace=False):
    """Run seeds first to first + count - 1. Where an invariant does not hold the process ends, with the reason on its
    stdout: see SIM_FAILED in kernel.h.

    spared: numbers of mishaps that do not happen, in ascending order. trace: tell what happens.
    Returns what came of all runs so far.
    """
    cdef uint32_t* numbers = <uint32_t*>malloc((len(spared) + 1) * sizeof(uint32_t))
    cdef size_t n = len(spared)
    cdef uint64_t seed
    if numbers == NULL:
        raise MemoryError
    for i, number in enumerate(spared):
        numbers[i] = number
    if W.own.events == NULL:
        if batch_init(&W.own) != UWS_OK or batch_init(&W.dog) != UWS_OK or batch_init(&W.other) != UWS_OK:
            raise MemoryError
        _give_stack()
    with nogil:
        for seed in range(first, first + count):
            _run(seed, numbers, n, trace)
    free(numbers)
    totals = dict(W.totals)
    totals.update((f"cause {number}", times) for number, times in enumerate(totals.pop("causes")) if times)
    return totals


cdef const SimKernel* _kernel() except NULL:
    cdef void* found = dlsym(RTLD_DEFAULT, b"sim_kernel")
    if found == NULL:
        raise ImportError("the simulated kernel is not loaded: this is for tests/simulation/simulate.py")
    return (<const SimKernel* (*)() noexcept nogil>found)()


K = W.k = _kernel()
