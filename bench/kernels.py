"""GB/s of the kernels that touch every byte: masking and UTF-8 validation.

    UWS_SHIMS=1 python setup.py build_ext --inplace && python bench/kernels.py [--seconds 0.2]

The loop runs in C, inside the tests' shims; the fastest of five runs is shown, with the slowest behind it.
What is masked lies six bytes behind a cache line, where a payload lies behind the header of a short frame.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from uws_shims import mask_shim, utf8_shim  # noqa: E402

RUNS = 5
TEXTS = {
    "ASCII": "The quick brown fox jumps over the lazy dog. ",
    "Latin": "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. ",
    "Cyrillic": "Съешь же ещё этих мягких французских булок. ",
    "CJK": "我能吞下玻璃而不伤身体。",
    "emoji": "😀🚀🌍🎉",
}


def cut(text: str, len_bytes: int) -> bytes:
    """Whole characters of the text repeated, at most len_bytes of them."""
    return (
        (text * (len_bytes // len(text.encode()) + 1)).encode()[:len_bytes].decode(errors="ignore").encode()
    )


def measure(time_ns: Callable[[int], int], len_bytes: int, seconds: float) -> str:
    rounds = 100
    while (elapsed := time_ns(rounds)) < 2_000_000:
        rounds *= 4
    rounds = max(1, int(rounds * seconds / RUNS * 1e9 / elapsed))
    times = sorted(time_ns(rounds) for _ in range(RUNS))
    best, worst = (len_bytes * rounds / ns for ns in (times[0], times[-1]))
    return f"{best:7.2f} GB/s  (slowest {worst:.2f})  {times[0] / rounds:9.1f} ns"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.2, help="per line")
    seconds = parser.parse_args().seconds
    memory = bytearray(1 << 17)
    offset = -mask_shim.misalignment(memory) % 64 + 6
    for size in (5, 32, 126, 1024, 65536):
        line = measure(
            lambda n, size=size: mask_shim.time_ns(memory, offset, size, 0x3D21FA37, n), size, seconds
        )
        print(f"mask  {size:6} B           {line}")
    for name, text in TEXTS.items():
        for size in (32, 1024, 65536):
            data = cut(text, size)
            line = measure(lambda n, data=data: utf8_shim.time_ns(data, n), len(data), seconds)
            print(f"utf8  {len(data):6} B {name:9} {line}")


if __name__ == "__main__":
    main()
