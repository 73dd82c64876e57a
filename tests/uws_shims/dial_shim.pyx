"""Window on _uws.dial."""

from libc.errno cimport errno
from libc.string cimport memcpy

from _uws.dial cimport UWS_DIAL_AGAIN, UwsAddress, dial_end, dial_result, dial_start

AGAIN = UWS_DIAL_AGAIN


cdef UwsAddress _address(bytes packed):
    cdef UwsAddress out
    memcpy(&out.at, <const char*>packed, len(packed))
    out.len_bytes = len(packed)
    return out


def start(bytes to, bytes source=None):
    """A descriptor, AGAIN, or OSError."""
    cdef UwsAddress a = _address(to), b
    if source is not None:
        b = _address(source)
    fd = dial_start(&a, &b if source is not None else NULL)
    if fd < 0 and fd != UWS_DIAL_AGAIN:
        raise OSError(errno, "dial_start")
    return fd


def result(int fd):
    return dial_result(fd)


def end(int fd, bint reset):
    dial_end(fd, reset)
