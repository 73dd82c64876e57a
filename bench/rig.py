"""What every benchmark here needs: native tools, servers under test, pinned cores, facts about the machine.

Owns the rule for contaminated samples (see `measure`), and the talk with a server or a client that waits for a word
(see `Peer`). Imported by the benchmarks and by their tests only.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import runtimes
from runtimes import native_library as native_library
from runtimes import native_tool as native_tool

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent

START_TIMEOUT_S = 30.0
OPEN_TIMEOUT_S = 130.0
# For what has a known end, beyond it.
PATIENCE_S = 30.0
# In cores, what neither side used while a sample was taken. Above it somebody else was at work, and the
# sample says more about them.
MAX_OTHER_CPU = 0.15
TRIES = 4


class Failed(SystemExit):
    """A server or a client did not do what it should have: the message says what. Ends a program that lets it pass."""


@dataclass(frozen=True)
class Server:
    """A server under test.

    script: a file of bench/servers, by its suffix for Python (.py) or Node (.cjs); "go/NAME", a directory there; None:
        the floor.
    needs: modules without which it is left out.
    dists: distributions whose versions belong to the result; of a Go server the module.
    args: of the script.
    source: where the library is imported from; None: from this tree if it is built in place, or as installed.
    """

    name: str
    script: str | None
    needs: tuple[str, ...] = ()
    dists: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    source: Path | None = None

    def missing(self) -> str | None:
        """Return why it cannot run here; None if it can."""
        if self.script is not None and not (BENCH / "servers" / self.script).exists():
            return f"no bench/servers/{self.script}"
        try:
            if self._runtime == "node":
                runtimes.node_versions()
            elif self._runtime == "go":
                runtimes.go_server(self._go_name)
        except runtimes.NotToBeHad as why:
            return str(why)
        for module in self.needs:
            # In a process of its own: an import that crashes or registers signal handlers must not be ours.
            done = subprocess.run(
                [sys.executable, "-c", f"import {module}"],
                env={**environment(self.path()), **self.environment()},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            if done.returncode != 0:
                return f"no module {module}"
        return None

    @property
    def _runtime(self) -> str:
        if self.script is None:
            return "native"
        return "go" if self.script.startswith("go/") else "node" if self.script.endswith(".cjs") else "python"

    @property
    def is_python(self) -> bool:
        return self._runtime == "python"

    @property
    def _go_name(self) -> str:
        assert self.script is not None
        return self.script.removeprefix("go/")

    def versions(self) -> str:
        if self._runtime == "node":
            return runtimes.node_versions()
        if self._runtime == "go":
            return runtimes.go_versions(self._go_name, *self.dists)
        return ", ".join(f"{dist} {version_of(dist)}" for dist in self.dists)

    def command(self) -> list[str]:
        if self.script is None:
            return [str(native_tool("wsfloor"))]
        if self._runtime == "go":
            return [str(runtimes.go_server(self._go_name)), *self.args]
        program = "node" if self._runtime == "node" else sys.executable
        return [program, str(BENCH / "servers" / self.script), *self.args]

    def path(self) -> list[str]:
        """Return where Python looks for modules first."""
        source = self.source or (ROOT / "src" if built_in_place() else None)
        return [str(source)] if self.is_python and source is not None else []

    def environment(self) -> dict[str, str]:
        """Return what its process has beside our own environment."""
        return runtimes.node_environment() if self._runtime == "node" else {}

    def in_company(self, company: str) -> Server:
        """Return the same server with another thread in its process: see servers/company.py."""
        assert self.script is not None and not self.args
        return dataclasses.replace(self, script="company.py", args=(company, self.script))


def ours(name: str, script: str, *args: str, needs: tuple[str, ...] = ()) -> Server:
    wanted = ("unlimitedws", *needs)
    return Server(name, script, wanted, wanted, args)


def peer(name: str, script: str, *args: str, needs: tuple[str, ...]) -> Server:
    return Server(name, script, needs, needs, args)


FLOOR = Server("C floor", None)
OURS_INLINE = ours("ours, inline on_message", "ours_inline.py")
OURS_POOL = ours("ours, DefaultServer on_message", "ours_pool.py")
OURS_GO = ours("ours, DefaultServer on_read", "ours_go.py")
OURS_HOOK_INLINE = ours("ours, inline on_request", "ours_hook.py", "inline")
OURS_HOOK_POOL = ours("ours, DefaultServer on_request", "ours_hook.py", "pool")
OURS_AIO = ours("ours, aio", "ours_aio.py")
OURS_AIO_UVLOOP = ours("ours, aio + uvloop", "ours_aio.py", "uvloop", needs=("uvloop",))
PICOWS = peer("picows + uvloop", "picows_echo.py", needs=("picows", "uvloop"))
SOCKETIFY = peer("socketify", "socketify_echo.py", needs=("socketify",))
SOCKETIFY_HOOK = peer("socketify, upgrade handler", "socketify_echo.py", "hook", needs=("socketify",))
AIOHTTP = peer("aiohttp + uvloop", "aiohttp_echo.py", needs=("aiohttp", "uvloop"))
WEBSOCKETS = peer("websockets", "websockets_echo.py", needs=("websockets",))
WEBSOCKETS_UVLOOP = peer("websockets + uvloop", "websockets_echo.py", "uvloop", needs=("websockets", "uvloop"))
UVICORN = peer("uvicorn", "uvicorn_echo.py", needs=("uvicorn", "websockets"))
NODE_WS = Server("ws (Node)", "node_ws_echo.cjs")
GWS = Server("gws (Go)", "go/gws", dists=("github.com/lxzan/gws",))
GO_ORIGINAL = Server("the Go original", "go/original", dists=("github.com/hxt365/unlimitedws",))


def built_in_place() -> bool:
    """Tell whether the engine was built into src/; then that one is measured, not an installed one."""
    return any((ROOT / "src" / "_uws").glob("*.so"))


def environment(path: list[str]) -> dict[str, str]:
    env = dict(os.environ)
    if path:
        env["PYTHONPATH"] = os.pathsep.join([*path, *filter(None, [env.get("PYTHONPATH")])])
    return env


def version_of(dist: str) -> str:
    try:
        return importlib.metadata.version(dist)
    except importlib.metadata.PackageNotFoundError:
        return "from the source tree" if dist == "unlimitedws" else "of unknown version"


def cores() -> tuple[int, int]:
    """Return the server's core and the client's. Raises SystemExit where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise SystemExit("two cores are needed: on one, client and server measure each other")
    return usable[0], usable[-1]


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """What this thread starts meanwhile has one core (None: any), and as many descriptors as it may have.

    It inherits that. Code between fork and exec (preexec_fn) would need locks that other threads may have held.
    """
    cores, (soft, hard) = os.sched_getaffinity(0), resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        if core is not None:
            os.sched_setaffinity(0, {core})
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.sched_setaffinity(0, cores)


