# F5. Load generator: the ends of connections, and what is counted about them. See loadplan.pxd.
# The only file that ends a connection. Called by the files of the load generator above it.

from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t

from _uws.loadplan cimport UwsLoad, UwsLoadConn

cdef inline int32_t load_number(const UwsLoad* l, const UwsLoadConn* c) noexcept nogil:
    return <int32_t>(c - l.conns)


cdef inline uint64_t load_due(const UwsLoad* l, const UwsLoadConn* c, uint64_t m) noexcept nogil:
    """When message m of a connection left for it, or should have.

    At a fixed rate it follows from the schedule, however late we or the server are: a server that stalls is charged
    with all that it kept waiting (no coordinated omission), and no memory is needed for what is outstanding.
    """
    if l.plan.gap_ns != 0:
        return l.load_ns + <uint64_t>(
            l.offset_ns + (m * l.takers + <uint64_t>load_number(l, c)) * l.step_ns
        )
    return l.stamps[<uint64_t>load_number(l, c) * l.stamp_count + (m & (l.stamp_count - 1))]


cdef inline int load_measured(const UwsLoad* l, uint64_t due_ns) noexcept nogil:
    """Whether what left then is part of what is measured."""
    return l.begin_ns != 0 and due_ns >= l.begin_ns and (l.end_ns == 0 or due_ns < l.end_ns)


cdef void load_watch(UwsLoad* l, UwsLoadConn* c, int out) noexcept nogil
cdef void load_count_code(UwsLoad* l, uint16_t code) noexcept nogil
cdef void load_fail(UwsLoad* l, UwsLoadConn* c, int error, int reset) noexcept nogil
cdef void load_closed(UwsLoad* l, UwsLoadConn* c, int reset) noexcept nogil
cdef void load_expire(UwsLoad* l, UwsLoadConn* c, uint64_t now_ns) noexcept nogil
