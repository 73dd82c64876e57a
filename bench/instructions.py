"""Instructions of one echo, one handshake, one tick: counted by callgrind, and held against a baseline.

    python bench/instructions.py [--only NAME] [--top 15] [--update]

Time differs from run to run and from machine to machine; the number of instructions does not. Each work is done some
times and then more times, in one process and after it was rehearsed: the difference, divided, is what one of them
takes. Starting the server, opening the connections and being asked drop out of it. The client is a process of its own
and not counted.

Two figures: *ours*, the instructions within the engine's own libraries, and *all*, with what these call: the
interpreter, the callback, the C library. System calls count as what leads to them.

`instructions.json` has baselines, each with what it was taken with; exit code 1 where a figure is above it by more than
the tolerance. Another compiler makes other instructions of the same source: where it, Cython or the interpreter is of
another version, nothing is compared; where only the interpreter's build or the C library is another, ours is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import resource
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import rig

BASELINE = rig.BENCH / "instructions.json"
# In percent. Repeated, the figures of one build differ by far less than one; compilers' minor versions by more.
TOLERANCE = 3.0
START_TIMEOUT_S = 120.0
DONE_TIMEOUT_S = 240.0
MESSAGE_BYTES = 32
TICK_MS = 16
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
# Zeros behind their mask; so the mask is what comes back.
MASK = bytes([1, 2, 3, 4])
FRAME = bytes([0x82, 0x80 | MESSAGE_BYTES]) + MASK + bytes(MESSAGE_BYTES)
REPLY = bytes([0x82, MESSAGE_BYTES]) + MASK * (MESSAGE_BYTES // 4)
PING = b"\x89\x00"
PONG = b"\x8a\x80\x00\x00\x00\x00"

Function = tuple[str, str]  # library, name
# How often it waits while its clock is held is the machine's affair. The last two are part of each call that waits.
WAITING = (
    "epoll_wait", "usleep", "clock_nanosleep", "nanosleep", "__pthread_enable_asynccancel",
    "__pthread_disable_asynccancel",
)  # fmt: skip


class Cost(NamedTuple):
    """What a function takes: instructions of its own, and how often it is called."""

    instructions: float
    calls: float


Counted = dict[Function, Cost]


@dataclass(frozen=True)
class Work:
    """Something to be counted.

    kind: of servers/counted.py.
    clock: what becomes of the engine's: "stop", "hold" (and it is put forward), or "" (it goes on).
    rehearsed, few, many: how often it is done before it is counted, and while; multiples of `outstanding`.
    idle: connections that are there and silent.
    outstanding: messages sent together.
    """

    name: str
    kind: str
    what: str
    clock: str
    rehearsed: int
    few: int
    many: int
    outstanding: int = 1
    idle: int = 0


# With a hook in Python the clock goes on: other threads wait for the GIL, and look at it.
WORKS = (
    Work("echo", "inline", "echo", "stop", 1024, 512, 1536),
    Work("echo, 16 outstanding", "inline", "echo", "stop", 2048, 1024, 3072, outstanding=16),
    Work("echo, DefaultServer", "pool", "echo", "stop", 1024, 512, 1536),
    Work("echo, DefaultServer, 16 outstanding", "pool", "echo", "stop", 2048, 1024, 3072, outstanding=16),
    Work("echo, Go API", "go", "echo", "stop", 1024, 512, 1536),
    Work("echo, Go API, 16 outstanding", "go", "echo", "stop", 2048, 1024, 3072, outstanding=16),
    Work("handshake", "plain", "handshake", "stop", 100, 100, 400),
    Work("handshake, Python hook", "hook", "handshake", "", 100, 100, 400),
    Work("tick, 1,000 idle connections", "plain", "tick", "hold", 3750, 3750, 11250, idle=1000),
)


class Client:
    """The other end, in this process. One connection echoes; others are only held."""

    def __init__(self, port: int, work: Work) -> None:
        self._port = port
        self._work = work
        self.held: list[socket.socket] = []
        self._messages, self._replies = FRAME * work.outstanding, REPLY * work.outstanding
        if work.what == "echo":
            self.connect()

    def connect(self) -> socket.socket:
        number = len(self.held)
        # To one address, the kernel's search for a local port slows down.
        sock = socket.create_connection(
            ("127.0.0.1", self._port), source_address=(f"127.0.1.{1 + number // 500}", 0), timeout=DONE_TIMEOUT_S
        )
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.held.append(sock)
        sock.sendall(REQUEST)
        response = b""
        while b"\r\n\r\n" not in response:
            response += receive(sock)
        if not response.startswith(b"HTTP/1.1 101 "):
            raise SystemExit(f"the handshake was answered with {response!r:.100}")
        return sock

    def echo(self, times: int) -> None:
        """times: messages, a multiple of those sent together."""
        sock = self.held[0]
        for _ in range(times // self._work.outstanding):
            sock.sendall(self._messages)
            got = b""
            while len(got) < len(self._replies):
                got += receive(sock)
            if got != self._replies:
                raise SystemExit(f"the echo was {got!r:.100}")

    def handshake(self, times: int) -> None:
        for _ in range(times):
            self.connect()

    def close(self) -> None:
        for sock in self.held:
            sock.close()


def receive(sock: socket.socket) -> bytes:
    got = sock.recv(65536)
    if not got:
        raise SystemExit("the server dropped a connection")
    return got


@contextlib.contextmanager
def answering_pings(held: list[socket.socket]) -> Iterator[None]:
    """Answer pings on connections that are idle, as browsers do, in a process of its own."""
    pid = os.fork()
    if pid == 0:
        # Nothing of this process's is undone on the way out.
        try:
            answer_pings(held)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def answer_pings(held: list[socket.socket]) -> None:
    poll = select.epoll()
    by_fd = {sock.fileno(): sock for sock in held}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    while True:
        for fd, _ in poll.poll():
            if receive(by_fd[fd]) != PING:
                raise SystemExit("an idle connection got something else than a ping")
            by_fd[fd].sendall(PONG)


def wait_until_quiet(pid: int) -> None:
    """Until all threads of a process sleep; the rest of a turn belongs to what was done before."""
    deadline = time.monotonic() + DONE_TIMEOUT_S
    seen = 0
    while seen < 3:
        states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
        seen = seen + 1 if set(states) <= {"S"} else 0
        if time.monotonic() > deadline:
            raise SystemExit("the server does not come to rest")
        time.sleep(0.003)


# ---- callgrind


def count(work: Work) -> Counted:
    """Do a work under callgrind. Returns what one of it takes, by function."""
    with tempfile.TemporaryDirectory() as room:
        out = Path(room, "out")
        library = rig.native_library("counted")
        path = [str(rig.ROOT / "src")] if rig.built_in_place() else []
        command = [
            "env", f"LD_PRELOAD={library}", "PYTHONHASHSEED=0",
            "valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}", "--instr-atstart=no",
            "--compress-strings=no", "--compress-pos=no",
            sys.executable, str(rig.BENCH / "servers" / "counted.py"), work.kind,
        ]  # fmt: skip
        server = rig.Peer("counted.py", command, min(os.sched_getaffinity(0)), path)
        try:
            return counted_by(server, work, out)
        finally:
            server.end()


def counted_by(server: rig.Peer, work: Work, out: Path) -> Counted:
    port = server.hear(START_TIMEOUT_S)
    if not port.isdigit():
        raise SystemExit(f"the server did not print its port but {port!r}")

    def say(line: str) -> None:
        server.say(line)
        if (answer := server.hear(DONE_TIMEOUT_S)) != "done":
            raise SystemExit(f"the server was told to {line}, and said {answer!r}")

    if work.clock:
        say(work.clock)
    client = Client(int(port), work)
    with contextlib.ExitStack() as stack:
        stack.callback(client.close)
        client.handshake(work.idle)
        if work.what == "tick":
            stack.enter_context(answering_pings(client.held))

            def do(times: int) -> None:
                say(f"run {times * TICK_MS}")

        else:
            do = client.echo if work.what == "echo" else client.handshake
        do(work.rehearsed)
        parts = []
        # The first two only rehearse being counted.
        for number, times in enumerate((work.outstanding, work.outstanding, work.few, work.many), 1):
            wait_until_quiet(server.pid)
            say("begin")
            do(times)
            wait_until_quiet(server.pid)
            say(f"end {number}")
            parts.append(parse(out.with_name(f"{out.name}.{number}").read_text()))
    few, many = parts[2:]
    zero = Cost(0, 0)
    return {
        function: Cost(*((b - a) / (work.many - work.few) for a, b in zip(few.get(function, zero), cost, strict=True)))
        for function, cost in many.items()
        if not is_apparatus(function, work)
    }


def is_apparatus(function: Function, work: Work) -> bool:
    """What is there only because we count: the preloaded library, and its waiting."""
    library, name = function
    waits = work.clock == "hold" and name.startswith(WAITING)
    return library == "counted" or (library == "libc" and waits)


def parse(text: str) -> Counted:
    """Read a file of callgrind's (format version 1, nothing compressed)."""
    library = name = called_library = called = "?"
    calls = 0
    instructions: Counter[Function] = Counter()
    called_by_all: Counter[Function] = Counter()
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if line[:1].isdigit():
            # The line behind calls= is what the call cost, which the callee has already.
            if not calls:
                instructions[library, name] += int(line.split()[1])
            calls = 0
        elif key == "ob":
            library = called_library = short(value)
        elif key == "fn":
            name = level(value)
        elif key == "cob":
            called_library = short(value)
        elif key == "cfn":
            called = level(value)
        elif key == "calls":
            calls = int(value.split()[0])
            called_by_all[called_library, called] += calls
            # Said for each call, where it is another one than the caller's.
            called_library = library
    if not instructions:
        raise SystemExit("callgrind's file has no figures")
    return {one: Cost(instructions[one], called_by_all[one]) for one in [*instructions, *called_by_all]}


