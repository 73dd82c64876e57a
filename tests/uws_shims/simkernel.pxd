# What a run of the simulation is made of beside the engine: tests/simulation/kernel.h. Only declarations.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from _uws.state cimport pthread_mutex_t

cdef extern from "kernel.h" nogil:
    cdef enum:
        SIM_BASE
        SIM_FDS
        SIM_LINKS
        SIM_RING
    uint64_t SIM_NEVER
    ctypedef enum SimEnd:
        SIM_OPEN
        SIM_EOF
        SIM_RESET
    ctypedef struct SimHooks:
        void (*lock)() noexcept nogil
        void (*sleep)(uint64_t until_us) noexcept nogil
        int (*wait)(uint64_t until_us) noexcept nogil
    ctypedef struct SimWeather:
        uint32_t interrupted
        uint32_t not_yet
        uint32_t no_buffers
        uint32_t cut_short
        uint32_t no_descriptor
        uint32_t gone_again
        uint32_t no_watch
        uint32_t segment_bytes
        uint32_t latency_us
        uint32_t send_bytes
        uint32_t window_bytes
    ctypedef struct SimKernel:
        void (*begin)(uint64_t, const SimHooks*, pthread_mutex_t*, const uint32_t*, size_t, int) noexcept nogil
        void (*set_weather)(const SimWeather*) noexcept nogil
        void (*end)() noexcept nogil
        uint32_t (*mishaps)() noexcept nogil
        uint64_t (*now)() noexcept nogil
        void (*advance)(uint64_t) noexcept nogil
        uint64_t (*next_arrival)() noexcept nogil
        int (*is_ready)() noexcept nogil
        uint32_t (*below)(uint32_t) noexcept nogil
        int (*mishap)(uint32_t) noexcept nogil
        int (*listen)() noexcept nogil
        int (*owner)(int) noexcept nogil
        void (*connect)(int) noexcept nogil
        size_t (*write)(int, const uint8_t*, size_t) noexcept nogil
        size_t (*room)(int) noexcept nogil
        size_t (*unread)(int) noexcept nogil
        size_t (*read)(int, uint8_t*, size_t) noexcept nogil
        SimEnd (*ended)(int) noexcept nogil
        void (*finish)(int) noexcept nogil
        void (*leave)(int) noexcept nogil
        void (*reset)(int) noexcept nogil
        size_t (*kept)(int) noexcept nogil
        int (*takes)(int) noexcept nogil
        void (*trace)(const char*, ...) noexcept nogil
        void (*fail)(const char*, ...) noexcept nogil
