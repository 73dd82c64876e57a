/* What the load client and the floor server share: the handshake's hash, header fields, masking.
 *
 * Written apart from the engine on purpose: a bench that used the engine's own code could not find it wrong.
 */
#ifndef UWS_BENCH_WSCOMMON_H
#define UWS_BENCH_WSCOMMON_H

#include <endian.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { OP_CONT = 0x0, OP_TEXT = 0x1, OP_BINARY = 0x2, OP_CLOSE = 0x8, OP_PING = 0x9, OP_PONG = 0xA };

#define WS_KEY_CHARS 24    /* base64 of the 16 bytes of a Sec-WebSocket-Key */
#define WS_ACCEPT_CHARS 28 /* base64 of the 20 bytes of a SHA-1 */
#define WS_GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

static inline void die(const char *what)
{
    perror(what);
    exit(1);
}

static inline uint32_t rotate_left(uint32_t x, int bits)
{
    return x << bits | x >> (32 - bits);
}

/* SHA-1 (FIPS 180-4) of at most 119 bytes: the handshake hashes 60, so two blocks are all there ever is. */
static void sha1_short(const uint8_t *data, size_t len, uint8_t digest[20])
{
    uint8_t padded[128] = {0};
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    size_t total = len + 9 <= 64 ? 64 : 128;
    uint64_t bits = htobe64((uint64_t)len * 8);

    memcpy(padded, data, len);
    padded[len] = 0x80;
    memcpy(padded + total - 8, &bits, 8);

    for (size_t block = 0; block < total; block += 64) {
        uint32_t w[80];
        for (int t = 0; t < 16; t++) {
            uint32_t word;
            memcpy(&word, padded + block + 4 * t, 4);
            w[t] = be32toh(word);
        }
        for (int t = 16; t < 80; t++)
            w[t] = rotate_left(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);

        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int t = 0; t < 80; t++) {
            uint32_t f, k;
            if (t < 20) {
                f = (b & c) | (~b & d);
                k = 0x5A827999;
            } else if (t < 40) {
                f = b ^ c ^ d;
                k = 0x6ED9EBA1;
            } else if (t < 60) {
                f = (b & c) | (b & d) | (c & d);
                k = 0x8F1BBCDC;
            } else {
                f = b ^ c ^ d;
                k = 0xCA62C1D6;
            }
            uint32_t next = rotate_left(a, 5) + f + e + k + w[t];
            e = d;
            d = c;
            c = rotate_left(b, 30);
            b = a;
            a = next;
        }
        h[0] += a;
        h[1] += b;
        h[2] += c;
        h[3] += d;
        h[4] += e;
    }
    for (int i = 0; i < 5; i++) {
        uint32_t word = htobe32(h[i]);
        memcpy(digest + 4 * i, &word, 4);
    }
}

/* Writes 4 * ceil(len / 3) characters and a NUL. */
static void base64_encode(const uint8_t *data, size_t len, char *out)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < len; i += 3) {
        size_t have = len - i < 3 ? len - i : 3;
        uint32_t triple = (uint32_t)data[i] << 16;
        if (have > 1)
            triple |= (uint32_t)data[i + 1] << 8;
        if (have > 2)
            triple |= data[i + 2];
        *out++ = alphabet[triple >> 18 & 63];
        *out++ = alphabet[triple >> 12 & 63];
        *out++ = have > 1 ? alphabet[triple >> 6 & 63] : '=';
        *out++ = have > 2 ? alphabet[triple & 63] : '=';
    }
    *out = '\0';
}

/* The Sec-WebSocket-Accept that answers a key (RFC 6455, section 4.2.2). */
static void accept_of_key(const char *key, char accept[WS_ACCEPT_CHARS + 1])
{
    uint8_t joined[WS_KEY_CHARS + sizeof WS_GUID - 1];
    uint8_t digest[20];
    memcpy(joined, key, WS_KEY_CHARS);
    memcpy(joined + WS_KEY_CHARS, WS_GUID, sizeof WS_GUID - 1);
    sha1_short(joined, sizeof joined, digest);
    base64_encode(digest, sizeof digest, accept);
}

/* The value of a header field, or NULL. head is NUL-terminated; *len excludes the blanks on both ends. */
static const char *header_value(const char *head, const char *name, size_t *len)
{
    size_t name_len = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line && line[2] != '\r'; line = strstr(line + 2, "\r\n")) {
        const char *field = line + 2;
        if (strncasecmp(field, name, name_len) != 0 || field[name_len] != ':')
            continue;
        const char *value = field + name_len + 1;
        value += strspn(value, " \t");
        const char *end = strstr(value, "\r\n");
        if (!end)
            return NULL;
        while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
            end--;
        *len = (size_t)(end - value);
        return value;
    }
    return NULL;
}

/* Writes a header without mask; returns its 2, 4 or 10 bytes. */
static inline size_t put_header(uint8_t *out, uint8_t first, uint64_t len)
{
    out[0] = first;
    if (len < 126) {
        out[1] = (uint8_t)len;
        return 2;
    }
    if (len < 65536) {
        uint16_t wire = htobe16((uint16_t)len);
        out[1] = 126;
        memcpy(out + 2, &wire, 2);
        return 4;
    }
    uint64_t wire = htobe64(len);
    out[1] = 127;
    memcpy(out + 2, &wire, 8);
    return 10;
}

/* dst = src XOR key, key taken from its first byte on. `restrict` lets the compiler use vectors. */
static inline void xor_copy(uint8_t *restrict dst, const uint8_t *restrict src, size_t len, const uint8_t key[4])
{
    uint32_t key32;
    memcpy(&key32, key, 4);
    uint64_t key64 = key32 | (uint64_t)key32 << 32;
    size_t i = 0;
    for (; len - i >= 8; i += 8) {
        uint64_t word;
        memcpy(&word, src + i, 8);
        word ^= key64;
        memcpy(dst + i, &word, 8);
    }
    for (; i < len; i++)
        dst[i] = src[i] ^ key[i & 3];
}

static inline void xor_in_place(uint8_t *data, size_t len, const uint8_t key[4])
{
    uint32_t key32;
    memcpy(&key32, key, 4);
    uint64_t key64 = key32 | (uint64_t)key32 << 32;
    size_t i = 0;
    for (; len - i >= 8; i += 8) {
        uint64_t word;
        memcpy(&word, data + i, 8);
        word ^= key64;
        memcpy(data + i, &word, 8);
    }
    for (; i < len; i++)
        data[i] ^= key[i & 3];
}

#endif
