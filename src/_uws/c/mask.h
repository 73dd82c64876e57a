/* F0. XOR of a payload longer than 32 bytes with its key, on whole vectors.
   Owns nothing; mask.pyx alone calls it. C because the width of a vector is chosen at run time: the 16-byte kernel
   is what every x86-64 and ARM64 can do, the 32-byte one (twice as fast in the first-level cache) needs AVX2. */

#ifndef UWS_MASK_H
#define UWS_MASK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A kernel loads the first and the last vector, masks the aligned ones between them, and stores those two at the
   end, over what overlaps. So there is no scalar tail, the stores of the loop are aligned, and it is right in place:
   nothing is loaded after it was stored. may_alias, because a payload has no type. */
#define UWS_MASK_KERNEL(name, width, attributes)                                                            \
    attributes static void name(uint8_t *dst, const uint8_t *src, size_t len_bytes, uint32_t key)           \
    {                                                                                                       \
        typedef uint32_t vector __attribute__((vector_size(width), may_alias));                             \
        const size_t last = len_bytes - (width);                                                            \
        size_t at = (width) - ((uintptr_t)dst & ((width) - 1));                                             \
        vector head, tail, keys = (vector){0} + key;                                                        \
        memcpy(&head, src, (width));                                                                        \
        memcpy(&tail, src + last, (width));                                                                 \
        head ^= keys;                                                                                       \
        tail ^= (vector){0} + uws_mask_turn(key, last);                                                     \
        keys = (vector){0} + uws_mask_turn(key, at);                                                        \
        for (; last > at && last - at > 3 * (width); at += 4 * (width)) {                                   \
            vector a, b, c, d, *to = (vector *)__builtin_assume_aligned(dst + at, (width));                 \
            memcpy(&a, src + at, (width));                                                                  \
            memcpy(&b, src + at + (width), (width));                                                        \
            memcpy(&c, src + at + 2 * (width), (width));                                                    \
            memcpy(&d, src + at + 3 * (width), (width));                                                    \
            to[0] = a ^ keys;                                                                               \
            to[1] = b ^ keys;                                                                               \
            to[2] = c ^ keys;                                                                               \
            to[3] = d ^ keys;                                                                               \
        }                                                                                                   \
        for (; last > at; at += (width)) {                                                                  \
            vector a;                                                                                       \
            memcpy(&a, src + at, (width));                                                                  \
            *(vector *)__builtin_assume_aligned(dst + at, (width)) = a ^ keys;                              \
        }                                                                                                   \
        memcpy(dst, &head, (width));                                                                        \
        memcpy(dst + last, &tail, (width));                                                                 \
    }

UWS_MASK_KERNEL(uws_mask_16, 16, )

#if defined(__x86_64__) || defined(__i386__)
#define UWS_MASK_AVX2 1
UWS_MASK_KERNEL(uws_mask_32, 32, __attribute__((target("avx2"))))
#endif

/* Asked at every call: it is a load and a test, and unlike target_clones it needs no ifunc, which musl and the
   sanitizers do not have. */
static inline int uws_mask_has_avx2(void)
{
#ifdef UWS_MASK_AVX2
    return __builtin_cpu_supports("avx2") != 0;
#else
    return 0;
#endif
}

static inline void uws_mask_wide(uint8_t *dst, const uint8_t *src, size_t len_bytes, uint32_t key, int avx2)
{
#ifdef UWS_MASK_AVX2
    if (avx2) {
        uws_mask_32(dst, src, len_bytes, key);
        return;
    }
#else
    (void)avx2;
#endif
    uws_mask_16(dst, src, len_bytes, key);
}

#endif
