from __future__ import annotations

from pathlib import Path

import pytest
from library.doctor.machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine in a directory of its own."""
    return Machine(tmp_path)
