"""‖∂L/∂τ_r‖₂: what arrives at the network's input in row r, after the cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowgrad.watch.quantities import Quantity

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from rowgrad.model.classifier import RowClassifier


class InputGradNorm(Quantity):
    """Not zero in a row that detach has cut: the network uses it all the same."""

    name = "input_grad_norm"
    title = "What arrives at the network's input, ‖∂L/∂τᵣ‖"
    chart = "What arrives at the input: ‖∂L/∂τ_r‖"
    in_csv = True
    needs_tap = True

    def before_step(self, module: RowClassifier) -> Tensor | None:
        return module.tap.grad

    def is_scaled(self, optimizer: Optimizer) -> bool:
        return True  # τ is in no optimizer, so the scaler never unscales it


QUANTITY = InputGradNorm()