class Peer:
    """A server or a client in a process of its own, and what is said with it, line by line."""

    def __init__(
        self, name: str, command: list[str], core: int | None, path: list[str], env: dict[str, str] | None = None
    ) -> None:
        self.name = name
        with pinned(core):
            self.process = subprocess.Popen(
                command,
                env={**environment(path), **(env or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.pid = self.process.pid
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        self._heard = b""

    def say(self, line: str) -> None:
        """Raises Failed if nobody is there to hear it."""
        try:
            self._stdin.write(line.encode() + b"\n")
        except BrokenPipeError:
            raise Failed(f"{self.name} has ended: exit code {self.process.wait()}") from None

    def hear(self, timeout: float) -> str:
        """Return the next line, without its end. Raises Failed if none comes within the timeout."""
        end = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while b"\n" not in self._heard:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise Failed(f"{self.name} said nothing for {timeout:g} s")
                got = os.read(self._stdout.fileno(), 65536)
                if not got:
                    raise Failed(f"{self.name} has ended: exit code {self.process.wait()}")
                self._heard += got
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode().strip()

    def ask(self, line: str) -> dict[str, Any]:
        """Say something that is answered with one line of JSON. Raises as `say` and `hear` do."""
        self.say(line)
        told: dict[str, Any] = json.loads(self.hear(PATIENCE_S))
        return told

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._stdin.close()
        self._stdout.close()


@contextmanager
def serving(server: Server, core: int | None) -> Iterator[tuple[Peer, int]]:
    """Run a server on one core; None: on any. Yields it and its port; it is killed at the end."""
    peer = Peer(server.name, server.command(), core, server.path(), server.environment())
    try:
        line = peer.hear(START_TIMEOUT_S)
        if not line.isdigit():
            raise Failed(f"{server.name} did not print its port but {line!r}")
        yield peer, int(line)
        if peer.process.poll() is not None:
            raise Failed(f"{server.name} ended while it was measured: exit code {peer.process.returncode}")
    finally:
        peer.end()


@contextmanager
def running(server: Server, core: int) -> Iterator[tuple[int, int]]:
    """Run a server on one core. Yields its pid and port; it is killed at the end."""
    with serving(server, core) as (peer, port):
        yield peer.pid, port


def probe_command(port: int, mode: str, options: dict[str, Any]) -> list[str]:
    command = [str(native_tool("wsprobe")), "--port", str(port), "--mode", mode]
    for name, value in options.items():
        command.append(f"--{name.replace('_', '-')}")
        if value is not True:
            command.append(str(value))
    return command


@contextmanager
def probing(core: int, port: int, mode: str, **options: Any) -> Iterator[Peer]:
    """Run wsprobe against a server. Yields it once its connections are open; it is killed at the end."""
    peer = Peer("wsprobe", probe_command(port, mode, options), core, [])
    try:
        line = peer.hear(OPEN_TIMEOUT_S)
        if line != "ready":
            raise Failed(f"wsprobe could not open its connections: {line}")
        yield peer
    finally:
        peer.end()


def probe(core: int, pid: int, port: int, mode: str, seconds: float, **options: Any) -> dict[str, Any]:
    """Run wsprobe once against a server. Raises Failed if a connection was lost or a reply was wrong."""
    with probing(core, port, mode, server_pid=pid, seconds=seconds, **options) as peer:
        line = peer.hear(seconds + PATIENCE_S)
        if peer.process.wait(PATIENCE_S) != 0:
            raise Failed(f"wsprobe --mode {mode}: {line}")
    result: dict[str, Any] = json.loads(line)
    return result


def load(core: int, pid: int, port: int, **options: Any) -> dict[str, Any]:
    """Run wsload once against a server. Raises Failed if a connection was lost or a reply was wrong."""
    command = [str(native_tool("wsload")), "--port", str(port), "--server-pid", str(pid)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    with pinned(core):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        # Without the path: the words are recorded, and it says nothing to anybody else.
        raise Failed(f"wsload {' '.join(command[1:])}: exit code {done.returncode}: {done.stdout.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(
    core: int,
    pid: int,
    port: int,
    tries: int = TRIES,
    take: Callable[..., dict[str, Any]] = load,
    **options: Any,
) -> tuple[dict[str, Any] | None, int]:
    """Take one sample, by `load` or `probe`; one that somebody else's work contaminated is dropped and taken again.

    Returns the first clean sample, or None if all tries were contaminated; and how many were dropped.
    """
    for dropped in range(tries):
        sample = take(core, pid, port, **options)
        # A sample of memory has none: what others compute does not change it.
        if sample.get("other_cpu", 0.0) <= MAX_OTHER_CPU:
            return sample, dropped
    return None, tries


def present(servers: list[Server]) -> list[Server]:
    """Return the servers that can run here, and say which are left out."""
    kept = []
    for server in servers:
        reason = server.missing()
        if reason is None:
            kept.append(server)
        else:
            print(f"left out: {server.name} ({reason})", flush=True)
    return kept


def turns(servers: list[Server], rounds: int) -> Iterator[tuple[int, Server]]:
    """Whose turn it is, round by round: another one begins each, so that none always follows the same neighbour."""
    for number in range(rounds):
        first = number % len(servers)
        for server in servers[first:] + servers[:first]:
            yield number, server


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def print_facts(servers: list[Server]) -> None:
    """Print what a figure means nothing without."""
    print(f"machine: {cpu_model()}, {os.cpu_count()} cores; kernel {platform.release()}")
    versions = dict.fromkeys(text for server in servers if (text := server.versions()))
    print(
        "versions:", "; ".join([f"{platform.python_implementation()} {platform.python_version()}", *versions])
    )


def table_lines(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lay out a Markdown table with aligned columns, the first to the left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = ([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])] for cells in [header, rule, *rows])
    return [f"| {' | '.join(cells)} |" for cells in padded]


def print_table(header: list[str], rows: list[list[str]]) -> None:
    print("\n".join(table_lines(header, rows)))
