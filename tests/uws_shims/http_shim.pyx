# Window of the tests onto _uws.http.
# Owns each text it hands down: an allocation that ends where the text ends.
# Imported by tests/engine/test_http.py only.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from _uws.http cimport (
    C_BASE64,
    C_HOST,
    C_IPV6,
    C_LIST,
    C_SPACE,
    C_TARGET,
    C_TOKEN,
    C_VALUE,
    http_authority_end,
    http_check_authority,
    http_class,
    http_is,
    http_is_all,
    http_scheme_len,
    http_skip,
    http_skip_quoted,
    http_skip_value,
)

CLASSES = {
    "token": C_TOKEN,
    "target": C_TARGET,
    "value": C_VALUE,
    "space": C_SPACE,
    "list": C_LIST,
    "host": C_HOST,
    "ipv6": C_IPV6,
    "base64": C_BASE64,
}


def members(int cls):
    cdef int byte
    return {byte for byte in range(256) if http_class[byte] & cls}


cdef uint8_t* _copy(bytes text) except NULL:
    cdef size_t n = len(text)
    cdef uint8_t* copy = <uint8_t*>malloc(n if n else 1)
    if copy == NULL:
        raise MemoryError
    memcpy(copy, <char*>text, n)
    return copy


def skip(bytes text, uint32_t pos, uint32_t end, int cls):
    cdef uint8_t* copy = _copy(text)
    try:
        return http_skip(copy, pos, end, <uint8_t>cls)
    finally:
        free(copy)


def skip_value(bytes text, uint32_t pos, uint32_t end):
    cdef uint8_t* copy = _copy(text)
    try:
        return http_skip_value(copy, pos, end)
    finally:
        free(copy)


def skip_quoted(bytes text, uint32_t begin, uint32_t end):
    cdef uint8_t* copy = _copy(text)
    try:
        return http_skip_quoted(copy, begin, end)
    finally:
        free(copy)


def check_authority(bytes text, uint32_t pos, uint32_t end):
    cdef uint8_t* copy = _copy(text)
    try:
        return http_check_authority(copy, pos, end)
    finally:
        free(copy)


def scheme_len(bytes target):
    cdef uint8_t* copy = _copy(target)
    try:
        return http_scheme_len(copy, <uint32_t>len(target))
    finally:
        free(copy)


def authority_end(bytes text, uint32_t pos, uint32_t end):
    cdef uint8_t* copy = _copy(text)
    try:
        return http_authority_end(copy, pos, end)
    finally:
        free(copy)


def equals(bytes text, bytes lower):
    cdef uint8_t* copy = _copy(text)
    try:
        return bool(http_is(copy, lower, <uint32_t>len(lower)))
    finally:
        free(copy)


def is_all(bytes text, int cls):
    cdef uint8_t* copy = _copy(text)
    try:
        return bool(http_is_all(copy, len(text), <uint8_t>cls))
    finally:
        free(copy)
