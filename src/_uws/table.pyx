# F4. See table.pxd.

from libc.errno cimport EINTR, errno
from posix.fcntl cimport O_CLOEXEC, O_RDWR, open as c_open
from posix.unistd cimport close

from _uws.errs cimport UWS_E_SYS, UWS_OK

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <sched.h>
    #include <sys/resource.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    /* The same number on every architecture; the C library may be older than the kernel (5.9). */
    #ifndef SYS_close_range
    #define SYS_close_range 436
    #endif
    #define UWS_CLOSE_RANGE_UNSHARE (1U << 1)
    #ifndef CLONE_FILES
    #define CLONE_FILES 0x00000400
    #endif
    static int uws_close_range(unsigned first, unsigned last, unsigned flags)
    {
        return (int)syscall(SYS_close_range, first, last, flags);
    }
    /* Through syscall(), as the C library declares unshare() only where the sources ask for everything. */
    static int uws_unshare_files(void)
    {
        return (int)syscall(SYS_unshare, CLONE_FILES);
    }
    """
    const unsigned int UWS_CLOSE_RANGE_UNSHARE
    int uws_close_range(unsigned int, unsigned int, unsigned int)
    int uws_unshare_files()

cdef enum:
    STDERR = 2
    LAST = 0xFFFFFFFF


cdef void _close(unsigned int first, unsigned int last) noexcept nogil:
    """Close what there is from first to last."""
    cdef rlimit files
    cdef unsigned int fd
    if first > last or uws_close_range(first, last, 0) == 0:
        return
    # A kernel before 5.9. Above the limit there may be some from before it was lowered, but not of a table this young.
    if getrlimit(RLIMIT_NOFILE, &files) == 0 and files.rlim_max <= last:
        last = <unsigned int>files.rlim_max
    fd = first
    while fd <= last:
        close(<int>fd)
        fd += 1


cdef int table_leave(const int* keep, int n) noexcept nogil:
    """Give the calling thread a table of its own: with the descriptors of keep (each once), under their numbers, with
    stderr, and with /dev/null for the other two of the first three. Whatever else the process has open stays out of it,
    and is gone when the process closes it.

    Returns UWS_OK or UWS_E_SYS (errno says why); then the thread may have a table of its own already.
    """
    cdef int highest = STDERR, fd, k, next_fd
    for k in range(n):
        if keep[k] > highest:
            highest = keep[k]
    # One system call takes the table and leaves behind what is above. Where it is unknown (before 5.9), or a sandbox
    # allows only the older one, it takes two.
    if uws_close_range(<unsigned int>highest + 1, LAST, UWS_CLOSE_RANGE_UNSHARE) != 0:
        if uws_unshare_files() != 0:
            return UWS_E_SYS
        _close(<unsigned int>highest + 1, LAST)
    fd = 0
    while fd <= highest:
        # The next one to be kept, from fd on.
        next_fd = highest + 1 if fd > STDERR else STDERR
        for k in range(n):
            if fd <= keep[k] < next_fd:
                next_fd = keep[k]
        if next_fd > fd:
            _close(<unsigned int>fd, <unsigned int>next_fd - 1)
        fd = next_fd + 1
    # A connection must not get the number of stderr, to which the C library writes its last words, nor that of stdin or
    # stdout.
    while True:
        fd = c_open("/dev/null", O_RDWR | O_CLOEXEC)
        if fd > STDERR:
            close(fd)
            return UWS_OK
        if fd < 0 and errno != EINTR:
            return UWS_E_SYS


cdef void table_empty() noexcept nogil:
    """Close all that the calling thread's table has, which is its own. The kernel does so as well when the thread ends,
    but whoever joins it may be faster."""
    _close(0, LAST)
