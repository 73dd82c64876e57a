"""The engine under a seeded network, kernel and clock: `make simulate SEEDS=100000`, `make simulate SEED=12345`.

    python tests/simulation/simulate.py --seeds 100000 [--jobs N] [--first 0]
    python tests/simulation/simulate.py --seed 12345              tells what happens in that run
    python tests/simulation/simulate.py --seed 12345 --shrink     ... without the mishaps that its failure does not need

The engine is the one that was built for everybody. The kernel, in C beside this file, is loaded before the C library
and answers its system calls; scarce_shim stands in for its allocator. What has to hold stands in
tests/uws_shims/simrules_shim.pyx, simapp_shim.pyx and simpeer_shim.pyx.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KERNEL = ROOT / "build" / "simulation" / "kernel.so"
# As SIM_FAILED in kernel.h.
FAILED = 3
# Seeds that one process runs at a time, and how long it may take for them.
BATCH = 2000
PATIENCE_S = 120
MISHAPS = re.compile(r"^seed (\d+), (\d+) mishaps$", re.MULTILINE)

# The floors below Python's, and none above: the library, with which all of the engine comes, is left out.
CHILD = """
import json, signal, sys, types
sys.path[:0] = sys.argv[1:3]
sys.modules["unlimitedws"] = types.ModuleType("unlimitedws")
from uws_shims import scarce_shim
scarce_shim.install()
first, count, trace, spared, bug = json.loads(sys.argv[3])
if bug:
    from uws_shims import sabotage_shim
    sabotage_shim.install(bug)
from uws_shims import sim_shim
signal.alarm(int(sys.argv[4]))
print(json.dumps(sim_shim.simulate(first, count, spared, trace)))
"""


class Failure(NamedTuple):
    """A run in which something did not hold."""

    seed: int
    mishaps: int
    output: str

    @property
    def reason(self) -> str:
        return self.output.rstrip().rpartition("\n")[2].strip()


def build_kernel() -> Path:
    """Compile the kernel, if it has changed.

    Raises:
        subprocess.CalledProcessError: It cannot be compiled; the compiler has said why.
    """
    sources = sorted(HERE.glob("*.c"))
    written = [*sources, *HERE.glob("*.h")]
    if not KERNEL.exists() or any(path.stat().st_mtime > KERNEL.stat().st_mtime for path in written):
        KERNEL.parent.mkdir(parents=True, exist_ok=True)
        made = KERNEL.with_suffix(f".{os.getpid()}")
        flags = ["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-fPIC", "-shared"]
        flags.append("-U_FORTIFY_SOURCE")
        command = [os.environ.get("CC", "gcc"), *flags, "-fvisibility=hidden", *sources, "-o", made, "-ldl"]
        subprocess.run(command, check=True)
        # Others may be about to load the one that is there.
        made.replace(KERNEL)
    return KERNEL


def run(
    first: int, count: int = 1, *, trace: bool = False, spared: list[int] | None = None, bug: str = ""
) -> tuple[str, dict[str, int], Failure | None]:
    """Run some seeds in a process of their own.

    Args:
        first, count: Which seeds.
        trace: Have it tell what happens.
        spared: Numbers of mishaps that do not happen.
        bug: One that is put into the engine, of sabotage_shim.

    Returns:
        What it told, what came of them all, and the run that failed, if one did: it is the last then.

    Raises:
        RuntimeError: The process ended as none should.
    """
    # What has to be loaded first, a sanitizer say, stays first.
    preload = " ".join([*os.environ.get("LD_PRELOAD", "").split(), str(build_kernel())])
    what = json.dumps([first, count, trace, sorted(spared or []), bug])
    process = subprocess.run(
        [sys.executable, "-c", CHILD, str(ROOT / "src"), str(ROOT / "tests"), what, str(PATIENCE_S)],
        env={**os.environ, "LD_PRELOAD": preload, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if process.returncode == FAILED:
        seed, mishaps = MISHAPS.findall(process.stdout)[-1]
        return process.stdout, {}, Failure(int(seed), int(mishaps), process.stdout)
    if process.returncode != 0:
        raise RuntimeError(
            f"seeds {first} to {first + count - 1}: status {process.returncode}\n{process.stdout[-2000:]}"
        )
    told, _, totals = process.stdout.rstrip("\n").rpartition("\n")
    return told, json.loads(totals), None


def shrink(seed: int) -> tuple[Failure, list[int]]:
    """Find mishaps without which the run fails all the same, and spare it as many as can be found.

    Returns:
        The failure that is left, and what was spared.

    Raises:
        ValueError: The run does not fail.
    """
    _, _, failure = run(seed)
    if failure is None:
        raise ValueError(f"seed {seed} does not fail")
    spared: list[int] = []
    size = max(failure.mishaps // 2, 1)
    while True:
        progress = False
        at = 0
        # Without some of them the run goes another way: their number changes, and what is left is looked at again.
        while at < failure.mishaps:
            more = sorted({*spared, *range(at, at + size)})
            if len(more) > len(spared):
                _, _, other = run(seed, spared=more)
                if other is not None:
                    failure, spared, progress = other, more, True
            at += size
        if size == 1 and not progress:
            return failure, spared
        size = max(size // 2, 1)


def sweep(first: int, count: int, jobs: int) -> tuple[dict[str, int], Failure | None]:
    """Run many seeds, in as many processes as are asked for. The first failure that is found ends it."""
    totals: dict[str, int] = {}
    batches = [(at, min(BATCH, first + count - at)) for at in range(first, first + count, BATCH)]
    # Once, and not by each of the threads.
    build_kernel()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for _, got, failure in pool.map(lambda batch: run(*batch), batches):
                if failure is not None:
                    return totals, failure
                for name, value in got.items():
                    totals[name] = totals.get(name, 0) + value
        finally:
            pool.shutdown(cancel_futures=True)
    return totals, None


def main() -> int:
    parser = argparse.ArgumentParser(description="The engine under a seeded network and clock.")
    parser.add_argument("--seeds", type=int, default=100_000, help="how many")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="only this one, and tell what happens")
    parser.add_argument("--shrink", action="store_true", help="... with as few mishaps as it takes to fail")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    if args.seed is not None:
        spared: list[int] = []
        if args.shrink:
            left, spared = shrink(args.seed)
            print(f"{left.mishaps} mishaps, of which {len(spared)} are not needed")
        told, _, failure = run(args.seed, trace=True, spared=spared)
        print(told)
        return 0 if failure is None else 1
    began = time.monotonic()
    totals, failure = sweep(args.first, args.seeds, args.jobs)
    took = time.monotonic() - began
    if failure is not None:
        print(failure.output, end="")
        print(f"again, with what happens: make simulate SEED={failure.seed}")
        return 1
    for name, value in totals.items():
        print(f"{name:>14} {value:>14,}")
    print(f"{args.seeds:,} seeds in {took:.1f} s: nothing lost, nothing told twice, nothing left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
