/* F0. SHA-1 (RFC 3174) and the base64 of its digest, for Sec-WebSocket-Accept (RFC 6455, section 4.2.2).
 * Owns nothing. Used by upgrade.pyx. SHA-1 protects nothing here: it proves that the server read the key.
 * In C because the eighty rounds are macros, unrolled with rotating names; Cython has no means for that. */
#ifndef UWS_SHA1_H
#define UWS_SHA1_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define UWS_SHA1_BYTES 20
#define UWS_SHA1_BASE64_BYTES 28

static inline uint32_t uws_rotl32(uint32_t x, unsigned n) { return (x << n) | (x >> (32 - n)); }

static inline uint32_t uws_load_be32(const uint8_t *p)
{
    uint32_t x;
    memcpy(&x, p, sizeof x);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    x = __builtin_bswap32(x);
#endif
    return x;
}

static inline void uws_store_be32(uint8_t *p, uint32_t x)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    x = __builtin_bswap32(x);
#endif
    memcpy(p, &x, sizeof x);
}

/* The schedule lives in sixteen words: round t overwrites the word that nobody needs any more. */
#define UWS_SHA1_W(t)                                                                                        \
    (w[(t) & 15] = uws_rotl32(w[((t) + 13) & 15] ^ w[((t) + 8) & 15] ^ w[((t) + 2) & 15] ^ w[(t) & 15], 1))

/* The state words do not move after a round, their names rotate: after five rounds they are back home. */
#define UWS_SHA1_ROUND(a, b, c, d, e, f, k, x)                                                               \
    do {                                                                                                     \
        e += uws_rotl32(a, 5) + (f) + (k) + (x);                                                             \
        b = uws_rotl32(b, 30);                                                                               \
    } while (0)

#define UWS_SHA1_CHOOSE(b, c, d) ((d) ^ ((b) & ((c) ^ (d))))
#define UWS_SHA1_PARITY(b, c, d) ((b) ^ (c) ^ (d))
#define UWS_SHA1_MAJORITY(b, c, d) (((b) & (c)) + ((d) & ((b) ^ (c))))

#define UWS_SHA1_FIVE(f, k, x, t)                                                                            \
    UWS_SHA1_ROUND(a, b, c, d, e, f(b, c, d), k, x(t));                                                      \
    UWS_SHA1_ROUND(e, a, b, c, d, f(a, b, c), k, x((t) + 1));                                                \
    UWS_SHA1_ROUND(d, e, a, b, c, f(e, a, b), k, x((t) + 2));                                                \
    UWS_SHA1_ROUND(c, d, e, a, b, f(d, e, a), k, x((t) + 3));                                                \
    UWS_SHA1_ROUND(b, c, d, e, a, f(c, d, e), k, x((t) + 4))

#define UWS_SHA1_TWENTY(f, k, x, t)                                                                          \
    UWS_SHA1_FIVE(f, k, x, t);                                                                               \
    UWS_SHA1_FIVE(f, k, x, (t) + 5);                                                                         \
    UWS_SHA1_FIVE(f, k, x, (t) + 10);                                                                        \
    UWS_SHA1_FIVE(f, k, x, (t) + 15)

/* Rounds 0 to 15 read the block itself. */
#define UWS_SHA1_FIRST(t) ((t) < 16 ? w[(t) & 15] : UWS_SHA1_W(t))

static inline void uws_sha1_block(uint32_t h[5], const uint8_t block[64])
{
    uint32_t w[16];
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 16; i++)
        w[i] = uws_load_be32(block + 4 * i);

    UWS_SHA1_TWENTY(UWS_SHA1_CHOOSE, 0x5a827999u, UWS_SHA1_FIRST, 0);
    UWS_SHA1_TWENTY(UWS_SHA1_PARITY, 0x6ed9eba1u, UWS_SHA1_W, 20);
    UWS_SHA1_TWENTY(UWS_SHA1_MAJORITY, 0x8f1bbcdcu, UWS_SHA1_W, 40);
    UWS_SHA1_TWENTY(UWS_SHA1_PARITY, 0xca62c1d6u, UWS_SHA1_W, 60);

    h[0] += a;
    h[1] += b;
    h[2] += c;
    h[3] += d;
    h[4] += e;
}

/* The digest of len_bytes bytes; data may be NULL if there are none. */
static inline void uws_sha1(const uint8_t *data, size_t len_bytes, uint8_t digest[UWS_SHA1_BYTES])
{
    uint32_t h[5] = {0x67452301u, 0xefcdab89u, 0x98badcfeu, 0x10325476u, 0xc3d2e1f0u};
    uint8_t tail[128] = {0};
    const uint64_t len_bits = (uint64_t)len_bytes * 8;
    size_t rest = len_bytes;

    for (; rest >= 64; rest -= 64, data += 64)
        uws_sha1_block(h, data);

    if (rest)
        memcpy(tail, data, rest);
    tail[rest] = 0x80;
    /* The bit count takes the last eight bytes of a block: behind 56 bytes or more, of one block more. */
    const size_t padded = rest < 56 ? 64 : 128;
    uws_store_be32(tail + padded - 8, (uint32_t)(len_bits >> 32));
    uws_store_be32(tail + padded - 4, (uint32_t)len_bits);
    for (size_t at = 0; at < padded; at += 64)
        uws_sha1_block(h, tail + at);

    for (int i = 0; i < 5; i++)
        uws_store_be32(digest + 4 * i, h[i]);
}

/* Base64 (RFC 4648, section 4) of exactly twenty bytes: six groups of three, and two bytes with one '='. */
static inline void uws_base64_20(const uint8_t digest[UWS_SHA1_BYTES], uint8_t out[UWS_SHA1_BASE64_BYTES])
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 6; i++) {
        const uint8_t *p = digest + 3 * i;
        const uint32_t x = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
        out[4 * i] = (uint8_t)alphabet[x >> 18];
        out[4 * i + 1] = (uint8_t)alphabet[x >> 12 & 63];
        out[4 * i + 2] = (uint8_t)alphabet[x >> 6 & 63];
        out[4 * i + 3] = (uint8_t)alphabet[x & 63];
    }
    out[24] = (uint8_t)alphabet[digest[18] >> 2];
    out[25] = (uint8_t)alphabet[(digest[18] & 3) << 4 | digest[19] >> 4];
    out[26] = (uint8_t)alphabet[(digest[19] & 15) << 2];
    out[27] = '=';
}

/* Sec-WebSocket-Accept for the 24 characters of Sec-WebSocket-Key as the client wrote them. */
static inline void uws_accept_key(const uint8_t key[24], uint8_t out[UWS_SHA1_BASE64_BYTES])
{
    uint8_t text[60], digest[UWS_SHA1_BYTES];
    memcpy(text, key, 24);
    memcpy(text + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    uws_sha1(text, sizeof text, digest);
    uws_base64_20(digest, out);
}

#undef UWS_SHA1_W
#undef UWS_SHA1_ROUND
#undef UWS_SHA1_CHOOSE
#undef UWS_SHA1_PARITY
#undef UWS_SHA1_MAJORITY
#undef UWS_SHA1_FIVE
#undef UWS_SHA1_TWENTY
#undef UWS_SHA1_FIRST

#endif
