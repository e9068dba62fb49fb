"""What the recorder writes: steps, tags, numbers; and that no step is lost."""

import lightning.pytorch as pl
import pytest
import torch
from conftest import events, norms, recorded_steps, weights
from foreign import Segmenter, fit

from rowgrad import RowGradientRecorder

pytestmark = pytest.mark.gpu
# What Lightning would have such a module do better: workers.
ANY_MODULE = pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")

TAGS = [f"{q}/row_{r:02d}" for q in ("row_grad_norm", "input_grad_norm", "row_update_norm") for r in range(28)]


def test_event_files_and_csv_have_every_step_with_the_same_numbers(run):
    folder = run("scenario=augment", "trainer.max_epochs=2", "callbacks.recorder.flush_every_n_steps=7")
    assert recorded_steps(folder) == list(range(22))
    scalars = events(folder)
    for tag in ["train/loss", "grad_flow/cut_fraction", *TAGS]:
        assert [step for step, _ in scalars[tag]] == list(range(22)), tag
    assert {"val/acc", "val/loss", "test/acc", "test/loss", "test/acc_operated"} <= scalars.keys()
    for quantity in ("row_grad_norm", "input_grad_norm"):
        logged = torch.tensor([[value for _, value in scalars[f"{quantity}/row_{r:02d}"]] for r in range(28)]).T
        torch.testing.assert_close(logged, norms(folder, quantity).float(), rtol=2e-7, atol=0)
    energy = norms(folder, "input_grad_norm") ** 2
    fractions = torch.tensor([value for _, value in scalars["grad_flow/cut_fraction"]])
    torch.testing.assert_close(fractions.double(), energy[:, :14].sum(1) / energy.sum(1), rtol=1e-6, atol=0)


def test_row_updates_add_up_to_what_the_rows_moved_and_cut_rows_stay(run):
    folder = run("scenario=augment", "trainer.max_steps=1", "callbacks.recorder.quantities=[row_update_norm]")
    moved = weights(folder)["theta"][0].double().norm(dim=1).cpu()
    logged = torch.tensor([events(folder)[f"row_update_norm/row_{r:02d}"][0][1] for r in range(28)])
    torch.testing.assert_close(logged.double(), moved, rtol=1e-6, atol=0)
    assert (moved[:14] == 0).all()
    assert (moved[14:] > 0).all()


def test_economy_records_every_tenth_step(run):
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


def test_recording_changes_no_weight(run):
    watched = weights(run("scenario=augment", name="watched"))
    alone = weights(run("scenario=augment", "callbacks=silent", "callbacks.progress=null", name="alone"))
    assert all(watched[key].equal(alone[key]) for key in watched)


class FailAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise ZeroDivisionError


@ANY_MODULE
def test_a_failure_loses_no_completed_step(tmp_path):
    recorder = RowGradientRecorder(flush_every_n_steps=4, dirpath=tmp_path)
    with pytest.raises(ZeroDivisionError):
        fit(Segmenter(), Segmenter.batches(), tmp_path, recorder=recorder, callbacks=[FailAt(6)])
    assert recorded_steps(tmp_path) == list(range(6))
    assert [step for step, _ in events(tmp_path)["tap_grad_norm/row_00"]] == list(range(6))


class FileWatcher(pl.Callback):
    """Counts the steps in a file after each batch."""

    def __init__(self, file):
        self.file, self.counts = file, []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.counts.append(max(len(self.file.read_text().splitlines()) - 1, 0))


@ANY_MODULE
def test_the_first_steps_are_written_soon_and_then_many_at_once(tmp_path):
    watcher = FileWatcher(tmp_path / "row_gradients.csv")
    recorder = RowGradientRecorder(flush_every_n_steps=30, dirpath=tmp_path)
    fit(Segmenter(), Segmenter.batches(80, 1), tmp_path, loggers=False, recorder=recorder, callbacks=[watcher])
    written = [10, 20, 40, 70]  # ten, ten, twenty, then thirty at once
    assert watcher.counts == [max([0, *(count for count in written if count <= step)]) for step in range(1, 81)]
    assert recorded_steps(tmp_path) == list(range(80))


@ANY_MODULE
def test_gradients_that_fill_the_memory_are_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("rowgrad.watch.recording.BYTES", 3000)  # a step has two gradients of 1152 and 768 bytes
    watcher = FileWatcher(tmp_path / "row_gradients.csv")
    recorder = RowGradientRecorder(dirpath=tmp_path)
    fit(Segmenter(), Segmenter.batches(), tmp_path, loggers=False, recorder=recorder, callbacks=[watcher])
    assert watcher.counts == [0, 2, 2, 4, 4, 6, 6]
