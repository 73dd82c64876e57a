"""A loop whose every step is the test's, for the floors that post events and deliver them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from uws_shims.deliver_shim import Bare

Make = Callable[..., tuple[Bare, list[int]]]


@pytest.fixture
def make(no_fd_leaks: None) -> Iterator[Make]:
    """Make a loop with open connections: ``make(2, max_inbox_messages=3)``."""
    peers: list[socket.socket] = []
    loops: list[Bare] = []

    def made(count: int = 1, **limits: int) -> tuple[Bare, list[int]]:
        loop = Bare(**limits)
        loops.append(loop)
        conns = []
        for _ in range(count):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            peers.append(theirs)
            conns.append(loop.open(ours.detach()))
        loop.poller_present(True)
        return loop, conns

    yield made
    loops.clear()
    for peer in peers:
        peer.close()
