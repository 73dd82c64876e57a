"""Says of extension modules whether what the compiler and the linker can do against attackers was done.

    python tools/hardening.py [MODULE.so ...]       by default those of the installed engine, `_uws`

Read with binutils' readelf, which comes with every compiler. Exit code 1 where something is missing, with a line for
each. What a module has no use for is not asked of it, but of all of them together: a stack protector where an array
is on the stack, checked copies where their size is known.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Module", "of_engine", "problems"]

SANITIZERS = re.compile(r"__(?:asan|tsan|ubsan)_")
# What the C library has a checked twin of, as in memcpy and __memcpy_chk.
CHECKED = re.compile(r"__\w+_chk")
PROTECTOR = "__stack_chk_fail"
# What musl's crti.o, with which its linker begins every module, has for all to see.
MUSL = re.compile(r"\[libc\.(?:musl-\w+\.so\.1|so)\]")
MUSL_BEGINNING = {"_init", "_fini"}


class Module:
    """What readelf says of one module."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.segments = _readelf("--program-headers", path)
        self.dynamic = _readelf("--dynamic", path)
        # Num: Value Size Type Bind Vis Ndx Name
        rows = [line.split() for line in _readelf("--dyn-syms", path).splitlines()]
        symbols = [row for row in rows if len(row) > 7 and row[0].rstrip(":").isdigit()]
        names = [(row[4], row[5], row[6], row[7].split("@")[0]) for row in symbols]
        there = [(bind, seen, name) for bind, seen, at, name in names if at != "UND"]
        self.exported = {name for bind, seen, name in there if bind != "LOCAL" and seen == "DEFAULT"}
        if MUSL.search(self.dynamic):
            self.exported -= MUSL_BEGINNING
        self.imported = {name for _, _, at, name in names if at == "UND"}

    @property
    def may_be_checked(self) -> bool:
        """Whether its C library has checked copies: musl has none, and a sanitizer does without."""
        return "[libc.so.6]" in self.dynamic and not self.is_sanitized

    @property
    def is_sanitized(self) -> bool:
        return any(map(SANITIZERS.match, self.imported))

    def problems(self) -> list[str]:
        """What is wrong, in words."""
        found = []
        init = f"PyInit_{self.path.name.split('.')[0]}"
        if self.exported != {init}:
            found.append(f"exports {', '.join(sorted(self.exported ^ {init}))} beside, or instead of, {init}")
        if "GNU_RELRO" not in self.segments:
            found.append("no RELRO: tables of pointers stay writable")
        if not re.search(r"\(FLAGS\).*BIND_NOW|\(FLAGS_1\).*NOW|\(BIND_NOW\)", self.dynamic):
            found.append("no BIND_NOW: the table of functions stays writable")
        stack = re.search(r"GNU_STACK.*?(R[W ][E ])", self.segments, re.DOTALL)
        if stack is None or "E" in stack[1]:
            found.append("the stack is executable")
        if re.search(r"LOAD(?:\s+0x\w+){5}\s+RWE", self.segments):
            found.append("a segment is both writable and executable")
        if "(TEXTREL)" in self.dynamic:
            found.append("TEXTREL: code is written to when it is loaded")
        return found


def _readelf(what: str, path: Path) -> str:
    return subprocess.run(
        ["readelf", "--wide", what, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={"LC_ALL": "C", "PATH": "/usr/local/bin:/usr/bin:/bin"},
    ).stdout


def problems(paths: Iterable[Path]) -> list[str]:
    """What is wrong with these modules, one by one and together, each with its name before it."""
    modules = [Module(path) for path in paths]
    found = [f"{module.path.name}: {problem}" for module in modules for problem in module.problems()]
    imported = {name for module in modules for name in module.imported}
    if not modules:
        found.append("no modules")
    elif PROTECTOR not in imported:
        found.append("all: no stack protector")
    elif all(module.may_be_checked for module in modules) and not any(map(CHECKED.fullmatch, imported - {PROTECTOR})):
        found.append("all: no FORTIFY, copies of a known size are not checked")
    return found


def of_engine() -> list[Path]:
    """The modules of the engine that `import` finds."""
    import _uws

    return sorted(path for place in _uws.__path__ for path in Path(place).glob("*.so"))


def main() -> int:
    paths = [Path(arg) for arg in sys.argv[1:]] or of_engine()
    found = problems(paths)
    print("\n".join(found) or f"{len(paths)} modules are hardened")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
