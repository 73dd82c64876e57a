"""The source distribution: what is needed to build and to test is in it, what is made of it is not."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath

import pytest
from library.programs import ROOT
from sources import renew

MADE = {".c", ".so", ".o", ".pyc"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of the sdist, without the folder that they are in."""
    dist = tmp_path_factory.mktemp("sdist")
    # In a copy of the sources: setuptools writes an .egg-info beside them, and reads one that is there.
    tree = tmp_path_factory.mktemp("tree")
    renew(tree)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(dist)],
        cwd=tree,
        # Whoever packs it need not have Cython's cache, nor make one.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert not (tree / "build" / "cython").exists()
    (archive,) = dist.iterdir()
    with tarfile.open(archive) as opened:
        names = [PurePosixPath(member.name) for member in opened if member.isfile()]
    assert len({name.parts[0] for name in names}) == 1
    return {str(PurePosixPath(*name.parts[1:])) for name in names}


def sources(*patterns: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for pattern in patterns
        for path in ROOT.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts and "node_modules" not in path.parts
    }


def test_all_of_the_engine_and_the_library_is_there(files: set[str]) -> None:
    wanted = sources("src/_uws/*.py[xdi]*", "src/_uws/*.pxd", "src/_uws/c/*.h", "src/unlimitedws/**/*.py")
    wanted |= {"src/_uws/py.typed", "src/unlimitedws/py.typed", "src/_uws/core.pyi"}
    wanted |= sources("src/unlimitedws/static/*")
    assert {name for name in wanted if Path(name).suffix not in MADE} <= files


def test_what_tests_and_builds_is_there(files: set[str]) -> None:
    wanted = sources("tests/**/*.py", "tests/uws_shims/*.pyx", "tools/*.py", "bench/*.py", "docs/*.md")
    wanted |= sources("examples/**/*.py")
    wanted |= {"pyproject.toml", "setup.py", "Makefile", ".ci/run", "tests/peers/node/package.json"}
    wanted |= {"README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md"}
    assert wanted <= files


def test_nothing_that_is_made_is_there(files: set[str]) -> None:
    # Written in C: the benchmarks' clients and their floor, what stands between the engine and the C library, the
    # kernel of the simulation, the fuzzer's program.
    in_c = ("bench/native/", "tests/faults/native/", "tests/simulation/", "tests/fuzz/")
    made = {name for name in files if Path(name).suffix in MADE and not name.startswith(in_c)}
    assert made == set()
    tops = {PurePosixPath(name).parts[0] for name in files}
    assert tops.isdisjoint({"build", "dist", ".git", ".venv", ".venv-dev", ".mypy_cache", ".ruff_cache"})
    assert not any("node_modules" in name or "__pycache__" in name for name in files)
