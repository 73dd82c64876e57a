"""Reads the facts, from /proc and the control groups. Everything is below a root, so that a container can look at its
host's, and a test at a tree of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from .facts import UNLIMITED, Facts, Group, Limit, Unread

__all__ = ["NoSuchProcess", "Reader", "sysctl_path"]

# How many numbers each has.
_NUMBERS = {
    "fs.file-max": 1,
    "fs.file-nr": 3,
    "fs.nr_open": 1,
    "fs.epoll.max_user_watches": 1,
    "vm.overcommit_memory": 1,
    "vm.max_map_count": 1,
    "net.core.somaxconn": 1,
    "net.core.rmem_max": 1,
    "net.core.wmem_max": 1,
    "net.ipv4.tcp_mem": 3,
    "net.ipv4.tcp_rmem": 3,
    "net.ipv4.tcp_wmem": 3,
    "net.ipv4.tcp_max_syn_backlog": 1,
    "net.ipv4.tcp_syncookies": 1,
    "net.ipv4.tcp_max_orphans": 1,
    "net.ipv4.ip_local_port_range": 2,
    "net.ipv4.tcp_tw_reuse": 1,
    "net.netfilter.nf_conntrack_max": 1,
    "net.netfilter.nf_conntrack_count": 1,
    "net.netfilter.nf_conntrack_buckets": 1,
}
_WORDS = (
    "net.core.default_qdisc",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_available_congestion_control",
)
# Those that the kernel shows in the network namespace it started with, and in no other.
_OF_THE_HOST = {
    "net.ipv4.tcp_mem",
    "net.ipv4.tcp_max_orphans",
    "net.core.default_qdisc",
    "net.core.rmem_max",
    "net.core.wmem_max",
}
# Those that are the same in every one.
_GLOBAL = {"net.ipv4.tcp_mem", "net.ipv4.tcp_max_orphans"}
_CONNTRACK = "net.netfilter."

_CAP_SYS_RESOURCE = 24
# Version 1 says "no limit" with the largest number of whole pages, whatever a page is.
_UNLIMITED_V1 = (1 << 63) - (1 << 20)
# Numbers have no more digits in the kernel; int() of more takes its time, and above 4,300 raises.
_MAX_DIGITS = 20

Value = TypeVar("Value")


class NoSuchProcess(LookupError):
    """There is no process of that number."""


class _Malformed(ValueError):
    """What stands in a file is not what the kernel writes there."""


def sysctl_path(root: Path, name: str) -> Path:
    """Where a sysctl is in /proc."""
    return root / "proc/sys" / name.replace(".", "/")


class Reader:
    """Reads the facts of a machine and of one process.

    Args:
        root: Directory below which /proc and /sys are.
        pid: The process; None is this one.

    **Thread:** any, one at a time.
    """

    def __init__(self, root: Path = Path("/"), pid: int | None = None) -> None:
        self._root = root
        self._proc = root / "proc"
        self._process = self._proc / ("self" if pid is None else str(pid))
        self._pid = pid
        self._unread: list[Unread] = []

    def read(self) -> Facts:
        """Read everything once.

        Returns:
            The facts; what could not be read is None, and in `Facts.unread`.

        Raises:
            NoSuchProcess: The process does not exist.
        """
        self._unread = []
        if self._pid is not None and not self._process.is_dir():
            raise NoSuchProcess(f"no process {self._pid}")
        limits = self._try("RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_AS", self._limits)
        facts = replace(
            self._machine(own_network=self._own_network()),
            subject="this process" if self._pid is None else f"process {self._pid}",
            running=self._pid is not None,
            nofile=self._limit(limits, "Max open files", "RLIMIT_NOFILE"),
            nproc=self._limit(limits, "Max processes", "RLIMIT_NPROC"),
            address_space=self._limit(limits, "Max address space", "RLIMIT_AS"),
            descriptors=0 if self._pid is None else self._try("descriptors in use", self._descriptors) or 0,
            may_raise=bool(self._try("capabilities", self._may_raise)),
            groups=self._own_groups(),
        )
        return replace(facts, unread=tuple(self._unread))

    def machine(self) -> Facts:
        """Read what is nobody's in particular: memory and sysctls."""
        self._unread = []
        facts = self._machine(own_network=False)
        return replace(facts, unread=tuple(self._unread))

    def _machine(self, own_network: bool) -> Facts:
        memory = self._try("memory", self._meminfo)
        numbers, words, absent = self._sysctls(own_network)
        return Facts(
            mem_total=self._kilobytes(memory, "MemTotal"),
            mem_available=self._kilobytes(memory, "MemAvailable"),
            commit_limit=self._kilobytes(memory, "CommitLimit"),
            committed=self._kilobytes(memory, "Committed_AS"),
            page_bytes=os.sysconf("SC_PAGE_SIZE"),
            numbers=numbers,
            words=words,
            absent=absent,
        )

    # ---- what may fail

    def _try(self, what: str, read: Callable[[], Value]) -> Value | None:
        try:
            return read()
        except OSError as exc:
            self._miss(what, f"{self._shown(exc.filename)}: {exc.strerror}")
        except _Malformed as exc:
            self._miss(what, str(exc))
        return None

    def _miss(self, what: str, why: str) -> None:
        self._unread.append(Unread(what, why))

    def _shown(self, path: object) -> str:
        """A path as it is without the root."""
        text = str(path)
        root = str(self._root).rstrip("/")
        return text[len(root) :] if root and text.startswith(root + "/") else text

    def _text(self, path: Path) -> str:
        # What is no text is malformed, and is shown as such.
        return path.read_text(encoding="utf-8", errors="backslashreplace")

    def _malformed(self, path: Path, text: str) -> _Malformed:
        return _Malformed(f"{self._shown(path)}: malformed: {text[:60]!r}")

    # ---- the process

    def _limits(self) -> dict[str, Limit | None]:
        """Limits by the name that they have in /proc; None where a line is malformed."""
        found: dict[str, Limit | None] = {}
        for line in self._text(self._process / "limits").splitlines()[1:]:
            parts = re.split(r"\s{2,}", line.strip())
            values = [_number(part, "unlimited") for part in parts[1:3]]
            soft, hard = values if len(values) == 2 else (None, None)
            found[parts[0]] = None if soft is None or hard is None else Limit(soft, hard)
        return found

    def _limit(self, limits: dict[str, Limit | None] | None, name: str, knob: str) -> Limit | None:
        if limits is None:
            return None
        found = limits.get(name)
        if found is None:
            path = self._shown(self._process / "limits")
            wrong = "malformed" if name in limits else "not there"
            self._miss(knob, f"{path}: {name!r} is {wrong}")
        return found

    def _descriptors(self) -> int:
        return len(os.listdir(self._process / "fd"))

    def _may_raise(self) -> bool:
        path = self._process / "status"
        text = self._text(path)
        match = re.search(r"^CapEff:\s*([0-9a-f]{1,16})$", text, re.MULTILINE)
        if match is None:
            raise _Malformed(f"{self._shown(path)}: no CapEff")
        return bool(int(match[1], 16) >> _CAP_SYS_RESOURCE & 1)

    def _own_network(self) -> bool:
        """Whether the sysctls that we see are not the process's."""
        if self._pid is None:
            return False
        ours, theirs = self._proc / "self/ns/net", self._process / "ns/net"
        different = self._try("net.*", lambda: os.readlink(ours) != os.readlink(theirs))
        if different:
            enter = f"nsenter --target {self._pid} --net unlimitedws doctor --pid {self._pid}"
            self._miss(
                "net.*", f"process {self._pid} has a network namespace of its own; look there: {enter}"
            )
        # Where it cannot be told, nothing is taken for what it may not be.
        return different is not False

    # ---- the machine

    def _meminfo(self) -> dict[str, str]:
        lines = (line.partition(":") for line in self._text(self._proc / "meminfo").splitlines())
        return {name: value.strip() for name, _, value in lines}

    def _kilobytes(self, memory: dict[str, str] | None, name: str) -> int | None:
        if memory is None:
            return None
        value = memory.get(name)
        if value is None:
            self._miss(name, f"{self._shown(self._proc / 'meminfo')}: not there")
            return None
        number = _number(value.removesuffix(" kB"))
        if number is None:
            self._miss(name, str(self._malformed(self._proc / "meminfo", value)))
            return None
        return number * 1024

    def _sysctls(
        self, own_network: bool
    ) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[str, ...]], frozenset[str]]:
        numbers: dict[str, tuple[int, ...]] = {}
        words: dict[str, tuple[str, ...]] = {}
        absent: set[str] = set()
        there = (self._proc / "sys/net/ipv4").is_dir()
        for name in (*_NUMBERS, *_WORDS):
            if own_network and name.startswith("net.") and name not in _GLOBAL:
                continue
            path = sysctl_path(self._root, name)
            try:
                text = self._text(path).strip()
            except FileNotFoundError as exc:
                if there and name.startswith(_CONNTRACK):
                    absent.add(name)
                elif there and name in _OF_THE_HOST:
                    self._miss(name, "only the host's network namespace shows it")
                else:
                    self._miss(name, f"{self._shown(path)}: {exc.strerror}")
                continue
            except OSError as exc:
                self._miss(name, f"{self._shown(path)}: {exc.strerror}")
                continue
            parts = text.split()
            if name in _WORDS:
                if parts:
                    words[name] = tuple(parts)
                    continue
            else:
                values = [_number(part) for part in parts]
                whole = tuple(value for value in values if value is not None)
                if len(whole) == len(values) == _NUMBERS[name]:
                    numbers[name] = whole
                    continue
            self._miss(name, str(self._malformed(path, text)))
        return numbers, words, frozenset(absent)

    # ---- control groups

    def groups_at(self, path: str) -> tuple[tuple[Group, ...], tuple[Unread, ...]]:
        """Read the limits of a group, and of those above it, that need not be the process's.

        Args:
            path: The group, the same in every hierarchy: that of a slice of systemd.

        Returns:
            The groups that have limits, the innermost first; and what could not be read.
        """
        self._unread = []
        mounts = self._try("control groups", self._mounts) or {}
        groups = tuple(self._groups(mounts, dict.fromkeys(("", *mounts), path)))
        return groups, tuple(self._unread)

    def _own_groups(self) -> tuple[Group, ...]:
        mounts = self._try("control groups", self._mounts)
        paths = self._try("control groups", self._paths)
        return () if mounts is None or paths is None else tuple(self._groups(mounts, paths))

    def _groups(self, mounts: dict[str, tuple[str, Path]], paths: dict[str, str]) -> Iterator[Group]:
        for controller in ("memory", "pids"):
            # It is in a hierarchy of version 1, or in the one of version 2.
            if (controller if controller in paths else "") not in mounts:
                self._miss(f"{controller} of control groups", "their hierarchy is not mounted here")
        readers = (("", self._group_v2), ("memory", self._memory_v1), ("pids", self._pids_v1))
        for hierarchy, read in readers:
            if hierarchy not in mounts or hierarchy not in paths:
                continue
            for directory, name in self._ancestors(mounts[hierarchy], paths[hierarchy]):
                group = read(directory, name)
                if group is not None:
                    yield group

    def _mounts(self) -> dict[str, tuple[str, Path]]:
        """Where the hierarchies are mounted that we read, and the group that stands at the mount: by controller,
        the hierarchy of version 2 as the empty name."""
        found: dict[str, tuple[str, Path]] = {}
        path = self._proc / "self/mountinfo"
        for line in self._text(path).splitlines():
            before, dash, after = line.partition(" - ")
            fields, kind = before.split(), after.split()
            if not dash or len(fields) < 5 or len(kind) < 3:
                raise self._malformed(path, line)
            top, place = _unescape(fields[3]), self._root / _unescape(fields[4]).lstrip("/")
            if kind[0] == "cgroup2":
                found.setdefault("", (top, place))
            elif kind[0] == "cgroup":
                for controller in {"memory", "pids"} & set(kind[2].split(",")):
                    found.setdefault(controller, (top, place))
        return found

    def _paths(self) -> dict[str, str]:
        """The process's group in each hierarchy, by controller."""
        found: dict[str, str] = {}
        path = self._process / "cgroup"
        for line in self._text(path).splitlines():
            parts = line.split(":", 2)
            if len(parts) != 3:
                raise self._malformed(path, line)
            for controller in parts[1].split(","):
                found[controller] = parts[2]
        return found

    def _ancestors(self, mount: tuple[str, Path], path: str) -> Iterator[tuple[Path, str]]:
        """A group and those above it, as far as they are mounted, the innermost first."""
        top, place = mount
        inner = Path(path)
        if top != "/":
            # A container that has its host's names: the directory mounted is the group at its top.
            if not inner.is_relative_to(top):
                self._miss("control groups", f"{path} is not below {top}, which is what is mounted")
                return
            inner = Path("/") / inner.relative_to(top)
        elif ".." in inner.parts:
            self._miss("control groups", f"{path} is outside of what this control group namespace shows")
            return
        if not (place / str(inner).lstrip("/")).is_dir():
            self._miss("control groups", f"{self._shown(place)}{inner}: not there")
            return
        for one in (inner, *inner.parents):
            yield place / str(one).lstrip("/"), str(one)

    def _amount(self, path: Path, no_limit: str = "") -> int:
        """A number from a group's file."""
        text = self._text(path).strip()
        value = _number(text, no_limit)
        if value is None:
            raise self._malformed(path, text)
        return value

    def _most(self, path: Path) -> int:
        """A limit from a group's file. At the top, and where the controller is not on, there is none."""
        try:
            return self._amount(path, "max")
        except FileNotFoundError:
            return UNLIMITED

    def _stat(self, path: Path, name: str) -> int:
        match = re.search(rf"^{name} (\d+)$", self._text(path), re.MULTILINE)
        if match is None:
            raise _Malformed(f"{self._shown(path)}: no {name}")
        return int(match[1])

    def _group_v2(self, directory: Path, name: str) -> Group | None:
        group = Group(
            name,
            2,
            memory_max=self._limit_of("memory.max", directory, name),
            memory_high=self._limit_of("memory.high", directory, name),
            pids_max=self._limit_of("pids.max", directory, name),
        )
        if min(group.memory_max, group.memory_high) != UNLIMITED:
            group = self._with_memory(group, directory, "memory.current", "inactive_file")
        if group.pids_max != UNLIMITED:
            group = replace(group, pids_used=self._used_of("pids.current", directory, name))
        return group if min(group.memory_max, group.memory_high, group.pids_max) != UNLIMITED else None

    def _memory_v1(self, directory: Path, name: str) -> Group | None:
        most = self._limit_of("memory.limit_in_bytes", directory, name)
        if most >= _UNLIMITED_V1:
            return None
        group = Group(name, 1, memory_max=most)
        return self._with_memory(group, directory, "memory.usage_in_bytes", "total_inactive_file")

    def _pids_v1(self, directory: Path, name: str) -> Group | None:
        most = self._limit_of("pids.max", directory, name)
        if most == UNLIMITED:
            return None
        return Group(name, 1, pids_max=most, pids_used=self._used_of("pids.current", directory, name))

    def _with_memory(self, group: Group, directory: Path, used: str, cached: str) -> Group:
        stat = directory / "memory.stat"
        return replace(
            group,
            memory_used=self._used_of(used, directory, group.name),
            memory_cached=self._try(f"memory.stat of {group.name}", lambda: self._stat(stat, cached)) or 0,
        )

    def _limit_of(self, file: str, directory: Path, name: str) -> int:
        value = self._try(f"{file} of {name}", lambda: self._most(directory / file))
        return UNLIMITED if value is None else value

    def _used_of(self, file: str, directory: Path, name: str) -> int:
        return self._try(f"{file} of {name}", lambda: self._amount(directory / file)) or 0


def _number(text: str, no_limit: str = "") -> int | None:
    """A number as the kernel writes it, `UNLIMITED` for the word that says so; None: it is neither."""
    if no_limit and text == no_limit:
        return UNLIMITED
    if not re.fullmatch(rf"[0-9]{{1,{_MAX_DIGITS}}}", text):
        return None
    # LONG_MAX, the default of fs.file-max, is as good as none.
    return UNLIMITED if int(text) >= UNLIMITED - 1 else int(text)


def _unescape(path: str) -> str:
    """A path of mountinfo: blanks, tabs, newlines and backslashes are octal there."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
