"""What sweeps and reports answer: groups, pairs, the paired t-test, tables and sentences; no training."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from scipy import integrate, stats

from rowgrad.config import flat, group_key
from rowgrad.files import write_whole
from rowgrad.folders import RunFolder, SweepFolder
from rowgrad.results import analysis
from rowgrad.results.paired import Paired, compare, spread
from rowgrad.results.run import Run
from rowgrad.results.runs import RunSet
from rowgrad.results.sentences import describe_effect, on_range
from rowgrad.results.sweep import as_csv, describe_sweep, detach_table, seeds_table


def run(seed, accuracy, *, scenario="mine", detach=True, status="done", overrides=None, config=None, **more):
    """A run of which all is in memory."""
    one = Run(RunFolder(Path(f"{scenario}_{detach}_{seed}")))
    one.values = flat({"scenario": {"name": scenario, "detach": detach}, "seed": seed} | (config or {}))
    one.summary = {"status": status, "test/acc": accuracy, "scenario": scenario, "seed": seed} | more
    one.overrides = overrides or {"seed": str(seed)}
    return one


# ---- which runs belong together


def test_a_group_ignores_the_seed_and_what_does_not_change_training():
    values = flat(
        {"seed": 3, "model": {"name": "cnn", "checkpoint": "x"}, "callbacks": {"recorder": {"every_n_steps": 2}}}
    )
    assert values == {"seed": 3, "model.name": "cnn", "model.checkpoint": "x", "callbacks.recorder.every_n_steps": 2}
    assert group_key(values | {"seeded": 1}) == {"model.name": "cnn", "seeded": 1}


def test_runs_are_named_by_the_keys_in_which_they_differ():
    config = lambda batch: {"data": {"batch_size": batch}}  # noqa: E731
    runs = RunSet([run(0, 0.5, config=config(64)), run(1, 0.5, config=config(128)), run(0, 0.5, scenario="other")])
    assert runs.group_names() == ["mine data.batch_size=64", "mine data.batch_size=128", "other"]
    assert runs.group_names("data") == ["mine", "mine", "other"]
    assert runs.run_names() == runs.group_names()


def test_a_key_that_only_one_run_has_tells_it_from_the_others():
    runs = RunSet(
        [run(0, 0.5, config={"model": {"depth": 3}}), run(0, 0.5, config={"model": {"depth": None}}), run(0, 0)]
    )
    assert runs.group_names() == ["mine model.depth=3", "mine model.depth=null", "mine"]


def test_networks_and_cameras_of_other_names_are_not_compared_in_their_parts():
    model = lambda name, lr: {"model": {"name": name}, "optimizer": {"lr": lr}}  # noqa: E731
    typed = [("cnn", 0.1), ("gru", 0.2), ("gru", 0.3)]
    runs = RunSet([run(0, 0.5, config=model(*words)) for words in typed])
    assert runs.group_names() == [
        "mine model=cnn",
        "mine model=gru optimizer.lr=0.2",
        "mine model=gru optimizer.lr=0.3",
    ]
    cameras = [{"name": "none"}, {"name": "row_shift", "rows": "0:14"}, {"name": "row_noise", "scale": 0.5}]
    runs = RunSet([run(0, 0.5, config={"corruption": camera}) for camera in cameras])
    assert runs.group_names() == [f"mine corruption={name}" for name in ("none", "row_shift", "row_noise")]


def test_pairs_agree_in_everything_but_detach():
    runs = [run(0, 0.9), run(1, 0.9), run(0, 0.8, detach=False), run(2, 0.8, detach=False)]
    runs += [run(3, 0.9), run(3, 0.8, detach=False, status="failed")]
    ((name, pairs),) = RunSet(runs).pairs().items()
    assert (name, pairs) == ("mine", [(runs[0], runs[2])])
    other = run(0, 0.8, detach=False, config={"model": {"checkpoint": "another"}})
    assert not RunSet([runs[0], other]).pairs()


# ---- the paired t-test


def t_density(t, freedom):
    """Student's density, from its definition."""
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    return scale * (1 + t * t / freedom) ** (-(freedom + 1) / 2)


