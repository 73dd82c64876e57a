# F1. Words that a thread reads without the lock that they are written under. Relaxed: such a word says nothing about
# any other. What is read together with it is read under the lock.

from libc.stdint cimport uint64_t

cdef extern from *:
    # The compiler's own; they need no header.
    cdef int __ATOMIC_RELAXED
    uint64_t __atomic_load_n(const uint64_t*, int) nogil
    void __atomic_store_n(uint64_t*, uint64_t, int) nogil


cdef inline uint64_t atomic_read(const uint64_t* word) noexcept nogil:
    return __atomic_load_n(word, __ATOMIC_RELAXED)


cdef inline void atomic_write(uint64_t* word, uint64_t value) noexcept nogil:
    __atomic_store_n(word, value, __ATOMIC_RELAXED)
