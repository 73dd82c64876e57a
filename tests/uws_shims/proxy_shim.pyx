# Window of the tests onto _uws.proxy.
# Owns each text it hands down: an allocation of exactly its size, so that a sanitizer sees a read beyond it.
# Imported by tests/engine/test_proxy.py only.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from _uws.errs cimport UWS_E_ARG, UWS_MORE, UWS_OK
from _uws.proxy cimport (
    UWS_A_INET,
    UWS_A_INET6,
    UWS_A_NONE,
    UWS_A_UNIX,
    UWS_MAX_NETS,
    UWS_PROXY_LINE_BYTES,
    UWS_PROXY_MAX_BYTES,
    UwsNet,
    UwsProxy,
    proxy_collect,
    proxy_parse,
    proxy_trusts,
)

OK = UWS_OK
MORE = UWS_MORE
E_ARG = UWS_E_ARG
NONE = UWS_A_NONE
UNIX = UWS_A_UNIX
INET = UWS_A_INET
INET6 = UWS_A_INET6
LINE_BYTES = UWS_PROXY_LINE_BYTES
MAX_BYTES = UWS_PROXY_MAX_BYTES
MAX_NETS = UWS_MAX_NETS


cdef uint8_t* copied(bytes text) except NULL:
    cdef uint8_t* p = <uint8_t*>malloc(len(text) or 1)
    if p == NULL:
        raise MemoryError
    memcpy(p, <const uint8_t*>text, len(text))
    return p


def parse(bytes text):
    """MORE or E_ARG, or (header's length, kind, address or path, port, is_secure)"""
    cdef UwsProxy out
    cdef uint8_t* data = copied(text)
    cdef size_t len_bytes = len(text)
    cdef int status
    with nogil:
        status = proxy_parse(data, len_bytes, &out)
    free(data)
    if status != UWS_OK:
        return status
    if out.kind == UWS_A_UNIX:
        address = text[out.path_off : out.path_off + out.path_len]
    else:
        address = (<char*>out.addr)[:{UWS_A_NONE: 0, UWS_A_INET: 4, UWS_A_INET6: 16}[out.kind]]
    return out.len_bytes, out.kind, address, out.port, bool(out.is_secure)


def trusts(list networks, int kind, bytes address):
    """networks: (kind, bits, address) each"""
    cdef UwsNet[UWS_MAX_NETS] nets
    cdef uint8_t* p = copied(address)
    cdef int i
    assert len(networks) <= UWS_MAX_NETS
    memset(nets, 0, sizeof(nets))
    for i in range(len(networks)):
        nets[i].kind, nets[i].bits = networks[i][0], networks[i][1]
        memcpy(nets[i].addr, <const uint8_t*>(<bytes>networks[i][2]), len(networks[i][2]))
    trusted = bool(proxy_trusts(nets, len(networks), kind, p))
    free(p)
    return trusted


def collect(bytes head, bytes name, size_t cap):
    cdef uint8_t* text = copied(head)
    cdef uint8_t* out = <uint8_t*>malloc(cap)
    cdef size_t n
    if out == NULL:
        raise MemoryError
    n = proxy_collect(text, len(head), name, len(name), out, cap)
    value = (<char*>out)[:n]
    free(text)
    free(out)
    return value
