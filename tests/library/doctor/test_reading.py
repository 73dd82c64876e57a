from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from library.doctor.machine import SYSCTLS, Machine

from unlimitedws.doctor.facts import UNLIMITED, Facts, Group, Limit, Unread
from unlimitedws.doctor.reading import NoSuchProcess, Reader

MIB = 1 << 20


def missed(facts: Facts) -> dict[str, str]:
    return {unread.what: unread.why for unread in facts.unread}


def test_everything_of_a_whole_machine_is_read(machine: Machine) -> None:
    machine.conntrack()
    facts = Reader(machine.root).read()
    assert facts.unread == ()
    assert facts.nofile == Limit(1024, 1048576)
    assert facts.nproc == Limit(63304, 63304)
    assert facts.address_space == Limit(UNLIMITED, UNLIMITED)
    assert facts.mem_total == 16384000 * 1024
    assert facts.mem_available == 12000000 * 1024
    assert facts.commit_limit == 8192000 * 1024
    assert facts.committed == 2000000 * 1024
    assert facts.numbers["net.ipv4.tcp_mem"] == (190089, 253454, 380178)
    assert facts.number("net.ipv4.ip_local_port_range", 1) == 60999
    assert facts.number("net.netfilter.nf_conntrack_count") == 311
    assert facts.words["net.ipv4.tcp_available_congestion_control"] == ("reno", "cubic")
    assert set(facts.numbers) | set(facts.words) >= set(SYSCTLS)
    assert facts.groups == ()
    assert facts.descriptors == 0
    assert not facts.running
    assert not facts.may_raise


def test_largest_number_is_no_limit(machine: Machine) -> None:
    assert Reader(machine.root).read().number("fs.file-max") == UNLIMITED
    machine.sysctl("fs.file-max", "9223372036854775806")
    assert Reader(machine.root).read().number("fs.file-max") == 9223372036854775806


@pytest.mark.parametrize(("capabilities", "may"), [(1 << 24, True), (0x1FFFEFFFFFF, False), (0, False)])
def test_capability_to_raise_limits_is_seen(machine: Machine, capabilities: int, may: bool) -> None:
    machine.limits(capabilities=capabilities)
    assert Reader(machine.root).read().may_raise is may


# Another process


def test_another_process_has_its_own_limits_and_descriptors(machine: Machine) -> None:
    machine.limits("4711", soft=5000, hard=6000, capabilities=1 << 24)
    machine.descriptors(123, "4711")
    facts = Reader(machine.root, 4711).read()
    assert facts.unread == ()
    assert facts.subject == "process 4711"
    assert facts.running
    assert facts.nofile == Limit(5000, 6000)
    assert facts.descriptors == 123
    assert facts.may_raise


def test_process_that_does_not_exist_is_said(machine: Machine) -> None:
    with pytest.raises(NoSuchProcess, match="no process 4711"):
        Reader(machine.root, 4711).read()


def test_process_in_another_network_namespace_is_not_judged_by_our_sysctls(machine: Machine) -> None:
    machine.conntrack()
    machine.limits("4711", network="net:[4026532999]")
    machine.descriptors(3, "4711")
    facts = Reader(machine.root, 4711).read()
    assert [name for name in facts.numbers if name.startswith("net.")] == [
        "net.ipv4.tcp_mem",
        "net.ipv4.tcp_max_orphans",
    ]
    assert facts.words == {}
    assert facts.absent == frozenset()
    assert "nsenter --target 4711 --net" in missed(facts)["net.*"]
    assert facts.number("fs.nr_open") == 1048576


def test_where_the_network_namespace_cannot_be_told_our_sysctls_are_not_taken_for_its(
    machine: Machine,
) -> None:
    machine.limits("4711")
    machine.descriptors(3, "4711")
    (machine.root / "proc/4711/ns/net").unlink()
    facts = Reader(machine.root, 4711).read()
    assert "net.core.somaxconn" not in facts.numbers
    assert missed(facts)["net.*"] == "/proc/4711/ns/net: No such file or directory"


# What is not there, or not what it should be


