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

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
NATIVE = BENCH / "native"
BIN = BENCH / "bin"

START_TIMEOUT_S = 30.0
OPEN_TIMEOUT_S = 130.0
# For what has a known end, beyond it.
PATIENCE_S = 30.0
# In cores, what neither side used while a sample was taken. Above it somebody else was at work, and the
# sample says more about them.
MAX_OTHER_CPU = 0.15
TRIES = 4


@dataclass(frozen=True)
class Server:
    """A server under test: a file of bench/servers, or the floor.

    needs: modules without which it is left out.
    dists: distributions whose versions belong to the result.
    args: of the script.
    """

    name: str
    script: str | None
    needs: tuple[str, ...] = ()
    dists: tuple[str, ...] = ()
    args: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """Return the first needed module that cannot be imported."""
        path = [str(ROOT / "src")] if built_in_place() else []
        for module in self.needs:
            # In a process of its own: an import that crashes or registers signal handlers must not be ours.
            done = subprocess.run(
                [sys.executable, "-c", f"import {module}"],
                env=environment(path),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            if done.returncode != 0:
                return module
        return None

    def versions(self) -> str:
        return ", ".join(f"{dist} {version_of(dist)}" for dist in self.dists)

    def command(self) -> list[str]:
        if self.script is None:
            return [str(native_tool("wsfloor"))]
        return [sys.executable, str(BENCH / "servers" / self.script), *self.args]

    def in_company(self, company: str) -> Server:
        """Return the same server with another thread in its process: see servers/company.py."""
        assert self.script is not None and not self.args
        return dataclasses.replace(self, script="company.py", args=(company, self.script))


FLOOR = Server("C floor", None)
OURS_INLINE = Server("ours, inline on_message", "ours_inline.py", ("unlimitedws",), ("unlimitedws",))
OURS_POOL = Server("ours, DefaultServer on_message", "ours_pool.py", ("unlimitedws",), ("unlimitedws",))
OURS_GO = Server("ours, DefaultServer on_read", "ours_go.py", ("unlimitedws",), ("unlimitedws",))
PICOWS = Server("picows + uvloop", "picows_echo.py", ("picows", "uvloop"), ("picows", "uvloop"))
WEBSOCKETS = Server("websockets", "websockets_echo.py", ("websockets",), ("websockets",))
WEBSOCKETS_UVLOOP = Server(
    "websockets + uvloop",
    "websockets_echo.py",
    ("websockets", "uvloop"),
    ("websockets", "uvloop"),
    args=("uvloop",),
)
OURS_AIO = Server("ours, aio", "ours_aio.py", ("unlimitedws",), ("unlimitedws",))
OURS_AIO_UVLOOP = Server(
    "ours, aio + uvloop",
    "ours_aio.py",
    ("unlimitedws", "uvloop"),
    ("unlimitedws", "uvloop"),
    args=("uvloop",),
)
UVICORN = Server(
    "uvicorn", "uvicorn_echo.py", ("uvicorn", "websockets"), ("uvicorn", "websockets")
)


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


def native_tool(name: str) -> Path:
    """Return the path of a tool of bench/native, compiled if it is missing or older than its source."""
    source = NATIVE / f"{name}.c"
    target = BIN / name
    newest = max(path.stat().st_mtime for path in (source, *NATIVE.glob("*.h")))
    if not target.exists() or target.stat().st_mtime < newest:
        BIN.mkdir(exist_ok=True)
        # Written beside and moved: two runs at once never execute half a file.
        fresh = BIN / f"{name}.{os.getpid()}"
        compiler = os.environ.get("CC", "gcc")
        subprocess.run([compiler, "-O3", "-Wall", "-Wextra", "-Werror", "-o", fresh, source], check=True)
        fresh.replace(target)
    return target


def cores() -> tuple[int, int]:
    """Return the server's core and the client's. Raises SystemExit where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise SystemExit("two cores are needed: on one, client and server measure each other")
    return usable[0], usable[-1]


def pinned(core: int | None) -> Callable[[], None]:
    """Return what a child does before exec: take one core (None: any), and as many descriptors as it may have."""

    def prepare() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    return prepare


class Peer:
    """A server or a client in a process of its own, and what is said with it, line by line."""

    def __init__(self, name: str, command: list[str], core: int | None, path: list[str]) -> None:
        self.name = name
        self.process = subprocess.Popen(
            command,
            env=environment(path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            preexec_fn=pinned(core),
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.pid = self.process.pid
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        self._heard = b""

    def say(self, line: str) -> None:
        """Raises SystemExit if nobody is there to hear it."""
        try:
            self._stdin.write(line.encode() + b"\n")
        except BrokenPipeError:
            raise SystemExit(f"{self.name} has ended: exit code {self.process.wait()}") from None

    def hear(self, timeout: float) -> str:
        """Return the next line, without its end. Raises SystemExit if none comes within the timeout."""
        end = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while b"\n" not in self._heard:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise SystemExit(f"{self.name} said nothing for {timeout:g} s")
                got = os.read(self._stdout.fileno(), 65536)
                if not got:
                    raise SystemExit(f"{self.name} has ended: exit code {self.process.wait()}")
                self._heard += got
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._stdin.close()
        self._stdout.close()


@contextmanager
def serving(server: Server, core: int | None) -> Iterator[tuple[Peer, int]]:
    """Run a server on one core; None: on any. Yields it and its port; it is killed at the end."""
    path = [str(ROOT / "src")] if built_in_place() and server.script else []
    peer = Peer(server.name, server.command(), core, path)
    try:
        line = peer.hear(START_TIMEOUT_S)
        if not line.isdigit():
            raise SystemExit(f"{server.name} did not print its port but {line!r}")
        yield peer, int(line)
        if peer.process.poll() is not None:
            raise SystemExit(f"{server.name} ended while it was measured: exit code {peer.process.returncode}")
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
        command += [f"--{name.replace('_', '-')}", str(value)]
    return command


@contextmanager
def probing(core: int, port: int, mode: str, **options: Any) -> Iterator[Peer]:
    """Run wsprobe against a server. Yields it once its connections are open; it is killed at the end."""
    peer = Peer("wsprobe", probe_command(port, mode, options), core, [])
    try:
        line = peer.hear(OPEN_TIMEOUT_S)
        if line != "ready":
            raise SystemExit(f"wsprobe could not open its connections: {line}")
        yield peer
    finally:
        peer.end()


def probe(core: int, pid: int, port: int, mode: str, seconds: float, **options: Any) -> dict[str, Any]:
    """Run wsprobe once against a server. Raises SystemExit if a connection was lost or a reply was wrong."""
    with probing(core, port, mode, server_pid=pid, seconds=seconds, **options) as peer:
        line = peer.hear(seconds + PATIENCE_S)
        if peer.process.wait(PATIENCE_S) != 0:
            raise SystemExit(f"wsprobe --mode {mode}: {line}")
    result: dict[str, Any] = json.loads(line)
    return result


def load(core: int, pid: int, port: int, **options: Any) -> dict[str, Any]:
    """Run wsload once against a server. Raises SystemExit if a connection was lost or a reply was wrong."""
    command = [str(native_tool("wsload")), "--port", str(port), "--server-pid", str(pid)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, preexec_fn=pinned(core))
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\nexit code {done.returncode}: {done.stdout.strip()}")
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
        if sample["other_cpu"] <= MAX_OTHER_CPU:
            return sample, dropped
    return None, tries


def present(servers: list[Server]) -> list[Server]:
    """Return the servers that can run here, and say which are left out."""
    kept = []
    for server in servers:
        module = server.missing()
        if module is None:
            kept.append(server)
        else:
            print(f"left out: {server.name} (no module {module})", flush=True)
    return kept


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


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table with aligned columns, the first to the left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    for cells in [header, rule, *rows]:
        padded = [cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]
        print(f"| {' | '.join(padded)} |")
