"""The benchmarks run through, and what they say of a ratio is what it is. How fast anything is, is not tested."""

import json
import os
import sys

import pytest
from conftest import PROJECT, command

sys.path.insert(0, str(PROJECT / "benchmarks"))
import tables
from measure import Result


def benchmark(name, out, *arguments):
    script = PROJECT / "benchmarks" / f"{name}.py"
    return command(script, "--device", "cpu", "--quick", "--out", out, *arguments, cwd=out)


@pytest.mark.mnist
@pytest.mark.usefixtures("mnist")
def test_all_of_a_gpu_runs_through_on_a_cpu(tmp_path):
    done = benchmark("gpu", tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    content = json.loads((tmp_path / "gpu_cpu.json").read_text())
    assert [check["name"] for check in content["checks"]] == ["invariants", "resume"]
    assert all(check["passed"] for check in content["checks"])
    names = [result["name"] for result in content["results"]]
    assert set(names) == {"recorder", "pipeline", "recipe", "loading", "memory", "example"}
    for result in content["results"]:
        assert all(number > 0 for numbers in result["values"].values() for number in numbers)
        assert f"| {result['what']} |" in done.stdout


@pytest.mark.mnist
@pytest.mark.usefixtures("mnist")
@pytest.mark.parametrize("name", ["answers", "start"])
def test_what_is_timed_from_outside_runs_through(tmp_path, name):
    done = benchmark(name, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    content = json.loads((tmp_path / f"{name}_cpu.json").read_text())
    assert content["command"].startswith(f"python benchmarks/{name}.py --device cpu --quick")
    assert content["machine"]["device"] == f"{os.cpu_count()} CPU cores"


def test_a_ratio_is_taken_within_rounds_and_judged_by_its_median():
    values = {"ours": [1.0, 2.0, 9.0], "theirs": [2.0, 2.0, 3.0]}
    result = Result("name", "what", ("ours", "theirs"), "≤ 1.05", "s", values)
    assert result.ratios == [0.5, 1.0, 3.0]
    assert result.met
    assert Result("name", "what", ("theirs", "ours"), "≥ 1.1", "s", values).met is False
    assert Result("name", "what", ("ours", "theirs"), None, "s", values).met is None
    uneven = Result("name", "what", ("ours", "theirs"), "≤ 2", "s", {"ours": [1.0, 3.0], "theirs": [4.0]})
    assert uneven.ratios == [0.5]
    noted = Result("name", "what", ("ours", "theirs"), None, "s", values, {"accuracy": {"ours": [98.0, 99.0]}})
    assert noted.line().endswith("s; accuracy: ours 98.5 ± 0.7")


def test_the_page_gets_the_tables_of_the_files(tmp_path, monkeypatch):
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
