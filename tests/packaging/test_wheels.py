"""What `make wheels` looks for in a wheel it finds; building them is for `make wheels` itself."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import wheels
from library.programs import ROOT

INFO = "unlimitedws-0.1.0.dist-info"
BUILT = {path.name: path for path in sorted((ROOT / "src" / "_uws").glob("*.so"))}


def make(room: Path, names: dict[str, bytes]) -> list[str]:
    """A wheel with the engine as it is built here, changed by names; what is found wrong with it."""
    path = room / "unlimitedws-0.1.0-cp311-cp311-manylinux_2_17_x86_64.whl"
    good = {name: b"" for name in wheels.TYPED} | {f"_uws/{name}": each.read_bytes() for name, each in BUILT.items()}
    good |= {"_uws/__init__.py": b"", "_uws/frame.pxd": b"", f"{INFO}/METADATA": b"", f"{wheels.STATIC}echo.html": b""}
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in (good | names).items():
            if content != b"left out":
                opened.writestr(name, content)
    # Of what was built in place the linker was told where this interpreter's libraries are.
    return [line for line in wheels.contents(path) if "looks for libraries" not in line]


def test_a_good_wheel_is_good(tmp_path: Path) -> None:
    assert make(tmp_path, {}) == []


@pytest.mark.parametrize("name", sorted(wheels.TYPED))
def test_types_are_missed(tmp_path: Path, name: str) -> None:
    assert make(tmp_path, {name: b"left out"}) == [f"{name} is missing"]


def test_a_module_is_missed(tmp_path: Path) -> None:
    name = next(name for name in BUILT if name.startswith("proto."))
    assert make(tmp_path, {f"_uws/{name}": b"left out"}) == ["the module proto is missing"]


@pytest.mark.parametrize("name", ["_uws/frame.pyx", "_uws/frame.c", "tests/raw.py", "unlimitedws/notes.txt"])
def test_what_does_not_belong_there_is_found(tmp_path: Path, name: str) -> None:
    assert make(tmp_path, {name: b"x"}) == [f"{name} does not belong there"]
