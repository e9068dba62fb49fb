"""Pictures for TensorBoard's *Images*: norms of all rows at all steps, digits as the network sees them, learnt rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from rowgrad.model.classifier import RowClassifier
from rowgrad.scenario.settings import STATE
from rowgrad.watch.loggers import add_pictures, writers, writes_events
from rowgrad.watch.quantities import ARRIVES, REACHES, arriving
from rowgrad.watch.recorder import recorder_of
from rowgrad.watch.settings import PicturesSettings
from rowgrad.watch.wording import describe_stopped, describe_vanishing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rowgrad.data.batches import Batch


class Pictures(pl.Callback):
    """Draws what is recorded, every `every_n_steps` optimizer steps and at the end of training.

    Logs, as images:
        * `pictures/1_row_gradients`: row × step heatmaps of the recorded norms, the selected rows marked
        * `pictures/2_digits`: images of the last batch, as they are, as the network and as observers saw them, with the
          recorded row and input gradient norms, averaged over all steps
        * `pictures/3_learnt_rows`: θ

    Args:
        first: optimizer steps until the first set of pictures.
        every_n_steps: optimizer steps from one set of pictures to the next.
        digits: how many images are shown.

    Raises:
        UserError: a value that is not accepted; it names the key.
    """

    def __init__(
        self,
        first: int = PicturesSettings.first,
        every_n_steps: int = PicturesSettings.every_n_steps,
        digits: int = PicturesSettings.digits,
    ) -> None:
        settings = PicturesSettings(first=first, every_n_steps=every_n_steps, digits=digits)
        self.first, self.every_n_steps, self.digits = settings.first, settings.every_n_steps, settings.digits
        self._drawn = 0
        self._batch: Batch | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Makes the recorder keep the history that is drawn."""
        recorder = recorder_of(trainer)
        if recorder is not None:
            recorder.keeps_history = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Skips the first step of a resumed run, which is drawn already."""
        self._drawn = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draws at a step that is due."""
        self._batch = batch
        if trainer.global_step == self.first or trainer.global_step % self.every_n_steps == 0:
            self._draw(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Draws the whole run before its last checkpoint is written: a run that resumes from that trains no more."""
        if trainer.training and is_at_its_end(trainer):
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the whole run if it has no checkpoints. An interrupted run is not whole."""
        if not trainer.interrupted:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, RowClassifier), "it has θ and a scenario"
        if not writes_events(trainer) or trainer.global_step == self._drawn or self._batch is None:
            return
        self._drawn = trainer.global_step
        recorder = recorder_of(trainer)
        if recorder is not None:
            recorder.flush()  # needs all ranks
        if not trainer.is_global_zero:
            return
        from rowgrad.watch import figures  # late: matplotlib takes half a second

        selected = module.scenario.selected.tolist()
        steps, norms = recorder.recorded() if recorder is not None else (None, {})
        norms = {name: values for name, values in norms.items() if values.shape[1] == len(selected)}  # image rows
        pictures = {"3_learnt_rows": figures.learnt_rows(module.theta.detach().cpu(), selected)}
        if steps is not None and len(steps):
            words = "; ".join(filter(None, [describe_stopped(norms), describe_vanishing(arriving(norms))]))
            pictures["1_row_gradients"] = figures.heatmaps(steps, norms, selected, words)
        pictures["2_digits"] = self._digits(module, self._batch, {q: n.nanmean(0) for q, n in norms.items()})
        pages = {f"pictures/{name}": figures.png(figure) for name, figure in sorted(pictures.items())}
        for writer in writers(trainer):
            add_pictures(writer, pages, trainer.global_step - 1)

    def _digits(self, module: RowClassifier, batch: Batch, means: dict[str, Any]) -> Figure:
        """The batch's first images on their way to the network in the optimizer step that was just done."""
        from rowgrad.watch import figures

        scenario, draw = module.scenario, module.training_draw(batch, steps_ago=1)
        images = batch.images[: self.digits]
        damaged = module.corruption(images)
        views = {
            "original": images,
            "camera gave": damaged,
            "network saw": scenario(damaged + module.theta.detach(), draw),
        }
        if module.corruption.is_noop:
            del views["camera gave"]
        if not scenario.is_noop and scenario.route != STATE:
            views["observer saw"] = scenario.observed(damaged + module.theta.detach(), draw)
        beside = {"original": ("‖∂L/∂θᵣ‖", REACHES), "network saw": ("‖∂L/∂τᵣ‖", ARRIVES)}
        bars = {view: (f"mean {words}", means[q]) for view, (words, q) in beside.items() if q in means}
        return figures.digits({name: view.cpu() for name, view in views.items()}, bars, scenario.selected.tolist())


def is_at_its_end(trainer: pl.Trainer) -> bool:
    """Whether training ends, without a signal, with the step or the epoch that was just done."""
    steps, epochs, loop = trainer.max_steps, trainer.max_epochs or -1, trainer.fit_loop
    all_steps, all_epochs = 0 <= steps <= trainer.global_step, 0 <= epochs <= trainer.current_epoch + 1
    stops = trainer.should_stop and not trainer.interrupted and loop._can_stop_early  # noqa: SLF001
    return all_steps or (all_epochs and trainer.is_last_batch) or stops
