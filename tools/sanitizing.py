"""What asan.py and tsan.py have in common: the tests run under a sanitizer, file by file, and what is said of it.

A process for each file of tests: so a report has its file, and what a sanitizer ends takes no other file's tests along.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from sources import build, renew

__all__ = ["Outcome", "Sanitizer", "compile_probe", "main", "summary", "to_run", "watched"]

# Of a file: the longest takes some minutes. A hang is a failure as well: one that has begun to say something, and then
# says nothing for so long.
LIMIT_S = 1800.0
SILENCE_S = 600.0
# Whoever was told to end has so long to say where its threads are.
STACKS_S = 10.0
# Of pytest: no test was selected, as with -k.
NONE_SELECTED = 5

_running: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True)
class Sanitizer:
    """What tests run under it, how, and which of its reports are on our code.

    Attributes:
        home: Its folder, below build/.
        description: What is done, in a line.
        python: The command that pytest's arguments are added to.
        environment: What a process has to be started with to be watched; it passes that on to those that it starts.
            Takes the folder of the reports.
        found: (reports on our code, others'), of such a folder.
        building: The environment of the build.
        tests: Files and folders, from the root.
        unfit: What of these cannot run under it: folders, files, tests, with the reason.
        arguments: For pytest, always.
    """

    home: Path
    description: str
    python: Sequence[str]
    environment: Callable[[Path], dict[str, str]]
    found: Callable[[Path], tuple[list[str], list[str]]]
    building: Mapping[str, str]
    tests: Sequence[str]
    unfit: Mapping[str, str]
    arguments: Sequence[str] = ()


@dataclass
class Outcome:
    """What became of a file's tests."""

    file: str
    status: int
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    # The reasons that tests gave for skipping themselves.
    skipped: Counter[str] = field(default_factory=Counter)
    ours: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    output: str = ""

    @property
    def is_bad(self) -> bool:
        return self.status not in (0, NONE_SELECTED) or bool(self.ours) or "unfinished" in self.counts

    def __str__(self) -> str:
        what = [f"{number} {kind}" for kind, number in self.counts.items()] or ["no test"]
        if self.status not in (0, NONE_SELECTED):
            what.append(f"pytest's status {self.status}")
        if self.ours:
            what.append(f"{len(self.ours)} reports on our code")
        return f"{self.file}: {', '.join(what)}; {self.seconds:.0f} s"


def compile_probe(place: Path, source: str, flags: Sequence[str], compiler: str = "gcc") -> Path:
    """A library of a few lines of C, with something to report in it."""
    place.mkdir(parents=True, exist_ok=True)
    code, library = place / "probe.c", place / "probe.so"
    code.write_text(source)
    subprocess.run([compiler, "-g", "-O0", *flags, "-fPIC", "-shared", str(code), "-o", str(library)], check=True)
    return library


def watched(
    command: Sequence[str],
    environment: Callable[[Path], dict[str, str]],
    reports: Path,
    output: IO[bytes] | None = None,
    cwd: Path | None = None,
) -> int:
    """Run a command under a sanitizer; returns its status, -SIGABRT or -SIGKILL where it hung."""
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(reports),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output and subprocess.STDOUT,
        # To be ended together with what it has started.
        start_new_session=True,
    )
    _running.add(process)
    try:
        if _ends(process, output):
            return process.wait()
        # pytest has faulthandler tell the stacks then.
        os.killpg(process.pid, signal.SIGABRT)
        return process.wait(STACKS_S)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL
    finally:
        # Some that it has started may be left where it was aborted.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _running.remove(process)


def _ends(process: subprocess.Popen[bytes], output: IO[bytes] | None) -> bool:
    """Wait for its end. False: it takes too long, or has been silent for too long.

    Asked from outside. A thread in it, as pytest's `faulthandler_timeout` is one, would be another that may hold a lock
    of libasan's where a test forks; before gcc 14 the child waits for that lock for ever.
    """
    began = spoke = time.monotonic()
    size = 0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
            return True
        now = time.monotonic()
        said = 0 if output is None else os.fstat(output.fileno()).st_size
        if said != size:
            size, spoke = said, now
        if now - began > LIMIT_S or (size and now - spoke > SILENCE_S):
            return False


def to_run(root: Path, tests: Sequence[str], unfit: Mapping[str, str]) -> list[str]:
    """What gets a process each: files, or single tests. What is named itself is not asked whether it can."""
    found: dict[str, None] = {}
    for name in tests:
        if not (root / name).is_dir():
            found[name] = None
            continue
        for path in sorted((root / name).rglob("test_*.py")):
            file = str(path.relative_to(root))
            if not any(file == unable or file.startswith(f"{unable}/") for unable in unfit):
                found[file] = None
    return list(found)


