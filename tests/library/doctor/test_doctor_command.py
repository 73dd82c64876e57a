"""The command as a person or a script has it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import raw
from library.doctor.machine import Machine
from library.doctor.test_units import SAID
from library.programs import Program
from raw import TIMEOUT

from unlimitedws.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def doctor(machine: Machine, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the doctor on the machine in a directory; returns status, output, errors."""

    def run(*args: str) -> tuple[int, str, str]:
        try:
            status = main(["doctor", "--root", str(machine.root), *args])
        except SystemExit as exc:
            assert isinstance(exc.code, int)
            status = exc.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


def report(doctor: Run, *args: str) -> tuple[int, dict[str, Any]]:
    status, out, err = doctor("--json", *args)
    assert err == ""
    return status, json.loads(out)


# What it says


def test_machine_that_can_hold_the_target_is_status_0(doctor: Run) -> None:
    status, out, err = doctor("--connections", "100000")
    assert (status, err) == (0, "")
    assert out.startswith("100,000 connections, this process: yes\n")
    assert "  can hold   1,048,544\n" in out
    assert "             2,425,263 with private_fds=True (64 loops)\n" in out
    assert "  first      RLIMIT_NOFILE, 1,048,544\n" in out
    assert "  second     fs.nr_open, 1,048,544\n" in out
    assert "  memory     434.9 MiB for 100,000, at 4,560 bytes each\n" in out
    assert "Nothing to lift.\n" in out
    assert "Not read" not in out


def test_limit_that_binds_is_status_1_with_everything_that_lifts_it(doctor: Run, machine: Machine) -> None:
    machine.limits(soft=1024, hard=4096)
    machine.sysctl("fs.nr_open", "65536")
    machine.sysctl("net.core.somaxconn", "128")
    status, out, _ = doctor("-n", "100000", "--user", "www-data")
    assert status == 1
    assert "100,000 connections, this process: no\n" in out
    assert "  can hold   4,064\n" in out
    assert "             260,608 with private_fds=True (64 loops, 25 are enough for 100,000)\n" in out
    assert "  BINDS  RLIMIT_NOFILE" in out
    for line in (
        '  sysctl -w fs.nr_open="131072"',
        '  sysctl -w net.core.somaxconn="4096"',
        "At every start, /etc/sysctl.d/90-unlimitedws.conf:",
        "  fs.nr_open = 131072",
        "  ulimit -n 131072",
        "For those who log in, /etc/security/limits.d/90-unlimitedws.conf:",
        "  www-data - nofile 131072",
        "For a service of systemd, /etc/systemd/system/NAME.service.d/90-unlimitedws.conf:",
        "  [Service]",
        "  LimitNOFILE=131072",
        "  (systemctl daemon-reload && systemctl restart NAME.service)",
    ):
        assert f"{line}\n" in out, line
    assert out.index("fs.nr_open=") < out.index("net.core.somaxconn=")


def test_private_tables_are_another_verdict(doctor: Run, machine: Machine) -> None:
    machine.limits(hard=20_000)
    assert report(doctor)[0] == 1
    status, found = report(doctor, "--private-fds")
    assert status == 0
    assert (found["holds"], found["capacity"], found["capacity_private_fds"]) == (
        True,
        19968,
        64 * 19976,
    )
    assert found["loops_for_target"] == 6
    assert found["limits"][0] == "RLIMIT_NOFILE"
    assert "  first      RLIMIT_NOFILE, 1,278,464\n" in doctor("--private-fds")[1]


def test_one_loop_may_be_enough(doctor: Run, machine: Machine) -> None:
    machine.limits(hard=5032)
    assert "(64 loops, 1 is enough for 5,008)\n" in doctor("-n", "5008")[1]


def test_memory_alone_cannot_be_lifted(doctor: Run, machine: Machine) -> None:
    machine.memory(available=100_000)
    status, out, _ = doctor()
    assert status == 1
    assert "No setting would lift it.\n" in out
    assert "more memory, or several machines" in out


def test_bytes_per_connection_are_ones_own(doctor: Run, machine: Machine) -> None:
    machine.memory(available=1_000_000)
    assert report(doctor)[0] == 0
    status, found = report(doctor, "--bytes-per-connection", "20000")
    assert (status, found["bytes_per_connection"]) == (1, 20000)
    assert found["capacity"] == int(1_024_000_000 * 0.9) // 20000


