"""Window on _uws.opening."""

from libc.stdint cimport uint8_t
from libc.string cimport memset

from _uws.errs cimport UWS_E_PROTOCOL, UWS_MORE, UWS_OK
from _uws.opening cimport (
    UWS_FAULT_ACCEPT, UWS_FAULT_EXTENSION, UWS_FAULT_HTTP, UWS_FAULT_NONE, UWS_FAULT_STATUS, UWS_FAULT_SUBPROTOCOL,
    UWS_FAULT_TOO_LONG, UWS_FAULT_UPGRADE, UwsOffer, UwsOpening, opening_key, opening_parse,
)

OK = UWS_OK
MORE = UWS_MORE
E_PROTOCOL = UWS_E_PROTOCOL
FAULTS = {
    <int>UWS_FAULT_NONE: None, <int>UWS_FAULT_HTTP: "http", <int>UWS_FAULT_TOO_LONG: "too_long",
    <int>UWS_FAULT_STATUS: "status", <int>UWS_FAULT_UPGRADE: "upgrade", <int>UWS_FAULT_ACCEPT: "accept",
    <int>UWS_FAULT_EXTENSION: "extension", <int>UWS_FAULT_SUBPROTOCOL: "subprotocol",
}


def key_of(bytes nonce):
    cdef uint8_t[26] out
    assert len(nonce) == 16
    out[24] = out[25] = 0xA5
    opening_key(<const uint8_t*><const char*>nonce, out)
    assert out[24] == out[25] == 0xA5
    return out[:24]


cdef class Opening:
    cdef UwsOpening o
    cdef bytes key, protocols
    cdef int max_head_bytes

    def __cinit__(self, bytes key, bytes protocols=b"", int max_head_bytes=16384):
        memset(&self.o, 0, sizeof(self.o))
        self.key = key
        self.protocols = protocols
        self.max_head_bytes = max_head_bytes

    def parse(self, bytes head):
        """(status, what is wrong) of all that has come."""
        cdef UwsOffer offer
        offer.protocols = <const uint8_t*><const char*>self.protocols
        offer.protocols_len = len(self.protocols)
        offer.max_head_bytes = self.max_head_bytes
        status = opening_parse(&self.o, <const uint8_t*><const char*>head, len(head),
                               <const uint8_t*><const char*>self.key, &offer)
        return status, FAULTS[self.o.fault]

    @property
    def head_len(self):
        return self.o.head_len

    @property
    def http_status(self):
        return self.o.http_status

    def protocol(self, bytes head):
        return head[self.o.protocol_off:self.o.protocol_off + self.o.protocol_len]
