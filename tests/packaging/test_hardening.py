"""The built modules have what compiler and linker can do against attackers, and the check finds what has not."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import hardening
import pytest

pytestmark = pytest.mark.skipif(shutil.which("readelf") is None, reason="binutils' readelf is not here")

CC = (sysconfig.get_config_var("CC") or "cc").split()
GOOD = ["-fvisibility=hidden", "-fstack-protector-strong", "-O2", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]
LINKED = ["-Wl,-z,relro,-z,now"]
STARTUP = ("_init", "_fini")
SOURCE = """
#include <string.h>
int helper(int x) { return x + 1; }
__attribute__((visibility("default"))) int PyInit_probe(const char *text, unsigned long n)
{
    char room[64];
    memcpy(room, text, n);
    return helper(room[n % 64]);
}
"""


def build(room: Path, compiled: list[str], linked: list[str], source: str = SOURCE) -> Path:
    path, written = room / "probe.cpython-311-x86_64-linux-gnu.so", room / "probe.c"
    written.write_text(source)
    subprocess.run([*CC, "-shared", "-fPIC", *compiled, *linked, str(written), "-o", str(path)], check=True)
    return path


def build_for(room: Path, library: str, source: str) -> Path:
    """A module as a C library of this name has it: linked with a library that calls itself so, and with no other."""
    stand_in, written = room / "stand_in.so", room / "stand_in.c"
    written.write_text("void stand_in(void) {}\n")
    subprocess.run(
        [*CC, "-shared", "-fPIC", "-nostdlib", f"-Wl,-soname,{library}", str(written), "-o", str(stand_in)], check=True
    )
    linked = [*LINKED, "-nostdlib", "-Wl,--no-as-needed", str(stand_in)]
    return build(room, GOOD, linked, source)


def test_every_module_is_hardened() -> None:
    modules = hardening.of_engine()
    assert len(modules) > 40
    assert hardening.problems(modules) == []


def test_what_is_built_as_we_build_is_hardened(tmp_path: Path) -> None:
    assert hardening.problems([build(tmp_path, GOOD, LINKED)]) == []


@pytest.mark.parametrize(
    ("compiled", "linked", "problem"),
    [
        (GOOD[1:], LINKED, "exports helper"),
        (GOOD, ["-Wl,-z,norelro"], "no RELRO"),
        (GOOD, ["-Wl,-z,relro,-z,lazy"], "no BIND_NOW"),
        (GOOD, [*LINKED, "-Wl,-z,execstack"], "the stack is executable"),
        ([GOOD[0], "-fno-stack-protector", *GOOD[2:]], LINKED, "no stack protector"),
        ([*GOOD[:3], "-U_FORTIFY_SOURCE"], LINKED, "no FORTIFY"),
    ],
)
def test_what_is_missing_is_found(tmp_path: Path, compiled: list[str], linked: list[str], problem: str) -> None:
    found = hardening.problems([build(tmp_path, compiled, linked)])
    assert any(problem in line for line in found), found


@pytest.mark.parametrize(
    ("library", "is_hardened"), [("libc.so", True), ("libc.musl-aarch64.so.1", True), ("libc.so.6", False)]
)
def test_what_every_module_of_musl_exports_is_not_held_against_ours(
    tmp_path: Path, library: str, is_hardened: bool
) -> None:
    """musl's crti.o has these, in no section of ours; glibc's hides them."""
    source = SOURCE + "".join(f'__attribute__((visibility("default"))) void {name}(void) {{}}\n' for name in STARTUP)
    path = build_for(tmp_path, library, source)
    found = [line for line in hardening.problems([path]) if "exports" in line]
    assert (found == []) is is_hardened, found
    # And nothing beside them.
    path = build_for(tmp_path, library, source + '__attribute__((visibility("default"))) void other(void) {}\n')
    assert any("exports" in line and "other" in line for line in hardening.problems([path]))


def test_no_modules_at_all_are_no_success() -> None:
    assert hardening.problems([]) == ["no modules"]