def short(library: str) -> str:
    name = Path(library).name.partition(".")[0]
    return f"_uws/{name}" if "/_uws/" in library else name


def level(function: str) -> str:
    """The function: callgrind numbers the levels of a recursion."""
    return re.sub(r"'\d+$", "", function)


def plain(name: str) -> str:
    """The name that a function has in the source: __pyx_f_4_uws_4loop_loop_turn is loop_turn."""
    mangled = re.match(r"__pyx_(?:p?[fw]|tp_[a-z_]+?|getprop|setprop)_(?=\d)(.*)", name)
    if mangled is None:
        return name
    # Package, module, class and a nested scope, each behind its length. A def function comes behind its number.
    rest, parts = mangled[1], []
    while (number := re.match(r"\d+", rest)) is not None:
        end = number.end() + int(number[0])
        if not re.match(r"$|_(?=.)", rest[end:]) or end > len(rest):
            rest = rest[number.end() :]
            break
        parts.append(rest[number.end() : end])
        rest = rest[end + 1 :]
    made = re.match(r"__pyx_tp_([a-z_]+?)_\d", name)
    return ".".join([*parts[2:], *filter(None, [rest])]) + (f" ({made[1]})" if made else "")


def is_ours(function: Function) -> bool:
    return function[0].startswith("_uws/")


