"""Close codes (RFC 6455, section 7.4): the registered ones by name, the ranges that the RFC cuts them into."""

from __future__ import annotations

from enum import IntEnum

from _uws.wire import may_close_with

__all__ = [
    "STATUS_APPLICATION",
    "STATUS_NOT_IN_USE",
    "STATUS_PRIVATE",
    "STATUS_PROTOCOL",
    "StatusCode",
    "is_valid_status",
]

STATUS_NOT_IN_USE = range(0, 1000)
"""Never used (RFC 6455, section 7.4.2): ``code in STATUS_NOT_IN_USE``."""

STATUS_PROTOCOL = range(1000, 3000)
"""The protocol's own, its extensions' and future versions'."""

STATUS_APPLICATION = range(3000, 4000)
"""Registered with IANA by libraries and applications, first come, first served."""

STATUS_PRIVATE = range(4000, 5000)
"""Anybody's, by agreement between the two ends."""


class StatusCode(IntEnum):
    """The close codes that have a name (RFC 6455, section 7.4.1; IANA's WebSocket Close Code Number Registry).

    Codes are plain numbers wherever the library takes or gives one, and these compare equal to them.
    """

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    RESERVED_1004 = 1004
    NO_STATUS_RCVD = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_FRAME_PAYLOAD_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXT = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015
    UNAUTHORIZED = 3000
    FORBIDDEN = 3003
    TIMEOUT = 3008

    @property
    def is_reserved(self) -> bool:
        """Whether it is never on the wire: the name of an end without a close frame, or of nothing yet."""
        return not may_close_with(self)


def is_valid_status(code: int) -> bool:
    """Whether a close frame may carry the code: 1000 to 1003, 1007 to 1014, 3000 to 4999.

    Thread: any.
    """
    return may_close_with(code)
