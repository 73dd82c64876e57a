# F1. XOR masking of payloads: the long ones. See mask.pxd for the short ones, which never come here.
# Owns nothing; called through mask_copy() and mask_apply() of mask.pxd, from any thread.

from libc.stdint cimport uint8_t, uint32_t


cdef extern from "mask.h" nogil:
    bint uws_mask_has_avx2() noexcept
    void uws_mask_wide(uint8_t* dst, const uint8_t* src, size_t len_bytes, uint32_t key, bint avx2) noexcept


cdef void mask_wide(uint8_t* dst, const uint8_t* src, size_t len_bytes, uint32_t key) noexcept nogil:
    """Mask more than 32 bytes; key as seen from src[0]."""
    uws_mask_wide(dst, src, len_bytes, key, uws_mask_has_avx2())


cdef void mask_wide_narrow(uint8_t* dst, const uint8_t* src, size_t len_bytes, uint32_t key) noexcept nogil:
    """What a machine without AVX2 does, so that the tests reach it on any machine."""
    uws_mask_wide(dst, src, len_bytes, key, False)
