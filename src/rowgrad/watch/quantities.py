"""The quantities that are recorded of each row, and the names under which event files hold them. Imports nothing heavy.

A tap needs no quantity of its own: its norm is recorded as `<tap>_grad_norm`. To record something else, subclass
`Quantity` and name the class by `_target_` in `callbacks.recorder.quantities`; docs/extending.md shows how.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from rowgrad.model.classifier import RowClassifier
    from rowgrad.tap import RowTap

GRAD_NORM = "_grad_norm"  # follows a tap's name
REACHES, ARRIVES = f"row{GRAD_NORM}", f"input{GRAD_NORM}"  # before and after the cut
COSINE, RATIO = "grad_bias/cosine", "grad_bias/norm_ratio"  # of the weights' gradient and the one without detach
STOPPED = "row_grad_stopped"  # the share of each row's whole gradient that detach stops

ROW = re.compile(r"(?P<quantity>.+)/row_(?P<row>\d{1,4})")  # the tag of one row
FACTS = "rowgrad"  # the plugin name of records that describe a run, one JSON object each
ABOUT, SELECTED, OUTCOME = (f"{FACTS}/{name}" for name in ("about", "selected", "outcome"))  # their tags


def row_tags(quantity: str, height: int) -> list[str]:
    """TensorBoard tags and CSV columns of a quantity, one for each of the H rows: `row_grad_norm/row_00`, ..."""
    return [f"{quantity}/row_{row:02d}" for row in range(height)]


class Quantity:
    """One number for each row at each recorded step: by default the norm of a tensor over channels and columns.

    Attributes:
        name: of its tags and columns, `<name>/row_00` ...
        title: of its heatmaps.
        unit: of the number.
        in_csv: whether it has columns in `row_gradients.csv`.
        of_rank: whether each process has a value of its own; the mean over processes is recorded.
        may_be_joined: whether its numbers are norms, so that those of many rows may be joined to fewer.

    Example:
        >>> class ThetaNorm(Quantity):
        ...     name, title = "theta_norm", "What the rows have learnt, ‖θᵣ‖"
        ...     unit, in_csv = "normalised pixels", True
        ...
        ...     def before_step(self, module):
        ...         return module.theta
        >>> ThetaNorm().reduce(torch.ones(1, 1, 2, 4))  # of one step: one channel, two rows, four columns
        tensor([[2., 2.]], dtype=torch.float64)
    """

    name: str
    title: str
    unit: str = "loss per normalised pixel"
    in_csv: bool = False
    of_rank: bool = False
    may_be_joined: bool = True

    def fits(self, module: nn.Module) -> bool:
        """Whether this module has the quantity."""
        return True

    def before_step(self, module: Any) -> Tensor | None:
        """What to keep just before the optimizer's step, (..., H, W); None if it does not exist at this step."""
        raise NotImplementedError

    def after_step(self, kept: Tensor, module: Any) -> None:
        """Completes, in place, what was kept, after the optimizer's step."""

    def reduce(self, kept: Tensor) -> Tensor:
        """What was kept at T steps, (T, ..., H, W) -> one number for each row, (T, H)."""
        from rowgrad.watch.norms import row_norms  # imported late: torch

        return row_norms(kept)

    def is_scaled(self, optimizer: Optimizer | None) -> bool:
        """Whether what is kept still contains the loss scale of 16-bit precision."""
        return False


class TapNorm(Quantity):
    """‖∂L/∂x_r‖₂ of the tensor x that goes through a tap.

    Args:
        tap_name: the name of the tap's attribute.
        tap: the tap; None for a description alone.
    """

    in_csv = True
    of_rank = True

    def __init__(self, tap_name: str, tap: RowTap | None = None) -> None:
        self.name, self.tap = f"{tap_name}{GRAD_NORM}", tap
        self.title = f"What comes back through {tap_name}, ‖∂L/∂xᵣ‖"
        if self.name == ARRIVES:  # not zero in a row that detach cuts: the network still uses the row
            self.title = "What arrives at the network's input, ‖∂L/∂τᵣ‖"

    def before_step(self, module: Any) -> Tensor | None:
        assert self.tap is not None, "recorded of a tap"
        return self.tap.grad

    def is_scaled(self, optimizer: Optimizer | None) -> bool:
        return True  # a tap is in no optimizer, so the scaler never unscales it


class OfTheta(Quantity):
    """Of modules that have trainable rows θ. In other modules an attribute `theta` may be anything."""

    def fits(self, module: nn.Module) -> bool:
        from rowgrad.tap import watched_of  # imported late: torch

        return watched_of(module).pair is not None and hasattr(module, "theta")


class RowGradNorm(OfTheta):
    """‖∂L/∂θ_r‖₂: what reaches row r, before the cut. Exactly 0.0 in a row that is cut.

    θ's own gradient is what the tap `row` would keep, because θ is the leaf that is added there.
    """

    name = REACHES
    title = "What reaches the rows, ‖∂L/∂θᵣ‖"
    in_csv = True

    def before_step(self, module: RowClassifier) -> Tensor | None:
        return module.theta.grad

    def is_scaled(self, optimizer: Optimizer | None) -> bool:
        # The scaler unscales the optimizer's parameters, except torch's fused optimizers', which do it in their step.
        return getattr(optimizer, "_step_supports_amp_scaling", False)


class RowUpdateNorm(OfTheta):
    """‖θ_r(t+1) − θ_r(t)‖₂: how far row r moves in step t. Not zero in a cut row that momentum or decay moves."""

    name = "row_update_norm"
    title = "How far the rows move, ‖θᵣ(t+1) − θᵣ(t)‖"
    unit = "normalised pixels"

    def before_step(self, module: RowClassifier) -> Tensor:
        return module.theta

    def after_step(self, kept: Tensor, module: RowClassifier) -> None:
        kept.sub_(module.theta.detach())


KNOWN: dict[str, Quantity] = {one.name: one for one in (RowGradNorm(), TapNorm("input"), RowUpdateNorm())}