@pytest.mark.parametrize("name", sorted(SYSCTLS))
def test_sysctl_that_is_not_there_is_said(machine: Machine, name: str) -> None:
    machine.sysctl(name, None)
    facts = Reader(machine.root).read()
    assert name not in facts.numbers
    assert name not in facts.words
    assert [unread.what for unread in facts.unread] == [name]


def test_sysctls_of_the_first_network_namespace_are_said_to_be_the_hosts(machine: Machine) -> None:
    machine.sysctl("net.ipv4.tcp_mem", None)
    machine.sysctl("net.core.somaxconn", None)
    why = missed(Reader(machine.root).read())
    assert why["net.ipv4.tcp_mem"] == "only the host's network namespace shows it"
    assert why["net.core.somaxconn"] == "/proc/sys/net/core/somaxconn: No such file or directory"


def test_conntrack_that_is_not_loaded_is_no_gap(machine: Machine) -> None:
    facts = Reader(machine.root).read()
    assert "net.netfilter.nf_conntrack_max" in facts.absent
    assert facts.unread == ()


def test_conntrack_is_not_known_where_no_sysctl_of_the_network_is_shown(machine: Machine) -> None:
    os.rename(machine.root / "proc/sys/net", machine.root / "proc/sys/hidden")
    facts = Reader(machine.root).read()
    assert facts.absent == frozenset()
    assert "net.netfilter.nf_conntrack_max" in missed(facts)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fs.nr_open", ""),
        ("fs.nr_open", "many"),
        ("fs.nr_open", "-1"),
        ("fs.nr_open", "1 2"),
        ("fs.nr_open", "0x10"),
        ("fs.nr_open", "١٠"),  # noqa: RUF001 - digits to Python, not to the kernel
        ("fs.nr_open", "9" * 5000),
        ("net.ipv4.tcp_mem", "1 2"),
        ("net.ipv4.tcp_mem", "1 2 3 4"),
        ("net.ipv4.tcp_mem", "1 2 x"),
        ("net.ipv4.tcp_congestion_control", ""),
        ("fs.file-nr", "1"),
    ],
)
def test_malformed_sysctl_is_said_and_not_used(machine: Machine, name: str, text: str) -> None:
    path = machine.sysctl(name, text)
    facts = Reader(machine.root).read()
    assert name not in facts.numbers
    assert name not in facts.words
    shown = f"/{path.relative_to(machine.root)}"
    assert missed(facts) == {name: f"{shown}: malformed: {text[:60]!r}"}


def test_sysctl_that_is_no_text_is_malformed(machine: Machine) -> None:
    machine.sysctl("fs.nr_open", "").write_bytes(b"\xff\xfe1")
    assert missed(Reader(machine.root).read()) == {
        "fs.nr_open": r"/proc/sys/fs/nr_open: malformed: '\\xff\\xfe1'"
    }


def test_unreadable_file_is_said_with_what_the_system_says(machine: Machine) -> None:
    # A directory in its place: root may read everything else.
    path = machine.sysctl("net.core.somaxconn", None)
    path.mkdir()
    assert missed(Reader(machine.root).read()) == {
        "net.core.somaxconn": "/proc/sys/net/core/somaxconn: Is a directory"
    }


def test_limits_that_cannot_be_read_are_said_once(machine: Machine) -> None:
    (machine.root / "proc/self/limits").unlink()
    facts = Reader(machine.root).read()
    assert facts.nofile is facts.nproc is facts.address_space is None
    assert missed(facts) == {
        "RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_AS": "/proc/self/limits: No such file or directory"
    }


@pytest.mark.parametrize(("soft", "hard"), [("soon", 5), (5, "never"), ("", "")])
def test_malformed_limit_is_said_and_the_others_are_read(machine: Machine, soft: str, hard: str) -> None:
    machine.limits(soft=soft, hard=hard)
    facts = Reader(machine.root).read()
    assert facts.nofile is None
    assert facts.nproc == Limit(63304, 63304)
    assert missed(facts) == {"RLIMIT_NOFILE": "/proc/self/limits: 'Max open files' is malformed"}


