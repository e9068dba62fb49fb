"""Runs that are killed near their end, at any hook: resumed, all that they leave is as if they had been left alone.

What a SIGKILL at a moment leaves is a copy of the run's folder at that moment, with the events that were written by
then, or with those that were still kept back too.
"""

import os
import shutil
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest
from conftest import configure, train
from kill import differences
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import OmegaConf

from rowgrad.data.datamodule import ImageData
from rowgrad.folders import RunFolder
from rowgrad.training import train as run
from rowgrad.training.train import Training
from rowgrad.watch.loggers import save_loggers
from rowgrad.watch.quantities import ABOUT

QUICK = ["data=digits", "trainer.accelerator=cpu", "callbacks.progress=null", "model=mlp", "model.network.dropout=0.3"]
QUICK += ["scenario.operation=noise 1", "+trainer.limit_train_batches=4", "callbacks.checkpoints.every_n_steps=3"]
QUICK += ["callbacks.recorder.flush_every_n_steps=2", "callbacks.histograms.every_n_steps=2"]
QUICK += ["callbacks.pictures.every_n_steps=3"]
# Row updates of before a resume are in no file, so that their picture is another one.
QUICK += ["callbacks.recorder.quantities=[row_grad_norm,input_grad_norm]", "callbacks.pictures.digits=1"]

SNAPSHOTS = [f"+callbacks.{name}={{_target_: test_kills.{name}}}" for name in ("Before", "After")]
STOPPING = "+callbacks.stopping={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/acc, mode: max"
STOPPING += ", patience: 1, min_delta: 1}"


def take_snapshot(trainer, name):
    """Copies a run's folder, once for each content, twice where there are events that are not written yet."""
    folder = Path(trainer.default_root_dir)
    if folder.name != "alone" or trainer.global_step < FIRST[0]:
        return
    for suffix in ("", "-flushed"):
        if suffix:
            save_loggers(trainer)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
        content = [(path, path.read_bytes()) for path in files]
        if content not in TAKEN:
            TAKEN.append(content)
            target = folder.parent / f"{len(TAKEN):02d}-step{trainer.global_step}-{name}{suffix}"
            shutil.copytree(folder, target, ignore=shutil.ignore_patterns(".lock"))


TAKEN, FIRST = [], [0]  # contents, and the first step that is looked at


class Before(pl.Callback):
    """Comes before all others."""


class After(Checkpoint):
    """Comes after all others."""


def _hook(kind, name):
    def hook(_, trainer, *__, **___):
        take_snapshot(trainer, f"{name}-{kind.__name__}")

    return hook


for each in (Before, After):
    for hook in dir(pl.Callback):
        if hook.startswith("on_") and hook != "on_load_checkpoint":
            setattr(each, hook, _hook(each, hook))


def _watch_the_report(monkeypatch):
    """Takes snapshots around what is written after the test."""
    trainers = []

    def around(name, function):
        def wrapped(*arguments):
            take_snapshot(trainers[-1], f"before-{name}")
            function(*arguments)
            take_snapshot(trainers[-1], f"after-{name}")

        return wrapped

    original = Training.__init__

    def keep(self, *arguments, **others):
        original(self, *arguments, **others)
        trainers.append(self.trainer)

    monkeypatch.setattr(Training, "__init__", keep)
    monkeypatch.setattr(run, "write_outcome", around("outcome", run.write_outcome))
    monkeypatch.setattr(RunFolder, "write_summary", around("summary", RunFolder.write_summary))


TWO = ["trainer.max_epochs=2"]
ENDS = {
    "the last epoch": (6, TWO),
    "the end of an epoch": (2, [*TWO, "trainer.max_steps=5", "callbacks.pictures.every_n_steps=9"]),
    "max_steps": (5, [*TWO, "trainer.max_steps=6"]),
    "max_steps and a validation": (5, [*TWO, "trainer.max_steps=6", "+trainer.val_check_interval=2"]),
    "accumulated": (2, [*TWO, "trainer.max_steps=3", "trainer.accumulate_grad_batches=2"]),
    "no improvement": (7, ["trainer.max_epochs=5", STOPPING]),
    "no improvement within an epoch": (6, ["trainer.max_epochs=5", "+trainer.val_check_interval=3", STOPPING]),
    "no recorder": (5, [*TWO, "trainer.max_steps=5", "callbacks.recorder=null"]),
}


QUICKEST = "max_steps"


