"""Window on _uws.intern."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from _uws.intern cimport (
    UwsIntern, intern_destroy, intern_get, intern_give, intern_hash, intern_init, intern_ref, intern_take,
)


def siphash(uint64_t key0, uint64_t key1, const unsigned char[::1] data):
    return intern_hash(key0, key1, &data[0] if data.shape[0] else NULL, <size_t>data.shape[0])


cdef class Intern:
    cdef UwsIntern table

    def __cinit__(self, uint64_t seed):
        assert intern_init(&self.table, seed) == 0

    def __dealloc__(self):
        intern_destroy(&self.table)

    def take(self, const unsigned char[::1] text):
        return intern_take(&self.table, &text[0] if text.shape[0] else NULL, <size_t>text.shape[0])

    def take_huge(self):
        """A length that the table refuses before it looks at the bytes."""
        return intern_take(&self.table, NULL, <size_t>1 << 32)

    def ref(self, uint32_t id):
        intern_ref(&self.table, id)

    def give(self, uint32_t id):
        intern_give(&self.table, id)

    def get(self, uint32_t id):
        cdef size_t len_bytes = 12345
        cdef const uint8_t* p = intern_get(&self.table, id, &len_bytes)
        if p == NULL:
            assert len_bytes == 0
            return None
        return p[:len_bytes]

    def address(self, uint32_t id):
        cdef size_t len_bytes
        return <size_t>intern_get(&self.table, id, &len_bytes)

    def destroy(self):
        intern_destroy(&self.table)

    def figures(self):
        return {
            "live": self.table.live,
            "held_bytes": self.table.held_bytes,
            "probes": self.table.probe_mask + 1 if self.table.probes != NULL else 0,
            "pages": self.table.page_count,
            "page_room": self.table.page_room,
        }
