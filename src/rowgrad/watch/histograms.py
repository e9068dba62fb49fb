"""Histograms of per-image row gradient norms: does a row's gradient come from many images or from a few?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from rowgrad.tap import find_taps, watched_of
from rowgrad.watch.loggers import writers, writes_events
from rowgrad.watch.norms import row_norms
from rowgrad.watch.quantities import GRAD_NORM
from rowgrad.watch.recorder import recorder_of
from rowgrad.watch.settings import HistogramsSettings

if TYPE_CHECKING:
    from torch import Tensor

    from rowgrad.tap import RowTap


class PerImageHistograms(pl.Callback):
    """Takes the norms of single images at the taps, every `every_n_steps` optimizer steps.

    It needs no pass of its own and changes nothing in training. Norms are of one image's own loss, if the loss of a
    batch is the mean over its images, in loss units per normalised pixel: their scale is that of the row gradient
    before averaging over images. With batch normalisation, the image's effect on the others counts too.

    Logs, as histograms over images and rows, to TensorBoard:
        * `row_grad_norm_per_image/selected_rows`, `.../other_rows`: ‖∂L/∂u_r‖
        * `input_grad_norm_per_image/selected_rows`, `.../other_rows`: ‖∂L/∂z_r‖
        * `<tap>_grad_norm_per_image/all_rows` of taps in modules that select no rows

    Args:
        every_n_steps: optimizer steps from one set of histograms to the next.

    Raises:
        UserError: a value that is not accepted; it names the key.
    """

    def __init__(self, every_n_steps: int = HistogramsSettings.every_n_steps) -> None:
        self.every_n_steps = HistogramsSettings(every_n_steps=every_n_steps).every_n_steps
        self._taps: dict[str, RowTap] = {}  # those that keep each image in this step
        self._share = 1.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Lets the taps keep each image of the first micro-batch of a step that is due."""
        is_due = trainer.global_step % self.every_n_steps == 0 and batch_idx % trainer.accumulate_grad_batches == 0
        if not is_due or not writes_events(trainer):
            return
        recorder = recorder_of(trainer)
        taps = find_taps(pl_module) if recorder is None else recorder.taps
        self._taps = dict(taps)
        for tap in taps.values():
            tap.per_image = True
            tap.hold(self, on=True)
        # The project's own batches have a weight, by which their mean loss counts in the step.
        self._share = getattr(batch, "weight", 1.0) / trainer.accumulate_grad_batches

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the histograms, and sets the taps back."""
        taps, self._taps = self._taps, {}
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = self._share * (1.0 if scaler is None else scaler.get_scale())
        for name, tap in taps.items():
            grads = tap.image_grads
            tap.per_image = False
            tap.forget_images()
            tap.hold(self, on=None)
            if grads is not None:
                self._write(trainer, pl_module, name + GRAD_NORM, row_norms(grads) * (len(grads) / scale))
            if not tap.enabled:
                tap.reset()

    @staticmethod
    def _write(trainer: pl.Trainer, module: pl.LightningModule, quantity: str, norms: Tensor) -> None:
        """Writes norms (B, H) of single images."""
        parts = {"all_rows": torch.ones(norms.shape[1], dtype=torch.bool)}
        selected = torch.tensor(watched_of(module).selected)
        if len(selected) == norms.shape[1]:
            parts = {"selected_rows": selected, "other_rows": ~selected}
        for writer in writers(trainer):
            for part, rows in parts.items():
                if rows.any():
                    tag = f"{quantity}_per_image/{part}"
                    writer.add_histogram(tag, norms.cpu()[:, rows].numpy(), trainer.global_step)
