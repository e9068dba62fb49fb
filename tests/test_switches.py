"""What Lightning's Trainer has for debugging: each as it is typed, and as it goes on."""

import csv
import re
import shutil
from pathlib import Path

import lightning.pytorch as pl
import pytest
from conftest import QUICK, TRAIN, assert_identical, command, configure, done, recorded_steps, summary, train, weights
from omegaconf import OmegaConf
from test_parts import torchs_one_cycle

from rowgrad.errors import UserError, words_for
from rowgrad.folders import RunFolder
from rowgrad.training.settings import read_settings
from rowgrad.training.train import Training, evaluate, load_run

# Every source of randomness: order and shifts of images, noise, probability, dropout.
RANDOM = ["model=mlp", "model.network.dropout=0.3", "scenario.operation=noise 1"]
SNAPSHOTS = "+callbacks.snapshots={_target_: test_switches.Snapshots}"


class Snapshots(pl.Callback):
    """Copies a run's folder before each batch: what a SIGKILL at that moment would leave, beside the folder."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        folder = Path(trainer.default_root_dir)
        target = folder.parent / f"killed-{trainer.global_step}"
        if folder.name == "alone" and not target.exists():
            shutil.copytree(folder, target, ignore=shutil.ignore_patterns(".lock"))


class Seen(pl.Callback):
    """Keeps the labels of each training batch, epoch by epoch, and at which steps a run was validated."""

    latest = None

    def __init__(self):
        Seen.latest = self
        self.epochs, self.validated, self.learning_rates = [], [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs.append([])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not self.epochs:  # a run that goes on in mid-epoch does not begin it
            self.epochs.append([])
        self.epochs[-1].append((batch.images.sum().item(), tuple(batch.labels.tolist())))
        self.learning_rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_epoch_start(self, trainer, pl_module):
        self.validated.append((trainer.sanity_checking, trainer.global_step, trainer.num_val_batches))


def watched(folder, *overrides):
    """Trains, and gives what was seen on the way."""
    train(configure(*QUICK, "model=mlp", "+callbacks.seen={_target_: test_switches.Seen}", *overrides), folder)
    return Seen.latest


def read_csv(file):
    """A CSVLogger's table: tag -> (step, value)."""
    found = {}
    with file.open() as lines:
        for row in csv.DictReader(lines):
            for tag, value in row.items():
                if tag not in {"step", "epoch"} and value:
                    found.setdefault(tag, []).append((int(row["step"]), float(value)))
    return found


@pytest.mark.parametrize(("typed", "count"), [("true", 1), ("3", 3)])
def test_a_dry_run_goes_through_everything_and_leaves_no_result(tmp_path, capsys, typed, count):
    run = tmp_path / "run"
    train(configure(*QUICK, "logger=[tensorboard,csv]", f"+trainer.fast_dev_run={typed}"), run)
    batches = "1 batch" if count == 1 else f"{count} batches"
    output = capsys.readouterr().out
    assert f"status         dry run: {batches} each of training, validation and test; no logs, no checkpoint" in output
    assert "accuracy" not in output
    assert {path.name for path in run.iterdir()} == {"config.yaml", "row_gradients.csv", "summary.json"}
    facts = summary(run)
    assert (facts["status"], facts["batches"], facts["train/steps"]) == ("dry run", count, count)
    assert not {tag for tag in facts if tag.startswith(("test/", "val/"))}
    assert recorded_steps(run) == list(range(count))


def test_a_dry_run_of_a_sweep_is_complete_and_shows_no_accuracy(tmp_path):
    result = done(TRAIN, "-m", *QUICK, "model=mlp", "seed=0,1", "+trainer.fast_dev_run=true", cwd=tmp_path)
    assert ": 2 dry run\n" in result.stdout
    assert "accuracy" not in result.stdout


@pytest.mark.parametrize(("name", "words"), [("simple", "FIT Profiler Report"), ("advanced", "function calls")])
def test_a_profilers_table_is_seen_by_whoever_types_it(tmp_path, name, words):
    result = done(TRAIN, *QUICK, "model=mlp", "trainer.max_steps=1", f"+trainer.profiler={name}", cwd=tmp_path)
    assert words in result.stdout + result.stderr
    assert "run_training_batch" in result.stdout + result.stderr
    assert "INFO: " not in result.stderr


def test_overfitting_sees_the_same_batches_in_each_epoch(tmp_path):
    seen = watched(tmp_path / "run", "+trainer.overfit_batches=2", "trainer.max_epochs=3")
    assert len(seen.epochs) == 3
    assert len(seen.epochs[0]) == 2
    assert seen.epochs[0] == seen.epochs[1] == seen.epochs[2]
    assert seen.epochs[0][0] != seen.epochs[0][1]


