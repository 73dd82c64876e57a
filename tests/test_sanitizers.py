"""The sanitizers find what they are there for, in a process and in its children, and know ours from others'."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import asan
import pytest
import sanitizing
import tsan
from sanitizing import Sanitizer
from sources import ROOT

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
    assert (len(ours), len(others)) == ((1, 0) if is_ours else (0, 1))


# Of a process that has two stacks, and ends on the second one.
TWO_STACKS = """\
==1==WARNING: ASan doesn't fully support makecontext/swapcontext functions and may produce false positives
==1==WARNING: ASan is ignoring requested __asan_handle_no_return: stack type: default top: 0x7; bottom 0x1; size: 0x6
False positive error reports may follow
For details see https://github.com/google/sanitizers/issues/189
"""


def test_a_process_with_two_stacks_is_no_report(tmp_path: Path) -> None:
    report = tmp_path / "address.1"
    report.write_text(TWO_STACKS)
    assert asan.found(tmp_path) == ([], [])
    report.write_text(TWO_STACKS + "==123==ERROR: AddressSanitizer: heap-use-after-free on address 0x1\n")
    ours, _ = asan.found(tmp_path)
    assert len(ours) == 1 and "heap-use-after-free" in ours[0]


def test_what_is_reported_before_the_leaks_counts_as_well(tmp_path: Path) -> None:
    text = "src/_uws/x.pyx:1:2: runtime error: signed integer overflow\n    #0 0x1 in f src/_uws/x.pyx:1\n"
    (tmp_path / "address.1").write_text(text + LEAKS.format(function="PyMem_RawMalloc", module="Objects/obmalloc.c:85"))
    ours, others = asan.found(tmp_path)
    assert len(ours) == 1 and "runtime error" in ours[0] and len(others) == 1


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


@pytest.mark.parametrize("sanitizer", [asan.ASAN, tsan.TSAN], ids=["asan", "tsan"])
def test_what_is_left_out_is_there(sanitizer: Sanitizer) -> None:
    for name in [*sanitizer.tests, *sanitizer.unfit]:
        file, _, test = name.partition("::")
        assert (ROOT / file).exists(), name
        if test:
            assert f"def {test.partition('[')[0]}(" in (ROOT / file).read_text(), name


# Of a project whose tests run under a sanitizer: what each file comes to.
TESTS = {
    "tests/test_well.py": "def test_it(): pass\n",
    "tests/test_skips.py": "import pytest\ndef test_it(): pytest.skip('not here')\n",
    "tests/test_fails.py": "def test_it(): assert not 'this'\n",
    "tests/test_reports.py": "import os\ndef test_it(): open(os.environ['REPORTS'] + '/1', 'w').write('an error')\n",
    "tests/test_crashes.py": "import os\ndef test_it(): os.abort()\n",
    "tests/test_exits.py": "import os\ndef test_it(): os._exit(0)\n",
    "tests/test_hangs.py": "import signal\ndef test_it(): signal.pause()\n",
    "tests/test_falls_silent.py": "import signal\ndef test_one(): pass\ndef test_other(): signal.pause()\n",
    "tests/more/test_unfit.py": "def test_it(): assert not 'to be run'\n",
    "tests/more/test_partly.py": "def test_it(): pass\ndef test_unfit(): assert not 'to be run'\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs main() for TESTS, with a sanitizer that reports what is in a file."""
    for name, text in TESTS.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(text)

    def found(reports: Path) -> tuple[list[str], list[str]]:
        return [path.read_text() for path in reports.iterdir()], []

    sanitizer = Sanitizer(
        home=tmp_path,
        description="",
        python=[sys.executable, "-m", "pytest"],
        environment=lambda reports: {**os.environ, "REPORTS": str(reports), "PYTEST_ADDOPTS": ""},
        found=found,
        building={},
        tests=["tests"],
        unfit={"tests/more/test_unfit.py": "time", "tests/more/test_partly.py::test_unfit": "memory"},
    )
    monkeypatch.setattr(sanitizing, "renew", lambda tree: None)
    monkeypatch.setattr(sanitizing, "build", lambda *args, **env: None)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["a tool", *arguments])
        return sanitizing.main(sanitizer, lambda: None)

    return run


def test_the_run_is_good_where_all_have_passed_and_nothing_was_reported(
    project: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert project("tests/test_well.py", "tests/test_skips.py", "tests/more") == 0
    out = capfd.readouterr().out
    assert (
        "\ncannot run under it:\n  tests/more/test_unfit.py: time\n  tests/more/test_partly.py::test_unfit: memory\n"
        in out
    )
    assert "\nskipped:\n  1 x not here\n3 files: " in out
    assert "2 passed" in out and "1 skipped" in out and "\n0 reports on our code, 0 elsewhere" in out


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("tests/test_fails.py", "1 failure, pytest's status 1; "),
        ("tests/test_reports.py", "1 passed, 1 reports on our code; "),
        ("tests/test_crashes.py", "1 unfinished, pytest's status -6; "),
        ("tests/test_exits.py", "1 unfinished; "),
        ("tests/more/test_unfit.py", "1 failure, pytest's status 1; "),
    ],
)
def test_the_run_is_bad_where_one_has_failed(
    project: Callable[..., int], capfd: pytest.CaptureFixture[str], file: str, said: str
) -> None:
    assert project("tests/test_well.py", file) == 1
    assert f"\nfailed:\n  {file}: {said}" in capfd.readouterr().out


def test_a_file_that_hangs_is_ended_and_bad(
    project: Callable[..., int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sanitizing, "LIMIT_S", 3.0)
    assert project("tests/test_hangs.py") == 1
    assert "\nfailed:\n  tests/test_hangs.py: 1 unfinished, pytest's status -6; " in capfd.readouterr().out


def test_a_file_that_falls_silent_says_where_it_is_and_is_bad(
    project: Callable[..., int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sanitizing, "SILENCE_S", 2.0)
    assert project("tests/test_falls_silent.py") == 1
    out = capfd.readouterr().out
    assert "Fatal Python error: Aborted" in out and " in test_other\n" in out
    assert "\nfailed:\n  tests/test_falls_silent.py: 1 unfinished, pytest's status -6; " in out


def test_a_run_of_nothing_is_no_good_run(project: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert project("tests/test_well.py", "-k", "nothing of that name") == 1
    assert "\n1 files: \n" in capfd.readouterr().out
