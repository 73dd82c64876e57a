"""A loop whose every step is the test's, for the floors that post events and deliver them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from annotation import Annotated, annotate
from uws_shims.deliver_shim import Bare

Make = Callable[..., tuple[Bare, list[int]]]


@pytest.fixture(scope="session")
def annotation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Annotated, dict[str, str]]:
    """What `annotation.annotate` returns; it takes a while."""
    return annotate(tmp_path_factory.mktemp("annotated"))


@pytest.fixture(scope="session")
def annotated(annotation: tuple[Annotated, dict[str, str]]) -> Annotated:
    return annotation[0]


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