@pytest.mark.parametrize(("limit", "count"), [("5", 5), ("0.5", 5), ("1", 1), ("1.0", 11), ("99", 11)])
def test_a_limit_of_training_batches_holds_in_each_epoch_and_for_the_schedule(tmp_path, limit, count):
    seen = watched(tmp_path / "run", f"+trainer.limit_train_batches={limit}", "trainer.max_epochs=2")
    assert [len(epoch) for epoch in seen.epochs] == [count, count]
    assert set(seen.epochs[0]).isdisjoint(seen.epochs[1])  # drawn anew, as a shuffled loader does
    assert summary(tmp_path / "run")["train/steps"] == 2 * count
    if count > 1:  # the one-cycle schedule ends with the run
        assert seen.learning_rates[-1] < seen.learning_rates[0] < max(seen.learning_rates)


@pytest.mark.parametrize(
    "switches",
    [
        ["+trainer.limit_train_batches=5", "trainer.max_epochs=3", "trainer.accumulate_grad_batches=2"],
        ["+trainer.limit_train_batches=0.3", "trainer.max_epochs=4", "+trainer.check_val_every_n_epoch=2"],
        ["+trainer.overfit_batches=3", "trainer.max_epochs=4", "trainer.num_sanity_val_steps=2"],
        ["+trainer.val_check_interval=4", "+trainer.check_val_every_n_epoch=null", "trainer.max_epochs=2"],
        *(
            pytest.param(switches, marks=pytest.mark.slow)  # as the others, one switch less or with other numbers
            for switches in (
                ["+trainer.limit_train_batches=5", "trainer.max_epochs=3"],
                ["+trainer.val_check_interval=3", "trainer.max_epochs=2"],
                ["+trainer.val_check_interval=0.25", "+trainer.limit_train_batches=8", "trainer.max_epochs=2"],
                ["+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3"],
                ["+trainer.limit_val_batches=0", "trainer.max_epochs=2"],
                ["+trainer.limit_train_batches=10", "trainer.max_epochs=2", "trainer.accumulate_grad_batches=7"],
                ["+trainer.reload_dataloaders_every_n_epochs=1", "trainer.max_epochs=2"],
            )
        ),
    ],
    ids=" ".join,
)
def test_a_run_that_is_killed_under_a_switch_ends_as_if_left_alone(tmp_path, switches):
    alone = tmp_path / "alone"
    options = [
        *switches,
        "logger=csv",
        "callbacks.histograms=null",
        "callbacks.checkpoints.every_n_steps=2",
        "data.eval_batch_size=100",
    ]
    seen = watched(alone, *RANDOM, SNAPSHOTS, *options)
    facts = {tag: value for tag, value in summary(alone).items() if tag != "train/seconds"}
    logged = read_csv(alone / "csv" / "version_0" / "metrics.csv")
    end = facts["train/steps"] // len(seen.epochs)  # of the first epoch
    for step in sorted({2, end, end + 1, 2 * end - 1}):
        killed = tmp_path / f"killed-{step}"
        train(OmegaConf.load(killed / "config.yaml"), killed, resume=True)
        assert {tag: value for tag, value in summary(killed).items() if tag in facts} == facts, step
        assert_identical(killed, alone)
        again = [read_csv(file) for file in killed.glob("csv/*/metrics.csv")]
        for tag, values in logged.items():
            assert {pair for version in again for pair in version.get(tag, [])} == set(values), (step, tag)
        assert len([*killed.glob("csv/*/hparams.yaml")]) == len(again) == 2


def test_limits_of_validation_and_test_hold_and_evaluation_keeps_them(tmp_path):
    run = tmp_path / "run"
    limits = ["+trainer.limit_val_batches=2", "+trainer.limit_test_batches=0.5", "data.eval_batch_size=50"]
    seen = watched(run, *limits, "trainer.max_steps=2")
    assert [batches for *_, batches in seen.validated] == [[2]]
    facts = summary(run)
    assert facts["test/acc"] * 150 == pytest.approx(round(facts["test/acc"] * 150), abs=1e-4)
    shutil.rmtree(run / "tensorboard")
    assert evaluate(*load_run(run)) == {tag: facts[tag] for tag in ("test/acc", "test/acc_operated", "test/loss")}


