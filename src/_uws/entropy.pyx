# F1. Unpredictable bytes from the kernel, drawn in bulk. See entropy.pxd.
# The kernel's generator and none of ours: drawn 4 KiB at a time it costs some 10 ns a key, and there is nothing to
# be got wrong about seeds, forks and states that leak.

from libc.errno cimport EINTR, errno
from libc.stdlib cimport abort
from libc.string cimport memset


cdef extern from "compat.h" nogil:
    ssize_t uws_getrandom(void*, size_t, unsigned int)


cdef void entropy_fill(UwsEntropy* e) noexcept nogil:
    cdef size_t have = 0
    cdef ssize_t got
    while have < UWS_ENTROPY_BYTES:
        got = uws_getrandom(e.pool + have, UWS_ENTROPY_BYTES - have, 0)
        if got < 0:
            # Anything but a signal means that the system call is refused. Going on with bytes that anybody can
            # guess would be worse than ending.
            if errno != EINTR:
                abort()
            continue
        have += <size_t>got
    e.left = UWS_ENTROPY_BYTES


cdef void entropy_take(UwsEntropy* e, uint8_t* out, size_t len_bytes) noexcept nogil:
    """Write len_bytes of them to out. Many bytes are as well in order: they are drawn as often as it takes."""
    cdef size_t some
    while len_bytes:
        if e.left == 0:
            entropy_fill(e)
        some = len_bytes if len_bytes < e.left else e.left
        e.left -= <uint32_t>some
        memcpy(out, e.pool + e.left, some)
        out += some
        len_bytes -= some


cdef void entropy_forget(UwsEntropy* e) noexcept nogil:
    memset(e, 0, sizeof(UwsEntropy))
