"""The places in the engine's modules from which calls are made that may fail, read from their machine code.

Owns the reading of what objdump prints. For failing_calls.py, which tells how many of them have failed.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from shim import CALLS, SAME

_FUNCTION = re.compile(r"^[0-9a-f]+ <(?P<name>[^>]+)>:$")
_LINE = re.compile(r"^ *(?P<at>[0-9a-f]+):\t(?P<text>.*)$")
# Through the procedure linkage table, or, where one module calls another, through a pointer of its own.
_CALL = re.compile(r"\b(?:call|callq|bl)\s.*<(?P<name>[^@>+]+)(?:@plt)?>")
_POINTER = re.compile(r"__pyx_f_4_uws_4slab_(slab_take|slab_grow)$")


class Site(NamedTuple):
    """A place: what is called, and from which function, as it is written in the source."""

    module: str
    function: str
    call: str


def _plain(name: str) -> str:
    """A function's name without what Cython and the compiler have added."""
    return re.sub(r"^__pyx_(?:f|pf|pw)_4_uws_\d+[a-z]+_|\.(?:constprop|part|isra|cold)\.?\d*$", "", name)


def _wanted(name: str) -> str | None:
    if pointer := _POINTER.search(name):
        return pointer[1]
    # Which of its operations it is cannot be seen from here.
    name = "epoll_ctl" if name == "epoll_ctl" else SAME.get(name, name)
    return name if name in CALLS or name == "epoll_ctl" else None


def sites_of(module: Path) -> dict[int, Site]:
    """The sites of a module by the address of what follows the call."""
    command = ["objdump", "-d", "--no-show-raw-insn", "-j", ".text", str(module)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[int, Site] = {}
    function, pending = "", None
    for line in listed.splitlines():
        if heading := _FUNCTION.match(line):
            function = _plain(heading["name"])
        elif parts := _LINE.match(line):
            if pending is not None:
                found[int(parts["at"], 16)] = pending
                pending = None
            call = _CALL.search(parts["text"])
            if call and (name := _wanted(call["name"])):
                pending = Site(module.name.partition(".")[0], function, name)
    return found


def untried(engine: Path, failed: Mapping[str, int]) -> tuple[int, list[Site]]:
    """How many sites the modules of an engine have, and those of which no call was made to fail.

    failed: "module+offset" -> how often it was, as failing_calls.Report has it.
    """
    every = {f"{module.name}+{at:#x}": site for module in engine.glob("*.so") for at, site in sites_of(module).items()}
    return len(every), sorted(site for where, site in every.items() if not failed.get(where))
