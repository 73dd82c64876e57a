"""Writes out what would lift the limits: commands, and files for sysctl.d, limits.d and systemd."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from .facts import UNLIMITED
from .lifts import Advice, GroupLimit, Rlimit, Sysctl
from .rules import Report

__all__ = [
    "FILE_NAME",
    "LIMITS_D",
    "SYSCTL_D",
    "Plan",
    "check_name",
    "directives",
    "dropin_path",
    "dropin_text",
    "limits_text",
    "plan",
    "service_name",
    "sysctl_text",
]

FILE_NAME = "90-unlimitedws.conf"
"""Of every file that the doctor writes, wherever it is."""

SYSCTL_D = PurePosixPath("/etc/sysctl.d")
LIMITS_D = PurePosixPath("/etc/security/limits.d")
UNITS = PurePosixPath("/etc/systemd/system")

_DIRECTIVES = {"nofile": "LimitNOFILE", "as": "LimitAS", "nproc": "LimitNPROC"}
_PROPERTIES = {"memory.max": "MemoryMax", "memory.high": "MemoryHigh", "pids.max": "TasksMax"}
_ULIMIT = {"nofile": "n", "as": "v", "nproc": "u"}


@dataclass(frozen=True)
class Plan:
    """Everything that lifts what binds and what was warned of.

    Attributes:
        sysctls: Numbers that sysctls should at least have, in the order in which they are to be set.
        rlimits: Resource limits by the names of limits.conf.
        groups: Limits of control groups.
        advice: What is for a person to decide.
    """

    sysctls: Mapping[str, tuple[int, ...]]
    rlimits: Mapping[str, int]
    groups: tuple[GroupLimit, ...]
    advice: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.sysctls or self.rlimits or self.groups)


def plan(report: Report) -> Plan:
    """Collect what the findings ask for."""
    sysctls: dict[str, tuple[int, ...]] = {}
    rlimits: dict[str, int] = {}
    groups: list[GroupLimit] = []
    advice: list[str] = []
    for finding in report.findings:
        for lift in finding.lifts:
            match lift:
                case Sysctl(name, values):
                    sysctls[name] = values
                case Rlimit(name, value):
                    rlimits[name] = value
                case GroupLimit():
                    groups.append(lift)
                case Advice(text):
                    advice.append(f"{finding.knob}: {text}")
    # RLIMIT_NOFILE cannot be raised above it: it comes first.
    ordered = sorted(sysctls.items(), key=lambda item: item[0] != "fs.nr_open")
    return Plan(dict(ordered), rlimits, tuple(groups), tuple(advice))


def check_name(name: str) -> None:
    """Check the name of a unit or of a user, which becomes part of a path, a command or a line of a file.

    Raises:
        ValueError: It is not one.
    """
    if not re.fullmatch(r"[A-Za-z0-9_@.:\\][A-Za-z0-9_@.:\\-]*", name) or name.startswith("."):
        raise ValueError(f"{name!r}: not the name of a unit or of a user")


def service_name(name: str) -> str:
    """The full name of a unit: ``chat`` is ``chat.service``."""
    return name if "." in PurePosixPath(name).name else f"{name}.service"


def dropin_path(unit: str) -> PurePosixPath:
    """Where a unit's drop-in is."""
    return UNITS / f"{service_name(unit)}.d" / FILE_NAME


def sysctl_commands(plan: Plan) -> list[str]:
    """The commands that set the sysctls now."""
    return [f'sysctl -w {name}="{numbers(values)}"' for name, values in plan.sysctls.items()]


def sysctl_text(plan: Plan) -> str:
    """A file for sysctl.d, which sets them at every start."""
    return "".join(f"{name} = {numbers(values)}\n" for name, values in plan.sysctls.items())


def ulimit_commands(plan: Plan) -> list[str]:
    """The commands that set the resource limits of a shell and of what it starts."""
    found = []
    for name, value in plan.rlimits.items():
        found.append(f"ulimit -{_ULIMIT[name]} {in_shell(name, value)}")
    return found


def limits_text(plan: Plan, user: str) -> str:
    """A file for limits.d, read by PAM when the user logs in."""
    lines = [f"{user} - {name} {in_shell(name, value)}" for name, value in plan.rlimits.items()]
    return "".join(line + "\n" for line in lines)


def directives(plan: Plan, unit: str | None) -> dict[str, str]:
    """Directives of systemd that belong into a unit's drop-in: its resource limits, and the limits of its own group."""
    found = {_DIRECTIVES[name]: amount(value, "infinity") for name, value in plan.rlimits.items()}
    for limit in plan.groups:
        if is_service(limit.group, unit):
            found[_PROPERTIES[limit.knob]] = str(limit.value)
    return found


def dropin_text(plan: Plan, unit: str | None) -> str:
    """A unit's drop-in; empty where nothing belongs into it."""
    found = directives(plan, unit)
    return "[Service]\n" + "".join(f"{key}={value}\n" for key, value in found.items()) if found else ""


def group_lines(plan: Plan, unit: str | None) -> list[str]:
    """What to do about control groups that a drop-in of the service does not reach."""
    found = []
    for limit in plan.groups:
        name = PurePosixPath(limit.group).name
        if is_service(limit.group, unit):
            continue
        if name.endswith((".slice", ".scope")):
            found.append(f"systemctl set-property {name} {_PROPERTIES[limit.knob]}={limit.value}")
        else:
            found.append(
                f"# {limit.knob} of {limit.group}: {limit.value}, set by whoever starts the container"
            )
    return found


def is_service(group: str, unit: str | None) -> bool:
    """Whether a control group is that of a service, and of this one where one is named."""
    name = PurePosixPath(group).name
    return name == service_name(unit) if unit is not None else name.endswith(".service")


def numbers(values: tuple[int, ...]) -> str:
    """The numbers of a sysctl, as it takes them."""
    return " ".join(map(str, values))


def in_shell(name: str, value: int) -> str:
    """A resource limit as ulimit and limits.conf take it: address space in KiB."""
    return amount(value // 1024 if name == "as" and value < UNLIMITED else value, "unlimited")


def amount(value: int, no_limit: str) -> str:
    """A limit, with the word that stands for none."""
    return no_limit if value >= UNLIMITED else str(value)
