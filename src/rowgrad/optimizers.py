"""Which parameters learn, how fast, and on what schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from rowgrad.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from torch.optim import Optimizer

SCHEDULES = ("one_cycle", "constant")


@dataclass(frozen=True)
class Recipe:
    """An optimizer for the network and the rows, and its schedule.

    Attributes:
        algorithm: makes the optimizer from parameter groups, as in `functools.partial(torch.optim.AdamW)`.
        lr: the network's learning rate; with `one_cycle` the peak.
        weight_decay: of the network's weights; biases and normalisation have none.
        rows_lr: the row parameter's learning rate; with `one_cycle` the peak.
        rows_weight_decay: the row parameter's. It would move rows that detach has cut.
        schedule: `one_cycle` (Smith and Topin, arXiv:1708.07120, cosine in both halves) or `constant`.
        warmup: share of the steps in which `one_cycle` rises.

    Raises:
        UserError: a value that is not accepted; it names the key.
    """

    algorithm: Callable[..., Optimizer]
    lr: float
    weight_decay: float = 0.0
    rows_lr: float = 0.0
    rows_weight_decay: float = 0.0
    schedule: str = "one_cycle"
    warmup: float = 0.3

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UserError(f"optimizer.schedule={self.schedule} is unknown. Accepted: {', '.join(SCHEDULES)}.")
        for key in ("lr", "weight_decay", "rows_lr", "rows_weight_decay", "warmup"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise UserError(f"optimizer.{key}={value} is not a number of at least 0.")
        if not 0 < self.warmup < 1:
            raise UserError(f"optimizer.warmup={self.warmup} is not between 0 and 1.")

    def build(self, network: nn.Module, rows: nn.Parameter, steps: int) -> tuple[Optimizer, LRScheduler]:
        """The optimizer and its schedule, to be advanced after every step.

        Args:
            network: its matrices and kernels decay, its vectors (biases, normalisation) do not.
            rows: θ, (H, W).
            steps: optimizer steps of the whole run.
        """
        weights = [p for p in network.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in weights if p.ndim > 1], "lr": self.lr, "weight_decay": self.weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "lr": self.lr, "weight_decay": 0.0},
            {"params": [rows], "lr": self.rows_lr, "weight_decay": self.rows_weight_decay},
        ]
        groups = [group for group in groups if group["params"]]
        optimizer = self.algorithm(groups)
        if self.schedule == "constant":
            return optimizer, LambdaLR(optimizer, lambda _step: 1.0)
        peaks = [group["lr"] for group in groups]
        return optimizer, OneCycleLR(optimizer, peaks, steps, pct_start=self.warmup, cycle_momentum=False)
