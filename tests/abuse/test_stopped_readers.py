"""Readers that stopped: the others get every message, the stopped ones end as the policy says, memory is bounded."""

from __future__ import annotations

import abuse
import pytest

pytest.importorskip("hdrh", reason="the load generator needs hdrhistogram")

# What may wait for one of them and the chunk that it is in, twice, for what is not used of both; and what a process
# that sends that much needs anyway.
MOST_MIB_EACH = 2 * (128 + 16) / 1024
MOST_MIB = 12


@pytest.mark.parametrize(
    ("kind", "overflow"), [("pool", "close"), ("aio", "drop-oldest")]
)
def test_others_get_everything_beside_readers_that_stopped(kind: str, overflow: str) -> None:
    seen = abuse.stopped(abuse.SMALL, kind, 0.1, overflow)
    assert seen["asleep"] == 10
    # More than the kernel takes for any of them, when the broadcasts begin.
    assert seen["waiting_mib"] >= 10 * 64 / 1024
    # `unlimitedws bench` knows what each connection has to get.
    assert (seen["errors"], seen["still_there"]) == (0, 0)
    assert seen["deliveries"] > 0
    assert seen["ended"] == {"slow_reader": 10}
    if overflow == "close":
        assert (seen["overflowed"], seen["dropped"]) == (10, 0)
    else:
        # They had what was newest, until `send_timeout` was over.
        assert seen["overflowed"] == 0 and seen["dropped"] > 0
    assert seen["grown_mib"] < 10 * MOST_MIB_EACH + MOST_MIB
