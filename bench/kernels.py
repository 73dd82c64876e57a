"""Micro benchmarks, by pyperf: the kernels and parsers of the engine alone, called through the tests' shims.

    UWS_SHIMS=1 python setup.py build_ext --inplace && python bench/kernels.py [-o FILE.json] [pyperf's options]

The loops run in C. pyperf calibrates them, runs them in several processes and tells mean and deviation; two files of -o
are compared by `python -m pyperf compare_to OLD NEW`. `--only TEXT` takes those whose names contain it.
What is masked lies six bytes behind a cache line, where a payload lies behind the header of a short frame.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "bench" / "servers")]

try:
    import pyperf
except ModuleNotFoundError:
    raise SystemExit("pyperf is missing: pip install 'unlimitedws[bench]'") from None

import handshakes  # noqa: E402
from documents import DOCUMENTS  # noqa: E402
from uws_shims import deflate_shim, frame_shim, mask_shim, proto_shim, slab_shim, upgrade_shim, utf8_shim  # noqa: E402

KEY = 0x3D21FA37
# What is timed: so many rounds, in ns.
Timer = Callable[[int], float]

TEXTS = {
    "ASCII": "The quick brown fox jumps over the lazy dog. ",
    "Latin": "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. ",
    "Cyrillic": "Съешь же ещё этих мягких французских булок. ",
    "CJK": "我能吞下玻璃而不伤身体。",
    "emoji": "😀🚀🌍🎉",
}
BROWSER = (
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143 Safari/537.36\r\n",
    b"Origin: https://example.org\r\n",
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n",
    b"Accept-Language: en-GB,en;q=0.9\r\n",
    b"Cache-Control: no-cache\r\n",
    b"Pragma: no-cache\r\n",
    b"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n",
)


def cut(text: str, len_bytes: int) -> bytes:
    """Whole characters of the text repeated, at most len_bytes of them."""
    whole = (text * (len_bytes // len(text.encode()) + 1)).encode()[:len_bytes]
    return whole.decode(errors="ignore").encode()


def frames(count: int, len_bytes: int) -> bytes:
    """Masked binary messages of one frame each."""
    if len_bytes < 126:
        head = bytes([0x82, 0x80 | len_bytes])
    elif len_bytes < 1 << 16:
        head = bytes([0x82, 0x80 | 126]) + len_bytes.to_bytes(2, "big")
    else:
        head = bytes([0x82, 0x80 | 127]) + len_bytes.to_bytes(8, "big")
    return (head + KEY.to_bytes(4, "little") + bytes(len_bytes)) * count


def masking() -> Iterator[tuple[str, Timer]]:
    memory = bytearray(1 << 17)
    offset = -mask_shim.misalignment(memory) % 64 + 6
    for size in (5, 32, 126, 1024, 65536):
        yield f"mask {size} B", lambda n, size=size: mask_shim.time_ns(memory, offset, size, KEY, n)


def validating() -> Iterator[tuple[str, Timer]]:
    for name, text in TEXTS.items():
        for size in (32, 1024, 65536):
            data = cut(text, size)
            yield f"utf8 {name} {size} B", lambda n, data=data: utf8_shim.time_ns(data, n)


def decoding() -> Iterator[tuple[str, Timer]]:
    for size in (32, 1024, 65536):
        header = frames(1, size)[:14]
        yield f"frame header, payload {size} B", lambda n, header=header: frame_shim.time_ns(header, n)


def upgrading() -> Iterator[tuple[str, Timer]]:
    upgrade = upgrade_shim.Upgrade()
    for name, head in (("shortest", handshakes.head()), ("a browser's", handshakes.plus(*BROWSER))):
        yield f"upgrade parse, {name}, {len(head)} B", lambda n, head=head: upgrade.time_ns(head, n)[0] * n
        yield f"upgrade parse and answer, {name}", lambda n, head=head: upgrade.time_ns(head, n)[1] * n


def feeding() -> Iterator[tuple[str, Timer]]:
    proto = proto_shim.Proto()
    for count, size in ((1, 32), (16, 32), (128, 32), (1, 1024), (1, 65536)):
        data = frames(count, size)
        yield f"proto feed, {count} x {size} B", lambda n, data=data: proto.time_ns(data, n)


def deflating() -> Iterator[tuple[str, Timer]]:
    deflater, inflater = deflate_shim.Deflater(), deflate_shim.Inflater()
    for documents in DOCUMENTS.values():
        data = documents[0].encode()
        packed = deflater.run(data)
        yield f"deflate {len(data)} B of JSON", lambda n, data=data: deflater.time_ns(data, n)
        yield f"inflate {len(data)} B of JSON", lambda n, packed=packed: inflater.time_ns(packed, n)


def allocating() -> Iterator[tuple[str, Timer]]:
    for size in (64, 256, 4096, 65536):
        yield f"slab take and give, {size} B", lambda n, size=size: slab_shim.time_ns(size, n)


GROUPS = [masking, validating, decoding, upgrading, feeding, deflating, allocating]


def only_in_workers(command: list[str], args: Any) -> None:
    """pyperf starts itself anew for each benchmark: what it does not know of it has to be told to hand on."""
    if args.only:
        command += ["--only", args.only]


def main() -> None:
    runner = pyperf.Runner(processes=5, values=5, warmups=1, min_time=0.02, add_cmdline_args=only_in_workers)
    runner.argparser.add_argument("--only", metavar="TEXT", help="only those whose names contain it")
    only = runner.parse_args().only or ""
    for group in GROUPS:
        for name, timer in group():
            if only in name:
                runner.bench_time_func(name, lambda loops, timer=timer: timer(loops) / 1e9)


if __name__ == "__main__":
    main()
