"""Window on _uws.utf8."""

from libc.stdint cimport uint8_t
from time import perf_counter_ns

from _uws.errs cimport UWS_E_UTF8, UWS_OK
from _uws.utf8 cimport utf8_feed

OK = UWS_OK
E_UTF8 = UWS_E_UTF8


def feed(uint8_t state, const unsigned char[::1] data):
    """(status, state afterwards)"""
    cdef int status = utf8_feed(&state, &data[0] if data.shape[0] else NULL, <size_t>data.shape[0])
    return status, state


def refused_at(const unsigned char[::1] data):
    """Feed byte by byte: the index that is refused; -1 if none and the end is a boundary, -2 if it is not."""
    cdef uint8_t state = 0
    cdef Py_ssize_t i
    for i in range(data.shape[0]):
        if utf8_feed(&state, &data[i], 1) != UWS_OK:
            return i
    return -1 if state == 0 else -2


def scan_three(int first, int second):
    """For each third byte: which byte is refused (0: none, 4: unfinished); then the same fed at once (9: any)."""
    cdef uint8_t[3] data
    cdef uint8_t state, whole
    cdef int third, at, i, status
    out = bytearray(512)
    data[0] = <uint8_t>first
    data[1] = <uint8_t>second
    for third in range(256):
        data[2] = <uint8_t>third
        state = 0
        at = 0
        for i in range(3):
            if utf8_feed(&state, &data[i], 1) != UWS_OK:
                at = i + 1
                break
        whole = 0
        status = utf8_feed(&whole, data, 3)
        out[third] = at or (4 if state else 0)
        out[256 + third] = 9 if status != UWS_OK else (4 if whole else 0)
    return bytes(out)


def time_ns(const unsigned char[::1] data, size_t rounds):
    cdef uint8_t state = 0
    cdef int status = 0
    cdef size_t _
    cdef size_t len_bytes = <size_t>data.shape[0]
    started = perf_counter_ns()
    with nogil:
        for _ in range(rounds):
            status |= utf8_feed(&state, &data[0], len_bytes)
    elapsed = perf_counter_ns() - started
    assert status == 0 and state == 0
    return elapsed