def test_a_run_that_is_not_to_be_tested_is_done_and_says_so(tmp_path):
    run = tmp_path / "run"
    arguments = [*QUICK, "model=mlp", "trainer.max_steps=2", "+trainer.limit_test_batches=0", f"hydra.run.dir={run}"]
    first, again = command(TRAIN, *arguments, cwd=tmp_path), command(TRAIN, f"resume={run}", cwd=tmp_path)
    assert "status         done after step 2; not tested" in first.stdout
    assert again.stdout == f"{run} is finished: not tested. trainer.max_epochs=… extends it.\n"


@pytest.mark.parametrize(
    ("typed", "validated"),
    [
        ("+trainer.val_check_interval=3", [3, 6, 9, 14, 17, 20, 22]),
        ("+trainer.val_check_interval=0.5", [5, 10, 16, 21, 22]),
        ("+trainer.check_val_every_n_epoch=2", [22]),
        ("trainer.log_every_n_steps=7", [11, 22]),
        ("+trainer.limit_val_batches=0", []),
    ],
)
def test_validation_comes_when_it_was_asked_for(tmp_path, typed, validated):
    seen = watched(tmp_path / "run", typed, "trainer.max_epochs=2")
    assert [step for _, step, _ in seen.validated] == validated


def test_batches_are_validated_before_training_and_change_nothing(tmp_path):
    seen = watched(tmp_path / "checked", "trainer.num_sanity_val_steps=2", "data.eval_batch_size=50")
    assert [(sanity, step) for sanity, step, _ in seen.validated] == [(True, 0), (False, 11)]
    watched(tmp_path / "run", "data.eval_batch_size=50")
    assert all(weights(tmp_path / "checked")[name].equal(value) for name, value in weights(tmp_path / "run").items())


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.3), (3, 0.3), (3, 0.05), (5, 0.9)])
def test_a_run_of_few_steps_learns_at_the_rates_of_torchs_one_cycle(tmp_path, steps, warmup):
    typed = [f"trainer.max_steps={steps}", f"optimizer.warmup={warmup}", "optimizer.lr=0.01"]
    seen = watched(tmp_path / "run", *typed)
    expected = [0.01 * factor for factor in torchs_one_cycle(steps, warmup)]
    assert seen.learning_rates == pytest.approx(expected, rel=1e-12)


def test_time_that_is_over_ends_training_and_the_run_is_tested(tmp_path):
    switches = ["trainer.max_epochs=-1", "+trainer.max_time=00:00:00:01", "optimizer.schedule=constant"]
    train(configure(*QUICK, "model=mlp", *switches), tmp_path / "run")
    facts = summary(tmp_path / "run")
    assert facts["status"] == "done"
    assert facts["train/steps"] > 0
    assert "test/acc" in facts


BASE = configure(*QUICK, "model=mlp")
OmegaConf.set_struct(BASE, value=False)
WRONG = {
    "fast_dev_run": ["-1", "many"],
    "overfit_batches": ["-1", "1.5", "few"],
    "limit_train_batches": ["-1", "1.5", "few"],
    "limit_val_batches": ["-1", "1.5"],
    "limit_test_batches": ["-0.1", "[1]"],
    "val_check_interval": ["-1", "1.5", "often"],
    "check_val_every_n_epoch": ["0.5", "two"],
    "profiler": ["simpel"],
    "num_sanity_val_steps": ["-2", "0.5"],
    "log_every_n_steps": ["0", "often"],
    "enable_model_summary": ["1"],
    "logger": ["csv"],
    "enable_progress_bar": ["false"],
    "gradient_clip_algorithm": ["foo"],
    "max_time": ["soon", "3"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_value_that_is_not_accepted_is_one_line_that_names_the_key(tmp_path, name, value):
    config = OmegaConf.merge(BASE, OmegaConf.from_dotlist([f"trainer.{name}={value}"]))
    with pytest.raises(UserError, match=rf"^trainer\.{name}\b[^\n]*$"):
        Training(config, read_settings(config), RunFolder(tmp_path / "run"), resume=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("limit_train_batches=0.01", "You requested to check 0.01 of the `train_dataloader` but 0.01 * 11 < 1."),
        ("limit_test_batches=0.1", "You requested to check 0.1 of the `test_dataloader` but 0.1 * 1 < 1."),
        ("val_check_interval=12", "`val_check_interval` (12) must be less than or equal to the number of the training"),
    ],
)
def test_what_lightning_refuses_when_it_knows_the_data_is_a_plain_line(tmp_path, typed, words):
    with pytest.raises(Exception, match=re.escape(words)) as info:
        train(configure(*QUICK, "model=mlp", f"+trainer.{typed}"), tmp_path / "run")
    assert words in words_for(info.value)
    assert summary(tmp_path / "run")["status"] == "failed"
