# F1. The grammar of HTTP as far as bytes go (RFC 9110, 9112): classes of bytes, tokens, values, authorities.
# Owns one table, filled when the module is imported and never written again; leaves that keep no state.
# Used by upgrade (F2), and by whoever reads a field's value.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef enum:
    # What a byte may be part of.
    C_TOKEN = 1       # RFC 9110, section 5.6.2
    C_TARGET = 2
    C_VALUE = 4       # RFC 9110, section 5.5
    C_SPACE = 8       # OWS
    C_LIST = 16       # between the elements of a list
    C_HOST = 32       # reg-name without pct-encoded (RFC 3986, section 3.2.2)
    C_IPV6 = 64
    C_BASE64 = 128

# Bit set of the classes of each byte.
cdef uint8_t[256] http_class

cdef int http_check_authority(const uint8_t* text, uint32_t pos, uint32_t end) noexcept nogil

cdef uint32_t http_scheme_len(const uint8_t* target, uint32_t len_bytes) noexcept nogil

cdef uint32_t http_authority_end(const uint8_t* text, uint32_t pos, uint32_t end) noexcept nogil

cdef uint32_t http_skip_quoted(const uint8_t* text, uint32_t begin, uint32_t end) noexcept nogil

cdef bint http_is_all(const uint8_t* text, size_t len_bytes, uint8_t cls) noexcept nogil


cdef inline uint32_t http_skip(const uint8_t* text, uint32_t pos, uint32_t end, uint8_t cls) noexcept nogil:
    while pos < end and http_class[text[pos]] & cls:
        pos += 1
    return pos


cdef inline uint32_t http_skip_value(const uint8_t* text, uint32_t pos, uint32_t end) noexcept nogil:
    """The same for C_VALUE, eight bytes at a time: values are most of a head."""
    cdef uint64_t ones = 0x0101010101010101
    cdef uint64_t tops = 0x8080808080808080
    cdef uint64_t word, odd
    cdef uint32_t stop
    while end - pos >= 8:
        memcpy(&word, text + pos, 8)
        # A byte below 0x20 or equal to 0x7f leaves its top bit set. So may an innocent byte above such a one
        # (the borrow), and a TAB is allowed: where a bit is set the table has the last word.
        odd = (word - 0x20 * ones) & ~word
        word ^= 0x7F * ones
        odd = (odd | ((word - ones) & ~word)) & tops
        if odd:
            stop = http_skip(text, pos, pos + 8, C_VALUE)
            if stop < pos + 8:
                return stop
        pos += 8
    return http_skip(text, pos, end, C_VALUE)


cdef inline bint http_is(const uint8_t* text, const char* lower, uint32_t len_bytes) noexcept nogil:
    """Compare, whatever the case, with a name in lower case made of letters, '-', ':' and '/'.

    Only for text that is known to hold no control bytes: some of those would pass for '-' or '/'.
    """
    cdef uint32_t i
    for i in range(len_bytes):
        if (text[i] | 0x20) != <uint8_t>lower[i]:
            return False
    return True
