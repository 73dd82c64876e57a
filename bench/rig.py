"""What every benchmark here needs: native tools, servers under test, pinned cores, facts about the machine.

Owns the rule for contaminated samples (see `measure`). Imported by echo.py and idle.py only.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import selectors
import subprocess
import sys
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
# In cores, what neither side used while a sample was taken. Above it somebody else was at work, and the
# sample says more about them.
MAX_OTHER_CPU = 0.15
TRIES = 4


@dataclass(frozen=True)
class Server:
    """A server under test: a file of bench/servers, or the floor.

    needs: modules without which it is left out.
    dists: distributions whose versions belong to the result.
    """

    name: str
    script: str | None
    needs: tuple[str, ...] = ()
    dists: tuple[str, ...] = ()

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
        return [sys.executable, str(BENCH / "servers" / self.script)]


FLOOR = Server("C floor", None)
OURS_INLINE = Server("ours, inline on_message", "ours_inline.py", ("unlimitedws",), ("unlimitedws",))
OURS_POOL = Server("ours, DefaultServer on_message", "ours_pool.py", ("unlimitedws",), ("unlimitedws",))
OURS_GO = Server("ours, DefaultServer on_read", "ours_go.py", ("unlimitedws",), ("unlimitedws",))
PICOWS = Server("picows + uvloop", "picows_echo.py", ("picows", "uvloop"), ("picows", "uvloop"))
WEBSOCKETS = Server("websockets", "websockets_echo.py", ("websockets",), ("websockets",))


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
    newest = max(path.stat().st_mtime for path in (source, NATIVE / "wscommon.h"))
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


def pinned(core: int) -> Callable[[], None]:
    """Return what a child does before exec: take one core, and as many descriptors as it may have."""

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    return prepare


@contextmanager
def running(server: Server, core: int) -> Iterator[tuple[int, int]]:
    """Run a server on one core. Yields its pid and port; it is killed at the end."""
    path = [str(ROOT / "src")] if built_in_place() and server.script else []
    process = subprocess.Popen(
        server.command(), env=environment(path), stdout=subprocess.PIPE, preexec_fn=pinned(core)
    )
    assert process.stdout is not None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(START_TIMEOUT_S):
                raise SystemExit(f"{server.name} printed no port within {START_TIMEOUT_S:g} s")
        line = process.stdout.readline()
        if not line.strip().isdigit():
            raise SystemExit(f"{server.name} did not start: exit code {process.wait()}, output {line!r}")
        yield process.pid, int(line)
        if process.poll() is not None:
            raise SystemExit(f"{server.name} ended while it was measured: exit code {process.returncode}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


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
    core: int, pid: int, port: int, tries: int = TRIES, **options: Any
) -> tuple[dict[str, Any] | None, int]:
    """Take one sample; one that somebody else's work contaminated is dropped and taken again.

    Returns the first clean sample, or None if all tries were contaminated; and how many were dropped.
    """
    for dropped in range(tries):
        sample = load(core, pid, port, **options)
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
