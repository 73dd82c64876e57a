"""From facts to findings: how many connections each knob allows, which binds first, what would lift it. Pure functions;
what the figures rest on stands in docs/tuning.md."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from ..options import MAX_LOOPS, Options
from .facts import UNLIMITED, Facts, Group
from .lifts import Advice, GroupLimit, Lift, Rlimit, Sysctl

__all__ = ["KERNEL_BYTES", "OWN_BYTES", "Finding", "Question", "Report", "State", "examine"]

KERNEL_BYTES = 4500
"""What an idle connection costs the kernel at one end: socket, inode, dentry, file, epoll. Measured over 10,000 to
1,000,000 pairs on Linux 6.18: 8.9 KB a pair."""

OWN_BYTES = 60
"""What it costs us."""

OWN_DESCRIPTORS = 32
"""Left to the program in its table: standard streams, listeners, epoll and eventfd are 8 of them, the rest is for its
logs and databases."""

LOOP_DESCRIPTORS = 24
"""Left to a loop in a table of its own, in which the program has nothing."""

TABLE_BYTES = 96
"""Address space that a loop reserves for each descriptor its process may ever have, at the start."""

BASE_BYTES = (128 << 20) + ((1 << 30) if sysconfig.get_config_var("Py_GIL_DISABLED") else 0)
"""Address space of a server beside its table, its thread stacks not counted. Without a GIL Python has an allocator that
reserves a GiB at once."""

MEMORY_SHARE = 0.9
"""Of the memory that can be had: the rest is for what is sent and received, and for everybody else."""

# What the engine's table has at most, MAX_TABLE of core.pyx.
_MAX_TABLE = 1 << 24
# Workers of DefaultServer's pool, and what else the process runs.
_POOL_THREADS = 160
_BACKLOG = Options().backlog
_DEFAULT_MAPS = 65530
_NO_START = ": a server does not start"


class State(Enum):
    """What a finding comes to."""

    OK = "ok"
    BINDS = "binds"
    """The target cannot be held."""
    WARN = "warning"
    """It can be held, but not under every load."""
    NOTE = "note"
    """Shown because people ask for it."""


@dataclass(frozen=True)
class Question:
    """What the doctor is asked.

    Attributes:
        target: Connections to be held.
        bytes_per_connection: Kernel and process together, without anything in flight.
        private_tables: Whether the answer is for loops that each have a descriptor table of their own.

    Raises:
        ValueError: A number is not positive.
    """

    target: int = 100_000
    bytes_per_connection: int = KERNEL_BYTES + OWN_BYTES
    private_tables: bool = False

    def __post_init__(self) -> None:
        if self.target < 1:
            raise ValueError("connections: must be at least 1")
        if self.bytes_per_connection < 1:
            raise ValueError("bytes per connection: must be at least 1")


@dataclass(frozen=True)
class Finding:
    """What one knob means for the question.

    Attributes:
        knob: Its name.
        value: What it is set to, to be read by people.
        state: What that comes to.
        why: A sentence on it.
        holds: Connections that it allows in one descriptor table; None: it does not limit their number.
        holds_private: The same where each loop has a table of its own.
        lifts: What would lift it to the target.
    """

    knob: str
    value: str
    state: State
    why: str
    holds: int | None = None
    holds_private: int | None = None
    lifts: tuple[Lift, ...] = ()


@dataclass(frozen=True)
class Report:
    """The answer.

    Attributes:
        facts: What it rests on.
        question: What was asked.
        findings: Those that limit the number of connections first, the lowest at the top.
    """

    facts: Facts
    question: Question
    findings: tuple[Finding, ...]

    @property
    def certain(self) -> bool:
        """Whether the two things were read without which there is no answer: RLIMIT_NOFILE and the memory."""
        return self.facts.nofile is not None and self.facts.mem_available is not None

    @property
    def limits(self) -> tuple[Finding, ...]:
        """Findings that limit the number of connections, the lowest first, by the question's kind of table."""
        found = [finding for finding in self.findings if finding.holds is not None]
        return tuple(sorted(found, key=self._holds))

    @property
    def capacity(self) -> int:
        """Connections that one descriptor table can hold; `UNLIMITED` where no limit could be read."""
        return min((f.holds for f in self.findings if f.holds is not None), default=UNLIMITED)

    @property
    def capacity_private(self) -> int:
        """Connections that `MAX_LOOPS` loops can hold that each have a table of their own."""
        held = (f.holds_private for f in self.findings if f.holds_private is not None)
        return min(held, default=UNLIMITED)

    @property
    def loops(self) -> int | None:
        """How many loops with tables of their own the target takes; None: no number of them is enough for it, or
        RLIMIT_NOFILE could not be read."""
        room = _table_room(self.facts)
        if room is None or room == 0 or self.question.target > self.capacity_private:
            return None
        return -(-self.question.target // room)

    @property
    def holds(self) -> bool | None:
        """Whether the target can be held. None: nothing stands against it, but not everything could be read."""
        room = self.capacity_private if self.question.private_tables else self.capacity
        if room < self.question.target:
            return False
        return True if self.certain else None

    def _holds(self, finding: Finding) -> int:
        held = finding.holds_private if self.question.private_tables else finding.holds
        return UNLIMITED if held is None else held


def examine(facts: Facts, question: Question) -> Report:
    """Apply every rule.

    Args:
        facts: What is known; a rule whose facts are missing says nothing.
        question: What is asked.

    Returns:
        The report.
    """
    findings = [finding for rule in _RULES for finding in rule(facts, question)]
    report = Report(facts, question, tuple(findings))
    others = (finding for finding in findings if finding.holds is None)
    return Report(facts, question, (*report.limits, *others))


# ---- what limits the number of connections


def _nofile(facts: Facts, question: Question) -> Iterator[Finding]:
    if facts.nofile is None:
        return
    limit = facts.nofile.soft if facts.running else facts.nofile.hard
    room = max(0, min(limit, _MAX_TABLE) - OWN_DESCRIPTORS)
    value = count(limit)
    why = "a connection is a descriptor"
    if facts.running:
        if facts.nofile.soft < facts.nofile.hard:
            value = f"{value} (hard: {count(facts.nofile.hard)})"
            why = "a connection is a descriptor; the soft limit counts, because the process runs"
    elif facts.nofile.soft < facts.nofile.hard:
        value = f"{value} (soft: {count(facts.nofile.soft)})"
        why = "a connection is a descriptor; the server raises the soft limit to the hard one when it starts"
    wanted = descriptors_for(question.target, facts)
    lifts: list[Lift] = [Rlimit("nofile", wanted)]
    if wanted > _MAX_TABLE:
        lifts = [
            Advice(f"A loop's table ends at {_MAX_TABLE:,}: private descriptor tables, or several processes.")
        ]
    elif facts.unit is None and not facts.may_raise:
        who = "whoever starts the process, or the container"
        lifts.append(Advice(f"A hard limit is raised by who has CAP_SYS_RESOURCE: {who}."))
    yield _limit("RLIMIT_NOFILE", value, why, room, question, lifts, private=_in_private_tables(limit))


def _nr_open(facts: Facts, question: Question) -> Iterator[Finding]:
    nr_open = facts.number("fs.nr_open")
    if nr_open is None:
        return
    room = max(0, nr_open - OWN_DESCRIPTORS)
    lift = Sysctl("fs.nr_open", (descriptors_for(question.target, facts),))
    why = "no RLIMIT_NOFILE is above it"
    yield _limit(
        "fs.nr_open", count(nr_open), why, room, question, [lift], private=_in_private_tables(nr_open)
    )


def _file_max(facts: Facts, question: Question) -> Iterator[Finding]:
    most, used = facts.number("fs.file-max"), facts.number("fs.file-nr")
    if most is None or used is None:
        return
    others = max(0, used - _held(facts))
    room = _above(most, others)
    # A tenth for whatever else the machine runs.
    lift = Sysctl("fs.file-max", (_power_of_two((others + question.target) * 11 // 10),))
    why = "open files of the whole machine, but for root's"
    yield _limit("fs.file-max", f"{count(most)} ({count(used)} in use)", why, room, question, [lift])


def _watches(facts: Facts, question: Question) -> Iterator[Finding]:
    most = facts.number("fs.epoll.max_user_watches")
    if most is None:
        return
    lift = Sysctl("fs.epoll.max_user_watches", (_power_of_two(question.target * 11 // 10),))
    why = "a connection is a watch, and all processes of a user share them"
    yield _limit("fs.epoll.max_user_watches", count(most), why, most, question, [lift])


def _conntrack(facts: Facts, question: Question) -> Iterator[Finding]:
    name = "net.netfilter.nf_conntrack_max"
    if name in facts.absent:
        yield Finding(name, "not loaded", State.OK, "no firewall of this machine tracks connections")
        return
    most, used = facts.number(name), facts.number("net.netfilter.nf_conntrack_count")
    if most is None or used is None:
        return
    value = f"{count(most)} ({count(used)} tracked)"
    # 0: no limit at all.
    if most == 0:
        yield Finding(name, value, State.OK, "0: no limit")
        return
    if used == 0:
        why = "loaded, but tracks nothing here: it would limit if a firewall's rule asked for it"
        yield Finding(name, value, State.NOTE, why)
        return
    room = _above(most, max(0, used - _held(facts)))
    wanted = _power_of_two((used + question.target) * 11 // 10)
    lifts: list[Lift] = [Sysctl(name, (wanted,))]
    buckets = facts.number("net.netfilter.nf_conntrack_buckets")
    # Above some entries a bucket every packet walks a list.
    if buckets is not None and buckets < wanted // 4:
        lifts.append(Sysctl("net.netfilter.nf_conntrack_buckets", (wanted // 4,)))
    why = "the firewall tracks connections, and drops the packets of those that it has no room for"
    yield _limit(name, value, why, room, question, lifts)


def _memory(facts: Facts, question: Question) -> Iterator[Finding]:
    if facts.mem_available is None:
        return
    room = _held(facts) + _fits(facts.mem_available, question)
    short = _needed(facts, question) - facts.mem_available
    lift = Advice(f"{size(max(0, short))} more memory, or several machines.")
    why = f"{question.bytes_per_connection:,} bytes a connection, in {MEMORY_SHARE:.0%} of it"
    yield _limit("memory", f"{size(facts.mem_available)} available", why, room, question, [lift])


def _groups(facts: Facts, question: Question) -> Iterator[Finding]:
    for group in facts.groups:
        yield from _group_memory(group, facts, question)


def _group_memory(group: Group, facts: Facts, question: Question) -> Iterator[Finding]:
    fixed = max(0, group.memory_used - group.memory_cached)
    for knob, limit, what in (
        ("memory.max", group.memory_max, "beyond it the kernel kills"),
        ("memory.high", group.memory_high, "beyond it the kernel slows everybody down"),
    ):
        if limit == UNLIMITED:
            continue
        room = _held(facts) + _fits(_above(limit, fixed), question)
        wanted = _whole_mebibytes(fixed + _needed(facts, question))
        name = knob if group.version == 2 else "memory.limit_in_bytes"
        value = f"{size(limit)} ({size(fixed)} in use)"
        why = f"the control group's memory, the kernel's part included: {what}"
        lift = GroupLimit(group.name, knob, wanted)
        yield _limit(f"{name} of {group.name}", value, why, room, question, [lift])


def _table(facts: Facts, question: Question) -> Iterator[Finding]:
    """The table is address space for every descriptor that the process may have. Where that is limited, a server with
    a high RLIMIT_NOFILE does not even start."""
    if facts.nofile is None:
        return
    need = min(facts.nofile.hard, _MAX_TABLE) * TABLE_BYTES + BASE_BYTES
    table = f"the table for RLIMIT_NOFILE takes {size(need)} with the program"
    if facts.address_space is not None and facts.address_space.soft != UNLIMITED:
        limit = facts.address_space.soft
        room = _table_within(limit, need)
        why = f"address space; {table}" + ("" if room else _NO_START)
        yield _limit("RLIMIT_AS", size(limit), why, room, question, [Rlimit("as", UNLIMITED)])
    mode = facts.number("vm.overcommit_memory")
    if mode is None:
        return
    name = "vm.overcommit_memory"
    if mode != 2:
        yield Finding(name, str(mode), State.OK, "address space that is not used costs nothing")
    elif facts.running:
        yield Finding(
            name, "2", State.NOTE, "address space counts as memory; the process has its table already"
        )
    elif facts.commit_limit is not None and facts.committed is not None:
        free = max(0, facts.commit_limit - facts.committed)
        room = _table_within(free, need)
        why = f"address space counts as memory, {size(free)} are left; {table}" + ("" if room else _NO_START)
        lift = Advice("A lower RLIMIT_NOFILE makes the table smaller; or vm.overcommit_memory=0.")
        yield _limit(name, "2", why, room, question, [lift])


def _table_within(free: int, need: int) -> int:
    """Connections for which there could be a table; 0: there is not enough for the one that there has to be."""
    return 0 if need > free else max(0, (free - BASE_BYTES) // TABLE_BYTES - OWN_DESCRIPTORS)


# ---- what limits what they may do at the same time


def _tcp_memory(facts: Facts, question: Question) -> Iterator[Finding]:
    pages = facts.numbers.get("net.ipv4.tcp_mem")
    if pages is None:
        return
    low, pressure, high = pages
    value = f"{low} {pressure} {high}"
    each = f"of {facts.page_bytes // 1024} KiB"
    if pressure >= question.target:
        why = f"pages {each}; a connection with data in flight holds at least one"
        yield Finding("net.ipv4.tcp_mem", value, State.OK, why)
        return
    why = (
        f"pages {each}; a connection with data in flight holds at least one: TCP is short of memory when "
        f"{count(pressure)} have some at the same time, as after a message to all"
    )
    # The kernel's own proportions, and never more than half of the memory.
    level = question.target
    if facts.mem_total is not None:
        level = min(level, facts.mem_total // facts.page_bytes // 3)
    lifts: tuple[Lift, ...] = (Advice("There is no memory for more."),)
    if level > pressure:
        lifts = (Sysctl("net.ipv4.tcp_mem", (level // 4 * 3, level, level // 4 * 6)),)
    yield Finding("net.ipv4.tcp_mem", value, State.WARN, why, lifts=lifts)


def _tcp_buffers(facts: Facts, question: Question) -> Iterator[Finding]:
    for name, whose in (("rmem", "that we do not read"), ("wmem", "whose peer reads slowly")):
        sizes = facts.numbers.get(f"net.ipv4.tcp_{name}")
        if sizes is not None:
            why = f"a connection {whose} may hold up to {size(sizes[2])} in the kernel; an idle one holds nothing"
            yield Finding(f"net.ipv4.tcp_{name}", " ".join(map(str, sizes)), State.NOTE, why)
        most = facts.number(f"net.core.{name}_max")
        if most is not None:
            why = f"for sockets that set their size; ours are sized by net.ipv4.tcp_{name}"
            yield Finding(f"net.core.{name}_max", count(most), State.NOTE, why)


def _backlog(facts: Facts, question: Question) -> Iterator[Finding]:
    most = facts.number("net.core.somaxconn")
    if most is not None:
        if most >= _BACKLOG:
            yield Finding(
                "net.core.somaxconn", count(most), State.OK, f"the option backlog asks for {_BACKLOG:,}"
            )
        else:
            why = f"cuts the option backlog ({_BACKLOG:,}): who reconnects together with others is refused earlier"
            lifts = (Sysctl("net.core.somaxconn", (_BACKLOG,)),)
            yield Finding("net.core.somaxconn", count(most), State.WARN, why, lifts=lifts)
    most = facts.number("net.ipv4.tcp_max_syn_backlog")
    if most is not None:
        name = "net.ipv4.tcp_max_syn_backlog"
        # With cookies the queue is as long as the listener's backlog, and this is not asked.
        if facts.number("net.ipv4.tcp_syncookies"):
            yield Finding(name, count(most), State.OK, "SYN cookies are on: nobody is dropped for it")
        elif most >= _BACKLOG:
            yield Finding(name, count(most), State.OK, "not below the option backlog")
        else:
            why = "without SYN cookies (net.ipv4.tcp_syncookies) newcomers are dropped from three quarters of it on"
            yield Finding(name, count(most), State.WARN, why, lifts=(Sysctl(name, (_BACKLOG,)),))


def _orphans(facts: Facts, question: Question) -> Iterator[Finding]:
    most = facts.number("net.ipv4.tcp_max_orphans")
    if most is not None:
        why = "of connections that a process leaves at its end, those beyond it are reset instead of closed"
        yield Finding("net.ipv4.tcp_max_orphans", count(most), State.NOTE, why)


def _ports(facts: Facts, question: Question) -> Iterator[Finding]:
    ports = facts.numbers.get("net.ipv4.ip_local_port_range")
    if ports is not None:
        n = ports[1] - ports[0] + 1
        why = (
            f"no limit for a server; a proxy on this machine has {n:,} connections to one address of ours: "
            "more with a Unix socket, or several addresses"
        )
        yield Finding("net.ipv4.ip_local_port_range", f"{ports[0]} {ports[1]}", State.NOTE, why)
    reuse = facts.number("net.ipv4.tcp_tw_reuse")
    if reuse is not None:
        yield Finding(
            "net.ipv4.tcp_tw_reuse", str(reuse), State.NOTE, "for those who connect; no server needs it"
        )


def _congestion(facts: Facts, question: Question) -> Iterator[Finding]:
    control = facts.words.get("net.ipv4.tcp_congestion_control")
    if control is None:
        return
    qdisc = facts.words.get("net.core.default_qdisc")
    offered = facts.words.get("net.ipv4.tcp_available_congestion_control", ())
    value = control[0] + (f" (of {' '.join(offered)})" if offered else "")
    name = "net.ipv4.tcp_congestion_control"
    if control[0].startswith("bbr") and qdisc is not None and qdisc[0] != "fq":
        why = (
            f"paces what it sends, with a timer for each connection where the qdisc is not fq but {qdisc[0]}"
        )
        advice = Advice(
            "net.core.default_qdisc=fq, and for interfaces that are up: tc qdisc replace dev DEV root fq"
        )
        yield Finding(name, value, State.NOTE, why, lifts=(advice,))
    else:
        yield Finding(name, value, State.OK, "no matter for the number of connections")
    if qdisc is not None:
        yield Finding(
            "net.core.default_qdisc", qdisc[0], State.NOTE, "of interfaces that come up; loopback has none"
        )


def _threads(facts: Facts, question: Question) -> Iterator[Finding]:
    for group in facts.groups:
        if group.pids_max == UNLIMITED:
            continue
        name = f"pids.max of {group.name}"
        value = f"{count(group.pids_max)} ({count(group.pids_used)} in use)"
        if group.pids_max - group.pids_used >= _POOL_THREADS:
            yield Finding(name, value, State.OK, "enough for the pool's threads; connections need none")
        else:
            why = f"a pool of 128 threads needs {_POOL_THREADS} with its helpers; connections need none"
            lift = GroupLimit(group.name, "pids.max", group.pids_used + _POOL_THREADS)
            yield Finding(name, value, State.WARN, why, lifts=(lift,))
    if facts.nproc is not None and facts.nproc.soft != UNLIMITED:
        value = count(facts.nproc.soft)
        if facts.may_raise:
            yield Finding("RLIMIT_NPROC", value, State.OK, "does not bind who has CAP_SYS_RESOURCE")
        elif facts.nproc.soft >= _POOL_THREADS:
            yield Finding(
                "RLIMIT_NPROC", value, State.OK, "threads of all processes of the user; connections need none"
            )
        else:
            why = (
                f"threads of all processes of the user; a pool of 128 needs {_POOL_THREADS} with its helpers"
            )
            yield Finding(
                "RLIMIT_NPROC", value, State.WARN, why, lifts=(Rlimit("nproc", _power_of_two(_POOL_THREADS)),)
            )


def _maps(facts: Facts, question: Question) -> Iterator[Finding]:
    most = facts.number("vm.max_map_count")
    if most is None:
        return
    if most >= _DEFAULT_MAPS:
        why = "idle connections need none; buffers one for each 256 KiB, threads two each"
        yield Finding("vm.max_map_count", count(most), State.OK, why)
    else:
        why = f"below the kernel's default ({_DEFAULT_MAPS:,}): buffers need one for each 256 KiB, threads two each"
        lifts = (Sysctl("vm.max_map_count", (_DEFAULT_MAPS,)),)
        yield Finding("vm.max_map_count", count(most), State.WARN, why, lifts=lifts)


_RULES: tuple[Callable[[Facts, Question], Iterator[Finding]], ...] = (
    _nofile,
    _nr_open,
    _file_max,
    _watches,
    _conntrack,
    _memory,
    _groups,
    _table,
    _tcp_memory,
    _tcp_buffers,
    _backlog,
    _orphans,
    _threads,
    _maps,
    _ports,
    _congestion,
)


# ---- what the rules share


def _limit(
    knob: str,
    value: str,
    why: str,
    room: int,
    question: Question,
    lifts: list[Lift],
    private: int | None = None,
) -> Finding:
    """A finding that limits the number of connections. private: those where loops have descriptor tables of their own;
    None: as many as otherwise."""
    private = room if private is None else private
    binds = (private if question.private_tables else room) < question.target
    state = State.BINDS if binds else State.OK
    return Finding(knob, value, state, why, room, private, tuple(lifts) if binds else ())


def _in_private_tables(limit: int) -> int:
    """Connections of all loops there may be, each with so many descriptors."""
    return MAX_LOOPS * max(0, min(limit, _MAX_TABLE) - LOOP_DESCRIPTORS)


def _held(facts: Facts) -> int:
    """Connections that a running process has, counted by its descriptors: their memory is not available any more."""
    return max(0, facts.descriptors - OWN_DESCRIPTORS)


def _fits(free: int, question: Question) -> int:
    if free >= UNLIMITED:
        return UNLIMITED
    return int(free * MEMORY_SHARE) // question.bytes_per_connection


def _needed(facts: Facts, question: Question) -> int:
    """Bytes that have to be free for the target."""
    more = max(0, question.target - _held(facts))
    return int(more * question.bytes_per_connection / MEMORY_SHARE) + 1


def _above(limit: int, used: int) -> int:
    return UNLIMITED if limit >= UNLIMITED else max(0, limit - used)


def _table_room(facts: Facts) -> int | None:
    """Connections of a loop that has a descriptor table of its own."""
    if facts.nofile is None:
        return None
    limit = min(facts.nofile.soft if facts.running else facts.nofile.hard, _MAX_TABLE)
    return max(0, min(limit, facts.number("fs.nr_open") or limit) - LOOP_DESCRIPTORS)


def descriptors_for(target: int, facts: Facts) -> int:
    """What RLIMIT_NOFILE should be: a power of two, unless fs.nr_open is enough for the target and below that."""
    need = target + OWN_DESCRIPTORS
    nr_open = facts.number("fs.nr_open")
    wanted = _power_of_two(need)
    return nr_open if nr_open is not None and need <= nr_open < wanted else wanted


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def _whole_mebibytes(n: int) -> int:
    return (n + (1 << 20) - 1) >> 20 << 20


def count(n: int) -> str:
    """A number for people."""
    return "unlimited" if n >= UNLIMITED else f"{n:,}"


def size(n: int) -> str:
    """Bytes for people."""
    if n >= UNLIMITED:
        return "unlimited"
    value = float(n)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{n} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
