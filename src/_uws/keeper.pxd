# F5. What threads that have another descriptor table say to the keeper of a loop, and wait for. The keeper is the
# thread in whose table the descriptors of the loop's connections are: only it can do anything with them (see role.pyx).
# Owns UwsLoop.told and asks. Everything is called with the loop's lock held, and without the GIL where it waits.

from libc.stdint cimport int32_t, uint32_t

from _uws.sock cimport sockaddr_storage
from _uws.state cimport UwsLoop

cdef void keeper_tell(UwsLoop* l, int what) noexcept nogil
cdef void keeper_wait(UwsLoop* l) noexcept nogil
cdef void keeper_tend(UwsLoop* l) noexcept nogil
cdef void keeper_addresses(UwsLoop* l, int32_t index, uint32_t generation, sockaddr_storage* peer,
                           sockaddr_storage* local) noexcept nogil

# By the keeper.
cdef void keeper_answer(UwsLoop* l) noexcept nogil
cdef void keeper_is_through(UwsLoop* l) noexcept nogil
