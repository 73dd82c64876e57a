"""The workflows of a release run nothing that somebody else can change, and may do nothing that they need not."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from library.programs import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RELEASE = (ROOT / ".github" / "workflows" / "release.yml").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def test_there_are_workflows() -> None:
    assert {path.name for path in WORKFLOWS} >= {"ci.yml", "release.yml"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_to_a_commit_and_says_which_version_that_is(path: Path) -> None:
    uses = re.findall(r"uses: (.+)$", path.read_text(), re.MULTILINE)
    assert uses
    assert [use for use in uses if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use)] == []


def test_an_action_is_pinned_to_the_same_commit_everywhere() -> None:
    pins: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for name, pin in re.findall(r"uses: ([^@]+)@(.+)$", path.read_text(), re.MULTILINE):
            pins.setdefault(name, set()).add(pin)
    assert {name: found for name, found in pins.items() if len(found) > 1} == {}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_job_has_no_rights_but_those_it_names(path: Path) -> None:
    text = path.read_text()
    assert re.search(r"^permissions: \{\}$", text, re.MULTILINE)
    assert "secrets." not in text
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_job_makes_is_a_target(path: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"run: make ([\w-]+)", path.read_text())) <= set(targets)


def test_the_identity_is_the_publishers_alone() -> None:
    before, publish = RELEASE.split("\n  publish:\n")
    assert "id-token" not in before
    assert "id-token: write" in publish and "attestations: true" in publish and "attest-build-provenance@" in publish
    # It runs nothing of this repository, so that nothing that was built has the identity.
    assert "run:" not in publish and "actions/checkout" not in publish


def test_wheels_are_for_every_python_that_the_package_is_for() -> None:
    minors = {int(minor) for minor in re.findall(r"Programming Language :: Python :: 3\.(\d+)", PYPROJECT)}
    built = re.search(r'^build = "(.+)"$', PYPROJECT, re.MULTILINE)
    assert built is not None
    assert {f"cp3{minor}-*" for minor in minors} <= set(built[1].split())
    oldest = re.search(r'^requires-python = ">=3\.(\d+)"$', PYPROJECT, re.MULTILINE)
    assert oldest is not None and int(oldest[1]) == min(minors) <= sys.version_info[1]