@pytest.mark.parametrize("file", ["proc/meminfo", "proc/self/limits"])
def test_without_the_facts_that_count_most_it_is_status_4(doctor: Run, machine: Machine, file: str) -> None:
    (machine.root / file).unlink()
    status, out, _ = doctor()
    assert status == 4
    assert ": not known\n" in out
    assert "  can hold   at most " in out
    assert f"/{file}: No such file or directory\n" in out
    # A no needs no more.
    machine.sysctl("fs.nr_open", "1000")
    assert doctor()[0] == 1


def test_what_cannot_be_read_is_said(doctor: Run, machine: Machine) -> None:
    machine.sysctl("net.ipv4.tcp_mem", None)
    machine.sysctl("net.core.somaxconn", "lots")
    status, out, _ = doctor()
    assert status == 0
    assert "Not read:\n" in out
    assert "  net.ipv4.tcp_mem: only the host's network namespace shows it\n" in out
    assert "  net.core.somaxconn: /proc/sys/net/core/somaxconn: malformed: 'lots'\n" in out
    assert report(doctor)[1]["unread"] == [
        {"what": "net.core.somaxconn", "why": "/proc/sys/net/core/somaxconn: malformed: 'lots'"},
        {"what": "net.ipv4.tcp_mem", "why": "only the host's network namespace shows it"},
    ]


def test_container_is_told_of_its_group(doctor: Run, machine: Machine) -> None:
    machine.unified("/")
    machine.group("", {"memory.max": "268435456", "memory.current": "0", "memory.stat": "inactive_file 0"})
    status, out, _ = doctor()
    assert status == 1
    assert "  first      memory.max of /, " in out
    assert re.search(r"^  # memory\.max of /: \d+, set by whoever starts the container$", out, re.MULTILINE)


def test_another_process_is_judged_by_its_own_limits(doctor: Run, machine: Machine) -> None:
    machine.limits("4711", soft=2000, hard=1048576)
    machine.descriptors(10, "4711")
    status, out, _ = doctor("--pid", "4711")
    assert status == 1
    assert out.startswith("100,000 connections, process 4711: no\n")
    assert "  can hold   1,968\n" in out
    assert "2,000 (hard: 1,048,576)" in out


def test_json_is_whole(doctor: Run, machine: Machine) -> None:
    machine.limits(hard=4096)
    machine.conntrack()
    status, found = report(doctor, "--user", "bob")
    assert status == 1
    assert set(found) == {
        "version",
        "subject",
        "target",
        "bytes_per_connection",
        "private_fds",
        "holds",
        "capacity",
        "capacity_private_fds",
        "loops_for_target",
        "limits",
        "findings",
        "unread",
        "remedy",
        "applied",
    }
    assert (found["version"], found["subject"], found["applied"]) == (1, "this process", None)
    nofile = found["findings"][0]
    assert nofile == {
        "knob": "RLIMIT_NOFILE",
        "value": "4,096 (soft: 1,024)",
        "state": "binds",
        "why": nofile["why"],
        "counts": True,
        "holds": 4064,
        "holds_private_fds": 260608,
        "lifts": [{"rlimit": "nofile", "value": 131072}],
    }
    by_knob = {each["knob"]: each for each in found["findings"]}
    # No limit is null, and so is what limits no number: "counts" tells them apart.
    assert (by_knob["fs.file-max"]["counts"], by_knob["fs.file-max"]["holds"]) == (True, None)
    assert (by_knob["net.core.somaxconn"]["counts"], by_knob["net.core.somaxconn"]["holds"]) == (False, None)
    assert found["remedy"]["commands"] == ["ulimit -n 131072"]
    assert found["remedy"]["limits.d"] == "bob - nofile 131072\n"
    assert found["remedy"]["systemd"] == "[Service]\nLimitNOFILE=131072\n"
    assert found["remedy"]["sysctl.d"] == ""
    assert any("CAP_SYS_RESOURCE" in text for text in found["remedy"]["advice"])


# What it does


