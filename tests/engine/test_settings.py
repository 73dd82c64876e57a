"""settings: every name once, and every value in its range."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from loops import SETTINGS

from _uws.core import Loop

pytestmark = pytest.mark.usefixtures("no_fd_leaks")
ROOT = Path(__file__).resolve().parents[2]
each_runners = pytest.mark.parametrize("runners", [1, 3])


def make(settings: dict[str, Any], page: Any = None) -> Loop:
    return Loop(settings, lambda: None, lambda *_: None, page)


@pytest.mark.parametrize("name", SETTINGS)
def test_missing_setting_is_a_key_error_that_names_it(name: str) -> None:
    settings = dict(SETTINGS)
    del settings[name]
    with pytest.raises(KeyError, match=name):
        make(settings)


def test_unknown_setting_is_a_key_error_that_names_it() -> None:
    with pytest.raises(KeyError, match="max_fun"):
        make({**SETTINGS, "max_fun": 1})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("compression_level", (-2, 10)),
        ("compression_mem_level", (0, 10)),
        ("compression_server_bits", (0, 8, 16, 255)),
        ("compression_client_bits", (0, 8, 16, 255)),
    ],
)
def test_settings_that_would_lead_out_of_a_table_are_refused(name: str, wrong: tuple[int, ...]) -> None:
    for value in wrong:
        with pytest.raises(ValueError, match="compression: a setting is out of range"):
            Loop({**SETTINGS, name: value}, lambda: None, lambda *_: None, None)


@pytest.mark.parametrize("value", ["x", None, -1, 1 << 70])
def test_setting_of_another_type_or_range_is_refused(value: Any) -> None:
    # In a process of its own: what goes wrong here may end it.
    program = f"""
import sys; sys.path[:0] = [{str(ROOT / "src")!r}, {str(ROOT / "tests")!r}]
from loops import SETTINGS
from _uws.core import Loop
for name in SETTINGS:
    try:
        Loop({{**SETTINGS, name: {value!r}}}, lambda: None, lambda *_: None, None)
    except (TypeError, OverflowError):
        pass
    else:
        # -1 is a level of zlib's.
        assert (name, {value!r}) == ("compression_level", -1), name
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
