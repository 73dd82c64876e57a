"""Builds the engine's lower floors for libFuzzer, and runs the targets of tests/fuzz.

    python tools/fuzz.py [--time SECONDS] [--jobs N] [TARGET ...]     by default all, 60 seconds each
    python tools/fuzz.py --input FILE TARGET                          one input again
    python tools/fuzz.py --keep [TARGET ...]                          what was found into tests/fuzz/corpus

clang compiles what Cython makes of the floors, and the harnesses, with coverage, AddressSanitizer and
UndefinedBehaviorSanitizer; a program around Python and libFuzzer (tests/fuzz/driver.c) loads them. Wanted: clang and
its libraries of the sanitizers (Debian 12: clang-14, libclang-rt-14-dev). CLANG names another one.

In build/fuzz: corpora that grow from run to run, logs, and in findings/ the inputs on which something was wrong, which
are printed in hex as well. Exits 1 where there is such a one.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from sources import ROOT, build, renew

HOME = ROOT / "build" / "fuzz"
TREE = HOME / "tree"
DRIVER = HOME / "driver"
FUZZ = TREE / "tests" / "fuzz"

# What is fuzzed, and what of the tests reaches it. The rest of the engine is taken from where it was built for them.
FLOORS = (
    "slab", "mask", "utf8", "http", "frame", "upgrade", "response", "opening", "proxy", "deflate", "proto", "client"
)  # fmt: skip
SHIMS = ("fuzz_frames", "fuzz_http", "deflate", "http", "proto", "proxy")
MODULES = [*(f"_uws.{name}" for name in FLOORS), *(f"uws_shims.{name}_shim" for name in SHIMS)]
SANITIZERS = "address,undefined"
# The slow oracles are Python. To look at each input with them would be to look at a tenth of the inputs.
ORACLE_EVERY = {"proto": 8}
INPUT_TIMEOUT_S = 10
RSS_MIB = 2048


# Mistakes of fuzz_frames_shim.planted, and what is said of them. If they were not found, a run without findings would
# say nothing.
PLANTED = {
    "piece": "heap-buffer-overflow",
    "block": "use-after-poison",
    "given-back": "use-after-poison",
    "overflow": "signed integer overflow",
    "oracle": "AssertionError: oracle",
}


class Outcome(NamedTuple):
    """in_python: it is lines of Python that count, which libFuzzer has among its features, not its edges."""

    name: str
    in_python: bool
    status: int
    log: Path


def clang() -> str:
    """The compiler, which has to have libFuzzer."""
    wanted = os.environ.get("CLANG")
    names = [wanted] if wanted else ["clang", *(f"clang-{version}" for version in range(30, 13, -1))]
    for name in filter(None, map(shutil.which, names)):
        with tempfile.TemporaryDirectory() as room:
            source = Path(room, "probe.c")
            source.write_text("int LLVMFuzzerTestOneInput(const char *p, unsigned long n) { return n && !p; }\n")
            command = [name, f"-fsanitize=fuzzer,{SANITIZERS}", str(source), "-o", f"{room}/probe"]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return name
    raise SystemExit("no clang with libFuzzer and AddressSanitizer (Debian 12: clang-14 and libclang-rt-14-dev)")


def make(jobs: int) -> None:
    """Build the modules and the driver."""
    compiler = clang()
    renew(TREE)
    for link in TREE.glob("src/_uws/*.so"):
        if link.is_symlink():
            link.unlink()
    build(
        sys.executable,
        TREE,
        jobs,
        CC=compiler,
        LDSHARED=f"{compiler} -shared",
        UWS_SANITIZE=f"fuzzer-no-link,{SANITIZERS}",
        UWS_MODULES=" ".join(MODULES),
        UWS_DEBUG="1",
        # Of clang's messages on what Cython makes none is ours to mend; gcc's build has them as errors.
        UWS_WERROR="0",
    )
    for module in (ROOT / "src" / "_uws").glob("*.so"):
        if not (TREE / "src" / "_uws" / module.name).exists():
            (TREE / "src" / "_uws" / module.name).symlink_to(module)
    paths = sysconfig.get_paths()
    libraries = [sysconfig.get_config_var(name) for name in ("LIBDIR", "LIBPL")]
    command = [compiler, "-g", "-O1", f"-fsanitize=fuzzer,{SANITIZERS}", "-rdynamic"]
    command += [f"-I{paths['include']}", f"-I{paths['platinclude']}", str(FUZZ / "driver.c"), "-o", str(DRIVER)]
    for library in libraries:
        command += [f"-L{library}", f"-Wl,-rpath,{library}"]
    command += [f"-lpython{sysconfig.get_config_var('LDVERSION')}", "-lm", "-ldl", "-lpthread", "-lutil"]
    subprocess.run(command, check=True)


def environment(name: str, every: int, in_python: bool) -> dict[str, str]:
    """What the driver finds Python and the target by."""
    packages = [*site.getsitepackages(), str(TREE / "src"), str(TREE / "tests")]
    environ = {
        **os.environ,
        "PYTHONHOME": f"{sys.base_prefix}:{sys.base_exec_prefix}",
        "PYTHONPATH": os.pathsep.join(packages[::-1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "UWS_FUZZ_TARGET": name,
        "UWS_FUZZ_ORACLE_EVERY": str(every),
        # Python's own memory is not looked after here; that of the floors is counted by the harnesses.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    if in_python:
        environ["UWS_FUZZ_LINES"] = "/unlimitedws/"
    return environ


def command(*args: str) -> list[str]:
    """setarch: AddressSanitizer wants its own places in memory, where a random one may be."""
    return ["setarch", platform.machine(), "--addr-no-randomize", str(DRIVER), *args]


def make_sure(jobs: int) -> None:
    """Plant mistakes of each kind, and see that the sanitizers, the slab's marks and the driver find them."""

    def said(mistake: str) -> str:
        path = HOME / "planted" / mistake
        path.parent.mkdir(exist_ok=True)
        path.write_text(mistake)
        environ = environment("planted", 1, False)
        found = subprocess.run(command(str(path)), env=environ, cwd=path.parent, capture_output=True, check=False)
        return found.stderr.decode(errors="replace") if found.returncode else ""

    with ThreadPoolExecutor(jobs) as pool:
        for (mistake, wanted), text in zip(PLANTED.items(), pool.map(said, PLANTED), strict=True):
            if wanted not in text:
                raise SystemExit(f"what was planted is not found: {mistake}, {wanted}\n{text}")