@pytest.mark.parametrize(
    ("first", "switches"),
    [pytest.param(*end, id=name, marks=[pytest.mark.slow] * (name != QUICKEST)) for name, end in ENDS.items()],
)
def test_a_run_that_is_killed_near_its_end_leaves_what_it_would_have_left_alone(tmp_path, first, switches, monkeypatch):
    TAKEN.clear()
    FIRST[0] = first
    _watch_the_report(monkeypatch)
    alone = tmp_path / "alone"
    train(configure(*QUICK, *SNAPSHOTS, *switches), alone)
    snapshots = sorted(path for path in tmp_path.iterdir() if path != alone)
    assert len(snapshots) > 5
    found = {}
    for killed in snapshots:
        train(OmegaConf.load(killed / "config.yaml"), killed, resume=True)
        if wrong := differences(alone, killed):
            found[killed.name] = wrong
    assert not found, "\n".join(f"{name}: {wrong}" for name, wrong in found.items())


class Signal(pl.Callback):
    """Sends a signal to its own process, once: at a hook, where so many steps are done."""

    hook, step = "", 0

    def on_train_batch_end(self, trainer, *_):
        self._send("on_train_batch_end", trainer)

    def on_validation_end(self, trainer, *_):
        self._send("on_validation_end", trainer)

    @classmethod
    def _send(cls, hook, trainer):
        if (hook, trainer.global_step) == (cls.hook, cls.step):
            cls.hook = ""
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("switches", "moments"),
    {
        "validations": (
            [*TWO, "+trainer.val_check_interval=2", "callbacks.checkpoints.every_n_steps=2"],
            [("on_train_batch_end", step) for step in (2, 3, 4, 6)],
        ),
        "an end": ([*TWO, "trainer.max_steps=6"], [("on_train_batch_end", 6)]),
        "no improvement": (
            ["trainer.max_epochs=5", STOPPING, "callbacks.pictures.every_n_steps=9"],
            [("on_train_batch_end", 4), ("on_train_batch_end", 7), ("on_validation_end", 8)],
        ),
    }.values(),
    ids=("validations", "an end", "no improvement"),
)
@pytest.mark.slow
def test_a_run_that_was_interrupted_leaves_what_it_would_have_left_alone(tmp_path, switches, moments):
    config = configure(*QUICK, "+callbacks.signal={_target_: test_kills.Signal}", *switches)
    alone, found = tmp_path / "alone", {}
    train(config, alone)
    for Signal.hook, Signal.step in moments:
        stopped = tmp_path / f"{Signal.hook}-{Signal.step}"
        assert train(config, stopped)["status"] == "interrupted"
        train(config, stopped, resume=True)
        if wrong := differences(alone, stopped):
            found[stopped.name] = wrong
    assert not found, "\n".join(f"{name}: {wrong}" for name, wrong in found.items())


def test_a_signal_before_a_run_that_goes_on_has_loaded_its_checkpoint_leaves_no_trace(tmp_path, monkeypatch):
    config = configure(*QUICK, "callbacks.pictures=null", "trainer.max_steps=3")
    alone, stopped = tmp_path / "alone", tmp_path / "stopped"
    for folder in (alone, stopped):
        train(config, folder)
    (stopped / "summary.json").unlink()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ImageData, "setup", interrupted)
        ended = train(config, stopped, resume=True)
    assert (ended["status"], ended["train/steps"]) == ("interrupted", 3)
    train(config, stopped, resume=True)
    assert differences(alone, stopped) == []


@pytest.mark.parametrize(("limit", "before", "after"), [("max_epochs", 1, 2), ("max_steps", 5, 7), ("max_steps", 4, 6)])
def test_a_run_that_is_extended_leaves_what_it_would_have_left_at_once(tmp_path, limit, before, after):
    constant = ["optimizer.schedule=constant", "callbacks.pictures=null"]  # which a shorter run has at its own end
    whole = configure(*QUICK, *TWO, *constant, f"trainer.{limit}={after}")
    train(whole, tmp_path / "whole")
    train(configure(*QUICK, *TWO, *constant, f"trainer.{limit}={before}"), tmp_path / "extended")
    train(whole, tmp_path / "extended", resume=True)
    # What it is was written when it began.
    written = {"config/text_summary", "_hparams_/session_start_info", ABOUT}
    assert set(differences(tmp_path / "whole", tmp_path / "extended")) <= {f"tensorboard: {tag}" for tag in written}
