# F1. Streaming validation of UTF-8 (RFC 3629; RFC 6455, section 8.1).
# Owns nothing; any floor may call it, from any thread. The automaton is in c/utf8.h.

from libc.stdint cimport uint8_t

from _uws.errs cimport UWS_E_UTF8, UWS_OK


cdef extern from "utf8.h" nogil:
    const int UWS_U8_BAD
    uint8_t uws_utf8_run(uint8_t before, const uint8_t* data, size_t len_bytes) noexcept


cdef int utf8_feed(uint8_t* state, const uint8_t* data, size_t len_bytes) noexcept nogil:
    """Continue a message over data.

    state: 0 before the first byte; afterwards where in a character the message stands, 0 at its end.
    Returns UWS_OK, or UWS_E_UTF8 at the first byte after which nothing could make the message valid.
        A refused message stays refused.
    """
    state[0] = uws_utf8_run(state[0], data, len_bytes)
    return UWS_E_UTF8 if state[0] == UWS_U8_BAD else UWS_OK
