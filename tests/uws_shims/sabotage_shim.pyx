# Bugs of our own, put into the engine as it was built for everybody, for a test that the simulation finds them. As in
# scarce_shim: to be installed before the modules that call these functions are imported.

from cpython.pycapsule cimport PyCapsule_GetName, PyCapsule_New
from libc.stdint cimport int32_t, uint32_t

from _uws.inbox cimport inbox_put_back
from _uws.proto cimport UwsEvent
from _uws.slab cimport UwsSlab
from _uws.state cimport UwsInbox, UwsLoop
from _uws.wheel cimport UwsWheel

import sys


cdef void _wake(UwsLoop* l) noexcept nogil:
    """The poller is not told."""
    l.woken = 1


cdef int _put(UwsInbox* box, UwsSlab* slab, const UwsEvent* event) noexcept nogil:
    """What comes last is delivered first."""
    return inbox_put_back(box, slab, event)


cdef int32_t _expire(UwsWheel* w, uint32_t now) noexcept nogil:
    """No timer runs."""
    w.now = now
    return -1


cdef dict BUGS = {
    "nobody is woken": ("slot", "loop_wake", <size_t><void*>_wake, ("post", "settle", "flush")),
    "last in, first out": ("inbox", "inbox_put", <size_t><void*>_put, ("post",)),
    "no timer runs": ("wheel", "wheel_expire", <size_t><void*>_expire, ("loop",)),
}


def install(name):
    """Put one of BUGS into the engine."""
    module, function, address, callers = BUGS[name]
    late = [caller for caller in callers if f"_uws.{caller}" in sys.modules]
    if late:
        raise RuntimeError(f"too late: {late}")
    functions = __import__(f"_uws.{module}", fromlist=["_"]).__pyx_capi__
    functions[function] = PyCapsule_New(<void*><size_t>address, PyCapsule_GetName(functions[function]), NULL)