# ---- the baseline


def made_with() -> dict[str, str]:
    """What the figures depend on. Those of ours on `ours` alone."""
    compiler = platform.python_compiler().partition(" (")[0]
    found = subprocess.run(
        [os.environ.get("CC", "gcc"), "-dumpfullversion"], stdout=subprocess.PIPE, text=True, check=False
    )
    gcc = found.stdout.partition(".")[0].strip()
    cython = ".".join(rig.version_of("Cython").split(".")[:2])
    python = ".".join(platform.python_version_tuple()[:2])
    free = "" if getattr(sys, "_is_gil_enabled", lambda: True)() else "t"
    return {
        "ours": f"CPython {python}{free}, Cython {cython}, gcc {gcc}, {platform.machine()}",
        "all": f"{platform.python_version()} by {compiler}, {' '.join(platform.libc_ver())}",
    }


def total(counted: Counted, chosen: Callable[[Function], bool]) -> float:
    return round(sum(cost.instructions for function, cost in counted.items() if chosen(function)), 1)


def totals(counted: Counted) -> dict[str, float]:
    return {"ours": total(counted, is_ours), "all": total(counted, lambda function: True)}


def compare(
    figures: dict[str, dict[str, float]], here: dict[str, str], baselines: list[dict[str, Any]]
) -> tuple[dict[tuple[str, str], float], str]:
    """Hold figures against the baseline that was taken with what is here.

    Returns the changes in percent by (work, "ours" or "all"), and a sentence about what is not compared, and why.
    """
    found = next((one for one in baselines if one["made with"]["ours"] == here["ours"]), None)
    if found is None:
        known = "; ".join(one["made with"]["ours"] for one in baselines)
        return {}, f"nothing is compared: there is no baseline for {here['ours']}, only for: {known}"
    kinds, why = ["ours"], ""
    if found["made with"]["all"] == here["all"]:
        kinds.append("all")
    else:
        why = f"only ours is compared: the baseline is of {found['made with']['all']}, and this is {here['all']}"
    missing = sorted(set(figures) - set(found["works"]))
    if missing:
        why = "; ".join(filter(None, [why, f"not in the baseline: {', '.join(missing)}"]))
    changes = {
        (name, kind): 100.0 * (values[kind] / found["works"][name][kind] - 1.0)
        for name, values in figures.items()
        if name in found["works"]
        for kind in kinds
    }
    return changes, why


