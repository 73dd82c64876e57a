"""The way of a message and of an idle connection, function by function: no Python, or no more than is written down.

test_floors.py holds everything below the top floor to having none. Here is what must not leave those floors, by name,
and what of the top floor an echo passes through: see hot_path.py.
"""

from __future__ import annotations

import Cython
import pytest
from annotation import Annotated, functions_of
from hot_path import NO_PYTHON, PYTHON, SCORED_BY

Sources = dict[str, str]
Annotation = tuple[Annotated, Sources]


def functions(annotation: Annotation, title: str) -> dict[str, tuple[str, range]]:
    """As functions_of(), with the names that inline functions have in their .pxd."""
    found = functions_of(annotation[1][title])
    return {name.removeprefix("probe_"): function for name, function in found.items()}


def touching(annotation: Annotation, title: str, name: str) -> list[tuple[int, int, str]]:
    """(line, score, source) of what touches Python in a function."""
    assert name in functions(annotation, title), f"it is no longer in {title}: where is it, and is it hot there?"
    _, lines = functions(annotation, title)[name]
    source = annotation[1][title].splitlines()
    return [(line, score, source[line - 1]) for line, score, _ in annotation[0][title] if line in lines]


@pytest.mark.parametrize(
    ("title", "name"), [(title, name) for title, names in NO_PYTHON.items() for name in names.split()]
)
def test_a_hot_function_has_nothing_of_python(annotation: Annotation, title: str, name: str) -> None:
    assert touching(annotation, title, name) == []
    signature, _ = functions(annotation, title)[name]
    assert signature.endswith("noexcept nogil :"), signature


def test_what_needs_no_gil_on_the_top_floor_has_nothing_of_python(annotation: Annotation) -> None:
    seen = 0
    for title in annotation[1]:
        for name, (signature, _) in functions(annotation, title).items():
            if signature.endswith("nogil :"):
                assert touching(annotation, title, name) == [], f"{title}: {name}"
                seen += 1
    assert seen > 250


@pytest.mark.parametrize(
    ("title", "name"), [(title, name) for title, names in PYTHON.items() for name in names]
)
def test_a_callback_costs_no_more_python_than_is_written_here(
    annotation: Annotation, title: str, name: str
) -> None:
    found = [one for one in touching(annotation, title, name) if not one[2].lstrip().startswith("raise ")]
    lines, score = PYTHON[title][name]
    listed = "".join(f"\n{line:5} [{score}] {text}" for line, score, text in found)
    assert len(found) <= lines, f"{len(found)} lines touch Python, {lines} are written down: {listed}"
    if Cython.__version__.startswith(f"{SCORED_BY}."):
        scored = sum(one[1] for one in found)
        assert scored <= score, f"they have {scored} points, {score} are written down: {listed}"
