# Window of the tests onto _uws.wheel.
# Owns a table of slots of which the links are only a part, as they are in the loop's.
# Imported by tests/engine/test_wheel.py only.

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from _uws.wheel cimport (
    UWS_WHEEL_BUCKETS, UwsLink, UwsWheel, wheel_cancel, wheel_expire, wheel_init, wheel_next, wheel_set,
)

BUCKETS = UWS_WHEEL_BUCKETS

cdef struct Slot:
    uint64_t before
    UwsLink link
    uint32_t behind


cdef class Wheel:
    cdef UwsWheel wheel
    cdef Slot* slots
    cdef int32_t size

    def __cinit__(self, int32_t size, uint32_t now):
        cdef int32_t i
        self.slots = <Slot*>calloc(size, sizeof(Slot))
        if self.slots == NULL:
            raise MemoryError
        self.size = size
        for i in range(size):
            self.slots[i].before = 0x5555555555555555
            self.slots[i].behind = 0xAAAAAAAA
        wheel_init(&self.wheel, &self.slots[0].link, sizeof(Slot), now)

    def __dealloc__(self):
        free(self.slots)

    def set(self, int32_t index, uint32_t deadline):
        assert 0 <= index < self.size
        wheel_set(&self.wheel, index, deadline)

    def cancel(self, int32_t index):
        assert 0 <= index < self.size
        wheel_cancel(&self.wheel, index)

    def expire(self, uint32_t now):
        return wheel_expire(&self.wheel, now)

    def next(self):
        return wheel_next(&self.wheel)

    @property
    def now(self):
        return self.wheel.now

    @property
    def count(self):
        return self.wheel.count

    def deadline(self, int32_t index):
        assert 0 <= index < self.size
        return self.slots[index].link.deadline

    def busy_buckets(self):
        """The buckets whose bit is set; asserts that these are the ones that are not empty."""
        cdef int i
        out = []
        for i in range(UWS_WHEEL_BUCKETS):
            busy = bool(self.wheel.busy[i >> 6] >> (i & 63) & 1)
            assert busy == (self.wheel.bucket[i] >= 0), i
            if busy:
                out.append(i)
        return out

    def untouched(self):
        """Whether the wheel wrote to links only."""
        cdef int32_t i
        for i in range(self.size):
            if self.slots[i].before != 0x5555555555555555 or self.slots[i].behind != 0xAAAAAAAA:
                return False
        return True