def verdict(changes: dict[tuple[str, str], float]) -> tuple[list[str], bool]:
    """Sentences about what is no longer as the baseline has it, and whether that is for the worse."""
    said = []
    failed = False
    for (name, kind), percent in sorted(changes.items()):
        if percent > TOLERANCE:
            said.append(f"{name}: {kind} takes {percent:+.1f} % instructions, {TOLERANCE:g} are allowed")
            failed = True
        elif percent < -TOLERANCE:
            said.append(f"{name}: {kind} takes {percent:+.1f} % instructions: --update writes the gain down")
    return said, failed


def update(figures: dict[str, dict[str, float]], here: dict[str, str], baselines: list[dict[str, Any]]) -> None:
    """Write the figures into the baseline file, in place of those taken with the same."""
    found = next((one for one in baselines if one["made with"]["ours"] == here["ours"]), None)
    if found is None:
        found = {"made with": here, "works": {}}
        baselines.append(found)
    elif found["made with"] != here:
        # What was counted with another interpreter would be compared with what this one does.
        found["works"] = {}
    found["made with"] = here
    found["works"].update(figures)
    BASELINE.write_text(json.dumps(baselines, indent=1) + "\n")


def read_baselines() -> list[dict[str, Any]]:
    baselines: list[dict[str, Any]] = json.loads(BASELINE.read_text()) if BASELINE.exists() else []
    return baselines


# ---- the report


def print_figures(counts: dict[str, Counted], changes: dict[tuple[str, str], float]) -> None:
    rows = []
    for name, counted in counts.items():
        values = totals(counted)
        interpreter = total(counted, lambda function: function[0].startswith(("libpython", "python")))
        row = [name, f"{values['ours']:,.0f}", f"{interpreter:,.0f}"]
        row += [f"{values['all'] - values['ours'] - interpreter:,.0f}", f"{values['all']:,.0f}"]
        row += [
            f"{changes[name, kind]:+.1f} %" if (name, kind) in changes else "-" for kind in ("ours", "all")
        ]
        rows.append(row)
    rig.print_table(["instructions of one", "ours", "interpreter", "libc ...", "all", "ours", "all"], rows)
    print("The last two columns: against the baseline.")


def print_top(name: str, counted: Counted, top: int) -> None:
    whole = totals(counted)["all"]
    print(f"\n{name}: the {top} functions with the most of {whole:,.0f}")
    ordered = sorted(counted.items(), key=lambda item: -item[1].instructions)
    rows = []
    for (library, function), cost in ordered[:top]:
        figures = [f"{cost.calls:,.2f}", f"{cost.instructions:,.1f}", f"{cost.instructions / whole:.1%}"]
        rows.append([plain(function), library, *figures])
    rig.print_table(["function", "of", "calls", "instructions", "share"], rows)


def missing() -> str | None:
    """What is missing here, to count."""
    if shutil.which("valgrind") is None:
        return "valgrind is not here"
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None:
        return "there is no C compiler"
    probe = subprocess.run(
        [compiler, "-E", "-"], input="#include <valgrind/callgrind.h>", text=True, capture_output=True
    )
    return None if probe.returncode == 0 else "valgrind's headers are not here"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", choices=[work.name for work in WORKS], help="more than one may be")
    parser.add_argument("--top", type=int, default=15, help="functions that are shown; 0: none")
    parser.add_argument("--update", action="store_true", help="make what is counted the baseline")
    args = parser.parse_args()
    why_not = missing()
    if why_not is not None:
        print(f"left out: {why_not}")
        return 0
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    counts = {work.name: count(work) for work in WORKS if not args.only or work.name in args.only}
    figures = {name: totals(counted) for name, counted in counts.items()}
    here, baselines = made_with(), read_baselines()
    changes, why = compare(figures, here, baselines)
    print(f"counted with: {here['ours']}; {here['all']}")
    print_figures(counts, changes)
    if args.top:
        for name, counted in counts.items():
            print_top(name, counted, args.top)
    if args.update:
        update(figures, here, baselines)
        return 0
    said, failed = verdict(changes)
    for sentence in filter(None, [why, *said]):
        print(sentence)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
