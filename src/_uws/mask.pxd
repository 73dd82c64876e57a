# F1. XOR masking of payloads (RFC 6455, section 5.3).
# Owns nothing; any floor may call it, from any thread. Most frames are short: up to 32 bytes stay inline in
# the caller and touch no vector register; longer ones go to the kernel of c/mask.h.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef extern from *:
    """
    /* The key as seen from byte `phase` of the payload. Both ends of the wire count bytes in memory order, so
       which way the register turns is a matter of the machine. */
    static inline uint32_t uws_mask_turn(uint32_t key, size_t phase)
    {
        unsigned bits = 8u * (unsigned)(phase & 3u);
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        return (key >> bits) | (key << (-bits & 31u));
    #else
        return (key << bits) | (key >> (-bits & 31u));
    #endif
    }
    """
    uint32_t mask_turn "uws_mask_turn"(uint32_t key, size_t phase) noexcept nogil


cdef inline uint32_t mask_key(const uint8_t* p) noexcept nogil:
    """Load the four key bytes of a frame header, in memory order."""
    cdef uint32_t key
    memcpy(&key, p, 4)
    return key


# More than 32 bytes; dst == src or no overlap. Call mask_apply or mask_copy instead.
cdef void mask_wide(uint8_t* dst, const uint8_t* src, size_t len_bytes, uint32_t key) noexcept nogil

# The same without AVX2, whatever the machine has: for tests and benchmarks.
cdef void mask_wide_narrow(uint8_t* dst, const uint8_t* src, size_t len_bytes, uint32_t key) noexcept nogil


cdef inline void mask_copy(uint8_t* dst, const uint8_t* src, size_t len_bytes,
                           uint32_t key, size_t phase) noexcept nogil:
    """Write src masked with key to dst.

    dst, src: the same place, or places that do not overlap; any alignment.
    key: as mask_key() gives it.
    phase: offset of src[0] within the payload.
    """
    cdef uint64_t a, b, c, d, wide_key, end_key
    cdef uint32_t e, f
    cdef uint8_t g, h
    key = mask_turn(key, phase)
    if len_bytes > 32:
        mask_wide(dst, src, len_bytes, key)
        return
    # Every size is covered from both of its ends by words that may overlap in the middle. All are loaded
    # before the first is stored: that makes it right in place, where an overlap would otherwise be masked
    # twice.
    wide_key = <uint64_t>key << 32 | key
    if len_bytes >= 8:
        end_key = <uint64_t>mask_turn(key, len_bytes) << 32 | mask_turn(key, len_bytes)
        if len_bytes > 16:
            memcpy(&a, src, 8)
            memcpy(&b, src + 8, 8)
            memcpy(&c, src + len_bytes - 16, 8)
            memcpy(&d, src + len_bytes - 8, 8)
            a ^= wide_key
            b ^= wide_key
            c ^= end_key
            d ^= end_key
            memcpy(dst, &a, 8)
            memcpy(dst + 8, &b, 8)
            memcpy(dst + len_bytes - 16, &c, 8)
            memcpy(dst + len_bytes - 8, &d, 8)
        else:
            memcpy(&a, src, 8)
            memcpy(&d, src + len_bytes - 8, 8)
            a ^= wide_key
            d ^= end_key
            memcpy(dst, &a, 8)
            memcpy(dst + len_bytes - 8, &d, 8)
    elif len_bytes >= 4:
        memcpy(&e, src, 4)
        memcpy(&f, src + len_bytes - 4, 4)
        e ^= key
        f ^= mask_turn(key, len_bytes)
        memcpy(dst, &e, 4)
        memcpy(dst + len_bytes - 4, &f, 4)
    elif len_bytes != 0:
        # First, middle and last of one to three bytes, the same byte where there are fewer.
        g = src[len_bytes >> 1] ^ (<uint8_t*>&key)[len_bytes >> 1]
        h = src[len_bytes - 1] ^ (<uint8_t*>&key)[len_bytes - 1]
        dst[0] = src[0] ^ (<uint8_t*>&key)[0]
        dst[len_bytes >> 1] = g
        dst[len_bytes - 1] = h


cdef inline void mask_apply(uint8_t* data, size_t len_bytes, uint32_t key, size_t phase) noexcept nogil:
    """Mask or unmask data in place; phase as for mask_copy()."""
    mask_copy(data, data, len_bytes, key, phase)
