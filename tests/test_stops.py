"""Ctrl-C, SIGTERM and SIGUSR1: training ends with a whole step and exit code 130, and resumes to the last bit."""

import os
import signal
import sys

import lightning.pytorch as pl
import pytest
from conftest import (
    DEFAULTS,
    TRAIN,
    assert_identical,
    command,
    configure,
    events,
    recorded_steps,
    start,
    summary,
    train,
    wait_for,
)
from omegaconf import OmegaConf

from rowgrad.data.datamodule import ImageData
from rowgrad.errors import run_script
from rowgrad.model.classifier import RowClassifier
from rowgrad.training.signals import STOPPING, StopOnSignal

QUICK = ["data=digits", "trainer.accelerator=cpu", "model=mlp", "callbacks.progress=null", "callbacks.pictures=null"]
QUICK += ["scenario.operation=noise 1", "model.network.dropout=0.3", "trainer.accumulate_grad_batches=2"]
QUICK += ["trainer.max_epochs=2", "callbacks.histograms=null"]


class Sender(pl.Callback):
    """Sends its own process a signal in the middle of an optimizer step, between two micro-batches."""

    number = signal.SIGINT

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 4 and batch_idx % 2 and Sender.number:
            os.kill(os.getpid(), Sender.number)
            Sender.number = None


SENDER = "+callbacks.sender={_target_: test_stops.Sender}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run that no signal stops."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    Sender.number = None
    train(configure(*QUICK, SENDER), folder)
    return folder


def is_as_if_left_alone(run, alone):
    train(OmegaConf.load(run / "config.yaml"), run, resume=True)
    assert_identical(run, alone)
    facts = [{k: v for k, v in summary(folder).items() if k != "train/seconds"} for folder in (run, alone)]
    assert facts[0] == facts[1]
    assert events(run) == events(alone)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_while_training_finishes_the_step_and_the_run_resumes_to_the_last_bit(alone, tmp_path, capfd, number):
    before = [signal.getsignal(each) for each in STOPPING]
    Sender.number, run = number, tmp_path / "run"
    train(configure(*QUICK, SENDER), run)
    captured = capfd.readouterr()
    assert f"{number.name}: finishing this step, then saving." in captured.err
    assert "interrupted after step 5; not tested" in captured.out
    assert f"resume={run}" in captured.out
    assert (summary(run)["status"], summary(run)["train/steps"]) == ("interrupted", 5)
    assert [signal.getsignal(each) for each in STOPPING] == before
    is_as_if_left_alone(run, alone)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_testing_is_an_interruption_too(alone, tmp_path, monkeypatch, number):
    Sender.number, run = None, tmp_path / "run"
    step = RowClassifier.test_step

    def interrupted(*arguments):
        os.kill(os.getpid(), number)
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RowClassifier, "test_step", interrupted)
        train(configure(*QUICK, SENDER, "data.eval_batch_size=50"), run)
    assert summary(run)["status"] == "interrupted"
    assert "test/acc" not in summary(run)
    train(OmegaConf.load(run / "config.yaml"), run, resume=True)
    assert summary(run)["test/acc"] == summary(alone)["test/acc"]


def test_ctrl_c_while_data_are_set_up_is_an_interruption_too(alone, tmp_path, monkeypatch):
    Sender.number, run = None, tmp_path / "run"

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ImageData, "setup", interrupted)
        assert train(configure(*QUICK, SENDER), run)["status"] == "interrupted"
    is_as_if_left_alone(run, alone)


def test_a_signal_that_the_process_ignores_stays_ignored(tmp_path):
    """As in a background job, or under nohup."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        Sender.number = signal.SIGINT
        train(configure(*QUICK, SENDER), tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert summary(tmp_path / "run")["status"] == "done"


def test_a_second_signal_leaves_at_once(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    stop = StopOnSignal()
    stop._receive(signal.SIGINT, None)
    assert not codes
    stop._receive(signal.SIGINT, None)
    assert codes == [130]


def test_ctrl_c_outside_of_training_is_one_line(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with pytest.raises(SystemExit) as info:
        run_script("train", interrupted)
    assert info.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


# A command that gets SIGINT when a function is called for the first time.
INTERRUPTED = """
import importlib, os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
module, name = sys.argv[1].split(":")
sys.argv = sys.argv[2:]
owner = importlib.import_module(module)
function = getattr(owner, name)
def interrupted(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGINT)
    return function(*args, **kwargs)
setattr(owner, name, interrupted)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("moment", ["rowgrad.training.command:read_settings", "rowgrad.training.train:build"])
def test_ctrl_c_before_a_run_has_a_folder_is_one_line_and_leaves_nothing(tmp_path, moment):
    result = command("-c", INTERRUPTED, moment, TRAIN, *QUICK, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (130, "interrupted\n")
    assert not list(tmp_path.iterdir())


def test_the_command_ends_with_130_and_says_how_to_go_on(tmp_path):
    run = tmp_path / "run"
    endless = ["trainer.max_epochs=100000", "callbacks.recorder.flush_every_n_steps=5", f"hydra.run.dir={run}"]
    process = start("-c", DEFAULTS, TRAIN, *QUICK, *endless, cwd=tmp_path)
    wait_for(process, (run / "row_gradients.csv").is_file)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert f"interrupted after step {summary(run)['train/steps']}; not tested" in output
    assert "go on          python scripts/train.py resume=run\n" in output


@pytest.mark.slow
def test_ranks_stop_after_the_same_step_whichever_got_the_signal(tmp_path):
    run = tmp_path / "run"
    ddp = ["trainer=ddp", "trainer.devices=2", "trainer.max_epochs=1000", "callbacks.recorder.flush_every_n_steps=5"]
    process = start(TRAIN, *QUICK, *ddp, f"hydra.run.dir={run}", cwd=tmp_path)
    wait_for(process, (run / "row_gradients.csv").is_file)
    process.send_signal(signal.SIGTERM)  # to rank 0 alone
    assert process.wait(timeout=60) == 130
    assert summary(run)["status"] == "interrupted"
    assert recorded_steps(run) == list(range(summary(run)["train/steps"]))
