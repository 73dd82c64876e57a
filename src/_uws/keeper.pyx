# F5. See keeper.pxd.

from libc.stdint cimport uint8_t
from libc.string cimport memset

from _uws.slot cimport conn_at, loop_nudge
from _uws.sock cimport sock_local, sock_peer
from _uws.state cimport (
    UWS_TOLD_TEND,
    UwsAsk,
    pthread_cond_broadcast,
    pthread_cond_t,
    pthread_mutex_t,
)

cdef extern from "pthread.h" nogil:
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*)


cdef void keeper_tell(UwsLoop* l, int what) noexcept nogil:
    """Leave it to the keeper (UwsTold). One that has not come yet finds it when it comes."""
    l.told |= <uint8_t>what
    loop_nudge(l)


cdef void keeper_wait(UwsLoop* l) noexcept nogil:
    """Until the keeper has been through what it was told, or something else has happened: the caller looks again. Lets
    go of the lock meanwhile. The keeper waits for nobody, so this takes no longer than a turn."""
    l.waiting += 1
    pthread_cond_wait(&l.wait_cond, &l.lock)
    l.waiting -= 1


cdef void keeper_tend(UwsLoop* l) noexcept nogil:
    """Have the keeper see to it that all queues together hold less, and wait for it. Any slot may be free
    afterwards."""
    keeper_tell(l, UWS_TOLD_TEND)
    while l.kept and l.told & UWS_TOLD_TEND:
        keeper_wait(l)


cdef void keeper_addresses(UwsLoop* l, int32_t index, uint32_t generation, sockaddr_storage* peer,
                           sockaddr_storage* local) noexcept nogil:
    """Have the keeper ask the kernel for a connection's addresses, and wait for them. Zero where it is over."""
    cdef UwsAsk ask
    memset(peer, 0, sizeof(sockaddr_storage))
    memset(local, 0, sizeof(sockaddr_storage))
    if not l.kept or conn_at(l, index, generation) == NULL:
        return
    ask.index = index
    ask.generation = generation
    ask.peer = peer
    ask.local = local
    ask.done = False
    ask.next = l.asks
    l.asks = &ask
    loop_nudge(l)
    while not ask.done:
        keeper_wait(l)


cdef void keeper_answer(UwsLoop* l) noexcept nogil:
    """Give those who ask their addresses."""
    cdef UwsAsk* ask = l.asks
    l.asks = NULL
    while ask != NULL:
        if l.kept and conn_at(l, ask.index, ask.generation) != NULL:
            sock_peer(ask.index, ask.peer)
            sock_local(ask.index, ask.local)
        ask.done = True
        ask = ask.next


cdef void keeper_is_through(UwsLoop* l) noexcept nogil:
    """Everything queued has been offered to the kernel, and what was told has been done."""
    l.rounds += 1
    if l.waiting != 0:
        pthread_cond_broadcast(&l.wait_cond)
