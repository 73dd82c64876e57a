# Window of the tests onto _uws.keeper: what another thread tells it, where nothing in the library would.
# Imported by tests/engine/test_keeper.py only.

from libc.stdint cimport uint32_t

from _uws.core cimport Loop
from _uws.keeper cimport keeper_tell, keeper_tend
from _uws.lock cimport conn_lock, conn_unlock
from _uws.slot cimport loop_foreign
from _uws.state cimport (
    UWS_F_IN_OFF, UWS_F_PAUSED, UWS_S_OPEN, UWS_TOLD_SWEEP, pthread_mutex_lock, pthread_mutex_unlock,
)


def is_foreign(Loop loop):
    """loop_foreign() of this thread."""
    return bool(loop_foreign(loop.l))


def is_kept(Loop loop):
    """Whether the keeper is at work."""
    return bool(loop.l.kept)


def index_of_open(Loop loop):
    """The slot of the one connection that is open."""
    cdef list found = []
    cdef uint32_t i
    for i in range(loop.l.table_top):
        if loop.l.table[i].state == UWS_S_OPEN:
            found.append(i)
    assert len(found) == 1
    return found[0]


def set_paused(Loop loop, int index, bint paused):
    """Change what is wanted of a descriptor, as where there was no memory to say whose, and tell the keeper."""
    conn_lock(loop.l)
    if paused:
        loop.l.table[index].flags |= UWS_F_PAUSED
    else:
        loop.l.table[index].flags &= ~UWS_F_PAUSED
    keeper_tell(loop.l, UWS_TOLD_SWEEP)
    conn_unlock(loop.l)


def is_read(Loop loop, int index):
    """Whether epoll is asked for what a connection sends."""
    conn_lock(loop.l)
    cdef bint reads = not (loop.l.table[index].flags & UWS_F_IN_OFF)
    conn_unlock(loop.l)
    return bool(reads)


def tend(Loop loop):
    """keeper_tend(): returns when it has been done."""
    with nogil:
        pthread_mutex_lock(&loop.l.lock)
        keeper_tend(loop.l)
        pthread_mutex_unlock(&loop.l.lock)
