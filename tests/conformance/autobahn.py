"""Runs the Autobahn cases against our echo server, through kosoku.

    python tests/conformance/autobahn.py [--all] [--api on_read] [--outdir autobahn-report] [--parallelism 1]

Without --all: the cases of the protocol itself. With it all 517 there are, those of throughput (9.*) and of
compression (12.*, 13.*) too, with compression on; and once more all that need none, with compression off.
Exits 1 if a case failed, passed only non-strictly, or is about something that we do not have; prints how many
ended in which way. Only what Autobahn itself calls informational is no verdict.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import selectors
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PASSED = frozenset({"OK", "INFORMATIONAL"})
START_TIMEOUT_S = 30.0
SUITE_TIMEOUT_S = 3600.0


class Selection(NamedTuple):
    """Which cases, against a server with or without compression, and how many these are in kosoku 0.1.0."""

    name: str
    compression: bool
    only: tuple[str, ...]
    without: tuple[str, ...]
    count: int


PROTOCOL = Selection("the protocol", False, (), ("9.*", "12.*", "13.*"), 247)
PLAIN = Selection("without compression", False, (), ("12.*", "13.*"), 301)
EVERYTHING = Selection("with compression", True, (), (), 517)
# Of each negotiation and kind of content: 1,000 messages of 16 bytes, 1 KiB, and 8 KiB in frames of 256.
DEFLATE = Selection(
    "some of compression",
    True,
    tuple(
        f"{group}.{kind}.{size}"
        for group, kinds in ((12, 5), (13, 7))
        for kind in range(1, kinds + 1)
        for size in (1, 4, 11)
    ),
    (),
    36,
)


class Case(NamedTuple):
    """What became of one case: of its messages, and of its close handshake."""

    number: str
    behavior: str
    close: str

    @property
    def passed(self) -> bool:
        return {self.behavior, self.close} <= PASSED


def has_kosoku() -> bool:
    """Tell whether the running interpreter has kosoku."""
    return importlib.util.find_spec("kosoku") is not None


@contextmanager
def echo_server(api: str, compression: bool) -> Iterator[int]:
    """Run our echo server in a process of its own; yields its port.

    Raises RuntimeError if it does not start, or does not live through the cases.
    """
    env = dict(os.environ)
    if any((ROOT / "src" / "_uws").glob("*.so")):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), env.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, str(HERE / "echo_server.py"), api, "compression" if compression else "plain"],
        env=env,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                if not selector.select(START_TIMEOUT_S):
                    raise RuntimeError(f"the echo server printed no port within {START_TIMEOUT_S:g} s")
            line = process.stdout.readline()
            if not line.strip().isdigit():
                raise RuntimeError(f"the echo server did not start: exit code {process.wait()}")
            yield int(line)
            if process.poll() is not None:
                raise RuntimeError(f"the echo server died on the way: exit code {process.returncode}")
        finally:
            process.kill()


def run(api: str, outdir: Path, selection: Selection = PROTOCOL, parallelism: int = 1) -> list[Case]:
    """Run the cases of a selection. Returns all of them; kosoku's report stays in outdir."""
    if not has_kosoku():
        raise RuntimeError("kosoku is not installed")
    # An index.json of an earlier run must not pass for this one's.
    shutil.rmtree(outdir, ignore_errors=True)
    with echo_server(api, selection.compression) as port:
        command = [
            sys.executable,
            str(HERE / "kosoku_repaired.py"),
            "-m",
            "fuzzingclient",
            "-p",
            str(parallelism),
            "-o",
            str(outdir),
        ]
        for flag, patterns in (("-i", selection.only), ("-x", selection.without)):
            for pattern in patterns:
                command += [flag, pattern]
        done = subprocess.run(
            [*command, f"127.0.0.1:{port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SUITE_TIMEOUT_S,
        )
    index = outdir / "index.json"
    # Exit code 1 tells of failed cases, of which the index has more to tell.
    if done.returncode not in (0, 1) or not index.exists():
        raise RuntimeError(f"kosoku ended with {done.returncode}:\n{done.stdout}")
    (cases,) = json.loads(index.read_text()).values()
    found = [Case(number, case["behavior"], case["behaviorClose"]) for number, case in cases.items()]
    if done.returncode == 1 and all(case.passed for case in found):
        raise RuntimeError(f"kosoku tells of a failure that its index does not show:\n{done.stdout}")
    return found


def report(selection: Selection, cases: list[Case], seconds: float) -> bool:
    """Print what became of the cases; returns whether all of the selection are there and passed."""
    for case in cases:
        if not case.passed:
            print(f"{case.number}: {case.behavior}, close {case.close}")
    counts = Counter(case.behavior for case in cases)
    verdicts = ", ".join(f"{count} {behavior}" for behavior, count in counts.most_common())
    print(f"{selection.name}: {len(cases)} cases in {seconds:.0f} s: {verdicts}", flush=True)
    if len(cases) != selection.count:
        print(f"{selection.count} cases were to be run")
    return len(cases) == selection.count and all(case.passed for case in cases)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--outdir", type=Path, default=ROOT / "autobahn-report")
    parser.add_argument("--parallelism", type=int, default=1)
    parser.add_argument("--api", choices=["on_read", "on_message"], default="on_read")
    parser.add_argument("--all", action="store_true", help="all 517 cases, with and without compression")
    args = parser.parse_args()

    good = True
    for selection in (PLAIN, EVERYTHING) if args.all else (PROTOCOL,):
        outdir = (
            args.outdir / ("compression" if selection.compression else "plain") if args.all else args.outdir
        )
        begin = time.monotonic()
        cases = run(args.api, outdir, selection, args.parallelism)
        good = report(selection, cases, time.monotonic() - begin) and good
        print(f"report: {outdir / 'index.html'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
