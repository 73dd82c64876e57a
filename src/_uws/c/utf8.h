/* F0. Streaming validation of UTF-8.
   Owns nothing; utf8.pyx alone calls it. C because the automaton is a constant table that is written down by ranges
   and lives in read-only memory; Cython would have to fill it in at import. */

#ifndef UWS_UTF8_H
#define UWS_UTF8_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* States, each the shift that brings its six bits of a row down. ONE, TWO, THREE: that many continuation bytes are
   due. The others restrict the next byte, and with it refuse what is overlong, a surrogate or above U+10FFFF at the
   first byte that shows it: after E0 only A0..BF, after ED only 80..9F, after F0 only 90..BF, after F4 only 80..8F. */
enum {
    UWS_U8_START = 0,
    UWS_U8_ONE = 6,
    UWS_U8_TWO = 12,
    UWS_U8_THREE = 18,
    UWS_U8_E0 = 24,
    UWS_U8_ED = 30,
    UWS_U8_F0 = 36,
    UWS_U8_F4 = 42,
    UWS_U8_BAD = 48, /* for good: a later byte cannot repair it */
};

#define UWS_U8_ROW(start, one, two, three, e0, ed, f0, f4)                                                  \
    ((uint64_t)UWS_U8_##start << UWS_U8_START | (uint64_t)UWS_U8_##one << UWS_U8_ONE                        \
     | (uint64_t)UWS_U8_##two << UWS_U8_TWO | (uint64_t)UWS_U8_##three << UWS_U8_THREE                      \
     | (uint64_t)UWS_U8_##e0 << UWS_U8_E0 | (uint64_t)UWS_U8_##ed << UWS_U8_ED                              \
     | (uint64_t)UWS_U8_##f0 << UWS_U8_F0 | (uint64_t)UWS_U8_##f4 << UWS_U8_F4                              \
     | (uint64_t)UWS_U8_BAD << UWS_U8_BAD)

/* One row a byte value, holding the next state for every state: a step is a load that waits for nothing and one
   shift, so text of any script runs without a branch to mispredict (RFC 3629, section 4). */
static const uint64_t uws_utf8_rows[256] = {
    /*                          START  ONE    TWO  THREE E0   ED   F0   F4 */
    [0x00 ... 0x7F] = UWS_U8_ROW(START, BAD,   BAD, BAD, BAD, BAD, BAD, BAD),
    [0x80 ... 0x8F] = UWS_U8_ROW(BAD,   START, ONE, TWO, BAD, ONE, BAD, TWO),
    [0x90 ... 0x9F] = UWS_U8_ROW(BAD,   START, ONE, TWO, BAD, ONE, TWO, BAD),
    [0xA0 ... 0xBF] = UWS_U8_ROW(BAD,   START, ONE, TWO, ONE, BAD, TWO, BAD),
    [0xC0 ... 0xC1] = UWS_U8_ROW(BAD,   BAD,   BAD, BAD, BAD, BAD, BAD, BAD),
    [0xC2 ... 0xDF] = UWS_U8_ROW(ONE,   BAD,   BAD, BAD, BAD, BAD, BAD, BAD),
    [0xE0]          = UWS_U8_ROW(E0,    BAD,   BAD, BAD, BAD, BAD, BAD, BAD),
    [0xE1 ... 0xEC] = UWS_U8_ROW(TWO,   BAD,   BAD, BAD, BAD, BAD, BAD, BAD),
    [0xED]          = UWS_U8_ROW(ED,    BAD,   BAD, BAD, BAD, BAD, BAD, BAD),
    [0xEE ... 0xEF] = UWS_U8_ROW(TWO,   BAD,   BAD, BAD, BAD, BAD, BAD, BAD),
    [0xF0]          = UWS_U8_ROW(F0,    BAD,   BAD, BAD, BAD, BAD, BAD, BAD),
    [0xF1 ... 0xF3] = UWS_U8_ROW(THREE, BAD,   BAD, BAD, BAD, BAD, BAD, BAD),
    [0xF4]          = UWS_U8_ROW(F4,    BAD,   BAD, BAD, BAD, BAD, BAD, BAD),
    [0xF5 ... 0xFF] = UWS_U8_ROW(BAD,   BAD,   BAD, BAD, BAD, BAD, BAD, BAD),
};

static inline uint64_t uws_utf8_high_bits(const uint8_t *p, size_t words)
{
    uint64_t any = 0, word;
    for (size_t i = 0; i < words; i++) {
        memcpy(&word, p + 8 * i, 8);
        any |= word;
    }
    return any & UINT64_C(0x8080808080808080);
}

/* The state after data; UWS_U8_BAD if it was refused on the way. */
static inline uint8_t uws_utf8_run(uint8_t before, const uint8_t *data, size_t len_bytes)
{
    uint64_t state = before;
    while (len_bytes >= 16) {
        if ((state & 63) == UWS_U8_START && !uws_utf8_high_bits(data, 2)) {
            data += 16;
            len_bytes -= 16;
            /* Where there were sixteen there are often many. */
            while (len_bytes >= 64 && !uws_utf8_high_bits(data, 8)) {
                data += 64;
                len_bytes -= 64;
            }
            continue;
        }
        for (int i = 0; i < 16; i++)
            state = uws_utf8_rows[data[i]] >> (state & 63);
        if ((state & 63) == UWS_U8_BAD)
            return UWS_U8_BAD;
        data += 16;
        len_bytes -= 16;
    }
    for (; len_bytes; len_bytes--)
        state = uws_utf8_rows[*data++] >> (state & 63);
    return (uint8_t)(state & 63);
}

#endif
