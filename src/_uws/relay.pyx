# F6. See relay.pxd.

cdef enum:
    MAX_WAITING = 16


cdef class Relay:
    """Hands signals to a handler one after the other, however fast they come. See relay.pyi."""

    def __cinit__(self, handler):
        self.handler = handler
        self.waiting = []

    def __call__(self, number, frame):
        if len(self.waiting) < MAX_WAITING:
            self.waiting.append(number)
        if self.busy:
            return
        self.busy = True
        try:
            while self.waiting:
                if self.handler(self.waiting.pop(0)) is False:
                    self.waiting.clear()
        finally:
            self.busy = False
