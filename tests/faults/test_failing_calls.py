"""Every call of the engine fails, or falls short, in its turn: failing_calls.py's cases, 20,000 of them."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import planted
import pytest
from failing_calls import JOBS, Report, run_all, run_named, run_world
from shim import CALLS, CANNOT_FAIL, SAME, build

CASES = 20_000
ENGINE = Path(__file__).resolve().parents[2] / "src" / "_uws"
# Of the interpreter, of the compiler, and what cannot fail as it takes no more than memory that is there.
NOT_CALLS = ("Py", "_Py", "_ITM_", "__cxa_", "__gmon", "__stack_chk", "__mem", "mem", "str", "_Unwind")

pytestmark = [
    pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="the shim wants a C compiler"),
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the shim replaces what glibc calls so"),
    pytest.mark.skipif(
        "san.so" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer stands between the engine and the shim"
    ),
]


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    return list(run_all(CASES, seed=1, jobs=JOBS, limit_s=600))


def test_whatever_fails_nobody_is_forgotten_and_nothing_accepted_is_lost(reports: list[Report]) -> None:
    assert [what for report in reports for what in report.wrong] == []
    ran, fired = sum(report.ran for report in reports), sum(report.fired for report in reports)
    print(f"{ran} cases were played, in {fired} of them something failed")
    assert fired >= CASES


def test_every_kind_of_call_has_failed(reports: list[Report]) -> None:
    failed: Counter[str] = Counter()
    for report in reports:
        failed.update(report.calls)
    # Calls that only the load generator makes.
    clients = {"bind", "setsockopt", "socket"}
    # Made where a Unix socket is asked who its peer is, where somebody is in the middle of a message while all inboxes
    # are full, and where a long message outgrows a mapping while none that was kept fits. No play brings that about
    # yet.
    not_here = {"getpeername", "ioctl", "mremap"}
    assert CALLS.keys() - failed.keys() - clients - not_here == set()


# What was found so, with its neighbours: which call it was depends on how threads take turns.
FOUND = {
    "no memory for a Conn ended its runner, with the loop locked": [
        f"inline/{play}/python.ENOMEM@{first}*1" for play in ("hello", "paused") for first in range(0, 110, 2)
    ],
    "the same, in a pool": [f"pool/hello/python.ENOMEM@{first}*1" for first in range(60)],
    "no memory for a request ended its runner": [f"asks/hello/python.ENOMEM@{first}*1" for first in range(40)],
    "a send that is forbidden left a connection that nothing ended": [
        f"blank/{play}/send.EACCES@{first}*1" for play in ("hello", "pipelined") for first in range(4)
    ],
    "a message lost for want of memory left its connection open and mute": [
        f"inline/{play}/slab_take.ENOMEM@{first}*{times}"
        for play in ("blocked", "together")
        for first in range(16)
        for times in (1, 3)
    ],
    "no memory for the event of the end, and on_close did not come": [
        f"inline/blocked_and_gone/slab_take.ENOMEM@{first}*{times}" for first in range(16) for times in (1, 3, 1000)
    ],
    "a client waited for its end until there was memory to tell of it": [
        f"guest/{play}/slab_take.ENOMEM@{first}*1000" for play in ("hello", "long_message") for first in range(9)
    ],
    "a server did not stop while there was no memory": [
        f"pool/life_drained/{call}.ENOMEM@{first}*1000" for call in ("mmap", "slab_take") for first in range(12)
    ],
    "epoll had no room for a connection that was to be read again": [
        f"inline/blocked_and_gone/epoll_ctl_add.ENOSPC@{first}*{times}" for first in range(3) for times in (1, 3)
    ],
    "a loop whose watchdog could not be started could not be run again": [
        f"{world}/life/{call}"
        for world in ("inline",)
        for call in ("pthread_create.EAGAIN@0*1", *(f"mmap.ENOMEM@{first}*1" for first in range(9)))
    ],
    "a guest that could not come left its bell": [
        "guest/life/pthread_create.EAGAIN@0*1",
        *(f"guest/life/{call}.ENOMEM@{first}*1" for call in ("mmap", "python") for first in range(9)),
    ],
}


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found_is_mended(what: str) -> None:
    report = run_named(FOUND[what], runs=2)
    assert report.wrong == [] and report.ran == 2 * len(FOUND[what])
    # Or the calls that were meant have become others.
    assert report.fired > 0


def test_a_thread_of_a_pool_for_which_there_is_no_memory_is_missed_by_nobody() -> None:
    program = Path(__file__).with_name("helpless.py")
    environment = {**os.environ, "LD_PRELOAD": str(build()), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("callbacks have to do with fewer threads")


@pytest.mark.skipif(importlib.util.find_spec("Cython") is None, reason="there is no Cython to build one with")
@pytest.mark.parametrize("what", planted.BUGS)
def test_a_bug_that_was_put_in_is_found_and_how_to_see_it_again_is_said(what: str, tmp_path: Path) -> None:
    bug = planted.BUGS[what]
    engine = planted.build(bug, tmp_path)
    more = ["--wrong", "1", "--patience", "2", "--engine", str(engine)]
    report = run_world(bug.world, 0, 1, 300.0, "--play", bug.play, "--every", *more)
    (found,) = report.wrong
    assert bug.shows in found
    case = re.search(r"--case '([^']+)'", found)
    assert case
    # Which of its neighbours it is that fails depends on how threads take turns.
    again = run_named([case[1]], 20, 300.0, *more)
    assert len(again.wrong) == 1 and bug.shows in again.wrong[0]


def imports(module: Path) -> set[str]:
    """What a module imports."""
    listed = subprocess.run(["nm", "-D", "--undefined-only", module], capture_output=True, text=True, check=True)
    return {line.split()[-1].partition("@")[0] for line in listed.stdout.splitlines()}


@pytest.mark.skipif(shutil.which("nm") is None, reason="there is no nm")
def test_what_the_engine_calls_is_made_to_fail_or_cannot() -> None:
    modules = sorted(ENGINE.glob("*.so"))
    assert modules
    known = CALLS.keys() | SAME.keys() | CANNOT_FAIL.keys()
    unknown = {
        name: module.name
        for module in modules
        for name in imports(module)
        if name not in known and not name.startswith(NOT_CALLS)
    }
    assert unknown == {}


@pytest.mark.skipif(shutil.which("nm") is None, reason="there is no nm")
def test_the_shim_stands_in_for_all_that_it_says_it_does() -> None:
    listed = subprocess.run(["nm", "-D", "--defined-only", build()], capture_output=True, text=True, check=True)
    defined = {line.split()[-1] for line in listed.stdout.splitlines()}
    # What stands in for the slab and for the interpreter's allocators has other names; epoll_ctl() is two calls here.
    own = {"slab_take", "slab_grow", "python", "epoll_ctl_mod"}
    assert {name for name in CALLS if name not in own and name not in SAME.values()} <= defined
    assert SAME.keys() <= defined
