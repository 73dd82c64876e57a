from collections.abc import Callable
from types import FrameType

class Relay:
    """Hands signals to a handler one after the other, however fast they come.

    To be set by `signal.signal`. While the handler is at work on one, others wait, the first 16 of them: the rest is
    lost, as signals are. Where it returns False those that wait are forgotten. What it raises comes out of whatever
    the main thread was doing, and those that wait stay for the next one's call.

    Args:
        handler: Gets the number of a signal.

    Thread: the main thread, as all handlers of signals.
    """

    def __init__(self, handler: Callable[[int], object]) -> None: ...
    def __call__(self, number: int, frame: FrameType | None) -> None: ...
