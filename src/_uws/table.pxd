# F4. A descriptor table of a thread's own: RLIMIT_NOFILE counts in each. Owns nothing; called by the thread that is to
# have it, without any lock.

cdef extern from "sys/resource.h" nogil:
    ctypedef unsigned long rlim_t
    cdef struct rlimit:
        rlim_t rlim_cur
        rlim_t rlim_max
    cdef enum:
        RLIMIT_NOFILE
    int getrlimit(int, rlimit*)

cdef int table_leave(const int* keep, int n) noexcept nogil
cdef void table_empty() noexcept nogil