def everything(root: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("args", [(), ("--json",), ("--user", "bob"), ("--pid", "4711")])
def test_nothing_is_changed_unless_it_is_asked_for(
    doctor: Run, machine: Machine, args: tuple[str, ...]
) -> None:
    machine.limits(hard=4096)
    machine.limits("4711", hard=4096)
    machine.descriptors(1, "4711")
    machine.sysctl("net.core.somaxconn", "128")
    before = everything(machine.root)
    assert doctor(*args)[0] == 1
    assert everything(machine.root) == before


def test_apply_raises_and_judges_anew(doctor: Run, machine: Machine) -> None:
    machine.sysctl("fs.epoll.max_user_watches", "50000")
    machine.sysctl("net.core.somaxconn", "128")
    status, out, _ = doctor("--apply")
    assert status == 0
    assert "done: fs.epoll.max_user_watches: 50000 -> 131072\n" in out
    assert "done: net.core.somaxconn: 128 -> 4096\n" in out
    assert "done: /etc/sysctl.d/90-unlimitedws.conf: written\n" in out
    assert "100,000 connections, this process: yes\n" in out
    status, out, _ = doctor("--apply")
    assert status == 0
    assert out.startswith("Nothing to apply.\n")


def test_applied_is_in_the_json(doctor: Run, machine: Machine) -> None:
    machine.sysctl("net.core.somaxconn", "128")
    status, found = report(doctor, "--apply")
    assert status == 0
    assert found["applied"] == [
        {"done": True, "what": "net.core.somaxconn: 128 -> 4096"},
        {"done": True, "what": "/etc/sysctl.d/90-unlimitedws.conf: written"},
    ]
    assert report(doctor, "--apply")[1]["applied"] == []


def test_what_could_not_be_applied_is_status_3(doctor: Run, machine: Machine) -> None:
    machine.limits(hard=4096)
    machine.sysctl("net.core.somaxconn", "128")
    status, out, _ = doctor("--apply")
    assert status == 3
    assert "done: net.core.somaxconn: 128 -> 4096\n" in out
    assert "NOT DONE: RLIMIT_NOFILE 131072: say whose: --unit, --user or --pid\n" in out
    assert "100,000 connections, this process: no\n" in out


def test_what_nothing_can_be_done_about_is_status_1(doctor: Run, machine: Machine) -> None:
    machine.memory(available=1000)
    assert doctor("--apply")[0] == 1


def test_limits_of_a_user_are_of_the_next_login(doctor: Run, machine: Machine) -> None:
    machine.limits(hard=4096)
    status, out, _ = doctor("--apply", "--user", "bob")
    # Everything was done; this process has what it has.
    assert status == 1
    assert "done: /etc/security/limits.d/90-unlimitedws.conf: written\n" in out


# A unit of systemd

SYSTEMCTL = """\
#!/bin/sh
echo "$@" >> "{told}"
case "$1" in
    show) cat <<'END'
{said}
END
    ;;
esac
"""


@pytest.fixture
def systemctl(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Have a systemctl that says this of every unit; returns the file of what it was told."""
    place = tmp_path_factory.mktemp("systemctl")

    def have(**changes: str) -> Path:
        said = "\n".join(f"{key}={value}" for key, value in {**SAID, **changes}.items())
        (place / "systemctl").write_text(SYSTEMCTL.format(told=place / "told", said=said))
        (place / "systemctl").chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
        return place / "told"

    return have


def test_unit_is_judged_by_what_it_will_start_with(
    systemctl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    told = systemctl(LimitNOFILE="4096", MemoryMax="infinity")
    assert main(["doctor", "--unit", "chat", "--json", "-n", "5000"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["subject"] == "unit chat.service"
    assert found["capacity"] == 4064
    assert found["remedy"]["systemd"] == "[Service]\nLimitNOFILE=8192\n"
    assert told.read_text().splitlines()[0].endswith(" chat.service")
    assert "daemon-reload" not in told.read_text()


def test_memory_of_the_unit_goes_into_its_dropin(
    systemctl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    systemctl(MemoryMax="1000000")
    assert main(["doctor", "--unit", "chat", "-n", "500"]) == 1
    out = capsys.readouterr().out
    assert (
        "/etc/systemd/system/chat.service.d/90-unlimitedws.conf:\n  [Service]\n  MemoryMax=3145728\n" in out
    )


def test_unit_that_systemd_does_not_know_is_status_2(
    systemctl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    systemctl(LoadState="not-found")
    assert main(["doctor", "--unit", "chat"]) == 2
    assert capsys.readouterr() == ("", "unlimitedws: unit chat.service: not-found\n")


# Wrong arguments


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-n", "0"], "connections: must be at least 1"),
        (["-n", "many"], "invalid int value"),
        (["--bytes-per-connection", "-5"], "bytes per connection: must be at least 1"),
        (["--pid", "0"], "--pid: must be at least 1"),
        (["--pid", "5", "--unit", "x"], "not allowed with argument"),
        (["--unit", "chat"], "--unit: not with --root"),
        (["--user", "a b"], "'a b': not the name of a unit or of a user"),
        (["--root", "/", "--user", "nobody-of-that-name"], "--user: there is no user nobody-of-that-name"),
        (["--root", "/nowhere"], "--root: there is no directory /nowhere/proc"),
        (["--pid", "4711"], "no process 4711"),
    ],
)
def test_wrong_arguments_are_status_2_and_say_why(doctor: Run, args: list[str], message: str) -> None:
    status, out, err = doctor(*args)
    assert (status, out) == (2, "")
    assert message in err


def test_name_of_a_unit_that_leads_elsewhere_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--unit", "../../etc/passwd"])
    assert caught.value.code == 2
    assert "not the name" in capsys.readouterr().err


# This machine


def test_this_machine_is_judged_by_what_it_has(program: Callable[..., Program]) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    slots = 1 << 24 if hard == resource.RLIM_INFINITY else min(hard, 1 << 24)
    status, out, err = program("-m", "unlimitedws", "doctor", "--json", "-n", "50").end()
    assert err == ""
    found = json.loads(out)
    by_knob = {each["knob"]: each for each in found["findings"]}
    assert by_knob["RLIMIT_NOFILE"]["holds"] == slots - 32
    assert by_knob["memory"]["holds"] > 50
    assert found["capacity"] <= by_knob["RLIMIT_NOFILE"]["holds"]
    assert (status, found["holds"]) == (0, True)


def test_limit_of_the_shell_that_starts_it_binds(program: Callable[..., Program]) -> None:
    text = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300)); "
        "from unlimitedws.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    status, out, err = program("-c", text, "doctor", "-n", "269").end()
    assert (status, err) == (1, "")
    assert "  can hold   268\n" in out
    assert program("-c", text, "doctor", "-n", "268").end()[0] == 0


def test_server_holds_what_the_doctor_says(program: Callable[..., Program]) -> None:
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (50, 200)); "
        "from unlimitedws.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    said = json.loads(program("-c", limited, "doctor", "--json", "-n", "1").end()[1])["capacity"]
    assert said == 168
    server = program("-c", limited, "echo", "--addr", "127.0.0.1:0")
    match = re.match(r"listening on \S+:(\d+)", server.line())
    assert match
    with contextlib.ExitStack() as opened:
        for _ in range(said):
            client = opened.enter_context(socket.create_connection(("127.0.0.1", int(match[1])), TIMEOUT))
            client.sendall(raw.request())
            assert client.recv(12) == b"HTTP/1.1 101"


def test_running_server_is_judged_with_what_it_holds(program: Callable[..., Program]) -> None:
    running = program("-m", "unlimitedws", "echo", "--addr", "127.0.0.1:0")
    running.line()
    status, out, err = program(
        "-m", "unlimitedws", "doctor", "--json", "-n", "50", "--pid", str(running.process.pid)
    ).end()
    found = json.loads(out)
    assert (status, err, found["subject"]) == (0, "", f"process {running.process.pid}")
    # It has raised its own limit: nothing is left to be raised.
    assert found["findings"][0]["value"].find("hard") == -1


def test_network_namespace_of_its_own_says_what_it_does_not_see(tmp_path: Path) -> None:
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*unshare, "true"], stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("no network namespace of our own to be had here")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    command = [*unshare, sys.executable, "-m", "unlimitedws", "doctor", "-n", "50"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  net.ipv4.tcp_mem: only the host's network namespace shows it\n" in done.stdout


def test_help_tells_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for line in ("0  the target can be held", "1  a limit binds", "3  --apply", "4  nothing binds"):
        assert line in out
