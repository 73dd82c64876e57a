"""Every call of the engine fails, or falls short, in its turn: cases by the ten thousand, in processes with the shim.

Owns the list of the cases and the running of them. ``make faults`` runs each there is, test_failing_calls.py 20,000. A
case is written `world/play/call.fault@first*times`, or `world/play/chance@seed`, and is played again by
``python tests/faults/failing_calls.py --case NAME``. One in which nothing came to fail, as threads took their turns
in another way than when its calls were counted, does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import gc
import json
import math
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from worlds import Server, Trial

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "faults"), str(ROOT / "tests"), str(ROOT / "src")]

from shim import CALLS, ENGINE, Fault, Shim, build  # noqa: E402 (it is where we have just said)
from sites import untried  # noqa: E402

# Of more calls of a kind than these in a play, some are chosen: where every one is not asked for.
FEW = 16
# With fewer than one in so many cases that count, there is something wrong with those that are chosen.
FIRES_OF = 3
WRONG_ENOUGH = 10
# So many cases of each call are among those of a world, however few these are.
OF_EACH_CALL = 6
# Of so many cases one is left to chance.
CHANCE_OF = 8
STATUS_BYTES = 256
# Most of a case is waiting: for deadlines, for the other side.
JOBS = 4 * len(os.sched_getaffinity(0))
PR_SET_PDEATHSIG = 1
# A worker's time for one case, before it says where its threads are, and ends.
STUCK_S = 120.0
# What takes memory; and where anything may fail, that may.
MEMORY = {"calloc", "malloc", "mmap", "mremap", "realloc", "slab_take", "slab_grow", "python", "chance"}
CHANCES = (3_000, 20_000, 100_000)
"""Of a million calls, those that fail where it is left to chance."""


class Case(NamedTuple):
    """One case. Where call is "chance", first is the seed."""

    play: str
    call: str
    fault: Fault
    first: int
    times: int

    def name(self, world: str) -> str:
        if self.call == "chance":
            return f"{world}/{self.play}/chance@{self.first}"
        return f"{world}/{self.play}/{self.call}.{self.fault.name}@{self.first}*{self.times}"

    @property
    def is_memory(self) -> bool:
        """Whether memory is what is missing: then a callback may raise MemoryError."""
        return self.call in MEMORY


class Report(NamedTuple):
    """What came of a world's cases.

    Attributes:
        ran: Cases that were played.
        fired: Of them, those in which something was made to fail: these count.
        calls: Of those, by what failed.
        wrong: What must not have been, with the name of its case.
        sites: "module+offset" -> how often a call from there was made to fail.
    """

    world: str
    ran: int
    fired: int
    calls: dict[str, int]
    wrong: list[str]
    sites: dict[str, int]
    seconds: float


ANYTHING = Fault(0)


# ---- in a process with the shim

class Stage:
    """A world, its server, and its plays."""

    def __init__(self, options: argparse.Namespace, shim: Shim, status: mmap.mmap | None) -> None:
        # Only now: what the engine imports of itself has to be the shim's.
        import worlds

        if options.patience:
            worlds.PATIENCE_S = options.patience
        import plays

        self._worlds = worlds
        self.world = next(world for world in worlds.WORLDS if world.name == options.world)
        self.plays = {play.__name__: play for play in plays.plays_of(self.world)}
        self.shim = shim
        self._status = status
        self._every = options.every
        self._only = options.play
        self._server: Server | None = None

    def _shown(self, name: str) -> None:
        if self._status is not None:
            self._status[:] = name.encode()[:STATUS_BYTES].ljust(STATUS_BYTES, b"\0")

    def server(self) -> Server:
        if self._server is None:
            self._server = self._worlds.Server(self.world, self.shim.mark)
            self._server.start()
        return self._server

    def end(self) -> None:
        """Stop the server, which has to come to its end."""
        if self._server is not None:
            server, self._server = self._server, None
            server.stop()

    def _arm(self, case: Case) -> None:
        if case.call == "chance":
            self.shim.leave_to_chance(case.first, CHANCES[case.first % len(CHANCES)])
        elif case.call:
            self.shim.arm(case.call, case.fault.how, case.first, case.times)

    def run(self, case: Case) -> int:
        """Play a case; return how many calls failed. Raises Wrong."""
        self._shown(case.name(self.world.name))
        if case.play.startswith("life"):
            return self._live(case)
        server = self.server()
        server.reset()
        # A load counts what it notices; only where nothing fails there is nothing to count.
        trial = self._worlds.Trial(server, case.fault.harmless and not (self.world.loads and case.call))
        try:
            self._arm(case)
            self.shim.on()
            try:
                self.plays[case.play](trial)
            except self._worlds.PeerOver as exc:
                if case.fault.harmless:
                    raise self._worlds.Wrong(f"nobody was to notice: {exc}") from None
            finally:
                self.shim.off()
            fired = self.shim.fired
            trial.settle()
            trial.check(case.is_memory, case.call == "python")
            self._serve_another(trial)
            trial.check_fds()
            return fired
        except BaseException:
            # What is left of it must not be the next case's.
            with contextlib.suppress(self._worlds.Wrong):
                self.end()
            raise
        finally:
            for peer in trial.peers:
                peer.sock.close()

    def _serve_another(self, trial: Trial) -> None:
        peer = trial.peer()
        try:
            peer.shake()
            peer.ask(b"e", b"is all well again?")
            how = peer.leave()
        except self._worlds.PeerOver as exc:
            raise self._worlds.Wrong(f"the next client: {exc}") from None
        finally:
            peer.sock.close()
        if how != "close 1000":
            raise self._worlds.Wrong(f"the next client: {how}")

    def _live(self, case: Case) -> int:
        """From the making of a loop to its end."""
        worlds = self._worlds
        fds, threads = worlds.count_fds(), threading.active_count()
        self._arm(case)
        self.shim.on()
        try:
            self._live_on(case)
        except (OSError, MemoryError) as exc:
            if case.fault.harmless:
                raise worlds.Wrong(f"nobody was to notice: {exc!r}") from exc
        finally:
            self.shim.off()
        fired = self.shim.fired
        if worlds.count_fds() != fds:
            # A loop that could not be run still knows its hooks, which know it.
            gc.collect()
        if (left := worlds.count_fds()) != fds:
            raise worlds.Wrong(f"{fds} descriptors before, {left} now")
        if threading.active_count() != threads:
            raise worlds.Wrong(f"threads are left: {threading.enumerate()}")
        return fired

    def _live_on(self, case: Case) -> None:
        worlds = self._worlds
        server = worlds.Server(self.world, self.shim.mark)
        server.start()
        trial = worlds.Trial(server, case.fault.harmless)
        try:
            peer = trial.guest()
            peer.ask(b"e", b"hello")
            trial.expect(peer.leave(), "close 1000")
        except worlds.PeerOver as exc:
            if case.fault.harmless:
                raise worlds.Wrong(f"nobody was to notice: {exc}") from None
        finally:
            for peer in trial.peers:
                peer.sock.close()
        if server.crashes:
            self._fail_to_run(server, case)
        server.stop(drain=case.play == "life_drained")

    def _fail_to_run(self, server: Server, case: Case) -> None:
        """A loop that could not be run: it can be once there is what was missing."""
        if case.fault.harmless or not all(isinstance(exc, OSError | MemoryError) for exc in server.crashes):
            raise self._worlds.Wrong(f"a runner ended: {server.crashes!r}") from server.crashes[0]
        self.shim.off()
        server.crashes.clear()
        server.join()
        server.start()
        trial = self._worlds.Trial(server, True)
        self._serve_another(trial)

    # --- the cases

    def cases(self, rng: random.Random) -> list[Case]:
        """Every call of every play, and what may become of it."""
        found = []
        for name in (*self.plays, *(() if self.world.loads else ("life", "life_drained"))):
            if self._only and name not in self._only:
                continue
            for _ in range(2):
                # The first one finds all new; the second one is as those that come.
                self.run(calm(name))
            for call, count in self.shim.seen().items():
                for fault in CALLS[call]:
                    if self.world.loads and call == "getrandom" and not fault.harmless:
                        # It ends the process rather than use keys that can be guessed (entropy.pyx).
                        continue
                    for times in fault.times:
                        found += [Case(name, call, fault, first, times) for first in self._some(count, rng)]
        return found

    def _some(self, count: int, rng: random.Random) -> list[int]:
        if count <= FEW or self._every:
            return list(range(count))
        return sorted({*range(FEW // 2), count - 1, *rng.sample(range(FEW // 2, count), FEW // 2 - 1)})

    def chances(self, seed: int) -> Iterator[Case]:
        """Cases without end in which anything may fail, again and again."""
        names = list(self.plays)
        while True:
            yield Case(names[seed % len(names)], "chance", ANYTHING, seed, 0)
            seed += 1


def calm(play: str) -> Case:
    """That of a play in which nothing fails."""
    return Case(play, "", Fault(0, harmless=True), 0, 0)


def named(name: str) -> Case:
    """The case of a name."""
    _world, play, what = name.split("/")
    call, _, rest = what.partition("." if "." in what else "@")
    if call == "chance":
        return Case(play, "chance", ANYTHING, int(rest), 0)
    fault, _, numbers = rest.partition("@")
    first, times = map(int, numbers.split("*"))
    return Case(play, call, next(one for one in CALLS[call] if one.name == fault), first, times)


def seldom_last(cases: list[Case]) -> list[Case]:
    """In their order, but for some of each call in the end, where they are taken from: what is called seldom is not to
    be left out."""
    often, seldom = [], []
    met: Counter[str] = Counter()
    for case in cases:
        met[case.call] += 1
        (seldom if met[case.call] <= OF_EACH_CALL else often).append(case)
    return often + seldom


def work(options: argparse.Namespace) -> Report:
    """Play a world's cases in this process."""
    # It is of no use without the one that started it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    faulthandler.enable()
    shim = Shim(options.engine)
    shim.hook_python()
    import _uws.core
    import _uws.load
    import _uws.wire  # noqa: F401 (what the others do not import)

    server_side = {
        module.__file__ for name, module in sys.modules.items() if name.startswith("_uws.") and module.__file__
    }
    shim.watch(server_side)
    status = None
    if options.status:
        with open(options.status, "r+b") as file:
            status = mmap.mmap(file.fileno(), STATUS_BYTES)
    stage = Stage(options, shim, status)
    rng = random.Random(options.seed)
    begin = time.monotonic()
    ran = fired = 0
    wrong: list[str] = []
    calls: Counter[str] = Counter()
    if options.case:
        cases = [named(name) for name in options.case] * options.runs
        for case in cases[: len(options.case)]:
            stage.run(calm(case.play))
    else:
        faulthandler.dump_traceback_later(STUCK_S, exit=True)
        cases = stage.cases(rng)
        rng.shuffle(cases)
        cases = seldom_last(cases)
    chances = stage.chances(options.seed * 1_000_000)
    most = len(cases) if options.case or options.every else FIRES_OF * options.cases
    while ran < most and (options.case or options.every or fired < options.cases):
        by_chance = not options.case and not options.every and (ran % CHANCE_OF == 0 or not cases)
        case = next(chances) if by_chance else cases.pop()
        if ran % 100 == 0:
            faulthandler.dump_traceback_later(STUCK_S, exit=True)
        ran += 1
        try:
            failed = stage.run(case)
        except AssertionError as exc:
            wrong.append(_again(case.name(options.world), str(exc)))
            failed = 1
            if len(wrong) == options.wrong:
                break
        if failed:
            fired += 1
            calls[case.call] += 1
    try:
        stage.end()
    except AssertionError as exc:
        wrong.append(f"{options.world}: the end: {exc}")
    faulthandler.cancel_dump_traceback_later()
    sites = {f"{module}+{offset:#x}": failed for (module, offset), (_, failed) in shim.sites().items()}
    return Report(options.world, ran, fired, dict(calls), wrong, sites, time.monotonic() - begin)


