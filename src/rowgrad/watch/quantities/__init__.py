"""What is recorded of each row at each optimizer step: one quantity a file, found by its name.

To add one: a subclass of `Quantity`, as `QUANTITY` in a file of its name here, or in a package of your own, named by
`_target_` in `callbacks.recorder.quantities`.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from rowgrad.model.classifier import RowClassifier


REACHES, ARRIVES = "row_grad_norm", "input_grad_norm"  # the two that tell a cut


class Quantity:
    """One number for each row at each recorded step: by default the norm of a tensor over channels and columns.

    Class attributes:
        name: of its tags and columns, `<name>/row_00` ...
        title: what stands above its heatmaps.
        chart: what stands above its curves.
        unit: of the norm.
        in_csv: whether it has columns in `row_gradients.csv`.
        needs_tap: whether τ has to be in the graph.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    chart: ClassVar[str]
    unit: ClassVar[str] = "loss per normalised pixel"
    in_csv: ClassVar[bool] = False
    needs_tap: ClassVar[bool] = False

    def before_step(self, module: RowClassifier) -> Tensor | None:
        """What is kept of the module just before the optimizer's step, (C, H, W)."""
        raise NotImplementedError

    def after_step(self, kept: Tensor, module: RowClassifier) -> None:
        """Completes in place what was kept, when the step is done."""

    def reduce(self, kept: Tensor) -> Tensor:
        """A number for each row, (T, H), of what was kept at T steps, (T, C, H, W)."""
        from rowgrad.watch.gradients import row_norms  # late: it imports torch

        return row_norms(kept)

    def is_scaled(self, optimizer: Optimizer) -> bool:
        """Whether the loss scale of 16-bit precision is still in what is kept before the step."""
        return False


def quantity_names() -> list[str]:
    """The quantities that have a file here."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def find_quantity(name: str) -> Quantity:
    """The quantity in the file of its name."""
    quantity: Any = import_module(f"{__name__}.{name}").QUANTITY
    return quantity
