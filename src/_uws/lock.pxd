# F6. The lock of a loop, for those who have the GIL. Used by every file of this floor.

from _uws.state cimport UwsLoop, pthread_mutex_lock, pthread_mutex_trylock, pthread_mutex_unlock


cdef inline void conn_lock(UwsLoop* l) noexcept:
    """Take the loop's lock with the GIL held; let go of the GIL while somebody else has the lock.

    It is taken a second time, by trying, once the GIL is back: waiting for the GIL with the lock held would be a
    deadlock with whoever waits for the lock with the GIL held, as Conn.__dealloc__ has to."""
    while pthread_mutex_trylock(&l.lock) != 0:
        with nogil:
            pthread_mutex_lock(&l.lock)
            pthread_mutex_unlock(&l.lock)


cdef inline void conn_unlock(UwsLoop* l) noexcept nogil:
    pthread_mutex_unlock(&l.lock)
