"""Builds the engine with AddressSanitizer and UndefinedBehaviorSanitizer and runs the tests; fails where one reports.

    python tools/asan.py [--jobs N] [--build-only] [tests, and arguments for pytest]     by default all but UNFIT

Of the slab the sanitizer is told which bytes are nobody's (src/_uws/c/poison.h): what is written behind a block, or
into one that was given back, is found as with malloc. The build keeps the engine's own assertions (UWS_DEBUG), and
signed overflow is an error in it (-fno-wrapv), not arithmetic. Before the tests it is made sure that each kind of
error is reported, in a process and in its child.

The interpreter is an ordinary one, and so is what else it loads. So of what leaks only that counts which our code
itself, or zlib, asked the C library for; Python's objects are counted by the tests (tests/conftest.py), and so is
what comes from the slab. Reports, of whatever process, end up in build/asan/reports.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from sanitizing import Sanitizer, compile_probe, main, watched
from sources import ROOT, runtime

HOME = ROOT / "build" / "asan"
SANITIZERS = "address,undefined,float-cast-overflow"

# What these look at the sanitizer itself takes, or changes.
UNFIT = {
    name: reason
    for reason, names in {
        "resident memory": (
            *(
                f"tests/engine/test_slab.py::test_{name}"
                for name in (
                    "what_is_kept_for_nobody_has_no_pages",
                    "a_burst_leaves_the_resident_set_as_it_was",
                    "destroying_unmaps_live_blocks",
                )
            ),
            "tests/engine/test_deflate.py::test_the_kernel_agrees_on_what_a_bomb_costs",
            "tests/engine/test_memory.py::test_the_account_is_the_kernels",
            "tests/wire/test_streaming.py::test_100_mib_pass_through_8_mib",
            "tests/test_scale.py::test_a_hundred_thousand_connections_echo_in_one_process",
        ),
        "the C library's heaps": (
            "tests/abuse/test_soak.py::test_connections_of_every_kind_come_and_go_and_it_is_counted_what_stays",
        ),
        "address space": (
            "tests/library/doctor/test_remedies.py::test_shells_take_the_commands",
            "tests/library/doctor/test_rules.py"
            "::test_server_starts_in_the_address_space_that_is_said_and_not_without_its_table",
        ),
        "valgrind": (
            "tests/test_instructions.py::test_two_counts_are_the_same",
            "tests/test_instructions.py::test_what_is_done_once_for_sixteen_counts_a_sixteenth",
            "tests/test_instructions.py::test_pings_of_idle_connections_come_when_they_are_due",
            "tests/test_instructions.py::test_whatever_runs_is_known_to_be_hot",
        ),
    }.items()
    for name in names
}
OPTIONS = {
    # A child that leaks as Python does must exit with what it exits with. The reports are what counts here.
    "exitcode": "0",
    "detect_leaks": "1",
    # Tests want to see MemoryError.
    "allocator_may_return_null": "1",
    "quarantine_size_mb": "64",
    "malloc_context_size": "12",
    # faulthandler's, where a test has it on.
    "allow_user_segv_handler": "1",
}
UNDEFINED = {"print_stacktrace": "1"}
LEAKS = {"print_suppressions": "0"}

OURS = re.compile(r"\b_uws/|\buws_shims/|probe\.c|src/_uws/")
# Its callers cannot be told from a stack of frames without pointers; the interpreter's own zlib does not leak.
ZLIB = re.compile(r"\blibz(?:-ng)?\b|\bzlib\b")
# What it says before a process has a second stack, as the simulation's has, and when it ends on that: no error.
STACKS = re.compile(
    r"^==\d+==WARNING: ASan (?:doesn't fully support makecontext/swapcontext .*"
    r"|is ignoring requested __asan_handle_no_return: .*\nFalse positive error reports may follow\nFor details .*)$",
    re.MULTILINE,
)
LEAK = re.compile(r"^(?:Direct|Indirect) leak of .*?(?=^\s*$)", re.MULTILINE | re.DOTALL)
FRAME = re.compile(r"^\s+#\d+ .*$", re.MULTILINE)

# gcc's libubsan has a stream of reports of its own, but finds the function that opens it by its name, and so opens
# that of libasan, which came first. This asks for libubsan's by its library.
STREAM = """\
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void begin(void)
{
    void *library = dlopen(LIBUBSAN, RTLD_NOW | RTLD_LOCAL);
    void (*set_path)(const char *) = NULL;
    if (library != NULL)
        *(void **)&set_path = dlsym(library, "__sanitizer_set_report_path");
    if (set_path == NULL) {
        fprintf(stderr, "libubsan: %s\\n", dlerror());
        abort();
    }
    set_path(getenv("UWS_UBSAN_REPORTS"));
}
"""
PROBE = """\
#include <stdlib.h>
int over(int i) { volatile char *p = malloc(16); p[i] = 1; int got = p[i]; free((void *)p); return got; }
int sum(int a, int b) { return a + b; }
int lose(int n) { volatile char *p = malloc((size_t)n); p[0] = 1; return p[0]; }
int keep(int n) { static void *kept; kept = malloc((size_t)n); return kept != NULL; }
"""
# In this process, or in one that it starts.
PROBING = """
import ctypes, subprocess, sys
if sys.argv[1] == "child":
    sys.exit(subprocess.run([sys.executable, *sys.orig_argv[1:3], *sys.argv[2:]]).returncode)
