"""What the fixtures of conftest.py hand out: an echo server and what it has seen, and this process's descriptors."""

from __future__ import annotations

import os
import queue
import signal
from typing import Any, NamedTuple

import pytest
from raw import TIMEOUT, RawClient

# What a server that was told to stop may take, in seconds.
STOP_TIMEOUT = 5.0


class Closed(NamedTuple):
    """What on_close saw."""

    remote_addr: tuple[str, int]
    code: int | None
    reason: str | None


class EchoServer(NamedTuple):
    """A running echo server and what it has seen."""

    server: Any
    host: str
    port: int
    closed: queue.Queue[Closed]

    @property
    def url(self) -> str:
        return f"ws://{self.host}:{self.port}/"

    def connect(self, **options: Any) -> RawClient:
        """Return a raw client that has done its handshake (options: see RawClient)."""
        return RawClient(self.port, self.host, **options)

    def wait_closed(self, timeout: float = TIMEOUT) -> Closed:
        """Wait for the next on_close; fails the test if there is none."""
        try:
            return self.closed.get(timeout=timeout)
        except queue.Empty:
            pytest.fail(f"on_close was not called within {timeout} s")


def heed_sigint() -> None:
    """Have programs that we start heed SIGINT: a shell lets what it starts in the background ignore it, and that is
    inherited."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def open_fds() -> dict[int, str]:
    """Return this process's file descriptors and what each is open on."""
    fds = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            fds[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            # The descriptor listdir itself used.
            continue
    return fds
