# Harnesses of the fuzz targets for all that is read before there are frames: upgrade, opening, proxy.
# Each is shown longer and longer beginnings of one input, as they would come in one piece, byte by byte and chopped,
# always in exact copies, and is to end in the same state. For tests/fuzz/targets.py alone.

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memset

from _uws.errs cimport UWS_E_ARG, UWS_E_PROTOCOL, UWS_MORE, UWS_OK
from _uws.opening cimport UWS_FAULT_NONE, UwsOffer, UwsOpening, opening_parse
from _uws.proxy cimport UWS_A_INET, UWS_A_INET6, UWS_A_NONE, UWS_A_UNIX, UwsProxy, proxy_parse
from _uws.response cimport UWS_MAX_REFUSAL_BYTES, response_accept, response_refuse
from _uws.upgrade cimport (
    UWS_UPGRADE_MAX_PROTOCOLS, UwsSpan, UwsUpgrade, UwsUpgradeLimits, upgrade_init, upgrade_parse, upgrade_protocols,
    upgrade_target,
)
from uws_shims.fuzzing cimport FEEDINGS, Cuts, Exact, cut, exact

OK = UWS_OK
MORE = UWS_MORE
E_ARG = UWS_E_ARG
E_PROTOCOL = UWS_E_PROTOCOL
FED = ("whole", "byte by byte", "chopped")


# ---- upgrade

cdef int _parse_upgrade(UwsUpgrade* u, const uint8_t* head, size_t len_bytes, const UwsUpgradeLimits* limits,
                        Cuts* cuts) noexcept nogil:
    cdef size_t have = 0
    cdef Exact copy
    cdef int status = UWS_MORE
    upgrade_init(u)
    while have < len_bytes and status == UWS_MORE:
        have += cut(cuts, len_bytes - have)
        # It may be anywhere else each time.
        copy = exact(head, have, 0)
        status = upgrade_parse(u, copy.at, have, limits)
        free(copy.base)
    return status


cdef object _span(bytes head, UwsSpan span):
    if span.off > <uint32_t>len(head) or span.len > <uint32_t>len(head) - span.off:
        raise AssertionError(f"a span outside of the head: {span}")
    return head[span.off:span.off + span.len]


def upgrade(bytes head, uint32_t seed, uint32_t max_head_bytes=16384, uint32_t max_fields=100,
            uint32_t max_line_bytes=8192):
    """(status, what is known of the head)"""
    cdef UwsUpgrade[FEEDINGS] found
    cdef UwsUpgradeLimits limits
    cdef UwsSpan path, query
    cdef UwsSpan[UWS_UPGRADE_MAX_PROTOCOLS] protocols
    cdef const uint8_t* at = <const uint8_t*><const char*>head
    cdef size_t n = len(head)
    cdef Cuts cuts
    cdef Exact copy
    cdef int how, i
    limits.max_head_bytes = max_head_bytes
    limits.max_fields = max_fields
    limits.max_line_bytes = max_line_bytes
    for how in range(FEEDINGS):
        cuts.how = how
        cuts.state = seed
        with nogil:
            _parse_upgrade(&found[how], at, n, &limits, &cuts)
        if memcmp(&found[how], &found[0], sizeof(UwsUpgrade)) != 0:
            raise AssertionError(f"{FED[how]} it comes to {found[how]}, whole to {found[0]}")
    cdef UwsUpgrade* u = &found[0]
    if u.pos > n or u.head_len > n or u.looked > 3 * n + 16:
        raise AssertionError(f"of {n} bytes {u.pos} are read, {u.looked} looked at; the head has {u.head_len}")
    known = {
        "head_len": u.head_len,
        "fields": u.fields,
        "is_plain_get": bool(u.is_plain_get),
        "key": PyBytes_FromStringAndSize(<char*>u.key, 24),
        "method": _span(head, u.method),
        "target": _span(head, u.target),
        "host": _span(head, u.host),
        "origin": _span(head, u.origin),
    }
    if u.status == UWS_OK or u.is_plain_get:
        copy = exact(at, u.head_len, 0)
        if upgrade_target(u, copy.at, &path, &query) != UWS_OK:
            raise AssertionError("a valid request has a target that is none")
        if u.status == UWS_OK:
            known["protocols"] = []
            for i in range(upgrade_protocols(u, copy.at, protocols)):
                known["protocols"].append(_span(head, protocols[i]))
        free(copy.base)
        known["path"] = _span(head, path)
        known["query"] = _span(head, query)
    if u.status == UWS_OK:
        _answer(u, known["protocols"])
    elif u.status != UWS_MORE:
        _refuse(u.status)
    return u.status, known


