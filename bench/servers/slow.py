"""What the callbacks of bench/isolation.py do, by the first byte of a message: E nothing, S sleep, C compute."""

import time

SLOW_S = 0.1


def compute(seconds: float) -> None:
    """Compute in pure Python for so long a time of this thread's own, whoever else has the core meanwhile."""
    end = time.thread_time() + seconds
    x = 1
    while time.thread_time() < end:
        for _ in range(1000):
            x = (x * 1103515245 + 12345) & 0x7FFFFFFF


def work(message: bytes) -> None:
    kind = message[:1]
    if kind == b"S":
        time.sleep(SLOW_S)
    elif kind == b"C":
        compute(SLOW_S)
