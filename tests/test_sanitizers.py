"""The sanitizers find what they are there for, in a process and in its children, and know ours from others'."""

from __future__ import annotations

import shutil
from pathlib import Path

import asan
import pytest
import tsan

LEAKS = """
=================================================================
==123==ERROR: LeakSanitizer: detected memory leaks

Direct leak of 40 byte(s) in 1 object(s) allocated from:
    #0 0x7f95 in __interceptor_malloc ../../../../src/libsanitizer/asan/asan_malloc_linux.cpp:69
    #1 0x7f96 in {function} {module}
    #2 0x7f97 in __pyx_f_4_uws_4core_start src/_uws/core.pyx:12

SUMMARY: AddressSanitizer: 40 byte(s) leaked in 1 allocation(s).
"""


RACE = """
==================
WARNING: ThreadSanitizer: data race (pid=123)
  Write of size 8 at 0x7ba0 by thread T2 (mutexes: write M1):
    #0 close ../../../../src/libsanitizer/tsan/tsan_interceptors_posix.cpp:1749 (libtsan.so.2.0.0+0x4002c)
    #1 __pyx_f_4_uws_6settle_conn_settle _uws/settle.pyx:130 (settle.so+0x2952)
    #2 __pyx_f_4_uws_4role_{caller} _uws/role.pyx:276 (role.so+0x3155)

  Previous read of size 8 at 0x7ba0 by thread T6 (mutexes: write M2):
    #0 read ../../../../src/libsanitizer/sanitizer_common/sanitizer_common_interceptors.inc:1019 (libtsan.so.2.0.0)

  Location is {location}

SUMMARY: ThreadSanitizer: data race _uws/settle.pyx:130 in __pyx_f_4_uws_6settle_conn_settle
==================
ThreadSanitizer: reported 1 warnings
"""


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not here")
    try:
        asan.runtime("asan")
        asan.runtime("ubsan")
    except SystemExit as missing:
        pytest.skip(str(missing))
    monkeypatch.setattr(asan, "HOME", tmp_path)


def test_an_overrun_an_overflow_and_a_leak_are_each_reported_once() -> None:
    asan.probe()


def test_sanitizers_that_miss_one_of_them_are_not_relied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asan, "SANITIZERS", "undefined")
    with pytest.raises(SystemExit, match="over 16"):
        asan.probe()


@pytest.mark.parametrize(
    ("function", "module", "is_ours"),
    [
        ("__pyx_f_4_uws_7deflate_open", "src/_uws/deflate.pyx:99", True),
        ("deflateInit2_", "(/lib/x86_64-linux-gnu/libz.so.1+0x1234)", True),
        ("PyMem_RawMalloc", "Objects/obmalloc.c:85", False),
    ],
)
def test_a_leak_is_ours_where_our_code_asked_for_it(tmp_path: Path, function: str, module: str, is_ours: bool) -> None:
    (tmp_path / "address.1").write_text(LEAKS.format(function=function, module=module))
    ours, others = asan.found(tmp_path)
    assert (len(ours), others) == ((1, 0) if is_ours else (0, 1))


def test_what_is_reported_before_the_leaks_counts_as_well(tmp_path: Path) -> None:
    text = "src/_uws/x.pyx:1:2: runtime error: signed integer overflow\n    #0 0x1 in f src/_uws/x.pyx:1\n"
    (tmp_path / "address.1").write_text(text + LEAKS.format(function="PyMem_RawMalloc", module="Objects/obmalloc.c:85"))
    ours, others = asan.found(tmp_path)
    assert len(ours) == 1 and "runtime error" in ours[0] and others == 1


@pytest.mark.parametrize(
    ("caller", "location", "is_ours"),
    [
        ("_keep", "file descriptor 11 created by thread T2 at:", False),
        ("role_work", "file descriptor 11 created by thread T2 at:", True),
        ("_keep", "heap block of size 64 at 0x7b10 allocated by thread T2:", True),
    ],
)
def test_a_number_in_two_tables_of_descriptors_is_no_race(
    tmp_path: Path, caller: str, location: str, is_ours: bool
) -> None:
    (tmp_path / "report.1").write_text(RACE.format(caller=caller, location=location))
    # A child has its parent's count.
    (tmp_path / "report.2").write_text("ThreadSanitizer: reported 1 warnings\n")
    ours, others = tsan.found(tmp_path)
    assert (len(ours), len(others)) == ((1, 0) if is_ours else (0, 1))
