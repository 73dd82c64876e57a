"""docs/threat-model.md names tests that exist, and leaves no attack without one."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from library.programs import ROOT

PAGE = (ROOT / "docs" / "threat-model.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ATTACKS = re.findall(r"^\| (.+?) \| (.+?) \| (`tests/.*) \|$", PAGE, re.MULTILINE)


@cache
def functions_of(path: Path) -> frozenset[str]:
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED.findall(PAGE))))
def test_test_that_is_named_exists(path: str, name: str) -> None:
    assert name.startswith("test_")
    assert name in functions_of(ROOT / path)


def test_every_attack_has_an_answer_and_a_test() -> None:
    tables = re.findall(r"^\| attack \| our answer \| proof \|\n\|[-|]+\|\n((?:\|.+\n)+)", PAGE, re.MULTILINE)
    rows = sum(len(table.splitlines()) for table in tables)
    assert len(ATTACKS) == rows > 50
    for attack, answer, proofs in ATTACKS:
        assert answer.strip(), attack
        # Nothing but names of tests: a proof with a slip of the pen would not be looked for.
        assert NAMED.sub("", proofs).strip() == "", attack


def test_a_test_in_a_file_that_others_take_theirs_from_is_run_by_somebody() -> None:
    """What is no test_*.py is not collected by itself."""
    for path in sorted({path for path, _ in NAMED.findall(PAGE)}):
        if not Path(path).name.startswith("test_"):
            takers = [each for each in (ROOT / path).parent.glob("test_*.py") if Path(path).stem in each.read_text()]
            assert takers, path
