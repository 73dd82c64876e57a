"""What can be done about a limit, as data: `rules` says it, `remedies` writes it out, `applying` does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Advice", "GroupLimit", "Lift", "Rlimit", "Sysctl"]


@dataclass(frozen=True)
class Sysctl:
    """Raise a sysctl.

    Attributes:
        name: Its name, with dots.
        values: The numbers that it should at least have.
    """

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class Rlimit:
    """Raise a resource limit of whoever serves.

    Attributes:
        name: As limits.conf has it: ``nofile``, ``as``, ``nproc``.
        value: What it should at least be.
    """

    name: str
    value: int


@dataclass(frozen=True)
class GroupLimit:
    """Raise a limit of a control group.

    Attributes:
        group: The group.
        knob: ``memory.max``, ``memory.high`` or ``pids.max``, whatever the version calls it.
        value: What it should at least be.
    """

    group: str
    knob: str
    value: int


@dataclass(frozen=True)
class Advice:
    """Something for a person to decide on.

    Attributes:
        text: What, in a sentence.
    """

    text: str


Lift: TypeAlias = Sysctl | Rlimit | GroupLimit | Advice
