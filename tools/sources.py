"""Copies of the sources under build/, where the engine is built with other flags, or for another Python.

In place, as the tests want it, and yet not in the way of the build that `make test` uses. Used by sanitizing.py (of
asan.py and tsan.py), fuzz.py and freethreaded.py; versions.py takes its list of what is no source.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["NOT_SOURCES", "ROOT", "build", "renew", "runtime"]

ROOT = Path(__file__).resolve().parents[1]
# What an earlier build left behind would find its way into the next one.
NOT_SOURCES = (".git", ".venv*", "build", "dist", "*.so", "*.egg-info", "__pycache__", ".*_cache", "node_modules")


def _is_source(name: str) -> bool:
    return not any(fnmatch.fnmatch(name, pattern) for pattern in NOT_SOURCES)


def _files(root: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(root):
        folders[:] = filter(_is_source, folders)
        yield from (Path(place, name).relative_to(root) for name in filter(_is_source, names))


def renew(tree: Path) -> None:
    """Make tree a copy of the sources. What has not changed keeps its time, so that it is not compiled again."""
    wanted = set(_files(ROOT))
    for name in set(_files(tree)) - wanted:
        (tree / name).unlink()
        # A module that is gone must not be found by its name.
        for module in (tree / name.parent).glob(f"{name.stem}.*.so"):
            module.unlink()
    for name in wanted:
        source, copy = ROOT / name, tree / name
        if copy.exists() and copy.stat().st_mtime_ns == source.stat().st_mtime_ns:
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy)


def build(python: str, tree: Path, jobs: int, **env: str) -> None:
    """Build the engine and the tests' shims in place in tree.

    Raises:
        subprocess.CalledProcessError: It cannot be built; the compiler has said why.
    """
    command = [python, "setup.py", "--quiet", "build_ext", "--inplace", "--parallel", str(jobs)]
    environ = {**os.environ, "UWS_SHIMS": "1", "UWS_JOBS": str(jobs), **env}
    subprocess.run(command, cwd=tree, check=True, env=environ)


def runtime(name: str) -> Path:
    """The library of one of gcc's sanitizers ("asan", "tsan"), which has to be there before the interpreter is.

    Raises:
        SystemExit: It is not here.
    """
    library = subprocess.run(
        ["gcc", f"-print-file-name=lib{name}.so"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    if not Path(library).is_absolute():
        raise SystemExit(f"lib{name} is not here; it comes with gcc (Debian: libgcc-12-dev, or another version's)")
    return Path(library).resolve()
