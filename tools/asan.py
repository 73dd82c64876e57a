"""Builds the engine with AddressSanitizer and UndefinedBehaviorSanitizer and runs the tests; fails where one reports.

    python tools/asan.py [--jobs N] [--build-only] [arguments for pytest]      by default all tests but those of UNFIT

Of the slab the sanitizer is told which bytes are nobody's (src/_uws/c/poison.h): what is written behind a block, or
into one that was given back, is found as with malloc. The build keeps the engine's own assertions (UWS_DEBUG), and
signed overflow is an error in it (-fno-wrapv), not arithmetic. Before the tests it is made sure that each kind of
error is reported.

The interpreter is an ordinary one, and frees little of what it has made when it ends. So of what leaks only that
counts which our code itself, or zlib for it, asked the C library for; objects of Python's are counted by the tests
(tests/conftest.py), and so is what comes from the slab. Reports end up in build/asan/reports.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from sources import ROOT, build, renew, runtime

HOME = ROOT / "build" / "asan"
TREE = HOME / "tree"
REPORTS = HOME / "reports"
SANITIZERS = "address,undefined"

# What the sanitizer itself changes is what these look at: address space and memory, the number of instructions, the
# stack of a thread, how long something takes.
UNFIT = [
    "tests/test_instructions.py",
    "tests/test_bench_report.py",
    "tests/test_liveness_bench.py",
    "tests/test_scale.py",
    "tests/engine/test_hot_path.py",
    "tests/engine/test_memory.py",
    "tests/peers",
    "tests/conformance",
]
OPTIONS = {
    # A child that leaks as Python does must exit with what it exits with. The reports are what counts here.
    "exitcode": "0",
    "detect_leaks": "1",
    # Tests want to see MemoryError.
    "allocator_may_return_null": "1",
    "quarantine_size_mb": "64",
    "malloc_context_size": "12",
    "detect_stack_use_after_return": "0",
    # faulthandler's, where a test has it on.
    "allow_user_segv_handler": "1",
}
UNDEFINED = {"print_stacktrace": "1"}
LEAKS = {"print_suppressions": "0"}

OURS = re.compile(r"\b_uws/|\buws_shims/|probe\.c|src/_uws/")
# What stands between our call and the sanitizer's malloc: the sanitizer, and zlib.
BETWEEN = re.compile(r"libasan|libz\b|libz[.-]|zlib")
LEAK = re.compile(r"^(?:Direct|Indirect) leak of .*?(?=^\s*$)", re.MULTILINE | re.DOTALL)
FRAME = re.compile(r"^\s+#\d+ .*$", re.MULTILINE)

PROBE = """\
#include <limits.h>
#include <stdlib.h>
int over(int i) { volatile char *p = malloc(16); p[i] = 1; int got = p[i]; free((void *)p); return got; }
int sum(int a, int b) { return a + b; }
int lose(int n) { volatile char *p = malloc((size_t)n); p[0] = 1; return p[0]; }
"""
PROBING = """
import ctypes, sys
probe = ctypes.CDLL(sys.argv[1])
getattr(probe, sys.argv[2])(*map(int, sys.argv[3:]))
"""


def environment(reports: Path) -> dict[str, str]:
    """What a process has to be started with to be watched; it passes that on to those that it starts."""

    def said(options: dict[str, str], **more: str) -> str:
        return ":".join(f"{name}={value}" for name, value in {**options, **more}.items())

    return {
        **os.environ,
        "LD_PRELOAD": str(runtime("asan")),
        "ASAN_OPTIONS": said(OPTIONS, log_path=str(reports / "address")),
        "UBSAN_OPTIONS": said(UNDEFINED, log_path=str(reports / "undefined")),
        "LSAN_OPTIONS": said(LEAKS),
        # An object of Python's is a block of its own then.
        "PYTHONMALLOC": "malloc",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def watched(command: list[str], reports: Path, **more: Path) -> int:
    """Run a command under the sanitizers."""
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    return subprocess.run(command, env=environment(reports), **more).returncode


def _is_our_leak(leak: str) -> bool:
    """Whether our code asked for it: is the first who is neither the sanitizer nor zlib one of ours?"""
    frames = (frame for frame in FRAME.findall(leak) if not BETWEEN.search(frame))
    return bool(OURS.search(next(frames, "")))


def found(reports: Path) -> tuple[list[str], int]:
    """(reports on our code, how many leaks are others')."""
    ours, others = [], 0
    for path in sorted(reports.iterdir()):
        text = path.read_text(errors="replace")
        if "LeakSanitizer: detected memory leaks" not in text:
            ours.append(text)
            continue
        for leak in LEAK.findall(text):
            if _is_our_leak(leak):
                ours.append(leak)
            else:
                others += 1
    return ours, others


def probe(compiler: str = "gcc") -> None:
    """Make sure that an overrun, an overflow and a leak are reported, and nothing else is."""
    place = HOME / "probe"
    place.mkdir(parents=True, exist_ok=True)
    source, module = place / "probe.c", place / "probe.so"
    source.write_text(PROBE)
    command = [compiler, "-g", "-O0", f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=undefined", "-fPIC", "-shared"]
    subprocess.run([*command, str(source), "-o", str(module)], check=True)
    calls = {
        "over 15": False,
        "over 16": True,
        "sum 2147483646 1": False,
        "sum 2147483647 1": True,
        "lose 12345": True,
    }
    for call, is_error in calls.items():
        reports = place / call.replace(" ", "-")
        watched([sys.executable, "-c", PROBING, str(module), *call.split()], reports)
        ours, _ = found(reports)
        if bool(ours) != is_error:
            print("\n".join(ours))
            raise SystemExit(f"the sanitizers are not to be relied on here: {call}, {len(ours)} reports")


def main() -> int:
    parser = argparse.ArgumentParser(description="The tests under AddressSanitizer and UndefinedBehaviorSanitizer.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="of the build")
    parser.add_argument("--build-only", action="store_true")
    args, pytest = parser.parse_known_args()
    probe()
    renew(TREE)
    build(sys.executable, TREE, args.jobs, UWS_SANITIZE=SANITIZERS, UWS_DEBUG="1")
    if args.build_only:
        return 0
    usual = ["-q", "tests", *(f"--{'deselect' if '::' in name else 'ignore'}={name}" for name in UNFIT)]
    status = watched([sys.executable, "-m", "pytest", *(pytest or usual)], REPORTS, cwd=TREE)
    ours, others = found(REPORTS)
    for report in ours:
        print(report, end="\n\n")
    print(f"sanitizers: {len(ours)} reports on our code (build/asan/reports); {others} leaks of the interpreter's")
    return 1 if ours or status != 0 else 0


if __name__ == "__main__":
    sys.exit(main())
