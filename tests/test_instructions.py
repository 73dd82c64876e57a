"""bench/instructions.py: does it count what it says, and does it notice when that becomes more?"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import instructions
import pytest
from hot_path import NO_PYTHON, PYTHON
from instructions import WORKS, Cost, compare, parse, plain, verdict

# Of two libraries; g calls f, and itself.
CALLGRIND = """# callgrind format
version: 1
positions: line
events: Ir
summary: 1117

ob=/somewhere/src/_uws/loop.cpython-311-x86_64-linux-gnu.so
fl=???
fn=f
0 100
3 7

fn=g
0 5
cfn=f
calls=3 0
0 107
cob=/lib/libc.so.6
cfi=???
cfn=memcpy
calls=2 0
1 900
cfn=g'2
calls=1 0
0 5
0 10

fn=g'2
0 5

ob=/lib/libc.so.6
fn=memcpy
0 900
"""


def test_instructions_are_counted_where_they_are_and_calls_where_they_go() -> None:
    assert parse(CALLGRIND) == {
        ("_uws/loop", "f"): Cost(107, 3),
        ("_uws/loop", "g"): Cost(20, 1),
        ("libc", "memcpy"): Cost(900, 2),
    }


def test_a_file_without_figures_is_no_result() -> None:
    with pytest.raises(SystemExit, match="no figures"):
        parse(CALLGRIND[: CALLGRIND.index("ob=")])


@pytest.mark.parametrize(
    ("mangled", "name"),
    [
        ("__pyx_f_4_uws_4loop_loop_turn", "loop_turn"),
        ("__pyx_f_4_uws_4tend__look", "_look"),
        ("__pyx_f_4_uws_8dispatch_8Dispatch__callbacks", "Dispatch._callbacks"),
        ("__pyx_pw_4_uws_8messages_19write_server_message", "write_server_message"),
        ("__pyx_pw_4_uws_4conn_4Conn_9send", "Conn.send"),
        ("__pyx_tp_dealloc_4_uws_4conn_Conn", "Conn (dealloc)"),
        ("__pyx_f_4_uws_8response_response_accept.part.0", "response_accept.part.0"),
        ("__Pyx_PyObject_FastCallDict.constprop.0", "__Pyx_PyObject_FastCallDict.constprop.0"),
        ("_PyEval_EvalFrameDefault", "_PyEval_EvalFrameDefault"),
    ],
)
def test_functions_have_their_names_of_the_source(mangled: str, name: str) -> None:
    assert plain(mangled) == name


# ---- the baseline

HERE = {"ours": "CPython 3.11, gcc 12", "all": "3.11.7, glibc 2.36"}
BASELINES: list[dict[str, Any]] = [
    {"made with": {"ours": "CPython 3.10, gcc 12", "all": "3.10.1"}, "works": {"echo": {"ours": 1, "all": 1}}},
    {"made with": HERE, "works": {"echo": {"ours": 1000.0, "all": 2000.0}}},
]


@pytest.mark.parametrize(
    ("ours", "every", "said", "failed"),
    [
        (1000.0, 2000.0, [], False),
        (1029.0, 2059.0, [], False),
        (1031.0, 2031.0, ["echo: ours takes +3.1 % instructions, 3 are allowed"], True),
        (1000.0, 2062.0, ["echo: all takes +3.1 % instructions, 3 are allowed"], True),
        (960.0, 1960.0, ["echo: ours takes -4.0 % instructions: --update writes the gain down"], False),
    ],
)
def test_growth_above_the_tolerance_fails(ours: float, every: float, said: list[str], failed: bool) -> None:
    changes, why = compare({"echo": {"ours": ours, "all": every}}, HERE, BASELINES)
    assert (verdict(changes), why) == ((said, failed), "")


def test_another_compiler_is_not_compared_and_says_so() -> None:
    changes, why = compare({"echo": {"ours": 9e9, "all": 9e9}}, {**HERE, "ours": "CPython 3.11, gcc 13"}, BASELINES)
    assert changes == {}
    assert why.startswith("nothing is compared: there is no baseline for CPython 3.11, gcc 13, only for: CPython 3.10")


def test_another_build_of_the_interpreter_is_compared_in_ours_only_and_says_so() -> None:
    changes, why = compare({"echo": {"ours": 1500.0, "all": 9e9}}, {**HERE, "all": "3.11.2"}, BASELINES)
    assert changes == {("echo", "ours"): 50.0}
    assert why == "only ours is compared: the baseline is of 3.11.7, glibc 2.36, and this is 3.11.2"


def test_a_work_without_a_baseline_is_named() -> None:
    changes, why = compare({"new": {"ours": 1.0, "all": 1.0}}, HERE, BASELINES)
    assert (changes, why) == ({}, "not in the baseline: new")


def test_an_update_replaces_what_was_taken_with_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "BASELINE", tmp_path / "baseline.json")
    figures = {"echo": {"ours": 7.0, "all": 8.0}}
    instructions.update(figures, HERE, json.loads(json.dumps(BASELINES)))
    # Of another build: what it does not replace would be compared with figures of this one.
    instructions.update({"new": figures["echo"]}, {**HERE, "all": "3.11.2"}, instructions.read_baselines())
    instructions.update(figures, {"ours": "gcc 13", "all": ""}, instructions.read_baselines())
    assert instructions.read_baselines() == [
        BASELINES[0],
        {"made with": {**HERE, "all": "3.11.2"}, "works": {"new": figures["echo"]}},
        {"made with": {"ours": "gcc 13", "all": ""}, "works": figures},
    ]


def test_the_baseline_has_every_work() -> None:
    baselines = instructions.read_baselines()
    assert baselines
    for one in baselines:
        assert set(one["works"]) == {work.name for work in WORKS}, one["made with"]


# ---- counting

counts = pytest.mark.skipif(instructions.missing() is not None, reason=str(instructions.missing()))


def few(name: str) -> instructions.Work:
    work = next(work for work in WORKS if work.name == name)
    return dataclasses.replace(work, rehearsed=256, few=64, many=192)


@counts
def test_two_counts_are_the_same() -> None:
    first, second = (instructions.count(few("echo")) for _ in range(2))
    assert instructions.totals(second)["ours"] == pytest.approx(instructions.totals(first)["ours"], rel=0.01)
    assert instructions.totals(second)["all"] == pytest.approx(instructions.totals(first)["all"], rel=0.01)
    # One echo is one message, one turn and one reply, and nothing that happens once in a while.
    for library, function in [("proto", "proto_feed"), ("loop", "loop_turn"), ("send", "send_frame")]:
        assert first[f"_uws/{library}", f"__pyx_f_4_uws_{len(library)}{library}_{function}"].calls == 1.0


@counts
def test_what_is_done_once_for_sixteen_counts_a_sixteenth() -> None:
    counted = instructions.count(few("echo, 16 outstanding"))
    assert counted["_uws/loop", "__pyx_f_4_uws_4loop_loop_turn"].calls == 1 / 16
    assert counted["_uws/send", "__pyx_f_4_uws_4send_send_frame"].calls == 1.0


@counts
def test_pings_of_idle_connections_come_when_they_are_due() -> None:
    # Under the limit of descriptors that a test runs with, and long enough for one round of pings and a second one.
    work = dataclasses.replace(few("tick, 1,000 idle connections"), idle=100, rehearsed=2500, few=1250, many=3750)
    counted = instructions.count(work)
    # 100 connections are pinged every 25 seconds, give or take 20 %, and a tick has 16 ms; each pong is read.
    pongs = counted["_uws/proto", "__pyx_f_4_uws_5proto_proto_feed"].calls
    assert pongs == pytest.approx(100 / 25 * 0.016, rel=0.25)


@counts
@pytest.mark.parametrize("name", ["echo", "echo, Go API", "handshake"])
def test_whatever_runs_is_known_to_be_hot(name: str) -> None:
    known = {(title.partition(".")[0], function) for title, names in NO_PYTHON.items() for function in names.split()}
    known |= {(title.partition(".")[0], function) for title, names in PYTHON.items() for function in names}
    unknown = {}
    for (library, mangled), cost in instructions.count(few(name)).items():
        # Not what Cython makes beside the source's functions, nor what belongs to being asked to begin and to end.
        if not library.startswith("_uws/") or not mangled.startswith(("__pyx_f_", "__pyx_pw_")) or cost.calls < 0.01:
            continue
        # The compiler clones functions, and says so behind a point.
        function = re.sub(r"\.(part|constprop|isra|cold)\b.*", "", plain(mangled))
        if (library.removeprefix("_uws/"), function) not in known:
            unknown[library, function] = cost.calls
    assert unknown == {}, "not in hot_path.py"
