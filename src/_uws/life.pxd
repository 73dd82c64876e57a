# F5. The life of a connection: with settle.pyx the only file that changes UwsConn.state. The table stands in life.pyx.
# Owns nothing of its own; decides when a slot's things go back. Everything is called with the loop's lock held.

from libc.stdint cimport uint8_t, uint16_t

from _uws.state cimport UwsConn, UwsLoop

cdef UwsConn* conn_begin(UwsLoop* l, int fd) noexcept nogil
cdef void conn_ask(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_upgraded(UwsLoop* l, UwsConn* c) noexcept nogil
cdef bint conn_answer(UwsLoop* l, UwsConn* c, int http_status, const uint8_t* response, size_t len_bytes,
                      bint is_dated) noexcept nogil
cdef void conn_refuse(UwsLoop* l, UwsConn* c, int status) noexcept nogil
cdef int conn_close(UwsLoop* l, UwsConn* c, int cause, uint16_t code, const uint8_t* reason,
                    size_t len_bytes) noexcept nogil
cdef size_t conn_words(UwsLoop* l, int cause, uint16_t* code, const uint8_t** reason) noexcept nogil
cdef void conn_leave(UwsLoop* l, UwsConn* c, int cause) noexcept nogil
cdef void conn_left(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_raised(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_end(UwsLoop* l, UwsConn* c, int cause, uint16_t code, int reply_code,
                   const uint8_t* reason, size_t len_bytes) noexcept nogil
cdef void conn_starve(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_goodbye(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_consumed(UwsLoop* l, UwsConn* c) noexcept nogil
cdef void conn_eof(UwsLoop* l, UwsConn* c, bint gone) noexcept nogil
cdef void conn_abort(UwsLoop* l, UwsConn* c, int cause) noexcept nogil
cdef void conn_expired(UwsLoop* l, UwsConn* c) noexcept nogil