def test_limit_that_is_not_there_is_said(machine: Machine) -> None:
    path = machine.root / "proc/self/limits"
    path.write_text("".join(line for line in path.open() if "open files" not in line))
    assert missed(Reader(machine.root).read()) == {
        "RLIMIT_NOFILE": "/proc/self/limits: 'Max open files' is not there"
    }


def test_memory_that_cannot_be_read_is_said_once(machine: Machine) -> None:
    (machine.root / "proc/meminfo").unlink()
    facts = Reader(machine.root).read()
    assert facts.mem_available is None
    assert missed(facts) == {"memory": "/proc/meminfo: No such file or directory"}


def test_old_kernel_without_mem_available_is_said(machine: Machine) -> None:
    machine.write("/proc/meminfo", "MemTotal: 1000 kB\nCommitLimit: 1 kB\nCommitted_AS: many kB\n")
    facts = Reader(machine.root).read()
    assert facts.mem_total == 1024000
    assert missed(facts) == {
        "MemAvailable": "/proc/meminfo: not there",
        "Committed_AS": "/proc/meminfo: malformed: 'many kB'",
    }


def test_empty_machine_says_everything_and_fails_at_nothing(tmp_path: Path) -> None:
    facts = Reader(tmp_path).read()
    assert facts.nofile is None
    assert facts.mem_available is None
    assert facts.numbers == {}
    assert {"memory", "control groups", "capabilities", "fs.nr_open", "net.ipv4.tcp_mem"} <= set(
        missed(facts)
    )


# Control groups


def test_groups_of_version_2_are_read_up_to_the_top(machine: Machine) -> None:
    machine.unified("/app.slice/chat.service/inner")
    stat = "anon 1\nfile 2\ninactive_file 3145728\nactive_file 9\nslab 1"
    machine.group(
        "/app.slice/chat.service/inner", {"memory.max": "max", "memory.high": "max", "pids.max": "max"}
    )
    machine.group(
        "/app.slice/chat.service",
        {"memory.max": "536870912", "memory.high": "max", "memory.current": "10485760", "memory.stat": stat}
        | {"pids.max": "100", "pids.current": "7"},
    )
    machine.group(
        "/app.slice",
        {"memory.max": "max", "memory.high": "1073741824", "memory.current": "20971520", "memory.stat": stat},
    )
    facts = Reader(machine.root).read()
    assert facts.unread == ()
    assert facts.groups == (
        Group("/app.slice/chat.service", 2, 512 * MIB, UNLIMITED, 10 * MIB, 3 * MIB, 100, 7),
        Group("/app.slice", 2, UNLIMITED, 1024 * MIB, 20 * MIB, 3 * MIB),
    )


def test_container_with_a_namespace_of_its_own_sees_its_group_at_the_top(machine: Machine) -> None:
    machine.unified("/")
    machine.group(
        "", {"memory.max": "268435456", "memory.current": "1048576", "memory.stat": "inactive_file 0"}
    )
    assert Reader(machine.root).read().groups == (Group("/", 2, memory_max=256 * MIB, memory_used=MIB),)


def test_container_with_the_hosts_names_sees_its_group_at_the_mount(machine: Machine) -> None:
    machine.unified("/docker/abc/worker", top="/docker/abc")
    machine.group("", {"pids.max": "200", "pids.current": "3"})
    machine.group("/worker", {"pids.max": "50", "pids.current": "1"})
    assert Reader(machine.root).read().groups == (
        Group("/worker", 2, pids_max=50, pids_used=1),
        Group("/", 2, pids_max=200, pids_used=3),
    )


@pytest.mark.parametrize(
    ("path", "top", "why"),
    [
        ("/other/abc", "/docker/abc", "/other/abc is not below /docker/abc, which is what is mounted"),
        ("/docker/abcd", "/docker/abc", "/docker/abcd is not below /docker/abc, which is what is mounted"),
        ("/../other", "/", "/../other is outside of what this control group namespace shows"),
    ],
)
def test_group_that_is_not_mounted_is_said(machine: Machine, path: str, top: str, why: str) -> None:
    machine.unified(path, top=top)
    facts = Reader(machine.root).read()
    assert facts.groups == ()
    assert missed(facts) == {"control groups": why}