# ---- in the one that starts those

def shares(cases: int) -> dict[str, int]:
    """How many cases each world has of so many."""
    # They import the engine: in a worker only once the shim is there.
    from worlds import WORLDS

    total = sum(world.share for world in WORLDS)
    return {world.name: math.ceil(cases * world.share / total) for world in WORLDS}


def _again(case: str, what: str) -> str:
    """What was wrong, and how to see it again."""
    return f"{case}: {what}\n        again: python tests/faults/failing_calls.py --case '{case}'"


def run_world(world: str, cases: int, seed: int, limit_s: float, *more: str) -> Report:
    """Play so many of a world's cases in a process of their own. more: further options of this program."""
    return _work(world, ["--cases", str(cases), "--seed", str(seed), *more], limit_s)


def run_named(names: Sequence[str], runs: int, limit_s: float = 600.0, *more: str) -> Report:
    """Play these cases, of one world, so often in a process of their own."""
    worlds = {name.partition("/")[0] for name in names}
    if len(worlds) != 1:
        raise ValueError(f"cases of {', '.join(sorted(worlds))}: one world at a time")
    arguments = [part for name in names for part in ("--case", name)]
    return _work(worlds.pop(), [*arguments, "--runs", str(runs), *more], limit_s)


def _work(world: str, arguments: list[str], limit_s: float) -> Report:
    """Have a process with the shim play what the arguments say."""
    with tempfile.NamedTemporaryFile() as status:
        status.write(b"\0" * STATUS_BYTES)
        status.flush()
        command = [sys.executable, __file__, "--worker", "--world", world, "--status", status.name, *arguments]
        environment = {**os.environ, "LD_PRELOAD": str(build()), "PYTHONDONTWRITEBYTECODE": "1"}
        begin = time.monotonic()
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit_s)
            output, complaints, ending = done.stdout, done.stderr, f"status {done.returncode}"
        except subprocess.TimeoutExpired as exc:
            output, complaints, ending = "", str(exc.stderr or ""), f"not within {limit_s} s"
        seconds = time.monotonic() - begin
        lines = output.splitlines()
        if lines and lines[-1].startswith("{"):
            report = Report(**json.loads(lines[-1]))
            if ending == "status 0":
                return report
        at = Path(status.name).read_bytes().rstrip(b"\0").decode()
        return Report(world, 0, 0, {}, [f"{_again(at or world, ending)}\n{complaints[-4000:]}"], {}, seconds)


