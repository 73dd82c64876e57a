"""Window on _uws.entropy."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from _uws.entropy cimport (
    UWS_ENTROPY_BYTES, UwsEntropy, entropy_forget, entropy_key, entropy_take,
)

BYTES = UWS_ENTROPY_BYTES


cdef class Entropy:
    cdef UwsEntropy e

    def __cinit__(self):
        memset(&self.e, 0, sizeof(self.e))

    @property
    def left(self):
        return self.e.left

    def key(self):
        cdef uint32_t key = entropy_key(&self.e)
        return (<uint8_t*>&key)[:4]

    def take(self, size_t count):
        out = bytearray(count + 2)
        out[count] = out[count + 1] = 0xA5
        cdef unsigned char[::1] view = out
        entropy_take(&self.e, &view[0], count)
        assert out[count] == out[count + 1] == 0xA5
        return bytes(out[:count])

    def forget(self):
        entropy_forget(&self.e)
