# F1. Status codes of the whole engine and the one table from a status to an RFC close code or an HTTP status.
# Owns nothing; every floor may use it. 0 is done, 1 needs more bytes, negative failed.

cdef enum UwsStatus:
    UWS_OK = 0
    UWS_MORE = 1

    # The connection fails with a close code (RFC 6455, section 7.4.1).
    UWS_E_PROTOCOL = -1       # 1002
    UWS_E_UTF8 = -2           # 1007
    UWS_E_TOO_BIG = -3        # 1009
    UWS_E_FRAGMENTS = -4      # 1008, more fragments than a message may have
    UWS_E_NOMEM = -5          # 1011
    # 1007 here too: the frames are in order, but what the message holds is not what its RSV1 bit says it is.
    UWS_E_DEFLATE = -6

    # The call was refused.
    UWS_E_ARG = -20
    UWS_E_SYS = -21           # errno says why

    # The upgrade request is refused with an HTTP status (docs/handshakes.md).
    UWS_E_HTTP_400 = -400
    UWS_E_HTTP_403 = -403
    UWS_E_HTTP_404 = -404
    UWS_E_HTTP_405 = -405     # with Allow: GET
    UWS_E_HTTP_HEAD = -1405   # 405 too, without content: HEAD gets none (RFC 9110, section 9.3.2)
    UWS_E_HTTP_408 = -408     # the handshake's deadline has passed
    UWS_E_HTTP_414 = -414
    UWS_E_HTTP_426 = -426     # not an upgrade: with Upgrade: websocket
    UWS_E_HTTP_VERSION = -427  # 426 too, with Sec-WebSocket-Version: 13
    UWS_E_HTTP_431 = -431
    UWS_E_HTTP_503 = -503
    UWS_E_HTTP_505 = -505


cdef inline int err_close_code(int status) noexcept nogil:
    """Close code that goes on the wire for a failed connection (RFC 6455, section 7.4.1)."""
    if status == UWS_E_PROTOCOL:
        return 1002
    if status == UWS_E_UTF8 or status == UWS_E_DEFLATE:
        return 1007
    if status == UWS_E_TOO_BIG:
        return 1009
    if status == UWS_E_FRAGMENTS:
        return 1008
    return 1011


cdef inline int err_http_status(int status) noexcept nogil:
    """HTTP status of a refused upgrade request."""
    if status == UWS_E_HTTP_VERSION:
        return 426
    if status == UWS_E_HTTP_HEAD:
        return 405
    if status <= UWS_E_HTTP_400:
        return -status
    return 500
