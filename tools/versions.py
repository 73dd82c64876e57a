"""Installs the library with pip on every Python that is here, in fresh environments, and smoke-tests it.

    python tools/versions.py [3.12 ...]     only these; by default all from 3.10 to 3.15 that are found

All of them build from one copy of the sources, as the C that Cython writes is the same for each.
Looks on PATH and, where there is pyenv, among its versions. The last line says how many passed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sources import NOT_SOURCES, ROOT

VERSIONS = [f"3.{minor}" for minor in range(10, 16)]
TIMEOUT_S = 900.0


def runs_as(interpreter: str, version: str) -> bool:
    """Tell whether it is that Python: what a version manager puts on PATH may only be a stub that refuses."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run(
        [interpreter, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    return done.returncode == 0 and done.stdout.strip() == version


def candidates(version: str) -> list[str]:
    found = [shutil.which(f"python{version}")]
    if shutil.which("pyenv"):
        listed = subprocess.run(
            ["pyenv", "versions", "--bare"], stdout=subprocess.PIPE, text=True, check=True
        )
        # The newest patch first. Names may be of environments too: "3.12.1/envs/x" is none of ours.
        patches = [n for n in listed.stdout.split() if n.startswith(f"{version}.") and "/" not in n]
        for name in sorted(
            patches, key=lambda n: [int(p) for p in n.split(".") if p.isdigit()], reverse=True
        ):
            prefix = subprocess.run(["pyenv", "prefix", name], stdout=subprocess.PIPE, text=True, check=True)
            found.append(f"{prefix.stdout.strip()}/bin/python{version}")
    return [interpreter for interpreter in found if interpreter and Path(interpreter).exists()]


def find(version: str) -> str | None:
    """Return an interpreter of this version, or None."""
    return next((i for i in candidates(version) if runs_as(i, version)), None)


def check(interpreter: str, sources: Path) -> str | None:
    """Install and smoke-test. Returns None, or what went wrong."""
    with tempfile.TemporaryDirectory() as scratch:
        python = str(Path(scratch) / "venv" / "bin" / "python")
        for command in (
            [interpreter, "-m", "venv", str(Path(scratch) / "venv")],
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(sources)],
            [python, str(ROOT / "tools" / "smoke.py")],
        ):
            done = subprocess.run(
                command,
                cwd=scratch,
                env={**os.environ, "UWS_JOBS": str(len(os.sched_getaffinity(0)))},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=TIMEOUT_S,
            )
            if done.returncode != 0:
                return f"{' '.join(command)}\n{done.stdout}"
            if done.stdout.strip():
                # A warning of the compiler, or an interpreter that says something at its end.
                print(done.stdout.strip())
    return None


def check_all(versions: list[str], sources: Path) -> tuple[int, int]:
    """(how many passed, how many failed). A version that is not here is neither, unless asked for by name."""
    passed = failed = 0
    for version in versions or VERSIONS:
        interpreter = find(version)
        if interpreter is None:
            print(f"Python {version}: not here", flush=True)
            failed += bool(versions)
            continue
        begin = time.monotonic()
        error = check(interpreter, sources)
        took = time.monotonic() - begin
        print(f"Python {version}: {'works' if error is None else 'FAILED'} ({took:.0f} s)", flush=True)
        if error is None:
            passed += 1
        else:
            failed += 1
            print(error, flush=True)
    return passed, failed


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        # A stranger gets the sources only.
        sources = Path(scratch, "sources")
        shutil.copytree(ROOT, sources, ignore=shutil.ignore_patterns(*NOT_SOURCES))
        passed, failed = check_all(sys.argv[1:], sources)
    print(f"{passed} passed, {failed} failed")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
