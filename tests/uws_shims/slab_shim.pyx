"""Window on _uws.slab: blocks are handles into a list here, with patterns written and checked in C."""

from libc.stdint cimport uint8_t, uintptr_t
from libc.string cimport memset
from time import perf_counter_ns

from _uws.slab cimport (
    UWS_SLAB_ARENA_BYTES,
    UWS_SLAB_CLASSES,
    UWS_SLAB_KEEP_BYTES,
    UWS_SLAB_MAX_CLASS_BYTES,
    UWS_SLAB_MAX_EXTRA,
    UWS_SLAB_MAX_LARGE,
    UwsSlab,
    slab_block_bytes,
    slab_destroy,
    slab_ease,
    slab_is_tense,
    slab_give,
    slab_grow,
    slab_held_bytes,
    slab_init,
    slab_take,
    slab_trim,
    slab_used_bytes,
)

cdef extern from *:
    const int UWS_DEBUG

DEBUG = UWS_DEBUG != 0
ARENA_BYTES = UWS_SLAB_ARENA_BYTES
CLASSES = UWS_SLAB_CLASSES
KEEP_BYTES = UWS_SLAB_KEEP_BYTES
MAX_CLASS_BYTES = UWS_SLAB_MAX_CLASS_BYTES
MAX_EXTRA = UWS_SLAB_MAX_EXTRA
MAX_LARGE = UWS_SLAB_MAX_LARGE


cdef class Slab:
    cdef UwsSlab slab

    def __cinit__(self):
        assert slab_init(&self.slab) == 0

    def __dealloc__(self):
        slab_destroy(&self.slab)

    def take(self, size_t want_bytes):
        """(address, usable bytes), or None when out of memory"""
        cdef size_t got = 0
        cdef void* p = slab_take(&self.slab, want_bytes, &got)
        if p == NULL:
            return None
        assert slab_block_bytes(p) == got
        return <uintptr_t>p, got

    def take_quietly(self, size_t want_bytes):
        return <uintptr_t>slab_take(&self.slab, want_bytes, NULL)

    def give(self, uintptr_t p):
        slab_give(&self.slab, <void*>p)

    def grow(self, uintptr_t p, size_t used_bytes, size_t want_bytes):
        cdef size_t got = 0
        cdef void* new = slab_grow(&self.slab, <void*>p, used_bytes, want_bytes, &got)
        if new == NULL:
            return None
        assert slab_block_bytes(new) == got
        return <uintptr_t>new, got

    def ease(self):
        slab_ease(&self.slab)

    @property
    def is_tense(self):
        return bool(slab_is_tense(&self.slab))

    def trim(self):
        slab_trim(&self.slab)

    def destroy(self):
        slab_destroy(&self.slab)
        assert slab_init(&self.slab) == 0

    def figures(self):
        return {
            "used_bytes": slab_used_bytes(&self.slab),
            "held_bytes": slab_held_bytes(&self.slab),
            "live_blocks": self.slab.live_blocks,
            "live_large": self.slab.live_large,
            "arenas": self.slab.arenas,
            "maps": self.slab.maps,
            "extra": self.slab.n_extra,
        }


def fill(uintptr_t p, size_t len_bytes, int value):
    memset(<void*>p, value, len_bytes)


def holds(uintptr_t p, size_t len_bytes, int value):
    """Whether all of these bytes are value."""
    cdef size_t i
    for i in range(len_bytes):
        if (<uint8_t*>p)[i] != value:
            return False
    return True


def take_many(Slab slab, size_t want_bytes, size_t count):
    """Addresses of this many blocks, each written to from end to end."""
    cdef size_t _
    cdef void* p
    out = []
    for _ in range(count):
        p = slab_take(&slab.slab, want_bytes, NULL)
        if p == NULL:
            break
        memset(p, 1, want_bytes)
        out.append(<uintptr_t>p)
    return out


def give_many(Slab slab, blocks):
    for p in blocks:
        slab_give(&slab.slab, <void*><uintptr_t>p)


def time_ns(size_t want_bytes, size_t rounds):
    """Nanoseconds for this many blocks, each given back before the next is taken, beside one that stays."""
    cdef UwsSlab slab
    cdef void* stays
    cdef size_t _
    cdef bint failed = False
    assert slab_init(&slab) == 0
    stays = slab_take(&slab, want_bytes, NULL)
    started = perf_counter_ns()
    with nogil:
        for _ in range(rounds):
            block = slab_take(&slab, want_bytes, NULL)
            failed |= block == NULL
            slab_give(&slab, block)
    elapsed = perf_counter_ns() - started
    slab_destroy(&slab)
    assert stays != NULL and not failed
    return elapsed