def run_all(cases: int, seed: int, jobs: int, limit_s: float, *more: str) -> Iterator[Report]:
    """Play about so many cases, of each world as many as its share is, some worlds at a time."""
    build()
    # Those first that take longest, a case and in all: whoever is alone in the end keeps everybody waiting.
    by_length = sorted(shares(cases).items(), key=lambda share: share[1])
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda share: run_world(*share, seed, limit_s, *more), by_length)


def main(arguments: list[str] | None = None) -> int:
    """Play cases and print a table. 0: nothing was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=20_000, help="of all worlds together")
    parser.add_argument("--world", help="of this one only")
    parser.add_argument("--play", action="append", default=[], help="this one only, of those of a world; several")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", action="append", default=[], help="this one, by its name; several of one world")
    parser.add_argument("--runs", type=int, default=20, help="of each of those")
    parser.add_argument("--every", action="store_true", help="each case there is, but for those left to chance")
    parser.add_argument("--engine", type=Path, default=ENGINE, help="the package _uws, of a wheel for example")
    parser.add_argument("--wrong", type=int, default=WRONG_ENOUGH, help="so many wrong cases of a world are enough")
    parser.add_argument("--patience", type=float, default=0.0, help="seconds after which a client waits for ever")
    parser.add_argument("--jobs", type=int, default=JOBS, help="worlds at a time")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--status", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        report = work(options)
        print(json.dumps(report._asdict()))
        return 0
    more = ["--engine", str(options.engine), "--wrong", str(options.wrong), *(["--every"] if options.every else [])]
    more += ["--patience", str(options.patience)]
    more += [part for play in options.play for part in ("--play", play)]
    reports = (
        [run_named(options.case, options.runs, 36_000, *more)]
        if options.case
        else [run_world(options.world, options.cases, options.seed, 36_000, *more)]
        if options.world
        else run_all(options.cases, options.seed, options.jobs, 36_000, *more)
    )
    total: Counter[str] = Counter()
    sites: Counter[str] = Counter()
    wrong = ran = 0
    print(f"{'world':<14} {'cases':>7} {'fired':>7} {'wrong':>6} {'s':>6}")
    for report in reports:
        total.update(report.calls)
        sites.update(report.sites)
        ran += report.ran
        wrong += len(report.wrong)
        print(
            f"{report.world:<14} {report.ran:>7} {report.fired:>7} {len(report.wrong):>6} {report.seconds:>6.0f}",
            flush=True,
        )
        for what in report.wrong:
            print(f"    {what}", flush=True)
    print(f"{ran} cases were played, in {total.total()} of them something failed:")
    print("  " + ", ".join(f"{call} {count}" for call, count in total.most_common()))
    if shutil.which("objdump"):
        places, left = untried(options.engine, sites)
        print(f"{places} places of the engine call what may fail; in {places - len(left)} of them it did. Not in:")
        print("  " + ", ".join(f"{site.module}.{site.function}: {site.call}" for site in left))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
