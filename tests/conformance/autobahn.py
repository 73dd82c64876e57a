"""Runs the Autobahn cases against our echo server, through kosoku.

    python tests/conformance/autobahn.py [--outdir autobahn-report] [--parallelism 1] [--api on_message]

Excluded: 9.* (throughput) and 12.*, 13.* (compression; the engine does not negotiate it yet). Exits 1 if a
case failed, or passed only non-strictly; prints how many ended in which way.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EXCLUDED = ("9.*", "12.*", "13.*")
PASSED = frozenset({"OK", "INFORMATIONAL"})
START_TIMEOUT_S = 30.0
SUITE_TIMEOUT_S = 900.0


class Case(NamedTuple):
    """What became of one case: of its messages, and of its close handshake."""

    number: str
    behavior: str
    close: str

    @property
    def passed(self) -> bool:
        return {self.behavior, self.close} <= PASSED


def find_kosoku() -> str | None:
    """Return the kosoku beside the running interpreter, or else the one on PATH."""
    return shutil.which("kosoku", path=str(Path(sys.executable).parent)) or shutil.which("kosoku")


@contextmanager
def echo_server(api: str) -> Iterator[int]:
    """Run our echo server in a process of its own; yields its port.

    Raises RuntimeError if it does not start, or does not live through the cases.
    """
    env = dict(os.environ)
    if any((ROOT / "src" / "_uws").glob("*.so")):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), env.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, str(HERE / "echo_server.py"), api], env=env, stdout=subprocess.PIPE
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


def run(api: str, outdir: Path, parallelism: int = 1) -> list[Case]:
    """Run the cases. Returns all of them; kosoku's report stays in outdir."""
    kosoku = find_kosoku()
    if kosoku is None:
        raise RuntimeError("kosoku is not installed")
    # An index.json of an earlier run must not pass for this one's.
    shutil.rmtree(outdir, ignore_errors=True)
    with echo_server(api) as port:
        command = [kosoku, "-m", "fuzzingclient", "-p", str(parallelism), "-o", str(outdir)]
        for pattern in EXCLUDED:
            command += ["-x", pattern]
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


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--outdir", type=Path, default=ROOT / "autobahn-report")
    parser.add_argument("--parallelism", type=int, default=1)
    parser.add_argument("--api", choices=["on_read", "on_message"], default="on_read")
    args = parser.parse_args()

    cases = run(args.api, args.outdir, args.parallelism)
    for case in cases:
        if not case.passed:
            print(f"{case.number}: {case.behavior}, close {case.close}")
    counts = Counter(case.behavior for case in cases)
    print(
        f"{len(cases)} cases:", ", ".join(f"{count} {behavior}" for behavior, count in counts.most_common())
    )
    print(f"report: {args.outdir / 'index.html'}")
    return 0 if cases and all(case.passed for case in cases) else 1


if __name__ == "__main__":
    sys.exit(main())
