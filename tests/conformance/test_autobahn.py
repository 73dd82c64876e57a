"""The Autobahn cases as a test: strict, and by both APIs."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import autobahn

# Of 247 in kosoku 0.1.0: a run that quietly leaves cases out must not pass.
AT_LEAST = 240


@pytest.mark.skipif(autobahn.find_kosoku() is None, reason="kosoku is not installed")
@pytest.mark.parametrize("api", ["on_read", "on_message"])
def test_every_autobahn_case_passes_strictly(api: str, tmp_path: Path) -> None:
    cases = autobahn.run(api, tmp_path / "report", parallelism=16)
    assert [case for case in cases if not case.passed] == []
    assert len(cases) >= AT_LEAST
