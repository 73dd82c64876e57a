from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from unlimitedws.doctor import remedies
from unlimitedws.doctor.facts import UNLIMITED, Facts
from unlimitedws.doctor.lifts import Advice, GroupLimit, Lift, Rlimit, Sysctl
from unlimitedws.doctor.remedies import Plan, plan
from unlimitedws.doctor.rules import Finding, Question, Report, State

ANALYZE = shutil.which("systemd-analyze")

SERVICE = GroupLimit("/system.slice/chat.service", "memory.max", 1 << 30)
WHOLE = Plan(
    {"fs.nr_open": (1 << 21,), "net.ipv4.tcp_mem": (1, 2, 3)},
    {"nofile": 1 << 21, "as": UNLIMITED, "nproc": 256},
    (
        SERVICE,
        GroupLimit("/system.slice", "memory.high", 2 << 30),
        GroupLimit("/docker/abc", "pids.max", 200),
    ),
    ("memory: more of it",),
)


def report(*lifts: Lift) -> Report:
    findings = (Finding("knob", "1", State.BINDS, "why", 1, 1, lifts),)
    return Report(Facts(), Question(), findings)


def test_plan_has_every_kind_of_lift_in_its_place() -> None:
    found = plan(report(Sysctl("a.b", (1, 2)), Rlimit("nofile", 5), SERVICE, Advice("Do it.")))
    assert found == Plan({"a.b": (1, 2)}, {"nofile": 5}, (SERVICE,), ("knob: Do it.",))
    assert found
    assert not plan(report(Advice("Do it.")))
    assert all(plan(report(lift)) for lift in (Sysctl("a.b", (1,)), Rlimit("nofile", 5), SERVICE))


def test_nr_open_is_raised_first() -> None:
    found = plan(report(Sysctl("b", (1,)), Sysctl("fs.nr_open", (2,)), Sysctl("a", (3,))))
    assert list(found.sysctls) == ["fs.nr_open", "b", "a"]


def test_commands_are_those_of_sysctl_and_the_shell() -> None:
    assert remedies.sysctl_commands(WHOLE) == [
        'sysctl -w fs.nr_open="2097152"',
        'sysctl -w net.ipv4.tcp_mem="1 2 3"',
    ]
    assert remedies.ulimit_commands(WHOLE) == ["ulimit -n 2097152", "ulimit -v unlimited", "ulimit -u 256"]


def test_shells_take_the_commands() -> None:
    small = Plan({}, {"nofile": 64, "as": 4 << 30, "nproc": 9000}, (), ())
    script = "; ".join((*remedies.ulimit_commands(small), "ulimit -n; ulimit -v"))
    assert subprocess.check_output(["bash", "-c", script], text=True).split() == ["64", str(4 << 20)]


def test_files_have_a_line_for_each() -> None:
    assert remedies.sysctl_text(WHOLE) == "fs.nr_open = 2097152\nnet.ipv4.tcp_mem = 1 2 3\n"
    assert remedies.limits_text(WHOLE, "www-data") == (
        "www-data - nofile 2097152\nwww-data - as unlimited\nwww-data - nproc 256\n"
    )
    assert remedies.sysctl_text(Plan({}, {}, (), ())) == ""


def test_dropin_has_what_is_the_services_own() -> None:
    assert remedies.dropin_text(WHOLE, "chat") == (
        "[Service]\nLimitNOFILE=2097152\nLimitAS=infinity\nLimitNPROC=256\nMemoryMax=1073741824\n"
    )
    assert "MemoryMax" not in remedies.dropin_text(WHOLE, "other")
    assert "MemoryMax" in remedies.dropin_text(WHOLE, None)
    assert remedies.dropin_text(Plan({"a": (1,)}, {}, (), ()), "chat") == ""
    assert str(remedies.dropin_path("chat")) == "/etc/systemd/system/chat.service.d/90-unlimitedws.conf"


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_dropin(tmp_path: Path) -> None:
    assert ANALYZE is not None
    (tmp_path / "chat.service").write_text("[Service]\nExecStart=/bin/true\n")
    place = tmp_path / "chat.service.d" / remedies.FILE_NAME
    place.parent.mkdir()

    def verdict(text: str) -> str:
        place.write_text(text)
        done = subprocess.run(
            [ANALYZE, "verify", "--man=no", str(tmp_path / "chat.service")],
            capture_output=True,
            text=True,
            env={"SYSTEMD_UNIT_PATH": str(tmp_path) + ":"},
        )
        return "".join(line for line in done.stderr.splitlines() if remedies.FILE_NAME in line)

    assert verdict(remedies.dropin_text(WHOLE, "chat")) == ""
    # It does look at the file.
    assert verdict("[Service]\nLimitNOFILE=many\n") != ""


def test_groups_above_are_systemds_or_the_containers() -> None:
    assert remedies.group_lines(WHOLE, "chat") == [
        "systemctl set-property system.slice MemoryHigh=2147483648",
        "# pids.max of /docker/abc: 200, set by whoever starts the container",
    ]
    # A service that is not the one asked about.
    assert len(remedies.group_lines(WHOLE, "other")) == 3


@pytest.mark.parametrize(
    "name", ["chat", "chat.service", "chat@1", "web_2", "a-b.slice", r"a\x2db", "user.name"]
)
def test_names_of_units_and_users_are_taken(name: str) -> None:
    remedies.check_name(name)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "a\nb", "-a", ".a", "*", "a;b", "ä"])
def test_what_could_leave_its_file_or_its_line_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        remedies.check_name(name)


@pytest.mark.parametrize(("name", "full"), [("chat", "chat.service"), ("chat.service", "chat.service")])
def test_unit_without_a_kind_is_a_service(name: str, full: str) -> None:
    assert remedies.service_name(name) == full