def test_the_paired_test_is_students_by_its_definition():
    treated, control = [0.991, 0.989, 0.993, 0.990, 0.988], [0.990, 0.990, 0.991, 0.988, 0.9885]
    differences = [a - b for a, b in zip(treated, control, strict=True)]
    mean = sum(differences) / 5
    error = math.sqrt(sum((value - mean) ** 2 for value in differences) / 4 / 5)
    paired = compare(treated, control)
    assert (paired.count, paired.mean) == (5, pytest.approx(mean))
    tail = integrate.quad(t_density, abs(mean / error), math.inf, args=(4,))[0]
    assert paired.p == pytest.approx(2 * tail, rel=1e-6)
    # 2.776 is the 97.5 % quantile of t with 4 degrees of freedom in every printed table.
    assert paired.low == pytest.approx(mean - 2.776445 * error, rel=1e-5)
    assert paired.high == pytest.approx(mean + 2.776445 * error, rel=1e-5)


@pytest.mark.parametrize(
    ("treated", "control"),
    [([0.5], [0.4]), ([0.5, 0.6, 0.7], [0.5, 0.6, 0.7]), ([0.3, 0.5, 0.9], [0.2, 0.4, 0.8])],
)
def test_there_is_no_test_of_one_pair_or_of_differences_without_spread(treated, control):
    paired = compare(treated, control)
    assert paired.mean == pytest.approx(treated[0] - control[0])
    assert (paired.low, paired.high, paired.p) == (None, None, None)


@pytest.mark.parametrize("more", [100, 1, -3])
def test_equal_differences_do_not_vary_where_accuracies_are_float32(more):
    """So many of 10,000 images better with every seed, as torch reports it: 32 bits, printed as 64."""
    counts = [9100, 9000, 9200]
    treated, control = (torch.tensor([c + d for c in counts]).float().div(10_000).tolist() for d in (more, 0))
    paired = compare(treated, control)
    assert paired.mean == pytest.approx(more / 10_000, rel=1e-3)
    assert (paired.low, paired.high, paired.p) == (None, None, None)
    one_image = compare([treated[0], treated[1], (counts[2] + more + 1) / 10_000], control)
    assert one_image.p is not None  # a single image more is a difference


def test_an_accuracy_that_is_no_number_is_left_out():
    jobs = [run(0, 0.5), run(1, math.nan), run(2, 0.7), run(3, math.inf), run(4, None)]
    jobs += [run(s, 0.4 + s / 100, detach=False) for s in range(5)]
    assert seeds_table(RunSet(jobs)).body[0] == ["mine detach=true", "5", "60.00 ± 14.14 % (n = 2)"]
    assert detach_table(RunSet(jobs)).body[0][:4] == ["mine", "test/acc", "2", "+19.00 pp"]


def test_a_mean_over_fewer_jobs_than_the_others_says_so():
    jobs = [run(s, 0.5 + s / 10, **{"test/loss": loss}) for s, loss in enumerate((0.1, math.nan, 0.3))]
    jobs += [run(9, math.nan, scenario="other")]
    assert seeds_table(RunSet(jobs)).body == [
        ["mine", "3", "60.00 ± 10.00 %", "0.2000 ± 0.1414 (n = 2)"],
        ["other", "1", "not a number", ""],
    ]


def test_groups_are_over_seeds_of_finished_jobs_with_the_sample_deviation():
    jobs = [run(0, 0.90), run(1, 0.94), run(2, 0.10, status="failed"), run(0, 0.5, scenario="other")]
    assert seeds_table(RunSet(jobs)).body == [
        ["mine", "2", "92.00 ± 2.83 %"],  # sqrt(2 · 0.02²) = 0.0283
        ["other", "1", "50.00 %"],
    ]
    assert spread([1.0, 2.0, 4.5], "{:.2f}".format) == "2.50 ± 1.80"