def test_groups_whose_hierarchy_is_not_mounted_are_said(machine: Machine) -> None:
    whole = (machine.root / "proc/self/mountinfo").read_text()
    machine.write(
        "/proc/self/mountinfo", "".join(line for line in whole.splitlines(True) if "cgroup2" not in line)
    )
    why = "their hierarchy is not mounted here"
    nothing = {"memory of control groups": why, "pids of control groups": why}
    assert missed(Reader(machine.root).read()) == nothing
    assert {each.what for each in Reader(machine.root).groups_at("/a.slice")[1]} == set(nothing)
    # Memory is in a hierarchy of version 1, and that is not mounted; the other one is.
    machine.unified("/")
    machine.write("/proc/self/cgroup", "5:memory:/chat\n0::/\n")
    assert missed(Reader(machine.root).read()) == {"memory of control groups": why}


def test_hierarchy_of_version_2_without_controllers_is_not_missed(machine: Machine) -> None:
    machine.version_1({"memory": "/", "pids": "/"})
    path = machine.root / "proc/self/cgroup"
    path.write_text(path.read_text() + "0::/user.slice\n")
    assert Reader(machine.root).read().unread == ()


def test_hierarchy_that_the_process_is_not_in_is_passed_over(machine: Machine) -> None:
    machine.write("/proc/self/cgroup", "1:name=systemd:/\n")
    machine.group("", {"pids.max": "5", "pids.current": "1"})
    assert Reader(machine.root).read().groups == ()


def test_group_that_is_gone_is_said(machine: Machine) -> None:
    machine.unified("/gone")
    (machine.root / "sys/fs/cgroup/gone").rmdir()
    assert missed(Reader(machine.root).read()) == {"control groups": "/sys/fs/cgroup/gone: not there"}


def test_groups_of_version_1_are_read_by_controller(machine: Machine) -> None:
    machine.version_1({"memory": "/system.slice/chat", "cpu,cpuacct": "/", "pids": "/system.slice"})
    machine.group(
        "/memory/system.slice/chat",
        {"memory.limit_in_bytes": "536870912", "memory.usage_in_bytes": "8388608"}
        | {"memory.stat": "inactive_file 1\ntotal_inactive_file 2097152"},
    )
    machine.group(
        "/memory/system.slice",
        {"memory.limit_in_bytes": "1073741824", "memory.usage_in_bytes": "9437184"}
        | {"memory.stat": "inactive_file 1\ntotal_inactive_file 1048576"},
    )
    machine.group("/memory", {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "1"})
    machine.group("/pids/system.slice", {"pids.max": "512", "pids.current": "31"})
    facts = Reader(machine.root).read()
    assert facts.unread == ()
    assert facts.groups == (
        Group("/system.slice/chat", 1, memory_max=512 * MIB, memory_used=8 * MIB, memory_cached=2 * MIB),
        Group("/system.slice", 1, memory_max=1024 * MIB, memory_used=9 * MIB, memory_cached=1 * MIB),
        Group("/system.slice", 1, pids_max=512, pids_used=31),
    )


def test_no_limit_of_version_1_is_whole_pages_of_any_size(machine: Machine) -> None:
    machine.version_1({"memory": "/"})
    for unlimited in (2**63 - 4096, 2**63 - 65536):
        machine.group("/memory", {"memory.limit_in_bytes": str(unlimited)})
        assert Reader(machine.root).read().groups == ()


def test_version_1_inside_of_docker_is_what_is_mounted(machine: Machine) -> None:
    machine.version_1({"memory": "/docker/abc"}, top="/docker/abc")
    machine.group(
        "/memory",
        {
            "memory.limit_in_bytes": "1048576",
            "memory.usage_in_bytes": "4096",
            "memory.stat": "total_inactive_file 0",
        },
    )
    assert Reader(machine.root).read().groups == (Group("/", 1, memory_max=MIB, memory_used=4096),)


