"""Many connections at once: what one sends must not reach those that are read behind it in the same turn."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import raw
from live import echo
from raw import CONT, TEXT, Frame, RawClient

import unlimitedws

CONNECTIONS = 40
ROUNDS = 50
STOP_TIMEOUT = 5.0


@pytest.mark.parametrize("make", [unlimitedws.NewServer, unlimitedws.DefaultServer], ids=["inline", "pool"])
def test_empty_fragmented_messages_of_many_lose_nobodys_messages(
    no_fd_leaks: None, make: Callable[[str], Any]
) -> None:
    """A message of empty fragments has no payload anywhere. Where the engine took its data for a place in the
    receive arena, the rest of the turn was read to nowhere, and the connections behind it were lost."""
    server = make("127.0.0.1:0")
    server.on_read = echo
    server.start()
    try:
        with ExitStack() as stack:
            clients = [stack.enter_context(RawClient(server.local_addr.port)) for _ in range(CONNECTIONS)]
            for round_ in range(ROUNDS):
                texts = [f"{i:04} of round {round_:06}".encode() for i in range(CONNECTIONS)]
                assert {len(text) for text in texts} == {20}
                # All of them are there before any of them is answered: one turn reads many.
                for client, text in zip(clients, texts, strict=True):
                    empty = raw.frame(TEXT, b"", fin=False) + raw.frame(CONT, b"")
                    client.send(empty + raw.frame(TEXT, text))
                for client, text in zip(clients, texts, strict=True):
                    assert client.recv_frame() == Frame(True, 0, TEXT, b"")
                    assert client.recv_frame() == Frame(True, 0, TEXT, text)
            assert server.connections == CONNECTIONS
            for client in clients:
                assert client.close_cleanly().code == 1000
    finally:
        server.stop(STOP_TIMEOUT)
