"""Slow handshakes, a thousand of them (`make abuse`: ten thousand): honest clients notice nothing, and all are gone."""

from __future__ import annotations

import os
import shutil

import abuse
import pytest

pytestmark = pytest.mark.skipif(shutil.which(os.environ.get("CC", "gcc")) is None, reason="no C compiler")


def test_honest_clients_come_in_beside_slow_handshakes_and_all_slow_ones_are_refused_at_their_deadline() -> None:
    sizes = abuse.SMALL
    seen = abuse.slowloris(sizes, "inline", sizes.slow)
    assert (seen["honest_lost"], seen["left"]) == (0, 0)
    # Each was told so, and none before its time.
    assert seen["refused"] == sizes.slow
    assert seen["longest_s"] >= sizes.handshake_timeout
