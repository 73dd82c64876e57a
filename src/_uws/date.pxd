# F1. The Date field of a response (RFC 9110, sections 5.6.7 and 6.6.1). Owns nothing; reads no clock.
# Not gmtime_r(3): it takes a lock of the C library's, and may read the time zone's file.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef enum:
    UWS_DATE_LINE_BYTES = 37          # b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"

cdef extern from *:
    """
    #define UWS_DATE_MAX_S 253402300799ull     // the year 9999 ends: the grammar has four digits
    """
    const uint64_t UWS_DATE_MAX_S


cdef inline void _two_digits(uint8_t* out, uint32_t value) noexcept nogil:
    out[0] = <uint8_t>(c'0' + value // 10)
    out[1] = <uint8_t>(c'0' + value % 10)


cdef inline void date_line(uint64_t unix_s, uint8_t* out) noexcept nogil:
    """Write the field line of a moment, with its CR LF.

    unix_s: seconds since 1970; what is later than the year 9999 is its end.
    out: room for UWS_DATE_LINE_BYTES.
    """
    cdef const char* days = b"SunMonTueWedThuFriSat"
    cdef const char* months = b"MarAprMayJunJulAugSepOctNovDecJanFeb"
    cdef uint64_t moment = min(unix_s, UWS_DATE_MAX_S)
    cdef uint32_t day = <uint32_t>(moment // 86400), second = <uint32_t>(moment % 86400)
    cdef uint32_t weekday = (day + 4) % 7
    cdef uint32_t era, year, month
    # Years begin in March, so that a leap day is a year's last, and are counted from one that 400 divides.
    day += 719468
    era = day // 146097
    day %= 146097
    year = (day - day // 1460 + day // 36524 - day // 146096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5
    year += 400 * era + (month >= 10)
    memcpy(out, b"Date: ddd, 00 mmm 0000 00:00:00 GMT\r\n", UWS_DATE_LINE_BYTES)
    memcpy(out + 6, days + 3 * weekday, 3)
    _two_digits(out + 11, day + 1)
    memcpy(out + 14, months + 3 * month, 3)
    _two_digits(out + 18, year // 100)
    _two_digits(out + 20, year % 100)
    _two_digits(out + 23, second // 3600)
    _two_digits(out + 26, second // 60 % 60)
    _two_digits(out + 29, second % 60)
