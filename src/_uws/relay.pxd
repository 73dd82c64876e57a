# F6. Signals on their way to a handler in Python. Owns what has come and has not been handled.


# A handler written in Python is interrupted by the next signal before it has begun, and that one's by the next: a storm
# of them ends where the stack does. This has no frame of Python's to interrupt. What comes while the handler runs only
# takes its place in the line.
cdef class Relay:
    cdef object handler
    cdef list waiting
    cdef bint busy
