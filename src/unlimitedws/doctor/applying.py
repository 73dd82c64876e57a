"""Does what the plan says, with ``--apply``: the only file of the doctor that changes anything. No value is lowered,
and doing it again changes nothing."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import resource
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from . import units
from .facts import UNLIMITED, Limit
from .reading import sysctl_path
from .remedies import (
    FILE_NAME,
    LIMITS_D,
    SYSCTL_D,
    Plan,
    amount,
    directives,
    dropin_path,
    in_shell,
    is_service,
    numbers,
    service_name,
)
from .units import Run

__all__ = ["Deed", "apply"]

_HEAD = "# Written by: unlimitedws doctor --apply. It raises what is here, and never lowers it.\n"
# Where sysctl looks, in the order of precedence of directories for files of one name.
_SYSCTL_DIRECTORIES = (
    "etc/sysctl.d",
    "run/sysctl.d",
    "usr/local/lib/sysctl.d",
    "usr/lib/sysctl.d",
    "lib/sysctl.d",
)
_RESOURCES = {"nofile": resource.RLIMIT_NOFILE, "as": resource.RLIMIT_AS, "nproc": resource.RLIMIT_NPROC}


@dataclass(frozen=True)
class Deed:
    """Something done, or not.

    Attributes:
        done: Whether it was.
        what: What, and why not.
    """

    done: bool
    what: str


def apply(
    plan: Plan,
    *,
    root: Path = Path("/"),
    pid: int | None = None,
    unit: str | None = None,
    user: str | None = None,
    run: Run = units.run,
) -> list[Deed]:
    """Raise what the plan says.

    Sysctls are raised now, and in /etc/sysctl.d for every start. Resource limits belong to somebody, so he has to be
    named: the process, the unit, or the user; so do limits of control groups.

    Args:
        plan: What is to be raised.
        root: Directory below which /proc and /etc are.
        pid: A process whose resource limits are raised, now.
        unit: A unit that gets a drop-in, for its next start.
        user: A user who gets a file in /etc/security/limits.d, for his next login.
        run: Runs systemctl.

    Returns:
        What was done and what was not, in order.
    """
    deeds = list(_sysctls(plan, root))
    if unit is not None:
        deeds += _unit(plan, unit, root, run)
    if user is not None and plan.rlimits:
        deeds.append(_user(plan, user, root))
    if pid is not None:
        deeds += _process(plan, pid, root)
    if unit is None and user is None and pid is None:
        for name, value in plan.rlimits.items():
            what = f"RLIMIT_{name.upper()} {in_shell(name, value)}"
            deeds.append(Deed(False, f"{what}: say whose: --unit, --user or --pid"))
    for limit in plan.groups:
        if unit is None or not is_service(limit.group, unit):
            deeds.append(
                Deed(False, f"{limit.knob} of {limit.group} {limit.value}: only a unit's own, with --unit")
            )
    return deeds


# ---- sysctls


def _sysctls(plan: Plan, root: Path) -> Iterator[Deed]:
    kept: dict[str, tuple[int, ...]] = {}
    for name, wanted in plan.sysctls.items():
        path = sysctl_path(root, name)
        try:
            before = _parse(path.read_text())
            if before is None or len(before) != len(wanted):
                raise OSError(0, "is not the number that was expected")
            values = _highest(before, wanted)
            if values != before:
                path.write_text(numbers(values) + "\n")
            # The kernel may round, or take less than it was given.
            after = _parse(path.read_text())
            if after is None or any(a < b for a, b in zip(after, values, strict=True)):
                raise OSError(0, f"was given {numbers(values)}, and is {after and numbers(after)}")
        except OSError as exc:
            yield Deed(False, f"{name} {numbers(wanted)}: {exc.strerror}")
            continue
        kept[name] = values
        yield Deed(True, f"{name}: {numbers(before)} -> {numbers(values)}")
    if kept:
        yield from _sysctl_file(kept, root)


def _sysctl_file(kept: dict[str, tuple[int, ...]], root: Path) -> Iterator[Deed]:
    own = SYSCTL_D / FILE_NAME
    elsewhere = [each for each in _sysctl_settings(root) if each[0] != own and each[1] in kept]
    for _, name, values in elsewhere:
        kept[name] = _highest(values, kept[name])

    def merged(line: str) -> tuple[str, str] | None:
        found = _sysctl_line(line)
        if found is None or found[0] not in kept:
            return None
        name, values = found
        return name, f"{name} = {numbers(_highest(values, kept[name]))}"

    fresh = {name: f"{name} = {numbers(values)}" for name, values in kept.items()}
    yield _write(root, own, fresh, merged)
    # sysctl takes files by name, and /etc/sysctl.conf last.
    for path, name, values in elsewhere:
        later = path.name > FILE_NAME or path == PurePosixPath("/etc/sysctl.conf")
        if later and any(a < b for a, b in zip(values, kept[name], strict=False)):
            yield Deed(False, f"{name} at the next start: {path} comes later and says {numbers(values)}")


def _sysctl_settings(root: Path) -> Iterator[tuple[PurePosixPath, str, tuple[int, ...]]]:
    """What files set at a start: file, name, numbers. A file hides those of its name in directories further down."""
    seen: set[str] = set()
    files: list[Path] = []
    for directory in _SYSCTL_DIRECTORIES:
        for path in sorted((root / directory).glob("*.conf")):
            if path.name not in seen:
                seen.add(path.name)
                files.append(path)
    for path in (*files, root / "etc/sysctl.conf"):
        # One that cannot be read says nothing that could be heeded; sysctl itself passes it over.
        with contextlib.suppress(OSError):
            for line in path.read_text(errors="replace").splitlines():
                found = _sysctl_line(line)
                if found is not None:
                    yield PurePosixPath("/", path.relative_to(root)), *found


def _sysctl_line(line: str) -> tuple[str, tuple[int, ...]] | None:
    match = re.fullmatch(r"\s*-?\s*([^#;=\s][^=\s]*)\s*=\s*(.*?)\s*", line)
    values = _parse(match[2]) if match else None
    if match is None or values is None:
        return None
    name = match[1]
    # net/core/somaxconn is another way to write it; the first separator says which it is.
    if re.match(r"[^./]*/", name):
        name = name.translate(str.maketrans("/.", "./"))
    return name, values


def _parse(text: str) -> tuple[int, ...] | None:
    parts = text.split()
    return tuple(map(int, parts)) if parts and all(p.isascii() and p.isdecimal() for p in parts) else None


def _highest(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(max, one, other)) if len(one) == len(other) else other


# ---- whose limits


def _process(plan: Plan, pid: int, root: Path) -> Iterator[Deed]:
    for name, wanted in plan.rlimits.items():
        what = f"RLIMIT_{name.upper()} of process {pid}"
        if root != Path("/"):
            yield Deed(False, f"{what} {in_shell(name, wanted)}: not with --root")
            continue
        try:
            soft, hard = (_from_kernel(value) for value in resource.prlimit(pid, _RESOURCES[name]))
            new = Limit(max(soft, wanted), max(hard, wanted))
            if new != Limit(soft, hard):
                resource.prlimit(pid, _RESOURCES[name], (_to_kernel(new.soft), _to_kernel(new.hard)))
        except (OSError, ValueError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else str(exc)
            yield Deed(False, f"{what} {in_shell(name, wanted)}: {why}")
            continue
        yield Deed(True, f"{what}: {amount(soft, 'unlimited')} -> {amount(new.soft, 'unlimited')}")


def _from_kernel(value: int) -> int:
    return UNLIMITED if value == resource.RLIM_INFINITY else value


def _to_kernel(value: int) -> int:
    return resource.RLIM_INFINITY if value >= UNLIMITED else value


def _unit(plan: Plan, unit: str, root: Path, run: Run) -> Iterator[Deed]:
    wanted = directives(plan, unit)
    if not wanted:
        return
    try:
        now = units.show(unit, run)
    except units.NoSuchUnit as exc:
        # What it has now is not known: a drop-in might lower it.
        yield Deed(False, f"drop-in for {service_name(unit)}: {exc}")
        return
    values = {key: _higher(now.get(key, ""), value) for key, value in wanted.items()}

    def merged(line: str) -> tuple[str, str] | None:
        key, equals, value = line.partition("=")
        key = key.strip()
        if not equals or key not in values:
            return None
        return key, f"{key}={_higher(value.strip(), values[key])}"

    fresh = {key: f"{key}={value}" for key, value in values.items()}
    deed = _write(root, dropin_path(unit), fresh, merged, section="[Service]")
    yield deed
    if deed.done:
        try:
            run(["systemctl", "daemon-reload"])
            yield Deed(True, f"systemctl daemon-reload; {service_name(unit)} has it from its next start on")
        except OSError as exc:
            yield Deed(False, f"systemctl daemon-reload: {exc.strerror}")


def _higher(one: str, other: str) -> str:
    """The higher of two values of systemd. One that is no number is nothing to compare with: the other."""
    if "infinity" in (one, other):
        return "infinity"
    if not (one.isascii() and one.isdecimal()):
        return other
    return max(one, other, key=int)


def _user(plan: Plan, user: str, root: Path) -> Deed:
    wanted = dict(plan.rlimits)
    for path in (
        root / "etc/security/limits.conf",
        *sorted((root / LIMITS_D.relative_to("/")).glob("*.conf")),
    ):
        with contextlib.suppress(OSError):
            for line in path.read_text(errors="replace").splitlines():
                found = _limits_line(line)
                # What he has for being one of everybody would be lowered by a line of his own.
                if found is not None and _is_about(found[0], user) and found[1] in wanted:
                    wanted[found[1]] = max(wanted[found[1]], found[2])
    fresh = {name: f"{user} - {name} {in_shell(name, value)}" for name, value in wanted.items()}

    def merged(line: str) -> tuple[str, str] | None:
        found = _limits_line(line)
        if found is None or found[0] != user or found[1] not in fresh:
            return None
        return found[1], fresh[found[1]]

    return _write(root, LIMITS_D / FILE_NAME, fresh, merged)


def _is_about(who: str, user: str) -> bool:
    """Whether a line of limits.conf is about a user. A group is, where his groups are not known."""
    if not who.startswith("@"):
        return who in (user, "*")
    try:
        groups = os.getgrouplist(user, pwd.getpwnam(user).pw_gid)
    except KeyError:
        return True
    return who[1:] in {group.gr_name for group in grp.getgrall() if group.gr_gid in groups}


def _limits_line(line: str) -> tuple[str, str, int] | None:
    """Who, what, and how much; None: not a line with a number for what we know."""
    parts = line.split("#")[0].split()
    if len(parts) != 4 or parts[2] not in _RESOURCES:
        return None
    who, _, what, value = parts
    if value in ("unlimited", "infinity", "-1"):
        return who, what, UNLIMITED
    if not (value.isascii() and value.isdecimal()):
        return None
    return who, what, int(value) * (1024 if what == "as" else 1)


# ---- files


def _write(
    root: Path,
    place: PurePosixPath,
    fresh: Mapping[str, str],
    merged: Callable[[str], tuple[str, str] | None],
    section: str = "",
) -> Deed:
    """Put lines into a file of ours, by what they are about; lines of others in it stay.

    fresh: what is to be there. merged: for a line that is there already and about the same, what it is about and how it
    has to be; None: not one of these. section: the header that new lines have to be under.
    """
    path = root / place.relative_to("/")
    try:
        try:
            before = path.read_text()
        except FileNotFoundError:
            before = ""
        lines: list[str] = []
        left = dict(fresh)
        for line in before.splitlines():
            found = merged(line)
            if found is not None:
                left.pop(found[0], None)
                line = found[1]
            lines.append(line)
        if left and section:
            headers = [line.strip() for line in lines if line.lstrip().startswith("[")]
            if headers[-1:] != [section]:
                lines.append(section)
        lines += left.values()
        after = ("" if before else _HEAD) + "".join(f"{line}\n" for line in lines)
        if after == before:
            return Deed(True, f"{place}: has it all")
        _replace(path, after)
    except OSError as exc:
        return Deed(False, f"{place}: {exc.strerror}")
    return Deed(True, f"{place}: written")


def _replace(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