getattr(ctypes.CDLL(sys.argv[1]), sys.argv[2])(*map(int, sys.argv[3:]))
"""


def _stream(compiler: str) -> Path:
    """Build STREAM."""
    source, library = HOME / "stream.c", HOME / "stream.so"
    source.write_text(STREAM)
    command = [compiler, "-O1", "-fPIC", "-shared", f'-DLIBUBSAN="{runtime("ubsan")}"', str(source), "-o", str(library)]
    # Who throws in C++, in some extension of others', would end the process if libstdc++ came with that extension.
    subprocess.run([*command, "-ldl", "-Wl,--no-as-needed", "-l:libstdc++.so.6"], check=True)
    return library


def environment(reports: Path) -> dict[str, str]:
    """What a process has to be started with to be watched; it passes that on to those that it starts."""

    def said(options: dict[str, str], **more: str) -> str:
        return ":".join(f"{name}={value}" for name, value in {**options, **more}.items())

    return {
        **os.environ,
        "LD_PRELOAD": f"{runtime('asan')} {HOME / 'stream.so'}",
        "ASAN_OPTIONS": said(OPTIONS, log_path=str(reports / "address")),
        # The same path: where libubsan is loaded late it is libasan's that it sets.
        "UBSAN_OPTIONS": said(UNDEFINED, log_path=str(reports / "address")),
        "UWS_UBSAN_REPORTS": str(reports / "undefined"),
        "LSAN_OPTIONS": said(LEAKS),
        # An object of Python's is a block of its own then.
        "PYTHONMALLOC": "malloc",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _is_our_leak(leak: str) -> bool:
    """Whether our code, or zlib, asked for it: below the sanitizer's malloc it is the first."""
    frames = [frame for frame in FRAME.findall(leak) if "libsanitizer" not in frame and "libasan" not in frame]
    return bool(frames) and bool(OURS.search(frames[0]) or ZLIB.search(frames[0]))


def found(reports: Path) -> tuple[list[str], list[str]]:
    """(reports on our code, others' leaks)."""
    ours, others = [], []
    for path in sorted(reports.iterdir()):
        text = STACKS.sub("", path.read_text(errors="replace")).strip()
        if "LeakSanitizer: detected memory leaks" not in text:
            ours += [text] if text else []
            continue
        # Before the leaks, at the process's end, there may be something else.
        before, _, leaks = text.partition("LeakSanitizer: detected memory leaks")
        if FRAME.search(before):
            ours.append(before)
        for leak in LEAK.findall(leaks):
            (ours if _is_our_leak(leak) else others).append(leak)
    return ours, others


def probe(compiler: str = "gcc") -> None:
    """Make sure that an overrun, an overflow and a leak are reported once, and nothing else is."""
    place = HOME / "probe"
    module = compile_probe(place, PROBE, [f"-fsanitize={SANITIZERS}", "-fno-wrapv"], compiler)
    _stream(compiler)
    calls = {
        "over 15": 0,
        "over 16": 1,
        "sum 2147483646 1": 0,
        "sum 2147483647 1": 1,
        "keep 12345": 0,
        "lose 12345": 1,
    }
    for call, n_errors in calls.items():
        for who in ([], ["child"]):
            reports = place / "-".join([*call.split(), *who])
            watched([sys.executable, "-c", PROBING, *who, str(module), *call.split()], environment, reports)
            ours, _ = found(reports)
            if len(ours) != n_errors:
                print("\n".join(ours))
                raise SystemExit(f"the sanitizers are not to be relied on here: {call}, {who}, {len(ours)} reports")


ASAN = Sanitizer(
    home=HOME,
    description="The tests under AddressSanitizer, UndefinedBehaviorSanitizer and LeakSanitizer.",
    python=[sys.executable, "-m", "pytest"],
    environment=environment,
    found=found,
    building={"UWS_SANITIZE": SANITIZERS, "UWS_DEBUG": "1"},
    tests=["tests"],
    unfit=UNFIT,
)

if __name__ == "__main__":
    sys.exit(main(ASAN, probe))
