"""‖∂L/∂θ_r‖₂: what reaches row r, before the cut. Exactly 0.0 in a row that is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowgrad.watch.quantities import REACHES, Quantity, has_rows

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from torch import Tensor
    from torch.optim import Optimizer

    from rowgrad.model.classifier import RowClassifier


class RowGradNorm(Quantity):
    """What the tap `row` would keep stands in θ's own gradient already: θ is the leaf that is added there."""

    name = REACHES
    title = "What reaches the rows, ‖∂L/∂θᵣ‖"
    in_csv = True

    def fits(self, module: LightningModule) -> bool:
        return has_rows(module)

    def before_step(self, module: RowClassifier) -> Tensor | None:
        return module.theta.grad

    def is_scaled(self, optimizer: Optimizer) -> bool:
        # The scaler unscales what is in the optimizer, but for torch's fused ones, which do it in their step.
        return getattr(optimizer, "_step_supports_amp_scaling", False)


QUANTITY = RowGradNorm()