class Room(NamedTuple):
    """Where a target's inputs are. seeds: those it begins with, kept ones too; found: those of all runs."""

    seeds: Path
    found: Path


def prepare(name: str) -> Room:
    from fuzz.corpus import kept
    from fuzz.targets import TARGETS

    room = Room(HOME / "seeds" / name, HOME / "found" / name)
    shutil.rmtree(room.seeds, ignore_errors=True)
    for place in room:
        place.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate([*TARGETS[name].seeds(), *kept(name)]):
        (room.seeds / f"{number:05}").write_bytes(data)
    return room


def run(name: str, seconds: int) -> Outcome:
    from fuzz.targets import TARGETS

    target = TARGETS[name]
    room = prepare(name)
    log = HOME / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    (HOME / "findings").mkdir(exist_ok=True)
    args = [
        f"-max_total_time={seconds}",
        f"-max_len={4 + target.max_bytes}",
        f"-timeout={INPUT_TIMEOUT_S}",
        f"-rss_limit_mb={RSS_MIB}",
        f"-artifact_prefix={HOME / 'findings'}/{name}-",
        "-print_final_stats=1",
    ]
    if target.dictionary:
        args.append(f"-dict={FUZZ / 'dictionaries' / target.dictionary}.dict")
    environ = environment(name, ORACLE_EVERY.get(name, 1), target.in_python)
    with log.open("w") as out:
        status = subprocess.run(
            command(*args, str(room.found), str(room.seeds)), stdout=out, stderr=out, env=environ, cwd=HOME
        ).returncode
    return Outcome(name, target.in_python, status, log)


