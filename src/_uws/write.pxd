# F6. A message of the application on its way out: whether it is compressed, goes straight to the kernel or is queued,
# whether it waits for room, and for which of it the GIL is let go of. Owns nothing; used by conn.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from _uws.deliver cimport UwsDelivery
from _uws.state cimport UwsLoop


# Which messages are compressed, where the client has agreed to it.
cdef enum:
    COMPRESS_NEVER
    COMPRESS_LONG                 # those above the threshold
    COMPRESS_ALWAYS

cdef enum:
    # What becomes of a message: unlimitedws.Sent has the same numbers.
    WRITE_DROPPED = 0
    WRITE_OK = 1
    WRITE_HIGH = 2
    WRITE_DROPPED_OLDER = 3
    # Why it is not sent.
    WRITE_GONE = -1
    WRITE_LATE = -2               # there was no room for it within the I/O timeout
    WRITE_NOMEM = -3

cdef enum:
    UWS_FOR_EVER_SHIFT = 60       # 36,000 years of microseconds


cdef inline uint64_t write_io_timeout(const UwsLoop* l) noexcept nogil:
    """In microseconds."""
    return l.limits.io_timeout_us if l.limits.io_timeout_us != 0 else <uint64_t>1 << UWS_FOR_EVER_SHIFT


# running: the callback of this connection that this thread runs; NULL: none. The GIL is held, and let go of where it
# takes long; the loop's lock is held on entry and not on return. WRITE_*
cdef int write_message(UwsLoop* l, int32_t index, uint32_t generation, UwsDelivery* running, int opcode,
                       const uint8_t* data, size_t len_bytes, int compress) noexcept
