# What one run of the simulation is made of; only declarations. Everything is sim_shim's.

from libc.stdint cimport uint32_t, uint64_t

from _uws.deliver cimport UwsDelivery
from _uws.state cimport UwsBatch, UwsLoop
from uws_shims.simkernel cimport SimKernel, SimWeather
from uws_shims.simpeer_shim cimport Peer

cdef enum:
    PEERS = 8

# What came of the runs so far.
cdef struct Totals:
    uint64_t connections
    uint64_t opened
    uint64_t closed
    uint64_t told                 # messages of clients, to the application
    uint64_t accepted             # the application's
    uint64_t heard                # ... by clients
    uint64_t deflated             # by clients
    uint64_t inflated             # ... of the application's
    uint64_t proxied              # clients
    uint64_t mishaps
    uint64_t takeovers
    uint64_t pauses
    uint64_t virtual_us
    uint64_t[19] causes

cdef struct World:
    const SimKernel* k
    UwsLoop l
    UwsBatch own                  # of the runner that run() is
    UwsBatch dog
    UwsBatch other                # of another one
    UwsDelivery theirs
    bint other_at_work
    bint is_other                 # it is its turn
    bint is_others_turn           # nobody comes between the steps of others
    bint has_stand_in             # the watchdog polls
    bint is_scarce
    bint has_stopped
    uint64_t stops_us
    int n_peers
    uint32_t answer_bytes         # the longest of the application
    uint32_t preempts             # mishaps: one in so many
    uint32_t oddness
    uint32_t takeovers
    uint32_t jumps
    uint32_t waits                # nested
    uint64_t locks
    void (*stand_in)() noexcept nogil
    SimWeather weather
    Peer[PEERS] peer
    Totals totals
