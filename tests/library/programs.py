"""Programs in processes of their own, for what only a whole process shows: signals, exits, forks, output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 40.0
"""Seconds after which a test has failed: long, because it costs nothing while all is well."""

# A shell that runs the tests in the background has SIGINT ignored, nohup SIGHUP, and their children inherit that.
PRELUDE = """\
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""

FORK_IS_FINE = "ignore:This process:DeprecationWarning"
"""For -W. That a process with threads forks is what some programs are about; Python 3.12 and later warn of it."""


class Program:
    """A Python program in a process of its own, which must end with an empty stderr."""

    def __init__(self, *args: str) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-W", FORK_IS_FINE, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        self._watchdog = threading.Timer(PATIENCE, self.process.kill)
        self._watchdog.start()

    def line(self) -> str:
        """Wait for the next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def say(self, line: str = "") -> None:
        """Give it a line to read."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; return its status, what it printed since, and its stderr."""
        try:
            out, err = self.process.communicate(timeout=PATIENCE)
        finally:
            self.kill()
        return self.process.returncode, out, err

    def kill(self) -> None:
        self._watchdog.cancel()
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
