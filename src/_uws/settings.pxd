# F6. What a loop is told: from the dict of names that the library hands over to what the engine reads.
# Owns the list of the names; used by core.

from libc.stdint cimport uint32_t, uint64_t

from _uws.state cimport UwsLimits

cdef enum:
    UWS_MIN_SCHEDULE_US = 100     # below it the watchdog would do little else than look
    UWS_CORK_BYTES = 65536        # queued bytes of one connection that do not wait for the end of the turn

cdef struct UwsSettings:
    UwsLimits limits
    uint64_t max_message_bytes
    uint64_t max_stream_bytes
    uint32_t max_fragments
    uint32_t streaming
    uint32_t runners

# Read them all: KeyError for a name too few or too many, TypeError, OverflowError or ValueError for a value.
cdef int settings_read(UwsSettings* out, dict settings) except -1
