"""Histograms of per-image row gradient norms: is a row's gradient many images' or a few's?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from rowgrad.tap import watched_of
from rowgrad.watch.norms import row_norms
from rowgrad.watch.outlets import writers, writes_events
from rowgrad.watch.quantities import GRAD_NORM
from rowgrad.watch.recorder import recorder_of
from rowgrad.watch.settings import HistogramsSettings
from rowgrad.watch.taps import find_taps

if TYPE_CHECKING:
    from torch import Tensor

    from rowgrad.tap import RowTap


class PerImageHistograms(pl.Callback):
    """Looks at every image of a batch by itself, every so many optimizer steps, as it comes back through the taps.

    It costs no pass of its own, and training is left as it is. Norms are of one image's own loss, where the loss of a
    batch is the mean over its images, in loss units per normalised pixel: their scale is that of the row gradient
    before averaging over images. With batch normalisation, the image's effect on the others counts too.

    Logs, as histograms over images and rows, to TensorBoard:
        * `row_grad_norm_per_image/selected_rows`, `.../other_rows`: ‖∂L/∂u_r‖
        * `input_grad_norm_per_image/selected_rows`, `.../other_rows`: ‖∂L/∂z_r‖
        * `<tap>_grad_norm_per_image/all_rows` of taps in whose module no rows are selected

    Args:
        every_n_steps: optimizer steps from one set of histograms to the next.

    Raises:
        UserError: a value that is not accepted; it names the key.
    """

    def __init__(self, every_n_steps: int = HistogramsSettings.every_n_steps) -> None:
        self.every_n_steps = HistogramsSettings(every_n_steps=every_n_steps).every_n_steps
        self._listening: dict[str, tuple[RowTap, bool]] = {}
        self._share = 1.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Has the taps keep every image of the first micro-batch of a step that is due."""
        if (
            trainer.global_step % self.every_n_steps
            or batch_idx % trainer.accumulate_grad_batches
            or not writes_events(trainer)
        ):
            return
        recorder = recorder_of(trainer)
        tapped = None if recorder is None else recorder.tapped
        taps = find_taps(pl_module) if tapped is None else tapped.taps
        self._listening = {name: (tap, tap.enabled) for name, tap in taps.items()}
        for tap in taps.values():
            tap.enabled = tap.per_image = True
        # The project's own batches say how much more than their mean they count.
        self._share = getattr(batch, "weight", 1.0) / trainer.accumulate_grad_batches

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes what came back, and has the taps do as before."""
        listening, self._listening = self._listening, {}
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        for name, (tap, was_on) in listening.items():
            gradients = tap.image_grads
            tap.per_image, tap.enabled = False, was_on
            if gradients is not None:
                scale = self._share * (1.0 if scaler is None else scaler.get_scale())
                self._write(trainer, pl_module, name + GRAD_NORM, row_norms(gradients) * (len(gradients) / scale))
            if not was_on:
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
