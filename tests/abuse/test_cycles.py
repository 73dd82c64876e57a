"""Connections that come and go: what they took is back, to the last descriptor. A million of them: `make cycles`."""

from __future__ import annotations

import os
import shutil
from typing import Any

import cycles
import pytest

pytestmark = pytest.mark.skipif(shutil.which(os.environ.get("CC", "gcc")) is None, reason="no C compiler")


@pytest.mark.parametrize(
    ("count", "warmup", "hook", "options"),
    [
        (20_000, 6000, "on_message", {}),
        (3000, 2000, "on_read", {"pool": [8, 64]}),
        (3000, 2000, "on_message", {"private_fds": True, "compression": True}),
    ],
    ids=["inline", "pool", "private"],
)
def test_thousands_of_connections_come_and_go_and_nothing_is_left(
    count: int, warmup: int, hook: str, options: dict[str, Any]
) -> None:
    figures = cycles.run(count, warmup, hook=hook, options=options)
    assert figures.error == ""
    assert figures.left == {}
    assert figures.cycles == count
    # Half of them are whole lives, the others are cut short in eight ways, each as often.
    assert figures.ways["whole"] == count // 2
    assert min(figures.ways.values()) >= count // 16 - 1
    assert sum(figures.ways.values()) == count
    assert figures.files_after == figures.files_before
    assert figures.opened == figures.ended == figures.upgraded >= figures.ways["whole"]
    assert figures.growth_percent <= cycles.MAX_GROWTH_PERCENT
