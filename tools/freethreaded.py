"""Runs the tests without a GIL: on a free-threaded Python, which is built here where there is none.

    python tools/freethreaded.py [--jobs N] [--python PATH] [arguments for pytest]      by default all tests

--python, or PYTHON_FT in the environment: an interpreter that was built with --disable-gil. Without it Debian's source
of Python is taken from where apt has its packages from, and built under build/free-threaded: once, some minutes. What
of the tests' requirements cannot be had for such a Python is left out; the tests that want it say so.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from sources import ROOT, build, renew

HOME = ROOT / "build" / "free-threaded"
TREE = HOME / "tree"
PYTHON = HOME / "python" / "bin" / "python3"
VENV = HOME / "venv"
# Debian's release that has the source, and what it calls it.
RELEASE, PACKAGE = "trixie", "python3.13"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def run(command: list[str], **more: object) -> None:
    print("+", shlex.join(command), flush=True)
    subprocess.run(command, check=True, **more)


def fetch_source() -> Path:
    """The archive of Python's source; from the mirror that apt uses, with lists of our own."""
    apt = HOME / "apt"
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    sites = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.split()
    site = next((site for site in sites if site.rstrip("/").endswith("/debian")), None)
    if site is None:
        raise SystemExit("apt has no Debian here: name a free-threaded Python with --python or PYTHON_FT")
    sources = apt / "sources.list"
    sources.write_text(f"deb-src [signed-by={KEYRING}] {site} {RELEASE} main\n")
    options = [
        *("-o", f"Dir::State={apt / 'state'}", "-o", f"Dir::Cache={apt / 'cache'}"),
        *("-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=/nonexistent"),
        # As whoever we are: another user could not write below build/.
        *("-o", "APT::Sandbox::User="),
    ]
    run(["apt-get", *options, "-qq", "update"])
    run(["apt-get", *options, "-qq", "source", "--download-only", "--tar-only", PACKAGE], cwd=apt)
    return next(apt.glob("python3*.orig.tar.*"))


def build_python(jobs: int) -> None:
    place = HOME / "source"
    place.mkdir(parents=True, exist_ok=True)
    archive = fetch_source()
    run(["tar", "-xf", str(archive), "-C", str(place), "--strip-components=1"])
    with open(HOME / "python.log", "w") as log:
        prefix = f"--prefix={PYTHON.parents[1]}"
        output: dict[str, object] = {"cwd": place, "stdout": log, "stderr": subprocess.STDOUT}
        run(["./configure", "--disable-gil", "--disable-test-modules", prefix], **output)
        run(["make", f"-j{jobs}"], **output)
        run(["make", "install"], **output)


def has_no_gil(python: str) -> bool:
    code = "import sys; sys.exit(sys._is_gil_enabled() if hasattr(sys, '_is_gil_enabled') else True)"
    return subprocess.run([python, "-X", "gil=0", "-c", code], stderr=subprocess.DEVNULL).returncode == 0


def make_venv(python: str) -> str:
    """An environment with what the tests need; returns its interpreter."""
    inside = VENV / "bin" / "python"
    stamp = VENV / "made-for"
    if stamp.exists() and stamp.read_text() == python:
        return str(inside)
    run([python, "-m", "venv", "--clear", str(VENV)])
    listed = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "requirements.py"), "test"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    pip = [str(inside), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--prefer-binary"]
    for requirement in listed.stdout.split("\n"):
        needed = requirement.startswith(("setuptools", "Cython", "pytest"))
        # One by one: one that is not there must not keep the others away. No compiling of others' extensions, but for
        # the load generator's, which is a page of C.
        how = [] if needed or requirement.startswith("hdrhistogram") else ["--only-binary", ":all:"]
        if requirement and subprocess.run([*pip, *how, requirement]).returncode != 0:
            if needed:
                raise SystemExit(f"{requirement} cannot be had")
            print(f"left out: {requirement}", flush=True)
    stamp.write_text(python)
    return str(inside)


def main() -> int:
    parser = argparse.ArgumentParser(description="The tests without a GIL.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="of the builds")
    parser.add_argument("--python", default=os.environ.get("PYTHON_FT") or None)
    parser.add_argument("--build-only", action="store_true")
    args, pytest = parser.parse_known_args()
    python = args.python or str(PYTHON)
    if args.python is None and not PYTHON.exists():
        build_python(args.jobs)
    if not has_no_gil(python):
        raise SystemExit(f"{python} is no free-threaded Python")
    inside = make_venv(python)
    renew(TREE)
    build(inside, TREE, args.jobs)
    if args.build_only:
        return 0
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("PYTHON_GIL", None)
    # An extension that does not declare its support brings the GIL back: so this is asked for without forbidding that.
    check = "import sys, unlimitedws; sys.exit(sys._is_gil_enabled() and 'the engine needs the GIL')"
    run([inside, "-W", "error", "-c", check], env={**env, "PYTHONPATH": str(TREE / "src")})
    # Others' extensions, of the clients that the tests use, may not bring it back.
    command = [inside, "-X", "gil=0", "-m", "pytest", "-q", *pytest]
    return subprocess.run(command, cwd=TREE, env={**env, "PYTHON_GIL": "0"}).returncode


if __name__ == "__main__":
    sys.exit(main())
