"""What servers of bench/ run on that are not Python: Node, Go, and the compiler of bench/native.

Owns how each is found, built and told apart by version. Nothing here is installed: what is missing is said in words
that fit behind "left out". Used by rig.py only.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
NATIVE = BENCH / "native"
BIN = BENCH / "bin"
GO = BENCH / "servers" / "go"
# The tests' own copy of npm's ws: `npm ci --prefix tests/peers/node`.
NODE_MODULES = ROOT / "tests" / "peers" / "node" / "node_modules"
BUILD_TIMEOUT_S = 300.0


class NotToBeHad(Exception):
    """A server cannot run here; the message says why."""


def native_tool(name: str) -> Path:
    """Return the path of a tool of bench/native, compiled if it is missing or older than its source."""
    return compiled(name, BIN / name)


def native_library(name: str) -> Path:
    """Return the path of a library of bench/native, likewise."""
    return compiled(name, BIN / f"{name}.so", "-shared", "-fPIC")


def compiled(name: str, target: Path, *options: str) -> Path:
    source = NATIVE / f"{name}.c"
    newest = max(path.stat().st_mtime for path in (source, *NATIVE.glob("*.h")))
    if not target.exists() or target.stat().st_mtime < newest:
        BIN.mkdir(exist_ok=True)
        # Written beside and moved: two runs at once never execute half a file.
        fresh = BIN / f"{target.name}.{os.getpid()}"
        compiler = os.environ.get("CC", "gcc")
        subprocess.run([compiler, "-O3", "-Wall", "-Wextra", "-Werror", *options, "-o", fresh, source], check=True)
        fresh.replace(target)
    return target


def node_environment() -> dict[str, str]:
    return {"NODE_PATH": str(NODE_MODULES)}


def _said(command: list[str], **env: str) -> str | None:
    """What a command prints; None if it cannot."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=BUILD_TIMEOUT_S,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def node_versions() -> str:
    """Versions of Node and of ws. Raises NotToBeHad."""
    if shutil.which("node") is None:
        raise NotToBeHad("no node")
    versions = _said(
        ["node", "-p", "`Node ${process.versions.node}, ws ${require('ws/package.json').version}`"],
        **node_environment(),
    )
    if versions is None:
        raise NotToBeHad("npm's ws is not installed: npm ci --prefix tests/peers/node")
    return versions


@functools.cache
def go_server(name: str) -> Path:
    """Return the program of bench/servers/go/NAME, built if it is missing or older than its source.

    Raises NotToBeHad: without Go, and where its modules cannot be had; build/bench/go/NAME.log has the words of Go.
    """
    source = GO / name
    target = BIN / f"go-{name}"
    newest = max(path.stat().st_mtime for path in source.iterdir())
    if target.exists() and target.stat().st_mtime >= newest:
        return target
    if shutil.which("go") is None:
        raise NotToBeHad("no go")
    # A copy: Go writes what it resolved into go.mod and go.sum.
    work = ROOT / "build" / "bench" / "go" / name
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work)
    BIN.mkdir(exist_ok=True)
    log = work.with_suffix(".log")
    with open(log, "w") as file:
        try:
            done = subprocess.run(
                ["go", "build", "-mod=mod", "-o", str(target), "."],
                cwd=work,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=BUILD_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            raise NotToBeHad(f"go build took more than {BUILD_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        raise NotToBeHad(f"go build failed: its modules cannot be had here, or see {log.relative_to(ROOT)}")
    return target


def go_versions(name: str, module: str) -> str:
    """Versions of Go and of a module, as the program itself has them."""
    lines = (_said(["go", "version", "-m", str(go_server(name))]) or "").splitlines()
    go = lines[0].rpartition(" ")[2] if lines else "of unknown version"
    for line in lines:
        words = line.split()
        if words[:2] == ["dep", module]:
            return f"Go {go.removeprefix('go')}, {module.rpartition('/')[2]} {words[2].removeprefix('v')}"
    return f"Go {go.removeprefix('go')}"
