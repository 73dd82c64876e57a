"""Engines with a bug that was put in on purpose: what fails for them has to be found.

Owns the bugs, and the building of a package `_uws` of which one module has one. For test_failing_calls.py.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from shim import ENGINE


class Bug(NamedTuple):
    """A bug.

    Attributes:
        module: Of `_uws`.
        right: What its source says, once.
        wrong: What it says instead.
        world, play: In whose cases it is looked for.
        shows: What the complaint has in it.
    """

    module: str
    right: str
    wrong: str
    world: str
    play: str
    shows: str


BUGS = {
    # With frames that are longer it would show without a fault.
    "what a short write left of short frames is dropped": Bug(
        "outq",
        "        _sent(q, slab, <size_t>n)\n",
        "        _sent(q, slab, asked if asked < 4096 else <size_t>n)\n",
        "blank",
        "hello",
        "blank/hello/send",
    ),
    "a client that epoll has no room for is forgotten": Bug(
        "accept",
        "            close(fd)\n            seat_give(l)\n",
        "            seat_give(l)\n",
        "inline",
        "hello",
        "waits for ever",
    ),
    "a descriptor is left where a thread cannot be started": Bug(
        "role", "    close(l.bell_fd)\n", "", "guest", "life", "descriptors"
    ),
    "memory is taken for granted": Bug(
        "slot", "        if c.side != NULL:\n", "        if c != NULL:\n", "blank", "hello", "status -11"
    ),
}


def build(bug: Bug, room: Path) -> Path:
    """Build an engine with the bug in room; return the package, which has the other modules as they are."""
    package = room / "_uws"
    package.mkdir()
    source = (ENGINE / f"{bug.module}.pyx").read_text(encoding="utf-8")
    if source.count(bug.right) != 1:
        raise ValueError(f"{bug.module}.pyx does not say {bug.right!r} once")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for file in ENGINE.iterdir():
        if file.suffix in (".so", ".py", ".pxd") and file.name != f"{bug.module}{suffix}":
            (package / file.name).symlink_to(file)
    (package / f"{bug.module}.pyx").write_text(source.replace(bug.right, bug.wrong), encoding="utf-8")
    _run(sys.executable, "-m", "cython", "-3", *_directives(), "-I", ".", f"_uws/{bug.module}.pyx", room=room)
    include = [f"-I{ENGINE / 'c'}", f"-I{sysconfig.get_path('include')}"]
    flags = ["-std=gnu11", "-O1", "-fPIC", "-shared", "-w", "-D_GNU_SOURCE=1", "-DUWS_DEBUG=0"]
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    _run(*compiler, *flags, *include, f"_uws/{bug.module}.c", "-o", f"_uws/{bug.module}{suffix}", room=room)
    return package


def _directives() -> list[str]:
    names = {"boundscheck": False, "wraparound": False, "cdivision": True, "initializedcheck": False}
    return [part for name, value in names.items() for part in ("-X", f"{name}={value}")]


def _run(*command: str, room: Path) -> None:
    done = subprocess.run(command, cwd=room, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}:\n{done.stderr[-4000:]}")