def test_the_effect_of_detach_pairs_runs_of_the_same_seed_only():
    jobs = [run(s, a) for s, a in ((0, 0.90), (1, 0.80), (2, 0.70), (3, 0.1))]
    jobs += [run(s, a, detach=False) for s, a in ((2, 0.69), (0, 0.88), (1, 0.77), (9, 0.1))]
    jobs += [run(0, 0.5, scenario="other")]  # has no partner
    # Differences 0.02, 0.03, 0.01: mean 0.02, error 0.01 / sqrt(3), t = 3.4641 with 2 degrees, quantile 4.302653.
    assert detach_table(RunSet(jobs)).body == [["mine", "test/acc", "3", "+2.00 pp", "-0.48 … +4.48 pp", "0.074"]]
    assert detach_table(RunSet(jobs[:4])) is None


def test_p_values_of_several_tests_are_corrected_for_their_number():
    accuracies = {"a": (0.90, 0.91, 0.93), "b": (0.80, 0.85, 0.84), "c": (0.70, 0.70, 0.72)}
    jobs = [run(s, a, scenario=name) for name, some in accuracies.items() for s, a in enumerate(some)]
    jobs += [run(s, 0.7, scenario=name, detach=False) for name in accuracies for s in range(3)]
    table = detach_table(RunSet(jobs))
    assert table.header[-1] == "p of 3 tests"
    raw = [stats.ttest_1samp([a - 0.7 for a in some], 0).pvalue for some in accuracies.values()]
    # Benjamini and Hochberg: p · m / rank, and none larger than that of a later rank.
    first, second, third = sorted(raw)
    wanted = {first: min(3 * first, 1.5 * second, third), second: min(1.5 * second, third), third: third}
    assert [line[-1] for line in table.body] == [f"{wanted[p]:.2g}" for p in raw]


def test_the_cut_fraction_gets_its_interval_but_is_no_test():
    shares = ((0.5, 0.0), (0.54, 0.0), (0.52, 0.01))
    jobs = [run(s, 0.9 + s * s / 100, cut_fraction=share[0]) for s, share in enumerate(shares)]
    jobs += [run(s, 0.9, detach=False, cut_fraction=share[1]) for s, share in enumerate(shares)]
    table = detach_table(RunSet(jobs))
    low, high = stats.ttest_1samp([a - b for a, b in shares], 0).confidence_interval()
    assert table.header[-1] == "p"  # of one test, which needs no correction
    assert table.body[1] == ["mine", "cut_fraction", "3", "+51.67 pp", f"{100 * low:+.2f} … {100 * high:+.2f} pp", "–"]
    assert table.body[0][-1] != "–"


def test_two_runs_with_one_seed_and_one_detach_are_not_paired_and_the_table_says_so():
    sides = [(name, detach) for name in ("a", "b") for detach in (True, False)]
    jobs = [run(seed, 0.9, scenario=name, detach=detach) for name, detach in sides for seed in (0, 1)]
    jobs += [run(0, 0.1, scenario="a")]
    jobs += [run(7, 0.1, scenario="b"), run(7, 0.2, scenario="b")]  # have no partner, so nothing is ambiguous
    assert detach_table(RunSet(jobs)).body == [
        ["a", "–", "0", "not paired: two runs agree in seed and setting", "–", "–"],
        ["b", "test/acc", "2", "0 in every pair", "–", "–"],
    ]


# ---- sentences

POINTS = "-0.22 points (95 % interval"


