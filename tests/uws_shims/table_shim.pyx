# Window of the tests onto _uws.table. Imported by tests/engine/test_table.py only.

from libc.errno cimport errno

from _uws.errs cimport UWS_OK
from _uws.table cimport table_empty, table_leave


def leave(list kept):
    """table_leave() of this thread."""
    cdef int[32] numbers
    cdef int i, n = len(kept)
    assert n <= 32
    for i in range(n):
        numbers[i] = kept[i]
    if table_leave(numbers, n) != UWS_OK:
        raise OSError(errno, "table_leave")


def empty():
    """table_empty() of this thread."""
    table_empty()