FIGURES = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")
EXECUTIONS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
RATE = re.compile(r"stat::average_exec_per_sec:\s*(\d+)")
BEGINNING = re.compile(r"^(?:Traceback|.*runtime error:|==\d+==\s*ERROR)", re.MULTILINE)


def described(outcome: Outcome) -> str:
    """One line of the table."""
    text = outcome.log.read_text(errors="replace")
    coverage = FIGURES.findall(text)
    executions, rate = EXECUTIONS.search(text), RATE.search(text)
    edges, features, inputs = coverage[-1] if coverage else ("?", "?", "?")
    if outcome.in_python:
        edges = "-"
    done = executions[1] if executions else "?"
    finding = "-" if outcome.status == 0 else f"exit {outcome.status}"
    rate_text = rate[1] if rate else "?"
    return f"{outcome.name:10} {done:>12} {rate_text:>9} {edges:>6} {features:>9} {inputs:>7}  {finding}"


ARTIFACT = re.compile(r"Test unit written to (.*)")


def complaint(outcome: Outcome) -> str:
    """What was wrong, as the log has it, and with which input: the machine that found it may be gone tomorrow."""
    text = outcome.log.read_text(errors="replace")
    begin, artifact = BEGINNING.search(text), ARTIFACT.search(text)
    data = Path(artifact[1]).read_bytes().hex() if artifact else "none was written"
    return f"{text[begin.start() if begin else -4000 :][:8000]}\ninput: {data}"


def fuzz(names: list[str], seconds: int, jobs: int) -> int:
    begin = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        outcomes = list(pool.map(lambda name: run(name, seconds), names))
    bad = [outcome for outcome in outcomes if outcome.status != 0]
    for outcome in bad:
        print(f"--- {outcome.name}\n{complaint(outcome)}")
    print(f"{'target':10} {'executions':>12} {'a second':>9} {'edges':>6} {'features':>9} {'inputs':>7}  findings")
    for outcome in outcomes:
        print(described(outcome))
    took = time.monotonic() - begin
    print(f"{len(names)} targets, {seconds} s each, {jobs} at a time, {took:.0f} s; {len(bad)} findings")
    if bad:
        print("the inputs are in build/fuzz/findings; again: python tools/fuzz.py --input FILE TARGET")
    return 1 if bad else 0


def again(name: str, path: Path) -> int:
    """Run one input, with all oracles."""
    from fuzz.targets import TARGETS

    environ = environment(name, 1, TARGETS[name].in_python)
    return subprocess.run(command(str(path.resolve())), env=environ, cwd=HOME).returncode


def keep(names: list[str]) -> int:
    """Of what was found, put into the tree what reaches an edge that nothing there reaches."""
    from fuzz.corpus import keep as add
    from fuzz.targets import TARGETS

    for name in names:
        room = prepare(name)
        known = set(os.listdir(room.seeds))
        args = ["-merge=1", "-use_counters=0", str(room.seeds), str(room.found)]
        environ = environment(name, 1, TARGETS[name].in_python)
        log = HOME / "logs" / f"{name}-keep.log"
        with log.open("w") as out:
            subprocess.run(command(*args), stdout=out, stderr=out, env=environ, cwd=HOME, check=True)
        new = [(room.seeds / file).read_bytes() for file in os.listdir(room.seeds) if file not in known]
        print(f"{name}: {add(name, new)} inputs kept")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--time", type=int, default=60, help="seconds for each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="of the build, and targets at a time")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--input", type=Path, help="run this input only")
    what.add_argument("--keep", action="store_true", help="put into the tree what is worth it")
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
    from fuzz.targets import TARGETS

    if unknown := set(args.targets) - set(TARGETS):
        raise SystemExit(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    names = args.targets or list(TARGETS)
    if args.input is not None and len(names) != 1:
        raise SystemExit("--input FILE wants the one target that it is for")
    make(args.jobs)
    make_sure(args.jobs)
    if args.input is not None:
        return again(names[0], args.input)
    return keep(names) if args.keep else fuzz(names, args.time, args.jobs)


if __name__ == "__main__":
    sys.exit(main())
