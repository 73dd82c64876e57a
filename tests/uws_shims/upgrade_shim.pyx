# Window of the tests onto _uws.upgrade and c/sha1.h.
# Owns each head it hands down: an allocation of exactly its size, so that a sanitizer sees a read beyond it.
# Imported by tests/engine/test_upgrade.py only.

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from _uws.errs cimport (
    UWS_E_ARG,
    UWS_E_HTTP_400,
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
    UWS_MORE,
    UWS_OK,
    err_http_status,
)
from _uws.response cimport UWS_MAX_REFUSAL_BYTES, response_accept, response_refuse
from _uws.upgrade cimport (
    UWS_UPGRADE_MAX_PROTOCOLS,
    UwsSpan,
    UwsUpgrade,
    UwsUpgradeLimits,
    upgrade_init,
    upgrade_parse,
    upgrade_target,
)

import time


cdef extern from "sha1.h" nogil:
    void uws_sha1(const uint8_t* data, size_t len_bytes, uint8_t* digest) noexcept
    void uws_base64_20(const uint8_t* digest, uint8_t* out) noexcept
    void uws_accept_key(const uint8_t* key, uint8_t* out) noexcept


OK = UWS_OK
MORE = UWS_MORE
E_ARG = UWS_E_ARG
E_400 = UWS_E_HTTP_400
E_404 = UWS_E_HTTP_404
E_405 = UWS_E_HTTP_405
E_HEAD = UWS_E_HTTP_HEAD
E_408 = UWS_E_HTTP_408
E_414 = UWS_E_HTTP_414
E_426 = UWS_E_HTTP_426
E_VERSION = UWS_E_HTTP_VERSION
E_431 = UWS_E_HTTP_431
E_503 = UWS_E_HTTP_503
E_505 = UWS_E_HTTP_505
MAX_PROTOCOLS = UWS_UPGRADE_MAX_PROTOCOLS
MAX_REFUSAL_BYTES = UWS_MAX_REFUSAL_BYTES
STATE_BYTES = sizeof(UwsUpgrade)


def http_status(int status):
    return err_http_status(status)


def sha1(bytes data):
    cdef uint8_t digest[20]
    uws_sha1(data, len(data), digest)
    return PyBytes_FromStringAndSize(<char*>digest, 20)


def base64_20(bytes digest):
    cdef uint8_t out[28]
    if len(digest) != 20:
        raise ValueError("a digest has 20 bytes")
    uws_base64_20(digest, out)
    return PyBytes_FromStringAndSize(<char*>out, 28)


def accept_key(bytes key):
    cdef uint8_t out[28]
    if len(key) != 24:
        raise ValueError("a key has 24 characters")
    uws_accept_key(key, out)
    return PyBytes_FromStringAndSize(<char*>out, 28)


def refuse(int status, size_t cap):
    """The response, or None if it does not fit into cap bytes."""
    cdef uint8_t* out = <uint8_t*>malloc(cap if cap else 1)
    cdef size_t n
    if out == NULL:
        raise MemoryError
    try:
        n = response_refuse(out, cap, status)
        return PyBytes_FromStringAndSize(<char*>out, n) if n else None
    finally:
        free(out)


cdef class Upgrade:
    """One request head, read piece by piece."""

    cdef UwsUpgrade u
    cdef UwsUpgradeLimits limits

    def __init__(self, uint32_t max_head_bytes=16384, uint32_t max_fields=100, uint32_t max_line_bytes=8192):
        self.set_limits(max_head_bytes, max_fields, max_line_bytes)
        upgrade_init(&self.u)

    def set_limits(self, uint32_t max_head_bytes, uint32_t max_fields, uint32_t max_line_bytes):
        self.limits.max_head_bytes = max_head_bytes
        self.limits.max_fields = max_fields
        self.limits.max_line_bytes = max_line_bytes

    def parse(self, bytes head):
        """Hand down all bytes received so far."""
        cdef size_t n = len(head)
        cdef uint8_t* copy = NULL
        if n:
            copy = <uint8_t*>malloc(n)
            if copy == NULL:
                raise MemoryError
            memcpy(copy, <char*>head, n)
        try:
            return upgrade_parse(&self.u, copy, n, &self.limits)
        finally:
            free(copy)

    def time_ns(self, bytes head, int rounds):
        """Mean time of a parse of the whole head from the beginning, and of one with the response."""
        cdef const uint8_t* data = <const uint8_t*><char*>head
        cdef size_t n = len(head)
        cdef uint8_t out[512]
        cdef int _i, status = 0
        begin = time.perf_counter_ns()
        for _i in range(rounds):
            upgrade_init(&self.u)
            status |= upgrade_parse(&self.u, data, n, &self.limits)
        middle = time.perf_counter_ns()
        for _i in range(rounds):
            upgrade_init(&self.u)
            status |= upgrade_parse(&self.u, data, n, &self.limits)
            status |= response_accept(out, 512, &self.u, NULL, 0, NULL, 0, False) == 0
        end = time.perf_counter_ns()
        if status:
            raise ValueError(f"not an upgrade: {status}")
        return (middle - begin) / rounds, (end - middle) / rounds

    def time_bytewise_ns(self, bytes head):
        cdef const uint8_t* data = <const uint8_t*><char*>head
        cdef size_t i, n = len(head)
        cdef int status = 0
        begin = time.perf_counter_ns()
        upgrade_init(&self.u)
        for i in range(1, n + 1):
            status = upgrade_parse(&self.u, data, i, &self.limits)
        return status, time.perf_counter_ns() - begin

    def accept(self, bytes subprotocol=None, bytes extensions=None, size_t cap=512,
               bint more=False):
        cdef const uint8_t* p = <const uint8_t*><char*>subprotocol if subprotocol is not None else NULL
        cdef const uint8_t* e = <const uint8_t*><char*>extensions if extensions is not None else NULL
        cdef uint8_t* out = <uint8_t*>malloc(cap if cap else 1)
        cdef size_t n
        if out == NULL:
            raise MemoryError
        try:
            n = response_accept(out, cap, &self.u, p, len(subprotocol or b""), e, len(extensions or b""), more)
            return PyBytes_FromStringAndSize(<char*>out, n) if n else None
        finally:
            free(out)

    def target(self, bytes head):
        """(path, query) as spans, or the error."""
        cdef UwsSpan path, query
        cdef int status = upgrade_target(&self.u, <const uint8_t*><char*>head, &path, &query)
        if status:
            return status
        return (path.off, path.len), (query.off, query.len)

    def span(self, str name, bytes head):
        spans = {
            "method": self.u.method,
            "target": self.u.target,
            "host": self.u.host,
            "origin": self.u.origin,
            "protocol": self.u.protocol,
            "extensions": self.u.extensions,
        }
        span = spans[name]
        return head[span["off"]:span["off"] + span["len"]]

    @property
    def key(self):
        return PyBytes_FromStringAndSize(<char*>self.u.key, 24)

    @property
    def head_len(self):
        return self.u.head_len

    @property
    def pos(self):
        return self.u.pos

    @property
    def looked(self):
        return self.u.looked

    @property
    def fields(self):
        return self.u.fields

    @property
    def is_plain_get(self):
        return bool(self.u.is_plain_get)
