"""What the tests of the library share: programs in processes of their own, and a client that is not ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from library.programs import PATIENCE, PRELUDE, Program
from websockets.sync.client import ClientConnection, connect

from unlimitedws import Server


@pytest.fixture
def program() -> Iterator[Callable[..., Program]]:
    """Start programs: ``program("-m", "unlimitedws")``."""
    started: list[Program] = []

    def start(*args: str) -> Program:
        started.append(Program(*args))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def script(program: Callable[..., Program]) -> Callable[[str], Program]:
    """Start a program from its text."""
    return lambda text: program("-c", PRELUDE + text)


@pytest.fixture
def client() -> Iterator[Callable[..., ClientConnection]]:
    """Connect to a server, or to a port of this machine: ``client(server)``, ``client(8000, "/path")``."""
    with ExitStack() as opened:

        def dial(where: Server | int, path: str = "/") -> ClientConnection:
            port = where if isinstance(where, int) else where.local_addr.port
            url = f"ws://127.0.0.1:{port}{path}"
            return opened.enter_context(
                connect(url, open_timeout=PATIENCE, close_timeout=PATIENCE, proxy=None, max_size=None)
            )

        yield dial
