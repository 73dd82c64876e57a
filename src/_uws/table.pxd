# F4. A descriptor table of a thread's own: RLIMIT_NOFILE counts in each. Owns nothing; called by the thread that is to
# have it, without any lock.

cdef int table_leave(const int* keep, int n) noexcept nogil
cdef void table_empty() noexcept nogil
