"""‖θ_r(t+1) − θ_r(t)‖₂: how far row r moves in step t."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowgrad.watch.quantities import Quantity, has_rows

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from torch import Tensor

    from rowgrad.model.classifier import RowClassifier


class RowUpdateNorm(Quantity):
    """Not zero in a cut row that momentum or weight decay still moves."""

    name = "row_update_norm"
    title = "How far the rows move, ‖θᵣ(t+1) − θᵣ(t)‖"
    unit = "normalised pixels"

    def fits(self, module: LightningModule) -> bool:
        return has_rows(module)

    def before_step(self, module: RowClassifier) -> Tensor:
        return module.theta

    def after_step(self, kept: Tensor, module: RowClassifier) -> None:
        kept.sub_(module.theta.detach())


QUANTITY = RowUpdateNorm()
