# F1. Unpredictable bytes from the kernel, drawn in bulk: the masking keys and nonces of a client
# (RFC 6455, sections 4.1 and 5.3). Owns nothing; each thread that needs some has its own UwsEntropy.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy


cdef enum:
    UWS_ENTROPY_BYTES = 4096          # drawn at once: a system call for 1,024 frames


# All zero is an empty one: the first byte that is asked for fills it. A child of fork() has the same bytes in
# store as its parent, and would mask with the same keys: it calls entropy_forget() first.
cdef struct UwsEntropy:
    uint8_t pool[4096]
    uint32_t left                     # bytes at the end of pool that nobody has had


# Never fails: a kernel that has no getrandom() is older than any that we run on, and one that is asked for
# bytes after it has booted has them.
cdef void entropy_fill(UwsEntropy* e) noexcept nogil

cdef void entropy_take(UwsEntropy* e, uint8_t* out, size_t len_bytes) noexcept nogil

cdef void entropy_forget(UwsEntropy* e) noexcept nogil


cdef inline uint32_t entropy_key(UwsEntropy* e) noexcept nogil:
    """A fresh masking key, in memory order as mask_key() gives it. Inline: a frame costs a load and a subtraction."""
    cdef uint32_t key
    if e.left < 4:
        entropy_fill(e)
    e.left -= 4
    memcpy(&key, e.pool + e.left, 4)
    return key
