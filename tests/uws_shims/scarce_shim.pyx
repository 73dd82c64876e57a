# See scarce_shim.pxd. Modules of the engine call one another through pointers that they look up when they are imported:
# so a function can be stood in for in the engine as it was built for everybody.

from cpython.pycapsule cimport PyCapsule_GetName, PyCapsule_New
from libc.stddef cimport size_t

from _uws.slab cimport UwsSlab, slab_block_bytes, slab_grow, slab_take

import sys

cdef int (*_ask)(uint32_t) noexcept nogil
cdef uint32_t _one_in


cdef void scarce_set(int (*ask)(uint32_t) noexcept nogil, uint32_t one_in) noexcept nogil:
    global _ask, _one_in
    _ask = ask
    _one_in = one_in


cdef inline bint _refused() noexcept nogil:
    return _ask != NULL and _ask(_one_in)


cdef void* _take(UwsSlab* slab, size_t want_bytes, size_t* got_bytes) noexcept nogil:
    return NULL if _refused() else slab_take(slab, want_bytes, got_bytes)


cdef void* _grow(UwsSlab* slab, void* p, size_t used_bytes, size_t want_bytes, size_t* got_bytes) noexcept nogil:
    if (p == NULL or slab_block_bytes(p) < want_bytes) and _refused():
        return NULL
    return slab_grow(slab, p, used_bytes, want_bytes, got_bytes)


def install():
    """Stand in for slab_take() and slab_grow(), for all modules of the engine that are imported from now on."""
    import _uws.slab

    late = [name for name in sys.modules if name.startswith("_uws.") and name != "_uws.slab"]
    if late:
        raise RuntimeError(f"too late: {late}")
    functions = _uws.slab.__pyx_capi__
    functions["slab_take"] = PyCapsule_New(<void*>_take, PyCapsule_GetName(functions["slab_take"]), NULL)
    functions["slab_grow"] = PyCapsule_New(<void*>_grow, PyCapsule_GetName(functions["slab_grow"]), NULL)
