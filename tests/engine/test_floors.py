"""The engine's own source, read as a building: which file is on which floor, and what a floor may not do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from annotation import ENGINE, FILES, ROOT, Annotated, logical_lines

# The floors' table: (floor, step) of each file. A file cimports only from lower ones.
FLOORS = {
    "errs": (1, 0),
    "atomic": (1, 1),
    "clock": (1, 1),
    "date": (1, 1),
    "slab": (1, 1),
    "entropy": (1, 1),
    "histogram": (1, 1),
    "mask": (1, 1),
    "utf8": (1, 1),
    "http": (1, 1),
    "intern": (1, 1),
    "frame": (2, 0),
    "upgrade": (2, 0),
    "proxy": (2, 0),
    "opening": (2, 1),
    "response": (2, 1),
    "deflate": (2, 1),
    "proto": (3, 0),
    "client": (3, 0),
    "poller": (4, 0),
    "sock": (4, 0),
    "wheel": (4, 0),
    "table": (4, 0),
    "dial": (4, 1),
    "state": (5, 0),
    "inbox": (5, 1),
    "memory": (5, 1),
    "outq": (5, 1),
    "slot": (5, 1),
    "slow": (5, 2),
    "keeper": (5, 2),
    "post": (5, 2),
    "hold": (5, 3),
    "settle": (5, 3),
    "flush": (5, 4),
    "life": (5, 5),
    "accept": (5, 6),
    "deliver": (5, 6),
    "tend": (5, 6),
    "traffic": (5, 6),
    "handshake": (5, 7),
    "read": (5, 8),
    "send": (5, 7),
    "drain": (5, 8),
    "loop": (5, 9),
    "role": (5, 10),
    "loadplan": (5, 0),
    "loadlife": (5, 1),
    "loadtraffic": (5, 2),
    "loadopening": (5, 3),
    "loadrun": (5, 4),
    "settings": (6, 0),
    "lock": (6, 0),
    "peer": (6, 1),
    "write": (6, 1),
    "conn": (6, 2),
    "exchange": (6, 3),
    "messages": (6, 3),
    "dispatch": (6, 4),
    "core": (6, 5),
    "relay": (6, 0),
    "wire": (6, 0),
    "load": (6, 0),
}
TOP = 6
# What a file may not say below the top floor ...
WORDS = {
    "def", "cpdef", "class", "object", "import", "lambda", "yield", "await", "async", "raise", "try",
    "except", "finally", "with", "assert", "del", "global", "None", "gil", "PyObject",
}  # fmt: skip
# ... and what it may not call or make a variable of. As a field's name, `bytes` is a number.
TYPES = {
    "list", "dict", "tuple", "set", "frozenset", "str", "bytes", "bytearray", "unicode", "memoryview",
    "print", "isinstance", "getattr", "type", "repr", "iter", "next", "sorted", "enumerate", "zip", "map",
}  # fmt: skip

BELOW = [path for path in FILES if FLOORS.get(path.stem, (TOP, 0))[0] < TOP]


def name(path: Path) -> str:
    return path.name


class Function(NamedTuple):
    """A cdef function, declared or defined. extern: the opening line of the extern block that it is in."""

    line: int
    signature: str
    extern: str | None


def cimports(source: str) -> list[tuple[int, str]]:
    """(line, module) of each cimport from the engine; "?" for one in a form that this does not read."""
    found = []
    for line, _, words in logical_lines(source):
        text = [word.string for word in words]
        if ("cimport" not in text and text[0] != "include") or (text[0] == "cimport" and "_uws" not in text):
            continue
        if text[:3] == ["from", "_uws", "."]:
            found.append((line, text[3]))
        elif text[0] != "from" or text[1] == "_uws" or text[1] == ".":
            found.append((line, "?"))
    return found


def functions(source: str) -> list[Function]:
    """Every cdef function of a file, those of its extern blocks too."""
    found: list[Function] = []
    extern: str | None = None
    extern_column = 0
    struct_column: int | None = None
    for line, column, words in logical_lines(source):
        text = [word.string for word in words]
        joined = " ".join(text)
        if extern is not None and column <= extern_column:
            extern = None
        if struct_column is not None and column <= struct_column:
            struct_column = None
        if text[:2] == ["cdef", "extern"]:
            extern, extern_column = joined, column
            continue
        if {"struct", "union", "enum"} & set(text[:3]):
            struct_column = column
            continue
        if struct_column is not None:
            continue
        if text[0] in ("cdef", "ctypedef") or extern is not None:
            # A call in a variable's first value is no signature.
            head = joined.partition(" = ")[0]
            if "(" in head:
                found.append(Function(line, joined, extern))
    return found


def python_words(source: str) -> list[tuple[int, str]]:
    """(line, word) of each of WORDS, and of each of TYPES that is called or declares something."""
    found = []
    for line, _, words in logical_lines(source):
        text = ["", *(word.string for word in words), ""]
        for before, word, after in zip(text, text[1:], text[2:], strict=False):
            is_type = word in TYPES and before != "." and (after[:1] in ("(", "[") or after.isidentifier())
            if word in WORDS or is_type:
                found.append((line, word))
    return found


# ---- the table


def test_every_file_has_its_floor_and_every_floor_its_file() -> None:
    assert {path.stem for path in FILES} == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_opens_with_its_floor(path: Path) -> None:
    opening = re.match(r"# F(\d)\. ", path.read_text())
    assert opening is not None, "it opens with another line"
    assert int(opening[1]) == FLOORS[path.stem][0]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_is_cimported_from_the_same_step_or_above(path: Path) -> None:
    for line, module in cimports(path.read_text()):
        assert module in FLOORS, f"line {line}"
        assert module == path.stem or FLOORS[module] < FLOORS[path.stem], f"line {line}: {module}"


def test_cimports_are_seen_in_every_form() -> None:
    source = """from _uws.loop cimport (
    a,
    b,
)
from _uws cimport core
cimport _uws.core
include "x.pxi"
from libc.stdint cimport uint8_t
from .role cimport c
cimport cython
"""
    assert cimports(source) == [(1, "loop"), (5, "?"), (6, "?"), (7, "?"), (9, "?")]
    # Not so few that something must be wrong with the reading.
    assert sum(len(cimports(path.read_text())) for path in FILES) > 100


def test_every_pyx_has_a_pxd_beside_it() -> None:
    assert {path.stem for path in FILES if path.suffix == ".pyx"} <= {
        p.stem for p in FILES if p.suffix == ".pxd"
    }


def test_the_shapes_of_a_loop_are_declarations_only() -> None:
    assert not (ENGINE / "state.pyx").exists()
    source = (ENGINE / "state.pxd").read_text()
    own = [function.signature for function in functions(source) if function.extern is None]
    assert own == []
    assert " inline " not in source


# ---- below the top floor


@pytest.mark.parametrize("path", BELOW, ids=name)
def test_every_function_is_noexcept_nogil(path: Path) -> None:
    for function in functions(path.read_text()):
        words = function.signature.rpartition(")")[2].replace(":", " ").split()
        if function.extern is None:
            assert words[-2:] == ["noexcept", "nogil"], f"line {function.line}: {function.signature}"
        else:
            # C raises nothing, and Cython says so by itself.
            assert "nogil" in [*function.extern.replace(":", " ").split(), *words], f"line {function.line}"


def test_functions_are_seen_in_every_form() -> None:
    source = """
