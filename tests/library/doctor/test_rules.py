"""Every rule, on facts. What the figures rest on is tested at the end, on this machine's kernel and our engine."""

from __future__ import annotations

import os
import resource
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from library.programs import PATIENCE, ROOT

from unlimitedws.doctor import rules
from unlimitedws.doctor.facts import UNLIMITED, Facts, Group, Limit, Unread
from unlimitedws.doctor.lifts import Advice, GroupLimit, Rlimit, Sysctl
from unlimitedws.doctor.rules import Finding, Question, Report, State, examine
from unlimitedws.options import MAX_LOOPS, Options

MIB = 1 << 20
GIB = 1 << 30
OWN = rules.OWN_DESCRIPTORS
LOOP = rules.LOOP_DESCRIPTORS

# A machine on which nothing limits what the tests ask for.
NUMBERS: dict[str, tuple[int, ...]] = {
    "fs.file-max": (UNLIMITED,),
    "fs.file-nr": (1000, 0, UNLIMITED),
    "fs.nr_open": (1 << 20,),
    "fs.epoll.max_user_watches": (10_000_000,),
    "vm.overcommit_memory": (0,),
    "vm.max_map_count": (65530,),
    "net.core.somaxconn": (4096,),
    "net.core.rmem_max": (212992,),
    "net.core.wmem_max": (212992,),
    "net.ipv4.tcp_mem": (1_500_000, 2_000_000, 3_000_000),
    "net.ipv4.tcp_rmem": (4096, 131072, 6 * MIB),
    "net.ipv4.tcp_wmem": (4096, 16384, 4 * MIB),
    "net.ipv4.tcp_max_syn_backlog": (4096,),
    "net.ipv4.tcp_syncookies": (1,),
    "net.ipv4.tcp_max_orphans": (65536,),
    "net.ipv4.ip_local_port_range": (32768, 60999),
    "net.ipv4.tcp_tw_reuse": (2,),
}
GOOD = Facts(
    nofile=Limit(1024, 1 << 20),
    nproc=Limit(60000, 60000),
    address_space=Limit(UNLIMITED, UNLIMITED),
    mem_total=64 * GIB,
    mem_available=60 * GIB,
    commit_limit=32 * GIB,
    committed=2 * GIB,
    numbers=NUMBERS,
    words={
        "net.core.default_qdisc": ("fq_codel",),
        "net.ipv4.tcp_congestion_control": ("cubic",),
        "net.ipv4.tcp_available_congestion_control": ("reno", "cubic"),
    },
    absent=frozenset({"net.netfilter.nf_conntrack_max"}),
)
TARGET = Question(target=100_000)


def having(numbers: dict[str, tuple[int, ...] | None] | None = None, **changes: Any) -> Facts:
    """The good machine with changes; sysctls that are None could not be read."""
    merged: dict[str, tuple[int, ...] | None] = {**NUMBERS, **(numbers or {})}
    there = {name: values for name, values in merged.items() if values is not None}
    return replace(GOOD, numbers=there, **changes)


def finding(report: Report, knob: str) -> Finding:
    found = [each for each in report.findings if each.knob == knob]
    assert len(found) == 1, [each.knob for each in report.findings]
    return found[0]


def look(facts: Facts, knob: str, question: Question = TARGET) -> Finding:
    return finding(examine(facts, question), knob)


def test_good_machine_has_nothing_to_complain_of() -> None:
    report = examine(GOOD, TARGET)
    assert {each.state for each in report.findings} == {State.OK, State.NOTE}
    assert all(each.lifts == () for each in report.findings)
    assert report.holds is True
    assert len({each.knob for each in report.findings}) == len(report.findings)


def test_default_is_what_docs_say() -> None:
    assert Question() == Question(target=100_000, bytes_per_connection=4560, private_tables=False)


def test_question_may_be_small() -> None:
    assert examine(GOOD, Question(1, 1)).holds is True


