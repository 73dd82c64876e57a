"""Asks systemd what a unit is to be started with: its limits need not be those of anything that runs now."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TypeAlias

from .facts import UNLIMITED, Facts, Group, Limit, Unread
from .reading import Reader
from .remedies import service_name

__all__ = ["NoSuchUnit", "Run", "of_unit", "run", "show"]

Run: TypeAlias = Callable[[Sequence[str]], str]
"""Runs a command and returns what it prints; raises OSError where it cannot be run or fails."""

_PATIENCE_S = 30
_LIMITS = {"nofile": "LimitNOFILE", "nproc": "LimitNPROC", "address_space": "LimitAS"}
_GROUP = ("MemoryMax", "MemoryHigh", "TasksMax")


class NoSuchUnit(LookupError):
    """systemd knows no unit of that name, or cannot be asked."""


def run(command: Sequence[str]) -> str:
    """Run a command; see `Run`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except subprocess.TimeoutExpired as exc:
        raise OSError(0, f"no answer in {_PATIENCE_S} s") from exc
    if done.returncode != 0:
        raise OSError(done.returncode, done.stderr.strip() or f"ended with {done.returncode}")
    return done.stdout


def show(unit: str, run: Run) -> dict[str, str]:
    """What systemd says of a unit, by property.

    Raises:
        NoSuchUnit: There is none, or systemd cannot be asked.
    """
    soft = (f"{name}Soft" for name in _LIMITS.values())
    names = ",".join(("LoadState", "Slice", *_LIMITS.values(), *soft, *_GROUP))
    unit = service_name(unit)
    try:
        said = run(["systemctl", "show", f"--property={names}", unit])
    except OSError as exc:
        raise NoSuchUnit(f"systemctl show {unit}: {exc.strerror}") from exc
    found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    if found.get("LoadState") != "loaded":
        raise NoSuchUnit(f"unit {unit}: {found.get('LoadState', 'systemctl says nothing of it')}")
    return found


def of_unit(unit: str, reader: Reader, run: Run) -> Facts:
    """The facts of a machine, with a unit's limits in place of a process's.

    Args:
        unit: Its name, with or without ``.service``.
        reader: Reads the machine.
        run: Runs systemctl.

    Raises:
        NoSuchUnit: As `show`.
    """
    said = show(unit, run)
    unit = service_name(unit)
    machine = reader.machine()
    missed = list(machine.unread)
    found: dict[str, Limit | None] = {}
    for field, name in _LIMITS.items():
        hard = _amount(said.get(name))
        # Before version 240 there is one for both where both are the same.
        soft = _amount(said.get(f"{name}Soft", said.get(name)))
        found[field] = None if hard is None or soft is None else Limit(soft, hard)
        if found[field] is None:
            missed.append(Unread(name, f"systemctl show {unit}: {said.get(name, 'not there')!r}"))
    most: dict[str, int] = {}
    for name in _GROUP:
        value = _amount(said.get(name))
        if value is None:
            missed.append(Unread(name, f"systemctl show {unit}: {said.get(name, 'not there')!r}"))
        most[name] = UNLIMITED if value is None else value
    own = Group(unit, 2, most["MemoryMax"], most["MemoryHigh"], pids_max=most["TasksMax"])
    above, missed_above = reader.groups_at(_slice_path(said.get("Slice") or "system.slice"))
    return replace(
        machine,
        subject=f"unit {unit}",
        unit=unit,
        nofile=found["nofile"],
        nproc=found["nproc"],
        address_space=found["address_space"],
        groups=(own, *above),
        unread=(*missed, *missed_above),
    )


def _slice_path(name: str) -> str:
    """Where a slice is: ``a-b.slice`` is in ``a.slice``."""
    if name == "-.slice":
        return "/"
    parts = name.removesuffix(".slice").split("-")
    names = ("-".join(parts[: n + 1]) + ".slice" for n in range(len(parts)))
    return str(PurePosixPath("/", *names))


def _amount(text: str | None) -> int | None:
    if text == "infinity":
        return UNLIMITED
    if text is None or not (text.isascii() and text.isdecimal()):
        return None
    return min(int(text), UNLIMITED)
