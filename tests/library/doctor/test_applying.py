from __future__ import annotations

import grp
import os
import pwd
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from library.doctor.machine import Machine
from library.doctor.test_units import systemd
from library.programs import ROOT

from unlimitedws.doctor import units
from unlimitedws.doctor.applying import Deed, apply
from unlimitedws.doctor.facts import UNLIMITED
from unlimitedws.doctor.lifts import GroupLimit
from unlimitedws.doctor.reading import Reader
from unlimitedws.doctor.remedies import Plan

SYSCTL_FILE = "etc/sysctl.d/90-unlimitedws.conf"
LIMITS_FILE = "etc/security/limits.d/90-unlimitedws.conf"
UNIT_FILE = "etc/systemd/system/chat.service.d/90-unlimitedws.conf"


def sysctls(**values: str) -> Plan:
    return Plan({n.replace("__", "."): tuple(map(int, v.split())) for n, v in values.items()}, {}, (), ())


def value(machine: Machine, name: str) -> str:
    return (machine.root / "proc/sys" / name.replace(".", "/")).read_text().strip()


def settings(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def files(root: Path) -> dict[str, str]:
    """Everything in a directory but what stands for the machine."""
    found = {}
    for directory in ("etc", "run", "usr"):
        for path in sorted((root / directory).rglob("*")):
            if path.is_file():
                found[str(path.relative_to(root))] = path.read_text()
    return found


# Sysctls


def test_sysctl_is_raised_now_and_for_every_start(machine: Machine) -> None:
    deeds = apply(sysctls(net__core__somaxconn="5000"), root=machine.root)
    assert deeds == [
        Deed(True, "net.core.somaxconn: 4096 -> 5000"),
        Deed(True, f"/{SYSCTL_FILE}: written"),
    ]
    assert value(machine, "net.core.somaxconn") == "5000"
    path = machine.root / SYSCTL_FILE
    assert settings(path) == ["net.core.somaxconn = 5000"]
    assert path.read_text().startswith("# Written by: unlimitedws doctor --apply.")
    assert path.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_doing_it_again_changes_nothing(machine: Machine) -> None:
    plan = sysctls(net__core__somaxconn="5000", net__ipv4__tcp_mem="1 300000 500000")
    apply(plan, root=machine.root)
    path = machine.root / SYSCTL_FILE
    before = path.read_text(), path.stat().st_mtime_ns, path.stat().st_ino
    deeds = apply(plan, root=machine.root)
    assert (path.read_text(), path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert deeds[-1] == Deed(True, f"/{SYSCTL_FILE}: has it all")


def test_no_number_is_lowered(machine: Machine) -> None:
    apply(sysctls(net__ipv4__tcp_mem="1 300000 400000"), root=machine.root)
    assert value(machine, "net.ipv4.tcp_mem") == "190089 300000 400000"
    apply(sysctls(net__ipv4__tcp_mem="200000 200000 200000"), root=machine.root)
    assert value(machine, "net.ipv4.tcp_mem") == "200000 300000 400000"
    assert settings(machine.root / SYSCTL_FILE) == ["net.ipv4.tcp_mem = 200000 300000 400000"]


def test_file_keeps_what_it_has_and_what_is_higher_there(machine: Machine) -> None:
    text = "# by hand\nvm.swappiness = 1\n-net/core/somaxconn=9000\nfs.nr_open = 5\n"
    machine.write(SYSCTL_FILE, text)
    apply(sysctls(net__core__somaxconn="5000", fs__nr_open="2097152"), root=machine.root)
    assert (machine.root / SYSCTL_FILE).read_text() == (
        "# by hand\nvm.swappiness = 1\nnet.core.somaxconn = 9000\nfs.nr_open = 2097152\n"
    )


@pytest.mark.parametrize("place", ["etc/sysctl.d/10-a.conf", "usr/lib/sysctl.d/50-b.conf", "etc/sysctl.conf"])
def test_what_another_file_sets_higher_is_not_lowered_at_the_next_start(machine: Machine, place: str) -> None:
    machine.write(place, "net.core.somaxconn = 8192\n")
    apply(sysctls(net__core__somaxconn="5000"), root=machine.root)
    assert settings(machine.root / SYSCTL_FILE) == ["net.core.somaxconn = 8192"]


@pytest.mark.parametrize(
    "line", ["net.core.somaxconn = lots", "net.core.somaxconn =", "#net.core.somaxconn = 9000", "="]
)
def test_line_that_sets_no_number_is_passed_over(machine: Machine, line: str) -> None:
    for place in ("etc/sysctl.d/10-a.conf", "etc/sysctl.conf", SYSCTL_FILE):
        machine.write(place, f"{line}\n")
    deeds = apply(sysctls(net__core__somaxconn="5000"), root=machine.root)
    assert all(deed.done for deed in deeds)
    assert (machine.root / SYSCTL_FILE).read_text() == f"{line}\nnet.core.somaxconn = 5000\n"


def test_file_that_comes_later_and_says_the_same_is_no_matter(machine: Machine) -> None:
    machine.write("etc/sysctl.conf", "net.core.somaxconn = 5000\n")
    deeds = apply(sysctls(net__core__somaxconn="5000"), root=machine.root)
    assert all(deed.done for deed in deeds)


def test_file_of_our_name_in_another_directory_is_hidden_by_ours(machine: Machine) -> None:
    machine.write("run/sysctl.d/90-unlimitedws.conf", "net.core.somaxconn = 128\n")
    deeds = apply(sysctls(net__core__somaxconn="5000"), root=machine.root)
    assert all(deed.done for deed in deeds)


@pytest.mark.parametrize("place", ["etc/sysctl.d/99-late.conf", "run/sysctl.d/95-x.conf", "etc/sysctl.conf"])
def test_file_that_comes_later_and_says_less_is_told_of(machine: Machine, place: str) -> None:
    machine.write(place, "; note\n net/core/somaxconn = 128 \n")
    deeds = apply(sysctls(net__core__somaxconn="5000"), root=machine.root)
    assert deeds[-1] == Deed(
        False, f"net.core.somaxconn at the next start: /{place} comes later and says 128"
    )


@pytest.mark.parametrize("place", ["etc/sysctl.d/10-a.conf", "usr/lib/sysctl.d/99-late.conf"])
def test_file_that_comes_earlier_or_is_hidden_is_not(machine: Machine, place: str) -> None:
    machine.write("etc/sysctl.d/99-late.conf", "vm.swappiness = 1\n")
    machine.write(place, "net.core.somaxconn = 128\n") if place != "etc/sysctl.d/99-late.conf" else None
    deeds = apply(sysctls(net__core__somaxconn="5000"), root=machine.root)
    assert all(deed.done for deed in deeds)


def test_sysctl_that_cannot_be_written_is_said_and_not_kept_for_later(machine: Machine) -> None:
    path = machine.sysctl("net.core.somaxconn", None)
    deeds = apply(sysctls(net__core__somaxconn="5000", fs__nr_open="2097152"), root=machine.root)
    assert not path.exists()
    assert deeds[0] == Deed(False, "net.core.somaxconn 5000: No such file or directory")
    assert deeds[1].done
    assert settings(machine.root / SYSCTL_FILE) == ["fs.nr_open = 2097152"]


@pytest.mark.parametrize("text", ["many", "1 2", ""])
def test_sysctl_that_is_not_what_was_expected_is_left_alone(machine: Machine, text: str) -> None:
    machine.sysctl("net.core.somaxconn", text)
    (deed,) = apply(sysctls(net__core__somaxconn="5000"), root=machine.root)
    assert not deed.done
    assert value(machine, "net.core.somaxconn") == text
    assert files(machine.root) == {}


def test_sysctl_that_takes_less_than_it_is_given_is_said(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some round, or keep to what they are, and no write fails.
    monkeypatch.setattr(Path, "write_text", lambda path, text: len(text))
    (deed,) = apply(sysctls(net__core__somaxconn="5000"), root=machine.root)
    assert deed == Deed(False, "net.core.somaxconn 5000: was given 5000, and is 4096")


def test_file_that_cannot_be_written_is_said(machine: Machine) -> None:
    machine.write("etc/sysctl.d", "a file")
    deeds = apply(sysctls(net__core__somaxconn="5000"), root=machine.root)
    assert [deed.done for deed in deeds] == [True, False]
    assert deeds[1].what.startswith(f"/{SYSCTL_FILE}: ")


# Whose limits


def test_limits_of_nobody_are_asked_for(machine: Machine) -> None:
    plan = Plan({}, {"nofile": 5000}, (GroupLimit("/a", "memory.max", 7),), ())
    deeds = apply(plan, root=machine.root)
    assert deeds == [
        Deed(False, "RLIMIT_NOFILE 5000: say whose: --unit, --user or --pid"),
        Deed(False, "memory.max of /a 7: only a unit's own, with --unit"),
    ]
    assert files(machine.root) == {}


def test_nothing_to_do_is_nothing_done(machine: Machine) -> None:
    assert apply(Plan({}, {}, (), ("think",)), root=machine.root, user="bob") == []
    assert files(machine.root) == {}


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that may have 50 descriptors, and 500 if it wants."""
    with subprocess.Popen(["sleep", "60"]) as process:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (50, 500))
        yield process
        process.kill()


def test_running_process_gets_its_limit_now(sleeper: subprocess.Popen[bytes]) -> None:
    pid = sleeper.pid
    plan = Plan({}, {"nofile": 256}, (), ())
    assert apply(plan, pid=pid) == [Deed(True, f"RLIMIT_NOFILE of process {pid}: 50 -> 256")]
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (256, 500)
    # Not lowered.
    apply(Plan({}, {"nofile": 100}, (), ()), pid=pid)
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (256, 500)


def test_unlimited_limit_of_a_process_stays_unlimited(sleeper: subprocess.Popen[bytes]) -> None:
    infinity = resource.RLIM_INFINITY
    assert resource.prlimit(sleeper.pid, resource.RLIMIT_AS) == (infinity, infinity)
    (deed,) = apply(Plan({}, {"as": 1 << 30}, (), ()), pid=sleeper.pid)
    assert deed == Deed(True, f"RLIMIT_AS of process {sleeper.pid}: unlimited -> unlimited")
    assert resource.prlimit(sleeper.pid, resource.RLIMIT_AS) == (infinity, infinity)


def test_limit_of_a_process_is_lifted_altogether(sleeper: subprocess.Popen[bytes]) -> None:
    infinity = resource.RLIM_INFINITY
    resource.prlimit(sleeper.pid, resource.RLIMIT_AS, (1 << 30, infinity))
    (deed,) = apply(Plan({}, {"as": UNLIMITED}, (), ()), pid=sleeper.pid)
    assert deed == Deed(True, f"RLIMIT_AS of process {sleeper.pid}: {1 << 30} -> unlimited")
    assert resource.prlimit(sleeper.pid, resource.RLIMIT_AS) == (infinity, infinity)


def test_limit_that_the_kernel_refuses_is_said(sleeper: subprocess.Popen[bytes]) -> None:
    above = int(Path("/proc/sys/fs/nr_open").read_text()) * 2
    (deed,) = apply(Plan({}, {"nofile": above}, (), ()), pid=sleeper.pid)
    assert not deed.done
    assert deed.what.startswith(f"RLIMIT_NOFILE of process {sleeper.pid} {above}: ")
    assert resource.prlimit(sleeper.pid, resource.RLIMIT_NOFILE) == (50, 500)


def test_process_of_another_root_is_not_taken_for_ours(
    machine: Machine, sleeper: subprocess.Popen[bytes]
) -> None:
    (deed,) = apply(Plan({}, {"nofile": 256}, (), ()), root=machine.root, pid=sleeper.pid)
    assert not deed.done
    assert resource.prlimit(sleeper.pid, resource.RLIMIT_NOFILE) == (50, 500)


# A unit


class Systemd:
    """Answers for systemctl, and remembers what it was told to do."""

    def __init__(self, **changes: str) -> None:
        self.show = systemd(**changes)
        self.told: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> str:
        if command[1] == "show":
            return self.show(command)
        self.told.append(list(command))
        return ""


UNIT_PLAN = Plan(
    {}, {"nofile": 1 << 20, "as": UNLIMITED}, (GroupLimit("chat.service", "memory.max", 1 << 30),), ()
)


def test_unit_gets_a_dropin_and_systemd_is_told(machine: Machine) -> None:
    told = Systemd()
    deeds = apply(UNIT_PLAN, root=machine.root, unit="chat", run=told)
    assert [deed.done for deed in deeds] == [True, True]
    assert settings(machine.root / UNIT_FILE) == [
        "[Service]",
        "LimitNOFILE=1048576",
        "LimitAS=infinity",
        "MemoryMax=1073741824",
    ]
    # It is not restarted.
    assert told.told == [["systemctl", "daemon-reload"]]
    assert "next start" in deeds[1].what


def test_dropin_lowers_nothing_that_the_unit_or_the_file_has(machine: Machine) -> None:
    machine.write(UNIT_FILE, "[Service]\nLimitNOFILE=3000000\nNice=5\n")
    apply(
        UNIT_PLAN,
        root=machine.root,
        unit="chat",
        run=Systemd(MemoryMax="2147483648", LimitNOFILE="2000000"),
    )
    assert settings(machine.root / UNIT_FILE) == [
        "[Service]",
        "LimitNOFILE=3000000",
        "Nice=5",
        "LimitAS=infinity",
        "MemoryMax=2147483648",
    ]
    apply(UNIT_PLAN, root=machine.root, unit="chat", run=Systemd(MemoryMax="infinity"))
    assert "MemoryMax=infinity" in settings(machine.root / UNIT_FILE)


def test_new_lines_of_a_dropin_stand_in_their_section(machine: Machine) -> None:
    machine.write(UNIT_FILE, "[Service]\nLimitNOFILE=1\n[Unit]\nAfter=network.target\n")
    apply(UNIT_PLAN, root=machine.root, unit="chat", run=Systemd())
    assert settings(machine.root / UNIT_FILE)[:5] == [
        "[Service]",
        "LimitNOFILE=1048576",
        "[Unit]",
        "After=network.target",
        "[Service]",
    ]


def test_section_that_is_open_at_the_end_is_gone_on_with(machine: Machine) -> None:
    machine.write(UNIT_FILE, "[Unit]\nAfter=network.target\n[Service]\nNice=5\n")
    apply(UNIT_PLAN, root=machine.root, unit="chat", run=Systemd())
    assert settings(machine.root / UNIT_FILE)[2:5] == ["[Service]", "Nice=5", "LimitNOFILE=1048576"]


def test_unit_that_cannot_be_asked_about_gets_nothing(machine: Machine) -> None:
    deeds = apply(UNIT_PLAN, root=machine.root, unit="chat", run=Systemd(LoadState="not-found"))
    assert deeds == [Deed(False, "drop-in for chat.service: unit chat.service: not-found")]
    assert files(machine.root) == {}


def test_daemon_reload_that_fails_is_said(machine: Machine) -> None:
    def run(command: Sequence[str]) -> str:
        if command[1] == "show":
            return systemd()(command)
        raise OSError(1, "no")

    deeds = apply(UNIT_PLAN, root=machine.root, unit="chat", run=run)
    assert deeds[-1] == Deed(False, "systemctl daemon-reload: no")


def test_groups_that_are_not_the_units_own_are_said(machine: Machine) -> None:
    plan = Plan({}, {}, (GroupLimit("/system.slice", "memory.max", 5),), ())
    assert apply(plan, root=machine.root, unit="chat", run=Systemd()) == [
        Deed(False, "memory.max of /system.slice 5: only a unit's own, with --unit")
    ]


# A user

USER_PLAN = Plan({}, {"nofile": 100000}, (), ())


def test_user_gets_a_line(machine: Machine) -> None:
    assert apply(USER_PLAN, root=machine.root, user="bob") == [Deed(True, f"/{LIMITS_FILE}: written")]
    assert settings(machine.root / LIMITS_FILE) == ["bob - nofile 100000"]
    assert apply(USER_PLAN, root=machine.root, user="bob") == [Deed(True, f"/{LIMITS_FILE}: has it all")]
    apply(USER_PLAN, root=machine.root, user="eve")
    assert settings(machine.root / LIMITS_FILE) == ["bob - nofile 100000", "eve - nofile 100000"]


def test_address_space_of_a_user_is_in_kilobytes(machine: Machine) -> None:
    apply(Plan({}, {"as": 1 << 30}, (), ()), root=machine.root, user="bob")
    assert settings(machine.root / LIMITS_FILE) == [f"bob - as {1 << 20}"]
    machine.write("etc/security/limits.conf", f"bob - as {2 << 20}\n")
    apply(Plan({}, {"as": 1 << 30}, (), ()), root=machine.root, user="bob")
    assert settings(machine.root / LIMITS_FILE) == [f"bob - as {2 << 20}"]


@pytest.mark.parametrize(
    ("place", "line", "wanted"),
    [
        ("etc/security/limits.conf", "bob hard nofile 200000", "200000"),
        ("etc/security/limits.conf", "*    -    nofile    unlimited # all", "unlimited"),
        ("etc/security/limits.d/10-x.conf", "* soft nofile -1", "unlimited"),
        (LIMITS_FILE, "bob - nofile 300000", "300000"),
        ("etc/security/limits.conf", "#bob - nofile 200000", "100000"),
        ("etc/security/limits.conf", "eve - nofile 200000", "100000"),
        ("etc/security/limits.conf", "bob - core 200000", "100000"),
        ("etc/security/limits.conf", "bob - nofile many", "100000"),
        ("etc/security/limits.conf", "bob - nofile 5", "100000"),
    ],
)
def test_line_of_a_user_lowers_nothing_that_he_has(
    machine: Machine, place: str, line: str, wanted: str
) -> None:
    machine.write(place, f"{line}\n")
    apply(USER_PLAN, root=machine.root, user="bob")
    assert f"bob - nofile {wanted}" in settings(machine.root / LIMITS_FILE)


def test_line_of_a_users_group_counts_for_him(machine: Machine) -> None:
    group = grp.getgrgid(pwd.getpwnam("root").pw_gid).gr_name
    machine.write("etc/security/limits.conf", f"@{group} - nofile 200000\n@others - nofile 300000\n")
    apply(USER_PLAN, root=machine.root, user="root")
    assert settings(machine.root / LIMITS_FILE) == ["root - nofile 200000"]
    # Of whom the groups are not known, any may be his.
    apply(USER_PLAN, root=machine.root, user="nobody-we-know")
    assert "nobody-we-know - nofile 300000" in settings(machine.root / LIMITS_FILE)


# The real kernel

IN_A_NAMESPACE = """
import sys
from pathlib import Path
from unlimitedws.doctor.applying import apply
from unlimitedws.doctor.reading import Reader
from unlimitedws.doctor.remedies import plan
from unlimitedws.doctor.rules import Question, examine

root = Path(sys.argv[1])
somaxconn = Path("/proc/sys/net/core/somaxconn")
somaxconn.write_text("128")
before = Reader(root).read()
assert "net.ipv4.tcp_mem" in [each.what for each in before.unread], before.unread
wanted = plan(examine(before, Question(10)))
assert wanted.sysctls == {"net.core.somaxconn": (4096,)}, wanted
print(apply(wanted, root=root))
assert somaxconn.read_text() == "4096\\n"
assert not plan(examine(Reader(root).read(), Question(10))).sysctls
"""


def test_real_sysctls_are_raised_in_a_network_namespace(tmp_path: Path) -> None:
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*unshare, "true"], stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("no network namespace of our own to be had here")
    for name in ("proc", "sys"):
        (tmp_path / name).symlink_to(f"/{name}")
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [*unshare, sys.executable, "-c", IN_A_NAMESPACE, str(tmp_path)],
        capture_output=True,
        text=True,
        env=env,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "net.core.somaxconn: 128 -> 4096" in done.stdout
    assert settings(tmp_path / SYSCTL_FILE) == ["net.core.somaxconn = 4096"]


def test_default_of_run_is_the_real_one() -> None:
    assert apply.__kwdefaults__["run"] is units.run


def test_reading_changes_nothing(machine: Machine) -> None:
    def everything() -> dict[str, tuple[int, str]]:
        found = (path for path in sorted(machine.root.rglob("*")) if path.is_file())
        return {str(path): (path.stat().st_mtime_ns, path.read_text()) for path in found}

    before = everything()
    Reader(machine.root).read()
    assert everything() == before
