"""The benchmark's harness: who takes part, what is dropped, how samples become ratios, and what is written.

No server is measured here but one that fails; the samples are made up, so that the right answer is known.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compare
import growth
import growth_report
import pytest
import report
import rig
import run
import runtimes
import workloads
from report import Facts, Result, Results, Taken
from workloads import BEST_PEER, CPU, FLOOR, IDLE, RATE

ECHO = next(row for row in workloads.ROWS if row.key == "echo-100")
IDLE_ROW = next(row for row in workloads.ROWS if row.key == "idle")
INLINE, PICOWS, SOCKETIFY = rig.OURS_INLINE.name, rig.PICOWS.name, rig.SOCKETIFY.name
FACTS = Facts("a machine", 2, "6.18", "CPython 3.11", "abc", "2026-11-23", 3, 1.5, ("picows 2",), {"gws (Go)": "no go"})


def sample(rate: float, micros: float = 5.0, **more: Any) -> dict[str, Any]:
    return {"messages_per_s": rate * 1000, "server_us_per_message": micros, "size": 32, "other_cpu": 0.0, **more}


def taken(**rates: list[float | None]) -> Taken:
    """By server: the throughput in each round, None where there is no clean sample."""
    names = {"floor": FLOOR, "ours": INLINE, "picows": PICOWS, "socketify": SOCKETIFY}
    return {
        names[key]: {n: Result(None if rate is None else sample(rate), 0) for n, rate in enumerate(values)}
        for key, values in rates.items()
    }


# --- contaminated samples ---


def others_at_work(*shares: float) -> Any:
    left = iter(shares)

    def take(core: int, pid: int, port: int, **options: Any) -> dict[str, Any]:
        return sample(1.0, other_cpu=next(left))

    return take


def test_a_contaminated_sample_is_dropped_and_taken_again() -> None:
    got, dropped = rig.measure(0, 0, 0, take=others_at_work(0.9, 0.16, 0.15))
    assert got is not None and got["other_cpu"] == 0.15
    assert dropped == 2


def test_four_contaminated_samples_are_none() -> None:
    assert rig.measure(0, 0, 0, take=others_at_work(*[0.2] * 4, 0.0)) == (None, 4)


def test_a_sample_of_memory_is_never_contaminated() -> None:
    got, dropped = rig.measure(0, 0, 0, take=lambda *_, **__: {"bytes_per_connection": 60})
    assert (got, dropped) == ({"bytes_per_connection": 60}, 0)


# --- ratios ---


def test_a_ratio_is_taken_within_a_round_and_its_median_counts() -> None:
    # The ratio of the medians would be 100 / 120: the machine was twice as fast in the second half of the run.
    samples = taken(ours=[50, 60, 100, 110, 130], floor=[100, 120, 100, 110, 130])
    found = report.ratio(ECHO, samples, INLINE, FLOOR, RATE)
    assert found == report.Figure(1.0, 0.5, 1.0, 5)


def test_a_round_that_one_of_both_has_not_got_is_left_out() -> None:
    samples = taken(ours=[50, None, 300, 90], floor=[100, 100, None, 100])
    found = report.ratio(ECHO, samples, INLINE, FLOOR, RATE)
    assert found is not None
    assert (found.median, found.rounds) == (pytest.approx(0.7), 2)
    assert report.ratio(ECHO, taken(ours=[1, None], floor=[None, 1]), INLINE, FLOOR, RATE) is None


def test_the_best_peer_is_chosen_round_by_round() -> None:
    samples = taken(ours=[120, 120], picows=[100, 60], socketify=[80, 100], floor=[500, 500])
    assert report.best_of(samples, workloads.best_peers(ECHO), RATE) == {0: 100.0, 1: 100.0}
    found = report.ratio(ECHO, samples, INLINE, BEST_PEER, RATE)
    assert found is not None and found.median == pytest.approx(1.2)


def test_of_cpu_the_least_is_the_best() -> None:
    samples = {PICOWS: {0: Result(sample(1, 7.0))}, SOCKETIFY: {0: Result(sample(1, 9.0))}}
    assert report.best_of(samples, workloads.best_peers(ECHO), CPU) == {0: 7.0}


def test_neither_ours_nor_the_floor_nor_other_languages_are_the_best_python_peer() -> None:
    for row in workloads.ROWS:
        assert not {FLOOR, INLINE, rig.OURS_AIO.name, rig.NODE_WS.name, rig.GWS.name} & set(workloads.best_peers(row))


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ([70, 80, 90], "yes"),
        ([60, 65, 69], "**no**"),
        ([60, 80, 90], "yes, within the spread"),
        ([60, 65, 90], "**no**, within the spread"),
        ([80, None, 80], "yes (clean rounds: 2)"),
        ([None], "not measured"),
    ],
)
def test_a_verdict_says_whether_the_spread_allows_another(rates: list[float | None], words: str) -> None:
    row = next(row for row in workloads.ROWS if row.key == "echo-100x16")
    samples = taken(ours=rates, floor=[100] * len(rates))
    found = next(
        v for v in report.verdicts(row, samples) if (v.target.ours, v.target.against) == (INLINE, FLOOR)
    )
    assert found.target.words() == "at least 0.7"
    assert found.words() == words


def test_a_bound_on_memory_is_on_the_figure_itself() -> None:
    samples = {INLINE: {0: Result({"bytes_per_connection": 63, "bytes_per_connection_after_message": 65})}}
    met = {v.target.metric.name: v.met for v in report.verdicts(IDLE_ROW, samples) if v.target.ours == INLINE}
    assert met == {IDLE.name: True, workloads.IDLE_AFTER.name: False}


def test_every_target_is_of_a_server_that_takes_part_in_every_round() -> None:
    for row in workloads.ROWS:
        names = [server.name for server in row.servers]
        for target in row.targets:
            assert target.ours in names
            assert target.metric in row.metrics
            assert target.against in (None, BEST_PEER, *names)


# --- who takes part, and how long it takes ---


def test_everybody_begins_a_round_in_turn_and_company_comes_to_the_first_rounds_only() -> None:
    plan = run.planned(ECHO, [rig.FLOOR, rig.OURS_INLINE, rig.PICOWS, rig.WEBSOCKETS], run.FULL)
    turns = plan.turns(run.FULL.rounds)
    by_round = {n: [s for _, s in group] for n, group in itertools.groupby(turns, key=lambda turn: turn[0])}
    assert [servers[0] for servers in by_round.values()][:3] == [rig.FLOOR, rig.OURS_INLINE, rig.PICOWS]
    assert all({rig.FLOOR, rig.OURS_INLINE, rig.PICOWS} <= set(servers) for servers in by_round.values())
    assert [rig.WEBSOCKETS in servers for servers in by_round.values()] == [True] * 3 + [False] * 2


def test_a_whole_run_is_to_take_less_than_40_minutes_and_a_quick_one_less_than_10() -> None:
    everybody = list(dict.fromkeys(s for row in workloads.ROWS for s in (*row.servers, *row.company)))
    for pace, minutes in ((run.FULL, 40), (run.QUICK, 10), (run.SMOKE, 3)):
        plans = [run.planned(row, everybody, pace) for row in workloads.ROWS]
        assert sum(plan.seconds(pace) for plan in plans) < minutes * 60


def test_who_is_not_there_is_left_out_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    nobody = rig.peer("nobody", "picows_echo.py", needs=("a_module_that_nobody_has",))
    nowhere = rig.Server("nowhere", "nowhere.py")
    assert rig.present([rig.FLOOR, nobody, nowhere]) == [rig.FLOOR]
    assert capsys.readouterr().out.splitlines() == [
        "left out: nobody (no module a_module_that_nobody_has)",
        "left out: nowhere (no bench/servers/nowhere.py)",
    ]


def test_without_node_or_go_their_servers_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(runtimes, "BIN", tmp_path)
    runtimes.node_versions.cache_clear()
    runtimes.go_server.cache_clear()
    assert rig.NODE_WS.missing() == "no node"
    assert rig.GWS.missing() == "no go"


@pytest.mark.skipif(shutil.which("go") is None, reason="no go")
def test_a_go_server_whose_modules_cannot_be_had_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "go" / "lost"
    source.mkdir(parents=True)
    (source / "go.mod").write_text("module bench/lost\n\ngo 1.21\n")
    (source / "main.go").write_text('package main\n\nimport _ "example.invalid/nothing"\n\nfunc main() {}\n')
    monkeypatch.setenv("GOPROXY", "off")
    monkeypatch.setattr(runtimes, "GO", tmp_path / "go")
    monkeypatch.setattr(runtimes, "ROOT", tmp_path)
    monkeypatch.setattr(runtimes, "BIN", tmp_path / "bin")
    with pytest.raises(runtimes.NotToBeHad, match=r"modules cannot be had here, or see build/bench/go/lost\.log"):
        runtimes.go_server("lost")
    assert "example.invalid/nothing" in (tmp_path / "build" / "bench" / "go" / "lost.log").read_text()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_a_server_that_ends_is_a_result_and_not_the_end_of_the_run(tmp_path: Path) -> None:
    script = tmp_path / "ends.py"
    script.write_text("raise SystemExit(3)\n")
    result = run.sampled(ECHO, rig.Server("ends", str(script)), run.SMOKE)
    assert result == Result(None, failed="ends has ended: exit code 3")


# --- keeping, resuming, writing ---


@pytest.fixture
def results() -> Results:
    found = Results(FACTS)
    rates: dict[str, list[float | None]] = {"ours": [90, 91, 92], "floor": [100, 100, 100], "picows": [60, 61, 62]}
    found.row("echo-100").update(taken(**rates))
    found.row("echo-100")["uvicorn"] = {0: Result(None, failed="wsload: connection 3: closed | by the server")}
    found.row("echo-100")["websockets"] = {0: Result(None, dropped=4)}
    found.row("idle")[INLINE] = {
        0: Result({"bytes_per_connection": 60.0, "bytes_per_connection_after_message": 60.0, "rss_held_kb": 1})
    }
    return found


def test_what_was_kept_is_what_was_measured(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "run.json")
    assert Results.load(tmp_path / "run.json") == results


def test_what_is_recorded_keeps_every_figure_of_the_tables(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "samples.json", slim=True)
    again = Results.load(tmp_path / "samples.json")
    assert report.tables(again, list(workloads.ROWS)) == report.tables(results, list(workloads.ROWS))
    assert "rss_held_kb" not in (tmp_path / "samples.json").read_text()
    for row in workloads.ROWS:
        whole = {
            "messages_per_s": 1, "server_us_per_message": 1, "size": 1, "handshakes_per_s": 1,
            "server_us_per_handshake": 1, "round_trip": {"p50_us": 1, "p99_us": 1}, "bytes_per_connection": 1,
            "bytes_per_connection_after_message": 1, "client_cpu": 1, "server_cpu": 1,
        }  # fmt: skip
        kept = report._result_out(Result(whole), slim=True)["sample"]
        for metric in row.metrics:
            assert metric.of(kept) == metric.of(whole)


def test_a_run_goes_on_where_it_was_cut_short(
    monkeypatch: pytest.MonkeyPatch, results: Results, tmp_path: Path
) -> None:
    asked = []

    def sampled(row: workloads.Row, server: rig.Server, pace: run.Pace) -> Result:
        asked.append(server.name)
        return Result(sample(1.0))

    monkeypatch.setattr(run, "sampled", sampled)
    pace = run.Pace(rounds=4, seconds=1.0, warmup=0.1)
    plan = run.Plan(ECHO, [rig.FLOOR, rig.OURS_INLINE])
    before = dict(results.row("echo-100")[INLINE])
    run.take_all([plan], results, pace, tmp_path / "run.json")
    # Three rounds of both were there.
    assert sorted(asked) == [FLOOR, INLINE]
    assert {n: results.row("echo-100")[INLINE][n] for n in before} == before
    assert Results.load(tmp_path / "run.json") == results


def test_a_run_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch, results: Results) -> None:
    monkeypatch.setattr(run, "sampled", lambda *_: Result(sample(1.0)))
    pace = run.Pace(rounds=4, seconds=1.0, warmup=0.1)
    plan = run.Plan(ECHO, [rig.FLOOR, rig.OURS_INLINE])
    # What is there already takes no time.
    assert run.take_all([plan], results, run.Pace(rounds=3, seconds=1.0, warmup=0.1), None, limit_s=-1)
    assert not run.take_all([plan], results, pace, None, limit_s=-1)
    assert 3 not in results.row("echo-100")[FLOOR]
    assert run.take_all([plan], results, pace, None, limit_s=60)


def test_only_what_is_ours_or_the_floors_fails_the_run(results: Results) -> None:
    servers = [rig.FLOOR, rig.OURS_INLINE, rig.UVICORN]
    assert run.broken(results, servers) == []
    results.row("echo-100")[INLINE][1] = Result(None, failed="lost")
    assert run.broken(results, servers) == [f"echo-100: {INLINE}: lost"]


def test_a_table_tells_who_failed_and_who_had_no_clean_sample(results: Results) -> None:
    text = report.tables(results, [ECHO])
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert "failed 1 of 1 times" in lines["uvicorn"]
    assert "no clean sample" in lines["websockets"] and lines["websockets"].rstrip(" |").endswith("4")
    assert "- uvicorn failed: `wsload: connection 3: closed / by the server`" in text
    # The fastest first, whoever it is.
    order = [name for name in lines if name in (FLOOR, INLINE, PICOWS, "uvicorn")]
    assert order == [FLOOR, INLINE, PICOWS, "uvicorn"]
    assert "91.0 (90.0 to 92.0)" in lines[INLINE]


def test_rows_of_an_older_run_stay_with_their_own_facts(results: Results, tmp_path: Path) -> None:
    older = Results(Facts(**{**FACTS.__dict__, "commit": "old"}))
    older.row("idle")[INLINE] = {0: Result({"bytes_per_connection": 99, "bytes_per_connection_after_message": 99})}
    older.row("handshakes")[INLINE] = {0: Result({"handshakes_per_s": 1, "server_us_per_handshake": 1})}
    both = results.over(older)
    assert both.rows["idle"] == results.rows["idle"]
    assert {key: facts.commit for key, facts in both.facts_of.items()} == {
        "idle": "abc", "handshakes": "old", "echo-100": "abc",
    }  # fmt: skip
    assert "From another run: machine: a machine, 2 cores; kernel 6.18" in report.render(both, tmp_path)


README = "# x\n\n<!-- figures: written by make bench -->\nold\n<!-- end of figures -->\n\nrest\n"


def test_what_is_written(results: Results, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    report.write(results, tmp_path, readme)
    text = (tmp_path / "RESULTS.md").read_text()
    for words in ("a machine", "6.18", "picows 2", "commit: abc", "left out: gws (Go) (no go)", "at most 1.1"):
        assert words in text
    assert json.loads((tmp_path / "results" / "samples.json").read_text())["rows"].keys() == {"echo-100", "idle"}
    table = readme.read_text()
    assert "old" not in table and table.endswith("<!-- end of figures -->\n\nrest\n")
    assert f"| {INLINE}" in table and "91 (0.91)" in table


def test_the_same_figures_give_the_same_plots(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import plots

    for out in ("one", "two"):
        plots.draw(results, tmp_path / out)
        plots.draw_growth(GROWTH, tmp_path / out)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["growth.svg", "memory.svg", "throughput.svg"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_without_matplotlib_nothing_is_drawn_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import plots

    monkeypatch.setattr(plots, "matplotlib", None)
    plots.draw(results, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert "matplotlib is missing" in capsys.readouterr().out


def test_a_readme_without_a_place_for_the_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="0 places"):
        report.with_block("# x\n", "y")


def test_results_and_readme_are_what_was_recorded() -> None:
    found = report.recorded()
    assert found is not None
    assert report.stale(found) == []


# --- growth ---

GROWTH: dict[str, Any] = {
    "facts": {**FACTS.__dict__},
    "connections": {
        "curves": {
            FLOOR: {"10": {"0": 5.0, "1": 5.0}, "100": {"0": 10.0, "1": 20.0}},
            INLINE: {"10": {"0": 6.0, "1": 5.0}, "100": {"0": 11.0, "1": 22.0}},
        },
        "dropped": 3,
    },
    "silent": {
        "curves": {
            FLOOR: {"0": {"0": 5.0}, "9": {"0": 5.0}},
            INLINE: {"0": {"0": 5.0}, "9": {"0": 5.5}},
        },
        "dropped": 0,
    },
    "many": {"curves": {"ours, many": {"10": {"0": 8.0}, "1000": {"0": 12.0}}}, "dropped": 1},
    "ticks": {"100": {"0": [1.0, 9.0, 4000.0], "1": [3.0, 9.0, 4000.0]}},
}


def test_growth_asks_for_no_more_connections_than_a_table_of_descriptors_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(growth.resource, "getrlimit", lambda _: (1024, 20_000))
    assert growth.held([10, 18_000, 19_800, 19_801, 100_000]) == [10, 18_000, 19_800]
    assert growth.held([0, 19_700, 19_701], beside=100) == [0, 19_700]
    monkeypatch.setattr(growth.resource, "getrlimit", lambda _: (1024, growth.resource.RLIM_INFINITY))
    assert growth.held([1_000_000]) == [1_000_000]


def test_a_curve_has_the_clean_samples_of_each_round_and_counts_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def sampled(server: rig.Server, options: dict[str, Any], smoke: bool) -> tuple[float | None, int]:
        asked.append((server.name, options["connections"], options.get("silent")))
        return (None, 4) if server is rig.FLOOR and options["silent"] == 5 else (7.5, 1)

    monkeypatch.setattr(growth, "sampled", sampled)
    found = growth.curves("silent", [rig.FLOOR, rig.OURS_INLINE], [0, 5], 2, {"seconds": 1.0}, False)
    assert found["curves"] == {
        FLOOR: {"0": {"0": 7.5, "1": 7.5}, "5": {}},
        INLINE: {"0": {"0": 7.5, "1": 7.5}, "5": {"0": 7.5, "1": 7.5}},
    }
    assert found["dropped"] == 6 * 1 + 2 * 4
    # Interleaved, and another one begins each round.
    assert asked[:4] == [(FLOOR, 100, 0), (INLINE, 100, 0), (INLINE, 100, 0), (FLOOR, 100, 0)]


def test_growth_is_told_as_ratios_to_the_floor_of_the_same_round() -> None:
    curves = GROWTH["connections"]["curves"]
    assert growth_report.to_floor(curves[INLINE], curves[FLOOR]) == {10: 1.1, 100: 1.1}
    text = growth_report.render(GROWTH)
    assert "16.50 (1.10)" in text
    assert "becomes 3.00 times as dear" in text
    assert "beside 9 silent connections a message costs 1.10 times" in " ".join(text.split())
    # The medians of the rounds.
    assert [cell.strip() for cell in growth_report.tick_table(GROWTH["ticks"])[-1].split("|")[1:-1]] == [
        "100", "4,000", "2.00", "9.00",
    ]  # fmt: skip
    assert "4 contaminated samples dropped" in text
    assert "ours, many: 8.00 us with 10, 12.00 us with 1,000, 1.50 times as dear" in " ".join(text.split())


def test_a_point_without_a_clean_sample_is_no_point() -> None:
    curves = {FLOOR: {"10": {"0": 5.0}, "100": {}}, INLINE: {"10": {"0": 6.0}, "100": {"0": 7.0}}}
    assert growth_report.curve(curves[FLOOR]) == {10: 5.0}
    assert growth_report.to_floor(curves[INLINE], curves[FLOOR]) == {10: 1.2}
    assert "no clean sample" in "\n".join(growth_report.curve_table(curves, "us"))


# --- comparing ---


def chance_of_missing(n: int, rank: int) -> float:
    """By counting all outcomes: how often the median lies outside of the rank-th lowest and highest of n values."""
    heads = [sum(coins) for coins in itertools.product((0, 1), repeat=n)]
    return sum(h <= rank or h >= n - rank for h in heads) / len(heads)


@pytest.mark.parametrize("n", range(1, 14))
def test_an_interval_holds_the_median_with_the_certainty_that_it_claims(n: int) -> None:
    ratios = [float(i) for i in range(n)]
    found = compare.interval(ratios[::-1])
    ranks = [rank for rank in range(n // 2) if 1 - chance_of_missing(n, rank) >= compare.CERTAINTY]
    # The narrowest that is sure enough.
    assert found == ((ratios[ranks[-1]], ratios[-1 - ranks[-1]]) if ranks else None)


@pytest.mark.parametrize(
    ("metric", "ratios", "words"),
    [
        (RATE, [1.1] * 6, "better"),
        (CPU, [1.1] * 6, "worse"),
        (RATE, [0.9] * 6, "worse"),
        (RATE, [1.1, 1.2, 0.9, 1.1, 1.1, 1.1], "no difference shown"),
        (RATE, [0.9, *[1.1] * 8], "better"),
        (RATE, [1.1] * 5, "too few rounds"),
    ],
)
def test_a_difference_is_claimed_only_where_it_is_certain(
    metric: workloads.Metric, ratios: list[float], words: str
) -> None:
    assert compare.verdict(metric, ratios) == words


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository of two commits whose `setup.py` builds a file."""
    root = tmp_path / "repository"
    root.mkdir()
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "x")
        monkeypatch.setenv(f"{name}_EMAIL", "x@example.invalid")
    compare.git("init", "-q", cwd=root)
    for text in ("old", "new"):
        (root / "setup.py").write_text(f"import os\nos.mkdir('src')\nopen('src/built', 'w').write('{text}')\n")
        compare.git("add", "setup.py", cwd=root)
        compare.git("commit", "-qm", text, cwd=root)
    yield root


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_a_base_is_built_once_in_a_tree_of_its_own(repository: Path) -> None:
    commit, source = compare.built("HEAD~1", repository)
    assert source == repository / "build" / "compare" / commit / "src"
    assert (source / "built").read_text() == "old"
    (source / "built").write_text("as it was")
    assert compare.built("HEAD~1", repository) == (commit, source)
    assert (source / "built").read_text() == "as it was"
    # One that somebody has removed is made anew.
    shutil.rmtree(source.parent)
    assert compare.built("HEAD~1", repository) == (commit, source)
    with pytest.raises(SystemExit, match="nothing-like-that"):
        compare.built("nothing-like-that", repository)
