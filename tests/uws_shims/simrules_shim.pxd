# What has to hold in a simulated run, whatever network, clock, clients and callbacks do: of the loop as a whole. What
# has to hold of each message stands in simpeer_shim and simapp_shim. They end the process where it does not.

from libc.stdint cimport uint64_t

from uws_shims.simworld cimport World

# The poller is in epoll, which has nothing for it.
cdef void rules_asleep(World* w, uint64_t until_us) noexcept nogil

cdef void rules_between_turns(World* w) noexcept nogil
cdef void rules_over(World* w) noexcept nogil
