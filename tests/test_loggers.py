"""Where a run is logged: TensorBoard, a CSV table, Weights & Biases, several of them, none."""

import json
import struct
import threading

import lightning.pytorch as pl
import pytest
from conftest import QUICK, TRAIN, configure, done, events, recorded_steps, train
from omegaconf import OmegaConf
from test_switches import read_csv, summary

from rowgrad.errors import UserError


def test_every_logger_of_a_list_gets_every_number_at_its_step_and_the_hyperparameters(tmp_path):
    run = tmp_path / "run"
    train(configure(*QUICK, "model=mlp", "logger=[tensorboard,csv]", "trainer.max_epochs=2"), run)
    (version,) = (run / "csv").iterdir()
    shown, logged = events(run), read_csv(version / "metrics.csv")
    del shown["grad_flow/mean_cut_fraction"], shown["grad_bias/mean_cosine"]  # how it ended, for TensorBoard's HParams
    assert logged.keys() == {tag for tag in shown if not tag.startswith("_hparams_")}
    for tag, values in logged.items():
        assert [step for step, _ in values] == [step for step, _ in shown[tag]], tag
        assert [value for _, value in values] == pytest.approx([value for _, value in shown[tag]])
    steps = list(range(22))
    for tag in ("row_grad_norm/row_20", "input_grad_norm/row_03", "grad_flow/cut_fraction", "train/loss"):
        assert [step for step, _ in logged[tag]] == steps
    hyperparameters = OmegaConf.load(version / "hparams.yaml")
    assert (hyperparameters.scenario, hyperparameters.seed, hyperparameters.rows) == ("augment", 0, "0:14")


@pytest.mark.parametrize("typed", ["logger=null", "logger=none"])
def test_without_a_logger_norms_and_summary_are_left(tmp_path, typed):
    arguments = [*QUICK, "model=mlp", "trainer.max_steps=3", typed, f"hydra.run.dir={tmp_path / 'run'}"]
    result = done(TRAIN, *arguments, cwd=tmp_path)
    assert "watch it" not in result.stdout
    assert result.stdout.splitlines()[-1] == "run's folder   run"
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert recorded_steps(tmp_path / "run") == [0, 1, 2]
    assert summary(tmp_path / "run")["status"] == "done"


def records(file):
    """The records of W&B's file: LevelDB's log format after a header of its own."""
    data, block, place, record = file.read_bytes(), 32768, 7, b""
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in {1, 4}:  # whole, or its last part
            yield record
            record = b""


def wandb_numbers(folder):
    """What an offline run of W&B has written: tag -> (step, value), and its hyperparameters."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("*.wandb")
    numbers, config = {}, {}
    for data in records(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        row = {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}
        for tag, value in row.items():
            numbers.setdefault(tag, []).append((row.get("trainer/global_step"), value))
        for change in (record.config, record.run.config):
            config |= {item.key: json.loads(item.value_json) for item in change.update}
    return numbers, config


@pytest.mark.slow
def test_a_sweep_logged_to_wandb_leaves_a_run_of_its_own_for_each_job(tmp_path):
    pytest.importorskip("wandb")
    overrides = ["logger=[csv,wandb]", "seed=0,1", "trainer.max_steps=4", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    done(TRAIN, "-m", *QUICK, "model=mlp", *overrides, cwd=tmp_path)
    for seed in (0, 1):
        job = tmp_path / "sweep" / f"seed-{seed}"
        (offline,) = (job / "wandb").glob("offline-run-*")
        numbers, config = wandb_numbers(offline)
        table = read_csv(job / "csv" / "version_0" / "metrics.csv")
        assert (config["seed"], config["scenario"]) == (seed, "augment")
        assert [step for step, _ in numbers["train/loss"]] == [0, 1, 2, 3]
        for tag in table:
            assert [step for step, _ in numbers[tag]] == [step for step, _ in table[tag]], tag
            assert [value for _, value in numbers[tag]] == pytest.approx([value for _, value in table[tag]]), tag


def test_wandb_that_is_missing_is_one_plain_line(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", "")
    with pytest.raises(UserError, match=r"^logger\.wandb: "):
        train(configure(*QUICK, "logger=wandb"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Refusing(pl.loggers.CSVLogger):
    """A logger that cannot begin, as one of a service that nobody has logged in to."""

    def log_hyperparams(self, params=None):
        raise RuntimeError("no key")


def test_a_logger_that_cannot_begin_is_one_plain_line(tmp_path):
    config = configure(*QUICK, "+logger.mine={_target_: test_loggers.Refusing}")
    threads = threading.active_count()
    with pytest.raises(UserError, match=r"^logger: Refusing cannot begin: no key$"):
        train(config, tmp_path / "run")
    assert threading.active_count() == threads  # none writes to the event file of a run that is over