def _read(junit: Path, outcome: Outcome) -> None:
    """What pytest has written of the tests. Where it did not come to that, the status may be 0 all the same."""
    if not junit.exists():
        outcome.counts["unfinished"] = 1
        return
    for case in ElementTree.parse(junit).iter("testcase"):
        unusual = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        outcome.counts["passed" if unusual is None else unusual.tag] += 1
        if unusual is not None and unusual.tag == "skipped":
            outcome.skipped[unusual.get("message", "")] += 1


def _run(sanitizer: Sanitizer, file: str, arguments: Sequence[str]) -> Outcome:
    home = sanitizer.home
    name = "-".join(file.replace("::", "/").removesuffix(".py").split("/"))
    reports, junit, said = (home / kind / name for kind in ("reports", "junit", "output"))
    for place in (junit, said):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
    deselected = [f"--deselect={test}" for test in sanitizer.unfit if test.startswith(f"{file}::")]
    usual = ["-q", "-p", "no:cacheprovider", f"--junitxml={junit}"]
    command = [*sanitizer.python, *usual, *deselected, *sanitizer.arguments, *arguments, file]
    began = time.monotonic()
    with open(said, "wb") as output:
        status = watched(command, sanitizer.environment, reports, output, home / "tree")
    outcome = Outcome(file, status, time.monotonic() - began, output=said.read_text(errors="replace"))
    _read(junit, outcome)
    outcome.ours, outcome.others = sanitizer.found(reports)
    return outcome


def summary(sanitizer: Sanitizer, outcomes: Sequence[Outcome]) -> str:
    """What ran, what did not and why, what failed."""
    totals: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for outcome in outcomes:
        totals.update(outcome.counts)
        skipped.update(outcome.skipped)
    sections = {
        "cannot run under it": [f"{name}: {reason}" for name, reason in sanitizer.unfit.items()],
        "skipped": [f"{number} x {reason}" for reason, number in skipped.most_common()],
        "failed": [str(outcome) for outcome in outcomes if outcome.is_bad],
    }
    lines = [line for title, part in sections.items() if part for line in (f"{title}:", *(f"  {it}" for it in part))]
    lines.append(f"{len(outcomes)} files: " + ", ".join(f"{number} {kind}" for kind, number in totals.items()))
    ours, others = (sum(len(getattr(outcome, whose)) for outcome in outcomes) for whose in ("ours", "others"))
    lines.append(f"{ours} reports on our code, {others} elsewhere: build/{sanitizer.home.name}/reports")
    return "\n".join(lines)


def main(sanitizer: Sanitizer, probe: Callable[[], None]) -> int:
    """Make sure that it reports what it is there for, build, run the tests, and say what became of them.

    Returns 0 where all have passed and nothing was reported on our code.
    """
    parser = argparse.ArgumentParser(description=sanitizer.description)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers, and files tested, at once")
    parser.add_argument("--build-only", action="store_true")
    args, more = parser.parse_known_args()
    began = time.monotonic()
    tree = sanitizer.home / "tree"
    probe()
    renew(tree)
    build(sys.executable, tree, args.jobs, **sanitizer.building)
    print(f"built in {time.monotonic() - began:.0f} s", flush=True)
    if args.build_only:
        return 0
    chosen = [word for word in more if (tree / word.partition("::")[0]).exists()]
    arguments = [word for word in more if word not in chosen]
    outcomes: list[Outcome] = []
    pool = ThreadPoolExecutor(args.jobs)
    try:
        files = to_run(tree, chosen or sanitizer.tests, sanitizer.unfit)
        for done in as_completed([pool.submit(_run, sanitizer, file, arguments) for file in files]):
            outcome = done.result()
            outcomes.append(outcome)
            print(outcome, flush=True)
            if outcome.is_bad:
                print("\n\n".join([outcome.output, *outcome.ours]), flush=True)
    except BaseException:
        # They are sessions of their own, which control-C does not reach.
        pool.shutdown(wait=False, cancel_futures=True)
        for process in _running.copy():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        raise
    print(summary(sanitizer, outcomes))
    print(f"{time.monotonic() - began:.0f} s")
    has_passed = any(outcome.counts["passed"] for outcome in outcomes)
    return 0 if has_passed and not any(outcome.is_bad for outcome in outcomes) else 1
