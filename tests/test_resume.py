"""Runs that survive: resumed to the last bit after SIGKILL, damaged checkpoints, signals, and what a resume refuses."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import (
    EVALUATE,
    PROJECT,
    QUICK,
    TRAIN,
    assert_identical,
    configure,
    done,
    events,
    mistake,
    recorded_steps,
    refused,
    start,
    summary,
    train,
)
from omegaconf import OmegaConf
from test_parts import torchs_one_cycle
from test_switches import RANDOM
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rowgrad.errors import UserError
from rowgrad.watch.csv_file import cut_back


def saved(folder):
    return OmegaConf.load(folder / "config.yaml")


def copy_of(run, folder):
    """A run's folder to spoil. Its summary is gone, as after a kill."""
    shutil.copytree(run, folder)
    (folder / "summary.json").unlink()
    return folder


@pytest.fixture(scope="module")
def run22(tmp_path_factory):
    """Two epochs of 11 steps, with last.ckpt of step 22 and previous.ckpt of step 20."""
    folder = tmp_path_factory.mktemp("run22") / "run"
    train(configure(*QUICK, *RANDOM, "trainer.max_epochs=2", "callbacks.checkpoints.every_n_steps=5"), folder)
    return folder


@pytest.mark.slow
def test_killed_runs_end_bit_identical_to_runs_left_alone(tmp_path):
    """Two chains of 12 kills with SIGKILL each, at random moments and in the middle of writing a checkpoint."""
    chains = {"mlp": RANDOM, "cnn": ["scenario.operation=RandomRotation 30", "trainer.accumulate_grad_batches=2"]}
    chains["cnn"] += ["scenario.random_rows=9", "scenario.from_step=10", "scenario.to_step=80", "corruption=row_noise"]
    drawing = [word for word in QUICK if word != "callbacks.pictures=null"]  # one kill is while it draws
    options = ["--kills", "12", *drawing, "trainer.max_epochs=16"]
    kill, one_thread = PROJECT / "tools" / "kill.py", {"OMP_NUM_THREADS": "1"}
    processes = {
        name: start(kill, tmp_path / name, "--seed", seed, *options, *overrides, cwd=tmp_path, env=one_thread)
        for seed, (name, overrides) in enumerate(chains.items())
    }
    for name, process in processes.items():
        output, errors = process.communicate(timeout=500)
        assert process.returncode == 0, f"{name}: {output[-2000:]} {errors[-3000:]}"
        result = json.loads(output)
        assert result["differences"] == []
        assert sum(result["kills"].values()) == 12
        assert result["kills"]["write"] >= 2


