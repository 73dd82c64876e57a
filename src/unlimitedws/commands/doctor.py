"""``unlimitedws doctor``: how many connections this machine can hold, and what limits it."""

from __future__ import annotations

import argparse
import json
import pwd
import sys
from pathlib import Path

from ..doctor import remedies, showing, units
from ..doctor.applying import Deed, apply
from ..doctor.facts import Facts
from ..doctor.reading import NoSuchProcess, Reader
from ..doctor.rules import KERNEL_BYTES, OWN_BYTES, Question, examine

__all__ = ["add_to"]

_EPILOG = """\
exit status:
  0  the target can be held
  1  a limit binds: it cannot
  2  wrong arguments; no such process, unit, user or root
  3  --apply: something that should have been raised could not be
  4  nothing binds, but RLIMIT_NOFILE or the memory could not be read

docs/tuning.md explains every line of the output, and which files --apply writes.
"""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to a command line."""
    parser = commands.add_parser(
        "doctor",
        help="say how many connections this machine can hold, and what limits it",
        description="Say how many connections a server can hold on this machine, which limit binds first,\n"
        "and how to lift it. Changes nothing unless asked with --apply.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-n",
        "--connections",
        type=int,
        default=Question().target,
        metavar="N",
        help="how many the server has to hold; default %(default)s",
    )
    parser.add_argument(
        "--bytes-per-connection",
        type=int,
        default=Question().bytes_per_connection,
        metavar="N",
        help=f"memory of an idle connection, the kernel's ({KERNEL_BYTES}), ours ({OWN_BYTES}) and your program's; "
        "default %(default)s",
    )
    parser.add_argument(
        "--private-fds",
        action="store_true",
        help="judge by a server whose loops each have a descriptor table of their own",
    )
    subject = parser.add_mutually_exclusive_group()
    subject.add_argument(
        "--pid", type=int, metavar="PID", help="judge a running process; default: what starts here"
    )
    subject.add_argument("--unit", metavar="NAME", help="judge what systemd starts as NAME")
    parser.add_argument("--user", metavar="NAME", help="whom limits.d is for; default: everybody (*)")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--apply",
        action="store_true",
        help="raise what binds and what is warned of: sysctls now and in /etc/sysctl.d; limits of --pid now, of --unit "
        "in a drop-in, of --user in /etc/security/limits.d. Lowers nothing; needs root",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="where /proc, /sys and /etc are: those of the host, seen from a container; default %(default)s",
    )
    parser.set_defaults(run=_run, usage_error=parser.error)


def _run(args: argparse.Namespace) -> int:
    """Examine, apply what is asked for, and show it; the exit status is that of `_EPILOG`."""
    try:
        question = Question(args.connections, args.bytes_per_connection, args.private_fds)
        for name in (args.unit, args.user):
            if name is not None:
                remedies.check_name(name)
    except ValueError as exc:
        args.usage_error(str(exc))
    if args.pid is not None and args.pid < 1:
        args.usage_error("--pid: must be at least 1")
    if args.unit is not None and args.root != Path("/"):
        args.usage_error("--unit: not with --root, systemd is asked")
    if not (args.root / "proc").is_dir():
        args.usage_error(f"--root: there is no directory {args.root / 'proc'}")
    if args.user not in (None, "*") and args.root == Path("/") and not _is_user(args.user):
        args.usage_error(f"--user: there is no user {args.user}")
    deeds: list[Deed] | None = None
    try:
        report = examine(_facts(args), question)
        if args.apply:
            deeds = apply(remedies.plan(report), root=args.root, pid=args.pid, unit=args.unit, user=args.user)
            # What was raised, as the kernel has it now.
            report = examine(_facts(args), question)
    except (NoSuchProcess, units.NoSuchUnit) as exc:
        print(f"unlimitedws: {exc}", file=sys.stderr)
        return 2
    if args.json:
        json.dump(showing.as_json(report, unit=args.unit, user=args.user, deeds=deeds), sys.stdout, indent=2)
        print()
    else:
        if deeds is not None:
            print(showing.deeds_as_text(deeds))
        print(showing.as_text(report, unit=args.unit, user=args.user), end="")
    if deeds is not None and not all(deed.done for deed in deeds):
        return 3
    return {True: 0, False: 1, None: 4}[report.holds]


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _facts(args: argparse.Namespace) -> Facts:
    reader = Reader(args.root, args.pid)
    return reader.read() if args.unit is None else units.of_unit(args.unit, reader, units.run)
