"""The command line, composed of the modules of ``unlimitedws.commands``."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence

from . import __version__
from .commands import bench, doctor, echo
from .commands.echo import echo_server

__all__ = ["echo_server", "main"]

# EPIPE: whoever read it has gone, such as `head`.
_OF_STDOUT = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit status; what it says is up to the command. Wrong arguments end the process with 2, as
        argparse does.
    """
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        status = run(args)
        sys.stdout.flush()
    except OSError as exc:
        # Commands deal with the errors of what they do; what is left is what they print.
        if exc.errno not in _OF_STDOUT:
            raise
        if exc.errno != errno.EPIPE:
            print(f"unlimitedws: what is printed cannot be written: {exc.strerror}", file=sys.stderr)
        # What Python would flush at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unlimitedws", description="A WebSocket server library for Linux.")
    parser.add_argument("--version", action="version", version=f"unlimitedws {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (echo, bench, doctor):
        command.add_to(commands)
    return parser
