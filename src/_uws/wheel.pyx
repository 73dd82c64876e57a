# F4. See wheel.pxd.

from libc.string cimport memset

cdef extern from *:
    int __builtin_ctzll(unsigned long long) noexcept nogil


cdef inline UwsLink* _link(const UwsWheel* w, int32_t index) noexcept nogil:
    return <UwsLink*>(w.base + <size_t>index * w.stride)


cdef void wheel_init(UwsWheel* w, void* base, size_t stride, uint32_t now) noexcept nogil:
    """base, stride: the slots' links. now: the current tick."""
    cdef int i
    memset(w, 0, sizeof(UwsWheel))
    w.base = <uint8_t*>base
    w.stride = stride
    w.now = now
    for i in range(UWS_WHEEL_BUCKETS):
        w.bucket[i] = -1


cdef void wheel_cancel(UwsWheel* w, int32_t index) noexcept nogil:
    """Take slot index's timer out; nothing happens where it has none."""
    cdef UwsLink* link = _link(w, index)
    cdef int32_t bucket
    if link.deadline == 0:
        return
    if link.next >= 0:
        _link(w, link.next).prev = link.prev
    if link.prev >= 0:
        _link(w, link.prev).next = link.next
    else:
        bucket = -2 - link.prev
        w.bucket[bucket] = link.next
        if link.next < 0:
            w.busy[bucket >> 6] &= ~(<uint64_t>1 << (bucket & 63))
    link.deadline = 0
    w.count -= 1


cdef void wheel_set(UwsWheel* w, int32_t index, uint32_t deadline) noexcept nogil:
    """Let slot index expire at tick deadline (one that has passed: at the next tick). Replaces an earlier timer."""
    cdef UwsLink* link = _link(w, index)
    cdef int32_t bucket
    wheel_cancel(w, index)
    if <int32_t>(deadline - w.now) <= 0:
        deadline = w.now + 1
    if deadline == 0:
        deadline = 1    # 0 means "no timer"; the tick counter wraps after two years
    bucket = <int32_t>(deadline & (UWS_WHEEL_BUCKETS - 1))
    link.deadline = deadline
    link.next = w.bucket[bucket]
    link.prev = -2 - bucket
    if link.next >= 0:
        _link(w, link.next).prev = index
    w.bucket[bucket] = index
    w.busy[bucket >> 6] |= <uint64_t>1 << (bucket & 63)
    w.count += 1


cdef int32_t wheel_expire(UwsWheel* w, uint32_t now) noexcept nogil:
    """One slot whose deadline is at or before tick now, its timer taken out; -1 when there is none (left).

    Call it until it gives -1: only then has the wheel been advanced to now."""
    cdef uint32_t tick, end = now
    cdef int32_t index, bucket
    if <int32_t>(now - w.now) <= 0:
        return -1
    if now - w.now > UWS_WHEEL_BUCKETS:
        # The clock jumped: one turn visits every bucket.
        end = w.now + UWS_WHEEL_BUCKETS
    tick = w.now + 1
    while <int32_t>(end - tick) >= 0:
        bucket = <int32_t>(tick & (UWS_WHEEL_BUCKETS - 1))
        if w.busy[bucket >> 6] == 0 and (tick & 63) == 0:
            tick += 64
            continue
        index = w.bucket[bucket]
        while index >= 0:
            if <int32_t>(_link(w, index).deadline - now) <= 0:
                wheel_cancel(w, index)
                w.now = tick - 1    # this bucket may hold more
                return index
            index = _link(w, index).next
        tick += 1
    w.now = now
    return -1


cdef uint32_t wheel_next(const UwsWheel* w) noexcept nogil:
    """Ticks until a bucket that is not empty comes by, at most the horizon; 0 when there is no timer."""
    cdef uint32_t first = w.now + 1
    cdef uint32_t start = first & (UWS_WHEEL_BUCKETS - 1)
    cdef uint32_t _, word
    cdef uint64_t bits
    if w.count == 0:
        return 0
    word = start >> 6
    bits = w.busy[word] >> (start & 63) << (start & 63)
    for _ in range(33):
        if bits != 0:
            return (((word << 6) + <uint32_t>__builtin_ctzll(bits) - start) & (UWS_WHEEL_BUCKETS - 1)) + 1
        word = (word + 1) & 31
        bits = w.busy[word]
    return UWS_WHEEL_BUCKETS
