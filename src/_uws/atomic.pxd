# F1. Words that a thread reads without the lock that they are written under. Relaxed: such a word says nothing about
# any other, and what is read together with it is read under the lock. Where words without a lock do belong together,
# the one that is written last is released and read first, acquired: a processor with a weak memory model (ARM) shows
# the writes of another in any order otherwise.

from libc.stdint cimport uint64_t

cdef extern from *:
    # The compiler's own; they need no header.
    cdef int __ATOMIC_RELAXED
    cdef int __ATOMIC_ACQUIRE
    cdef int __ATOMIC_RELEASE
    uint64_t __atomic_load_n(const uint64_t*, int) nogil
    void __atomic_store_n(uint64_t*, uint64_t, int) nogil


cdef inline uint64_t atomic_read(const uint64_t* word) noexcept nogil:
    return __atomic_load_n(word, __ATOMIC_RELAXED)


cdef inline void atomic_write(uint64_t* word, uint64_t value) noexcept nogil:
    __atomic_store_n(word, value, __ATOMIC_RELAXED)


cdef inline uint64_t atomic_acquire(const uint64_t* word) noexcept nogil:
    """What is read after this is no older than what was written before the atomic_release() whose value comes back."""
    return __atomic_load_n(word, __ATOMIC_ACQUIRE)


cdef inline void atomic_release(uint64_t* word, uint64_t value) noexcept nogil:
    __atomic_store_n(word, value, __ATOMIC_RELEASE)
