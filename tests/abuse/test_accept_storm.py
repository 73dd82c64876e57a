"""Storms of connections, some hundred at once (`make abuse`: thousands): who talks goes on, who is honest comes in."""

from __future__ import annotations

import dataclasses
import os
import shutil

import abuse
import pytest

pytestmark = pytest.mark.skipif(shutil.which(os.environ.get("CC", "gcc")) is None, reason="no C compiler")


@pytest.mark.parametrize(
    ("kind", "what"), [("inline", "plain"), ("pool", "overrun"), ("inline", "reset")]
)
def test_a_storm_keeps_nobody_out_and_leaves_nothing(kind: str, what: str) -> None:
    sizes = dataclasses.replace(abuse.SMALL, backlog=64)
    seen = abuse.storm(sizes, kind, what)
    assert seen["connects"] >= sizes.wave
    assert {key: seen[key] for key in ("talk_wrong", "kept_out", "failed", "left")} == {
        "talk_wrong": 0, "kept_out": 0, "failed": 0, "left": 0,
    }  # fmt: skip
