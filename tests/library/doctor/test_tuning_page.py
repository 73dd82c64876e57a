"""docs/tuning.md says what the doctor says."""

from __future__ import annotations

import re
import resource
from dataclasses import replace

import pytest
from library.doctor.test_rules import GOOD, conntrack
from library.programs import ROOT

from _uws.core import seats_of_own
from unlimitedws.commands.doctor import _EPILOG
from unlimitedws.doctor import rules
from unlimitedws.doctor.facts import Group, Limit
from unlimitedws.doctor.remedies import FILE_NAME, LIMITS_D, SYSCTL_D, UNITS
from unlimitedws.doctor.rules import Question, examine
from unlimitedws.options import MAX_LOOPS, Options

PAGE = (ROOT / "docs" / "tuning.md").read_text()


def test_every_knob_is_explained() -> None:
    groups = (Group("/a", 2, 1, 2, pids_max=3), Group("/b", 1, memory_max=4))
    facts = replace(conntrack(10, 5), address_space=Limit(1, 1), groups=groups, words=GOOD.words)
    knobs = {each.knob.split(" of ")[0] for each in examine(facts, Question()).findings}
    assert len(knobs) > 25
    explained = PAGE.replace(
        "congestion control, default_qdisc", "net.ipv4.tcp_congestion_control net.core.default_qdisc"
    )
    explained = explained.replace("tcp_rmem, tcp_wmem", "tcp_rmem, net.ipv4.tcp_wmem")
    explained = explained.replace("rmem_max, wmem_max", "rmem_max, net.core.wmem_max")
    assert [knob for knob in sorted(knobs) if knob not in explained] == []


def test_loops_keep_as_many_descriptors_to_themselves_as_the_doctor_says() -> None:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert min(soft, 1 << 24) - seats_of_own() == rules.LOOP_DESCRIPTORS


def test_every_exit_status_is_there_and_the_same() -> None:
    told = dict(re.findall(r"^  (\d)  (.+)$", _EPILOG, re.MULTILINE))
    shown = dict(re.findall(r"^\| (\d) \| (.+) \|$", PAGE, re.MULTILINE))
    assert set(told) == set(shown) == set("01234")
    for status, text in told.items():
        words = set(re.findall(r"[a-z]{5,}", text))
        assert words <= set(re.findall(r"[a-z]{5,}", shown[status])), status


@pytest.mark.parametrize(
    "figure",
    [
        f"connections x ({rules.KERNEL_BYTES:,} kernel + {rules.OWN_BYTES} ours",
        f"these {Question().bytes_per_connection:,}.",
        f"{rules.OWN_DESCRIPTORS} are left to the program",
        f"reserves {rules.TABLE_BYTES} bytes for each descriptor",
        f"Above {1 << 24:,} the engine's table ends",
        f"the option `backlog` ({Options().backlog:,})",
        f"for each loop, up to {MAX_LOOPS} of them, less {rules.LOOP_DESCRIPTORS} each",
        f"hold {Question().target:,} connections?",
        str(SYSCTL_D / FILE_NAME),
        str(LIMITS_D / FILE_NAME),
        str(UNITS / f"NAME.service.d/{FILE_NAME}"),
    ],
)
def test_figures_and_places_are_those_of_the_program(figure: str) -> None:
    assert figure in " ".join(PAGE.split())