def test_path_with_blanks_in_mountinfo_is_found(machine: Machine) -> None:
    machine.unified("/", place="/sys/fs/my groups")
    text = (machine.root / "proc/self/mountinfo").read_text().replace("my groups", r"my\040groups")
    machine.write("/proc/self/mountinfo", text)
    machine.group("", {"pids.max": "200", "pids.current": "3"}, place="/sys/fs/my groups")
    assert Reader(machine.root).read().groups == (Group("/", 2, pids_max=200, pids_used=3),)


@pytest.mark.parametrize(
    ("file", "text", "what"),
    [
        ("memory.max", "lots", "memory.max of /user.slice"),
        ("memory.high", "", "memory.high of /user.slice"),
        ("memory.current", "max", "memory.current of /user.slice"),
        ("memory.stat", "anon 5", "memory.stat of /user.slice"),
        ("pids.max", "-1", "pids.max of /user.slice"),
        ("pids.current", "?", "pids.current of /user.slice"),
    ],
)
def test_malformed_file_of_a_group_is_said(machine: Machine, file: str, text: str, what: str) -> None:
    good = {
        "memory.max": "4096",
        "memory.high": "max",
        "memory.current": "1",
        "memory.stat": "inactive_file 0",
    }
    machine.group("/user.slice", good | {"pids.max": "9", "pids.current": "1"} | {file: text})
    assert list(missed(Reader(machine.root).read())) == [what]


@pytest.mark.parametrize("file", ["memory.current", "memory.stat", "pids.current"])
def test_use_that_is_not_there_is_said(machine: Machine, file: str) -> None:
    good = {"memory.max": "4096", "memory.current": "1", "memory.stat": "inactive_file 0"}
    machine.group("/user.slice", good | {"pids.max": "9", "pids.current": "1"})
    (machine.root / "sys/fs/cgroup/user.slice" / file).unlink()
    why = {f"{file} of /user.slice": f"/sys/fs/cgroup/user.slice/{file}: No such file or directory"}
    assert missed(Reader(machine.root).read()) == why


@pytest.mark.parametrize(("path", "text"), [("mountinfo", "30 23 nonsense"), ("cgroup", "nonsense")])
def test_malformed_list_of_groups_is_said(machine: Machine, path: str, text: str) -> None:
    machine.write(f"/proc/self/{path}", text)
    facts = Reader(machine.root).read()
    assert facts.groups == ()
    assert missed(facts) == {"control groups": f"/proc/self/{path}: malformed: {text!r}"}


def test_groups_at_a_path_need_no_process(machine: Machine) -> None:
    machine.group("/a.slice/a-b.slice", {"pids.max": "5", "pids.current": "0"})
    machine.group("/a.slice", {"pids.max": "9", "pids.current": "2"})
    reader = Reader(machine.root)
    groups = (Group("/a.slice/a-b.slice", 2, pids_max=5), Group("/a.slice", 2, pids_max=9, pids_used=2))
    assert reader.groups_at("/a.slice/a-b.slice") == (groups, ())
    assert reader.groups_at("/none") == ((), (Unread("control groups", "/sys/fs/cgroup/none: not there"),))


def test_reading_twice_says_what_is_missing_once(machine: Machine) -> None:
    machine.sysctl("fs.nr_open", None)
    reader = Reader(machine.root)
    assert reader.read() == reader.read()


# This machine


def test_real_limits_and_memory_are_read() -> None:
    facts = Reader().read()
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert facts.nofile == Limit(*(UNLIMITED if n == resource.RLIM_INFINITY else n for n in own))
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert facts.mem_total is not None
    assert abs(facts.mem_total - total) <= total // 100
    assert facts.mem_available is not None
    assert 0 < facts.mem_available <= facts.mem_total
    assert facts.number("fs.nr_open") == int(Path("/proc/sys/fs/nr_open").read_text())


def test_real_process_is_read_as_it_is() -> None:
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (77, 88))"
    wait = f"{limited}; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        facts = Reader(pid=process.pid).read()
        process.communicate("")
    assert facts.nofile == Limit(77, 88)
    assert facts.descriptors == 3