cdef extern from "x.h" nogil:
    int in_c(int a)
    cdef struct some:
        int field
cdef int one(int a) noexcept nogil
cdef inline two* two(const one* a,
                     int b) noexcept nogil:
    cdef int x = one(1)
    cdef int y
    return three(a)
cdef void four() nogil
ctypedef int (*five)(int fd) noexcept nogil
"""
    seen = functions(source)
    assert [function.line for function in seen] == [3, 6, 7, 12, 13]
    assert [function.extern is None for function in seen] == [False, True, True, True, True]
    assert sum(len(functions(path.read_text())) for path in BELOW) > 200


@pytest.mark.parametrize("path", BELOW, ids=name)
def test_there_is_nothing_of_python(path: Path) -> None:
    assert python_words(path.read_text()) == []


def test_python_is_seen_in_every_form() -> None:
    source = """
cdef size_t bytes
cdef bytes b
x = q.bytes + str(1) + q.str(1)
import os
cdef object o
y = [list(z)]  # def
with gil:
    pass
"""
    seen = [(3, "bytes"), (4, "str"), (5, "import"), (6, "object"), (7, "list"), (8, "with"), (8, "gil")]
    assert python_words(source) == seen


@pytest.mark.parametrize("path", BELOW, ids=name)
def test_nothing_of_cpython_is_cimported(path: Path) -> None:
    assert not re.search(r"^\s*(from|cimport)\s+cpython|Python\.h", path.read_text(), re.MULTILINE)


def test_a_line_that_calls_python_is_seen(annotated: Annotated) -> None:
    assert [line for line, _, _ in annotated["control"]] == [3]


@pytest.mark.parametrize("title", [path.name for path in BELOW if path.suffix == ".pyx"])
def test_no_line_calls_python(title: str, annotated: Annotated) -> None:
    assert annotated[title] == []


def test_no_inline_function_calls_python(annotated: Annotated) -> None:
    probes = {path.name for path in BELOW if path.suffix == ".pxd"} & set(annotated)
    assert {"frame.pxd", "mask.pxd", "slot.pxd", "errs.pxd", "clock.pxd"} <= probes
    for title in probes:
        assert annotated[title] == [], title


# ---- tests


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".pyx"], ids=name)
def test_every_file_has_a_test_of_its_name(path: Path) -> None:
    assert list((ROOT / "tests").rglob(f"test_{path.stem}.py")), f"no test_{path.stem}.py under tests/"
