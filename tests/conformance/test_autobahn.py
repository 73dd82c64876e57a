"""The Autobahn cases as a test: strict, and by both APIs."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import autobahn


@pytest.mark.skipif(not autobahn.has_kosoku(), reason="kosoku is not installed")
@pytest.mark.parametrize("api", ["on_read", "on_message"])
def test_every_autobahn_case_passes_strictly(api: str, tmp_path: Path) -> None:
    cases = autobahn.run(api, tmp_path / "report", parallelism=16)
    assert [case for case in cases if not case.passed] == []
    # A run that quietly leaves cases out must not pass.
    assert len(cases) == autobahn.PROTOCOL.count


@pytest.mark.skipif(not autobahn.has_kosoku(), reason="kosoku is not installed")
def test_some_autobahn_cases_of_each_negotiation_of_compression_pass(tmp_path: Path) -> None:
    cases = autobahn.run("on_message", tmp_path / "report", autobahn.DEFLATE, parallelism=4)
    assert [case for case in cases if not case.passed] == []
    assert len(cases) == autobahn.DEFLATE.count
