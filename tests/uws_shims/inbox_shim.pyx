# Window of the tests onto _uws.inbox.
# Owns the payloads it hands down, and overwrites those that the inbox has to have copied.
# Imported by tests/engine/test_inbox.py only.

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from _uws.errs cimport UWS_E_NOMEM, UWS_OK
from _uws.inbox cimport inbox_drop, inbox_put, inbox_put_back, inbox_take, note_give
from _uws.proto cimport UWS_EV_CLOSE, UWS_EV_MESSAGE, UWS_EVF_OWNED, UwsEvent
from _uws.slab cimport UwsSlab, slab_destroy, slab_give, slab_init, slab_take, slab_used_bytes
from _uws.state cimport UwsInbox, UwsNote

OK = UWS_OK
E_NOMEM = UWS_E_NOMEM
MESSAGE = UWS_EV_MESSAGE
CLOSE = UWS_EV_CLOSE


cdef class Inbox:
    cdef UwsSlab slab
    cdef UwsInbox box

    def __cinit__(self):
        assert slab_init(&self.slab) == UWS_OK

    def __dealloc__(self):
        slab_destroy(&self.slab)

    def put(self, int kind, int opcode, bytes payload, bint owned=False, int code=0, bint back=False,
            size_t room=0):
        """(status, address of the payload handed down, None if there was none). room: of the block that an owned
        payload is in, where that is not of its size."""
        cdef UwsEvent event
        cdef size_t n = len(payload)
        cdef uint8_t* data = NULL
        cdef int status
        memset(&event, 0, sizeof(event))
        if owned:
            data = <uint8_t*>slab_take(&self.slab, max(n, room, 1), NULL)
        elif n:
            data = <uint8_t*>malloc(n)
        if data == NULL and (owned or n):
            raise MemoryError
        if n:
            memcpy(data, <char*>payload, n)
        event.kind = <uint8_t>kind
        event.opcode = <uint8_t>opcode
        event.flags = UWS_EVF_OWNED if owned else 0
        event.code = <unsigned short>code
        event.index = 7
        event.generation = 99
        event.data = data
        event.len_bytes = n
        if back:
            status = inbox_put_back(&self.box, &self.slab, &event)
        else:
            status = inbox_put(&self.box, &self.slab, &event)
        at = <uintptr_t>data if data != NULL else None
        if owned:
            if status != UWS_OK:
                slab_give(&self.slab, data)
        elif data != NULL:
            memset(data, 0xEE, n)
            free(data)
        return status, at

    def put_absurd(self, size_t len_bytes):
        """A payload of which no machine could hold a copy."""
        cdef UwsEvent event
        memset(&event, 0, sizeof(event))
        event.kind = UWS_EV_MESSAGE
        event.data = <uint8_t*>&event
        event.len_bytes = len_bytes
        return inbox_put(&self.box, &self.slab, &event)

    def take(self):
        """(kind, opcode, payload, code, address of the payload), or None. The note is given back here."""
        cdef UwsNote* note = inbox_take(&self.box)
        if note == NULL:
            return None
        assert note.next == NULL
        assert note.event.index == 7 and note.event.generation == 99
        payload = PyBytes_FromStringAndSize(<char*>note.event.data, note.event.len_bytes) \
            if note.event.len_bytes else b""
        at = <uintptr_t>note.event.data if note.event.len_bytes else None
        out = (note.event.kind, note.event.opcode, payload, note.event.code, at)
        note_give(note, &self.slab)
        return out

    def drop(self):
        inbox_drop(&self.box, &self.slab)

    @property
    def count(self):
        return self.box.count

    @property
    def bytes(self):
        return self.box.bytes

    @property
    def empty(self):
        """Whether nothing is left in it, pointers too."""
        return self.box.head == NULL and self.box.tail == NULL and self.box.bytes == 0 and self.box.count == 0

    @property
    def live_blocks(self):
        return self.slab.live_blocks

    @property
    def used_bytes(self):
        return slab_used_bytes(&self.slab)
