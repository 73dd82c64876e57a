"""Window on _uws.mask: memory is addressed by the caller, so that a test chooses alignment and guards."""

from libc.stdint cimport uint8_t, uint32_t, uintptr_t
from time import perf_counter_ns

from _uws.mask cimport mask_apply, mask_copy, mask_key, mask_wide_narrow, mask_turn


def apply(unsigned char[::1] memory, size_t at, size_t len_bytes, bytes key, size_t phase):
    assert at + len_bytes <= <size_t>memory.shape[0] and len(key) == 4
    mask_apply(&memory[0] + at, len_bytes, mask_key(key), phase)


def copy(unsigned char[::1] dst, size_t to, const unsigned char[::1] src, size_t at, size_t len_bytes,
         bytes key, size_t phase):
    assert to + len_bytes <= <size_t>dst.shape[0] and at + len_bytes <= <size_t>src.shape[0] and len(key) == 4
    mask_copy(&dst[0] + to, &src[0] + at, len_bytes, mask_key(key), phase)


def narrow(unsigned char[::1] dst, size_t to, const unsigned char[::1] src, size_t at, size_t len_bytes,
           bytes key, size_t phase):
    """The kernel for machines without AVX2; more than 32 bytes."""
    assert len_bytes > 32
    assert to + len_bytes <= <size_t>dst.shape[0] and at + len_bytes <= <size_t>src.shape[0] and len(key) == 4
    mask_wide_narrow(&dst[0] + to, &src[0] + at, len_bytes, mask_turn(mask_key(key), phase))


def misalignment(unsigned char[::1] memory):
    return <uintptr_t>&memory[0] % 64


def time_ns(unsigned char[::1] memory, size_t at, size_t len_bytes, uint32_t key, size_t rounds):
    """Nanoseconds for this many rounds in place."""
    cdef uint8_t* p = &memory[0] + at
    cdef size_t i
    assert at + len_bytes <= <size_t>memory.shape[0]
    started = perf_counter_ns()
    with nogil:
        for i in range(rounds):
            mask_apply(p, len_bytes, key + <uint32_t>i, i)
    return perf_counter_ns() - started
