"""Window on _uws.date."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset

from _uws.date cimport UWS_DATE_LINE_BYTES, date_line

LINE_BYTES = UWS_DATE_LINE_BYTES


def line(uint64_t unix_s):
    """The line, and the byte behind it."""
    cdef uint8_t[UWS_DATE_LINE_BYTES + 1] out
    memset(out, 0xA5, sizeof(out))
    date_line(unix_s, out)
    return bytes(out[:UWS_DATE_LINE_BYTES]), out[UWS_DATE_LINE_BYTES]
