# F1. Streaming validation of UTF-8 (RFC 3629; RFC 6455, section 8.1).
# Owns nothing; any floor may call it, from any thread. The caller keeps one byte of state per message.

from libc.stdint cimport uint8_t


# Continue the message in *state (0 before its first byte) over data.
# UWS_OK, or UWS_E_UTF8 once no continuation could make it valid; *state is then of no more use.
# A message is valid if every piece was UWS_OK and *state is 0 at its end.
cdef int utf8_feed(uint8_t* state, const uint8_t* data, size_t len_bytes) noexcept nogil
