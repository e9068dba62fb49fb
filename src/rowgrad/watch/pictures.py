"""Pictures for TensorBoard's *Images*: norms of all rows at all steps, the learnt rows, digits as who sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from rowgrad.model.classifier import RowClassifier
from rowgrad.process import SIGNALS
from rowgrad.scenario.settings import STATE
from rowgrad.watch.events import add_pictures
from rowgrad.watch.norms import arriving
from rowgrad.watch.outlets import writers, writes_events
from rowgrad.watch.quantities import ARRIVES, REACHES
from rowgrad.watch.recorder import recorder_of
from rowgrad.watch.settings import PicturesSettings
from rowgrad.watch.wording import describe_stopped, describe_vanishing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rowgrad.data.batches import Batch


class Pictures(pl.Callback):
    """Draws what the recorder has, at the end of training and every so many optimizer steps.

    Logs, as images:
        * `pictures/1_row_gradients`: row × step heatmaps of the recorded norms, the selected rows marked
        * `pictures/2_digits`: images of the last batch: as they are, as the network saw them, as observers saw them;
          beside them the recorded row and input gradient norms, averaged over all steps
        * `pictures/3_learnt_rows`: θ

    Args:
        first: optimizer steps until the first set of pictures.
        every: optimizer steps from one set of pictures to the next.
        digits: how many images are shown.

    Raises:
        UserError: a value that is not accepted; it names the key.
    """

    def __init__(
        self,
        first: int = PicturesSettings.first,
        every: int = PicturesSettings.every,
        digits: int = PicturesSettings.digits,
    ) -> None:
        settings = PicturesSettings(first=first, every=every, digits=digits)
        self.first, self.every, self.digits = settings.first, settings.every, settings.digits
        self._drawn = 0
        self._batch: Batch | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Asks the recorder to remember."""
        recorder = recorder_of(trainer)
        if recorder is not None:
            recorder.keeps_history = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What a resumed run begins with is drawn already."""
        self._drawn = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draws when it is due."""
        self._batch = batch
        if trainer.global_step == self.first or trainer.global_step % self.every == 0:
            self._draw(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Draws the whole run before its last checkpoint is there: whoever goes on from that trains no more."""
        if trainer.training and is_at_its_end(trainer):
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the whole run where there are no checkpoints; a run that was interrupted is not whole."""
        if not SIGNALS.stops:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, RowClassifier), "these are pictures of its rows"
        if not writes_events(trainer) or trainer.global_step == self._drawn or self._batch is None:
            return
        self._drawn = trainer.global_step
        recorder = recorder_of(trainer)
        if recorder is not None:
            recorder.flush(trainer)  # all ranks take part
        if not trainer.is_global_zero:
            return
        from rowgrad.watch import figures  # late: matplotlib takes half a second

        selected = module.scenario.selected.tolist()
        steps, norms = recorder.recorded() if recorder is not None else (None, {})
        norms = {name: values for name, values in norms.items() if values.shape[1] == len(selected)}  # of the image
        pictures = {"3_learnt_rows": figures.learnt_rows(module.theta.detach().cpu(), selected)}
        if steps is not None and len(steps):
            words = "; ".join(filter(None, [describe_stopped(norms), describe_vanishing(arriving(norms))]))
            pictures["1_row_gradients"] = figures.heatmaps(steps, norms, selected, words)
        pictures["2_digits"] = self._digits(module, self._batch, {q: n.nanmean(0) for q, n in norms.items()})
        pages = {f"pictures/{name}": figures.png(figure) for name, figure in sorted(pictures.items())}
        for writer in writers(trainer):
            add_pictures(writer, pages, trainer.global_step - 1)

    def _digits(self, module: RowClassifier, batch: Batch, means: dict[str, Any]) -> Figure:
        """What the batch's first images went through in the optimizer step that is just done."""
        from rowgrad.watch import figures

        scenario, draw = module.scenario, module.training_draw(batch, steps_ago=1)
        images = batch.images[: self.digits]
        damaged = module.corruption(images)
        views = {
            "original": images,
            "camera gave": damaged,
            "network saw": scenario(damaged + module.theta.detach(), draw),
        }
        if module.corruption.idle:
            del views["camera gave"]
        if not scenario.idle and scenario.route != STATE:
            views["observer saw"] = scenario.observed(damaged + module.theta.detach(), draw)
        beside = {"original": ("‖∂L/∂θᵣ‖", REACHES), "network saw": ("‖∂L/∂τᵣ‖", ARRIVES)}
        bars = {view: (f"mean {words}", means[q]) for view, (words, q) in beside.items() if q in means}
        return figures.digits({name: view.cpu() for name, view in views.items()}, bars, scenario.selected.tolist())


def is_at_its_end(trainer: pl.Trainer) -> bool:
    """Whether training ends by itself with the step, or the epoch, that is just done."""
    steps, epochs, loop = trainer.max_steps, trainer.max_epochs or -1, trainer.fit_loop
    all_steps, all_epochs = 0 <= steps <= trainer.global_step, 0 <= epochs <= trainer.current_epoch + 1
    stops = trainer.should_stop and not SIGNALS.stops and loop._can_stop_early  # noqa: SLF001
    return all_steps or (all_epochs and trainer.is_last_batch) or stops
