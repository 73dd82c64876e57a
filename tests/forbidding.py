"""Has the kernel refuse system calls to this process from now on: for children of tests, to be without them."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
import sys

import pytest
from raw import TIMEOUT

# Their numbers, where these tests can tell them.
NUMBERS = {
    "x86_64": {"close_range": 436, "unshare": 272, "getsockopt": 55},
    "aarch64": {"close_range": 436, "unshare": 97, "getsockopt": 209},
}.get(platform.machine(), {})

possible = pytest.mark.skipif(not NUMBERS, reason="the numbers of system calls elsewhere")


def run_alone(program: str, *arguments: str) -> str:
    """Run a program, which may import what tests import, in a process of its own. Returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def forbid(call: str, error: int) -> None:
    """seccomp(2): the system call fails with error, all others are allowed."""
    program = b"".join(
        struct.pack("=HBBI", *step)
        for step in [
            (0x20, 0, 0, 0),
            (0x15, 0, 1, NUMBERS[call]),
            (0x06, 0, 0, 0x50000 | error),
            (0x06, 0, 0, 0x7FFF0000),
        ]
    )
    steps = ctypes.create_string_buffer(program)
    rules = struct.pack("=HxxxxxxQ", 4, ctypes.addressof(steps))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.create_string_buffer(rules)) == 0
