# The application of a simulated run: callbacks, and what other threads do to connections, as conn.pyx and dispatch.pyx
# do it for Python. It knows what each client says, and in which order.

from _uws.deliver cimport UwsDelivery
from uws_shims.simpeer_shim cimport Peer
from uws_shims.simworld cimport World

# One callback of a delivery. False: there is none left, and the delivery is done.
cdef bint app_step(World* w, UwsDelivery* d) noexcept nogil

# d: by a callback of the connection; NULL: by another thread.
cdef void app_send(World* w, Peer* p, UwsDelivery* d) noexcept nogil
cdef void app_act(World* w, Peer* p, UwsDelivery* d) noexcept nogil

cdef void app_answer(World* w, Peer* p) noexcept nogil
cdef void app_resume(World* w, Peer* p) noexcept nogil
