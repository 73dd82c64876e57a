# F2. See response.pxd.

from libc.string cimport memcpy, strlen

from _uws.errs cimport (
    UWS_E_HTTP_400,
    UWS_E_HTTP_403,
    UWS_E_HTTP_404,
    UWS_E_HTTP_405,
    UWS_E_HTTP_408,
    UWS_E_HTTP_414,
    UWS_E_HTTP_426,
    UWS_E_HTTP_431,
    UWS_E_HTTP_503,
    UWS_E_HTTP_505,
    UWS_E_HTTP_HEAD,
    UWS_E_HTTP_VERSION,
    UWS_OK,
)
from _uws.http cimport C_TOKEN, C_VALUE, http_is_all
from _uws.upgrade cimport UWS_UPGRADE_ACCEPT_BYTES


cdef extern from "sha1.h" nogil:
    void uws_accept_key(const uint8_t* key, uint8_t* out) noexcept


cdef struct _Writer:
    uint8_t* out
    size_t cap
    size_t len        # never more than cap
    bint is_full


cdef inline void _put(_Writer* w, const void* text, size_t len_bytes) noexcept nogil:
    if len_bytes > w.cap - w.len:
        w.is_full = True
    elif not w.is_full and len_bytes:
        memcpy(w.out + w.len, text, len_bytes)
        w.len += len_bytes


cdef inline void _put_text(_Writer* w, const char* text) noexcept nogil:
    _put(w, text, strlen(text))


cdef size_t response_accept(uint8_t* out, size_t cap, const UwsUpgrade* u,
                            const uint8_t* subprotocol, size_t subprotocol_len,
                            const uint8_t* extensions, size_t extensions_len, bint more) noexcept nogil:
    """Write the 101 response (RFC 6455, section 4.2.2, item 5).

    u: UWS_OK was returned for it.
    subprotocol, extensions: what was negotiated; NULL and 0 for none.
    more: the caller adds further field lines, and the empty one that ends the head.
    Returns the response's bytes; 0 if they do not fit, if u is no accepted upgrade, or if a value holds bytes
        that its grammar does not have, such as those that would end its line.
    """
    cdef _Writer w
    cdef uint8_t accept[UWS_UPGRADE_ACCEPT_BYTES]
    if u.status != UWS_OK:
        return 0
    if not http_is_all(subprotocol, subprotocol_len, C_TOKEN):
        return 0
    if not http_is_all(extensions, extensions_len, C_VALUE):
        return 0
    w.out = out
    w.cap = cap
    w.len = 0
    w.is_full = False
    uws_accept_key(u.key, accept)
    _put_text(&w, b"HTTP/1.1 101 Switching Protocols\r\n"
                  b"Upgrade: websocket\r\n"
                  b"Connection: Upgrade\r\n"
                  b"Sec-WebSocket-Accept: ")
    _put(&w, accept, UWS_UPGRADE_ACCEPT_BYTES)
    if subprotocol_len:
        _put_text(&w, b"\r\nSec-WebSocket-Protocol: ")
        _put(&w, subprotocol, subprotocol_len)
    if extensions_len:
        _put_text(&w, b"\r\nSec-WebSocket-Extensions: ")
        _put(&w, extensions, extensions_len)
    _put_text(&w, b"\r\n" if more else b"\r\n\r\n")
    return 0 if w.is_full else w.len


cdef size_t response_refuse(uint8_t* out, size_t cap, int status) noexcept nogil:
    """Write the complete response to a request that is refused; the connection is closed behind it.

    status: UWS_E_HTTP_*; anything else becomes 500.
    Returns the response's bytes, at most UWS_MAX_REFUSAL_BYTES; 0 if they do not fit.
    """
    cdef _Writer w
    cdef const char* line = b"500 Internal Server Error"
    cdef const char* extra = b""
    cdef const char* reason = b"The server failed to handle this request.\n"
    cdef const char* connection = b"close"
    cdef uint8_t digits[2]
    cdef size_t reason_len
    if status == UWS_E_HTTP_400:
        line = b"400 Bad Request"
        reason = b"This is not a valid WebSocket handshake.\n"
    elif status == UWS_E_HTTP_403:
        line = b"403 Forbidden"
        reason = b"This server is reached through its proxy.\n"
    elif status == UWS_E_HTTP_404:
        line = b"404 Not Found"
        reason = b"There is nothing here.\n"
    elif status == UWS_E_HTTP_405 or status == UWS_E_HTTP_HEAD:
        line = b"405 Method Not Allowed"
        extra = b"Allow: GET\r\n"
        reason = b"A WebSocket handshake is a GET request.\n"
    elif status == UWS_E_HTTP_408:
        line = b"408 Request Timeout"
        reason = b"The request did not arrive in time.\n"
    elif status == UWS_E_HTTP_414:
        line = b"414 URI Too Long"
        reason = b"The request line is too long.\n"
    elif status == UWS_E_HTTP_426:
        line = b"426 Upgrade Required"
        extra = b"Upgrade: websocket\r\n"
        reason = b"This address speaks WebSocket: ask for an upgrade.\n"
    elif status == UWS_E_HTTP_VERSION:
        line = b"426 Upgrade Required"
        extra = b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        reason = b"This server speaks version 13 of the WebSocket protocol.\n"
    elif status == UWS_E_HTTP_431:
        line = b"431 Request Header Fields Too Large"
        reason = b"The request has too many or too large header fields.\n"
    elif status == UWS_E_HTTP_503:
        line = b"503 Service Unavailable"
        extra = b"Retry-After: 1\r\n"
        reason = b"The server is too busy; try again soon.\n"
    elif status == UWS_E_HTTP_505:
        line = b"505 HTTP Version Not Supported"
        reason = b"This server speaks HTTP/1.1.\n"
    if status == UWS_E_HTTP_426 or status == UWS_E_HTTP_VERSION:
        # Who sends Upgrade must name it in Connection (RFC 9110, section 7.8).
        connection = b"close, Upgrade"
    reason_len = strlen(reason)
    digits[0] = <uint8_t>(c'0' + reason_len // 10)
    digits[1] = <uint8_t>(c'0' + reason_len % 10)
    w.out = out
    w.cap = cap
    w.len = 0
    w.is_full = False
    _put_text(&w, b"HTTP/1.1 ")
    _put_text(&w, line)
    _put_text(&w, b"\r\nConnection: ")
    _put_text(&w, connection)
    _put_text(&w, b"\r\nContent-Type: text/plain\r\nContent-Length: ")
    _put(&w, digits, 2)
    _put_text(&w, b"\r\n")
    _put_text(&w, extra)
    _put_text(&w, b"\r\n")
    if status != UWS_E_HTTP_HEAD:
        _put(&w, reason, reason_len)
    return 0 if w.is_full else w.len
