"""Histograms of per-image row gradient norms: is a row's gradient many images' or a few's?"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from rowgrad.watch.events import classifier, event_file
from rowgrad.watch.gradients import row_norms
from rowgrad.watch.quantities import ARRIVES, REACHES
from rowgrad.watch.settings import HistogramsSettings


class PerImageHistograms(pl.Callback):
    """Looks at every image of a batch by itself, every so many optimizer steps: one pass more through the network.

    Norms are of one image's own loss, in loss units per normalised pixel, so their scale is that of the row gradient
    before averaging over images. With batch normalisation, the image's effect on the others counts too. Training is
    left as it is, to the last bit.

    Logs, as histograms over images and rows:
        * `row_grad_norm_per_image/selected_rows`, `.../other_rows`: ‖∂L/∂u_r‖
        * `input_grad_norm_per_image/selected_rows`, `.../other_rows`: ‖∂L/∂z_r‖

    Args:
        every: optimizer steps from one set of histograms to the next.

    Raises:
        UserError: a value that is not accepted; it names the key.
    """

    def __init__(self, every: int = HistogramsSettings.every) -> None:
        self.every = HistogramsSettings(every=every).every

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Looks at the first micro-batch of a step that is due, on all ranks; the first one writes."""
        if trainer.global_step % self.every or batch_idx % trainer.accumulate_grad_batches or trainer.logger is None:
            return
        module = classifier(pl_module)
        with trainer.precision_plugin.forward_context():
            gradients = module.per_image_gradients(batch)
        if not trainer.is_global_zero:
            return
        selected = module.scenario.selected
        parts = {"selected_rows": selected, "other_rows": ~selected}
        for quantity, gradient in zip((REACHES, ARRIVES), gradients, strict=True):
            norms = row_norms(gradient)
            for part, rows in parts.items():
                if rows.any():
                    tag = f"{quantity}_per_image/{part}"
                    event_file(trainer).add_histogram(tag, norms[:, rows].cpu().numpy(), trainer.global_step)
