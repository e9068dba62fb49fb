"""The benchmarks run from end to end, and their arithmetic is right. No test measures a time."""

import itertools
import json
import math
import os
import sys
import time
from functools import partial

import pytest
from conftest import PROJECT, command

sys.path.insert(0, str(PROJECT / "benchmarks"))
import alternate
import atlas
import gpu
import tables
from measure import Result


def benchmark(name, out, *arguments):
    script = PROJECT / "benchmarks" / f"{name}.py"
    return command(script, "--device", "cpu", "--quick", "--out", out, *arguments, cwd=out, timeout=1800)


@pytest.mark.slow
@pytest.mark.mnist
@pytest.mark.usefixtures("mnist")
def test_gpu_runs_all_parts_on_a_cpu(tmp_path):
    done = benchmark("gpu", tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    parts = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*_cpu.json")}
    for name in ("invariants", "resume"):
        assert parts.pop(f"{name}_cpu")["check"]["passed"]
    timed = {"recorder", "pipeline", "sequences", "tap", "recipe", "limit", "loading", "memory", "example"}
    timed |= {"atlas_4", "atlas_8", "atlas_16"}
    assert set(parts) == {f"{name}_cpu" for name in timed}
    for content in parts.values():
        assert content["command"] == "python benchmarks/gpu.py --device cpu --quick"
        for result in content["results"]:
            assert all(number > 0 for numbers in result["values"].values() for number in numbers)
            assert f"| {result['what']} |" in done.stdout


@pytest.mark.slow
@pytest.mark.mnist
@pytest.mark.usefixtures("mnist")
def test_gpu_runs_named_parts_and_none_after_its_time_is_over(tmp_path):
    done = benchmark("gpu", tmp_path, "invariants", "recorder", "--until", "0")
    assert "recorder: left out, since the time is over" in done.stderr
    assert not list(tmp_path.glob("*.json"))
    assert "no part is called nonsense" in benchmark("gpu", tmp_path, "nonsense").stderr


@pytest.mark.slow
@pytest.mark.mnist
@pytest.mark.usefixtures("mnist")
@pytest.mark.parametrize("name", ["answers", "start"])
def test_benchmarks_of_processes_run_from_end_to_end(tmp_path, name):
    done = benchmark(name, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    content = json.loads((tmp_path / f"{name}_cpu.json").read_text())
    assert content["command"].startswith(f"python benchmarks/{name}.py --device cpu --quick")
    assert content["machine"]["device"] == f"{os.cpu_count()} CPU cores"


@pytest.mark.slow
def test_the_cost_of_cuts_is_measured_from_end_to_end(tmp_path):
    done = benchmark("cuts", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(json.loads((tmp_path / "cuts_cpu.json").read_text())["results"]) == 5


def test_the_page_has_what_tools_say_about_the_same_cuts(tmp_path):
    done = command(PROJECT / "benchmarks" / "cut_finders.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    page = (PROJECT / "docs" / "cuts.md").read_text()
    lines = [line.split(" | ")[:4] for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(lines) == 13
    assert all(" | ".join(cells) in page for cells in lines)  # what needs no other package


def test_a_part_that_fails_on_a_gpu_leaves_the_others(tmp_path, monkeypatch, capfd):
    good = Result("good", "a ÷ b", ("a", "b"), None, "s", {"a": [3.0], "b": [2.0]})
    parts = {"bad": failing, "good": lambda *_: [good]}
    monkeypatch.setattr(gpu, "BENCHMARKS", parts)
    script = str(PROJECT / "benchmarks" / "gpu.py")
    monkeypatch.setattr(sys, "argv", [script, *parts, "--device", "cpu", "--out", str(tmp_path)])
    assert gpu.main() == 1
    assert [file.name for file in tmp_path.glob("*.json")] == ["good_cpu.json"]
    assert "no such thing" in capfd.readouterr().err


@pytest.mark.parametrize(("code", "said"), [(0, " and MPS"), (1, "")])
def test_the_server_of_mps_ends_with_the_sweep_and_a_refused_one_is_done_without(tmp_path, monkeypatch, code, said):
    log, server = tmp_path / "log", tmp_path / atlas.MPS
    server.write_text(
        f'#!/bin/sh\n[ "$1" ] && echo "$1 $CUDA_MPS_PIPE_DIRECTORY" >> {log} || cat >> {log}\nexit {code}\n'
    )
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with atlas.shared_gpu() as (environment, words):
        folder = environment.get("CUDA_MPS_PIPE_DIRECTORY", "")
    assert words == said
    assert bool(folder) == bool(said)
    assert log.read_text().startswith("-d /")
    assert log.read_text().endswith("quit\n") == bool(said)


def test_a_ratio_is_taken_within_rounds_and_judged_by_its_median():
    values = {"ours": [1.0, 2.0, 9.0], "theirs": [2.0, 2.0, 3.0]}
    result = Result("name", "what", ("ours", "theirs"), "≤ 1.05", "s", values)
    assert result.ratios == [0.5, 1.0, 3.0]
    assert result.verdict == "met"
    assert Result("name", "what", ("theirs", "ours"), "≥ 1.1", "s", values).verdict == "**not met**"
    assert not Result("name", "what", ("ours", "theirs"), None, "s", values).verdict
    uneven = Result("name", "what", ("ours", "theirs"), "≤ 2", "s", {"ours": [1.0, 3.0], "theirs": [4.0]})
    assert uneven.ratios == [0.5]
    noted = Result("name", "what", ("ours", "theirs"), None, "s", values, {"accuracy": {"ours": [98.0, 99.0]}})
    assert noted.line().endswith("s; accuracy: ours 98.5 ± 0.7")


@pytest.mark.parametrize(
    ("bound", "verdict"),
    [
        ("≤ 1.04", "met"),
        ("≤ 1.03", "met"),
        ("≤ 1.02", "**not shown**"),
        ("≤ 1.00", "**not met**"),
        ("≥ 1.00", "met"),
        ("≥ 1.02", "**not shown**"),
        ("≥ 1.04", "**not met**"),
    ],
)
def test_a_bound_is_met_if_the_whole_interval_is_within_it(bound, verdict):
    values = {"ours": [1.0, 1.02, 1.1], "theirs": [1.0, 1.0, 1.0]}
    result = Result("name", "what", ("ours", "theirs"), bound, "s", values, interval=(1.01, 1.03))
    assert result.verdict == verdict
    assert f"what: 1.020 [1.010, 1.030] (1.000 to 1.100, 3); asked {bound}: {verdict}. ours" in result.line()
    assert f"| what | 1.020 [1.010, 1.030] (1.000 to 1.100, 3) | {bound} | {verdict} |" in Result.table([result])[2]


@pytest.mark.parametrize("count", [6, 7, 12, 20, 41])
def test_the_interval_covers_the_median_with_95_percent_and_no_narrower_one_does(count):
    low, high = alternate.interval([float(i) for i in reversed(range(count))])
    below = int(low)  # the number of values below the interval, which is the number above it
    assert high == count - 1 - below

    def coverage(outside):
        # The median is outside the interval if at most `outside` values are on one side of it.
        return 1 - 2 * sum(math.comb(count, k) for k in range(outside + 1)) / 2**count

    assert coverage(below) >= 0.95 > coverage(below + 1)


def test_five_numbers_are_too_few_for_an_interval():
    assert alternate.interval([1.0] * 5) is None


def stepping(log, name, pace):
    """A loop that only logs its name and step."""
    for step in pace:
        with log.open("a") as file:
            file.write(f"{name}{step} ")


def test_loops_take_turns_and_every_other_turn_begins_with_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "perf_counter", itertools.count().__next__)  # reads 0, 1, 2, ...
    log = tmp_path / "log"
    loops = {name: partial(stepping, log, name) for name in "ab"}
    measured = alternate.launch(loops, pairs=2, turn=4, period=8)
    assert measured == {"a": [1e3 * 2 / 8] * 2, "b": [1e3 * 2 / 8] * 2}  # each turn reads the clock twice
    steps = log.read_text().split()
    order = ["".join(group) for group in (steps[12:][i : i + 4] for i in range(0, 32, 4))]
    turns = [4 * turn + 6 for turn in range(4)]  # the first turn comes after one and a half
    expected = [(name, first) for first, names in zip(turns, ("ab", "ba", "ab", "ba"), strict=True) for name in names]
    assert order == ["".join(f"{name}{first + i}" for i in range(4)) for name, first in expected]


def test_a_pair_begins_when_the_machine_is_idle_or_patience_ends(monkeypatch):
    busy, idle = [90, 0, 0, 10, 0, 0, 0, 0], [10, 0, 0, 190, 0, 0, 0, 0]
    looks = iter([[0] * 8, busy, [0] * 8, busy, [0] * 8, idle])
    monkeypatch.setattr(alternate, "_ticks", lambda *_: next(looks))
    alternate.wait_for_quiet(patience=0)
    assert next(looks) == [0] * 8  # without patience, the load is not read
    assert next(looks) == busy
    alternate.wait_for_quiet(patience=60)
    assert next(looks, None) is None


def failing(*_):
    raise ValueError("no such thing")


def test_a_loop_that_fails_ends_the_measurement(capfd):
    with pytest.raises(RuntimeError, match="a loop failed"):
        alternate.launch({"a": failing}, pairs=1, turn=2, period=2)
    assert "no such thing" in capfd.readouterr().err


def test_the_interval_counts_launches_not_pairs(monkeypatch):
    ratios = iter([[9.0, 1.0, 1.0 + launch / 100] for launch in range(12)])  # medians 1.00, 1.01, ... 1.11
    monkeypatch.setattr(alternate, "launch", lambda *_, **__: {"ours": next(ratios), "theirs": [1.0] * 3})
    result = Result("name", "what", ("ours", "theirs"), "≤ 1.05", "ms a step", {})
    alternate.compare(result, {}, "cpu", quick=False, pairs=3)
    assert len(result.ratios) == 36
    assert result.interval == (1.02, 1.09)  # the third and the tenth of twelve


def test_tables_of_the_files_are_written_into_the_page(tmp_path, monkeypatch):
    page, result = tmp_path / "page.md", Result("a", "a ÷ b", ("x", "y"), "≤ 2", "s", {"x": [3.0], "y": [2.0]})
    page.write_text("before\n<!-- a_cpu -->old<!-- /a_cpu -->\nafter\n")
    content = {"command": "python a.py", "machine": {"device": "2 CPU cores"}, "results": [vars(result)]}
    (tmp_path / "a_cpu.json").write_text(json.dumps(content))
    monkeypatch.setattr(tables, "PAGE", page)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    tables.main()
    text = page.read_text()
    assert text.startswith("before\n<!-- a_cpu -->\n`python a.py` (device 2 CPU cores)\n")
    assert "| a ÷ b | 1.500 (1) | ≤ 2 | met | x 3; y 2 s |\n<!-- /a_cpu -->\nafter\n" in text
