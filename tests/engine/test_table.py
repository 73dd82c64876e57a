"""table: a thread takes what it needs of the process's descriptors along, and nothing else is shared from then on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from forbidding import possible, run_alone
from raw import TIMEOUT
from uws_shims.table_shim import empty, leave

pytestmark = pytest.mark.usefixtures("no_fd_leaks")


def in_a_thread(work: Callable[[], Any]) -> Any:
    """Return what work does in a thread of its own, which may leave the process's table."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as exc:
            outcome.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(TIMEOUT)
    assert outcome, "the thread did not end"
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def table() -> dict[int, str]:
    """Return number and target of what this thread has open."""
    at = f"/proc/self/task/{threading.get_native_id()}/fd"
    found = {}
    for name in os.listdir(at):
        try:
            found[int(name)] = os.readlink(f"{at}/{name}")
        except FileNotFoundError:
            # The directory itself.
            continue
    return found


def test_what_is_kept_has_its_number_and_the_rest_is_gone() -> None:
    first, second = os.pipe(), os.pipe()
    kept = [second[1], first[0]]
    before = table()

    def work() -> dict[int, str]:
        leave(kept)
        return table()

    try:
        after = in_a_thread(work)
        assert {fd: after[fd] for fd in kept} == {fd: before[fd] for fd in kept}
        assert {0: after[0], 1: after[1]} == {0: "/dev/null", 1: "/dev/null"}
        # What the C library has to say at the end is to be read.
        assert after[2] == before[2]
        assert set(after) == {0, 1, 2, *kept}
        assert table() == before
    finally:
        for fd in (*first, *second):
            os.close(fd)


def test_nothing_is_kept_but_the_first_three_where_nothing_is_asked_for() -> None:
    assert set(in_a_thread(lambda: (leave([]), table())[1])) == {0, 1, 2}


def test_stdin_and_stdout_may_be_among_those_kept() -> None:
    before = table()
    after = in_a_thread(lambda: (leave([1, 0]), table())[1])
    assert {0: after[0], 1: after[1]} == {0: before[0], 1: before[1]}


def test_what_the_process_closes_is_closed_though_a_thread_has_left_with_its_own_table() -> None:
    reading, writing = os.pipe()
    left, go_on = threading.Event(), threading.Event()

    def work() -> None:
        leave([])
        left.set()
        go_on.wait(TIMEOUT)

    thread = threading.Thread(target=work)
    thread.start()
    assert left.wait(TIMEOUT)
    os.close(writing)
    assert os.read(reading, 1) == b""
    os.close(reading)
    go_on.set()
    thread.join(TIMEOUT)


def test_what_is_opened_on_one_side_is_not_there_on_the_other() -> None:
    fds = os.pipe()

    def work() -> tuple[list[int], set[int]]:
        leave([fds[0]])
        # Where the process has no room the thread has.
        opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(50)]
        return opened, set(table())

    try:
        before = table()
        opened, there = in_a_thread(work)
        assert set(opened) <= there and opened[0] == 3
        assert table() == before
    finally:
        os.close(fds[0])
        os.close(fds[1])


def test_an_empty_table_is_empty_and_the_processs_is_as_it_was() -> None:
    before = table()

    def work() -> int:
        leave([])
        empty()
        # The lowest number that is free.
        return os.open("/dev/null", os.O_RDONLY)

    assert in_a_thread(work) == 0
    assert table() == before


WITHOUT_CLOSE_RANGE = """
import errno, os, resource, sys, threading
from forbidding import forbid
from uws_shims.table_shim import leave
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
forbid("close_range", errno.ENOSYS)
if sys.argv[1] == "both":
    forbid("unshare", errno.EPERM)
reading, writing = os.pipe()

def work():
    try:
        leave([reading])
    except OSError as exc:
        said.append(f"errno {exc.errno}")
    else:
        # Not printed here: stdout is /dev/null in this thread.
        there = {int(fd) for fd in os.listdir(f"/proc/self/task/{threading.get_native_id()}/fd")}
        said.append((sorted({0, 1, 2, reading} - there), len(there)))

said = []
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(said[0])
"""


@possible
@pytest.mark.parametrize("forbidden", ["one", "both"])
def test_a_kernel_without_close_range_does_it_by_unshare_or_it_fails(forbidden: str) -> None:
    said = run_alone(WITHOUT_CLOSE_RANGE, forbidden)
    if forbidden == "both":
        assert said == "errno 1\n"
    else:
        # None is missing; the one beyond them is what the listing itself has open.
        assert said == "([], 5)\n"
