"""Builds the engine with ThreadSanitizer and runs the tests that have threads; fails where a report names our code.

    python tools/tsan.py [--jobs N] [--build-only] [tests, and arguments for pytest]      by default THREADED

The interpreter is an ordinary one, and so is what else it loads: ThreadSanitizer sees our code, and of the others what
they ask of the C library. That is enough to see who waited for whom: the GIL is handed over with a mutex and a
condition. Before the tests it is made sure of that, and that a race would be reported.

Reports end up in build/tsan/reports.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

from sanitizing import Sanitizer, compile_probe, main, watched
from sources import ROOT, runtime

HOME = ROOT / "build" / "tsan"

# What has threads that send, answer, close, take over from one another, start and stop.
THREADED = [
    *(f"tests/engine/test_{name}.py" for name in ("conn", "core", "deliver", "exchange", "post", "role", "tend")),
    *(f"tests/engine/test_{name}.py" for name in ("hold", "settle")),
    *(f"tests/library/test_{name}.py" for name in ("door", "pool", "private_fds", "server_api")),
    *(f"tests/wire/test_{name}.py" for name in ("api_behaviour", "backpressure", "hooks", "many_at_once", "streaming")),
    "tests/faults",
]
# What the sanitizer itself has, or takes, is what these look at.
UNFIT = {
    "tests/wire/test_streaming.py::test_100_mib_pass_through_8_mib": "a process's memory",
}
OPTIONS = {
    "halt_on_error": "0",
    # Tests look at what their programs exit with, and read what they say. The reports are what counts here.
    "exitcode": "0",
    # How far back a report may look for the other one's stack.
    "history_size": "5",
    "second_deadlock_stack": "1",
    # Whoever forks while there are threads is left alone; the tests of fork() do so on purpose.
    "die_after_fork": "0",
    # The interpreter's own handler of signals allocates nothing, but is not made of our code either.
    "report_signal_unsafe": "0",
}
# It wants its own places in memory, where a random one may be.
FIXED = ["setarch", platform.machine(), "--addr-no-randomize"]
# The file of the reports is opened by the first of them: to a test that counts descriptors, a leak of its own.
BEGIN = """
import ctypes, os, sys
name = dict(pair.split("=") for pair in os.environ["TSAN_OPTIONS"].split())["log_path"] + ".pytest"
fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
ctypes.CDLL(None).__sanitizer_set_report_fd(ctypes.c_void_p(fd))
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""
# By their paths, and by the modules where a frame has none.
OURS = re.compile(r"\b_uws/|\buws_shims/|probe\.c")
# Of a child that fork() made: its threads are not those whose numbers they have, and it has been told nothing of that.
CHILD = re.compile(r"^==\d+==ThreadSanitizer: dup thread with used id .*$", re.MULTILINE)
# Of its parent's reports, too.
COUNT = re.compile(r"^ThreadSanitizer: reported \d+ warnings$", re.MULTILINE)
# Who did what. Below it stands who made the threads, the locks and the memory.
ACCESSES = re.compile(r".*?(?=^  (?:Location|Thread T|Mutex|As if)|^SUMMARY)", re.MULTILINE | re.DOTALL)
# A keeper has a table of descriptors of its own (private_fds). The sanitizer knows of one for all threads, and takes
# what has the same number in two of them for one descriptor.
TABLES = re.compile(r"Location is file descriptor")
KEEPER = re.compile(r"role__keep")
REPORT = re.compile(r"^WARNING: ThreadSanitizer: .*?^SUMMARY: ThreadSanitizer: .*?$", re.MULTILINE | re.DOTALL)

PROBE = """\
int word;
void write_it(void) { for (int i = 0; i < 1000; i++) word++; }
"""
# Two threads write the same word: with the GIL, and without it. CDLL lets go of the GIL, PyDLL does not.
PROBING = """
import ctypes, sys, threading
sys.setswitchinterval(1e-5)
probe = getattr(ctypes, sys.argv[1])(sys.argv[2])
meet = threading.Barrier(2)

def write():
    meet.wait()
    for _ in range(1000):
        probe.write_it()

threads = [threading.Thread(target=write) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def environment(reports: Path) -> dict[str, str]:
    """What a process has to be started with to be watched; it passes that on to those that it starts."""
    options = {**OPTIONS, "log_path": str(reports / "report")}
    return {
        **os.environ,
        "LD_PRELOAD": str(runtime("tsan")),
        "TSAN_OPTIONS": " ".join(f"{name}={value}" for name, value in options.items()),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def found(reports: Path) -> tuple[list[str], list[str]]:
    """(reports on our code, others)."""
    ours, others = [], []
    for path in sorted(reports.iterdir()):
        text = COUNT.sub("", CHILD.sub("", path.read_text(errors="replace"))).strip()
        each = REPORT.findall(text)
        if text and not each:
            # It has something to say about itself: it could not map its memory, say.
            ours.append(text)
        for report in each:
            accesses = ACCESSES.search(report)[0]
            of_tables = TABLES.search(report) and KEEPER.search(accesses)
            (ours if OURS.search(accesses) and not of_tables else others).append(report)
    return ours, others


def probe(compiler: str = "gcc") -> None:
    """Make sure that a race is reported, and that what the GIL keeps in order is none."""
    place = HOME / "probe"
    module = compile_probe(place, PROBE, ["-fsanitize=thread"], compiler)
    for kind, is_race in (("CDLL", True), ("PyDLL", False)):
        reports = place / kind
        status = watched([*FIXED, sys.executable, "-c", PROBING, kind, str(module)], environment, reports)
        ours, _ = found(reports)
        if status != 0 or bool(ours) != is_race:
            print("\n".join(ours))
            raise SystemExit(
                f"ThreadSanitizer is not to be relied on here: {kind}, status {status}, {len(ours)} reports"
            )


TSAN = Sanitizer(
    home=HOME,
    description="The threaded tests under ThreadSanitizer.",
    python=[*FIXED, sys.executable, "-c", BEGIN],
    environment=environment,
    found=found,
    building={"UWS_SANITIZE": "thread"},
    tests=THREADED,
    unfit=UNFIT,
    # After a fork() among threads the sanitizer itself may crash in the child.
    arguments=["-k", "not fork and not child"],
)

if __name__ == "__main__":
    sys.exit(main(TSAN, probe))
