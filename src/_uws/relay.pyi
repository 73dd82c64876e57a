from collections.abc import Callable
from types import FrameType

from typing_extensions import Self, disjoint_base

@disjoint_base
class Relay:
    """Hands signals to a handler one after the other, however fast they come.

    To be set by `signal.signal`. While the handler is at work on one, others wait, the first 16 of them: the rest is
    lost, as signals are. Where it returns False those that wait are forgotten. What it raises comes out of whatever
    the main thread was doing, and those that wait stay for the next one's call.

    Args:
        handler: Gets the number of a signal.

    Thread: the main thread, as all handlers of signals.
    """

    def __new__(cls, handler: Callable[[int], object]) -> Self: ...
    def __call__(self, number: int, frame: FrameType | None) -> None: ...