@pytest.mark.parametrize("spoil", ["truncate", "garbage", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(run22, tmp_path, capsys, spoil):
    folder = copy_of(run22, tmp_path / "run")
    last = folder / "checkpoints" / "last.ckpt"
    content = {"truncate": last.read_bytes()[:-1000], "garbage": os.urandom(5000), "empty": b""}[spoil]
    last.write_bytes(content)
    train(saved(folder), folder, resume=True)
    printed = capsys.readouterr().out
    assert f"{last} is damaged" in printed
    assert "resuming from step 20, previous.ckpt" in printed
    assert_identical(folder, run22)
    assert last.with_suffix(".damaged").read_bytes() == content


def spoil_lines(folder, keep, then=""):
    """Keeps the header and so many lines of `row_gradients.csv`."""
    csv = folder / "row_gradients.csv"
    csv.write_text("".join(csv.read_text().splitlines(keepends=True)[: keep + 1]) + then)


@pytest.mark.parametrize("then", ["", "20,1.5", "garbage\n", "20,1,2\n", "x,1\n", "0\n", "19" + ",1" * 56 + "\n"])
def test_a_checkpoint_that_knows_more_steps_than_the_csv_gives_way_to_the_one_before(run22, tmp_path, capsys, then):
    folder = copy_of(run22, tmp_path / "run")
    last = folder / "checkpoints" / "last.ckpt"
    known = last.read_bytes()
    spoil_lines(folder, 20, then)
    train(saved(folder), folder, resume=True)
    printed = capsys.readouterr().out
    assert (
        f"{last} knows more steps than the files (row_gradients.csv has the norms of 20 of the 22 recorded" in printed
    )
    assert "resuming from step 20, previous.ckpt" in printed
    assert_identical(folder, run22)
    assert last.with_suffix(".damaged").read_bytes() == known


@pytest.mark.parametrize(
    ("spoil", "count"),
    [
        (lambda folder: (folder / "row_gradients.csv").unlink(), 0),
        (lambda folder: spoil_lines(folder, 3), 3),
        (lambda folder: spoil_lines(folder, 19, "20,\0\n" * 9), 19),
        (lambda folder: (folder / "row_gradients.csv").write_bytes(os.urandom(5000)), 0),
        (lambda folder: (folder / "row_gradients.csv").write_text("step,x/row_00\n" + "0,1\n1,1\n" * 30), 2),
    ],
    ids=["deleted", "cut", "garbage", "noise", "other columns"],
)
def test_lines_that_no_checkpoint_can_do_without_are_missed_by_name(run22, tmp_path, spoil, count):
    folder = copy_of(run22, tmp_path / "run")
    spoil(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = mistake(f"resume={folder}")
    missing = f"row_gradients.csv has the norms of {count} of the 20 recorded steps"
    assert f"previous.ckpt knows more steps than the files ({missing}). Put the files back" in words
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def rewritten(folder, change):
    """Changes what the checkpoints of a run hold."""
    for name in ("last.ckpt", "previous.ckpt"):
        content = torch.load(folder / "checkpoints" / name, weights_only=True)
        change(content)
        torch.save(content, folder / "checkpoints" / name)


def test_a_checkpoint_that_does_not_know_what_was_recorded_goes_on_as_ever(run22, tmp_path):
    folder = copy_of(run22, tmp_path / "run")
    rewritten(folder, lambda content: content.pop("recorded"))
    spoil_lines(folder, 3)
    train(saved(folder), folder, resume=True)
    assert summary(folder)["test/acc"] == summary(run22)["test/acc"]


@pytest.mark.parametrize("nonsense", [3, {"a": 3}, {3: {}}, {"a": {"steps": "b"}}])
def test_a_checkpoint_that_knows_nonsense_is_damaged(run22, tmp_path, nonsense):
    folder = copy_of(run22, tmp_path / "run")
    rewritten(folder, lambda content: content.update(recorded=nonsense))
    with pytest.raises(UserError, match=r"previous\.ckpt is damaged\. Put the files back"):
        train(saved(folder), folder, resume=True)


def test_a_run_that_records_some_steps_or_none_misses_nothing(tmp_path):
    for name, recorder in {"some": "callbacks.recorder.every_n_steps=4", "none": "callbacks.recorder=null"}.items():
        folder = tmp_path / name
        train(configure(*QUICK, "model=mlp", "callbacks.pictures=null", recorder, "trainer.max_steps=6"), folder)
        config = saved(folder)
        config.trainer.max_steps = 9
        train(config, folder, resume=True)
        assert summary(folder)["train/steps"] == 9
    assert recorded_steps(tmp_path / "some") == [0, 4, 8]


def test_the_csv_is_on_the_disk_before_a_checkpoint_is(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def keep(number):
        path = Path(f"/proc/self/fd/{number}").readlink()
        synced.append((path.name, os.fstat(number).st_size))
        fsync(number)

    monkeypatch.setattr(os, "fsync", keep)
    often = ["trainer.max_steps=2", "callbacks.checkpoints.every_n_steps=1"]
    train(configure(*QUICK, "model=mlp", *often), tmp_path / "run")
    names = [name for name, _ in synced]
    first = names.index("last.ckpt.part")
    assert names[first - 1] == "row_gradients.csv"
    lines = (tmp_path / "run" / "row_gradients.csv").read_bytes().splitlines(keepends=True)
    assert synced[first - 1][1] == len(b"".join(lines[:2]))


def test_without_a_good_checkpoint_resume_says_which_files_it_tried(run22, tmp_path):
    folder = copy_of(run22, tmp_path / "run")
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / "checkpoints" / name).write_bytes(b"garbage")
    words = mistake(f"resume={folder}")
    both = (f"{folder / 'checkpoints' / name}.ckpt is damaged" for name in ("last", "previous"))
    assert f"resume={folder}: {'; '.join(both)}. " in words


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(run22, tmp_path, capsys):
    folder = copy_of(run22, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    train(saved(folder), folder, resume=True)
    assert "resuming from the beginning: no checkpoint was written" in capsys.readouterr().out
    assert_identical(folder, run22)
    assert [step for step, _ in events(folder)["train/loss"]] == list(range(22))


def test_a_run_killed_after_its_last_step_is_validated_and_tested(run22, tmp_path):
    folder = copy_of(run22, tmp_path / "run")
    train(saved(folder), folder, resume=True)
    expected = {key: value for key, value in summary(run22).items() if key != "train/seconds"}
    assert {key: summary(folder)[key] for key in expected} == expected
    assert events(folder) == events(run22)


def test_a_finished_run_says_so_and_is_left_alone(run22, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in run22.rglob("*")}
    result = done(TRAIN, f"resume={run22}", cwd=tmp_path)
    accuracy = f"{summary(run22)['test/acc']:.2%}"
    assert result.stdout == f"{run22} is finished: test accuracy {accuracy}. trainer.max_epochs=… extends it.\n"
    assert {path: path.stat().st_mtime_ns for path in run22.rglob("*")} == before
    assert not list(tmp_path.iterdir())


def test_an_extended_run_has_the_longer_runs_learning_rates_from_its_first_new_step_on(run22, tmp_path):
    folder, rates = tmp_path / "run", []
    shutil.copytree(run22, folder)
    longer = saved(folder)
    longer.trainer.max_epochs = 3
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"] / longer.optimizer.lr)
    )
    train(longer, folder, resume=True)
    handle.remove()
    assert rates == pytest.approx(torchs_one_cycle(33, 0.3)[22:], rel=1e-12)


@pytest.mark.filterwarnings("ignore:step .*gradient is not finite")  # the recorder says it a step earlier
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path, model):
    run = tmp_path / "run"
    explode = ["optimizer.schedule=constant", "optimizer.lr=1e30", "callbacks.checkpoints.every_n_steps=1"]
    explode.append(f"model={model}")
    with pytest.raises(UserError, match=r"(loss is (nan|inf) at step \d|is not finite after step \d).*last good"):
        train(configure(*QUICK, *explode, "trainer.max_epochs=50"), run)
    assert summary(run)["status"] == "failed"
    assert "not finite" in summary(run)["error"] or "loss is" in summary(run)["error"]
    for path in (run / "checkpoints").glob("*.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(tensor.isfinite().all() for tensor in state.values() if tensor.is_floating_point())


def test_lines_of_the_csv_are_cut_back_to_a_step(tmp_path):
    path = tmp_path / "x.csv"
    for content, step, left in (
        ("step,a\n0,1\n1,2\n2,3\n", 2, "step,a\n0,1\n1,2\n"),
        ("step,a\n0,1\n1,2", 5, "step,a\n0,1\n"),
        ("step,a\n0,1\n", 0, "step,a\n"),
        ("step", 3, ""),
        ("", 3, ""),
    ):
        path.write_text(content)
        cut_back(path, step)
        assert path.read_text() == left


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resume=nowhere"], "resume=nowhere is not a run's folder: there is no nowhere/config.yaml."),
        (["resume=."], "resume=. is not a run's folder: there is no config.yaml."),
        (["resume={run}", "scenario=modify"], "scenario=modify cannot go with resume, which keeps the run's config."),
        (["resume={run}", "trainer.max_epochs=many"], "trainer.max_epochs=many is not a whole number of at least 1"),
        (["hydra.run.dir={run}", "data=digits"], "already holds a run. resume={run} goes on with it."),
    ],
)
def test_what_cannot_be_resumed_is_said_plainly(run22, tmp_path, arguments, words):
    line = refused(TRAIN, *(argument.format(run=run22) for argument in arguments), cwd=tmp_path)
    assert words.format(run=run22) in line
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_model_is_refused(run22, tmp_path):
    folder = copy_of(run22, tmp_path / "run")
    config = saved(folder)
    config.model.network.hidden = [32]
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    for script, argument in ((TRAIN, f"resume={folder}"), (EVALUATE, folder)):
        assert "does not fit the model" in refused(script, argument, cwd=tmp_path)
