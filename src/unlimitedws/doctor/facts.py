"""What the doctor knows of a machine: values alone, so that the rules need no machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["UNLIMITED", "Facts", "Group", "Limit", "Unread"]

UNLIMITED = 1 << 63
"""Where a limit says ``unlimited``, ``infinity`` or ``max``. Above every number that the kernel knows, so that limits
compare as numbers do."""


@dataclass(frozen=True)
class Limit:
    """A resource limit of a process."""

    soft: int
    hard: int


@dataclass(frozen=True)
class Group:
    """A control group that the process is in, or one above it; a unit of systemd before it has started.

    Attributes:
        name: Its path, as the process sees it; of a unit its name.
        version: 1 or 2.
        memory_max: Bytes beyond which the kernel kills.
        memory_high: Bytes beyond which it makes processes wait while it takes pages back; version 2 only.
        memory_used: Bytes charged now.
        memory_cached: Bytes of these that the kernel takes back when it needs them: file cache not in use.
        pids_max: Tasks, that is threads too.
        pids_used: Tasks there are.
    """

    name: str
    version: int
    memory_max: int = UNLIMITED
    memory_high: int = UNLIMITED
    memory_used: int = 0
    memory_cached: int = 0
    pids_max: int = UNLIMITED
    pids_used: int = 0


@dataclass(frozen=True)
class Unread:
    """Something that would count and cannot be read.

    Attributes:
        what: The knob.
        why: What the system said, or what is wrong with what stands there.
    """

    what: str
    why: str


@dataclass(frozen=True)
class Facts:
    """A machine and a process at one moment. None: it could not be read, and `unread` says why.

    Attributes:
        subject: Whose limits these are: ``this process``, ``process 4711``, ``unit chat.service``.
        unit: The unit of systemd that it is about, where it is about one that is to be started.
        running: Whether these are the limits of a process that has raised by now what it raises by itself.
        nofile: RLIMIT_NOFILE.
        nproc: RLIMIT_NPROC.
        address_space: RLIMIT_AS, bytes.
        descriptors: Descriptors that the process has open; 0 where a server is yet to be started.
        may_raise: Whether it has CAP_SYS_RESOURCE, with which hard limits can be raised.
        mem_total: Bytes.
        mem_available: Bytes that can be had without swapping, as the kernel estimates it.
        commit_limit: Bytes that may be promised where ``vm.overcommit_memory`` is 2.
        committed: Bytes that are.
        page_bytes: The size of a page.
        numbers: Values of sysctls by name.
        words: The same for those that are words.
        groups: Control groups with limits, the innermost first.
        absent: Sysctls that are not there because what they limit is not: conntrack that is not loaded.
        unread: What could not be read.
    """

    subject: str = "this process"
    unit: str | None = None
    running: bool = False
    nofile: Limit | None = None
    nproc: Limit | None = None
    address_space: Limit | None = None
    descriptors: int = 0
    may_raise: bool = False
    mem_total: int | None = None
    mem_available: int | None = None
    commit_limit: int | None = None
    committed: int | None = None
    page_bytes: int = 4096
    numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    absent: frozenset[str] = frozenset()
    unread: tuple[Unread, ...] = ()

    def number(self, name: str, index: int = 0) -> int | None:
        """One number of a sysctl, or None where it could not be read."""
        values = self.numbers.get(name)
        return None if values is None else values[index]
