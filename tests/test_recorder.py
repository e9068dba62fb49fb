"""What the recorder writes: which steps, which tags, and that nothing is lost."""

import lightning.pytorch as pl
import pytest
import torch
from conftest import build, configure, events, norms, recorded_steps, weights
from lightning.pytorch.loggers import TensorBoardLogger

from rowgrad import RowGradientRecorder
from rowgrad.errors import UserError

pytestmark = pytest.mark.gpu

TAGS = [f"{q}/row_{r:02d}" for q in ("row_grad_norm", "input_grad_norm", "row_update_norm") for r in range(28)]


def test_every_step_is_in_the_files_with_all_its_tags(run):
    folder = run("scenario=augment", "trainer.max_epochs=2", "callbacks.recorder.flush_every_n_steps=7")
    assert recorded_steps(folder) == list(range(22))
    scalars = events(folder)
    for tag in ["train/loss", "grad_flow/cut_fraction", *TAGS]:
        assert [step for step, _ in scalars[tag]] == list(range(22)), tag
    assert {"val/acc", "val/loss", "test/acc", "test/loss", "test/acc_operated"} <= scalars.keys()


def test_event_files_and_csv_hold_the_same_norms(run):
    folder = run("scenario=augment")
    scalars = events(folder)
    for quantity in ("row_grad_norm", "input_grad_norm"):
        logged = torch.tensor([[value for _, value in scalars[f"{quantity}/row_{r:02d}"]] for r in range(28)]).T
        torch.testing.assert_close(logged, norms(folder, quantity).float(), rtol=2e-7, atol=0)


def test_the_cut_fraction_is_that_of_the_norms(run):
    folder = run("scenario=augment")
    energy = norms(folder, "input_grad_norm") ** 2
    expected = energy[:, :14].sum(1) / energy.sum(1)
    logged = torch.tensor([value for _, value in events(folder)["grad_flow/cut_fraction"]])
    torch.testing.assert_close(logged.double(), expected, rtol=1e-6, atol=0)


def test_row_updates_add_up_to_what_the_rows_moved_and_cut_rows_stay(run):
    folder = run("scenario=augment", "trainer.max_steps=1", "callbacks.recorder.quantities=[row_update_norm]")
    moved = weights(folder)["theta"][0].double().norm(dim=1).cpu()
    logged = torch.tensor([events(folder)[f"row_update_norm/row_{r:02d}"][0][1] for r in range(28)])
    torch.testing.assert_close(logged.double(), moved, rtol=1e-6, atol=0)
    assert (moved[:14] == 0).all()
    assert (moved[14:] > 0).all()


def test_every_tenth_step_means_every_tenth_step(run):
    folder = run("callbacks=economy", "callbacks.progress=null", "trainer.max_epochs=3", "data.batch_size=64")
    assert [step for step, _ in events(folder)["row_grad_norm/row_00"]] == list(range(0, 63, 10))
    assert recorded_steps(folder) == list(range(0, 63, 10))
    assert "input_grad_norm/row_00" not in events(folder)


def test_losses_are_those_of_the_recorded_steps(run):
    losses = {}
    for every in (1, 3):
        folder = run(
            f"callbacks.recorder.every_n_steps={every}",
            "trainer.accumulate_grad_batches=2",
            "data.batch_size=64",
            name=f"every{every}",
        )
        losses[every] = events(folder)["train/loss"]
    assert losses[3] == losses[1][::3]


@pytest.mark.parametrize("callbacks", ["silent", "economy"])
def test_recording_changes_nothing_that_is_learnt(run, callbacks):
    watched = weights(run("scenario=augment", name="watched"))
    alone = weights(run("scenario=augment", f"callbacks={callbacks}", "callbacks.progress=null", name="alone"))
    assert all(watched[key].equal(alone[key]) for key in watched)


class FailAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise ZeroDivisionError


def test_a_failure_loses_no_completed_step(tmp_path):
    data, module = build(configure("data=digits", "scenario=augment"))
    with pytest.raises(ZeroDivisionError):
        pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            callbacks=[RowGradientRecorder(flush_every_n_steps=4, dirpath=tmp_path), FailAt(6)],
            logger=TensorBoardLogger(tmp_path, name="tensorboard", version=""),
            default_root_dir=str(tmp_path),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
        ).fit(module, datamodule=data)
    assert recorded_steps(tmp_path) == list(range(6))
    assert [step for step, _ in events(tmp_path)["train/loss"]] == list(range(6))


class FileWatcher(pl.Callback):
    """How many steps stand in a file after each batch."""

    def __init__(self, file):
        self.file, self.counts = file, []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.counts.append(len(self.file.read_text().splitlines()) - 1 if self.file.exists() else 0)


def test_the_first_steps_are_written_soon_and_then_many_at_once(tmp_path):
    data, module = build(configure("data=digits", "scenario=augment", "data.batch_size=16"))
    watcher = FileWatcher(tmp_path / "row_gradients.csv")
    pl.Trainer(
        accelerator="cpu",
        max_steps=80,
        callbacks=[RowGradientRecorder(flush_every_n_steps=30, dirpath=tmp_path), watcher],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, datamodule=data)
    written = [10, 20, 40, 70]  # ten, ten, twenty, and from then on thirty at once
    assert watcher.counts == [max([0, *(count for count in written if count <= step)]) for step in range(1, 81)]
    assert recorded_steps(tmp_path) == list(range(80))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"every_n_steps": 0}, "callbacks.recorder.every_n_steps=0 is not a whole number of at least 1"),
        ({"flush_every_n_steps": 1.5}, "callbacks.recorder.flush_every_n_steps=1.5"),
        ({"quantities": ["norm"]}, "is not a list of one or more of input_grad_norm, row_grad_norm, row_update_norm"),
        ({"quantities": []}, "is not a list of one or more of"),
    ],
)
def test_a_setting_that_is_not_accepted_is_named(settings, words):
    with pytest.raises(UserError, match=words):
        RowGradientRecorder(**settings)
