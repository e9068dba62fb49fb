"""What is recorded of each row at each optimizer step: one quantity a file, found by its name.

To add one: a subclass of `Quantity`, as `QUANTITY` in a file of its name here, or in a package of your own, named by
`_target_` in `callbacks.recorder.quantities`. A tap needs none: its norm is recorded as `<tap>_grad_norm`.
"""

from __future__ import annotations

import copy
import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from torch import Tensor
    from torch.optim import Optimizer

    from rowgrad.tap import RowTap


GRAD_NORM = "_grad_norm"  # what stands behind a tap's name
COSINE, RATIO = "grad_bias/cosine", "grad_bias/norm_ratio"  # of the weights' gradient and the one without detach
STOPPED = "row_grad_stopped"  # the share of each row's whole gradient that detach stops
REACHES, ARRIVES = f"row{GRAD_NORM}", f"input{GRAD_NORM}"  # the two that tell a cut


class Quantity:
    """One number for each row at each recorded step: by default the norm of a tensor over channels and columns.

    Attributes:
        name: of its tags and columns, `<name>/row_00` ...
        title: what stands above its heatmaps.
        unit: of the norm.
        in_csv: whether it has columns in `row_gradients.csv`.
        of_rank: whether each rank has its own, so that their mean is recorded.
    """

    name: str
    title: str
    unit: str = "loss per normalised pixel"
    in_csv: bool = False
    of_rank: bool = False

    def fits(self, module: LightningModule) -> bool:
        """Whether this module has it."""
        return True

    def before_step(self, module: Any) -> Tensor | None:
        """What is kept of the module just before the optimizer's step, (..., H, W); None where nothing is known yet."""
        raise NotImplementedError

    def after_step(self, kept: Tensor, module: Any) -> None:
        """Completes in place what was kept, when the step is done."""

    def reduce(self, kept: Tensor) -> Tensor:
        """A number for each row, (T, H), of what was kept at T steps, (T, ..., H, W)."""
        from rowgrad.watch.norms import row_norms  # late: it imports torch

        return row_norms(kept)

    def is_scaled(self, optimizer: Optimizer) -> bool:
        """Whether the loss scale of 16-bit precision is still in what is kept before the step."""
        return False


class TapNorm(Quantity):
    """‖∂L/∂x_r‖₂ of what goes through a tap.

    Args:
        tap_name: the name of the tap's attribute.
        title: what stands above its heatmaps.
    """

    in_csv = True
    of_rank = True

    def __init__(self, tap_name: str, *, title: str = "") -> None:
        self.tap_name = tap_name
        self.name = f"{tap_name}{GRAD_NORM}"
        self.title = title or f"What comes back through {tap_name}, ‖∂L/∂xᵣ‖"
        self.tap: RowTap | None = None

    def of(self, tap: RowTap) -> Self:
        """The same, of a certain tap."""
        bound = copy.copy(self)
        bound.tap = tap
        return bound

    def before_step(self, module: Any) -> Tensor | None:
        assert self.tap is not None
        gradient = self.tap.grad
        self.tap.reset()
        return gradient

    def is_scaled(self, optimizer: Optimizer) -> bool:
        return True  # a tap is in no optimizer, so the scaler never unscales it


def has_rows(module: LightningModule) -> bool:
    """Whether a module has trainable rows θ: others may have a `theta` that is something else."""
    from rowgrad.tap import watched_of  # late: it imports torch

    return watched_of(module).pair is not None and hasattr(module, "theta")


def norm_of(tap_name: str, tap: RowTap) -> TapNorm:
    """The norm of what comes back through a tap; the project's own have words of their own."""
    known = find_quantity(tap_name + GRAD_NORM)
    return (known if isinstance(known, TapNorm) else TapNorm(tap_name)).of(tap)


def quantity_names() -> list[str]:
    """The quantities that have a file here."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def find_quantity(name: str) -> Quantity:
    """The quantity in the file of its name; else that of a tap."""
    if name in quantity_names():
        quantity: Any = import_module(f"{__name__}.{name}").QUANTITY
        return quantity
    return TapNorm(name.removesuffix(GRAD_NORM))
