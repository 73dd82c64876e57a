"""Window on _uws.client."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from _uws.client cimport (
    UWS_PIECE_CLOSE, UWS_PIECE_DATA, UWS_PIECE_PING, UWS_PIECE_PONG, UwsClient, UwsPiece, client_head, client_next,
    client_reset,
)
from _uws.errs cimport UWS_E_PROTOCOL, UWS_E_UTF8, UWS_MORE, UWS_OK
from _uws.frame cimport UWS_MAX_MASKED_HEAD_BYTES
from _uws.slab cimport UwsSlab, slab_destroy, slab_init, slab_used_bytes

MORE = UWS_MORE
E_PROTOCOL = UWS_E_PROTOCOL
E_UTF8 = UWS_E_UTF8
KINDS = {
    <int>UWS_PIECE_DATA: "data", <int>UWS_PIECE_PING: "ping", <int>UWS_PIECE_PONG: "pong",
    <int>UWS_PIECE_CLOSE: "close",
}


def head(int opcode, int fin, uint64_t payload_len, bytes key):
    cdef uint8_t[UWS_MAX_MASKED_HEAD_BYTES + 2] out
    cdef uint32_t word
    memcpy(&word, <const char*>key, 4)
    out[UWS_MAX_MASKED_HEAD_BYTES] = out[UWS_MAX_MASKED_HEAD_BYTES + 1] = 0xA5
    size = client_head(out, opcode, fin, payload_len, word)
    assert out[UWS_MAX_MASKED_HEAD_BYTES] == out[UWS_MAX_MASKED_HEAD_BYTES + 1] == 0xA5
    return out[:size]


cdef class Client:
    cdef UwsClient c
    cdef UwsSlab slab

    def __cinit__(self, bint check_utf8=False):
        memset(&self.c, 0, sizeof(self.c))
        self.c.check_utf8 = check_utf8
        slab_init(&self.slab)

    def __dealloc__(self):
        slab_destroy(&self.slab)

    @property
    def used(self):
        return slab_used_bytes(&self.slab)

    def reset(self):
        client_reset(&self.c, &self.slab)

    def feed(self, bytes data):
        """(status, pieces): each (kind, opcode, first, last, bytes) or ("close", code, reason)."""
        cdef UwsPiece piece
        cdef size_t left = len(data)
        # A block of its own size: reading behind its end is seen by a sanitizer.
        cdef uint8_t* room = <uint8_t*>malloc(left or 1)
        cdef const uint8_t* at = room
        memcpy(room, <const char*>data, left)
        pieces = []
        while True:
            status = client_next(&self.c, &self.slab, &at, &left, &piece)
            if status != UWS_OK:
                break
            said = (<const char*>piece.data)[:piece.len_bytes] if piece.len_bytes else b""
            if piece.kind == UWS_PIECE_DATA:
                pieces.append(("data", piece.opcode, bool(piece.first), bool(piece.last), said))
            elif piece.kind == UWS_PIECE_CLOSE:
                pieces.append(("close", piece.code, said))
            else:
                pieces.append((KINDS[piece.kind], said))
        assert at - room + left == <size_t>len(data)
        assert status != UWS_MORE or left == 0
        free(room)
        return status, pieces