@pytest.mark.parametrize(("target", "each"), [(0, 1), (-1, 1), (1, 0)])
def test_question_without_sense_is_refused(target: int, each: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        Question(target, each)


def test_nothing_known_is_no_verdict() -> None:
    report = examine(Facts(), TARGET)
    assert report.findings == ()
    assert report.holds is None
    assert report.capacity == UNLIMITED
    assert report.loops is None


# RLIMIT_NOFILE


def test_hard_limit_counts_where_a_server_is_to_be_started() -> None:
    found = look(having(nofile=Limit(1024, 20_000)), "RLIMIT_NOFILE")
    assert found.state is State.BINDS
    assert found.holds == 20_000 - OWN
    assert found.holds_private == MAX_LOOPS * (20_000 - LOOP)
    assert found.value == "20,000 (soft: 1,024)"
    assert found.lifts[0] == Rlimit("nofile", 131_072)


def test_soft_limit_counts_where_the_process_runs() -> None:
    found = look(having(nofile=Limit(1024, 1 << 20), running=True), "RLIMIT_NOFILE")
    assert found.state is State.BINDS
    assert found.holds == 1024 - OWN
    assert found.value == "1,024 (hard: 1,048,576)"


@pytest.mark.parametrize("running", [False, True])
def test_limit_that_is_soft_and_hard_is_one_number(running: bool) -> None:
    found = look(having(nofile=Limit(5000, 5000), running=running), "RLIMIT_NOFILE")
    assert (found.value, found.why) == ("5,000", "a connection is a descriptor")


def test_limit_binds_at_one_connection_too_many() -> None:
    facts = having(nofile=Limit(1024, 50_000))
    assert look(facts, "RLIMIT_NOFILE", Question(50_000 - OWN)).state is State.OK
    assert look(facts, "RLIMIT_NOFILE", Question(50_000 - OWN + 1)).state is State.BINDS


def test_limit_that_leaves_nothing_holds_nothing() -> None:
    assert look(having(nofile=Limit(10, 10)), "RLIMIT_NOFILE").holds == 0


def test_who_cannot_raise_it_is_told_who_can() -> None:
    facts = having(nofile=Limit(1024, 20_000))
    assert any(isinstance(lift, Advice) for lift in look(facts, "RLIMIT_NOFILE").lifts)
    able = replace(facts, may_raise=True)
    assert look(able, "RLIMIT_NOFILE").lifts == (Rlimit("nofile", 131_072),)
    unit = replace(facts, unit="chat.service")
    assert look(unit, "RLIMIT_NOFILE").lifts == (Rlimit("nofile", 131_072),)


def test_no_limit_is_the_engines_table() -> None:
    found = look(
        having({"fs.nr_open": (1 << 30,)}, nofile=Limit(1024, UNLIMITED)), "RLIMIT_NOFILE", Question(1 << 24)
    )
    assert found.holds == (1 << 24) - OWN
    assert found.state is State.BINDS
    largest = having({"fs.nr_open": (1 << 30,)}, nofile=Limit(1024, 1024))
    assert look(largest, "RLIMIT_NOFILE", Question((1 << 24) - OWN)).lifts[0] == Rlimit("nofile", 1 << 24)
    # More descriptors would not help.
    assert [type(lift) for lift in found.lifts] == [Advice]


@pytest.mark.parametrize(
    ("target", "nr_open", "wanted"),
    [
        (100_000, 1 << 20, 1 << 17),
        ((1 << 17) - OWN, 1 << 20, 1 << 17),
        ((1 << 17) - OWN + 1, 1 << 20, 1 << 18),
        (1_000_000, 1_000_100, 1_000_100),
        (1_000_000, 1_000_000 + OWN, 1_000_000 + OWN),
        (1_000_000, 1_000_000, 1 << 20),
    ],
)
def test_what_is_proposed_is_enough_and_is_possible(target: int, nr_open: int, wanted: int) -> None:
    facts = having({"fs.nr_open": (nr_open,)}, nofile=Limit(100, 100))
    report = examine(facts, Question(target))
    assert finding(report, "RLIMIT_NOFILE").lifts[0] == Rlimit("nofile", wanted)
    raised = finding(report, "fs.nr_open").lifts
    assert raised == (() if wanted <= nr_open else (Sysctl("fs.nr_open", (wanted,)),))


# Limits of the machine


def test_nr_open_that_leaves_nothing_holds_nothing() -> None:
    found = look(having({"fs.nr_open": (LOOP - 1,)}), "fs.nr_open")
    assert (found.holds, found.holds_private) == (0, 0)
    assert examine(having({"fs.nr_open": (LOOP,)}), TARGET).loops is None


def test_nr_open_binds_each_table() -> None:
    found = look(having({"fs.nr_open": (65536,)}), "fs.nr_open")
    assert (found.state, found.holds, found.holds_private) == (
        State.BINDS,
        65536 - OWN,
        MAX_LOOPS * (65536 - LOOP),
    )


def test_file_max_is_less_what_is_in_use() -> None:
    found = look(having({"fs.file-max": (60_000,), "fs.file-nr": (5_000, 0, 60_000)}), "fs.file-max")
    assert (found.state, found.holds, found.holds_private) == (State.BINDS, 55_000, 55_000)
    # 105,000 and a tenth.
    assert found.lifts == (Sysctl("fs.file-max", (131_072,)),)
    more = look(having({"fs.file-max": (60_000,), "fs.file-nr": (19_157, 0, 60_000)}), "fs.file-max")
    assert more.lifts == (Sysctl("fs.file-max", (131_072,)),)
    more = look(having({"fs.file-max": (60_000,), "fs.file-nr": (19_159, 0, 60_000)}), "fs.file-max")
    assert more.lifts == (Sysctl("fs.file-max", (262_144,)),)


def test_file_max_below_what_is_in_use_holds_nothing() -> None:
    assert look(having({"fs.file-max": (10,), "fs.file-nr": (50, 0, 10)}), "fs.file-max").holds == 0


def test_file_max_without_limit_is_none() -> None:
    assert look(GOOD, "fs.file-max").holds == UNLIMITED


def test_watches_of_epoll_bind() -> None:
    found = look(having({"fs.epoll.max_user_watches": (90_000,)}), "fs.epoll.max_user_watches")
    assert (found.state, found.holds, found.holds_private) == (State.BINDS, 90_000, 90_000)
    # 100,000 and a tenth; 119,157 and a tenth are just above a power of two.
    assert found.lifts == (Sysctl("fs.epoll.max_user_watches", (131_072,)),)
    found = look(having({"fs.epoll.max_user_watches": (1,)}), "fs.epoll.max_user_watches", Question(119_157))
    assert found.lifts == (Sysctl("fs.epoll.max_user_watches", (131_072,)),)
    found = look(having({"fs.epoll.max_user_watches": (1,)}), "fs.epoll.max_user_watches", Question(119_158))
    assert found.lifts == (Sysctl("fs.epoll.max_user_watches", (262_144,)),)


def conntrack(most: int, used: int, buckets: int = 1 << 16) -> Facts:
    numbers: dict[str, tuple[int, ...] | None] = {
        "net.netfilter.nf_conntrack_max": (most,),
        "net.netfilter.nf_conntrack_count": (used,),
        "net.netfilter.nf_conntrack_buckets": (buckets,),
    }
    return having(numbers, absent=frozenset())


def test_conntrack_binds_where_it_tracks() -> None:
    found = look(conntrack(65536, 1000, buckets=16384), "net.netfilter.nf_conntrack_max")
    assert (found.state, found.holds) == (State.BINDS, 64536)
    assert found.lifts == (
        Sysctl("net.netfilter.nf_conntrack_max", (131072,)),
        Sysctl("net.netfilter.nf_conntrack_buckets", (32768,)),
    )
    assert look(conntrack(65536, 1000, buckets=32768), "net.netfilter.nf_conntrack_max").lifts == (
        Sysctl("net.netfilter.nf_conntrack_max", (131072,)),
    )


def test_conntrack_has_room_for_what_it_tracks_and_a_tenth() -> None:
    name = "net.netfilter.nf_conntrack_max"
    assert look(conntrack(65536, 19_157), name).lifts[0] == Sysctl(name, (131072,))
    assert look(conntrack(65536, 19_159), name).lifts[0] == Sysctl(name, (262144,))


@pytest.mark.parametrize("gap", ["net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_count"])
def test_conntrack_of_which_half_is_known_says_nothing(gap: str) -> None:
    facts = conntrack(65536, 1000)
    facts = replace(facts, numbers={name: values for name, values in facts.numbers.items() if name != gap})
    assert not any("conntrack" in each.knob for each in examine(facts, TARGET).findings)


def test_conntrack_that_tracks_nothing_limits_nothing() -> None:
    found = look(conntrack(10, 0), "net.netfilter.nf_conntrack_max")
    assert (found.state, found.holds) == (State.NOTE, None)


def test_conntrack_of_0_is_no_limit() -> None:
    found = look(conntrack(0, 500), "net.netfilter.nf_conntrack_max")
    assert (found.state, found.holds) == (State.OK, None)


def test_conntrack_that_is_not_loaded_is_said() -> None:
    found = look(GOOD, "net.netfilter.nf_conntrack_max")
    assert (found.value, found.state) == ("not loaded", State.OK)


# Memory


def test_memory_is_divided_by_the_bytes_of_a_connection() -> None:
    facts = having(mem_available=10_000_000)
    found = look(facts, "memory")
    assert found.holds == int(10_000_000 * 0.9) // 4560
    assert found.state is State.BINDS
    assert look(facts, "memory", Question(100_000, bytes_per_connection=90)).holds == 100_000
    assert look(facts, "memory", Question(100_000, bytes_per_connection=90)).state is State.OK
    assert look(facts, "memory", Question(100_001, bytes_per_connection=90)).state is State.BINDS


def test_memory_that_is_missing_is_said() -> None:
    found = look(having(mem_available=100 * MIB), "memory", Question(100_000, bytes_per_connection=9000))
    (advice,) = found.lifts
    # 9000 bytes in nine tenths: 10,000 each.
    assert advice == Advice(f"{1_000_000_001 / MIB - 100:.1f} MiB more memory, or several machines.")


@pytest.mark.parametrize(("knob", "field"), [("memory.max", "memory_max"), ("memory.high", "memory_high")])
def test_memory_of_a_group_binds(knob: str, field: str) -> None:
    group = Group("/chat", 2, memory_used=60 * MIB, memory_cached=20 * MIB, **{field: 240 * MIB})  # type: ignore[arg-type]
    found = look(having(groups=(group,)), f"{knob} of /chat")
    assert found.holds == found.holds_private == int(200 * MIB * 0.9) // 4560
    assert found.state is State.BINDS
    (lift,) = found.lifts
    assert isinstance(lift, GroupLimit)
    assert (lift.group, lift.knob) == ("/chat", knob)
    assert lift.value % MIB == 0
    # What is proposed is enough, and not much more.
    enough = replace(group, **{field: lift.value})
    assert look(having(groups=(enough,)), f"{knob} of /chat").state is State.OK
    less = replace(group, **{field: lift.value - 2 * MIB})
    assert look(having(groups=(less,)), f"{knob} of /chat").state is State.BINDS


def test_memory_of_every_group_above_binds_too() -> None:
    groups = (Group("/a/b", 2, memory_max=8 * GIB), Group("/a", 2, memory_max=100 * MIB), Group("/", 2))
    report = examine(having(groups=groups), TARGET)
    assert finding(report, "memory.max of /a/b").state is State.OK
    assert finding(report, "memory.max of /a").state is State.BINDS
    assert report.limits[0].knob == "memory.max of /a"
    assert not any(each.knob.endswith("of /") for each in report.findings)


def test_group_of_version_1_has_that_versions_names() -> None:
    found = look(having(groups=(Group("/a", 1, memory_max=MIB),)), "memory.limit_in_bytes of /a")
    assert found.state is State.BINDS


def test_group_that_has_more_cached_than_it_uses_has_all_of_it() -> None:
    group = Group("/a", 2, memory_max=4560 * 10, memory_used=MIB, memory_cached=2 * MIB)
    assert look(having(groups=(group,)), "memory.max of /a").holds == 9


def test_group_that_uses_more_than_it_may_holds_nothing() -> None:
    group = Group("/a", 2, memory_max=MIB, memory_used=2 * MIB)
    assert look(having(groups=(group,)), "memory.max of /a").holds == 0


def test_running_process_keeps_what_it_holds() -> None:
    running = {"running": True, "nofile": Limit(1 << 20, 1 << 20), "descriptors": OWN + 40_000}
    small = having(
        {"fs.file-max": (90_000,), "fs.file-nr": (50_000, 0, 90_000)}, mem_available=4560 * 10_000, **running
    )
    assert look(small, "memory").holds == 40_000 + 9_000
    # 10,000 are in use by others.
    assert look(small, "fs.file-max").holds == 80_000
    assert look(
        replace(conntrack(65536, 45_000), descriptors=OWN + 40_000), "net.netfilter.nf_conntrack_max"
    ).holds == (65536 - 5_000)
    group = Group("/a", 2, memory_max=MIB, memory_used=MIB)
    assert look(having(groups=(group,), **running), "memory.max of /a").holds == 40_000
    # What is proposed has room for those that are missing: 60,000.
    (lift,) = look(having(groups=(group,), **running), "memory.max of /a").lifts
    assert lift == GroupLimit("/a", "memory.max", (MIB + int(60_000 * 4560 / 0.9) + MIB) // MIB * MIB)
    # Nothing is missing, and no memory is left over: no more is asked for.
    assert look(replace(small, mem_available=0), "memory", Question(40_000)).state is State.OK
    (advice,) = look(replace(small, mem_available=0), "memory", Question(40_009)).lifts
    assert advice == Advice(f"{9 * 4560 / 0.9 / 1024:.1f} KiB more memory, or several machines.")


def test_others_use_nothing_where_the_process_has_more_than_is_counted() -> None:
    held = {"running": True, "nofile": Limit(1 << 20, 1 << 20), "descriptors": OWN + 500}
    assert (
        look(having({"fs.file-max": (900,), "fs.file-nr": (100, 0, 900)}, **held), "fs.file-max").holds == 900
    )
    facts = replace(conntrack(900, 100), **held)  # type: ignore[arg-type]
    assert look(facts, "net.netfilter.nf_conntrack_max").holds == 900


def test_few_descriptors_of_a_running_process_are_no_connections() -> None:
    assert look(having(mem_available=0, descriptors=OWN, running=True), "memory").holds == 0


# The table's address space


def test_address_space_that_has_no_room_for_the_table_is_no_start() -> None:
    need = (1 << 20) * rules.TABLE_BYTES + rules.BASE_BYTES
    short = look(having(address_space=Limit(need - 1, UNLIMITED)), "RLIMIT_AS")
    assert (short.state, short.holds) == (State.BINDS, 0)
    assert "a server does not start" in short.why
    assert short.lifts == (Rlimit("as", UNLIMITED),)
    fits = look(having(address_space=Limit(need, UNLIMITED)), "RLIMIT_AS")
    assert (fits.state, fits.holds) == (State.OK, (1 << 20) - OWN)


def test_table_of_an_unlimited_nofile_ends() -> None:
    need = (1 << 24) * rules.TABLE_BYTES + rules.BASE_BYTES
    facts = having(nofile=Limit(1024, UNLIMITED), address_space=Limit(need, UNLIMITED))
    assert look(facts, "RLIMIT_AS").state is State.OK


def test_address_space_for_a_larger_table_is_looked_at_too() -> None:
    # NOFILE has to be raised; then this would be next.
    space = 20_000 * rules.TABLE_BYTES + rules.BASE_BYTES
    report = examine(having(nofile=Limit(1024, 10_000), address_space=Limit(space, space)), TARGET)
    assert [each.knob for each in report.limits[:2]] == ["RLIMIT_NOFILE", "RLIMIT_AS"]
    assert finding(report, "RLIMIT_AS").holds == 20_000 - OWN


def test_strict_overcommit_counts_the_table() -> None:
    need = (1 << 20) * rules.TABLE_BYTES + rules.BASE_BYTES
    strict: dict[str, tuple[int, ...] | None] = {"vm.overcommit_memory": (2,)}
    short = look(having(strict, commit_limit=GIB, committed=GIB - need + 1), "vm.overcommit_memory")
    assert (short.state, short.holds) == (State.BINDS, 0)
    fits = look(having(strict, commit_limit=GIB, committed=GIB - need), "vm.overcommit_memory")
    assert fits.state is State.OK
    for gap in ("commit_limit", "committed"):
        facts = having(strict, **{"commit_limit": GIB, "committed": 0, gap: None})
        assert not any(each.knob == "vm.overcommit_memory" for each in examine(facts, TARGET).findings)
    # Who runs has it.
    runs = having(strict, commit_limit=1, committed=2, running=True, nofile=Limit(1 << 20, 1 << 20))
    assert look(runs, "vm.overcommit_memory").state is State.NOTE


# Load


def test_tcp_memory_is_a_page_for_each_connection_with_data() -> None:
    enough = look(having({"net.ipv4.tcp_mem": (1, 100_000, 3)}), "net.ipv4.tcp_mem")
    assert enough.state is State.OK
    assert enough.why.startswith("pages of 4 KiB;")
    large = look(having({"net.ipv4.tcp_mem": (1, 100_000, 3)}, page_bytes=65536), "net.ipv4.tcp_mem")
    assert large.why.startswith("pages of 64 KiB;")
    found = look(having({"net.ipv4.tcp_mem": (1, 99_999, 3)}), "net.ipv4.tcp_mem")
    assert found.state is State.WARN
    assert found.lifts == (Sysctl("net.ipv4.tcp_mem", (75_000, 100_000, 150_000)),)


def test_tcp_memory_is_at_most_half_of_all() -> None:
    facts = having({"net.ipv4.tcp_mem": (100, 200, 300)}, mem_total=4096 * 30_000)
    (lift,) = look(facts, "net.ipv4.tcp_mem").lifts
    assert lift == Sysctl("net.ipv4.tcp_mem", (7_500, 10_000, 15_000))
    full = having({"net.ipv4.tcp_mem": (7_500, 10_000, 15_000)}, mem_total=4096 * 30_000)
    assert [type(lift) for lift in look(full, "net.ipv4.tcp_mem").lifts] == [Advice]


def test_load_does_not_change_the_verdict() -> None:
    report = examine(having({"net.ipv4.tcp_mem": (1, 2, 3), "net.core.somaxconn": (128,)}), TARGET)
    assert report.holds is True


def test_backlog_of_the_kernel_below_ours_is_warned_of() -> None:
    backlog = Options().backlog
    assert look(having({"net.core.somaxconn": (backlog,)}), "net.core.somaxconn").state is State.OK
    found = look(having({"net.core.somaxconn": (backlog - 1,)}), "net.core.somaxconn")
    assert (found.state, found.lifts) == (State.WARN, (Sysctl("net.core.somaxconn", (backlog,)),))


@pytest.mark.parametrize(
    ("cookies", "most", "state"),
    [
        (1, 128, State.OK),
        (0, 4096, State.OK),
        (0, 4095, State.WARN),
        (None, 128, State.WARN),
        (2, 1, State.OK),
    ],
)
def test_syn_backlog_matters_without_cookies(cookies: int | None, most: int, state: State) -> None:
    numbers: dict[str, tuple[int, ...] | None] = {
        "net.ipv4.tcp_syncookies": None if cookies is None else (cookies,),
        "net.ipv4.tcp_max_syn_backlog": (most,),
    }
    assert look(having(numbers), "net.ipv4.tcp_max_syn_backlog").state is state


def test_slow_readers_are_told_of_by_tcp_wmem() -> None:
    assert "4.0 MiB" in look(GOOD, "net.ipv4.tcp_wmem").why
    assert "6.0 MiB" in look(GOOD, "net.ipv4.tcp_rmem").why


def test_port_range_is_the_proxys() -> None:
    found = look(GOOD, "net.ipv4.ip_local_port_range")
    assert (found.state, found.holds) == (State.NOTE, None)
    assert "28,232" in found.why


@pytest.mark.parametrize(
    ("control", "qdisc", "advised"),
    [
        ("bbr", "fq", False),
        ("bbr", "fq_codel", True),
        ("cubic", "fq_codel", False),
        ("bbr2", "pfifo_fast", True),
    ],
)
def test_bbr_wants_fq(control: str, qdisc: str, advised: bool) -> None:
    words = {"net.ipv4.tcp_congestion_control": (control,), "net.core.default_qdisc": (qdisc,)}
    found = look(having(words=words), "net.ipv4.tcp_congestion_control")
    assert bool(found.lifts) is advised
    assert found.value == control


def test_groups_tasks_have_to_be_enough_for_the_pool() -> None:
    def tasks(most: int) -> Finding:
        return look(having(groups=(Group("/a", 2, pids_max=most, pids_used=40),)), "pids.max of /a")

    assert tasks(200).state is State.OK
    assert (tasks(199).state, tasks(199).lifts) == (State.WARN, (GroupLimit("/a", "pids.max", 200),))
    assert tasks(199).holds is None


def test_nproc_binds_whom_it_binds() -> None:
    assert look(having(nproc=Limit(160, 160)), "RLIMIT_NPROC").state is State.OK
    found = look(having(nproc=Limit(159, 500)), "RLIMIT_NPROC")
    assert (found.state, found.lifts) == (State.WARN, (Rlimit("nproc", 256),))
    assert found.value == "159"
    assert look(having(nproc=Limit(10, 10), may_raise=True), "RLIMIT_NPROC").state is State.OK
    unlimited = examine(having(nproc=Limit(UNLIMITED, UNLIMITED)), TARGET)
    assert not any(each.knob == "RLIMIT_NPROC" for each in unlimited.findings)
    assert look(having(nproc=Limit(10, UNLIMITED)), "RLIMIT_NPROC").state is State.WARN


def test_few_mappings_are_warned_of() -> None:
    found = look(having({"vm.max_map_count": (65529,)}), "vm.max_map_count")
    assert (found.state, found.lifts) == (State.WARN, (Sysctl("vm.max_map_count", (65530,)),))


# The answer


def test_lowest_limit_comes_first_and_then_the_second() -> None:
    facts = having({"fs.epoll.max_user_watches": (30_000,)}, nofile=Limit(1024, 20_000))
    report = examine(facts, TARGET)
    assert [each.knob for each in report.limits[:2]] == ["RLIMIT_NOFILE", "fs.epoll.max_user_watches"]
    assert report.findings[: len(report.limits)] == report.limits
    assert report.capacity == 20_000 - OWN
    assert report.capacity_private == 30_000
    assert report.holds is False


def test_private_tables_change_the_order_and_the_verdict() -> None:
    facts = having({"fs.epoll.max_user_watches": (300_000,)}, nofile=Limit(1024, 20_000))
    report = examine(facts, Question(100_000, private_tables=True))
    assert report.holds is True
    assert report.limits[0].knob == "fs.epoll.max_user_watches"
    assert finding(report, "RLIMIT_NOFILE").state is State.OK
    assert finding(report, "RLIMIT_NOFILE").lifts == ()
    # One loop is not enough, and six are: 19,976 each.
    assert report.loops == 6
    assert examine(facts, Question(19_976 * 6)).loops == 6
    assert examine(facts, Question(19_976 * 6 + 1)).loops == 7
    assert examine(facts, Question(300_000)).loops == 16
    assert examine(facts, Question(300_001)).loops is None
    assert examine(facts, Question(300_001, private_tables=True)).holds is False


def test_loops_are_counted_by_the_smaller_of_nofile_and_nr_open() -> None:
    facts = having({"fs.nr_open": (10_000 + LOOP,)}, nofile=Limit(1024, 1 << 20))
    assert examine(facts, TARGET).loops == 10


def test_loops_of_a_running_process_have_its_soft_limit() -> None:
    facts = having(nofile=Limit(10_000 + LOOP, 1 << 20), running=True)
    assert examine(facts, TARGET).loops == 10


def test_what_is_only_shown_is_a_note() -> None:
    notes = {each.knob for each in examine(GOOD, TARGET).findings if each.state is State.NOTE}
    assert notes == {
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
        "net.core.rmem_max",
        "net.core.wmem_max",
        "net.ipv4.tcp_max_orphans",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_tw_reuse",
        "net.core.default_qdisc",
    }


def test_congestion_control_needs_no_qdisc_to_be_shown() -> None:
    report = examine(having(words={"net.ipv4.tcp_congestion_control": ("bbr",)}), TARGET)
    assert finding(report, "net.ipv4.tcp_congestion_control").lifts == ()
    assert not any(each.knob == "net.core.default_qdisc" for each in report.findings)


@pytest.mark.parametrize(
    ("n", "shown"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (MIB, "1.0 MiB"),
        (4096 * GIB, "4096.0 GiB"),
        (UNLIMITED, "unlimited"),
    ],
)
def test_bytes_are_shown_in_the_unit_that_fits(n: int, shown: str) -> None:
    assert rules.size(n) == shown


@pytest.mark.parametrize("missing", [{"nofile": None}, {"mem_available": None}])
def test_without_what_counts_most_there_is_no_yes(missing: dict[str, Any]) -> None:
    facts = having(unread=(Unread("it", "gone"),), **missing)
    assert examine(facts, TARGET).holds is None
    # But there is a no.
    assert examine(replace(facts, numbers={"fs.nr_open": (10_000,)}), TARGET).holds is False


def test_other_gaps_do_not_hinder_the_verdict() -> None:
    facts = replace(GOOD, numbers={}, words={})
    assert examine(facts, TARGET).holds is True


def every_single_gap() -> Iterator[Facts]:
    for name in NUMBERS:
        yield having({name: None})
    for field in (
        "nofile",
        "nproc",
        "address_space",
        "mem_total",
        "mem_available",
        "commit_limit",
        "committed",
    ):
        yield having(**{field: None})
    yield having(words={})


@pytest.mark.parametrize("private", [False, True])
def test_any_single_gap_leaves_the_other_findings_as_they_are(private: bool) -> None:
    question = Question(100_000, private_tables=private)
    whole = {each.knob: each for each in examine(GOOD, question).findings}
    for facts in every_single_gap():
        for each in examine(facts, question).findings:
            assert each.state is whole[each.knob].state
            assert each.holds == whole[each.knob].holds
            assert each.lifts == whole[each.knob].lifts


# What the figures rest on

MEASURE = """
import re, resource, sys
from _uws.core import Loop
from unlimitedws.options import Options

def bytes_of_a_loop(descriptors):
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, descriptors))
    settings = Options().settings()
    def now():
        return int(re.search(r"VmSize:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
    before = now()
    loops.append(Loop(settings, None, None, None))
    return now() - before

# The limit can only be lowered.
loops = []
hard = int(sys.argv[1])
# Now and then the interpreter takes something for itself.
of_all, of_half = (min(bytes_of_a_loop(descriptors) for _ in range(3)) for descriptors in (hard, hard // 2))
print(of_all - of_half)
"""


def test_table_takes_the_address_space_that_is_said() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    slots = 100_000 if hard == resource.RLIM_INFINITY else min(hard, 100_000) // 2 * 2
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "MALLOC_ARENA_MAX": "1"}
    more = int(subprocess.check_output([sys.executable, "-c", MEASURE, str(slots)], env=env, text=True))
    # In pages, for each of two tables; and the interpreter may have asked for a page or two.
    assert abs(more - slots // 2 * rules.TABLE_BYTES) <= 4 * os.sysconf("SC_PAGE_SIZE")


LIMITED = """
import re, resource, sys, unlimitedws
descriptors, more = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
server = unlimitedws.Server("127.0.0.1:0")
if more:
    now = int(re.search(r"VmSize:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))
else:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
try:
    with server:
        print("started")
except OSError as exc:
    print(exc)
"""


def test_server_starts_in_the_address_space_that_is_said_and_not_without_its_table() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "MALLOC_ARENA_MAX": "1"}
    table = 10_000 * rules.TABLE_BYTES

    def tried(more: int) -> str:
        text = LIMITED.replace("BYTES", str(table + rules.BASE_BYTES))
        return subprocess.check_output([sys.executable, "-c", text, "10000", str(more)], env=env, text=True)

    assert tried(0) == "started\n"
    assert "the connection table cannot be had" in tried(table // 4)


def test_program_has_the_descriptors_that_are_left_to_it() -> None:
    text = (
        "import os, unlimitedws\n"
        "with unlimitedws.DefaultServer('127.0.0.1:0'): print(len(os.listdir('/proc/self/fd')))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    taken = int(subprocess.check_output([sys.executable, "-c", text], env=env, text=True))
    assert taken <= rules.OWN_DESCRIPTORS // 2


SO_MEMINFO = 55


def charged_bytes(sock: socket.socket) -> int:
    """What of tcp_mem a socket has: what is received and queued, and what is left of the pages for that."""
    found = struct.unpack("9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
    received, ahead, queued = found[0], found[4], found[5]
    return received + ahead + queued


def test_kernel_takes_a_page_for_a_connection_with_data_and_none_for_an_idle_one() -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        server = listener.accept()[0]
        with server:
            assert charged_bytes(server) == 0
            client.send(b"x")
            assert select.select([server], [], [], PATIENCE)[0]
            assert page <= charged_bytes(server) < 2 * page
