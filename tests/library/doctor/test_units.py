from __future__ import annotations

from collections.abc import Sequence

import pytest
from library.doctor.machine import Machine

from unlimitedws.doctor import units
from unlimitedws.doctor.facts import UNLIMITED, Group, Limit
from unlimitedws.doctor.reading import Reader

SAID = {
    "LoadState": "loaded",
    "Slice": "app-chat.slice",
    "LimitNOFILE": "524288",
    "LimitNOFILESoft": "1024",
    "LimitNPROC": "63304",
    "LimitNPROCSoft": "63000",
    "LimitAS": "infinity",
    "LimitASSoft": "infinity",
    "MemoryMax": "536870912",
    "MemoryHigh": "infinity",
    "TasksMax": "4915",
}


def systemd(**changes: str | None) -> units.Run:
    """A systemctl that says this of every unit."""

    def run(command: Sequence[str]) -> str:
        assert command[:2] == ["systemctl", "show"]
        assert command[-1] == "chat.service"
        said = {**SAID, **changes}
        asked = command[2].removeprefix("--property=").split(",")
        return "".join(
            f"{key}={value}\n" for key, value in said.items() if value is not None and key in asked
        )

    return run


def test_limits_are_those_the_unit_will_start_with(machine: Machine) -> None:
    machine.group("/app.slice", {"pids.max": "70", "pids.current": "2"})
    machine.group("/app.slice/app-chat.slice", {"pids.max": "60", "pids.current": "1"})
    facts = units.of_unit("chat", Reader(machine.root), systemd())
    assert facts.subject == "unit chat.service"
    assert facts.unit == "chat.service"
    assert not facts.running
    assert facts.nofile == Limit(1024, 524288)
    assert facts.nproc == Limit(63000, 63304)
    assert facts.address_space == Limit(UNLIMITED, UNLIMITED)
    assert facts.groups == (
        Group("chat.service", 2, memory_max=512 << 20, pids_max=4915),
        Group("/app.slice/app-chat.slice", 2, pids_max=60, pids_used=1),
        Group("/app.slice", 2, pids_max=70, pids_used=2),
    )
    assert facts.mem_total == 16384000 * 1024
    assert facts.unread == ()


def test_our_own_groups_are_not_the_units(machine: Machine) -> None:
    machine.group("/user.slice", {"pids.max": "1", "pids.current": "1"})
    (machine.root / "sys/fs/cgroup/app.slice/app-chat.slice").mkdir(parents=True)
    assert [group.name for group in units.of_unit("chat", Reader(machine.root), systemd()).groups] == [
        "chat.service"
    ]


def test_what_cannot_be_read_of_us_is_not_missed_of_the_unit(machine: Machine) -> None:
    (machine.root / "sys/fs/cgroup/app.slice/app-chat.slice").mkdir(parents=True)
    machine.group("/user.slice", {"pids.max": "?"})
    machine.limits(soft="?", capabilities=1 << 24)
    machine.sysctl("fs.nr_open", "?")
    facts = units.of_unit("chat", Reader(machine.root), systemd())
    assert [each.what for each in facts.unread] == ["fs.nr_open"]
    assert not facts.may_raise


def test_slice_that_is_not_there_yet_is_said(machine: Machine) -> None:
    facts = units.of_unit("chat", Reader(machine.root), systemd())
    assert [(each.what, each.why) for each in facts.unread] == [
        ("control groups", "/sys/fs/cgroup/app.slice/app-chat.slice: not there")
    ]


def test_limit_without_a_soft_one_is_both(machine: Machine) -> None:
    facts = units.of_unit("chat", Reader(machine.root), systemd(LimitNOFILESoft=None))
    assert facts.nofile == Limit(524288, 524288)


def test_largest_number_is_no_limit(machine: Machine) -> None:
    facts = units.of_unit(
        "chat", Reader(machine.root), systemd(MemoryMax=str(2**64 - 1), TasksMax=str(2**64 - 1))
    )
    assert facts.groups[0] == Group("chat.service", 2)


@pytest.mark.parametrize("name", ["LimitNOFILE", "MemoryMax", "TasksMax"])
@pytest.mark.parametrize("value", [None, "[not set]", "", "-1"])
def test_what_systemd_does_not_say_is_said(machine: Machine, name: str, value: str | None) -> None:
    facts = units.of_unit("chat", Reader(machine.root), systemd(**{name: value}))
    assert name in [each.what for each in facts.unread]
    if name == "LimitNOFILE":
        assert facts.nofile is None


@pytest.mark.parametrize(
    ("name", "path"),
    [("-.slice", "/"), ("system.slice", "/system.slice"), ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice")],
)
def test_slice_is_found_below_those_that_its_name_has(name: str, path: str) -> None:
    assert units._slice_path(name) == path


def test_unit_that_does_not_exist_is_said(machine: Machine) -> None:
    with pytest.raises(units.NoSuchUnit, match=r"unit chat\.service: not-found"):
        units.of_unit("chat", Reader(machine.root), systemd(LoadState="not-found"))
    with pytest.raises(units.NoSuchUnit, match="systemctl says nothing of it"):
        units.of_unit("chat", Reader(machine.root), lambda command: "\n")


def test_systemctl_that_fails_is_said(machine: Machine) -> None:
    def run(command: Sequence[str]) -> str:
        raise OSError(1, "System has not been booted with systemd")

    with pytest.raises(units.NoSuchUnit, match=r"systemctl show chat\.service: System has not been booted"):
        units.of_unit("chat", Reader(machine.root), run)


def test_run_gives_output_or_what_was_wrong() -> None:
    assert units.run(["echo", "a", "b"]) == "a b\n"
    with pytest.raises(OSError, match="ended with 3"):
        units.run(["sh", "-c", "exit 3"])
    with pytest.raises(OSError, match="too bad"):
        units.run(["sh", "-c", "echo too bad >&2; exit 1"])
    with pytest.raises(OSError, match="No such file"):
        units.run(["/nowhere/systemctl"])


def test_run_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_PATIENCE_S", 0.05)
    with pytest.raises(OSError, match="no answer"):
        units.run(["sleep", "30"])