@pytest.mark.parametrize(
    ("paired", "words"),
    [
        (Paired(-0.0022, 3, -0.0070, 0.0026, 0.2), f"no change of x was shown: {POINTS} -0.70 to +0.26, 3 pairs)"),
        (Paired(-0.0022, 3, -0.0030, -0.0014, 0.01), f"x changes by {POINTS} -0.30 to -0.14, 3 pairs)"),
        (Paired(0.01, 1), "x with detach minus without is +1.00 points in one pair, too few to show a change"),
        (Paired(0.01, 4), "x changes by +1.00 points in each of 4 pairs"),
        (Paired(0.0, 1), "x is the same in one pair"),
        (Paired(0.0, 2), "x is the same in 2 pairs"),
    ],
)
def test_a_change_is_claimed_only_if_the_interval_excludes_zero_or_all_pairs_agree(paired, words):
    assert paired.sentence("x") == words


def test_an_effect_is_of_the_pairs_with_two_accuracies():
    pairs = [(run(s, a), run(s, b, detach=False)) for s, (a, b) in enumerate([(0.9, 0.8), (0.8, None), (0.7, 0.65)])]
    low, high = stats.ttest_1samp([0.1, 0.05], 0).confidence_interval()
    interval = f"95 % interval {100 * low:+.2f} to {100 * high:+.2f}, 2 pairs"
    assert describe_effect(pairs) == f"no change of the test accuracy was shown: +7.50 points ({interval})"
    assert describe_effect(pairs[1:2]) == "no test accuracy is known"


def test_settings_without_pairs_are_answered_by_their_range():
    jobs = [
        run(s, a, scenario=name) for name, some in {"a": (0.5, 0.7), "b": (0.9,)}.items() for s, a in enumerate(some)
    ]
    assert on_range(RunSet(jobs)) == (
        "The test accuracy of 2 settings lies between 60.00 ± 14.14 % (a, n = 2) and 90.00 % (b, n = 1)."
    )
    assert not on_range(RunSet(jobs[:2]))


# ---- a sweep's folder


def test_the_csv_holds_every_field_of_every_job():
    killed = run(1, None)
    killed.summary = {}
    jobs = [run(0, 0.9, extra="a,b"), killed, run(2, 0.1, status="failed", error="x: y")]
    lines = list(csv.DictReader(as_csv(RunSet(jobs)).splitlines()))
    assert [line["status"] for line in lines] == ["done", "killed", "failed"]
    assert [line["error"] for line in lines] == ["", "", "x: y"]
    assert lines[0]["extra"] == "a,b"
    assert [line["seed"] for line in lines] == ["0", "1", "2"]


def test_jobs_are_listed_by_the_size_of_their_numbers_and_need_not_have_trained(tmp_path):
    for name in ("seed-10", "seed-9", "lr-1e-05_seed-1", "lr-0.5_seed-1"):
        (tmp_path / name).mkdir()
        write_whole(tmp_path / name / "job.json", json.dumps({"overrides": ["seed=1"]}))
    jobs = RunSet.of_sweep(SweepFolder(tmp_path))
    assert [job.name for job in jobs.runs] == ["lr-1e-05_seed-1", "lr-0.5_seed-1", "seed-9", "seed-10"]
    assert {job.status for job in jobs.runs} == {"killed"}
    assert not jobs.trained.runs
    assert "killed         seed-9: before it could say anything" in describe_sweep(SweepFolder(tmp_path), jobs)


# ---- analyses beside experiments


def test_an_analysis_beside_an_experiment_is_called_and_one_beside_the_command_is_not(tmp_path, monkeypatch):
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    (tmp_path / "here" / "experiment").mkdir(parents=True)
    answer = "def sentences(runs):\n    return [f'{len(runs.runs)} runs, said the analysis']\n"
    (tmp_path / "configs" / "experiment" / "mine.py").write_text(answer)
    (tmp_path / "here" / "experiment" / "foreign.py").write_text("raise SystemExit('a foreign file was loaded')\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(analysis, "configs_folder", lambda: tmp_path / "configs")
    monkeypatch.setattr(analysis, "load_analyses", analysis.load_analyses.__wrapped__)
    assert analysis.call_analyses("sentences", RunSet([run(0, 0.5)])) == [["1 runs, said the analysis"]]
    assert analysis.call_analyses("tables", RunSet([])) == []