cdef void _answer(UwsUpgrade* u, list protocols) except *:
    """Write the 101, into room that is just enough; our own client has to understand it."""
    cdef bytes chosen = protocols[len(protocols) - 1] if protocols else b""
    cdef const uint8_t* subprotocol = <const uint8_t*><const char*>chosen
    cdef bytes offered = b", ".join(protocols)
    cdef size_t chosen_len = len(chosen), cap = 512 + chosen_len, n, i
    cdef uint8_t* out = <uint8_t*>malloc(cap)
    cdef uint8_t* exactly
    cdef UwsOpening o
    cdef UwsOffer offer
    if out == NULL:
        raise MemoryError
    n = response_accept(out, cap, u, subprotocol, chosen_len, NULL, 0, False)
    if n == 0:
        free(out)
        raise AssertionError("a valid upgrade is not answered")
    exactly = <uint8_t*>malloc(n)
    if exactly == NULL:
        raise MemoryError
    memset(exactly, 0, n)
    i = response_accept(exactly, n, u, subprotocol, chosen_len, NULL, 0, False)
    same = i == n and memcmp(exactly, out, n) == 0
    fits_less = response_accept(exactly, n - 1, u, subprotocol, chosen_len, NULL, 0, False)
    memset(&o, 0, sizeof(o))
    offer.protocols = <const uint8_t*><const char*>offered
    offer.protocols_len = len(offered)
    offer.max_head_bytes = 16384
    status = opening_parse(&o, out, n, u.key, &offer)
    free(out)
    free(exactly)
    if not same or fits_less != 0:
        raise AssertionError("the answer depends on the room for it")
    if status != UWS_OK or o.head_len != n or o.protocol_len != chosen_len:
        raise AssertionError(f"our own client says {status}, {o} of the answer")


cdef void _refuse(int status) except *:
    cdef uint8_t* out = <uint8_t*>malloc(UWS_MAX_REFUSAL_BYTES)
    if out == NULL:
        raise MemoryError
    n = response_refuse(out, UWS_MAX_REFUSAL_BYTES, status)
    is_500 = n > 12 and (<char*>out)[9:12] == b"500"
    free(out)
    if n == 0 or is_500:
        raise AssertionError(f"{status} has no answer")


# ---- opening

cdef int _parse_opening(UwsOpening* o, const uint8_t* head, size_t len_bytes, const uint8_t* key, const UwsOffer* offer,
                        Cuts* cuts) noexcept nogil:
    cdef size_t have = 0
    cdef Exact copy
    cdef int status = UWS_MORE
    memset(o, 0, sizeof(UwsOpening))
    while have < len_bytes and status == UWS_MORE:
        have += cut(cuts, len_bytes - have)
        copy = exact(head, have, 0)
        status = opening_parse(o, copy.at, have, key, offer)
        free(copy.base)
    return status


def opening(bytes head, uint32_t seed, bytes key, bytes protocols, uint32_t max_head_bytes):
    """(status, fault, bytes of the head, HTTP status, subprotocol)"""
    cdef UwsOpening[FEEDINGS] found
    cdef int[FEEDINGS] statuses
    cdef UwsOffer offer
    cdef Exact offered = exact(<const uint8_t*><const char*>protocols, len(protocols), 0)
    cdef const uint8_t* at = <const uint8_t*><const char*>head
    cdef const uint8_t* sent = <const uint8_t*><const char*>key
    cdef size_t n = len(head)
    cdef Cuts cuts
    cdef int how
    offer.protocols = offered.at
    offer.protocols_len = len(protocols)
    offer.max_head_bytes = max_head_bytes
    for how in range(FEEDINGS):
        cuts.how = how
        cuts.state = seed
        with nogil:
            statuses[how] = _parse_opening(&found[how], at, n, sent, &offer, &cuts)
    free(offered.base)
    for how in range(FEEDINGS):
        # How far it has looked for the head's end may depend on where the end of what was there so far was.
        same = statuses[how] == statuses[0] and found[how].fault == found[0].fault \
            and found[how].head_len == found[0].head_len and found[how].http_status == found[0].http_status \
            and found[how].protocol_off == found[0].protocol_off and found[how].protocol_len == found[0].protocol_len
        if not same:
            raise AssertionError(
                f"{FED[how]} it comes to {statuses[how]}, {found[how]}, whole to {statuses[0]}, {found[0]}"
            )
    if (statuses[0] == UWS_E_PROTOCOL) != (found[0].fault != UWS_FAULT_NONE):
        raise AssertionError(f"{statuses[0]} with {found[0]}")
    span = _span(head, UwsSpan(found[0].protocol_off, found[0].protocol_len))
    return statuses[0], found[0].fault, found[0].head_len, found[0].http_status, span


# ---- proxy

def proxy(bytes text):
    """MORE or E_ARG, or (header's length, kind, address or path, port, is_secure); and how many bytes it took."""
    cdef UwsProxy found, again
    cdef size_t n, took = 0, length = len(text)
    cdef const uint8_t* at = <const uint8_t*><const char*>text
    cdef int status = UWS_MORE, repeated
    cdef Exact piece
    memset(&found, 0, sizeof(found))
    for n in range(length + 1):
        piece = exact(at, n, 0)
        # All of it is written, whatever was there.
        memset(&again, 0xA5, sizeof(again))
        repeated = proxy_parse(piece.at, n, &again)
        free(piece.base)
        if status == UWS_MORE:
            status = repeated
            found = again
            took = n
        elif repeated != status or (status == UWS_OK and memcmp(&again, &found, sizeof(found)) != 0):
            raise AssertionError(f"{n} bytes say {repeated}, {again}; {took} have said {status}, {found}")
    if status != UWS_OK:
        return status, took
    if found.len_bytes != took:
        raise AssertionError(f"a header of {found.len_bytes} bytes is complete after {took}")
    if found.kind == UWS_A_UNIX:
        address = _span(text, UwsSpan(found.path_off, found.path_len))
    else:
        address = (<char*>found.addr)[:{<int>UWS_A_NONE: 0, <int>UWS_A_INET: 4, <int>UWS_A_INET6: 16}[found.kind]]
    return (found.len_bytes, found.kind, address, found.port, bool(found.is_secure)), took
